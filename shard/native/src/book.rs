//! Books: resting orders in price levels, first in, first out, in pools shared by all instruments of a shard.
//!
//! Order and level are slots of a pool; a level's orders, and an account's orders in an instrument, hang on lists through
//! the slots themselves. A level is found by its price in a B-tree: O(log levels) whoever chooses the prices; everything
//! else is O(1). Nothing here knows commands, events or accounts' rules.

use std::collections::BTreeMap;

use crate::domain::{SelfTrade, Side, TimeInForce};
use crate::pool::{NONE, Pool};

/// An open order. Its id, client order id and birth stand in its entry of the window, its price in its level.
#[derive(Clone, Copy)]
#[repr(align(64))]
#[allow(missing_docs, reason = "the fields of an order, and its places in two lists")]
pub struct Order {
    /// Filled + leaves.
    pub quantity: i64,
    pub leaves: i64,
    pub expire_ns: i64,
    pub account: u32,
    /// Slot of the holding: the account in this instrument.
    pub holding: u32,
    /// Slot of the window entry.
    pub entry: u32,
    level: u32,
    older: u32,
    newer: u32,
    own_before: u32,
    own_after: u32,
    pub instrument: u16,
    pub side: Side,
    pub time_in_force: TimeInForce,
    pub flags: u8,
    pub self_trade: SelfTrade,
}

const _: () = assert!(size_of::<Order>() == 64);

/// The fields of a new order that the book does not fill in itself.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "see Order")]
pub struct NewOrder {
    pub quantity: i64,
    pub leaves: i64,
    pub expire_ns: i64,
    pub account: u32,
    pub holding: u32,
    pub entry: u32,
    pub instrument: u16,
    pub side: Side,
    pub time_in_force: TimeInForce,
    pub flags: u8,
    pub self_trade: SelfTrade,
}

/// The orders of one price, oldest first.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Level {
    pub price: i64,
    pub quantity: i64,
    /// The record in which the level was last changed, so that its state before is noted once a record.
    mark: i64,
    pub orders: u32,
    oldest: u32,
    newest: u32,
    /// Instrument and side.
    place: u32,
}

/// First and last order of an account in an instrument, ascending by order id.
#[derive(Clone, Copy)]
pub struct OwnOrders {
    first: u32,
    last: u32,
}

impl OwnOrders {
    /// No orders.
    pub const EMPTY: Self = Self { first: NONE, last: NONE };
}

/// One side of a book.
#[derive(Default)]
struct Ladder {
    /// Level slots by rank: the better the price the lower the rank.
    levels: BTreeMap<i64, u32>,
    quantity: i64,
}

/// The book of one instrument.
#[derive(Default)]
pub struct Book {
    ladders: [Ladder; 2],
}

impl Book {
    /// Sum of the leaves of one side.
    pub fn open_quantity(&self, side: Side) -> i64 {
        self.ladders[side as usize].quantity
    }

    /// The level with the best price of a side.
    #[inline]
    pub fn best(&self, side: Side) -> Option<u32> {
        self.ladders[side as usize].levels.first_key_value().map(|(_, &level)| level)
    }

    /// The levels of a side, best price first.
    pub fn levels(&self, side: Side) -> impl Iterator<Item = u32> {
        self.ladders[side as usize].levels.values().copied()
    }
}

/// The rank of a price: ascending from the best. Bitwise not turns the order around without overflow.
#[inline]
fn rank(side: Side, price: i64) -> i64 {
    match side {
        Side::Buy => !price,
        Side::Sell => price,
    }
}

/// A level that a record changed, and what it was before.
struct LevelChange {
    place: u32,
    price: i64,
    level: u32,
    orders_before: u32,
    quantity_before: i64,
}

impl LevelChange {
    /// A number that sorts by instrument, side and price, which in a book is of 0 to 10^15: 14 bits and 50.
    fn key(&self) -> u64 {
        u64::from(self.place) << 50 | self.price as u64
    }
}

