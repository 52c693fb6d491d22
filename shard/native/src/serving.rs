//! Commands on many orders, reference data, queries and timers (PROTOCOL 1.1).

use crate::command::{Rules, Target};
use crate::domain::{
    ALL_INSTRUMENTS, Actor, Broken, COUNTER_BITS, Kind, Op, OrderEvent, Reject, SUM_MAX, Side, State, Status,
    TimeInForce,
};
use crate::engine::{Engine, Hashes, Stop};
use crate::events::Info;
use crate::instrument::Instrument;
use crate::window::{Answer, Fate, NewEntry};

/// Window entries that one Tick may evict or move.
const AGEING_ENTRIES_MAX: usize = 1_024;

impl Engine {
    /// The defined instruments that a command on one or all covers, ascending.
    fn covered(&self, instrument: i64) -> Result<Vec<u16>, Broken> {
        if instrument == ALL_INSTRUMENTS {
            return Ok(self.instruments.iter().map(|instrument| instrument.index).collect());
        }
        match self.instruments.get(instrument as u16) {
            Some(known) => Ok(vec![known.index]),
            None => Err(Broken::new(Reject::UnknownInstrument, instrument, 0)),
        }
    }

    /// Open orders of an account in one instrument or in all, ascending by order id: those of a holding are, and so are
    /// instruments.
    fn own_orders(&self, account: u32, instrument: i64) -> Vec<u32> {
        let holdings = self.accounts.holdings_of(account);
        let covered = holdings.filter(|&(index, _)| instrument == ALL_INSTRUMENTS || i64::from(index) == instrument);
        covered.flat_map(|(_, holding)| self.orders.of_owner(&self.accounts.holding(holding).own)).collect()
    }

    /// Open orders of an instrument that have a time in force, or any, ascending by order id.
    fn all_orders(&self, instrument: &Instrument, time_in_force: Option<TimeInForce>) -> Vec<u32> {
        let sides = [Side::Buy, Side::Sell].into_iter();
        let levels = sides.flat_map(|side| instrument.book.levels(side));
        let orders = levels.flat_map(|level| self.orders.of_level(level));
        let wanted = |&order: &u32| time_in_force.is_none_or(|wanted| self.orders.get(order).time_in_force == wanted);
        let mut orders: Vec<u32> = orders.filter(wanted).collect();
        orders.sort_unstable_by_key(|&order| self.order_id(order));
        orders
    }

    fn sweep(&mut self, orders: &[u32], event: OrderEvent, reason: Reject) {
        for &order in orders {
            self.take_off(order, event, reason);
        }
    }

    pub(crate) fn mass_cancel(&mut self, account: &[u8], instrument: i64, hashes: Hashes) {
        let covered = match self.covered(instrument) {
            Ok(covered) => covered,
            Err(broken) => return self.refuse(broken, 0),
        };
        let orders = if account.is_empty() {
            covered.iter().flat_map(|&index| self.all_orders(self.instruments.at(index), None)).collect()
        } else {
            self.accounts
                .find(account, hashes.account)
                .map_or_else(Vec::new, |account| self.own_orders(account, instrument))
        };
        self.sweep(&orders, OrderEvent::Cancelled, Reject::MassCancel);
        self.outcome.swept(orders.len());
    }

    pub(crate) fn set_state(&mut self, instrument: i64, state: State, actor: &Actor) {
        let covered = match self.covered(instrument) {
            Ok(covered) => covered,
            Err(broken) => return self.refuse(broken, 0),
        };
        for index in covered {
            let instrument = self.instruments.at_mut(index);
            if instrument.state == state {
                continue;
            }
            instrument.state = state;
            self.outcome.state(index, state, actor);
            if state == State::Closed {
                let day = self.all_orders(self.instruments.at(index), Some(TimeInForce::Day));
                self.sweep(&day, OrderEvent::Expired, Reject::DayEnd);
            }
        }
        self.outcome.done();
    }

    pub(crate) fn define_instrument(&mut self, index: u16, rules: Rules) {
        match self.instruments.get(index) {
            None => {
                self.instruments.add(Instrument::new(index, rules));
                self.outcome.state(index, State::Open, &Actor::new(b""));
            }
            Some(known) if known.rules.symbol.get() == rules.symbol.get() => {
                self.instruments.at_mut(index).rules = rules;
            }
            Some(_) => return self.refuse(Broken::new(Reject::InstrumentConflict, i64::from(index), 0), 0),
        }
        self.outcome.done();
    }

    pub(crate) fn set_position_limit(&mut self, account: &[u8], instrument: u16, limit: i64, hashes: Hashes) {
        let known = self.covered(i64::from(instrument)).and_then(|_| self.intern(account, hashes));
        match known {
            Ok(account) => {
                let holding = self.accounts.make_holding(account, instrument);
                self.accounts.change(holding).limit = limit;
                self.outcome.done();
            }
            Err(broken) => self.refuse(broken, 0),
        }
    }

    pub(crate) fn tick(&mut self) {
        while let Some(&(_, order_id)) = self.dated.first().filter(|&&(expire_ns, _)| expire_ns <= self.at.ts_ns) {
            let entry = self.window.find_order(order_id).map(|entry| self.window.get(entry).fate);
            let Some(Fate::Open(order)) = entry else { panic!("engine: order {order_id} is dated and not open") };
            self.take_off(order, OrderEvent::Expired, Reject::GtdReached);
        }
        while let Some((account, instrument)) = self.dead_men.pop_due(self.at.ts_ns) {
            let orders = self.own_orders(account, instrument);
            self.sweep(&orders, OrderEvent::Cancelled, Reject::DeadMan);
        }
        self.age_windows();
        self.outcome.done();
    }

