//! The book alone: operations per second of a mixed flow, as one line of JSON.
//!
//! 55 % limit orders around the mid (about a fifth of them trade), 40 % cancels of a random live order, 5 % market
//! orders, over four instruments; operations are drawn before the clock starts.
//!
//! `cargo run --release --no-default-features --example book_bench`

#![forbid(unsafe_code)]

use std::time::Instant;

use _matching::book::{Book, NewOrder, Orders, OwnOrders};
use _matching::domain::{SelfTrade, Side, TimeInForce};

const OPERATIONS: usize = 1_000_000;
const RUNS: usize = 7;
const INSTRUMENTS: u64 = 4;
/// Operations after which changed levels are told, as at the end of a record.
const RECORD: usize = 64;

enum Operation {
    Limit {
        instrument: usize,
        side: Side,
        price: i64,
        quantity: i64,
    },
    Market {
        instrument: usize,
        side: Side,
        quantity: i64,
    },
    /// The live order at this fraction of all live orders.
    Cancel {
        draw: u64,
    },
}

/// xorshift64* (Vigna): a benchmark needs the same dice every time, not good ones.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn draw_operations() -> Vec<Operation> {
    let mut dice = Dice(0x1234_5678_9ABC_DEF1);
    let mut draw = || {
        let instrument = dice.below(INSTRUMENTS) as usize;
        let side = if dice.below(2) == 0 { Side::Buy } else { Side::Sell };
        let quantity = 1 + dice.below(100) as i64;
        match dice.below(100) {
            0..55 => {
                // Four dice make a hill; its foot reaches over the mid.
                let distance = (0..4).map(|_| dice.below(50) as i64).sum::<i64>() - 65;
                let price = if side == Side::Buy { 10_000 - distance } else { 10_000 + distance };
                Operation::Limit { instrument, side, price, quantity }
            }
            55..95 => Operation::Cancel { draw: dice.next() },
            _ => Operation::Market { instrument, side, quantity },
        }
    };
    (0..OPERATIONS).map(|_| draw()).collect()
}

/// The book, and which of its orders live: slots in a list, and where in the list each slot stands.
struct Venue {
    orders: Orders,
    books: Vec<Book>,
    own: OwnOrders,
    live: Vec<u32>,
    place: Vec<u32>,
    trades: u64,
}

impl Venue {
    fn new() -> Self {
        let books = (0..INSTRUMENTS).map(|_| Book::default()).collect();
        let place = vec![0; OPERATIONS];
        Self { orders: Orders::with_capacity(OPERATIONS), books, own: OwnOrders::EMPTY, live: vec![], place, trades: 0 }
    }

    fn end(&mut self, instrument: usize, order: u32) {
        self.orders.leave(&mut self.books[instrument], order);
        self.orders.close(order, &mut self.own);
        let place = self.place[order as usize] as usize;
        self.live.swap_remove(place);
        if let Some(&moved) = self.live.get(place) {
            self.place[moved as usize] = place as u32;
        }
    }

    fn take(&mut self, instrument: usize, side: Side, reach: i64, mut leaves: i64) -> i64 {
        while leaves > 0 {
            let Some(level) = self.books[instrument].best(side.opposite()) else { break };
            if !side.reaches(reach, self.orders.level(level).price) {
                break;
            }
            let maker = self.orders.oldest(level);
            let quantity = leaves.min(self.orders.get(maker).leaves);
            self.orders.lower(&mut self.books[instrument], maker, quantity);
            leaves -= quantity;
            self.trades += 1;
            if self.orders.get(maker).leaves == 0 {
                self.end(instrument, maker);
            }
        }
        leaves
    }

    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Limit { instrument, side, price, quantity } => {
                let leaves = self.take(instrument, side, price, quantity);
                if leaves > 0 {
                    let new = NewOrder {
                        quantity,
                        leaves,
                        expire_ns: 0,
                        account: 0,
                        holding: 0,
                        entry: 0,
                        instrument: instrument as u16,
                        side,
                        time_in_force: TimeInForce::Gtc,
                        flags: 0,
                        self_trade: SelfTrade::Newest,
                    };
                    let order = self.orders.open(new, &mut self.own);
                    self.orders.rest(&mut self.books[instrument], order, price);
                    self.place[order as usize] = self.live.len() as u32;
                    self.live.push(order);
                }
            }
            Operation::Market { instrument, side, quantity } => {
                let reach = if side == Side::Buy { i64::MAX } else { i64::MIN };
                self.take(instrument, side, reach, quantity);
            }
            Operation::Cancel { draw } => {
                if !self.live.is_empty() {
                    let order = self.live[draw as usize % self.live.len()];
                    self.end(self.orders.get(order).instrument as usize, order);
                }
            }
        }
    }
}

fn main() {
    let operations = draw_operations();
    let mut rates = Vec::new();
    let mut told = 0;
    let mut venue = Venue::new();
    for _ in 0..RUNS {
        venue = Venue::new();
        let start = Instant::now();
        for (number, record) in operations.chunks(RECORD).enumerate() {
            venue.orders.begin(number as i64 + 1);
            record.iter().for_each(|operation| venue.run(operation));
            venue.orders.settle(|level| told += level.orders as usize);
        }
        rates.push((OPERATIONS as f64 / start.elapsed().as_secs_f64()).round() as u64);
    }
    let (trades, live) = (venue.trades, venue.live.len());
    println!(
        r#"{{"operations": {OPERATIONS}, "trades": {trades}, "live": {live}, "told": {told}, "rates": {rates:?}}}"#
    );
}
