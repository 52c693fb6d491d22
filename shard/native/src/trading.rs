//! Submit, and the match that Replace shares with it (PROTOCOL 1.1, rules 6 to 20).

use crate::book::NewOrder;
use crate::command::Submit;
use crate::domain::{Broken, ClientId, Kind, Op, OrderEvent, POST_ONLY, Reject, SelfTrade, Side, Status, TimeInForce};
use crate::engine::{Engine, Hashes, Rejected, Stop};
use crate::events::{Party, Step};
use crate::pool::NONE;
use crate::window::{Answer, Fill, Memory, NewEntry};

/// An order on its way through the book.
pub(crate) struct Taker {
    pub order_id: i64,
    pub client_id: ClientId,
    pub account: u32,
    /// The account in the instrument.
    pub holding: u32,
    /// The entry of its Submit.
    pub entry: u32,
    /// Its slot, if it rested before.
    pub slot: u32,
    pub instrument: u16,
    pub side: Side,
    pub kind: Kind,
    pub time_in_force: TimeInForce,
    pub flags: u8,
    pub self_trade: SelfTrade,
    pub price: i64,
    /// How far it may match: its price or, for MARKET, the collar.
    pub reach: i64,
    /// Filled + leaves.
    pub quantity: i64,
    pub leaves: i64,
    pub expire_ns: i64,
}

impl Taker {
    fn filled(&self) -> i64 {
        self.quantity - self.leaves
    }
}

/// No taker reaches further.
fn any_price(side: Side) -> i64 {
    match side {
        Side::Buy => i64::MAX,
        Side::Sell => i64::MIN,
    }
}

impl Engine {
    #[inline]
    pub(crate) fn submit(&mut self, submit: &Submit<'_>, hashes: Hashes) {
        let index = submit.instrument;
        if self.instruments.get(index).is_none() {
            return self.refuse(Broken::new(Reject::UnknownInstrument, i64::from(index), 0), 0);
        }
        let account = match self.intern(submit.account, hashes) {
            Ok(account) => account,
            Err(broken) => return self.reject_submit(submit, None, broken),
        };
        let entry = match self.once(NewEntry {
            op: Op::Submit,
            account,
            instrument: index,
            client_id: submit.request.client_id,
            id_hash: hashes.id,
            hash: submit.hash(),
            epoch: self.at.epoch,
            seq: self.at.seq,
            ts_ns: self.at.ts_ns,
            client_ns: submit.request.client_ns,
        }) {
            Ok(entry) => entry,
            Err(Stop::Again(known)) => return self.answer_again(known),
            Err(Stop::Broken(broken)) => return self.reject_submit(submit, None, broken),
        };
        let holding = self.accounts.make_holding(account, index);
        match self.check_submit(account, holding, submit) {
            Ok(()) => {
                let answer = self.enter(account, holding, entry, submit);
                self.answer(Some(entry), answer);
            }
            Err(broken) => self.reject_submit(submit, Some(entry), broken),
        }
    }

    #[cold]
    fn reject_submit(&mut self, submit: &Submit<'_>, entry: Option<u32>, broken: Broken) {
        let &Submit { account, side, price, quantity, .. } = submit;
        let (code, client_id, order_id) = (broken.code, submit.request.client_id, 0);
        self.reject_row(&Rejected { code, account, client_id, order_id, side, price, quantity });
        self.answer(entry, Answer::rejected(broken, 0));
    }