    fn age_windows(&mut self) {
        let before_ns = self.at.ts_ns - self.config.ids_window_ns;
        let accounts = self.accounts.count() as u32;
        let mut budget = AGEING_ENTRIES_MAX;
        for _ in 0..accounts {
            budget = self.window.age(self.cursor, before_ns, budget);
            self.cursor = (self.cursor + 1) % accounts;
            if budget == 0 {
                break;
            }
        }
    }

    pub(crate) fn query_order(&mut self, target: &Target<'_>, hashes: Hashes) {
        let named = target.instrument == ALL_INSTRUMENTS && target.order_id != 0;
        let covered = match self.covered(target.instrument) {
            Ok(_) if named => vec![(target.order_id >> COUNTER_BITS) as u16],
            Ok(covered) => covered,
            Err(broken) => return self.refuse(broken, target.order_id),
        };
        let account = self.accounts.find(target.account, hashes.account);
        let mut found = None;
        if let Some(account) = account {
            found = covered.into_iter().find_map(|index| self.find(account, index, target));
        }
        match found {
            Some(entry) => self.outcome.order(&info(&self.orders, &self.window, entry)),
            None => self.refuse(Broken::new(Reject::UnknownOrder, target.order_id, 0), target.order_id),
        }
    }

    pub(crate) fn query_open(
        &mut self,
        account: &[u8],
        instrument: i64,
        after_order_id: i64,
        limit: usize,
        hashes: Hashes,
    ) {
        if let Err(broken) = self.covered(instrument) {
            return self.refuse(broken, 0);
        }
        let account = self.accounts.find(account, hashes.account);
        let mut orders = account.map_or_else(Vec::new, |account| self.own_orders(account, instrument));
        orders.drain(..orders.partition_point(|&order| self.order_id(order) <= after_order_id));
        let more = orders.len() > limit;
        orders.truncate(limit);
        let infos = orders.iter().map(|&order| info(&self.orders, &self.window, self.orders.get(order).entry));
        self.outcome.open_orders(infos, more);
    }

    pub(crate) fn resolve(&mut self, account: &[u8], instrument: u16, client_id: &[u8], hashes: Hashes) {
        let known = self.covered(i64::from(instrument)).and_then(|_| self.intern(account, hashes));
        let account = match known {
            Ok(account) => account,
            Err(broken) => return self.refuse(broken, 0),
        };
        let tombstone = NewEntry {
            op: Op::Tombstone,
            account,
            instrument,
            client_id,
            id_hash: hashes.id,
            hash: 0,
            epoch: self.at.epoch,
            seq: self.at.seq,
            ts_ns: self.at.ts_ns,
            client_ns: 0,
        };
        match self.once(tombstone) {
            Ok(entry) => {
                let broken = Broken::plain(Reject::Voided);
                self.answer(Some(entry), Answer::rejected(broken, 0));
            }
            Err(Stop::Again(entry)) => self.answer_again(entry),
            Err(Stop::Broken(broken)) => self.refuse(broken, 0),
        }
    }

    pub(crate) fn arm_dead_man(&mut self, account: &[u8], instrument: i64, timeout_ns: i64, hashes: Hashes) {
        let known = self.covered(instrument).and_then(|_| self.intern(account, hashes));
        match known {
            Ok(account) => {
                let deadline_ns = self.at.ts_ns.saturating_add(timeout_ns).min(SUM_MAX);
                self.dead_men.set(account, instrument, (timeout_ns != 0).then_some(deadline_ns));
                self.outcome.done();
            }
            Err(broken) => self.refuse(broken, 0),
        }
    }
}

/// What there is to tell about the order that an entry holds.
fn info<'e>(orders: &crate::book::Orders, window: &'e crate::window::Window, slot: u32) -> Info<'e> {
    let entry = window.get(slot);
    let order_id = entry.order_id().expect("engine: an entry without an order");
    let (client_id, instrument, created_ns) = (&entry.client_id, entry.instrument, entry.ts_ns);
    match entry.fate {
        Fate::Open(slot) => {
            let order = orders.get(slot);
            let filled = order.quantity - order.leaves;
            let (side, time, kind) = (order.side as u8, order.time_in_force as u8, Kind::Limit as u8);
            Info {
                order_id,
                client_id,
                instrument,
                words: [side, kind, time, order.flags, order.self_trade as u8],
                price: orders.price(slot),
                quantity: order.quantity,
                filled,
                leaves: order.leaves,
                status: if filled == 0 { Status::New } else { Status::PartiallyFilled },
                reason: Reject::None,
                created_ns,
                expire_ns: order.expire_ns,
            }
        }
        Fate::Ended(slot) => {
            let memory = window.memory(slot);
            let (side, time, kind) = (memory.side as u8, memory.time_in_force as u8, memory.kind as u8);
            Info {
                order_id,
                client_id,
                instrument,
                words: [side, kind, time, memory.flags, memory.self_trade as u8],
                price: memory.price,
                quantity: memory.quantity,
                filled: memory.filled,
                leaves: 0,
                status: memory.status,
                reason: memory.reason,
                created_ns,
                expire_ns: memory.expire_ns,
            }
        }
        Fate::NoOrder => panic!("engine: the order of an entry is neither open nor ended"),
    }
}
