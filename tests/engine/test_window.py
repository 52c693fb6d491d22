"""The window of client order ids: what stays, what is evicted, and that an evicted id's old copies never run."""

import msgspec
from msgspec.structs import replace as with_fields

from exchange import messages as m
from exchange.domain import compose_id
from tests.engine.conftest import NewStage
from tests.engine.stage import BUY, CONFIG, IOC, SELL, Stage, cancel, define, order, reduce

SMALL = with_fields(CONFIG, ids_per_account_max=3)


def ioc(who: str, client_ns: int = 0) -> m.Submit:
    """An order that ends at once and only leaves its id behind."""
    return order(who, BUY, 1, 100, tif=IOC, client_ns=client_ns)


def remembered(stage: Stage, account: str, *ids: str) -> str:
    """Those of the ids that the window still holds."""
    return " ".join(id_ for id_ in ids if "UNKNOWN" not in stage.tell(m.QueryOrder(account, 0, 0, id_))[-1])


def test_the_oldest_id_makes_room_for_the_newest(new_stage: NewStage) -> None:
    stage = new_stage(SMALL)
    stage.setup(define(), ioc("ann/1"), ioc("ann/2"), ioc("ann/3"), ioc("bob/1"))
    stage.setup(ioc("ann/4"))
    assert remembered(stage, "ann", "1", "2", "3", "4") == "2 3 4"
    assert remembered(stage, "bob", "1") == "1"
    assert stage.tell(m.QueryOrder("ann", 0, compose_id(0, 1))) == ["-> rejected UNKNOWN_ORDER 1, 0"]


def test_an_open_orders_id_stays_and_goes_to_the_back(new_stage: NewStage) -> None:
    stage = new_stage(SMALL)
    stage.setup(define(), order("ann/open", BUY, 5, 1), ioc("ann/2"), ioc("ann/3"))
    stage.setup(ioc("ann/4"))
    assert remembered(stage, "ann", "open", "2", "3", "4") == "open 3 4"
    stage.setup(cancel("ann/open"), ioc("ann/5"))
    assert remembered(stage, "ann", "open", "3", "4", "5") == "open 4 5"
    stage.setup(ioc("ann/6"))
    assert remembered(stage, "ann", "open", "4", "5", "6") == "4 5 6"


def test_when_only_open_orders_are_left_the_window_is_full(new_stage: NewStage) -> None:
    stage = new_stage(SMALL)
    stage.setup(define(), *(order(f"ann/{number}", BUY, 1, 1) for number in range(3)))
    assert stage.tell(order("ann/3", BUY, 1, 1), reduce("ann/0", 1, id_="r"), m.Resolve("ann", 0, "x")) == [
        "REJECTED ann/3 BUY 1@1 leaves 0 WINDOW_FULL",
        "-> rejected WINDOW_FULL 3, 0",
        "REJECTED ann/r BUY 0@0 leaves 0 WINDOW_FULL",
        "-> rejected WINDOW_FULL 3, 0",
        "-> rejected WINDOW_FULL 3, 0",
    ]
    assert stage.tell(cancel("ann/1"), order("ann/3", BUY, 1, 1))[-1] == "-> NEW filled 0 remaining 1"


def test_a_shard_full_of_others_ids_has_no_room(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, ids_max=2, ids_per_account_max=5))
    stage.setup(define(), ioc("ann/1"), ioc("ann/2"))
    assert stage.tell(ioc("bob/1"))[-1] == "-> rejected WINDOW_FULL 5, 0"
    assert stage.tell(ioc("ann/3"))[-1] == "-> EXPIRED IOC_REMAINDER filled 0 remaining 1"
    assert remembered(stage, "ann", "1", "2", "3") == "2 3"


def test_an_amendments_id_is_evictable_while_its_order_is_open(new_stage: NewStage) -> None:
    stage = new_stage(SMALL)
    stage.setup(define(), order("ann/1", BUY, 9, 1), reduce("ann/1", 1, id_="r1"), reduce("ann/1", 1, id_="r2"))
    stage.setup(ioc("ann/2"))
    assert stage.tell(reduce("ann/1", 1, id_="r2"), reduce("ann/1", 1, id_="r1")) == [
        "-> NEW filled 0 remaining 7 again",
        "REDUCED ann/1 BUY 1@1 leaves 6 USER",
        "-> NEW filled 0 remaining 6",
    ]


def test_an_old_copy_of_an_evicted_id_never_runs(new_stage: NewStage) -> None:
    """The bound rises to the later of the client's instant and log time of what was evicted."""
    stage = new_stage(SMALL)
    stage.setup(define())
    for number, client_ns in enumerate((500, 10, 10, 10)):
        stage.tell(ioc(f"ann/{number}", client_ns), ts_ns=100 + number)
    assert stage.tell(ioc("ann/0", 500), ioc("ann/new", 499), ioc("bob/1", 1)) == [
        "REJECTED ann/0 BUY 1@100 leaves 0 TOO_OLD",
        "-> rejected TOO_OLD 500, 500",
        "REJECTED ann/new BUY 1@100 leaves 0 TOO_OLD",
        "-> rejected TOO_OLD 499, 500",
        "ACCEPTED bob/1 BUY 1@100 leaves 1",
        "EXPIRED bob/1 BUY 1@100 leaves 0 IOC_REMAINDER",
        "-> EXPIRED IOC_REMAINDER filled 0 remaining 1",
    ]
    assert stage.tell(ioc("ann/new", 501))[-1] == "-> EXPIRED IOC_REMAINDER filled 0 remaining 1"
    assert stage.tell(ioc("ann/new", 7))[-1] == "-> EXPIRED IOC_REMAINDER filled 0 remaining 1 again"