    /// Rules 6 to 16.
    #[inline]
    fn check_submit(&self, account: u32, holding: u32, submit: &Submit<'_>) -> Result<(), Broken> {
        let &Submit { side, price, quantity, expire_ns, time_in_force, .. } = submit;
        let instrument = self.instruments.at(submit.instrument);
        let limit = submit.kind == Kind::Limit;
        let post_only = submit.flags & POST_ONLY != 0;
        let dated = time_in_force == TimeInForce::Gtd;
        self.check_deadline(submit.request.deadline_ns)?;
        let market_rests = !limit && (price != 0 || time_in_force.rests() || post_only);
        if market_rests || (post_only && !time_in_force.rests()) || (expire_ns != 0) != dated {
            return Err(Broken::plain(Reject::InvalidCombination));
        }
        instrument.check_state()?;
        if quantity < instrument.rules.quantity_min {
            return Err(Broken::new(Reject::QuantityMin, quantity, instrument.rules.quantity_min));
        }
        instrument.check_size(quantity)?;
        if limit {
            instrument.check_price(price)?;
        }
        if dated && expire_ns <= self.at.ts_ns {
            return Err(Broken::new(Reject::ExpireInPast, expire_ns, self.at.ts_ns));
        }
        if limit {
            instrument.check_collar(side, price)?;
        }
        if post_only {
            instrument.check_post_only(&self.orders, side, price)?;
        }
        self.check_position(holding, side, quantity)?;
        let (open, open_max) = (self.window.open_orders(account), self.config.open_orders_max);
        if open >= open_max {
            return Err(Broken::new(Reject::OpenOrdersLimit, open as i64, open_max as i64));
        }
        if limit && time_in_force.rests() {
            let (orders, orders_max) = (self.orders.count(), self.config.orders_max);
            if orders >= orders_max {
                return Err(Broken::new(Reject::BookFull, orders as i64, orders_max as i64));
            }
            instrument.check_open_quantity(side, quantity)?;
        }
        Ok(())
    }

    /// Rules 17 to 20: the order is accepted.
    #[inline]
    fn enter(&mut self, account: u32, holding: u32, entry: u32, submit: &Submit<'_>) -> Answer {
        let &Submit { side, kind, time_in_force, price, quantity, .. } = submit;
        let instrument = self.instruments.at_mut(submit.instrument);
        let reach = match kind {
            Kind::Limit => price,
            Kind::Market => instrument.collar(side).unwrap_or_else(|| any_price(side)),
        };
        let mut taker = Taker {
            order_id: instrument.next_order_id(),
            client_id: self.window.get(entry).client_id,
            account,
            holding,
            entry,
            slot: NONE,
            instrument: submit.instrument,
            side,
            kind,
            time_in_force,
            flags: submit.flags,
            self_trade: submit.self_trade,
            price,
            reach,
            quantity,
            leaves: quantity,
            expire_ns: submit.expire_ns,
        };
        self.taker_row(OrderEvent::Accepted, &taker, quantity, quantity, Reject::None);
        if time_in_force == TimeInForce::Fok && !self.fillable(&taker) {
            return self.expire_taker(&taker, Reject::FokUnfillable);
        }
        let prevented = self.match_taker(&mut taker);
        self.conclude(&taker, prevented)
    }

    /// Rule 18: whether the whole quantity would trade. O(levels), or O(orders) where the account has orders in the way.
    fn fillable(&self, taker: &Taker) -> bool {
        let makers = taker.side.opposite();
        let owns_makers = self.accounts.holding(taker.holding).open[makers as usize] != 0;
        let mut counted = 0;
        for level in self.instruments.at(taker.instrument).book.levels(makers) {
            if !taker.side.reaches(taker.reach, self.orders.level(level).price) {
                break;
            }
            if !owns_makers || taker.self_trade == SelfTrade::Allowed {
                counted += self.orders.level(level).quantity;
            } else {
                for maker in self.orders.of_level(level).map(|maker| self.orders.get(maker)) {
                    match taker.self_trade {
                        _ if maker.account != taker.account => counted += maker.leaves,
                        SelfTrade::Oldest => {}
                        _ => return counted >= taker.leaves,
                    }
                }
            }
            if counted >= taker.leaves {
                return true;
            }
        }
        false
    }

    /// Rule 19. Whether self-trade prevention ended the taker.
    #[inline]
    pub(crate) fn match_taker(&mut self, taker: &mut Taker) -> bool {
        let makers = taker.side.opposite();
        while taker.leaves > 0 {
            let Some(level) = self.instruments.at(taker.instrument).book.best(makers) else { break };
            let price = self.orders.level(level).price;
            if !taker.side.reaches(taker.reach, price) {
                break;
            }
            let maker = self.orders.oldest(level);
            if self.orders.get(maker).account != taker.account || taker.self_trade == SelfTrade::Allowed {
                self.trade(taker, maker, price);
            } else if self.prevent(taker, maker) {
                return true;
            }
        }
        false
    }

