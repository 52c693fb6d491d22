"""What the generator writes is what docs/API.md says, and it reads every kind of answer as what it is."""

import msgspec
import pytest

from exchange import messages as m
from exchange.domain import Side, Status
from exchange.wire import encode
from loadgen.dialects import encode_compact, encode_rest, number_of, read_compact, read_rest
from loadgen.report import Report, Tally, to_json, to_table
from loadgen.session import Load, LoadError, Options, check, is_sustained
from loadgen.workload import CancelOrder, Market, NewOrder, flow

BTC = Market(
    symbol="BTCUSD",
    index=6,
    shard="s0",
    price_decimals=1,
    quantity_decimals=8,
    tick=5,
    lot=1,
    quantity_min=1,
    mid=783_200,
)
RESTS = NewOrder(BTC, Side.SELL, 783_205, 150_000_000, False, "r~000000~-0")
TAKES = NewOrder(BTC, Side.BUY, 783_210, 7, True, "r~000000~-1")
CANCEL = CancelOrder(BTC, "r~000002~-5")


def executed(status: Status) -> m.Executed:
    return m.Executed(1, 2, 3, False, 4, status, 0, 0, 0, [])


REJECTED = m.Rejected(1, 2, 3, False, 11, 5, 4, 0)
DENIED = (0, 503, "SHARD_DOWN", "shard s1 has no reachable primary", "r-1")


def test_a_compact_frame_holds_rows_in_units_and_its_number_as_id() -> None:
    frame = flow([BTC], batch=2, run="r", seed=1, encode=lambda _: encode_compact([RESTS, TAKES, CANCEL])).frame(5)
    id_, rows = msgspec.msgpack.decode(frame.build(0x1234ABCD))
    assert number_of(encode([id_, []])) == 0x1234ABCD
    assert rows == [
        [1, 6, 1, 0, 0, 0, 0, 783_205, 150_000_000, "r1234abcd-0"],
        [1, 6, 0, 0, 1, 0, 0, 783_210, 7, "r1234abcd-1"],
        [2, 6, 0, "r~000002~-5"],
    ]


def test_a_rest_request_holds_exact_decimals() -> None:
    request = encode_rest([RESTS], host="127.0.0.1", port=8080, account="load-0")
    head, _, body = request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /api/submit HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert b'"price":78320.5,"quantity":1.50000000,"time_in_force":"GTC"' in body

    batch = encode_rest([RESTS, TAKES], host="h", port=1, account="load-0").partition(b"\r\n\r\n")[2]
    assert b'"price":78321.0,"quantity":0.00000007,"time_in_force":"IOC"' in batch
    assert msgspec.json.decode(batch)["user_id"] == "load-0"

    cancel = encode_rest([CANCEL], host="h", port=1, account="load-0")
    assert cancel.startswith(b"DELETE /api/cancel/r~000002~-5?symbol=BTCUSD&user_id=load-0 HTTP/1.1\r\n")


def test_compact_answers_are_counted_by_what_became_of_each_order() -> None:
    results = [executed(Status.NEW), executed(Status.FILLED), executed(Status.PARTIALLY_FILLED), REJECTED, DENIED]
    results.append(executed(Status.CANCELED))
    assert read_compact(0, encode([1, results])) == {
        "new": 1,
        "filled": 2,
        "rejected": 1,
        "unavailable": 1,
        "cancelled": 1,
    }
    assert read_compact(0, encode([1, [], (0, 429, "ORDER_LIMIT", "too many", "")])) == "throttled"


def test_rest_answers_are_counted_by_status_line_and_by_result() -> None:
    assert read_rest(200, b'{"success":true,"order_id":"ORD-1","status":"PARTIALLY_FILLED","trades":[]}') == "filled"
    assert read_rest(200, b'{"results":[{"status":"NEW"},{"success":false,"http":504},{"http":400}]}') == {
        "new": 1,
        "unknown": 1,
        "rejected": 1,
    }
    assert [read_rest(status, b"{}") for status in (400, 409, 429, 503, 504)] == [
        "rejected",
        "rejected",
        "throttled",
        "unavailable",
        "unknown",
    ]


def report(**changes: object) -> Report:
    tally = Tally()
    tally.add({"new": 60, "filled": 4}, 2_000_000)
    tally.add({"cancelled": 64}, 9_000_000)
    seen = Report(
        protocol="ws",
        batch=64,
        connections=1,
        in_flight=8,
        duration_s=1.0,
        intended_per_s=130.0,
        achieved_per_s=128.0,
        sent=128,
        answered=tally.answered,
        outcomes=dict(tally.outcomes),
        by_shard={"s0": 128},
        latency=tally.latency(),
    )
    return msgspec.structs.replace(seen, **changes)


def test_a_report_counts_every_order_of_a_frame() -> None:
    seen = report()
    assert seen.answered == 128
    assert seen.latency.p50_us == pytest.approx(2_000, rel=0.01)
    assert seen.latency.max_us == pytest.approx(9_000, rel=0.01)
    assert msgspec.json.decode(to_json(seen))["outcomes"] == {"new": 60, "filled": 4, "cancelled": 64}
    assert to_table(seen).row_count == 5 + 3 + 1 + 6


@pytest.mark.parametrize(
    ("changes", "sustained"),
    [
        ({}, True),
        ({"achieved_per_s": 127.0}, False),
        ({"outcomes": {"new": 127, "throttled": 1}}, False),
        ({"outcomes": {"new": 127, "lost": 1}}, False),
        ({"outcomes": {"new": 100, "rejected": 28}}, True),
    ],
)
def test_a_rate_is_sustained_when_it_was_kept_up_and_nothing_was_refused(
    changes: dict[str, object], sustained: bool
) -> None:
    assert is_sustained(report(**changes), p99_us_max=10_000) is sustained
    assert not is_sustained(report(**changes), p99_us_max=5_000)


async def test_when_everything_stood_still_no_rate_was_sustained(monkeypatch: pytest.MonkeyPatch) -> None:
    async def stood_still(*_: object, **__: object) -> Report:
        return report(achieved_per_s=0.0, intended_per_s=None)

    monkeypatch.setattr(Load, "drive", stood_still)
    seen = await Load(Options(url="http://127.0.0.1:1")).find_max(duration_s=1)
    assert (seen.sustained, seen.intended_per_s) == (False, None)


def test_a_load_that_may_not_be_is_refused_with_everything_that_is_wrong() -> None:
    with pytest.raises(LoadError) as fault:
        check(Options(url="http://example.com:8080", batch=257, connections=2, in_flight=0, accounts=3))
    assert str(fault.value) == (
        "load goes to loopback addresses only, example.com is none; batch must be 1 to 256, not 257; "
        "in_flight must be 1 to 256, not 0; accounts must be 1 to the number of connections (2), not 3"
    )
    check(Options(url="http://[::1]:8080"))
    check(Options(url="http://localhost:8080"))
