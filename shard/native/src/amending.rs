//! Cancel, Replace and Reduce: commands on one order (PROTOCOL 1.1).

use crate::command::{Reduce, Replace, Request, Target};
use crate::domain::{Basis, Broken, Kind, Op, OrderEvent, POST_ONLY, Reject, SUM_MAX, Side, Status};
use crate::engine::{Engine, Hashes, Rejected, Stop};
use crate::trading::Taker;
use crate::window::{Answer, Fate, NewEntry};

impl Engine {
    /// The entry of the account's order in one instrument, by order id or by the client order id of its Submit.
    pub(crate) fn find(&self, account: u32, instrument: u16, target: &Target<'_>) -> Option<u32> {
        if target.order_id == 0 {
            let hash = self.window.hash_of(account, instrument, target.client_id);
            let entry = self.window.find(account, instrument, target.client_id, hash)?;
            return self.window.get(entry).order_id().map(|_| entry);
        }
        let slot = self.window.find_order(target.order_id)?;
        let entry = self.window.get(slot);
        (entry.account == account && entry.instrument == instrument).then_some(slot)
    }

    /// The open order that a command on one order means.
    #[inline]
    fn find_open(&self, account: Option<u32>, target: &Target<'_>) -> Result<u32, Broken> {
        let entry = account.and_then(|account| self.find(account, target.instrument as u16, target));
        match entry.map(|entry| self.window.get(entry).fate) {
            Some(Fate::Open(order)) => Ok(order),
            _ => Err(Broken::new(Reject::UnknownOrder, target.order_id, 0)),
        }
    }

    fn check_instrument(&self, instrument: i64) -> Result<(), Broken> {
        match self.instruments.get(instrument as u16) {
            Some(_) => Ok(()),
            None => Err(Broken::new(Reject::UnknownInstrument, instrument, 0)),
        }
    }

    #[inline]
    pub(crate) fn cancel(&mut self, target: &Target<'_>, deadline_ns: i64, hashes: Hashes) {
        let found = self.check_deadline(deadline_ns).and_then(|()| {
            self.check_instrument(target.instrument)?;
            self.find_open(self.accounts.find(target.account, hashes.account), target)
        });
        match found {
            Ok(order) => {
                let answer = self.cancel_order(order);
                self.answer(None, answer);
            }
            Err(broken) => self.reject_change(target, target.client_id, None, broken),
        }
    }

    fn cancel_order(&mut self, order: u32) -> Answer {
        let of = *self.orders.get(order);
        let answer = Answer::Executed {
            order_id: self.order_id(order),
            status: Status::Canceled,
            reason: Reject::User,
            filled: of.quantity - of.leaves,
            remaining: of.leaves,
        };
        self.take_off(order, OrderEvent::Cancelled, Reject::User);
        answer
    }

    /// Answers that a command on one order had no effect, with its row where there is one.
    #[cold]
    fn reject_change(&mut self, target: &Target<'_>, client_id: &[u8], entry: Option<u32>, broken: Broken) {
        if broken.code != Reject::UnknownInstrument {
            let &Target { account, order_id, .. } = target;
            let (code, side, price, quantity) = (broken.code, Side::Buy, 0, 0);
            self.reject_row(&Rejected { code, account, client_id, order_id, side, price, quantity });
        }
        self.answer(entry, Answer::rejected(broken, target.order_id));
    }

    pub(crate) fn replace(&mut self, replace: &Replace<'_>, hashes: Hashes) {
        let decide = |engine: &mut Self, account| engine.decide_replace(account, replace);
        self.change(Op::Replace, &replace.target, &replace.request, hashes, replace.hash(), decide);
    }

    pub(crate) fn reduce(&mut self, reduce: &Reduce<'_>, hashes: Hashes) {
        let decide = |engine: &mut Self, account| engine.decide_reduce(account, reduce);
        self.change(Op::Reduce, &reduce.target, &reduce.request, hashes, reduce.hash(), decide);
    }