    #[inline]
    fn trade(&mut self, taker: &mut Taker, maker: u32, price: i64) {
        let instrument = self.instruments.at_mut(taker.instrument);
        let resting = *self.orders.get(maker);
        let quantity = taker.leaves.min(resting.leaves);
        let fill = Fill { trade_id: instrument.next_trade_id(price), price, quantity };
        self.fills.push(fill);
        self.orders.lower(&mut instrument.book, maker, quantity);
        taker.leaves -= quantity;
        let bought = match taker.side {
            Side::Buy => quantity,
            Side::Sell => -quantity,
        };
        self.accounts.change(taker.holding).position += bought;
        let held = self.accounts.change(resting.holding);
        held.position -= bought;
        held.open[resting.side as usize] -= quantity;

        let leaves = resting.leaves - quantity;
        let entry = self.window.get(resting.entry);
        let made = Party {
            order_id: entry.order_id().expect("engine: an open order whose entry holds none"),
            account: self.accounts.name(resting.account),
            client_id: &entry.client_id,
            leaves,
        };
        let took = Party {
            order_id: taker.order_id,
            account: self.accounts.name(taker.account),
            client_id: &taker.client_id,
            leaves: taker.leaves,
        };
        self.outcome.trade(fill, taker.side, took, made);
        if leaves == 0 {
            self.orders.leave(&mut instrument.book, maker);
            self.end(maker, price, Status::Filled, Reject::None);
        }
    }

    /// Two orders of one account met, and the taker's mode forbids the trade. Whether that ends the taker.
    #[cold]
    fn prevent(&mut self, taker: &mut Taker, maker: u32) -> bool {
        match taker.self_trade {
            SelfTrade::Decrement => {
                self.decrement(taker, maker);
                taker.leaves == 0
            }
            SelfTrade::Newest => true,
            mode => {
                self.take_off(maker, OrderEvent::Cancelled, Reject::SelfTrade);
                mode == SelfTrade::Both
            }
        }
    }

    fn decrement(&mut self, taker: &mut Taker, maker: u32) {
        let resting = *self.orders.get(maker);
        let by = taker.leaves.min(resting.leaves);
        let left = resting.leaves - by;
        self.lower_open(maker, by);
        self.orders.resize(maker, resting.quantity - by, left);
        self.order_row(OrderEvent::Reduced, maker, by, left, Reject::SelfTrade);
        if left == 0 {
            self.take_off(maker, OrderEvent::Cancelled, Reject::SelfTrade);
        }
        taker.quantity -= by;
        taker.leaves -= by;
        self.taker_row(OrderEvent::Reduced, taker, by, taker.leaves, Reject::SelfTrade);
        if taker.leaves == 0 {
            self.taker_row(OrderEvent::Cancelled, taker, 0, 0, Reject::SelfTrade);
        }
    }

    /// Rule 20: what becomes of a taker after its match.
    #[inline]
    pub(crate) fn conclude(&mut self, taker: &Taker, prevented: bool) -> Answer {
        if prevented {
            if taker.leaves > 0 {
                self.taker_row(OrderEvent::Cancelled, taker, taker.leaves, 0, Reject::SelfTrade);
            }
            return self.end_taker(taker, Status::Canceled, Reject::SelfTrade);
        }
        if taker.leaves == 0 {
            return self.end_taker(taker, Status::Filled, Reject::None);
        }
        if taker.kind == Kind::Market {
            let beyond = self.instruments.at(taker.instrument).book.best(taker.side.opposite()).is_some();
            return self.expire_taker(taker, if beyond { Reject::PriceCollar } else { Reject::NoLiquidity });
        }
        if !taker.time_in_force.rests() {
            return self.expire_taker(taker, Reject::IocRemainder);
        }
        self.rest(taker);
        let status = if taker.filled() == 0 { Status::New } else { Status::PartiallyFilled };
        executed(taker, status, Reject::None)
    }

