//! Commands: their static rules, and their form once these hold (PROTOCOL 1, `exchange/messages.py`).

use crate::domain::{
    ALL_INSTRUMENTS, AMOUNT_MAX, Actor, Basis, INSTRUMENTS_MAX, Kind, ORDER_ID_MAX, SUM_MAX, SelfTrade, Side, State,
    Text, TimeInForce,
};
use crate::text::{ACCOUNT, ACCOUNT_OR_EMPTY, ACTOR, CLIENT_ID, CLIENT_ID_OR_EMPTY, SYMBOL, TextRule};
use crate::wire::{Fault, Reader};

/// The bit of SetState in a mask of allowed tags: whoever has it may sweep everybody's orders.
const OPERATOR_BIT: u64 = 1 << 6;
/// The mask that allows every tag.
pub const EVERY_TAG: u64 = u64::MAX;

/// An instrument's rules, as commanded.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of DefineInstrument")]
pub struct Rules {
    pub symbol: Text<20>,
    pub tick: i64,
    pub lot: i64,
    pub quantity_min: i64,
    pub quantity_max: i64,
    pub price_min: i64,
    pub price_max: i64,
    pub collar_bps: i64,
    pub reference_price: i64,
    pub position_limit: i64,
}

/// How a command names an order: by id or, when that is 0, by the client order id of its Submit.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Target<'a> {
    pub account: &'a [u8],
    pub instrument: i64,
    pub order_id: i64,
    pub client_id: &'a [u8],
}

/// What of a request is about its own identity and age.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields say it")]
pub struct Request<'a> {
    pub client_id: &'a [u8],
    pub deadline_ns: i64,
    pub client_ns: i64,
}

/// Submit.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of exchange/messages.py")]
pub struct Submit<'a> {
    pub account: &'a [u8],
    pub instrument: u16,
    pub request: Request<'a>,
    pub side: Side,
    pub kind: Kind,
    pub time_in_force: TimeInForce,
    pub flags: u8,
    pub self_trade: SelfTrade,
    pub price: i64,
    pub quantity: i64,
    pub expire_ns: i64,
}

/// Replace.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of exchange/messages.py")]
pub struct Replace<'a> {
    pub target: Target<'a>,
    pub request: Request<'a>,
    pub price: i64,
    pub quantity: i64,
    pub basis: Basis,
}

/// Reduce.
#[derive(Clone, Copy)]
#[allow(missing_docs, reason = "the fields of exchange/messages.py")]
pub struct Reduce<'a> {
    pub target: Target<'a>,
    pub request: Request<'a>,
    pub quantity: i64,
}

