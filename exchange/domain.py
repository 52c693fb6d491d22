"""The words of the exchange: sides, states, reject codes, identities and the integer domain.

Laws
    Money is whole numbers. A price is a count of price units (10^-price_decimals of the quote currency), a
    quantity a count of quantity units (10^-quantity_decimals of the base). Decimal text exists only at the edge.
    An order id names its instrument, so a cancel is routed without a look-up and an id survives a symbol's move.
    Instants are nanoseconds since the Unix epoch, as stamped into the journal record by the primary.
"""

from enum import IntEnum, IntFlag
from typing import NewType

OrderId = NewType("OrderId", int)
TradeId = NewType("TradeId", int)
Sequence = NewType("Sequence", int)
Epoch = NewType("Epoch", int)
Instant = NewType("Instant", int)

NS_PER_US = 1_000
NS_PER_MS = 1_000_000
NS_PER_S = 1_000_000_000

ORDER_COUNTER_BITS = 40
INSTRUMENT_BITS = 13
INSTRUMENTS_MAX = 1 << INSTRUMENT_BITS
ALL_INSTRUMENTS = 65_535
"""In a command that sweeps: every instrument of the shard."""

PRICE_MAX = 10**15
QUANTITY_MAX = 10**15
OPEN_QUANTITY_MAX = 1 << 62
"""Ceiling of the sum of open quantity on one side of one book, and of any position: keeps every sum inside i64."""
CLIENT_ORDER_ID_MAX = 36
ACCOUNT_MAX = 32


class Side(IntEnum):
    BUY = 0
    SELL = 1


class Kind(IntEnum):
    LIMIT = 0
    MARKET = 1


class TimeInForce(IntEnum):
    GTC = 0
    IOC = 1
    FOK = 2
    DAY = 3
    GTD = 4


class Flag(IntFlag):
    POST_ONLY = 1


class SelfTrade(IntEnum):
    """What happens when an order would trade with another order of its own account; the taker's mode governs."""

    NONE = 0
    NEWEST = 1
    OLDEST = 2
    BOTH = 3
    DECREMENT = 4


class State(IntEnum):
    """Trading state of one instrument. A change is a logged command."""

    OPEN = 0
    CANCEL_ONLY = 1
    HALT = 2
    CLOSED = 3


class Status(IntEnum):
    """Life of an order. NEW and PARTIALLY_FILLED are open, the rest is final."""

    NEW = 0
    PARTIALLY_FILLED = 1
    FILLED = 2
    CANCELED = 3
    EXPIRED = 4
    REJECTED = 5
    VOIDED = 6


class OrderEvent(IntEnum):
    """Kinds of row in the `orders` section of an event frame."""

    ACCEPTED = 1
    REJECTED = 2
    REDUCED = 3
    REPLACED = 4
    CANCELLED = 5
    EXPIRED = 6


class QuantityBasis(IntEnum):
    """How a Replace means its quantity: what is still open, or the order's total including what is filled."""

    LEAVES = 0
    TOTAL = 1


class Reject(IntEnum):
    """Why a command had no effect, or why an order ended. Stable numbers: they stand in journals.

    1-99 a rule of the market or of risk, recorded as the final answer under the client order id;
    100-199 said before the book: the id is not used up.
    """

    NONE = 0
    EXPIRED = 2
    CANCEL_ONLY = 3
    HALT = 4
    CLOSED = 5
    QUANTITY_MIN = 6
    QUANTITY_MAX = 7
    LOT_SIZE = 8
    PRICE_MIN = 9
    PRICE_MAX = 10
    TICK_SIZE = 11
    PRICE_COLLAR = 12
    POST_ONLY_WOULD_CROSS = 13
    POSITION_LIMIT = 14
    BOOK_FULL = 15
    UNKNOWN_ORDER = 16
    SELF_TRADE = 17
    FOK_UNFILLABLE = 18
    NO_LIQUIDITY = 19
    IOC_REMAINDER = 20
    GTD_REACHED = 21
    DAY_END = 22
    USER = 23
    MASS_CANCEL = 24
    DEAD_MAN = 25
    EXPIRE_IN_PAST = 26
    INVALID_COMBINATION = 27
    OPEN_ORDERS_LIMIT = 28
    INSTRUMENT_CONFLICT = 29
    ID_REUSED = 100
    TOO_OLD = 101
    VOIDED = 102
    WINDOW_FULL = 103
    ACCOUNTS_FULL = 104
    UNKNOWN_INSTRUMENT = 105


def instrument_of(id_: int) -> int:
    """Index of the instrument that an order id or trade id names."""
    return id_ >> ORDER_COUNTER_BITS


def compose_id(instrument: int, counter: int) -> int:
    """Order or trade id from instrument index and the counter within it; stays below 2^53."""
    return instrument << ORDER_COUNTER_BITS | counter