/// A level as it stands at the end of a record that changed it.
#[allow(missing_docs, reason = "the fields of LevelRow")]
pub struct LevelNow {
    pub instrument: u16,
    pub side: Side,
    pub price: i64,
    pub quantity: i64,
    pub orders: u32,
}

/// The orders and levels of all books of a shard.
pub struct Orders {
    orders: Pool<Order>,
    levels: Pool<Level>,
    changes: Vec<LevelChange>,
    sorted: Vec<(u64, u32)>,
    emptied: Vec<u32>,
    record: i64,
}

impl Orders {
    /// Reserves address space for `orders_max` orders.
    pub fn with_capacity(orders_max: usize) -> Self {
        Self {
            orders: Pool::with_capacity(orders_max),
            levels: Pool::with_capacity(orders_max),
            changes: Vec::new(),
            sorted: Vec::new(),
            emptied: Vec::new(),
            record: 0,
        }
    }

    /// Open orders.
    pub fn count(&self) -> usize {
        self.orders.used()
    }

    /// The order in a slot.
    #[inline]
    pub fn get(&self, order: u32) -> &Order {
        &self.orders[order]
    }

    /// The level in a slot.
    #[inline]
    pub fn level(&self, level: u32) -> &Level {
        &self.levels[level]
    }

    /// The price at which an order rests.
    #[inline]
    pub fn price(&self, order: u32) -> i64 {
        self.levels[self.orders[order].level].price
    }

    /// The oldest order of a level. A level in a book is never empty.
    #[inline]
    pub fn oldest(&self, level: u32) -> u32 {
        self.levels[level].oldest
    }

    /// The orders of a level, oldest first.
    pub fn of_level(&self, level: u32) -> impl Iterator<Item = u32> {
        self.chain(self.levels[level].oldest, |order| order.newer)
    }

    /// The orders of an account in an instrument, ascending by order id.
    pub fn of_owner(&self, own: &OwnOrders) -> impl Iterator<Item = u32> {
        self.chain(own.first, |order| order.own_after)
    }

    fn chain(&self, first: u32, next: impl Fn(&Order) -> u32) -> impl Iterator<Item = u32> {
        std::iter::successors((first != NONE).then_some(first), move |&order| {
            let after = next(&self.orders[order]);
            (after != NONE).then_some(after)
        })
    }

    /// Makes an order, the newest of its owner. It is not in the book before it is put to `rest`.
    #[inline]
    pub fn open(&mut self, new: NewOrder, own: &mut OwnOrders) -> u32 {
        let order = self.orders.take(Order {
            quantity: new.quantity,
            leaves: new.leaves,
            expire_ns: new.expire_ns,
            account: new.account,
            holding: new.holding,
            entry: new.entry,
            level: NONE,
            older: NONE,
            newer: NONE,
            own_before: own.last,
            own_after: NONE,
            instrument: new.instrument,
            side: new.side,
            time_in_force: new.time_in_force,
            flags: new.flags,
            self_trade: new.self_trade,
        });
        match own.last {
            NONE => own.first = order,
            last => self.orders[last].own_after = order,
        }
        own.last = order;
        order
    }

    /// Frees an order that is not in the book.
    #[inline]
    pub fn close(&mut self, order: u32, own: &mut OwnOrders) {
        let Order { own_before, own_after, .. } = self.orders[order];
        match own_before {
            NONE => own.first = own_after,
            before => self.orders[before].own_after = own_after,
        }
        match own_after {
            NONE => own.last = own_before,
            after => self.orders[after].own_before = own_before,
        }
        self.orders.give_back(order);
    }

    /// Puts an order at the end of the level of `price`.
    #[inline]
    pub fn rest(&mut self, book: &mut Book, order: u32, price: i64) {
        let Order { instrument, side, leaves, .. } = self.orders[order];
        let ladder = &mut book.ladders[side as usize];
        ladder.quantity += leaves;
        let place = u32::from(instrument) << 1 | side as u32;
        let levels = &mut self.levels;
        let level = *ladder.levels.entry(rank(side, price)).or_insert_with(|| {
            levels.take(Level { price, quantity: 0, mark: 0, orders: 0, oldest: NONE, newest: NONE, place })
        });
        self.note(level);
        let at = &mut self.levels[level];
        at.quantity += leaves;
        at.orders += 1;
        let newest = std::mem::replace(&mut at.newest, order);
        match newest {
            NONE => at.oldest = order,
            newest => self.orders[newest].newer = order,
        }
        let resting = &mut self.orders[order];
        (resting.level, resting.older, resting.newer) = (level, newest, NONE);
    }

