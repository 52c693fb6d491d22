"""From what a client wrote to a command of the engine, or a Problem: names, decimals, ticks and lots. Pure.

Only what cannot be expressed as a command is denied here; every rule of the market is the engine's. Time and generated
ids arrive as arguments.
"""

from decimal import Decimal, InvalidOperation

import msgspec
from msgspec import Raw, Struct

from exchange import messages as m
from exchange.domain import (
    NS_PER_MS,
    PRICE_MAX,
    QUANTITY_MAX,
    Flag,
    Kind,
    QuantityBasis,
    SelfTrade,
    Side,
    TimeInForce,
    instrument_of,
)
from exchange.messages import Instrument
from exchange.money import decimal_units, format_units, parse_units
from exchange.routing import Routing
from gateway.core import requests as q
from gateway.core.problems import Problem

TEXTS_MAX = 8_192
"""Number texts that are remembered for each instrument and direction."""
SHOWN_MAX = 40
"""Characters of an offending value that are repeated to the client."""

ORDER_PREFIX = "ORD-"
TRADE_PREFIX = "TRD-"


class Stamp(Struct, frozen=True):
    """Who and when: account, the instant after which the engine must not execute, and the request's own time."""

    account: str
    deadline_ns: int
    client_ns: int


class Target(Struct, frozen=True):
    """An order as a client names it: `order_id`, or when that is 0 its client order id."""

    market: "Market"
    order_id: int
    target_id: str


class Change(Struct, frozen=True):
    """An amendment in units: `reduce_by` > 0, or a new price and quantity of which None = as it is."""

    reduce_by: int = 0
    price: int | None = None
    quantity: int | None = None
    basis: QuantityBasis = QuantityBasis.TOTAL


class Market:
    """One instrument as the door sees it, with bounded memories from number text to units."""

    __slots__ = ("_prices", "_quantities", "index", "instrument", "lot", "name", "shard", "tick")

    def __init__(self, instrument: Instrument) -> None:
        self.instrument = instrument
        self.index = instrument.index
        self.name = instrument.base
        self.shard = instrument.shard
        self.tick = instrument.tick
        self.lot = instrument.lot
        self._prices: dict[bytes, int] = {}
        self._quantities: dict[bytes, int] = {}

    def price(self, raw: Raw) -> int | Problem:
        """Price units of a JSON number or string, a whole number of ticks."""
        text = bytes(raw)
        units = self._prices.get(text)
        return units if units is not None else self._read_price(text)

    def quantity(self, raw: Raw) -> int | Problem:
        """Quantity units of a JSON number or string, a whole number of lots."""
        text = bytes(raw)
        units = self._quantities.get(text)
        return units if units is not None else self._read_quantity(text)

    def check(self, price: int, quantity: int) -> Problem | None:
        """Units that are given as such must be whole ticks and lots too."""
        if price % self.tick:
            return self._off("TICK_SIZE", "price", price, self.tick, self.instrument.price_decimals)
        if quantity % self.lot:
            return self._off("LOT_SIZE", "quantity", quantity, self.lot, self.instrument.quantity_decimals)
        return None

    def _read_price(self, text: bytes) -> int | Problem:
        units = _read(text, self.instrument.price_decimals, ("PRICE_MIN", "PRICE_MAX", "TICK_SIZE"), "price", PRICE_MAX)
        if isinstance(units, Problem):
            return units
        return self.check(units, 0) or _remember(self._prices, text, units)

    def _read_quantity(self, text: bytes) -> int | Problem:
        reasons = ("QUANTITY_MIN", "QUANTITY_MAX", "LOT_SIZE")
        units = _read(text, self.instrument.quantity_decimals, reasons, "quantity", QUANTITY_MAX)
        if isinstance(units, Problem):
            return units
        return self.check(0, units) or _remember(self._quantities, text, units)

    def _off(self, reason: str, what: str, units: int, step: int, decimals: int) -> Problem:
        shown, bound = format_units(units, decimals), format_units(step, decimals)
        return Problem(reason, f"{what} must be a multiple of {bound}, not {shown}")


