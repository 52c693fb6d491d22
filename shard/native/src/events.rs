//! What a record leads to: replies and event rows, encoded as they happen (PROTOCOL 1.4, 1.5).

use crate::accounts::Holding;
use crate::book::LevelNow;
use crate::domain::{AccountName, Actor, ClientId, OrderEvent, Reject, Side, State, Status};
use crate::window::{Answer, Fill};
use crate::wire::{Row, Tape};

const FRAME_TAG: i64 = 1;

/// Where in the log something happens.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Moment {
    pub epoch: i64,
    pub seq: i64,
    pub ts_ns: i64,
}

/// A section of an event frame under construction.
struct Rows {
    count: usize,
    tape: Tape,
}

impl Rows {
    fn new() -> Self {
        Self { count: 0, tape: Tape::new() }
    }

    #[inline(always)]
    fn add(&mut self, write: impl FnOnce(&mut Row<'_>)) {
        self.count += 1;
        self.tape.write(write);
    }
}

/// Who an order is, for the rows about it.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of OrderRow and TradeRow")]
pub struct Party<'a> {
    pub order_id: i64,
    pub account: &'a AccountName,
    pub client_id: &'a ClientId,
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
    pub client_id: &'a ClientId,
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
    fn put(&self, out: &mut Tape) {
        out.write(|row| {
            row.array(16);
            row.int(self.order_id);
            row.text(self.client_id);
            row.int(i64::from(self.instrument));
            row.ints(self.words.map(i64::from));
            row.ints([self.price, self.quantity, self.filled, self.leaves]);
            row.ints([self.status as i64, self.reason as i64, self.created_ns, self.expire_ns]);
        });
    }
}

/// Replies and rows of the record at hand. Its buffers are used again and again.
pub struct Outcome {
    now: Moment,
    sub: i64,
    replies: Tape,
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
            replies: Tape::new(),
            reply_ends: Vec::new(),
            trades: Rows::new(),
            levels: Rows::new(),
            positions: Rows::new(),
            orders: Rows::new(),
            states: Rows::new(),
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
        self.reply_ends.push(u32::try_from(self.replies.get().len()).expect("outcome: replies beyond 4 GiB"));
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
                self.replies.write(|row| {
                    put_reply(row, 11, 1, at);
                    row.bool(duplicate);
                    row.ints([order_id, status as i64, reason as i64, filled, remaining]);
                });
                put_fills(&mut self.replies, fills);
            }
            Answer::Rejected { code, value, bound, order_id } => self.replies.write(|row| {
                put_reply(row, 9, 2, at);
                row.bool(duplicate);
                row.ints([code as i64, value, bound, order_id]);
            }),
        }
    }

    /// Answer to QueryOrder.
    pub fn order(&mut self, info: &Info<'_>) {
        self.replies.write(|row| put_reply(row, 5, 3, self.now));
        info.put(&mut self.replies);
    }

    /// Answer to QueryOpen.
    pub fn open_orders<'i>(&mut self, infos: impl ExactSizeIterator<Item = Info<'i>>, more: bool) {
        self.replies.write(|row| {
            put_reply(row, 6, 4, self.now);
            row.array(infos.len());
        });
        infos.for_each(|info| info.put(&mut self.replies));
        self.replies.write(|row| row.bool(more));
    }

    /// Answer to MassCancel.
    pub fn swept(&mut self, count: usize) {
        self.replies.write(|row| {
            put_reply(row, 5, 5, self.now);
            row.int(count as i64);
        });
    }

    /// Answer of a command that has nothing else to tell.
    pub fn done(&mut self) {
        self.replies.write(|row| put_reply(row, 4, 6, self.now));
    }

    /// The number of the next row within its command.
    #[inline]
    fn next_sub(&mut self) -> i64 {
        self.sub += 1;
        self.sub - 1
    }

    /// A trade.
    #[inline]
    pub fn trade(&mut self, fill: Fill, taker_side: Side, taker: Party<'_>, maker: Party<'_>) {
        let (seq, sub) = (self.now.seq, self.next_sub());
        self.trades.add(|row| {
            row.array(14);
            row.ints([seq, sub, fill.trade_id, fill.price, fill.quantity]);
            row.ints([taker_side as i64, taker.order_id, maker.order_id]);
            row.text(taker.account);
            row.text(maker.account);
            row.text(taker.client_id);
            row.text(maker.client_id);
            row.ints([taker.leaves, maker.leaves]);
        });
    }

    /// A step in an order's life.
    #[inline]
    pub fn step(&mut self, step: &Step<'_>) {
        let (seq, sub) = (self.now.seq, self.next_sub());
        self.orders.add(|row| {
            row.array(11);
            row.ints([seq, sub, step.kind as i64, step.party.order_id]);
            row.text(step.party.account);
            row.text(step.party.client_id);
            row.ints([step.side as i64, step.price, step.quantity, step.party.leaves, step.reason as i64]);
        });
    }

    /// A trading state that was entered.
    pub fn state(&mut self, instrument: u16, state: State, actor: &Actor) {
        let (seq, sub) = (self.now.seq, self.next_sub());
        self.states.add(|row| {
            row.array(5);
            row.ints([seq, sub, i64::from(instrument), state as i64]);
            row.text(actor);
        });
    }

    /// A state row of an image.
    pub fn image_state(&mut self, seq: i64, instrument: u16, state: State) {
        self.begin(Moment { seq, ..self.now });
        self.state(instrument, state, &Actor::new(b""));
    }

    /// A level as it stands.
    #[inline]
    pub fn level(&mut self, level: &LevelNow) {
        self.levels.add(|row| {
            row.array(5);
            row.ints([i64::from(level.instrument), level.side as i64, level.price, level.quantity]);
            row.int(i64::from(level.orders));
        });
    }

    /// A holding as it stands.
    #[inline]
    pub fn position(&mut self, account: &AccountName, holding: &Holding) {
        self.positions.add(|row| {
            row.array(5);
            row.text(account);
            row.ints([i64::from(holding.instrument), holding.position, holding.open[0], holding.open[1]]);
        });
    }

    /// Appends the event frame to the outcome and empties the sections.
    fn put_frame(&mut self, epoch: i64, first_seq: i64, last_seq: i64, ts_ns: i64) {
        let mut tape = Tape::new();
        tape.write(|row| {
            row.array(10);
            row.ints([FRAME_TAG, epoch, first_seq, last_seq, ts_ns]);
        });
        self.bytes.extend_from_slice(tape.get());
        for section in [&mut self.trades, &mut self.levels, &mut self.positions, &mut self.orders, &mut self.states] {
            tape.clear();
            tape.array(section.count);
            self.bytes.extend_from_slice(tape.get());
            self.bytes.extend_from_slice(section.tape.get());
            section.tape.clear();
            section.count = 0;
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
        self.bytes.extend_from_slice(self.replies.get());
        self.replies.clear();
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

/// What every reply starts with.
#[inline(always)]
fn put_reply(row: &mut Row<'_>, elements: usize, tag: i64, at: Moment) {
    row.array(elements);
    row.ints([tag, at.epoch, at.seq, at.ts_ns]);
}

/// Appends the fills of an answer.
#[inline]
pub fn put_fills<'f>(out: &mut Tape, fills: impl Iterator<Item = &'f Fill> + Clone) {
    out.array(fills.clone().count());
    for fill in fills {
        out.array_of([fill.trade_id, fill.price, fill.quantity]);
    }
}
