//! Canonical state as bytes (PROTOCOL 1.6).

use crate::domain::Side;
use crate::engine::Engine;
use crate::events::put_fills;
use crate::window::{Answer, Fate};
use crate::wire::Tape;

/// Version of the snapshot's form.
pub(crate) const VERSION: i64 = 1;

impl Engine {
    /// Canonical state. O(state).
    pub fn snapshot(&self) -> Vec<u8> {
        let mut out = Tape::new();
        out.array(12);
        out.ints([VERSION, self.at.epoch, self.at.seq, self.at.ts_ns, i64::from(self.trail)]);
        self.put_instruments(&mut out);
        self.put_accounts(&mut out);
        self.put_holdings(&mut out);
        self.put_orders(&mut out);
        self.put_window(&mut out);
        out.array(self.dead_men.iter().len());
        for (account, instrument, deadline_ns) in self.dead_men.iter() {
            out.array_of([i64::from(account), instrument, deadline_ns]);
        }
        out.ints([i64::from(self.cursor)]);
        out.into_bytes()
    }

    fn put_instruments(&self, out: &mut Tape) {
        out.array(self.instruments.iter().count());
        for instrument in self.instruments.iter() {
            let rules = &instrument.rules;
            out.write(|row| {
                row.array(15);
                row.int(i64::from(instrument.index));
                row.text(&rules.symbol);
                row.ints([rules.tick, rules.lot, rules.quantity_min, rules.quantity_max]);
                row.ints([rules.price_min, rules.price_max, rules.collar_bps, rules.reference_price]);
                row.ints([rules.position_limit, instrument.state as i64, instrument.last_price]);
                row.ints([instrument.orders_counter, instrument.trades_counter]);
            });
        }
    }

    fn put_accounts(&self, out: &mut Tape) {
        out.array(self.accounts.count());
        for account in 0..self.accounts.count() as u32 {
            out.write(|row| {
                row.array(2);
                row.text(self.accounts.name(account));
                row.int(self.window.bound_ns(account));
            });
        }
    }

    fn put_holdings(&self, out: &mut Tape) {
        let all = (0..self.accounts.count() as u32).flat_map(|account| self.accounts.holdings_of(account));
        let all = all.map(|(_, slot)| self.accounts.holding(slot));
        let telling: Vec<_> = all.filter(|holding| holding.position != 0 || holding.limit != -1).collect();
        out.array(telling.len());
        for holding in telling {
            let (account, instrument) = (i64::from(holding.account), i64::from(holding.instrument));
            out.array_of([account, instrument, holding.position, holding.limit]);
        }
    }

    fn put_orders(&self, out: &mut Tape) {
        out.array(self.orders.count());
        for instrument in self.instruments.iter() {
            for side in [Side::Buy, Side::Sell] {
                for level in instrument.book.levels(side) {
                    self.orders.of_level(level).for_each(|order| self.put_order(out, order));
                }
            }
        }
    }

    fn put_order(&self, out: &mut Tape, slot: u32) {
        let order = self.orders.get(slot);
        let entry = self.window.get(order.entry);
        out.write(|row| {
            row.array(12);
            row.ints([self.order_id(slot), i64::from(order.account)]);
            row.text(&entry.client_id);
            row.ints([order.side as i64, order.time_in_force as i64, i64::from(order.flags)]);
            row.ints([order.self_trade as i64, self.orders.price(slot), order.quantity, order.leaves]);
            row.ints([entry.ts_ns, order.expire_ns]);
        });
    }

    fn put_window(&self, out: &mut Tape) {
        out.array(self.window.count());
        for account in 0..self.accounts.count() as u32 {
            self.window.of_account(account).for_each(|slot| self.put_entry(out, slot));
        }
    }

    fn put_entry(&self, out: &mut Tape, slot: u32) {
        let entry = self.window.get(slot);
        out.write(|row| {
            row.array(19);
            row.ints([i64::from(entry.account), entry.op as i64, i64::from(entry.instrument)]);
            row.text(&entry.client_id);
            row.unsigned(entry.hash);
            row.ints([i64::from(entry.epoch), entry.seq, entry.ts_ns, entry.client_ns]);
            row.ints(match entry.answer {
                Answer::Executed { order_id, status, reason, filled, remaining } => {
                    [0, 0, 0, order_id, status as i64, reason as i64, filled, remaining]
                }
                Answer::Rejected { code, value, bound, order_id } => [code as i64, value, bound, order_id, 0, 0, 0, 0],
            });
        });
        put_fills(out, self.window.fills(slot));
        let Fate::Ended(memory) = entry.fate else { return out.array(0) };
        let memory = self.window.memory(memory);
        out.write(|row| {
            row.array(12);
            row.ints([memory.side as i64, memory.kind as i64, memory.time_in_force as i64, i64::from(memory.flags)]);
            row.ints([memory.self_trade as i64, memory.price, memory.quantity, memory.filled]);
            row.ints([memory.status as i64, memory.reason as i64, entry.ts_ns, memory.expire_ns]);
        });
    }
}
