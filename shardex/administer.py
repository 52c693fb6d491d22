"""Operators' commands through the coordinator: logged by the shards or kept in its store, so they survive restarts."""

import getpass
from pathlib import Path
from time import sleep

import msgspec

from exchange import messages as m
from exchange.clock import monotonic_ns
from exchange.domain import ALL_INSTRUMENTS, NS_PER_S, State
from exchange.errors import ShardexError
from exchange.money import parse_units
from exchange.routing import Routing
from shardex.control import Control
from shardex.launcher import attach

ALL = "ALL"
DONE = "done"
"""What a shard says when it has carried out a command; anything else is the reason why not."""
ACTOR_MAX, WHY_MAX = 64, 256
REJOIN_S, REJOIN_POLL_S = 15.0, 0.02
"""A disk that takes a second for a sync makes some seconds of the few steps of a rejoin."""


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
    """Hand a shard over to its standby; returns how it stands then. AdministerError says why not.

    Waits until the old primary is in sync behind the new one and heard of, mostly some 40 ms, for REJOIN_S at most.
    """
    with Control(attach(data).config) as control:
        status = _finish(control, shard, control.switch(shard))
        give_up_ns = monotonic_ns() + int(REJOIN_S * NS_PER_S)
        while {"SOLO", "NO_FAILOVER"} & set(status.flags) and monotonic_ns() < give_up_ns:
            sleep(REJOIN_POLL_S)
            status = _finish(control, shard, "")
        return status


def elect(data: Path, shard: str, node: str, *, accept_loss: bool) -> m.ShardStatus:
    """Make a node the primary of its shard; returns how it stands then. AdministerError says why not."""
    with Control(attach(data).config) as control:
        return _finish(control, shard, control.elect(shard, node, accept_loss=accept_loss))


def skip(data: Path, shard: str, seq: int, *, why: str, actor: str | None) -> m.ShardStatus:
    """Have a command of a frozen shard left out; returns how the shard stands then. AdministerError says why not.

    `actor` None = the user of this process.
    """
    actor = getpass.getuser() if actor is None else actor
    if not (0 < len(actor) <= ACTOR_MAX and actor.isascii() and actor.isprintable() and " " not in actor):
        raise AdministerError(f"--actor must be 1 to {ACTOR_MAX} printable characters without space, not {actor!r}")
    if not (why.strip() and len(why) <= WHY_MAX and why.isprintable()):
        raise AdministerError(f"--why must be 1 to {WHY_MAX} printable characters, not {why!r}")
    with Control(attach(data).config) as control:
        return _finish(control, shard, control.skip(shard, seq, why=why, actor=actor))


def clock(data: Path, shard: str) -> m.ShardStatus:
    """Have the primary of a shard believe its wall clock; returns how it stands. AdministerError says why not."""
    with Control(attach(data).config) as control:
        return _finish(control, shard, control.clock(shard))


def show_shard(shard: m.ShardStatus, *, json: bool) -> None:
    """Print who leads a shard now, and what an operator had left out."""
    if json:
        print(msgspec.json.encode(msgspec.structs.asdict(shard)).decode())
    else:
        flags = f" ({', '.join(shard.flags)})" if shard.flags else ""
        left_out = f", left out: seq {', '.join(map(str, shard.skip))}" if shard.skip else ""
        print(f"{shard.shard}: {shard.primary or 'nobody'} leads term {shard.epoch}{flags}{left_out}")


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
