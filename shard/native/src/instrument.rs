//! One instrument: its rules, its trading state, its book. Rule numbers are those of PROTOCOL 1.1.

use crate::book::{Book, Orders};
use crate::command::Rules;
use crate::domain::{Broken, Reject, SUM_MAX, Side, State, compose_id};

/// An instrument of the shard.
#[allow(missing_docs, reason = "the fields say it")]
pub struct Instrument {
    pub index: u16,
    pub rules: Rules,
    pub state: State,
    pub last_price: i64,
    pub orders_counter: i64,
    pub trades_counter: i64,
    pub book: Book,
}

impl Instrument {
    /// A new instrument, open.
    pub fn new(index: u16, rules: Rules) -> Self {
        let book = Book::default();
        Self { index, rules, state: State::Open, last_price: 0, orders_counter: 0, trades_counter: 0, book }
    }

    /// The id of the next order.
    pub fn next_order_id(&mut self) -> i64 {
        self.orders_counter += 1;
        compose_id(self.index, self.orders_counter)
    }

    /// The id of the next trade, which is at `price`.
    pub fn next_trade_id(&mut self, price: i64) -> i64 {
        self.last_price = price;
        self.trades_counter += 1;
        compose_id(self.index, self.trades_counter)
    }

    /// The worst price that an order of `side` may name or, for MARKET, reach now; none without a collar.
    pub fn collar(&self, side: Side) -> Option<i64> {
        let reference = if self.trades_counter == 0 { self.rules.reference_price } else { self.last_price };
        if self.rules.collar_bps == 0 || reference == 0 {
            return None;
        }
        let width = (i128::from(reference) * i128::from(self.rules.collar_bps) / 10_000) as i64;
        Some(match side {
            Side::Buy => reference + width,
            Side::Sell => reference - width,
        })
    }

    /// Rule 8.
    pub fn check_state(&self) -> Result<(), Broken> {
        match self.state {
            State::Open => Ok(()),
            State::CancelOnly => Err(Broken::plain(Reject::CancelOnly)),
            State::Halt => Err(Broken::plain(Reject::Halt)),
            State::Closed => Err(Broken::plain(Reject::Closed)),
        }
    }

    /// Rule 9 without the minimum.
    pub fn check_size(&self, quantity: i64) -> Result<(), Broken> {
        if quantity > self.rules.quantity_max {
            return Err(Broken::new(Reject::QuantityMax, quantity, self.rules.quantity_max));
        }
        self.check_lot(quantity)
    }

    /// Whole lots only.
    pub fn check_lot(&self, quantity: i64) -> Result<(), Broken> {
        match quantity % self.rules.lot {
            0 => Ok(()),
            _ => Err(Broken::new(Reject::LotSize, quantity, self.rules.lot)),
        }
    }

    /// Rule 10.
    pub fn check_price(&self, price: i64) -> Result<(), Broken> {
        let rules = &self.rules;
        if price < rules.price_min {
            Err(Broken::new(Reject::PriceMin, price, rules.price_min))
        } else if price > rules.price_max {
            Err(Broken::new(Reject::PriceMax, price, rules.price_max))
        } else if price % rules.tick != 0 {
            Err(Broken::new(Reject::TickSize, price, rules.tick))
        } else {
            Ok(())
        }
    }

    /// Rule 12.
    pub fn check_collar(&self, side: Side, price: i64) -> Result<(), Broken> {
        match self.collar(side) {
            Some(bound) if !side.opposite().reaches(price, bound) => {
                Err(Broken::new(Reject::PriceCollar, price, bound))
            }
            _ => Ok(()),
        }
    }

    /// Rule 13.
    pub fn check_post_only(&self, orders: &Orders, side: Side, price: i64) -> Result<(), Broken> {
        match self.book.best(side.opposite()).map(|level| orders.level(level).price) {
            Some(best) if side.reaches(price, best) => Err(Broken::new(Reject::PostOnlyWouldCross, price, best)),
            _ => Ok(()),
        }
    }

    /// The side rule of 16.
    pub fn check_open_quantity(&self, side: Side, growth: i64) -> Result<(), Broken> {
        let total = self.book.open_quantity(side) + growth;
        if total > SUM_MAX { Err(Broken::new(Reject::BookFull, total, SUM_MAX)) } else { Ok(()) }
    }
}

/// The instruments of a shard, by index.
#[derive(Default)]
pub struct Instruments {
    list: Vec<Option<Box<Instrument>>>,
}

impl Instruments {
    /// The instrument with an index, if it is defined.
    #[inline]
    pub fn get(&self, index: u16) -> Option<&Instrument> {
        self.list.get(usize::from(index))?.as_deref()
    }

    /// An instrument that is known to be defined.
    #[inline]
    pub fn at(&self, index: u16) -> &Instrument {
        self.get(index).expect("instruments: an index that is not defined")
    }

    /// An instrument that is known to be defined, to change.
    #[inline]
    pub fn at_mut(&mut self, index: u16) -> &mut Instrument {
        self.list[usize::from(index)].as_deref_mut().expect("instruments: an index that is not defined")
    }

    /// Defines an instrument.
    pub fn add(&mut self, instrument: Instrument) {
        let index = usize::from(instrument.index);
        if self.list.len() <= index {
            self.list.resize_with(index + 1, || None);
        }
        self.list[index] = Some(Box::new(instrument));
    }

    /// All of them, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Instrument> {
        self.list.iter().flatten().map(|instrument| &**instrument)
    }
}
