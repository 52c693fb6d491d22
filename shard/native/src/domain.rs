//! The words and numbers of the exchange; `exchange/domain.py` is the normative list.

/// Ceiling of prices and of quantities.
pub const AMOUNT_MAX: i64 = 1_000_000_000_000_000;
/// Ceiling of instants, position limits, positions and sums of open quantity: keeps every sum inside i64.
pub const SUM_MAX: i64 = 1 << 62;
/// Instruments are numbered below this.
pub const INSTRUMENTS_MAX: i64 = 1 << 13;
/// In a command that sweeps: every instrument of the shard.
pub const ALL_INSTRUMENTS: i64 = 65_535;
/// The lower bits of an order or trade id count within the instrument, the rest name it.
pub const COUNTER_BITS: u32 = 40;
/// Order and trade ids are below this.
pub const ORDER_ID_MAX: i64 = (1 << 53) - 1;
/// The only order flag: never take, only make.
pub const POST_ONLY: u8 = 1;

/// Order or trade id from the instrument and the counter within it.
pub fn compose_id(instrument: u16, counter: i64) -> i64 {
    assert!(counter < 1 << COUNTER_BITS, "instrument {instrument}: out of ids");
    i64::from(instrument) << COUNTER_BITS | counter
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$said:meta])* $word:ident = $number:literal),* $(,)? }) => {
        $(#[$doc])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs, reason = "the words say it")]
        pub enum $name { $($(#[$said])* $word = $number),* }

        impl $name {
            /// The word with this number.
            #[inline]
            pub fn of(number: i64) -> Option<Self> {
                match number {
                    $($number => Some(Self::$word),)*
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// Side of an order.
    Side { Buy = 0, Sell = 1 }
}

impl Side {
    /// The side that this one trades with.
    #[inline]
    pub fn opposite(self) -> Self {
        match self {
            Self::Buy => Self::Sell,
            Self::Sell => Self::Buy,
        }
    }

    /// Whether a taker of this side with limit `limit` trades with a maker at `price`.
    #[inline]
    pub fn reaches(self, limit: i64, price: i64) -> bool {
        match self {
            Self::Buy => price <= limit,
            Self::Sell => price >= limit,
        }
    }
}

words! {
    /// Kind of an order.
    Kind { Limit = 0, Market = 1 }
}

words! {
    /// How long an order may rest.
    TimeInForce { Gtc = 0, Ioc = 1, Fok = 2, Day = 3, Gtd = 4 }
}

impl TimeInForce {
    /// Whether what is left of such an order stays in the book.
    #[inline]
    pub fn rests(self) -> bool {
        matches!(self, Self::Gtc | Self::Day | Self::Gtd)
    }
}

words! {
    /// What happens when an order would trade with another order of its own account; the taker's mode governs.
    SelfTrade { Allowed = 0, Newest = 1, Oldest = 2, Both = 3, Decrement = 4 }
}

words! {
    /// Trading state of an instrument.
    State { Open = 0, CancelOnly = 1, Halt = 2, Closed = 3 }
}

words! {
    /// Life of an order.
    Status { New = 0, PartiallyFilled = 1, Filled = 2, Canceled = 3, Expired = 4, Rejected = 5, Voided = 6 }
}

words! {
    /// Kinds of row in the `orders` section of an event frame.
    OrderEvent { Accepted = 1, Rejected = 2, Reduced = 3, Replaced = 4, Cancelled = 5, Expired = 6 }
}

words! {
    /// How a Replace means its quantity.
    Basis { Leaves = 0, Total = 1 }
}

words! {
    /// Why a command had no effect, or why an order ended.
    Reject {
        None = 0, Expired = 2, CancelOnly = 3, Halt = 4, Closed = 5, QuantityMin = 6, QuantityMax = 7, LotSize = 8,
        PriceMin = 9, PriceMax = 10, TickSize = 11, PriceCollar = 12, PostOnlyWouldCross = 13, PositionLimit = 14,
        BookFull = 15, UnknownOrder = 16, SelfTrade = 17, FokUnfillable = 18, NoLiquidity = 19, IocRemainder = 20,
        GtdReached = 21, DayEnd = 22, User = 23, MassCancel = 24, DeadMan = 25, ExpireInPast = 26,
        InvalidCombination = 27, OpenOrdersLimit = 28, InstrumentConflict = 29, IdReused = 100, TooOld = 101,
        Voided = 102, WindowFull = 103, AccountsFull = 104, UnknownInstrument = 105,
    }
}

words! {
    /// What kind of command an entry of the window answers: the tag of the command.
    Op { Submit = 1, Replace = 3, Reduce = 4, Tombstone = 13 }
}

/// A broken rule: its code, the value that broke it and the rule's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the words say it")]
pub struct Broken {
    pub code: Reject,
    pub value: i64,
    pub bound: i64,
}

impl Broken {
    /// A rule with a number.
    pub fn new(code: Reject, value: i64, bound: i64) -> Self {
        Self { code, value, bound }
    }

    /// A rule without a number.
    pub fn plain(code: Reject) -> Self {
        Self::new(code, 0, 0)
    }
}

/// A short text kept in place: an account, client order id or symbol.
#[derive(Clone, Copy)]
pub struct Text<const MAX: usize> {
    length: u8,
    bytes: [u8; MAX],
}

impl<const MAX: usize> Text<MAX> {
    /// Keeps a text; its length was checked at the door.
    #[inline]
    pub fn new(text: &[u8]) -> Self {
        let mut bytes = [0; MAX];
        bytes[..text.len()].copy_from_slice(text);
        Self { length: text.len() as u8, bytes }
    }

    /// The text.
    #[inline]
    pub fn get(&self) -> &[u8] {
        &self.bytes[..self.length as usize]
    }

    /// The length of the text, and its bytes with what may be behind them: to be copied as a whole.
    #[inline]
    pub fn padded(&self) -> (usize, &[u8; MAX]) {
        (self.length as usize, &self.bytes)
    }
}

/// A client order id.
pub type ClientId = Text<36>;
/// Who gave an operator's command.
pub type Actor = Text<64>;
/// The name of an account.
pub type AccountName = Text<32>;
