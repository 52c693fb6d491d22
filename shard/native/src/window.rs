//! The window of client order ids (PROTOCOL 1.3): what an id has already led to.
//!
//! An entry is the final answer under (account, instrument, client order id). The entry of an accepted Submit is also
//! the memory of its order: it is not evicted while the order is open, and keeps the final state after that.

use crate::domain::{Broken, ClientId, Kind, Op, Reject, SelfTrade, Side, Status, TimeInForce};
use crate::hash::NameHash;
use crate::index::{Index, OrderIndex};
use crate::pool::{NONE, Pool};

/// A final answer, but for its fills.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of Executed and Rejected")]
pub enum Answer {
    Executed { order_id: i64, status: Status, reason: Reject, filled: i64, remaining: i64 },
    Rejected { code: Reject, value: i64, bound: i64, order_id: i64 },
}

impl Answer {
    /// The answer that a rule was broken.
    pub fn rejected(Broken { code, value, bound }: Broken, order_id: i64) -> Self {
        Self::Rejected { code, value, bound, order_id }
    }
}

/// One trade of a command, at the maker's price.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of Fill")]
pub struct Fill {
    pub trade_id: i64,
    pub price: i64,
    pub quantity: i64,
}

/// What is left of an order that has ended. `quantity` = filled + what was given up.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of OrderInfo")]
pub struct Memory {
    pub price: i64,
    pub quantity: i64,
    pub filled: i64,
    pub expire_ns: i64,
    pub side: Side,
    pub kind: Kind,
    pub time_in_force: TimeInForce,
    pub flags: u8,
    pub self_trade: SelfTrade,
    pub status: Status,
    pub reason: Reject,
}

/// What became of the order of an accepted Submit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The entry has no order.
    NoOrder,
    /// It is open, in this slot.
    Open(u32),
    /// It has ended; its memory is in this slot.
    Ended(u32),
}

/// One remembered answer: two cache lines.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Entry {
    /// The hash of the request.
    pub hash: u64,
    pub seq: i64,
    pub ts_ns: i64,
    pub client_ns: i64,
    pub answer: Answer,
    pub epoch: u32,
    pub account: u32,
    pub fate: Fate,
    fills: u32,
    newer: u32,
    pub instrument: u16,
    pub op: Op,
    pub client_id: ClientId,
}

const _: () = assert!(size_of::<Entry>() == 128);

impl Entry {
    /// The order that the entry holds: that of an accepted Submit.
    pub fn order_id(&self) -> Option<i64> {
        match (self.op, self.answer) {
            (Op::Submit, Answer::Executed { order_id, .. }) => Some(order_id),
            _ => None,
        }
    }
}

/// What a new entry is made of, its answer still to come.
#[allow(missing_docs, reason = "see Entry")]
pub struct NewEntry<'a> {
    pub op: Op,
    pub account: u32,
    pub instrument: u16,
    pub client_id: &'a [u8],
    /// The hash of the client order id, by which the entry is found.
    pub id_hash: u64,
    /// The hash of the request, by which it is told from another (PROTOCOL 1.2).
    pub hash: u64,
    pub epoch: i64,
    pub seq: i64,
    pub ts_ns: i64,
    pub client_ns: i64,
}

#[derive(Clone, Copy)]
struct FillNode {
    fill: Fill,
    next: u32,
}

/// The entries of one account, oldest first.
#[derive(Clone, Copy)]
struct Own {
    oldest: u32,
    newest: u32,
    entries: usize,
    /// Entries whose order is open.
    open: usize,
    account_hash: u64,
    /// The greatest instant that an evicted entry stood for.
    bound_ns: i64,
}

/// Ceilings of a window.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of EngineConfig")]
pub struct WindowLimits {
    pub ids_max: usize,
    pub ids_per_account_max: usize,
}

/// The window of a shard.
pub struct Window {
    limits: WindowLimits,
    entries: Pool<Entry>,
    memories: Pool<Memory>,
    fills: Pool<FillNode>,
    owns: Vec<Own>,
    by_name: Index,
    by_order_id: OrderIndex,
    name_hash: NameHash,
}

