//! Canonical bytes back to state (PROTOCOL 1.6).
//!
//! What is read is checked field by field while a new engine is built from it, and at last by writing it again: bytes
//! that do not come back identical were not written by an engine.

use crate::book::NewOrder;
use crate::command::read_rules;
use crate::domain::{
    ALL_INSTRUMENTS, AMOUNT_MAX, COUNTER_BITS, INSTRUMENTS_MAX, Kind, ORDER_ID_MAX, Op, Reject, SUM_MAX, SelfTrade,
    Side, State, Status, TimeInForce,
};
use crate::engine::{Config, Engine};
use crate::events::Moment;
use crate::instrument::Instrument;
use crate::pool::NONE;
use crate::snapshot::VERSION;
use crate::text::{ACCOUNT, CLIENT_ID, TextRule};
use crate::window::{Answer, Entry, Fate, Fill, Memory, NewEntry};
use crate::wire::{Fault, Reader};

/// The fields of a snapshot, each with its name for a refusal.
struct Fields<'a> {
    reader: Reader<'a>,
}

impl<'a> Fields<'a> {
    fn within(&mut self, name: &str, low: i64, high: i64) -> Result<i64, Fault> {
        match self.reader.int() {
            Ok(number) if (low..=high).contains(&number) => Ok(number),
            Ok(number) => Err(Fault::new(format!("{name} {number} is not one of {low}..{high}"))),
            Err(fault) => Err(fault.about(name)),
        }
    }

    fn word<W>(&mut self, name: &str, of: impl Fn(i64) -> Option<W>) -> Result<W, Fault> {
        let number = self.within(name, i64::MIN, i64::MAX)?;
        of(number).ok_or_else(|| Fault::new(format!("{name} {number} is not a known number")))
    }

    fn text(&mut self, name: &str, rule: &TextRule) -> Result<&'a [u8], Fault> {
        let text = self.reader.text().map_err(|fault| fault.about(name))?;
        if rule.allows(text) {
            Ok(text)
        } else {
            Err(Fault::new(format!("{name} {text:?} is not within its alphabet")))
        }
    }

    fn section(
        &mut self,
        name: &str,
        elements: usize,
        mut row: impl FnMut(&mut Self) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let count = self.reader.array().map_err(|fault| fault.about(name))?;
        for number in 0..count {
            let read = self.reader.array_of(elements).and_then(|()| row(self));
            read.map_err(|fault| fault.about(format_args!("{name} {number}")))?;
        }
        Ok(())
    }
}

fn demand(law: bool, sentence: &str) -> Result<(), Fault> {
    if law { Ok(()) } else { Err(Fault::new(sentence)) }
}

/// An order as read; the window that knows its client order id and its birth follows later.
struct Resting<'a> {
    order_id: i64,
    client_id: &'a [u8],
    price: i64,
    created_ns: i64,
    new: NewOrder,
}

impl Engine {
    /// The engine that wrote a snapshot.
    pub fn restore(config: Config, bytes: &[u8]) -> Result<Self, Fault> {
        let engine = Self::rebuild(config, bytes).map_err(|fault| fault.about("snapshot"))?;
        demand(engine.snapshot() == bytes, "snapshot: it would not be written like this")?;
        Ok(engine)
    }

    fn rebuild(config: Config, bytes: &[u8]) -> Result<Self, Fault> {
        let mut engine = Self::new(config);
        let mut fields = Fields { reader: Reader::new(bytes) };
        fields.reader.array_of(12)?;
        fields.within("version", VERSION, VERSION)?;
        let epoch = fields.within("epoch", 0, i64::from(u32::MAX))?;
        let seq = fields.within("seq", 0, i64::MAX)?;
        let ts_ns = fields.within("ts_ns", 0, SUM_MAX)?;
        engine.at = Moment { epoch, seq, ts_ns };
        engine.trail = fields.within("trail", 0, i64::from(u32::MAX))? as u32;
        fields.section("instrument", 15, |fields| engine.read_instrument(fields))?;
        fields.section("account", 2, |fields| engine.read_account(fields))?;
        fields.section("holding", 4, |fields| engine.read_holding(fields))?;
        let mut resting = Vec::new();
        fields.section("order", 12, |fields| {
            resting.push(engine.read_order(fields)?);
            demand(resting.len() <= config.orders_max, "more than orders_max")
        })?;
        fields.section("window entry", 19, |fields| engine.read_entry(fields))?;
        engine.open_all(&mut resting)?;
        fields.section("dead man", 3, |fields| engine.read_dead_man(fields))?;
        let accounts = engine.accounts.count() as i64;
        engine.cursor = fields.within("cursor", 0, (accounts - 1).max(0))? as u32;
        fields.reader.finish()?;
        engine.check_whole()?;
        Ok(engine)
    }

