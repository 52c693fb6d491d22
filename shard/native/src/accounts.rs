//! Accounts, numbered as they come, and what each holds in each instrument.

use crate::book::OwnOrders;
use crate::domain::{AccountName, SUM_MAX, Side};
use crate::hash::NameHash;
use crate::index::Index;

/// One account in one instrument.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Holding {
    pub account: u32,
    pub instrument: u16,
    pub position: i64,
    /// Sum of the leaves of the account's open orders, by side.
    pub open: [i64; 2],
    /// Override of the position limit, −1 = none.
    pub limit: i64,
    pub own: OwnOrders,
    mark: i64,
}

impl Holding {
    /// What the position would be if all open orders of a side and `more` traded, counted in the side's direction.
    pub fn exposure(&self, side: Side, more: i64) -> i64 {
        let position = match side {
            Side::Buy => self.position,
            Side::Sell => -self.position,
        };
        position + self.open[side as usize] + more
    }

    /// The limit of the exposure, where the instrument's own is `position_limit`; −1 means none.
    pub fn exposure_max(&self, position_limit: i64) -> i64 {
        match (self.limit, position_limit) {
            (-1, -1) => SUM_MAX,
            (-1, limit) | (limit, _) => limit,
        }
    }

    /// Whether there is nothing in it that an image shows.
    pub fn is_flat(&self) -> bool {
        self.position == 0 && self.open == [0, 0]
    }
}

struct Account {
    name: AccountName,
    /// Slots of its holdings, ascending by instrument.
    holdings: Vec<(u16, u32)>,
}

struct HoldingChange {
    account: u32,
    instrument: u16,
    holding: u32,
    position_before: i64,
    open_before: [i64; 2],
}

/// All accounts of a shard.
pub struct Accounts {
    max: usize,
    list: Vec<Account>,
    by_name: Index,
    name_hash: NameHash,
    holdings: Vec<Holding>,
    changes: Vec<HoldingChange>,
    sorted: Vec<(u64, u32)>,
    record: i64,
}

impl Accounts {
    /// No accounts, at most `max`.
    pub fn with_capacity(max: usize) -> Self {
        Self {
            max,
            list: Vec::new(),
            by_name: Index::new(),
            name_hash: NameHash::new(),
            holdings: Vec::new(),
            changes: Vec::new(),
            sorted: Vec::new(),
            record: 0,
        }
    }

    /// Number of accounts.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// The hash of an account's name, known or not.
    #[inline]
    pub fn hash(&self, name: &[u8]) -> u64 {
        self.name_hash.hash(0, name)
    }

    /// Fetches what a look-up under `hash` will need first; what it returns means nothing.
    #[inline]
    pub fn touch(&self, hash: u64) -> u64 {
        self.by_name.touch(hash)
    }

    /// The index of an account, by its name and the hash of that.
    #[inline]
    pub fn find(&self, name: &[u8], hash: u64) -> Option<u32> {
        self.by_name.find(hash, |account| self.name(account).get() == name)
    }

    /// Gives a new account the next index, unless the ceiling is reached.
    pub fn add(&mut self, name: &[u8], hash: u64) -> Option<u32> {
        if self.list.len() >= self.max {
            return None;
        }
        let account = self.list.len() as u32;
        self.list.push(Account { name: AccountName::new(name), holdings: Vec::new() });
        self.by_name.insert(hash, account);
        Some(account)
    }

    /// The name of an account.
    #[inline]
    pub fn name(&self, account: u32) -> &AccountName {
        &self.list[account as usize].name
    }

    /// The slot of what an account holds in an instrument, if it was ever asked to be made.
    #[inline]
    pub fn find_holding(&self, account: u32, instrument: u16) -> Option<u32> {
        let holdings = &self.list[account as usize].holdings;
        holdings.binary_search_by_key(&instrument, |&(instrument, _)| instrument).ok().map(|at| holdings[at].1)
    }

    /// The slot of what an account holds in an instrument.
    #[inline]
    pub fn make_holding(&mut self, account: u32, instrument: u16) -> u32 {
        let holdings = &mut self.list[account as usize].holdings;
        match holdings.binary_search_by_key(&instrument, |&(instrument, _)| instrument) {
            Ok(at) => holdings[at].1,
            Err(at) => {
                let holding = u32::try_from(self.holdings.len()).expect("accounts: more than 2^32 holdings");
                holdings.insert(at, (instrument, holding));
                let (open, own) = ([0, 0], OwnOrders::EMPTY);
                self.holdings.push(Holding { account, instrument, position: 0, open, limit: -1, own, mark: 0 });
                holding
            }
        }
    }

    /// The slots of what an account holds, ascending by instrument.
    pub fn holdings_of(&self, account: u32) -> impl Iterator<Item = (u16, u32)> {
        self.list[account as usize].holdings.iter().copied()
    }

    /// A holding, to look at.
    #[inline]
    pub fn holding(&self, holding: u32) -> &Holding {
        &self.holdings[holding as usize]
    }

    /// A holding, to change. What it was before this record's first change is noted.
    #[inline]
    pub fn change(&mut self, holding: u32) -> &mut Holding {
        let of = &mut self.holdings[holding as usize];
        if of.mark != self.record {
            of.mark = self.record;
            let &mut Holding { account, instrument, position: position_before, open: open_before, .. } = of;
            self.changes.push(HoldingChange { account, instrument, holding, position_before, open_before });
        }
        of
    }

    /// The own orders of a holding: a list, no part of what is told.
    #[inline]
    pub fn own_orders(&mut self, holding: u32) -> &mut OwnOrders {
        &mut self.holdings[holding as usize].own
    }

    /// Starts a record: changes are counted from here. Records must differ.
    pub fn begin(&mut self, record: i64) {
        self.record = record;
    }

    /// Ends a record: tells every holding whose position or open quantities are not what they were, ascending
    /// (account, instrument).
    pub fn settle(&mut self, mut tell: impl FnMut(&AccountName, &Holding)) {
        let key = |change: &HoldingChange| u64::from(change.account) << 16 | u64::from(change.instrument);
        self.sorted.extend(self.changes.iter().enumerate().map(|(number, change)| (key(change), number as u32)));
        self.sorted.sort_unstable_by_key(|&(key, _)| key);
        for &(_, number) in &self.sorted {
            let change = &self.changes[number as usize];
            let now = &self.holdings[change.holding as usize];
            if (change.position_before, change.open_before) != (now.position, now.open) {
                tell(&self.list[change.account as usize].name, now);
            }
        }
        self.changes.clear();
        self.sorted.clear();
    }
}