def test_log_time_raises_the_bound_too(new_stage: NewStage) -> None:
    stage = new_stage(SMALL)
    stage.setup(define())
    for number in range(4):
        stage.tell(ioc(f"ann/{number}"), ts_ns=100 + number)
    assert stage.tell(ioc("ann/4", 100), ioc("ann/5", 101))[1::3] == [
        "-> rejected TOO_OLD 100, 100",
        "-> EXPIRED IOC_REMAINDER filled 0 remaining 1",
    ]


def test_ticks_age_the_window(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, ids_window_ns=100))
    stage.setup(define())
    stage.tell(order("ann/open", BUY, 1, 1), ioc("ann/1"), ts_ns=10)
    stage.tell(ioc("ann/2"), ioc("bob/1"), ts_ns=20)
    stage.tell(m.Tick(), ts_ns=110)
    assert remembered(stage, "ann", "open", "1", "2") == "open 1 2"
    stage.tell(m.Tick(), ts_ns=120)
    assert (remembered(stage, "ann", "open", "1", "2"), remembered(stage, "bob", "1")) == ("open 2", "1")
    stage.tell(cancel("ann/open"), m.Tick(), ts_ns=130)
    assert (remembered(stage, "ann", "open", "1", "2"), remembered(stage, "bob", "1")) == ("", "")


def test_a_tick_touches_at_most_1024_entries_and_the_next_goes_on(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, ids_window_ns=100))
    stage.setup(define(), define(1, "ETH-USD"))
    for account in ("ann", "bob"):
        stage.setup(*(ioc(f"{account}/{number}") for number in range(700)))
    ages = []
    for ts_ns in (1_000, 1_001):
        stage.tell(m.Tick(), ts_ns=ts_ns)
        ages.append(window_sizes(stage))
    assert ages == [[0, 376], [0, 0]]


def window_sizes(stage: Stage) -> list[int]:
    """Entries that each account has."""
    snapshot = msgspec.msgpack.decode(stage.engine.snapshot())
    sizes = [0] * len(snapshot[6])
    for entry in snapshot[9]:
        sizes[entry[0]] += 1
    return sizes


def test_open_orders_count_into_the_ticks_budget(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, ids_window_ns=100))
    stage.setup(define())
    for start in (0, 1_000):
        stage.setup(*(order(f"ann/{number}", BUY, 1, 1) for number in range(start, start + 1_000)))
    stage.setup(ioc("ann/last"), ioc("bob/1"))
    sizes = []
    for ts_ns in (1_000, 1_001):
        stage.tell(m.Tick(), ts_ns=ts_ns)
        sizes.append(window_sizes(stage))
    assert sizes == [[2_001, 1], [2_000, 0]]


def test_resolve_tells_what_became_of_an_id(stage: Stage) -> None:
    stage.setup(order("ann/1", BUY, 5, 100), order("bob/1", SELL, 2, 100), reduce("ann/1", 1, id_="r"))
    stage.tell(order("ann/bad", BUY, 0, 100))
    assert stage.tell(m.Resolve("ann", 0, "1"), m.Resolve("ann", 0, "r"), m.Resolve("ann", 0, "bad")) == [
        "-> NEW filled 0 remaining 5 again",
        "-> PARTIALLY_FILLED filled 2 remaining 2 again",
        "-> rejected QUANTITY_MIN 0, 1 again",
    ]


def test_an_unseen_id_is_voided_and_a_late_original_does_not_run(stage: Stage) -> None:
    late = order("ann/1", BUY, 5, 100)
    assert stage.tell(m.Resolve("ann", 0, "1"), late, m.Resolve("ann", 0, "1"), order("ann/2", BUY, 5, 100)) == [
        "-> rejected VOIDED 0, 0",
        "-> rejected VOIDED 0, 0 again",
        "-> rejected VOIDED 0, 0 again",
        "ACCEPTED ann/2 BUY 5@100 leaves 5",
        "-> NEW filled 0 remaining 5",
    ]
    assert stage.tell(reduce("ann/2", 1, id_="1"), cancel("ann/1"))[::2] == [
        "-> rejected VOIDED 0, 0 again",
        "-> rejected UNKNOWN_ORDER 0, 0",
    ]
    (reply,), _ = stage.run(late)
    assert reply == m.Rejected(0, 2, 2, True, 102, 0, 0, 0)


def test_a_tombstone_ages_like_any_entry(new_stage: NewStage) -> None:
    stage = new_stage(with_fields(CONFIG, ids_window_ns=100))
    stage.setup(define())
    stage.tell(m.Resolve("ann", 0, "1"), ts_ns=50)
    stage.tell(m.Tick(), ts_ns=151)
    assert stage.tell(order("ann/1", BUY, 5, 100, client_ns=50))[-1] == "-> rejected TOO_OLD 50, 50"
    assert stage.tell(order("ann/1", BUY, 5, 100, client_ns=51))[-1] == "-> NEW filled 0 remaining 5"