    fn read_instrument(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        let above = self.instruments.iter().last().map_or(-1, |last| i64::from(last.index));
        let index = fields.within("index", above + 1, INSTRUMENTS_MAX - 1)? as u16;
        let mut instrument = Instrument::new(index, read_rules(&mut fields.reader)?);
        instrument.state = fields.word("state", State::of)?;
        instrument.last_price = fields.within("last_price", 0, AMOUNT_MAX)?;
        instrument.orders_counter = fields.within("orders_counter", 0, (1 << COUNTER_BITS) - 1)?;
        instrument.trades_counter = fields.within("trades_counter", 0, (1 << COUNTER_BITS) - 1)?;
        self.instruments.add(instrument);
        Ok(())
    }

    fn read_account(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        let name = fields.text("name", &ACCOUNT)?;
        let hash = self.accounts.hash(name);
        demand(self.accounts.find(name, hash).is_none(), "name is there already")?;
        demand(self.accounts.add(name, hash).is_some(), "more than accounts_max")?;
        self.window.add_account(hash, fields.within("bound_ns", 0, SUM_MAX)?);
        Ok(())
    }

    fn account(&self, fields: &mut Fields<'_>) -> Result<u32, Fault> {
        Ok(fields.within("account index", 0, self.accounts.count() as i64 - 1)? as u32)
    }

    fn instrument(&self, fields: &mut Fields<'_>) -> Result<u16, Fault> {
        let index = fields.within("instrument", 0, INSTRUMENTS_MAX - 1)? as u16;
        demand(self.instruments.get(index).is_some(), "instrument is not defined")?;
        Ok(index)
    }

    /// An order or trade id of an instrument, within its counter.
    fn own_id(&self, fields: &mut Fields<'_>, name: &str, instrument: u16, counter: i64) -> Result<i64, Fault> {
        let base = i64::from(instrument) << COUNTER_BITS;
        fields.within(name, base + 1, base + counter)
    }

    fn read_holding(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        let account = self.account(fields)?;
        let instrument = self.instrument(fields)?;
        demand(self.accounts.find_holding(account, instrument).is_none(), "is there already")?;
        let slot = self.accounts.make_holding(account, instrument);
        let holding = self.accounts.change(slot);
        holding.position = fields.within("position", -SUM_MAX, SUM_MAX)?;
        holding.limit = fields.within("limit", -1, SUM_MAX)?;
        Ok(())
    }

    fn read_entry(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        let account = self.account(fields)?;
        let op = fields.word("op", Op::of)?;
        let instrument = self.instrument(fields)?;
        let client_id = fields.text("client_order_id", &CLIENT_ID)?;
        let hash = fields.reader.unsigned().map_err(|fault| fault.about("hash"))?;
        let epoch = fields.within("epoch", 0, self.at.epoch)?;
        let seq = fields.within("seq", 1, self.at.seq)?;
        let ts_ns = fields.within("ts_ns", 0, self.at.ts_ns)?;
        let client_ns = fields.within("client_ns", 0, SUM_MAX)?;
        let id_hash = self.window.hash_of(account, instrument, client_id);
        demand(self.window.find(account, instrument, client_id, id_hash).is_none(), "is there already")?;
        demand(self.window.count() < self.config.window.ids_max, "more than ids_max")?;
        let slot = self.window.add(NewEntry {
            op,
            account,
            instrument,
            client_id,
            id_hash,
            hash,
            epoch,
            seq,
            ts_ns,
            client_ns,
        });

        let answer = self.read_answer(fields, op, instrument)?;
        let mut fills = Vec::new();
        let trades_counter = self.instruments.at(instrument).trades_counter;
        fields.section("fill", 3, |fields| {
            let trade_id = self.own_id(fields, "trade_id", instrument, trades_counter)?;
            let price = fields.within("price", 0, AMOUNT_MAX)?;
            fills.push(Fill { trade_id, price, quantity: fields.within("quantity", 1, SUM_MAX)? });
            Ok(())
        })?;
        if let (Op::Submit, Answer::Executed { order_id, .. }) = (op, answer) {
            demand(self.window.find_order(order_id).is_none(), "order_id is there already")?;
        }
        self.window.answer(slot, answer, &fills);
        match fields.reader.array()? {
            0 => Ok(()),
            12 => self.read_memory(fields, slot),
            count => Err(Fault::new(format!("a memory of {count} elements is not one of 0 or 12"))),
        }
    }