class Split:
    """A batch by shard: commands and their places in the batch, and what was denied."""

    __slots__ = ("by_shard", "denied")

    def __init__(self) -> None:
        self.by_shard: dict[str, tuple[list[m.Command], list[int]]] = {}
        self.denied: list[tuple[int, Problem]] = []


class Identities:
    """Client order ids for orders that come without one: a prefix that no other process has, and a counter."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._last = 0

    def next(self) -> str:
        self._last += 1
        return f"{self._prefix}{self._last:x}"


class Admission:
    """Look-ups and conversions over one version of the shard map."""

    def __init__(self, routing: Routing, identities: Identities) -> None:
        self.routing = routing
        self._identities = identities
        self.markets: dict[int, Market] = {index: Market(i) for index, i in sorted(routing.instruments.items())}
        self._by_name: dict[str | int, Market] = {}
        for index, market in self.markets.items():
            self._by_name[index] = market
            for name in (market.instrument.symbol, market.name):
                instrument = routing.instrument(name)
                if instrument is not None:
                    self._by_name[name] = self.markets[instrument.index]

    def market(self, name: str) -> Market | Problem:
        """By "AAPL" or "AAPLUSD", in upper case."""
        market = self._by_name.get(name)
        return market if market is not None else self._no_market(name)

    def submit(self, fields: q.OrderFields, stamp: Stamp) -> tuple[Market, m.Submit] | Problem:
        """One JSON order. Cost: one memory look-up each for symbol, price and quantity."""
        market = self._by_name.get(fields.symbol)
        if market is None:
            return self._no_market(fields.symbol)
        side = _SIDES.get(fields.side)
        kind = _KINDS.get(fields.order_type)
        time_in_force = _TIMES.get(fields.time_in_force)
        self_trade = _SELF_TRADES.get(fields.stp)
        if side is None or kind is None or time_in_force is None or self_trade is None:
            upper = {name: getattr(fields, name).upper() for name in _CHOICES}
            return self._no_choice(upper) or self.submit(msgspec.structs.replace(fields, **upper), stamp)
        if kind == Kind.MARKET and not fields.time_in_force:
            time_in_force = TimeInForce.IOC
        price: int | Problem = 0
        if _given(fields.price):
            price = market.price(fields.price)
        elif kind == Kind.LIMIT:
            return Problem("MALFORMED", "price is missing; a LIMIT order needs one")
        quantity = market.quantity(fields.quantity)
        if isinstance(price, Problem):
            return price
        if isinstance(quantity, Problem):
            return quantity
        return market, m.Submit(
            stamp.account,
            fields.client_order_id or self._identities.next(),
            market.index,
            side,
            kind,
            time_in_force,
            int(Flag.POST_ONLY) if fields.post_only else 0,
            self_trade,
            price,
            quantity,
            fields.expire_at_ms * NS_PER_MS,
            stamp.deadline_ns,
            stamp.client_ns,
        )

    def target(self, id_: str, symbol: str) -> Target | Problem:
        """An order by "ORD-17", or by client order id together with its symbol."""
        if id_.startswith(ORDER_PREFIX):
            number = id_.removeprefix(ORDER_PREFIX)
            if not (number.isascii() and number.isdigit() and len(number) <= 16 and 0 < int(number) < 1 << 53):
                return Problem("UNKNOWN_ORDER", f"{id_[:SHOWN_MAX]} is not an order id")
            market = self.markets.get(instrument_of(int(number)))
            if market is None:
                return Problem("UNKNOWN_ORDER", "no such open order of this account")
            if symbol and self._by_name.get(symbol) is not market:
                return Problem("UNKNOWN_ORDER", f"{id_} is not an order of symbol {symbol[:SHOWN_MAX]}")
            return Target(market, int(number), "")
        if not symbol:
            return Problem("MALFORMED", "symbol is missing; a client order id is known only together with its symbol")
        named = self.market(symbol)
        return named if isinstance(named, Problem) else Target(named, 0, id_)

    def change(self, market: Market, fields: q.AmendFields) -> Change | Problem:
        """What an amendment asks for."""
        given = [n for n in ("quantity", "remaining_quantity", "reduce_by") if _given(getattr(fields, n))]
        if len(given) > 1:
            return Problem("MALFORMED", f"{' and '.join(given)} exclude each other")
        if not given and not _given(fields.price):
            return Problem("MALFORMED", "nothing to change: price, quantity, remaining_quantity or reduce_by is needed")
        quantity = market.quantity(getattr(fields, given[0])) if given else None
        price = market.price(fields.price) if _given(fields.price) else None
        for value in (quantity, price):
            if isinstance(value, Problem):
                return value
        assert not isinstance(quantity, Problem)
        assert not isinstance(price, Problem)
        if given == ["reduce_by"]:
            if price is not None:
                return Problem("MALFORMED", "reduce_by and price exclude each other")
            if not quantity:
                return Problem("QUANTITY_MIN", "reduce_by must be above 0")
            return Change(reduce_by=quantity)
        basis = QuantityBasis.LEAVES if given == ["remaining_quantity"] else QuantityBasis.TOTAL
        return Change(price=price, quantity=quantity, basis=basis)

    def amend(self, target: Target, change: Change, client_order_id: str, stamp: Stamp) -> m.Replace | m.Reduce:
        """The command of a change whose price and quantity are both known."""
        id_ = client_order_id or self._identities.next()
        index, order_id, target_id = target.market.index, target.order_id, target.target_id
        deadline_ns, client_ns = stamp.deadline_ns, stamp.client_ns
        if change.reduce_by:
            return m.Reduce(stamp.account, id_, index, order_id, target_id, change.reduce_by, deadline_ns, client_ns)
        assert change.price is not None
        assert change.quantity is not None
        price, quantity, basis = change.price, change.quantity, change.basis
        return m.Replace(stamp.account, id_, index, order_id, target_id, price, quantity, basis, deadline_ns, client_ns)

    def split(self, orders: list[q.OrderFields], stamps: list[Stamp]) -> Split:
        """A JSON batch by shard."""
        split = Split()
        for place, (fields, stamp) in enumerate(zip(orders, stamps, strict=True)):
            admitted = self.submit(fields, stamp)
            if isinstance(admitted, Problem):
                split.denied.append((place, admitted))
                continue
            market, command = admitted
            commands, places = split.by_shard.setdefault(market.shard, ([], []))
            commands.append(command)
            places.append(place)
        return split

    def split_rows(self, frame: q.CompactFrame, stamp: Stamp) -> Split:
        """A compact frame by shard: the hot path, about a microsecond a row."""
        split = Split()
        by_name = self._by_name
        by_shard = split.by_shard
        account, deadline_ns, client_ns = stamp.account, stamp.deadline_ns, stamp.client_ns
        next_id = self._identities.next
        command: m.Command
        for place, row in enumerate(frame.rows):
            market = by_name.get(row.market)
            if market is None:
                split.denied.append((place, self._no_market(row.market)))
                continue
            index = market.index
            kind = type(row)
            if kind is q.SubmitRow:
                assert isinstance(row, q.SubmitRow)
                price, quantity = row.price, row.quantity
                if price % market.tick or quantity % market.lot:
                    problem = market.check(price, quantity)
                    assert problem is not None
                    split.denied.append((place, problem))
                    continue
                command = m.Submit(
                    account,
                    row.client_order_id or next_id(),
                    index,
                    row.side,
                    row.kind,
                    row.time_in_force,
                    row.flags,
                    row.self_trade,
                    price,
                    quantity,
                    row.expire_ns,
                    deadline_ns,
                    client_ns,
                )
            elif kind is q.CancelRow:
                assert isinstance(row, q.CancelRow)
                command = m.Cancel(account, index, row.order_id, row.target_id, deadline_ns)
            else:
                assert isinstance(row, q.ReplaceRow | q.ReduceRow)
                admitted = self._amend_row(market, row, stamp)
                if isinstance(admitted, Problem):
                    split.denied.append((place, admitted))
                    continue
                command = admitted
            share = by_shard.get(market.shard)
            if share is None:
                share = by_shard[market.shard] = ([], [])
            share[0].append(command)
            share[1].append(place)
        return split

    def _amend_row(self, market: Market, row: q.ReplaceRow | q.ReduceRow, stamp: Stamp) -> m.Command | Problem:
        price = row.price if isinstance(row, q.ReplaceRow) else 0
        problem = market.check(price, row.quantity)
        if problem is not None:
            return problem
        if isinstance(row, q.ReduceRow):
            change = Change(reduce_by=row.quantity)
            if not row.quantity:
                return Problem("QUANTITY_MIN", "a reduction must be above 0")
        else:
            change = Change(price=price, quantity=row.quantity, basis=QuantityBasis(row.basis))
        return self.amend(Target(market, row.order_id, row.target_id), change, row.client_order_id, stamp)

    def _no_market(self, name: str | int) -> Problem:
        return Problem("UNKNOWN_INSTRUMENT", f"symbol {str(name)[:SHOWN_MAX]!r} is not traded here")

    def _no_choice(self, upper: dict[str, str]) -> Problem | None:
        for name, text in upper.items():
            if text not in _CHOICES[name]:
                allowed = ", ".join(choice for choice in _CHOICES[name] if choice.isupper())
                return Problem("MALFORMED", f"{name} must be one of {allowed}, not {text[:SHOWN_MAX]!r}")
        return None


def _given(raw: Raw) -> bool:
    """Neither absent nor null."""
    return bytes(raw) not in (b"", b"null")


def _remember(texts: dict[bytes, int], text: bytes, units: int) -> int:
    if len(texts) >= TEXTS_MAX:
        texts.clear()
    texts[text] = units
    return units


def _read(text: bytes, decimals: int, reasons: tuple[str, str, str], what: str, bound: int) -> int | Problem:
    """Units of a JSON number or string within 0 and `bound`; reasons = (too small, too large, too fine)."""
    shown = text[:SHOWN_MAX].decode(errors="replace")
    try:
        if text.startswith(b'"'):
            plain = msgspec.json.decode(text, type=str)
            number, units = Decimal(plain), parse_units(plain, decimals)
        else:
            number = Decimal(text.decode())
            units = decimal_units(number, decimals)
    except (InvalidOperation, UnicodeDecodeError, msgspec.MsgspecError):
        return Problem("MALFORMED", f"{what} must be a decimal number, not {shown}")
    except ValueError as fault:
        too_fine = "decimals" in str(fault)
        return Problem(reasons[2] if too_fine else "MALFORMED", f"{what}: {str(fault)[: 2 * SHOWN_MAX]}")
    if units < 0:
        return Problem(reasons[0], f"{what} must not be negative, not {shown}")
    if units > bound:
        return Problem(reasons[1], f"{what} {shown} is beyond what the exchange can count")
    return units


def _cases(choices: type[Side] | type[Kind] | type[TimeInForce] | type[SelfTrade]) -> dict[str, int]:
    """Both usual spellings at once; any other mixture of cases takes a second, slower look."""
    return {text: int(choice) for choice in choices for text in (choice.name, choice.name.lower())}


_SIDES = _cases(Side)
_KINDS = _cases(Kind)
_TIMES = _cases(TimeInForce) | {"": int(TimeInForce.GTC)}
_SELF_TRADES = _cases(SelfTrade)
_CHOICES = {"side": _SIDES, "order_type": _KINDS, "time_in_force": _TIMES, "stp": _SELF_TRADES}