/// A command whose static rules hold.
#[allow(missing_docs, reason = "the fields of exchange/messages.py")]
pub enum Command<'a> {
    Submit(Submit<'a>),
    Cancel { target: Target<'a>, deadline_ns: i64 },
    Replace(Replace<'a>),
    Reduce(Reduce<'a>),
    MassCancel { account: &'a [u8], instrument: i64 },
    SetState { instrument: i64, state: State, actor: Actor },
    DefineInstrument { index: u16, rules: Rules },
    SetPositionLimit { account: &'a [u8], instrument: u16, limit: i64 },
    Tick,
    EpochStart { epoch: i64 },
    QueryOrder { target: Target<'a> },
    QueryOpen { account: &'a [u8], instrument: i64, after_order_id: i64, limit: usize },
    Resolve { account: &'a [u8], instrument: u16, client_id: &'a [u8] },
    ArmDeadMan { account: &'a [u8], instrument: i64, timeout_ns: i64 },
}

/// The fields of one command, in their order.
struct Fields<'r, 'a> {
    reader: &'r mut Reader<'a>,
    /// How many of the trailing fields that may be left out are there and not yet read.
    optional: usize,
}

impl<'a> Fields<'_, 'a> {
    /// Any i64.
    #[inline(always)]
    fn any(&mut self, name: &str) -> Result<i64, Fault> {
        self.reader.int().map_err(|fault| fault.about(name))
    }

    #[inline(always)]
    fn within(&mut self, name: &str, low: i64, high: i64) -> Result<i64, Fault> {
        let number = self.any(name)?;
        if number < low || number > high {
            return Err(outside(name, number, low, high));
        }
        Ok(number)
    }

    #[inline(always)]
    fn word<W>(&mut self, name: &str, high: i64, of: impl Fn(i64) -> Option<W>) -> Result<W, Fault> {
        let number = self.any(name)?;
        of(number).ok_or_else(|| outside(name, number, 0, high))
    }

    /// An instant or a duration that may be left out.
    #[inline]
    fn instant(&mut self, name: &str) -> Result<i64, Fault> {
        if self.is_left_out() { Ok(0) } else { self.within(name, 0, SUM_MAX) }
    }

    /// Whether the next field, which may be left out, is.
    #[inline(always)]
    fn is_left_out(&mut self) -> bool {
        match self.optional {
            0 => true,
            _ => {
                self.optional -= 1;
                false
            }
        }
    }

    #[inline]
    fn text(&mut self, name: &str, rule: &TextRule) -> Result<&'a [u8], Fault> {
        let text = self.reader.text().map_err(|fault| fault.about(name))?;
        if rule.allows(text) { Ok(text) } else { Err(rule.refuse(name, text)) }
    }

    fn text_or_empty(&mut self, name: &str, rule: &TextRule) -> Result<&'a [u8], Fault> {
        if self.is_left_out() { Ok(b"") } else { self.text(name, rule) }
    }

    #[inline]
    fn instrument(&mut self) -> Result<u16, Fault> {
        Ok(self.within("instrument", 0, INSTRUMENTS_MAX - 1)? as u16)
    }

    fn instrument_or_all(&mut self) -> Result<i64, Fault> {
        match self.any("instrument")? {
            number if (0..INSTRUMENTS_MAX).contains(&number) || number == ALL_INSTRUMENTS => Ok(number),
            number => Err(Fault::new(format!(
                "instrument {number} is not one of 0..{} or {ALL_INSTRUMENTS}",
                INSTRUMENTS_MAX - 1
            ))),
        }
    }

    fn order_id(&mut self, name: &str) -> Result<i64, Fault> {
        self.within(name, 0, ORDER_ID_MAX)
    }
}

#[cold]
fn outside(name: &str, number: i64, low: i64, high: i64) -> Fault {
    Fault::new(format!("{name} {number} is not one of {low}..{high}"))
}

/// Name, least and greatest number of fields of a tag, the tag itself not counted.
fn shape(tag: i64) -> Option<(&'static str, usize, usize)> {
    Some(match tag {
        1 => ("Submit", 10, 13),
        2 => ("Cancel", 3, 5),
        3 => ("Replace", 8, 10),
        4 => ("Reduce", 6, 8),
        5 => ("MassCancel", 1, 2),
        6 => ("SetState", 3, 3),
        7 => ("DefineInstrument", 11, 11),
        8 => ("SetPositionLimit", 4, 4),
        9 => ("Tick", 0, 0),
        10 => ("EpochStart", 3, 3),
        11 => ("QueryOrder", 3, 4),
        12 => ("QueryOpen", 1, 4),
        13 => ("Resolve", 3, 3),
        14 => ("ArmDeadMan", 3, 3),
        _ => return None,
    })
}

impl<'a> Command<'a> {
    /// Reads one command whose tag is in the bit mask `allowed` and checks all that does not depend on state.
    #[inline]
    pub fn read(reader: &mut Reader<'a>, allowed: u64) -> Result<Self, Fault> {
        let elements = reader.array()?;
        if elements == 0 {
            return Err(Fault::new("an empty array is not a command"));
        }
        let tag = reader.int().map_err(|fault| fault.about("tag"))?;
        let left = elements - 1;
        let (name, least, most) = shape(tag).ok_or_else(|| Fault::new(format!("tag {tag} is not one of 1..14")))?;
        if allowed >> tag & 1 == 0 {
            return Err(Fault::new(format!("tag {tag} ({name}) is not allowed here")));
        }
        if !(least..=most).contains(&left) {
            return Err(Fault::new(format!("{name} with {left} fields is not one of {least} to {most}")));
        }
        let mut fields = Fields { reader, optional: left - least };
        match tag {
            1 => Self::submit(&mut fields),
            2 => Self::cancel(&mut fields),
            3 => Self::replace(&mut fields),
            4 => Self::reduce(&mut fields),
            _ => Self::rare(&mut fields, tag, allowed),
        }
    }

    #[inline]
    fn submit(fields: &mut Fields<'_, 'a>) -> Result<Self, Fault> {
        let account = fields.text("account", &ACCOUNT)?;
        let client_id = fields.text("client_order_id", &CLIENT_ID)?;
        let instrument = fields.instrument()?;
        let side = fields.word("side", 1, Side::of)?;
        let kind = fields.word("kind", 1, Kind::of)?;
        let time_in_force = fields.word("time_in_force", 4, TimeInForce::of)?;
        let flags = fields.within("flags", 0, 1)? as u8;
        let self_trade = fields.word("self_trade", 4, SelfTrade::of)?;
        let price = fields.any("price")?;
        let quantity = fields.any("quantity")?;
        let expire_ns = fields.instant("expire_ns")?;
        let request = Self::request(fields, client_id)?;
        Ok(Self::Submit(Submit {
            account,
            instrument,
            request,
            side,
            kind,
            time_in_force,
            flags,
            self_trade,
            price,
            quantity,
            expire_ns,
        }))
    }

    #[inline]
    fn request(fields: &mut Fields<'_, 'a>, client_id: &'a [u8]) -> Result<Request<'a>, Fault> {
        let deadline_ns = fields.instant("deadline_ns")?;
        let client_ns = fields.instant("client_ns")?;
        Ok(Request { client_id, deadline_ns, client_ns })
    }

    #[inline]
    fn cancel(fields: &mut Fields<'_, 'a>) -> Result<Self, Fault> {
        let account = fields.text("account", &ACCOUNT)?;
        let instrument = i64::from(fields.instrument()?);
        let order_id = fields.order_id("order_id")?;
        let client_id = fields.text_or_empty("target_id", &CLIENT_ID_OR_EMPTY)?;
        let deadline_ns = fields.instant("deadline_ns")?;
        Ok(Self::Cancel { target: Target { account, instrument, order_id, client_id }, deadline_ns })
    }

    /// The fields that Replace and Reduce start with: whose order, under which own id.
    #[inline]
    fn change(fields: &mut Fields<'_, 'a>) -> Result<(&'a [u8], Target<'a>), Fault> {
        let account = fields.text("account", &ACCOUNT)?;
        let own_id = fields.text("client_order_id", &CLIENT_ID_OR_EMPTY)?;
        let instrument = i64::from(fields.instrument()?);
        let order_id = fields.order_id("order_id")?;
        let client_id = fields.text("target_id", &CLIENT_ID_OR_EMPTY)?;
        Ok((own_id, Target { account, instrument, order_id, client_id }))
    }

    #[inline]
    fn replace(fields: &mut Fields<'_, 'a>) -> Result<Self, Fault> {
        let (own_id, target) = Self::change(fields)?;
        let price = fields.any("price")?;
        let quantity = fields.any("quantity")?;
        let basis = fields.word("basis", 1, Basis::of)?;
        let request = Self::request(fields, own_id)?;
        Ok(Self::Replace(Replace { target, request, price, quantity, basis }))
    }

    #[inline]
    fn reduce(fields: &mut Fields<'_, 'a>) -> Result<Self, Fault> {
        let (own_id, target) = Self::change(fields)?;
        let quantity = fields.any("quantity")?;
        let request = Self::request(fields, own_id)?;
        Ok(Self::Reduce(Reduce { target, request, quantity }))
    }

    fn rare(fields: &mut Fields<'_, 'a>, tag: i64, allowed: u64) -> Result<Self, Fault> {
        match tag {
            5 => {
                let account = fields.text("account", &ACCOUNT_OR_EMPTY)?;
                if account.is_empty() && allowed & OPERATOR_BIT == 0 {
                    return Err(Fault::new("account '' (everybody) is for operators only"));
                }
                let instrument = if fields.is_left_out() { ALL_INSTRUMENTS } else { fields.instrument_or_all()? };
                Ok(Self::MassCancel { account, instrument })
            }
            6 => {
                let instrument = fields.instrument_or_all()?;
                let state = fields.word("state", 3, State::of)?;
                Ok(Self::SetState { instrument, state, actor: Actor::new(fields.text("actor", &ACTOR)?) })
            }
            7 => {
                let index = fields.within("index", 0, INSTRUMENTS_MAX - 1)? as u16;
                Ok(Self::DefineInstrument { index, rules: Self::rules(fields)? })
            }
            8 => {
                let account = fields.text("account", &ACCOUNT)?;
                let instrument = fields.instrument()?;
                let limit = fields.within("limit", -1, SUM_MAX)?;
                fields.text("actor", &ACTOR)?;
                Ok(Self::SetPositionLimit { account, instrument, limit })
            }
            9 => Ok(Self::Tick),
            10 => {
                let epoch = fields.within("epoch", 0, i64::from(u32::MAX))?;
                fields.text("node", &ACTOR)?;
                fields.any("incarnation")?;
                Ok(Self::EpochStart { epoch })
            }
            11 => {
                let account = fields.text("account", &ACCOUNT)?;
                let instrument = fields.instrument_or_all()?;
                let order_id = fields.order_id("order_id")?;
                let client_id = fields.text_or_empty("target_id", &CLIENT_ID_OR_EMPTY)?;
                Ok(Self::QueryOrder { target: Target { account, instrument, order_id, client_id } })
            }
            12 => {
                let account = fields.text("account", &ACCOUNT)?;
                let instrument = if fields.is_left_out() { ALL_INSTRUMENTS } else { fields.instrument_or_all()? };
                let after_order_id = if fields.is_left_out() { 0 } else { fields.order_id("after_order_id")? };
                let limit = if fields.is_left_out() { 1000 } else { fields.within("limit", 1, 1000)? } as usize;
                Ok(Self::QueryOpen { account, instrument, after_order_id, limit })
            }
            13 => {
                let account = fields.text("account", &ACCOUNT)?;
                let instrument = fields.instrument()?;
                Ok(Self::Resolve { account, instrument, client_id: fields.text("client_order_id", &CLIENT_ID)? })
            }
            _ => {
                let account = fields.text("account", &ACCOUNT)?;
                let instrument = fields.instrument_or_all()?;
                Ok(Self::ArmDeadMan { account, instrument, timeout_ns: fields.within("timeout_ns", 0, SUM_MAX)? })
            }
        }
    }

    fn rules(fields: &mut Fields<'_, 'a>) -> Result<Rules, Fault> {
        let symbol = Text::new(fields.text("symbol", &SYMBOL)?);
        let tick = fields.within("tick", 1, AMOUNT_MAX)?;
        let lot = fields.within("lot", 1, AMOUNT_MAX)?;
        let quantity_min = fields.within("quantity_min", 1, AMOUNT_MAX)?;
        let quantity_max = fields.within("quantity_max", quantity_min, AMOUNT_MAX)?;
        let price_min = fields.within("price_min", 0, AMOUNT_MAX)?;
        let price_max = fields.within("price_max", price_min, AMOUNT_MAX)?;
        let collar_bps = fields.within("collar_bps", 0, 10_000)?;
        let reference_price = fields.within("reference_price", 0, AMOUNT_MAX)?;
        let position_limit = fields.within("position_limit", -1, SUM_MAX)?;
        Ok(Rules {
            symbol,
            tick,
            lot,
            quantity_min,
            quantity_max,
            price_min,
            price_max,
            collar_bps,
            reference_price,
            position_limit,
        })
    }
}

/// Reads an instrument's rules where a snapshot keeps them: in the order and under the laws of DefineInstrument.
pub fn read_rules(reader: &mut Reader<'_>) -> Result<Rules, Fault> {
    Command::rules(&mut Fields { reader, optional: 0 })
}

/// Checks a MessagePack array of commands whose tags are in the bit mask `allowed`; how many there are.
pub fn admit(payload: &[u8], allowed: u64) -> Result<usize, Fault> {
    let mut reader = Reader::new(payload);
    let count = reader.array().map_err(|fault| fault.about("commands"))?;
    for number in 0..count {
        Command::read(&mut reader, allowed).map_err(|fault| fault.about(format_args!("command {number}")))?;
    }
    reader.finish().map_err(|fault| fault.about("commands"))?;
    Ok(count)
}

/// The 64-bit hash under which two requests are the same (PROTOCOL 1.2): multiplicative hashing by the golden ratio
/// (Knuth, TAOCP 3, 6.4), chained, with the upper half folded into the lower.
fn fold(words: &[i64]) -> u64 {
    words.iter().fold(0, |state, &word| {
        let mixed = (state ^ word as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        mixed ^ mixed >> 32
    })
}

impl Submit<'_> {
    /// See `fold`.
    pub fn hash(&self) -> u64 {
        let word = 1 << 48
            | i64::from(self.instrument) << 32
            | (self.side as i64) << 24
            | (self.kind as i64) << 20
            | (self.time_in_force as i64) << 16
            | i64::from(self.flags) << 8
            | self.self_trade as i64;
        fold(&[word, self.price, self.quantity, self.expire_ns])
    }
}

impl Target<'_> {
    fn number(&self) -> i64 {
        if self.order_id != 0 { self.order_id } else { i64::from(crc32fast::hash(self.client_id)) }
    }
}

impl Replace<'_> {
    /// See `fold`.
    pub fn hash(&self) -> u64 {
        let word = 3 << 48 | self.target.instrument << 32 | self.basis as i64;
        fold(&[word, self.target.number(), self.price, self.quantity])
    }
}

impl Reduce<'_> {
    /// See `fold`.
    pub fn hash(&self) -> u64 {
        fold(&[4 << 48 | self.target.instrument << 32, self.target.number(), self.quantity])
    }
}