    fn read_answer(&self, fields: &mut Fields<'_>, op: Op, instrument: u16) -> Result<Answer, Fault> {
        let code = fields.word("code", Reject::of)?;
        let value = fields.within("value", i64::MIN, i64::MAX)?;
        let bound = fields.within("bound", i64::MIN, i64::MAX)?;
        demand((op == Op::Tombstone) == (code == Reject::Voided), "code VOIDED belongs to tombstones")?;
        if code != Reject::None {
            let order_id = fields.within("order_id", 0, ORDER_ID_MAX)?;
            for name in ["status", "reason", "filled", "remaining"] {
                fields.within(name, 0, 0)?;
            }
            return Ok(Answer::Rejected { code, value, bound, order_id });
        }
        let counter = self.instruments.at(instrument).orders_counter;
        let order_id = self.own_id(fields, "order_id", instrument, counter)?;
        let status = fields.word("status", Status::of)?;
        let reason = fields.word("reason", Reject::of)?;
        let filled = fields.within("filled", 0, SUM_MAX)?;
        let remaining = fields.within("remaining", 0, SUM_MAX)?;
        Ok(Answer::Executed { order_id, status, reason, filled, remaining })
    }

    fn read_memory(&mut self, fields: &mut Fields<'_>, slot: u32) -> Result<(), Fault> {
        let &Entry { ts_ns, .. } = self.window.get(slot);
        demand(self.window.get(slot).order_id().is_some(), "a memory without an order")?;
        let side = fields.word("side", Side::of)?;
        let kind = fields.word("kind", Kind::of)?;
        let time_in_force = fields.word("time_in_force", TimeInForce::of)?;
        let flags = fields.within("flags", 0, 1)? as u8;
        let self_trade = fields.word("self_trade", SelfTrade::of)?;
        let price = fields.within("price", 0, AMOUNT_MAX)?;
        let quantity = fields.within("quantity", 0, SUM_MAX)?;
        let filled = fields.within("filled", 0, quantity)?;
        let final_ = |number| {
            Status::of(number).filter(|status| matches!(status, Status::Filled | Status::Canceled | Status::Expired))
        };
        let status = fields.word("status", final_)?;
        let reason = fields.word("reason", Reject::of)?;
        fields.within("created_ns", ts_ns, ts_ns)?;
        let expire_ns = fields.within("expire_ns", 0, SUM_MAX)?;
        let memory =
            Memory { price, quantity, filled, expire_ns, side, kind, time_in_force, flags, self_trade, status, reason };
        self.window.order_ends(slot, memory);
        Ok(())
    }

