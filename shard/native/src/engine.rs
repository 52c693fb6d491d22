//! The engine: a deterministic state machine over journal records (PROTOCOL 1).
//!
//! A record is checked whole before any of it is applied, so `apply` either refuses and changes nothing or takes effect
//! as a whole. A command is validated before it mutates. What each command does stands in trading.rs (Submit and the
//! match), amending.rs (Cancel, Replace, Reduce) and serving.rs (the rest); the rule numbers are the protocol's.

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;

use sha2::{Digest, Sha256};

use crate::accounts::Accounts;
use crate::book::{LevelNow, Orders};
use crate::command::{Command, EVERY_TAG, Reduce, Replace, Target};
use crate::domain::{AccountName, Broken, ClientId, Op, OrderEvent, Reject, SUM_MAX, Side};
use crate::events::{Moment, Outcome, Party, Step};
use crate::instrument::Instruments;
use crate::pool::NONE;
use crate::record::Record;
use crate::window::{Answer, Fate, Fill, NewEntry, Window, WindowLimits};
use crate::wire::{Fault, Reader, Tape};

/// Ceilings of an engine, equal on all replicas of a shard.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of EngineConfig")]
pub struct Config {
    pub orders_max: usize,
    pub accounts_max: usize,
    pub window: WindowLimits,
    pub ids_window_ns: i64,
    pub open_orders_max: usize,
}

impl Config {
    /// Reads a MessagePack EngineConfig.
    pub fn read(bytes: &[u8]) -> Result<Self, Fault> {
        let mut reader = Reader::new(bytes);
        reader.array_of(6)?;
        let mut field = |name: &str, low: i64, high: i64| match reader.int() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            Ok(number) => Err(Fault::new(format!("{name} {number} is not in {low}..{high}"))),
            Err(fault) => Err(fault.about(name)),
        };
        let ceiling = i64::from(i32::MAX);
        let orders_max = field("orders_max", 1, ceiling)? as usize;
        let accounts_max = field("accounts_max", 1, ceiling)? as usize;
        let ids_max = field("ids_max", 1, ceiling)? as usize;
        let ids_per_account_max = field("ids_per_account_max", 1, ceiling)? as usize;
        let ids_window_ns = field("ids_window_ns", 0, SUM_MAX)?;
        let open_orders_max = field("open_orders_max", 1, ceiling)? as usize;
        reader.finish()?;
        let window = WindowLimits { ids_max, ids_per_account_max };
        Ok(Self { orders_max, accounts_max, window, ids_window_ns, open_orders_max })
    }
}

/// Timers that cancel the orders of an account in an instrument (or in all), unless they are set anew.
#[derive(Default)]
pub(crate) struct DeadMen {
    deadlines: BTreeMap<(u32, i64), i64>,
    due: BTreeSet<(i64, u32, i64)>,
}

impl DeadMen {
    /// Sets, replaces or (with no deadline) removes the timer of (account, instrument).
    pub(crate) fn set(&mut self, account: u32, instrument: i64, deadline_ns: Option<i64>) {
        let key = (account, instrument);
        let before = match deadline_ns {
            Some(deadline_ns) => self.deadlines.insert(key, deadline_ns),
            None => self.deadlines.remove(&key),
        };
        if let Some(before) = before {
            self.due.remove(&(before, account, instrument));
        }
        if let Some(deadline_ns) = deadline_ns {
            self.due.insert((deadline_ns, account, instrument));
        }
    }

    /// Removes and returns the timer that is due first, if it is due at `ts_ns`.
    pub(crate) fn pop_due(&mut self, ts_ns: i64) -> Option<(u32, i64)> {
        let &(_, account, instrument) = self.due.first().filter(|&&(deadline_ns, ..)| deadline_ns <= ts_ns)?;
        self.set(account, instrument, None);
        Some((account, instrument))
    }

