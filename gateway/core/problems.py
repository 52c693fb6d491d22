"""Everything a gateway can say other than yes: one table of reasons, and the sentences for the engine's rejections.

Each outcome of an order is one of four: done, rejected (final), not executed (a retry is safe), unknown. The HTTP
status tells them apart: 4xx is final for this request, 503 certainly did not execute, 504 is unknown.
"""

from msgspec import Struct

from exchange.domain import NS_PER_S, Reject
from exchange.messages import Instrument, Rejected
from exchange.money import format_units


class Rule(Struct, frozen=True):
    """How one reason is shown. `code` is the number that trading clients know (0 = none)."""

    http: int
    code: int
    error: str

    @property
    def retryable(self) -> bool:
        """The same request, with the same client order id, may succeed later."""
        return self.http in (429, 503, 504)


class Problem(Struct, frozen=True):
    """A reason from RULES and a sentence: subject, rule, offending value. `wait_ns` > 0 becomes Retry-After."""

    reason: str
    detail: str
    wait_ns: int = 0

    @property
    def rule(self) -> Rule:
        return RULES[self.reason]

    @property
    def retry_after_s(self) -> int:
        """Whole seconds, at least 1."""
        return max(1, -(-self.wait_ns // NS_PER_S))


RULES: dict[str, Rule] = {
    "MALFORMED": Rule(400, -1100, "The request is malformed."),
    "INVALID_COMBINATION": Rule(400, -1106, "These order fields do not go together."),
    "UNKNOWN_INSTRUMENT": Rule(400, -1121, "Invalid symbol."),
    "NOT_FOUND": Rule(404, -1000, "There is nothing here."),
    "METHOD": Rule(405, -1000, "This method is not allowed here."),
    "TOO_LARGE": Rule(413, -1100, "The request is too large."),
    "TIMEOUT": Rule(408, -1100, "The request took too long to arrive."),
    "KEY": Rule(401, -2015, "An API key with a valid signature is needed."),
    "CLOCK": Rule(401, -1021, "Timestamp for this request is outside of the window."),
    "FORBIDDEN": Rule(403, -2015, "This key may not do that."),
    "RATE_LIMIT": Rule(429, -1003, "Too many requests."),
    "ORDER_LIMIT": Rule(429, -1015, "Too many new orders."),
    "CONNECTION_LIMIT": Rule(429, -1003, "Too many connections."),
    "OVERLOADED": Rule(503, -1008, "The exchange is overloaded; nothing was executed."),
    "SHARD_DOWN": Rule(503, -1016, "The symbol's shard is not available; nothing was executed."),
    "DRAINING": Rule(503, -1016, "This gateway is shutting down; nothing was executed."),
    "UNAVAILABLE": Rule(503, -1001, "A needed part of the exchange did not answer."),
    "UNKNOWN": Rule(504, -1007, "No answer before the deadline: the outcome is unknown. Query or resolve by id."),
    "PARTIAL": Rule(409, -2011, "Some shards were not reached; repeating the request is safe."),
    "INTERNAL": Rule(500, -1000, "The gateway failed on this request."),
    # The engine's own reasons, under the names of Reject.
    "EXPIRED": Rule(400, -1021, "The deadline had passed before the order was sequenced."),
    "CANCEL_ONLY": Rule(400, -2010, "Market is closed: only cancels are accepted."),
    "HALT": Rule(400, -2010, "Market is closed: trading is halted."),
    "CLOSED": Rule(400, -2010, "Market is closed."),
    "QUANTITY_MIN": Rule(400, -1013, "Filter failure: LOT_SIZE"),
    "QUANTITY_MAX": Rule(400, -1013, "Filter failure: LOT_SIZE"),
    "LOT_SIZE": Rule(400, -1013, "Filter failure: LOT_SIZE"),
    "PRICE_MIN": Rule(400, -1013, "Filter failure: PRICE_FILTER"),
    "PRICE_MAX": Rule(400, -1013, "Filter failure: PRICE_FILTER"),
    "TICK_SIZE": Rule(400, -1013, "Filter failure: PRICE_FILTER"),
    "PRICE_COLLAR": Rule(400, -1013, "Filter failure: PERCENT_PRICE"),
    "POST_ONLY_WOULD_CROSS": Rule(400, -2010, "Order would immediately match and take."),
    "POSITION_LIMIT": Rule(400, -2010, "Position limit exceeded."),
    "BOOK_FULL": Rule(400, -2010, "The order book is full."),
    "OPEN_ORDERS_LIMIT": Rule(400, -2010, "Too many open orders."),
    "EXPIRE_IN_PAST": Rule(400, -2010, "The order would expire in the past."),
    "UNKNOWN_ORDER": Rule(404, -2013, "Order does not exist."),
    "ID_REUSED": Rule(409, -2010, "Duplicate order sent: this client order id was used with other fields."),
    "VOIDED": Rule(409, -2010, "This client order id is void: nothing was executed under it, and nothing will be."),
    "TOO_OLD": Rule(400, -1021, "The request is older than what the exchange remembers of this account."),
    "WINDOW_FULL": Rule(503, -1008, "The account's memory of client order ids is full; nothing was executed."),
    "ACCOUNTS_FULL": Rule(503, -1008, "The shard takes no further accounts; nothing was executed."),
    "INSTRUMENT_CONFLICT": Rule(400, -1121, "Instrument definition conflict."),
}

_QUANTITY = "quantity"
_PRICE = "price"
_COUNT = "count"

_SENTENCES: dict[int, tuple[str, str]] = {
    Reject.EXPIRED: (_COUNT, "deadline {bound} ns had passed at {value} ns"),
    Reject.CANCEL_ONLY: (_COUNT, "{symbol} accepts only cancels now"),
    Reject.HALT: (_COUNT, "{symbol} is halted"),
    Reject.CLOSED: (_COUNT, "{symbol} is closed"),
    Reject.QUANTITY_MIN: (_QUANTITY, "quantity must be at least {bound}, not {value}"),
    Reject.QUANTITY_MAX: (_QUANTITY, "quantity must be at most {bound}, not {value}"),
    Reject.LOT_SIZE: (_QUANTITY, "quantity must be a multiple of {bound}, not {value}"),
    Reject.PRICE_MIN: (_PRICE, "price must be at least {bound}, not {value}"),
    Reject.PRICE_MAX: (_PRICE, "price must be at most {bound}, not {value}"),
    Reject.TICK_SIZE: (_PRICE, "price must be a multiple of {bound}, not {value}"),
    Reject.PRICE_COLLAR: (_PRICE, "price {value} is beyond the collar at {bound}"),
    Reject.POST_ONLY_WOULD_CROSS: (_PRICE, "price {value} would trade with the best opposite price {bound}"),
    Reject.POSITION_LIMIT: (_QUANTITY, "position with all open orders would be {value}, limit {bound}"),
    Reject.BOOK_FULL: (_COUNT, "open orders or open quantity would be {value}, limit {bound}"),
    Reject.OPEN_ORDERS_LIMIT: (_COUNT, "the account has {value} open orders, limit {bound}"),
    Reject.EXPIRE_IN_PAST: (_COUNT, "expiry {value} ns is not after {bound} ns"),
    Reject.INVALID_COMBINATION: (
        _COUNT,
        "MARKET takes no price, only IOC or FOK, and not post_only; post_only excludes IOC and FOK; "
        "an expiry goes with GTD and only with it",
    ),
    Reject.UNKNOWN_ORDER: (_COUNT, "no such open order of this account"),
    Reject.ID_REUSED: (_COUNT, "client order id was first used with other fields at sequence {value}"),
    Reject.VOIDED: (
        _COUNT,
        "client order id was voided by a resolve or an operator and will never execute",
    ),
    Reject.TOO_OLD: (_COUNT, "request stamp {value} ns is not after {bound} ns, up to which ids are forgotten"),
    Reject.WINDOW_FULL: (_COUNT, "the account holds {value} remembered ids, all of open orders"),
    Reject.ACCOUNTS_FULL: (_COUNT, "the shard holds {bound} accounts"),
    Reject.UNKNOWN_INSTRUMENT: (_COUNT, "instrument {value} is not defined on its shard"),
}


def rejection(reply: Rejected, instrument: Instrument | None) -> Problem:
    """What the engine's rejection means, with value and bound in decimal text of the instrument's units."""
    reject = Reject(reply.code)
    kind, sentence = _SENTENCES.get(reject, (_COUNT, "rejected with value {value}, bound {bound}"))
    decimals = 0
    if instrument is not None and kind != _COUNT:
        decimals = instrument.price_decimals if kind == _PRICE else instrument.quantity_decimals
    detail = sentence.format(
        value=format_units(reply.value, decimals),
        bound=format_units(reply.bound, decimals),
        symbol=instrument.base if instrument is not None else "the market",
    )
    return Problem(reject.name, detail)