    fn read_order<'a>(&mut self, fields: &mut Fields<'a>) -> Result<Resting<'a>, Fault> {
        let order_id = fields.within("order_id", 1, ORDER_ID_MAX)?;
        let instrument = (order_id >> COUNTER_BITS) as u16;
        demand(self.instruments.get(instrument).is_some(), "its instrument is not defined")?;
        let account = self.account(fields)?;
        let client_id = fields.text("client_order_id", &CLIENT_ID)?;
        let side = fields.word("side", Side::of)?;
        let rests = |number| TimeInForce::of(number).filter(|time_in_force| time_in_force.rests());
        let time_in_force = fields.word("time_in_force", rests)?;
        let flags = fields.within("flags", 0, 1)? as u8;
        let self_trade = fields.word("self_trade", SelfTrade::of)?;
        let price = fields.within("price", 0, AMOUNT_MAX)?;
        let quantity = fields.within("quantity", 1, SUM_MAX)?;
        let leaves = fields.within("leaves", 1, quantity)?;
        let created_ns = fields.within("created_ns", 0, self.at.ts_ns)?;
        let expire_ns = fields.within("expire_ns", 0, SUM_MAX)?;
        demand((expire_ns != 0) == (time_in_force == TimeInForce::Gtd), "expire_ns belongs to GTD")?;
        let (holding, entry) = (self.accounts.make_holding(account, instrument), NONE);
        let new = NewOrder {
            quantity,
            leaves,
            expire_ns,
            account,
            holding,
            entry,
            instrument,
            side,
            time_in_force,
            flags,
            self_trade,
        };
        Ok(Resting { order_id, client_id, price, created_ns, new })
    }

    /// Opens the orders that were read: ascending by id, as accounts list them; then into the book, as it was written.
    fn open_all(&mut self, resting: &mut [Resting<'_>]) -> Result<(), Fault> {
        let mut slots = vec![NONE; resting.len()];
        let mut by_id: Vec<usize> = (0..resting.len()).collect();
        by_id.sort_unstable_by_key(|&at| resting[at].order_id);
        for at in by_id {
            let order = &mut resting[at];
            let open = self.open_one(order);
            slots[at] = open.map_err(|fault| fault.about(format_args!("order {}", order.order_id)))?;
        }
        for (order, slot) in resting.iter().zip(slots) {
            let &NewOrder { instrument, side, leaves, holding, .. } = &order.new;
            let book = &mut self.instruments.at_mut(instrument).book;
            demand(book.open_quantity(side) <= SUM_MAX - leaves, "more than 2^62 open on one side")?;
            self.orders.rest(book, slot, order.price);
            self.accounts.change(holding).open[side as usize] += leaves;
        }
        Ok(())
    }

    fn open_one(&mut self, order: &mut Resting<'_>) -> Result<u32, Fault> {
        let entry = self.window.find_order(order.order_id);
        let entry = entry.ok_or_else(|| Fault::new("there is no window entry for it"))?;
        let known = self.window.get(entry);
        demand(known.fate == Fate::NoOrder, "its window entry has ended, or is that of another order")?;
        let same = known.account == order.new.account && known.client_id.get() == order.client_id;
        demand(same && known.ts_ns == order.created_ns, "its window entry differs")?;
        order.new.entry = entry;
        let slot = self.orders.open(order.new, self.accounts.own_orders(order.new.holding));
        self.window.order_opens(entry, slot);
        if order.new.time_in_force == TimeInForce::Gtd {
            self.dated.insert((order.new.expire_ns, order.order_id));
        }
        Ok(slot)
    }

    fn read_dead_man(&mut self, fields: &mut Fields<'_>) -> Result<(), Fault> {
        let account = self.account(fields)?;
        let instrument = fields.within("instrument", 0, ALL_INSTRUMENTS)?;
        let known = instrument == ALL_INSTRUMENTS || self.instruments.get(instrument as u16).is_some();
        demand(known, "instrument is not defined")?;
        let deadline_ns = fields.within("deadline_ns", 0, SUM_MAX)?;
        self.dead_men.set(account, instrument, Some(deadline_ns));
        Ok(())
    }

    /// What holds across sections.
    fn check_whole(&self) -> Result<(), Fault> {
        for instrument in self.instruments.iter() {
            let best = |side| instrument.book.best(side).map(|level| self.orders.level(level).price);
            if let (Some(bid), Some(ask)) = (best(Side::Buy), best(Side::Sell)) {
                demand(bid < ask, "a book is crossed")?;
            }
        }
        for account in 0..self.accounts.count() as u32 {
            for (_, slot) in self.accounts.holdings_of(account) {
                let holding = self.accounts.holding(slot);
                let within = |side| holding.exposure(side, 0) <= SUM_MAX;
                demand(within(Side::Buy) && within(Side::Sell), "position and open quantity exceed 2^62")?;
            }
            for entry in self.window.of_account(account).map(|slot| self.window.get(slot)) {
                demand(entry.order_id().is_none() || entry.fate != Fate::NoOrder, "an accepted order is nowhere")?;
            }
        }
        Ok(())
    }
}
