"""Golden bytes: records and what an engine makes of them, for whoever writes another implementation.

`python -m tests.engine.test_vectors` writes the file anew from the reference engine. It changes only with the protocol.
"""

import json
from pathlib import Path

from msgspec.structs import replace as with_fields

from exchange import messages as m
from exchange.domain import ALL_INSTRUMENTS, compose_id
from exchange.wire import encode
from shard.core.record import chain_after, decode_record
from tests.engine.conftest import NewStage
from tests.engine.stage import (
    BUY,
    CONFIG,
    DAY,
    DECREMENT,
    FOK,
    GTD,
    IOC,
    MARKET,
    OLDEST,
    POST_ONLY,
    SELL,
    Stage,
    cancel,
    define,
    order,
    reduce,
    replace,
)

PATH = Path(__file__).parent.parent / "vectors" / "engine.json"

STORY: dict[str, tuple[m.Command, ...]] = {
    "a term begins and instruments are defined": (
        m.EpochStart(1, "node-a", 7),
        define(0, "BTC-USD", tick=5, lot=10, quantity=(10, 10_000), collar_bps=1_000, reference_price=1_000),
        define(8_191, "ETH-USD", position_limit=100),
    ),
    "orders rest, match and leave the book": (
        order("ann/1", SELL, 100, 1_000, client_ns=1_700_000_000_000_000_000),
        order("ann/2", SELL, 50, 1_005, flags=POST_ONLY),
        order("bob@x.org/0:1", BUY, 120, 1_005),
        order("bob@x.org/0:2", BUY, 500, kind=MARKET, tif=IOC),
        order("ann/3", BUY, 70, 990, tif=GTD, expire_ns=1_000),
        order("ann/4", BUY, 60, 990, tif=DAY),
        order("cid/1", SELL, 140, 990, tif=FOK),
        order("cid/2", SELL, 130, 990, tif=IOC),
    ),
    "a record in which nothing happens": (m.Tick(),),
    "rules are broken": (
        order("ann/5", BUY, 15, 1_000),
        order("ann/6", BUY, 10, 1_001),
        order("ann/7", BUY, 10, 2_000),
        order("ann/8", BUY, -(1 << 63), (1 << 63) - 1),
        order("ann/9", BUY, 101, 1, instrument=8_191),
        order("ann/1", BUY, 10, 1_000),
        cancel("ann/none"),
        m.Cancel("ann", 0, compose_id(0, 3)),
        order("ann/1", SELL, 1, 1, instrument=5),
    ),
    "the same again": (order("ann/1", SELL, 100, 1_000), order("ann/5", BUY, 15, 1_000)),
    "self-trades are prevented": (
        order("dan/1", SELL, 10, 1, instrument=8_191),
        order("dan/2", BUY, 4, 1, instrument=8_191, self_trade=DECREMENT),
        order("dan/3", BUY, 6, 1, instrument=8_191, self_trade=OLDEST),
        order("dan/4", SELL, 3, 1, instrument=8_191),
    ),
    "orders are amended and cancelled": (
        order("ann/10", BUY, 100, 900),
        reduce("ann/10", 10, id_="r1"),
        replace("ann/10", 200, 905, id_="r2"),
        replace("ann/10", 50, 905, basis=1),
        cancel("ann/10"),
    ),
    "queries, a tombstone, a limit, a timer": (
        m.QueryOrder("ann", ALL_INSTRUMENTS, 0, "1"),
        m.QueryOpen("dan", ALL_INSTRUMENTS, 0, 1),
        m.Resolve("eve", 0, "void"),
        m.Resolve("ann", 0, "1"),
        m.SetPositionLimit("eve", 0, 0, "ops"),
        m.ArmDeadMan("dan", ALL_INSTRUMENTS, 5),
        order("ann/11", BUY, 10, 900, tif=DAY),
        order("ann/12", BUY, 10, 900, tif=GTD, expire_ns=1_000),
        order("ann/13", BUY, 20, 895),
    ),
    "trading ends for the day": (m.SetState(ALL_INSTRUMENTS, 3, "ops"),),
    "time passes": (m.Tick(),),
    "everything goes": (m.MassCancel(""),),
}
TIMES_NS = {"time passes": 2_000}


def tell_story(stage: Stage) -> dict[str, object]:
    """Run the story and note every byte."""
    steps = []
    for name, commands in STORY.items():
        before = stage.engine.seq()
        record = stage.record(*commands, ts_ns=TIMES_NS.get(name, 0), epoch=1)
        outcome = stage.engine.apply(record)
        stage.extend(record)
        steps.append(
            {
                "name": name,
                "first_seq": before + 1,
                "record": record.hex(),
                "chain": f"{chain_after(record):016x}",
                "outcome": outcome.hex(),
                "trail": f"{stage.engine.trail():08x}",
                "digest": f"{stage.engine.digest():016x}",
                "snapshot": stage.engine.snapshot().hex(),
                "image": stage.engine.image().hex(),
            }
        )
    return {"config": encode(stage.config).hex(), "steps": steps}


def test_both_engines_make_the_golden_bytes(new_stage: NewStage) -> None:
    assert tell_story(new_stage(with_fields(CONFIG, open_orders_max=7))) == json.loads(PATH.read_text())


def test_golden_records_are_chained_and_well_formed() -> None:
    chain = 0
    for step in json.loads(PATH.read_text())["steps"]:
        head, _ = decode_record(bytes.fromhex(step["record"]))
        assert (head.prev_chain, head.first_seq) == (chain, step["first_seq"])
        chain = int(step["chain"], 16)


if __name__ == "__main__":
    golden = tell_story(Stage(reference=True, config=with_fields(CONFIG, open_orders_max=7)))
    PATH.write_text(json.dumps(golden, indent=1) + "\n")