    /// What Replace and Reduce share: rules 1 to 5, then the decision, recorded if the request has an id.
    fn change(
        &mut self,
        op: Op,
        target: &Target<'_>,
        request: &Request<'_>,
        hashes: Hashes,
        hash: u64,
        decide: impl FnOnce(&mut Self, u32) -> Result<Answer, Broken>,
    ) {
        let unknown = Broken::new(Reject::UnknownOrder, target.order_id, 0);
        let known = self.check_instrument(target.instrument);
        let account = match known.and_then(|()| self.accounts.find(target.account, hashes.account).ok_or(unknown)) {
            Ok(account) => account,
            Err(broken) => return self.reject_change(target, request.client_id, None, broken),
        };
        let mut entry = None;
        if !request.client_id.is_empty() {
            let new = NewEntry {
                op,
                account,
                instrument: target.instrument as u16,
                client_id: request.client_id,
                id_hash: hashes.id,
                hash,
                epoch: self.at.epoch,
                seq: self.at.seq,
                ts_ns: self.at.ts_ns,
                client_ns: request.client_ns,
            };
            match self.once(new) {
                Ok(made) => entry = Some(made),
                Err(Stop::Again(known)) => return self.answer_again(known),
                Err(Stop::Broken(broken)) => return self.reject_change(target, request.client_id, None, broken),
            }
        }
        match decide(self, account) {
            Ok(answer) => self.answer(entry, answer),
            Err(broken) => self.reject_change(target, request.client_id, entry, broken),
        }
    }

    fn decide_replace(&mut self, account: u32, replace: &Replace<'_>) -> Result<Answer, Broken> {
        let &Replace { ref target, price, quantity, .. } = replace;
        let index = target.instrument as u16;
        let instrument = self.instruments.at(index);
        self.check_deadline(replace.request.deadline_ns)?;
        instrument.check_state()?;
        let order = self.find_open(Some(account), target)?;
        let of = *self.orders.get(order);
        if quantity < instrument.rules.lot {
            return Err(Broken::new(Reject::QuantityMin, quantity, instrument.rules.lot));
        }
        instrument.check_size(quantity)?;
        let filled = of.quantity - of.leaves;
        let total = match replace.basis {
            Basis::Leaves => filled + quantity,
            Basis::Total => quantity,
        };
        if total > SUM_MAX {
            return Err(Broken::new(Reject::QuantityMax, total, SUM_MAX));
        }
        let leaves = total - filled;
        if leaves <= 0 {
            return Ok(self.cancel_order(order));
        }
        instrument.check_price(price)?;
        let growth = leaves - of.leaves;
        let price_before = self.orders.price(order);
        if price == price_before && growth <= 0 {
            self.lower_open(order, -growth);
            self.orders.resize(order, total, leaves);
            self.order_row(OrderEvent::Replaced, order, total, leaves, Reject::None);
            return Ok(self.still_open(order));
        }
        if price != price_before {
            instrument.check_collar(of.side, price)?;
        }
        if of.flags & POST_ONLY != 0 {
            instrument.check_post_only(&self.orders, of.side, price)?;
        }
        if growth > 0 {
            self.check_position(of.holding, of.side, growth)?;
            instrument.check_open_quantity(of.side, growth)?;
        }

        self.detach(order);
        let mut taker = Taker {
            order_id: self.order_id(order),
            client_id: self.window.get(of.entry).client_id,
            account,
            holding: of.holding,
            entry: of.entry,
            slot: order,
            instrument: index,
            side: of.side,
            kind: Kind::Limit,
            time_in_force: of.time_in_force,
            flags: of.flags,
            self_trade: of.self_trade,
            price,
            reach: price,
            quantity: total,
            leaves,
            expire_ns: of.expire_ns,
        };
        self.taker_row(OrderEvent::Replaced, &taker, total, leaves, Reject::None);
        let prevented = self.match_taker(&mut taker);
        Ok(self.conclude(&taker, prevented))
    }

    fn decide_reduce(&mut self, account: u32, reduce: &Reduce<'_>) -> Result<Answer, Broken> {
        let &Reduce { ref target, quantity, .. } = reduce;
        self.check_deadline(reduce.request.deadline_ns)?;
        let order = self.find_open(Some(account), target)?;
        if quantity < 1 {
            return Err(Broken::new(Reject::QuantityMin, quantity, 1));
        }
        self.instruments.at(target.instrument as u16).check_lot(quantity)?;
        let of = *self.orders.get(order);
        if quantity >= of.leaves {
            return Ok(self.cancel_order(order));
        }
        self.lower_open(order, quantity);
        self.orders.resize(order, of.quantity - quantity, of.leaves - quantity);
        self.order_row(OrderEvent::Reduced, order, quantity, of.leaves - quantity, Reject::User);
        Ok(self.still_open(order))
    }

    /// The answer about an order that was changed in place.
    fn still_open(&self, order: u32) -> Answer {
        let of = self.orders.get(order);
        let filled = of.quantity - of.leaves;
        let status = if filled == 0 { Status::New } else { Status::PartiallyFilled };
        Answer::Executed { order_id: self.order_id(order), status, reason: Reject::None, filled, remaining: of.leaves }
    }
}
