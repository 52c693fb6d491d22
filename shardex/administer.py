"""Operator commands through the coordinator: the shards log them, so they survive restarts."""

from pathlib import Path

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, State
from exchange.errors import ShardexError
from exchange.money import parse_units
from exchange.routing import Routing
from shardex.control import Control
from shardex.launcher import attach

ALL = "ALL"
DONE = "done"
"""What a shard says when it has carried out a command; anything else is the reason why not."""


class AdministerError(ShardexError):
    """The command cannot be sent as it was given."""


def set_state(data: Path, symbol: str, state: str) -> dict[str, str]:
    """Enter a trading state in one symbol or, with "ALL", in every one; returns what each shard said."""
    if state not in State.__members__:
        raise AdministerError(f"state {state!r} is not one of {', '.join(State.__members__)}")
    with Control(attach(data).config) as control:
        if symbol == ALL:
            shard, index = "", ALL_INSTRUMENTS
        else:
            instrument = _instrument(control, symbol)
            shard, index = instrument.shard, instrument.index
        return control.administer(shard, [m.SetState(index, State[state].value, control.identity)]).results


def set_limit(data: Path, account: str, symbol: str, quantity: str) -> dict[str, str]:
    """Set the largest position of an account in a symbol, or return to the symbol's own rule with "none"."""
    with Control(attach(data).config) as control:
        instrument = _instrument(control, symbol)
        try:
            limit = -1 if quantity == "none" else parse_units(quantity, instrument.quantity_decimals)
        except ValueError as fault:
            raise AdministerError(f"limit: {fault}") from fault
        if quantity != "none" and limit < 0:
            raise AdministerError(f'limit must be 0 or more, or "none", not {quantity}')
        command = m.SetPositionLimit(account, instrument.index, limit, control.identity)
        return control.administer(instrument.shard, [command]).results


def _instrument(control: Control, symbol: str) -> m.Instrument:
    map_ = control.shard_map()
    instrument = Routing(map_).instrument(symbol)
    if instrument is None:
        raise AdministerError(f"symbol {symbol!r} is not one of {', '.join(i.symbol for i in map_.instruments)}")
    return instrument
