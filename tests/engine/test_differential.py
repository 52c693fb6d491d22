"""Native and reference engine are one engine: equal outcomes, byte for byte, on generated histories.

The default run covers more than 100,000 commands over every command, order type, self-trade mode and state, with
ceilings small enough to be hit; `test_the_flows_reach_every_rule` keeps the generator honest.
"""

from collections import Counter

import pytest

from exchange import messages as m
from exchange.domain import OrderEvent, Reject
from exchange.wire import array_header, decode_frame, decode_replies
from shard.core.engine import NATIVE, create_engine, engine_kind
from shard.core.outcome import decode_outcome
from tests.engine.flows import Flow

SEEDS = range(60)
COMMANDS = 2_000


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("seed", SEEDS)
def test_native_equals_reference(seed: int) -> None:
    flow = Flow(seed, COMMANDS)
    native, reference = create_engine(flow.config), create_engine(flow.config, reference=True)
    assert engine_kind(native) == NATIVE
    for number, record in enumerate(flow.records()):
        assert native.apply(record) == reference.apply(record), f"seed {seed}: outcome of record {number}"
        if number % 16 == 0:
            assert native.snapshot() == reference.snapshot(), f"seed {seed}: snapshot after record {number}"
            assert native.image() == reference.image(), f"seed {seed}: image after record {number}"
    assert state(native) == state(reference), f"seed {seed}"


def state(engine: object) -> dict[str, object]:
    """Everything that an engine says about itself."""
    names = ("seq", "epoch", "ts", "orders", "trail", "digest", "snapshot", "image")
    return {name: getattr(engine, name)() for name in names}


def test_the_flows_reach_every_rule() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS[:24]:
        flow = Flow(seed, COMMANDS)
        engine = create_engine(flow.config, reference=True)
        for record in flow.records():
            replies, frame = decode_outcome(engine.apply(record))
            for reply in decode_replies(array_header(len(replies)) + b"".join(replies)):
                seen[type(reply).__name__] += 1
                if isinstance(reply, m.Rejected):
                    seen[Reject(reply.code).name] += 1
                if isinstance(reply, m.Executed | m.Rejected) and reply.duplicate:
                    seen["duplicate"] += 1
            rows = decode_frame(frame)
            seen["trade"] += len(rows.trades)
            for row in rows.orders:
                seen[f"{OrderEvent(row.kind).name} {Reject(row.reason).name}"] += 1
                seen[Reject(row.reason).name] += 1
    missing = [code.name for code in Reject if seen[code.name] == 0]
    events = ("ACCEPTED NONE", "REDUCED USER", "REDUCED SELF_TRADE", "REPLACED NONE", "CANCELLED SELF_TRADE")
    missing += [name for name in (*events, "duplicate", "trade", "Orders", "Order", "Swept") if seen[name] < 20]
    assert missing == []
