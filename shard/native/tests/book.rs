//! The book against a naive one: the same orders in the same places after every step, and every change told once.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use _matching::book::{Book, NewOrder, Orders, OwnOrders};
use _matching::domain::{SelfTrade, Side, TimeInForce};

const SIDES: [Side; 2] = [Side::Buy, Side::Sell];

/// One instrument's book, and what it must be: per side and price the orders with their leaves, oldest first.
struct Stage {
    orders: Orders,
    book: Book,
    own: OwnOrders,
    naive: [BTreeMap<i64, Vec<(u32, i64)>>; 2],
    records: i64,
}

impl Stage {
    fn new() -> Self {
        let naive = [BTreeMap::new(), BTreeMap::new()];
        let mut orders = Orders::with_capacity(100);
        orders.begin(1);
        Self { orders, book: Book::default(), own: OwnOrders::EMPTY, naive, records: 1 }
    }

    fn rest(&mut self, side: Side, price: i64, leaves: i64) -> u32 {
        let order = self.orders.open(
            NewOrder {
                quantity: leaves,
                leaves,
                expire_ns: 0,
                account: 0,
                holding: 0,
                entry: 0,
                instrument: 7,
                side,
                time_in_force: TimeInForce::Gtc,
                flags: 0,
                self_trade: SelfTrade::Newest,
            },
            &mut self.own,
        );
        self.orders.rest(&mut self.book, order, price);
        self.naive[side as usize].entry(price).or_default().push((order, leaves));
        order
    }

    fn leave(&mut self, order: u32) {
        let (side, price) = (self.orders.get(order).side, self.orders.price(order));
        self.orders.leave(&mut self.book, order);
        self.orders.close(order, &mut self.own);
        let levels = &mut self.naive[side as usize];
        let level = levels.get_mut(&price).expect("the naive book has the level");
        level.retain(|&(other, _)| other != order);
        if level.is_empty() {
            levels.remove(&price);
        }
    }

    fn lower(&mut self, order: u32, by: i64) {
        let (side, price) = (self.orders.get(order).side, self.orders.price(order));
        self.orders.lower(&mut self.book, order, by);
        let level = self.naive[side as usize].get_mut(&price).expect("the naive book has the level");
        level.iter_mut().filter(|(other, _)| *other == order).for_each(|(_, leaves)| *leaves -= by);
    }

    /// (side, price, quantity, orders) of every level that the record at hand changed, ascending.
    fn settle(&mut self) -> Vec<(Side, i64, i64, u32)> {
        let mut told = Vec::new();
        self.orders.settle(|level| {
            assert_eq!(level.instrument, 7);
            told.push((level.side, level.price, level.quantity, level.orders));
        });
        self.records += 1;
        self.orders.begin(self.records);
        told
    }

    /// Price, quantity and orders of each level of the naive book.
    fn depth(&self, side: Side) -> BTreeMap<i64, (i64, u32)> {
        let sum = |level: &Vec<(u32, i64)>| (level.iter().map(|&(_, leaves)| leaves).sum(), level.len() as u32);
        self.naive[side as usize].iter().map(|(&price, level)| (price, sum(level))).collect()
    }

    fn check(&self) {
        for side in SIDES {
            let mut expected: Vec<_> = self.naive[side as usize].iter().collect();
            if side == Side::Buy {
                expected.reverse();
            }
            let levels: Vec<u32> = self.book.levels(side).collect();
            assert_eq!(levels.len(), expected.len());
            assert_eq!(self.book.best(side), levels.first().copied());
            for (&level, (&price, orders)) in levels.iter().zip(expected) {
                let there: Vec<(u32, i64)> =
                    self.orders.of_level(level).map(|order| (order, self.orders.get(order).leaves)).collect();
                assert_eq!((self.orders.level(level).price, &there), (price, orders));
                assert_eq!(self.orders.oldest(level), orders[0].0);
            }
            let total: i64 = self.depth(side).values().map(|&(quantity, _)| quantity).sum();
            assert_eq!(self.book.open_quantity(side), total);
        }
        assert_eq!(self.orders.of_owner(&self.own).count(), self.orders.count());
    }
}

