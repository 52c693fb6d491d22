"""A deterministic order flow for load tests: a quarter of its commands trade, and the book it leaves is bounded.

The flow is a row of *units* of eight commands on one symbol, symbols in turn: two orders far from the mid that stay,
two near it, two immediate-or-cancel orders that take what is near, and cancels of the two far orders of an earlier
unit. Each unit sells what it buys, so positions stay near zero. Self-trade prevention is to be off. Where a protocol
has no cancels in a frame, everything that is far from the mid is immediate-or-cancel and expires at once.

Built once, sent many times, by many connections: the flow is a cycle of frames in which client order ids hold
placeholders of fixed width, so the cost of a frame at run time is a few `bytes.replace`. An id is `<run><connection, 6
hex digits><frame, 8 hex digits>-<place in the frame>`: unique for 2^32 frames of one connection, and any frame can name
the orders of an earlier one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from math import lcm
from random import Random

from msgspec import Struct

from exchange.domain import Side

UNIT = 8
LAG_UNITS = 256
"""A far order is cancelled this many units later, unless `flow` is told otherwise."""
CYCLE_UNITS_MIN = 512
QUANTITY_STEPS_MAX = 10
"""Quantities are 1 to this many times the smallest one allowed."""

NEAR_TICKS = 1
TAKE_TICKS = 24
FAR_TICKS = 64
FAR_TICKS_MAX = 128
WANDER_TICKS = 8
"""The mid stays this close to where it started, so orders that take never reach the far ones."""
MID_TICKS_MIN = FAR_TICKS_MAX + WANDER_TICKS + 1

CONNECTION = b"~conn~"
"""Stands for the number of the connection that sends the frame, as six hexadecimal digits."""
CURRENT = b"~000000~"
"""Stands for the number of the frame that holds it, as eight hexadecimal digits."""

assert WANDER_TICKS + TAKE_TICKS < FAR_TICKS - WANDER_TICKS
assert 2 * WANDER_TICKS + NEAR_TICKS < TAKE_TICKS


class Market(Struct, frozen=True, kw_only=True):
    """What the flow must know of one symbol; prices and quantities in units."""

    symbol: str
    index: int
    shard: str
    price_decimals: int
    quantity_decimals: int
    tick: int
    lot: int
    quantity_min: int
    mid: int


class NewOrder(Struct, frozen=True):
    """A limit order to enter; `take` = immediate or cancel, else it rests."""

    market: Market
    side: Side
    price: int
    quantity: int
    take: bool
    client_order_id: str


class CancelOrder(Struct, frozen=True):
    """A cancel by client order id."""

    market: Market
    client_order_id: str


Command = NewOrder | CancelOrder
Encode = Callable[[Sequence[Command]], bytes]
"""The bytes of one frame in the protocol under test; client order ids must appear in it as plain ASCII."""


class Frame(Struct, frozen=True):
    """One frame of the cycle: its bytes, and its placeholders with how many frames back each points."""

    template: bytes
    placeholders: tuple[tuple[bytes, int], ...]
    commands: int
    by_shard: dict[str, int]

    def build(self, number: int, connection: int = 0) -> bytes:
        """The bytes to send as frame `number` of a connection. Cost: one pass over the template per placeholder."""
        body = self.template.replace(CONNECTION, b"%06x" % connection)
        for placeholder, back in self.placeholders:
            body = body.replace(placeholder, b"%08x" % (number - back))
        return body


class Flow:
    """The frames of every connection: an opening in which nothing is old enough to be cancelled, then a cycle."""

    def __init__(self, opening: Sequence[Frame], cycle: Sequence[Frame]) -> None:
        self._opening = opening
        self._cycle = cycle

    def frame(self, number: int) -> Frame:
        """Frame `number`, from 0."""
        if number < len(self._opening):
            return self._opening[number]
        return self._cycle[(number - len(self._opening)) % len(self._cycle)]


def flow(
    markets: Sequence[Market],
    *,
    batch: int,
    run: str,
    seed: int,
    encode: Encode,
    lag_units: int = LAG_UNITS,
    cancels: bool = True,
) -> Flow:
    """A flow of `batch` commands a frame with ids that start with `run`; equal arguments give equal bytes.

    Of one connection at most four orders for each of `lag_units`, and those of a unit in the making, are in the book.
    Raises ValueError when there is no market, or one whose mid is too low to hold the far orders.
    """
    if not markets:
        raise ValueError("the load needs at least one symbol, the cluster names none")
    for market in markets:
        if market.mid < MID_TICKS_MIN * market.tick:
            raise ValueError(
                f"{market.symbol}: the load needs a mid of at least {MID_TICKS_MIN} ticks of {market.tick}, "
                f"it is {market.mid}"
            )
    period = lcm(UNIT * len(markets), batch)
    period *= -(-CYCLE_UNITS_MIN * UNIT // period)
    units = _units(markets, period // UNIT, Random(seed))  # noqa: S311 - a reproducible flow, not a secret
    opening = -(-lag_units * UNIT // batch)
    make = partial(_command, lag_units=lag_units) if cancels else _command_without_cancels
    frames = [_frame(units, number, batch, run, make, encode) for number in range(opening + period // batch)]
    return Flow(frames[:opening], frames[opening:])


class _Unit(Struct, frozen=True):
    """The choices of one unit; prices in ticks."""

    market: Market
    mid: int
    far_bid: int
    far_ask: int
    sold: int
    bought: int


def _units(markets: Sequence[Market], count: int, random: Random) -> list[_Unit]:
    wander = [0] * len(markets)
    units = []
    for number in range(count):
        place = number % len(markets)
        market = markets[place]
        wander[place] = max(-WANDER_TICKS, min(WANDER_TICKS, wander[place] + random.choice((-1, 0, 1))))
        mid = market.mid // market.tick + wander[place]
        smallest = -(-max(market.quantity_min, 1) // market.lot) * market.lot
        units.append(
            _Unit(
                market,
                mid,
                mid - random.randint(FAR_TICKS, FAR_TICKS_MAX),
                mid + random.randint(FAR_TICKS, FAR_TICKS_MAX),
                smallest * random.randint(1, QUANTITY_STEPS_MAX),
                smallest * random.randint(1, QUANTITY_STEPS_MAX),
            )
        )
    return units


_Identity = Callable[[int], str]
_Make = Callable[[Sequence[_Unit], int, _Identity], Command]


def _frame(units: Sequence[_Unit], number: int, batch: int, run: str, make: _Make, encode: Encode) -> Frame:
    backs = {0: CURRENT}

    def identity(position: int) -> str:
        frame, place = divmod(position, batch)
        text = backs.setdefault(number - frame, f"~{number - frame:06d}~".encode())
        return f"{run}{CONNECTION.decode()}{text.decode()}-{place}"

    commands = [make(units, position, identity) for position in range(number * batch, (number + 1) * batch)]
    by_shard = Counter(command.market.shard for command in commands)
    return Frame(encode(commands), tuple((text, back) for back, text in sorted(backs.items())), batch, dict(by_shard))


def _command(units: Sequence[_Unit], position: int, identity: _Identity, *, lag_units: int) -> Command:
    number, slot = divmod(position, UNIT)
    unit = units[number % len(units)]

    def order(side: Side, ticks: int, quantity: int, *, take: bool = False) -> NewOrder:
        return NewOrder(unit.market, side, ticks * unit.market.tick, quantity, take, identity(position))

    match slot:
        case 0:
            return order(Side.BUY, unit.far_bid, unit.sold)
        case 1:
            return order(Side.SELL, unit.far_ask, unit.bought)
        case 2:
            return order(Side.BUY, unit.mid - NEAR_TICKS, unit.sold)
        case 3:
            return order(Side.SELL, unit.mid + NEAR_TICKS, unit.bought)
        case 4:
            return order(Side.SELL, unit.mid - TAKE_TICKS, unit.sold, take=True)
        case 5:
            return order(Side.BUY, unit.mid + TAKE_TICKS, unit.bought, take=True)
    old = number - lag_units
    if old >= 0:
        return CancelOrder(units[old % len(units)].market, identity(old * UNIT + slot - 6))
    return order(Side.BUY, unit.far_bid, unit.sold) if slot == 6 else order(Side.SELL, unit.far_ask, unit.bought)


def _command_without_cancels(units: Sequence[_Unit], position: int, identity: _Identity) -> Command:
    number, slot = divmod(position, UNIT)
    unit = units[number % len(units)]
    if slot in (2, 3, 4, 5):
        return _command(units, position, identity, lag_units=0)
    side, ticks = (Side.SELL, unit.far_ask) if slot % 2 else (Side.BUY, unit.far_bid)
    return NewOrder(unit.market, side, ticks * unit.market.tick, unit.sold, True, identity(position))