    /// Takes an order out of the book, its leaves unchanged. An empty level goes with it.
    #[inline]
    pub fn leave(&mut self, book: &mut Book, order: u32) {
        let Order { level, older, newer, side, leaves, .. } = self.orders[order];
        self.note(level);
        let ladder = &mut book.ladders[side as usize];
        ladder.quantity -= leaves;
        let at = &mut self.levels[level];
        at.quantity -= leaves;
        at.orders -= 1;
        if at.orders == 0 {
            (at.oldest, at.newest) = (NONE, NONE);
            let removed = ladder.levels.remove(&rank(side, at.price));
            assert_eq!(removed, Some(level), "book: a level is not where its price is");
            self.emptied.push(level);
            return;
        }
        match older {
            NONE => at.oldest = newer,
            older => self.orders[older].newer = newer,
        }
        match newer {
            NONE => self.levels[level].newest = older,
            newer => self.orders[newer].older = older,
        }
    }

    /// Lowers the leaves of an order in the book, which keeps its place even with nothing left.
    #[inline]
    pub fn lower(&mut self, book: &mut Book, order: u32, by: i64) {
        let Order { level, side, .. } = self.orders[order];
        self.note(level);
        self.orders[order].leaves -= by;
        self.levels[level].quantity -= by;
        book.ladders[side as usize].quantity -= by;
    }

    /// Sets quantity and leaves of an order that is not in the book, or whose leaves stay.
    #[inline]
    pub fn resize(&mut self, order: u32, quantity: i64, leaves: i64) {
        let of = &mut self.orders[order];
        (of.quantity, of.leaves) = (quantity, leaves);
    }

    /// Notes what a level was before this record's first change of it.
    #[inline]
    fn note(&mut self, level: u32) {
        let at = &mut self.levels[level];
        if at.mark == self.record {
            return;
        }
        at.mark = self.record;
        let (place, price, orders_before, quantity_before) = (at.place, at.price, at.orders, at.quantity);
        self.changes.push(LevelChange { place, price, level, orders_before, quantity_before });
    }

    /// Starts a record: changes are counted from here. Records must differ.
    pub fn begin(&mut self, record: i64) {
        self.record = record;
    }

    /// Ends a record: tells every level that is not what it was, ascending (instrument, side, price).
    pub fn settle(&mut self, mut tell: impl FnMut(LevelNow)) {
        self.sorted.extend(self.changes.iter().enumerate().map(|(number, change)| (change.key(), number as u32)));
        self.sorted.sort_unstable_by_key(|&(key, _)| key);
        for same in self.sorted.chunk_by(|one, other| one.0 == other.0) {
            // A level that was emptied and made anew is here more than once: but only the first of these had anything
            // before the record, and only the last has anything now.
            let (mut before, mut now) = ((0, 0), (0, 0));
            for &(_, number) in same {
                let change = &self.changes[number as usize];
                let level = &self.levels[change.level];
                before = (before.0 + change.quantity_before, before.1 + change.orders_before);
                now = (now.0 + level.quantity, now.1 + level.orders);
            }
            if before != now {
                let LevelChange { place, price, .. } = self.changes[same[0].1 as usize];
                let side = if place & 1 == 0 { Side::Buy } else { Side::Sell };
                let (quantity, orders) = now;
                tell(LevelNow { instrument: (place >> 1) as u16, side, price, quantity, orders });
            }
        }
        self.changes.clear();
        self.sorted.clear();
        for &level in &self.emptied {
            self.levels.give_back(level);
        }
        self.emptied.clear();
    }
}