#[test]
fn the_best_price_comes_first_and_in_it_the_oldest_order() {
    let mut stage = Stage::new();
    let orders: Vec<u32> = [99, 100, 98, 100].iter().map(|&price| stage.rest(Side::Buy, price, 5)).collect();
    stage.rest(Side::Sell, 103, 1);
    stage.rest(Side::Sell, 101, 1);
    stage.check();
    let best = stage.book.best(Side::Buy).expect("there are bids");
    assert_eq!(stage.orders.of_level(best).collect::<Vec<_>>(), [orders[1], orders[3]]);
    stage.leave(orders[1]);
    assert_eq!(stage.orders.oldest(best), orders[3]);
    stage.leave(orders[3]);
    stage.check();
    assert_eq!(stage.orders.price(stage.orders.oldest(stage.book.best(Side::Buy).expect("there are bids"))), 99);
}

#[test]
fn a_level_is_told_once_a_record_and_only_if_it_is_not_what_it_was() {
    let mut stage = Stage::new();
    let first = stage.rest(Side::Buy, 100, 5);
    let second = stage.rest(Side::Buy, 100, 7);
    stage.rest(Side::Sell, 102, 1);
    assert_eq!(stage.settle(), [(Side::Buy, 100, 12, 2), (Side::Sell, 102, 1, 1)]);
    stage.lower(first, 2);
    stage.lower(first, 1);
    assert_eq!(stage.settle(), [(Side::Buy, 100, 9, 2)]);
    assert_eq!(stage.settle(), []);

    let passing = stage.rest(Side::Buy, 101, 3);
    stage.leave(passing);
    assert_eq!(stage.settle(), [], "a level that came and went was never there");

    stage.leave(first);
    stage.leave(second);
    let third = stage.rest(Side::Buy, 100, 4);
    stage.rest(Side::Buy, 100, 5);
    assert_eq!(stage.settle(), [], "emptied and made anew with as much as before");
    stage.lower(third, 4);
    stage.leave(third);
    assert_eq!(stage.settle(), [(Side::Buy, 100, 5, 1)]);
}

#[test]
fn any_walk_leaves_the_book_as_a_naive_one_would_be() {
    let mut stage = Stage::new();
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut dice = |bound: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let mut live: Vec<u32> = Vec::new();
    let mut before = SIDES.map(|side| stage.depth(side));
    for step in 0..20_000 {
        match dice(5) {
            0 | 1 => {
                let side = SIDES[dice(2) as usize];
                live.push(stage.rest(side, dice(40) as i64, 1 + dice(9) as i64));
            }
            2 | 3 if !live.is_empty() => {
                let order = live.swap_remove(dice(live.len() as u64) as usize);
                stage.leave(order);
            }
            _ if !live.is_empty() => {
                let order = live[dice(live.len() as u64) as usize];
                let leaves = stage.orders.get(order).leaves;
                stage.lower(order, dice(leaves as u64) as i64);
            }
            _ => {}
        }
        if step % 7 == 0 {
            stage.check();
            let after = SIDES.map(|side| stage.depth(side));
            let mut expected = Vec::new();
            for side in SIDES {
                for price in 0..40 {
                    let at = |depth: &[BTreeMap<i64, (i64, u32)>; 2]| depth[side as usize].get(&price).copied();
                    if at(&before) != at(&after) {
                        let (quantity, orders) = at(&after).unwrap_or((0, 0));
                        expected.push((side, price, quantity, orders));
                    }
                }
            }
            assert_eq!(stage.settle(), expected);
            before = after;
        }
    }
    assert!(stage.orders.count() > 10);
}

#[test]
fn two_hundred_thousand_prices_of_a_hostile_customer_cost_a_search_each() {
    let mut stage = Stage::new();
    let orders: Vec<u32> = (0..200_000_i64).map(|n| stage.rest(Side::Sell, n * 7_919 % 200_003, 1)).collect();
    let best = stage.book.best(Side::Sell).expect("there are asks");
    assert_eq!(stage.orders.level(best).price, 0);
    assert_eq!(stage.settle().len(), 200_000);
    orders.into_iter().rev().for_each(|order| stage.leave(order));
    assert_eq!(stage.orders.count(), 0);
    assert_eq!(stage.book.best(Side::Sell), None);
}
