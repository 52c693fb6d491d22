//! What a record leads to: replies and event rows, encoded as they happen (PROTOCOL 1.4, 1.5).

use crate::accounts::Holding;
use crate::book::LevelNow;
use crate::domain::{OrderEvent, Reject, Side, State, Status};
use crate::window::{Answer, Fill};
use crate::wire::{put_array, put_bool, put_int, put_text, put_unsigned};

/// Where in the log something happens.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Moment {
    pub epoch: i64,
    pub seq: i64,
    pub ts_ns: i64,
}

/// A section of an event frame under construction.
#[derive(Default)]
struct Rows {
    count: usize,
    bytes: Vec<u8>,
}

impl Rows {
    #[inline]
    fn row(&mut self, elements: usize) -> &mut Vec<u8> {
        self.count += 1;
        put_array(&mut self.bytes, elements);
        &mut self.bytes
    }

    fn move_to(&mut self, out: &mut Vec<u8>) {
        put_array(out, self.count);
        out.extend_from_slice(&self.bytes);
        self.bytes.clear();
        self.count = 0;
    }
}

/// Who an order is, for the rows about it.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of OrderRow and TradeRow")]
pub struct Party<'a> {
    pub order_id: i64,
    pub account: &'a [u8],
    pub client_id: &'a [u8],
    pub leaves: i64,
}

/// One step in an order's life; `party.leaves` are those after it.
#[allow(missing_docs, reason = "the fields of OrderRow")]
pub struct Step<'a> {
    pub kind: OrderEvent,
    pub party: Party<'a>,
    pub side: Side,
    pub price: i64,
    pub quantity: i64,
    pub reason: Reject,
}

/// One order as QueryOrder and QueryOpen tell it.
#[allow(missing_docs, reason = "the fields of OrderInfo")]
pub struct Info<'a> {
    pub order_id: i64,
    pub client_id: &'a [u8],
    pub instrument: u16,
    pub words: [u8; 5],
    pub price: i64,
    pub quantity: i64,
    pub filled: i64,
    pub leaves: i64,
    pub status: Status,
    pub reason: Reject,
    pub created_ns: i64,
    pub expire_ns: i64,
}

impl Info<'_> {
    fn put(&self, out: &mut Vec<u8>) {
        put_array(out, 16);
        put_int(out, self.order_id);
        put_text(out, self.client_id);
        put_unsigned(out, u64::from(self.instrument));
        for word in self.words {
            put_unsigned(out, u64::from(word));
        }
        for number in [self.price, self.quantity, self.filled, self.leaves] {
            put_int(out, number);
        }
        put_int(out, self.status as i64);
        put_int(out, self.reason as i64);
        put_int(out, self.created_ns);
        put_int(out, self.expire_ns);
    }
}

/// Replies and rows of the record at hand. Its buffers are used again and again.
pub struct Outcome {
    now: Moment,
    sub: i64,
    replies: Vec<u8>,
    reply_ends: Vec<u32>,
    trades: Rows,
    levels: Rows,
    positions: Rows,
    orders: Rows,
    states: Rows,
    bytes: Vec<u8>,
}

impl Outcome {
    /// An empty outcome.
    pub fn new() -> Self {
        Self {
            now: Moment { epoch: 0, seq: 0, ts_ns: 0 },
            sub: 0,
            replies: Vec::new(),
            reply_ends: Vec::new(),
            trades: Rows::default(),
            levels: Rows::default(),
            positions: Rows::default(),
            orders: Rows::default(),
            states: Rows::default(),
            bytes: Vec::new(),
        }
    }

    /// Starts a command.
    pub fn begin(&mut self, now: Moment) {
        self.now = now;
        self.sub = 0;
    }

    /// Ends a command: its reply is whole.
    pub fn end(&mut self) {
        self.reply_ends.push(u32::try_from(self.replies.len()).expect("outcome: replies beyond 4 GiB"));
    }

    #[inline]
    fn reply(&mut self, elements: usize, tag: u8, at: Moment) -> &mut Vec<u8> {
        let out = &mut self.replies;
        put_array(out, elements);
        out.push(tag);
        put_int(out, at.epoch);
        put_int(out, at.seq);
        put_int(out, at.ts_ns);
        out
    }