    /// (account, instrument, deadline), ascending.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (u32, i64, i64)> {
        self.deadlines.iter().map(|(&(account, instrument), &deadline_ns)| (account, instrument, deadline_ns))
    }
}

/// All of a shard's matching state.
pub struct Engine {
    pub(crate) config: Config,
    /// Position, term and time of the last command.
    pub(crate) at: Moment,
    pub(crate) trail: u32,
    pub(crate) instruments: Instruments,
    pub(crate) accounts: Accounts,
    pub(crate) orders: Orders,
    pub(crate) window: Window,
    /// Open GTD orders: (expiry, order id).
    pub(crate) dated: BTreeSet<(i64, i64)>,
    pub(crate) dead_men: DeadMen,
    /// The account whose window the next Tick ages first.
    pub(crate) cursor: u32,
    pub(crate) outcome: Outcome,
    /// The fills of the command at hand.
    pub(crate) fills: Vec<Fill>,
    /// The hashes of the names in the record at hand.
    hashes: Vec<Hashes>,
}

/// Hashes of the names in a command, where it has them: its account, and its own client order id.
#[derive(Clone, Copy, Default)]
pub(crate) struct Hashes {
    pub account: u64,
    pub id: u64,
}

/// What the REJECTED row tells of a command that had no effect.
pub(crate) struct Rejected<'a> {
    pub code: Reject,
    pub account: &'a [u8],
    pub client_id: &'a [u8],
    pub order_id: i64,
    pub side: Side,
    pub price: i64,
    pub quantity: i64,
}

/// Why a request with a client order id does not run.
pub(crate) enum Stop {
    /// It has run: this entry holds the answer.
    Again(u32),
    Broken(Broken),
}