impl Window {
    /// An empty window.
    pub fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            entries: Pool::with_capacity(limits.ids_max),
            memories: Pool::with_capacity(limits.ids_max),
            fills: Pool::with_capacity(limits.ids_max),
            owns: Vec::new(),
            by_name: Index::new(),
            by_order_id: OrderIndex::with_capacity(limits.ids_max),
            name_hash: NameHash::new(),
        }
    }

    /// Makes room for the account with the next index.
    pub fn add_account(&mut self, account_hash: u64, bound_ns: i64) {
        self.owns.push(Own { oldest: NONE, newest: NONE, entries: 0, open: 0, account_hash, bound_ns });
    }

    /// The greatest instant that an evicted entry of the account stood for.
    pub fn bound_ns(&self, account: u32) -> i64 {
        self.owns[account as usize].bound_ns
    }

    /// Open orders of an account.
    pub fn open_orders(&self, account: u32) -> usize {
        self.owns[account as usize].open
    }

    /// The entry in a slot.
    #[inline]
    pub fn get(&self, entry: u32) -> &Entry {
        &self.entries[entry]
    }

    /// The memory of an order that has ended.
    pub fn memory(&self, memory: u32) -> &Memory {
        &self.memories[memory]
    }

    /// The hash of a client order id, of an account known or not.
    #[inline]
    pub fn hash(&self, account_hash: u64, instrument: u16, client_id: &[u8]) -> u64 {
        self.name_hash.hash(account_hash.rotate_left(16) ^ u64::from(instrument), client_id)
    }

    /// The hash of a client order id of a known account.
    #[inline]
    pub fn hash_of(&self, account: u32, instrument: u16, client_id: &[u8]) -> u64 {
        self.hash(self.owns[account as usize].account_hash, instrument, client_id)
    }

    /// Fetches what a look-up under `hash` will need first; what it returns means nothing.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        self.by_name.touch(hash)
    }

    /// The entry under a client order id, by the hash of that.
    #[inline]
    pub fn find(&self, account: u32, instrument: u16, client_id: &[u8], hash: u64) -> Option<u32> {
        self.by_name.find(hash, |entry| {
            let entry = &self.entries[entry];
            entry.account == account && entry.instrument == instrument && entry.client_id.get() == client_id
        })
    }

    /// The entry of the accepted Submit that made an order.
    #[inline]
    pub fn find_order(&self, order_id: i64) -> Option<u32> {
        self.by_order_id.find(order_id)
    }

    /// Whether one more entry of an account is within the limits.
    #[inline]
    pub fn has_room(&self, account: u32) -> bool {
        let entries = self.owns[account as usize].entries;
        entries < self.limits.ids_per_account_max && self.entries.used() < self.limits.ids_max
    }

    /// Makes room for an entry of an account, by evicting its oldest evictable one if need be.
    #[inline]
    pub fn make_room(&mut self, account: u32) -> Result<(), Broken> {
        if self.has_room(account) {
            return Ok(());
        }
        let own = &self.owns[account as usize];
        if own.entries == own.open {
            return Err(Broken::new(Reject::WindowFull, self.limits.ids_per_account_max as i64, 0));
        }
        while !self.evict_or_move(account) {}
        Ok(())
    }

    /// Evicts the oldest entry of an account, or moves it to the back when its order is open: whether it was evicted.
    fn evict_or_move(&mut self, account: u32) -> bool {
        let own = &mut self.owns[account as usize];
        let slot = own.oldest;
        let Entry { newer, fate, client_ns, ts_ns, instrument, fills, client_id, .. } = self.entries[slot];
        if let Fate::Open(_) = fate {
            if newer != NONE {
                own.oldest = newer;
                self.entries[own.newest].newer = slot;
                self.entries[slot].newer = NONE;
                own.newest = slot;
            }
            return false;
        }
        own.oldest = newer;
        if newer == NONE {
            own.newest = NONE;
        }
        own.entries -= 1;
        own.bound_ns = own.bound_ns.max(client_ns).max(ts_ns);
        self.by_name.remove(self.hash_of(account, instrument, client_id.get()), slot);
        if let Some(order_id) = self.entries[slot].order_id() {
            self.by_order_id.remove(order_id);
        }
        if let Fate::Ended(memory) = fate {
            self.memories.give_back(memory);
        }
        let mut node = fills;
        while node != NONE {
            self.fills.give_back(node);
            node = self.fills[node].next;
        }
        self.entries.give_back(slot);
        true
    }

    /// Ages the entries of an account: what is older than `before_ns` is evicted, or moved if its order is open, each
    /// entry looked at once, `budget` of them at most. Returns the budget that is left.
    pub fn age(&mut self, account: u32, before_ns: i64, mut budget: usize) -> usize {
        for _ in 0..self.owns[account as usize].entries {
            let oldest = self.owns[account as usize].oldest;
            if budget == 0 || self.entries[oldest].ts_ns >= before_ns {
                break;
            }
            budget -= 1;
            self.evict_or_move(account);
        }
        budget
    }

    /// Adds the newest entry of an account, for which there is room and whose id is new. Its answer stays a plain
    /// rejection until it is given.
    #[inline]
    pub fn add(&mut self, new: NewEntry<'_>) -> u32 {
        let entry = self.entries.take(Entry {
            hash: new.hash,
            seq: new.seq,
            ts_ns: new.ts_ns,
            client_ns: new.client_ns,
            answer: Answer::rejected(Broken::plain(Reject::Voided), 0),
            epoch: u32::try_from(new.epoch).expect("window: an epoch beyond 32 bits"),
            account: new.account,
            fate: Fate::NoOrder,
            fills: NONE,
            newer: NONE,
            instrument: new.instrument,
            op: new.op,
            client_id: ClientId::new(new.client_id),
        });
        self.by_name.insert(new.id_hash, entry);
        let own = &mut self.owns[new.account as usize];
        own.entries += 1;
        match own.newest {
            NONE => own.oldest = entry,
            newest => self.entries[newest].newer = entry,
        }
        own.newest = entry;
        entry
    }

    /// Gives an entry its final answer; that of an accepted Submit is from here on found by its order id.
    #[inline]
    pub fn answer(&mut self, entry: u32, answer: Answer, fills: &[Fill]) {
        self.entries[entry].answer = answer;
        let mut next = NONE;
        for &fill in fills.iter().rev() {
            next = self.fills.take(FillNode { fill, next });
        }
        self.entries[entry].fills = next;
        if let Some(order_id) = self.entries[entry].order_id() {
            self.by_order_id.insert(order_id, entry);
        }
    }

    /// The fills of an entry's answer.
    pub fn fills(&self, entry: u32) -> impl Iterator<Item = &Fill> + Clone {
        let node = |node: u32| (node != NONE).then(|| &self.fills[node]);
        std::iter::successors(node(self.entries[entry].fills), move |now| node(now.next)).map(|now| &now.fill)
    }

    /// An order of this entry is open from here on, in the given slot.
    #[inline]
    pub fn order_opens(&mut self, entry: u32, order: u32) {
        let of = &mut self.entries[entry];
        assert_eq!(of.fate, Fate::NoOrder, "window: an entry with two orders");
        of.fate = Fate::Open(order);
        self.owns[of.account as usize].open += 1;
    }

    /// The order of this entry has ended, or never rested.
    #[inline]
    pub fn order_ends(&mut self, entry: u32, memory: Memory) {
        let memory = self.memories.take(memory);
        let of = &mut self.entries[entry];
        match std::mem::replace(&mut of.fate, Fate::Ended(memory)) {
            Fate::NoOrder => {}
            Fate::Open(_) => self.owns[of.account as usize].open -= 1,
            Fate::Ended(_) => panic!("window: an order that ends twice"),
        }
    }

    /// The entries of an account, oldest first.
    pub fn of_account(&self, account: u32) -> impl Iterator<Item = u32> + Clone {
        let some = |slot: u32| (slot != NONE).then_some(slot);
        std::iter::successors(some(self.owns[account as usize].oldest), move |&slot| some(self.entries[slot].newer))
    }

    /// Number of entries.
    pub fn count(&self) -> usize {
        self.entries.used()
    }
}