    #[inline]
    fn rest(&mut self, taker: &Taker) {
        let mut slot = taker.slot;
        if slot == NONE {
            let &Taker { quantity, leaves, expire_ns, account, holding, entry, .. } = taker;
            let &Taker { instrument, side, time_in_force, flags, self_trade, .. } = taker;
            let order = NewOrder {
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
            slot = self.orders.open(order, self.accounts.own_orders(holding));
            self.window.order_opens(entry, slot);
            if time_in_force == TimeInForce::Gtd {
                self.dated.insert((expire_ns, taker.order_id));
            }
        } else {
            self.orders.resize(slot, taker.quantity, taker.leaves);
        }
        self.accounts.change(taker.holding).open[taker.side as usize] += taker.leaves;
        self.orders.rest(&mut self.instruments.at_mut(taker.instrument).book, slot, taker.price);
    }

    /// Ends a taker that may not rest.
    fn expire_taker(&mut self, taker: &Taker, reason: Reject) -> Answer {
        self.taker_row(OrderEvent::Expired, taker, taker.leaves, 0, reason);
        self.end_taker(taker, Status::Expired, reason)
    }

    fn end_taker(&mut self, taker: &Taker, status: Status, reason: Reject) -> Answer {
        if taker.slot == NONE {
            let &Taker { price, quantity, expire_ns, side, kind, time_in_force, flags, self_trade, .. } = taker;
            let filled = taker.filled();
            let memory = Memory {
                price,
                quantity,
                filled,
                expire_ns,
                side,
                kind,
                time_in_force,
                flags,
                self_trade,
                status,
                reason,
            };
            self.window.order_ends(taker.entry, memory);
        } else {
            self.orders.resize(taker.slot, taker.quantity, taker.leaves);
            self.end(taker.slot, taker.price, status, reason);
        }
        executed(taker, status, reason)
    }

    /// Ends an order that is no longer in the book; it is remembered in its entry.
    #[inline]
    fn end(&mut self, order: u32, price: i64, status: Status, reason: Reject) {
        let of = *self.orders.get(order);
        if of.time_in_force == TimeInForce::Gtd {
            let order_id = self.order_id(order);
            self.dated.remove(&(of.expire_ns, order_id));
        }
        let memory = Memory {
            price,
            quantity: of.quantity,
            filled: of.quantity - of.leaves,
            expire_ns: of.expire_ns,
            side: of.side,
            kind: Kind::Limit,
            time_in_force: of.time_in_force,
            flags: of.flags,
            self_trade: of.self_trade,
            status,
            reason,
        };
        self.window.order_ends(of.entry, memory);
        self.orders.close(order, self.accounts.own_orders(of.holding));
    }

    /// Takes an open order off the book for good: the event and the reason say how.
    #[inline]
    pub(crate) fn take_off(&mut self, order: u32, event: OrderEvent, reason: Reject) {
        let price = self.orders.price(order);
        let left = self.detach(order);
        self.order_row(event, order, left, 0, reason);
        let status = if event == OrderEvent::Expired { Status::Expired } else { Status::Canceled };
        self.end(order, price, status, reason);
    }

    /// Takes an order out of its level and out of what its account has open; its leaves.
    pub(crate) fn detach(&mut self, order: u32) -> i64 {
        let of = *self.orders.get(order);
        self.orders.leave(&mut self.instruments.at_mut(of.instrument).book, order);
        self.accounts.change(of.holding).open[of.side as usize] -= of.leaves;
        of.leaves
    }

    /// Lowers the leaves of an order in its level and in what its account has open.
    pub(crate) fn lower_open(&mut self, order: u32, by: i64) {
        let of = *self.orders.get(order);
        self.orders.lower(&mut self.instruments.at_mut(of.instrument).book, order, by);
        self.accounts.change(of.holding).open[of.side as usize] -= by;
    }

    #[inline]
    pub(crate) fn taker_row(&mut self, kind: OrderEvent, taker: &Taker, quantity: i64, leaves: i64, reason: Reject) {
        let account = self.accounts.name(taker.account);
        let party = Party { order_id: taker.order_id, account, client_id: &taker.client_id, leaves };
        self.outcome.step(&Step { kind, party, side: taker.side, price: taker.price, quantity, reason });
    }

    /// A row about an order that is, or just was, in the book.
    pub(crate) fn order_row(&mut self, kind: OrderEvent, order: u32, quantity: i64, leaves: i64, reason: Reject) {
        let of = self.orders.get(order);
        let party = Party {
            order_id: self.order_id(order),
            account: self.accounts.name(of.account),
            client_id: &self.window.get(of.entry).client_id,
            leaves,
        };
        self.outcome.step(&Step { kind, party, side: of.side, price: self.orders.price(order), quantity, reason });
    }
}

fn executed(taker: &Taker, status: Status, reason: Reject) -> Answer {
    Answer::Executed { order_id: taker.order_id, status, reason, filled: taker.filled(), remaining: taker.leaves }
}