impl Engine {
    /// An engine without instruments. Address space is reserved, memory is not touched.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            at: Moment { epoch: 0, seq: 0, ts_ns: 0 },
            trail: 0,
            instruments: Instruments::default(),
            accounts: Accounts::with_capacity(config.accounts_max),
            orders: Orders::with_capacity(config.orders_max),
            window: Window::new(config.window),
            dated: BTreeSet::new(),
            dead_men: DeadMen::default(),
            cursor: 0,
            outcome: Outcome::new(),
            fills: Vec::new(),
            hashes: Vec::new(),
        }
    }

    /// Position, term and time of the last command.
    pub fn at(&self) -> Moment {
        self.at
    }

    /// Ceilings.
    pub fn config(&self) -> Config {
        self.config
    }

    /// Count of open orders.
    pub fn open_orders(&self) -> usize {
        self.orders.count()
    }

    /// CRC-32 over every outcome so far.
    pub fn trail(&self) -> u32 {
        self.trail
    }

    /// First 8 bytes, little-endian, of the SHA-256 of the snapshot. O(state).
    pub fn digest(&self) -> u64 {
        let hash = Sha256::digest(self.snapshot());
        u64::from_le_bytes(*hash.first_chunk().expect("SHA-256 has 32 bytes"))
    }

    /// Executes a journal record; its outcome is good until the next one. A refusal changes nothing.
    pub fn apply(&mut self, bytes: &[u8]) -> Result<&[u8], Fault> {
        let record = Record::read(bytes)?;
        let mut commands = Vec::with_capacity(record.count);
        let mut reader = Reader::new(record.payload);
        for number in 0..record.count {
            let command = Command::read(&mut reader, EVERY_TAG);
            commands.push(command.map_err(|fault| fault.about(format_args!("command {number}")))?);
        }
        reader.finish().map_err(|fault| fault.about("record"))?;
        self.check_follows(&record, &commands)?;

        let mut now = Moment { epoch: record.epoch, seq: self.at.seq, ts_ns: record.ts_ns };
        self.orders.begin(record.first_seq);
        self.accounts.begin(record.first_seq);
        let mut hashes = std::mem::take(&mut self.hashes);
        hashes.clear();
        hashes.extend(commands.iter().map(|command| self.hash_names(command)));
        self.look_ahead(&commands, &hashes);
        for (command, &hashes) in commands.iter().zip(&hashes) {
            now.seq += 1;
            self.at = now;
            self.outcome.begin(now);
            self.fills.clear();
            self.execute(command, hashes);
            self.outcome.end();
        }
        self.hashes = hashes;
        self.orders.settle(|level| self.outcome.level(&level));
        self.accounts.settle(|account, holding| self.outcome.position(account, holding));
        let outcome = self.outcome.finish(record.first_seq);
        let mut crc = crc32fast::Hasher::new_with_initial(self.trail);
        crc.update(outcome);
        self.trail = crc.finalize();
        Ok(outcome)
    }

    fn check_follows(&self, record: &Record<'_>, commands: &[Command<'_>]) -> Result<(), Fault> {
        let refuse = |sentence: String| Err(Fault::new(format!("record: {sentence}")));
        let Moment { epoch, seq, ts_ns } = self.at;
        if record.first_seq - 1 != seq {
            return refuse(format!("first_seq {} does not follow {seq}", record.first_seq));
        }
        if record.ts_ns <= ts_ns {
            return refuse(format!("ts_ns {} is not above {ts_ns}", record.ts_ns));
        }
        if record.epoch < epoch {
            return refuse(format!("epoch {} is below {epoch}", record.epoch));
        }
        if record.epoch > epoch && !matches!(commands[0], Command::EpochStart { .. }) {
            return refuse(format!("epoch {} does not begin with an EpochStart", record.epoch));
        }
        for command in commands {
            if let &Command::EpochStart { epoch } = command
                && epoch != record.epoch
            {
                return refuse(format!("EpochStart of {epoch} in a record of epoch {}", record.epoch));
            }
        }
        Ok(())
    }

    /// The hashes of a command's names.
    #[inline]
    fn hash_names(&self, command: &Command<'_>) -> Hashes {
        let (account, own_id) = match *command {
            Command::Submit(ref submit) => (submit.account, Some((submit.instrument, submit.request.client_id))),
            Command::Replace(Replace { ref target, ref request, .. })
            | Command::Reduce(Reduce { ref target, ref request, .. }) => {
                (target.account, Some((target.instrument as u16, request.client_id)))
            }
            Command::Resolve { account, instrument, client_id } => (account, Some((instrument, client_id))),
            Command::Cancel { target: Target { account, .. }, .. }
            | Command::QueryOrder { target: Target { account, .. } }
            | Command::QueryOpen { account, .. }
            | Command::MassCancel { account, .. }
            | Command::SetPositionLimit { account, .. }
            | Command::ArmDeadMan { account, .. } => (account, None),
            Command::SetState { .. }
            | Command::DefineInstrument { .. }
            | Command::Tick
            | Command::EpochStart { .. } => return Hashes::default(),
        };
        let account = self.accounts.hash(account);
        let id = own_id.map_or(0, |(instrument, client_id)| self.window.hash(account, instrument, client_id));
        Hashes { account, id }
    }

    /// Fetches the memory in which the commands of a record will look up names and orders. Done for all of them at once,
    /// and before anything else, these slow accesses overlap instead of adding up. Changes nothing, decides nothing.
    fn look_ahead(&self, commands: &[Command<'_>], hashes: &[Hashes]) {
        let names = hashes
            .iter()
            .fold(0, |fetched, names| fetched ^ self.accounts.touch(names.account) ^ self.window.touch(names.id));
        black_box(names);
        let mut orders = 0;
        for command in commands {
            if let Command::Cancel { target, .. }
            | Command::Replace(Replace { target, .. })
            | Command::Reduce(Reduce { target, .. }) = command
                && let Some(entry) = self.window.find_order(target.order_id)
                && let Fate::Open(order) = self.window.get(entry).fate
            {
                orders ^= self.orders.get(order).leaves;
            }
        }
        black_box(orders);
    }

    #[inline]
    fn execute(&mut self, command: &Command<'_>, hashes: Hashes) {
        match *command {
            Command::Submit(ref submit) => self.submit(submit, hashes),
            Command::Cancel { ref target, deadline_ns } => self.cancel(target, deadline_ns, hashes),
            Command::Replace(ref replace) => self.replace(replace, hashes),
            Command::Reduce(ref reduce) => self.reduce(reduce, hashes),
            Command::MassCancel { account, instrument } => self.mass_cancel(account, instrument, hashes),
            Command::SetState { instrument, state, ref actor } => self.set_state(instrument, state, actor),
            Command::DefineInstrument { index, rules } => self.define_instrument(index, rules),
            Command::SetPositionLimit { account, instrument, limit } => {
                self.set_position_limit(account, instrument, limit, hashes);
            }
            Command::Tick => self.tick(),
            // The record carries the same epoch.
            Command::EpochStart { .. } => self.outcome.done(),
            Command::QueryOrder { ref target } => self.query_order(target, hashes),
            Command::QueryOpen { account, instrument, after_order_id, limit } => {
                self.query_open(account, instrument, after_order_id, limit, hashes);
            }
            Command::Resolve { account, instrument, client_id } => self.resolve(account, instrument, client_id, hashes),
            Command::ArmDeadMan { account, instrument, timeout_ns } => {
                self.arm_dead_man(account, instrument, timeout_ns, hashes);
            }
        }
    }

    // --- what several commands share ---------------------------------------------------------------------------

    /// Rule 2: the account's index, a new one if need be.
    #[inline]
    pub(crate) fn intern(&mut self, name: &[u8], hashes: Hashes) -> Result<u32, Broken> {
        if let Some(account) = self.accounts.find(name, hashes.account) {
            return Ok(account);
        }
        let account = self.accounts.add(name, hashes.account);
        let account = account.ok_or_else(|| Broken::new(Reject::AccountsFull, 0, self.config.accounts_max as i64))?;
        self.window.add_account(hashes.account, 0);
        Ok(account)
    }

    /// Rules 3 to 5: the entry under which the answer is to be recorded.
    #[inline]
    pub(crate) fn once(&mut self, new: NewEntry<'_>) -> Result<u32, Stop> {
        if let Some(known) = self.window.find(new.account, new.instrument, new.client_id, new.id_hash) {
            let entry = self.window.get(known);
            // A Resolve only asks; and nothing is the same as what was never seen.
            let asks_what_was_asked = new.op == Op::Tombstone || entry.op == Op::Tombstone || entry.hash == new.hash;
            return Err(match asks_what_was_asked {
                true => Stop::Again(known),
                false => Stop::Broken(Broken::new(Reject::IdReused, entry.seq, 0)),
            });
        }
        let bound_ns = self.window.bound_ns(new.account);
        if new.client_ns != 0 && new.client_ns <= bound_ns {
            return Err(Stop::Broken(Broken::new(Reject::TooOld, new.client_ns, bound_ns)));
        }
        self.window.make_room(new.account).map_err(Stop::Broken)?;
        Ok(self.window.add(new))
    }

    /// Answers with the first answer of an entry.
    pub(crate) fn answer_again(&mut self, entry: u32) {
        let known = self.window.get(entry);
        let first = Moment { epoch: i64::from(known.epoch), seq: known.seq, ts_ns: known.ts_ns };
        self.outcome.answer(first, true, known.answer, self.window.fills(entry));
    }

    /// Answers, with the fills of this command, and records the answer if it has an entry.
    #[inline]
    pub(crate) fn answer(&mut self, entry: Option<u32>, answer: Answer) {
        self.outcome.answer(self.at, false, answer, self.fills.iter());
        if let Some(entry) = entry {
            self.window.answer(entry, answer, &self.fills);
        }
    }

    /// Answers that a command had no effect, and says nothing else.
    pub(crate) fn refuse(&mut self, broken: Broken, order_id: i64) {
        self.answer(None, Answer::rejected(broken, order_id));
    }

    /// The REJECTED row of a command that had no effect.
    pub(crate) fn reject_row(&mut self, rejected: &Rejected<'_>) {
        let &Rejected { code, account, client_id, order_id, side, price, quantity } = rejected;
        let (account, client_id) = (&AccountName::new(account), &ClientId::new(client_id));
        let party = Party { order_id, account, client_id, leaves: 0 };
        self.outcome.step(&Step { kind: OrderEvent::Rejected, party, side, price, quantity, reason: code });
    }

    /// Rule 6.
    pub(crate) fn check_deadline(&self, deadline_ns: i64) -> Result<(), Broken> {
        if deadline_ns != 0 && self.at.ts_ns > deadline_ns {
            return Err(Broken::new(Reject::Expired, self.at.ts_ns, deadline_ns));
        }
        Ok(())
    }

    /// Rule 14: what the position would be if all that is open on this side, and `growth` more, were filled.
    #[inline]
    pub(crate) fn check_position(&self, holding: u32, side: Side, growth: i64) -> Result<(), Broken> {
        let holding = self.accounts.holding(holding);
        let limit = holding.exposure_max(self.instruments.at(holding.instrument).rules.position_limit);
        let exposure = holding.exposure(side, growth);
        if exposure > limit { Err(Broken::new(Reject::PositionLimit, exposure, limit)) } else { Ok(()) }
    }

    // --- views ----------------------------------------------------------------------------------------------------

    /// An event frame of everything that is: levels, positions, states.
    pub fn image(&self) -> Vec<u8> {
        let mut image = Outcome::new();
        for instrument in self.instruments.iter() {
            for side in [Side::Buy, Side::Sell] {
                let mut levels: Vec<u32> = instrument.book.levels(side).collect();
                levels.sort_unstable_by_key(|&level| self.orders.level(level).price);
                for level in levels {
                    let level = self.orders.level(level);
                    let (index, price, quantity, orders) =
                        (instrument.index, level.price, level.quantity, level.orders);
                    image.level(&LevelNow { instrument: index, side, price, quantity, orders });
                }
            }
            image.image_state(self.at.seq, instrument.index, instrument.state);
        }
        for account in 0..self.accounts.count() as u32 {
            for (_, slot) in self.accounts.holdings_of(account) {
                let holding = self.accounts.holding(slot);
                if !holding.is_flat() {
                    image.position(self.accounts.name(account), holding);
                }
            }
        }
        image.into_image(self.at)
    }

    /// `[bids, asks]` of an instrument, each `[[price, [[order_id, leaves], …]], …]`, best first, oldest first.
    pub fn book(&self, instrument: i64) -> Result<Vec<u8>, Fault> {
        let known = u16::try_from(instrument).ok().and_then(|index| self.instruments.get(index));
        let known = known.ok_or_else(|| Fault::new(format!("instrument {instrument} is not defined")))?;
        let mut out = Tape::new();
        out.array(2);
        for side in [Side::Buy, Side::Sell] {
            out.array(known.book.levels(side).count());
            for level in known.book.levels(side) {
                out.array(2);
                out.ints([self.orders.level(level).price]);
                out.array(self.orders.level(level).orders as usize);
                for order in self.orders.of_level(level) {
                    out.array_of([self.order_id(order), self.orders.get(order).leaves]);
                }
            }
        }
        Ok(out.into_bytes())
    }

    /// The id of an open order.
    #[inline]
    pub(crate) fn order_id(&self, order: u32) -> i64 {
        let entry = self.orders.get(order).entry;
        debug_assert!(entry != NONE);
        self.window.get(entry).order_id().expect("engine: an open order whose entry holds none")
    }
}
