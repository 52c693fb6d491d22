"""Operators' commands through the coordinator: logged by the shards or kept in its store, so they survive restarts."""

from pathlib import Path

import msgspec

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


def switch(data: Path, shard: str) -> m.ShardStatus:
    """Hand a shard over to its standby; returns how it stands then. AdministerError says why not."""
    with Control(attach(data).config) as control:
        return _finish(control, shard, control.switch(shard))


def elect(data: Path, shard: str, node: str, *, accept_loss: bool) -> m.ShardStatus:
    """Make a node the primary of its shard; returns how it stands then. AdministerError says why not."""
    with Control(attach(data).config) as control:
        return _finish(control, shard, control.elect(shard, node, accept_loss=accept_loss))


def show_shard(shard: m.ShardStatus, *, json: bool) -> None:
    """Print who leads a shard now."""
    if json:
        print(msgspec.json.encode(msgspec.structs.asdict(shard)).decode())
    else:
        flags = f" ({', '.join(shard.flags)})" if shard.flags else ""
        print(f"{shard.shard}: {shard.primary} leads term {shard.epoch}{flags}")


def _finish(control: Control, shard: str, refused: str) -> m.ShardStatus:
    if refused:
        raise AdministerError(refused)
    return next(status for status in control.status().shards if status.shard == shard)


def _instrument(control: Control, symbol: str) -> m.Instrument:
    map_ = control.shard_map()
    instrument = Routing(map_).instrument(symbol)
    if instrument is None:
        raise AdministerError(f"symbol {symbol!r} is not one of {', '.join(i.symbol for i in map_.instruments)}")
    return instrument