    /// Executed or Rejected, given at a moment that is past when `duplicate`.
    #[inline]
    pub fn answer<'f>(
        &mut self,
        at: Moment,
        duplicate: bool,
        answer: Answer,
        fills: impl Iterator<Item = &'f Fill> + Clone,
    ) {
        match answer {
            Answer::Executed { order_id, status, reason, filled, remaining } => {
                let out = self.reply(11, 1, at);
                put_bool(out, duplicate);
                put_int(out, order_id);
                put_int(out, status as i64);
                put_int(out, reason as i64);
                put_int(out, filled);
                put_int(out, remaining);
                put_fills(out, fills);
            }
            Answer::Rejected { code, value, bound, order_id } => {
                let out = self.reply(9, 2, at);
                put_bool(out, duplicate);
                put_int(out, code as i64);
                put_int(out, value);
                put_int(out, bound);
                put_int(out, order_id);
            }
        }
    }

    /// Answer to QueryOrder.
    pub fn order(&mut self, info: &Info<'_>) {
        info.put(self.reply(5, 3, self.now));
    }

    /// Answer to QueryOpen.
    pub fn open_orders<'i>(&mut self, infos: impl ExactSizeIterator<Item = Info<'i>>, more: bool) {
        let out = self.reply(6, 4, self.now);
        put_array(out, infos.len());
        infos.for_each(|info| info.put(out));
        put_bool(out, more);
    }

    /// Answer to MassCancel.
    pub fn swept(&mut self, count: usize) {
        put_unsigned(self.reply(5, 5, self.now), count as u64);
    }

    /// Answer of a command that has nothing else to tell.
    pub fn done(&mut self) {
        self.reply(4, 6, self.now);
    }

    /// Starts a row of seq and sub.
    #[inline]
    fn row(now: Moment, sub: &mut i64, rows: &mut Rows, elements: usize) {
        let out = rows.row(elements);
        put_int(out, now.seq);
        put_int(out, *sub);
        *sub += 1;
    }

    /// A trade.
    #[inline]
    pub fn trade(&mut self, fill: Fill, taker_side: Side, taker: Party<'_>, maker: Party<'_>) {
        Self::row(self.now, &mut self.sub, &mut self.trades, 14);
        let out = &mut self.trades.bytes;
        put_int(out, fill.trade_id);
        put_int(out, fill.price);
        put_int(out, fill.quantity);
        put_int(out, taker_side as i64);
        put_int(out, taker.order_id);
        put_int(out, maker.order_id);
        for text in [taker.account, maker.account, taker.client_id, maker.client_id] {
            put_text(out, text);
        }
        put_int(out, taker.leaves);
        put_int(out, maker.leaves);
    }

    /// A step in an order's life.
    #[inline]
    pub fn step(&mut self, step: &Step<'_>) {
        Self::row(self.now, &mut self.sub, &mut self.orders, 11);
        let out = &mut self.orders.bytes;
        put_int(out, step.kind as i64);
        put_int(out, step.party.order_id);
        put_text(out, step.party.account);
        put_text(out, step.party.client_id);
        put_int(out, step.side as i64);
        put_int(out, step.price);
        put_int(out, step.quantity);
        put_int(out, step.party.leaves);
        put_int(out, step.reason as i64);
    }

    /// A trading state that was entered.
    pub fn state(&mut self, instrument: u16, state: State, actor: &[u8]) {
        Self::row(self.now, &mut self.sub, &mut self.states, 5);
        self.put_state(instrument, state, actor);
    }

    fn put_state(&mut self, instrument: u16, state: State, actor: &[u8]) {
        let out = &mut self.states.bytes;
        put_unsigned(out, u64::from(instrument));
        put_int(out, state as i64);
        put_text(out, actor);
    }

    /// A state row of an image.
    pub fn image_state(&mut self, seq: i64, instrument: u16, state: State) {
        let out = self.states.row(5);
        put_int(out, seq);
        put_int(out, 0);
        self.put_state(instrument, state, b"");
    }

    /// A level as it stands.
    #[inline]
    pub fn level(&mut self, level: &LevelNow) {
        let out = self.levels.row(5);
        put_unsigned(out, u64::from(level.instrument));
        put_int(out, level.side as i64);
        put_int(out, level.price);
        put_int(out, level.quantity);
        put_unsigned(out, u64::from(level.orders));
    }

    /// A holding as it stands.
    #[inline]
    pub fn position(&mut self, account: &[u8], holding: &Holding) {
        let out = self.positions.row(5);
        put_text(out, account);
        put_unsigned(out, u64::from(holding.instrument));
        put_int(out, holding.position);
        put_int(out, holding.open[Side::Buy as usize]);
        put_int(out, holding.open[Side::Sell as usize]);
    }

    fn put_frame(&mut self, epoch: i64, first_seq: i64, last_seq: i64, ts_ns: i64) {
        let out = &mut self.bytes;
        put_array(out, 10);
        put_int(out, 1);
        for number in [epoch, first_seq, last_seq, ts_ns] {
            put_int(out, number);
        }
        for section in [&mut self.trades, &mut self.levels, &mut self.positions, &mut self.orders, &mut self.states] {
            section.move_to(out);
        }
    }

    /// Ends a record: the outcome of all its commands, good until the next record.
    pub fn finish(&mut self, first_seq: i64) -> &[u8] {
        let count = self.reply_ends.len();
        self.bytes.clear();
        self.bytes.extend_from_slice(&(count as u32).to_le_bytes());
        self.bytes.extend_from_slice(&[0; 4]);
        for end in self.reply_ends.drain(..) {
            self.bytes.extend_from_slice(&end.to_le_bytes());
        }
        self.bytes.append(&mut self.replies);
        let frame_at = self.bytes.len();
        self.put_frame(self.now.epoch, first_seq, self.now.seq, self.now.ts_ns);
        let frame_bytes = u32::try_from(self.bytes.len() - frame_at).expect("outcome: a frame beyond 4 GiB");
        self.bytes[4..8].copy_from_slice(&frame_bytes.to_le_bytes());
        &self.bytes
    }

    /// The frame of an image, from an outcome that was used for nothing else.
    pub fn into_image(mut self, at: Moment) -> Vec<u8> {
        self.put_frame(at.epoch, at.seq, at.seq, at.ts_ns);
        self.bytes
    }
}

/// Appends the fills of an answer.
pub fn put_fills<'f>(out: &mut Vec<u8>, fills: impl Iterator<Item = &'f Fill> + Clone) {
    put_array(out, fills.clone().count());
    for fill in fills {
        put_array(out, 3);
        put_int(out, fill.trade_id);
        put_int(out, fill.price);
        put_int(out, fill.quantity);
    }
}
