"""What only replay can show: sums that do not come out, ids that ran again, logs of which parts are missing."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from drills.checker.check import Inputs, check
from exchange import messages as m
from exchange.domain import NS_PER_S, Side, State, TimeInForce
from exchange.errors import JournalError
from exchange.wire import array_header, decode_commands, decode_frame, encode
from shard.core.engine import create_engine
from shard.core.outcome import decode_outcome, encode_outcome
from shard.core.record import ALIGNMENT, HEAD_BYTES, decode_head, encode_record
from tests.drills.judge import judge
from tests.drills.story import BTC, A, B, Builder, clean, order

replace = msgspec.structs.replace


# --- defects of an engine: replay itself tells what no true engine would ------------------------------------------


class Defective:
    """A true engine behind a defect: `before` changes commands, `after` changes frames."""

    def __init__(
        self,
        config: m.EngineConfig,
        before: Callable[[m.Command], m.Command] = lambda command: command,
        after: Callable[[m.EventFrame], m.EventFrame] = lambda frame: frame,
    ) -> None:
        self._engine = create_engine(config)
        self._before = before
        self._after = after

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def apply(self, record: bytes) -> bytes:
        head = decode_head(record)
        payload = record[HEAD_BYTES : HEAD_BYTES + head.payload_bytes]
        commands = [self._before(command) for command in decode_commands(array_header(head.count) + payload)]
        changed = encode_record(
            epoch=head.epoch,
            first_seq=head.first_seq,
            ts_ns=head.ts_ns,
            prev_chain=head.prev_chain,
            commands=[encode(command) for command in commands],
        )
        replies, frame = decode_outcome(self._engine.apply(changed))
        return encode_outcome(replies, encode(self._after(decode_frame(frame))))


def positions_do_not_add_up(frame: m.EventFrame) -> m.EventFrame:
    rows = [replace(row, position=row.position + (row.account == "bob")) for row in frame.positions]
    return replace(frame, positions=rows)


def the_book_is_crossed(frame: m.EventFrame) -> m.EventFrame:
    """The two sides of an order are exchanged wherever it is told."""
    levels = [replace(row, price=row.price + 50 * (row.side == Side.BUY)) for row in frame.levels]
    orders = [replace(row, price=row.price + 50 * (row.side == Side.BUY)) for row in frame.orders]
    trades = [replace(row, price=row.price + 50) for row in frame.trades]
    return replace(frame, levels=levels, orders=orders, trades=trades)


def a_fill_of_nobody(frame: m.EventFrame) -> m.EventFrame:
    return replace(frame, trades=[replace(row, maker_order_id=999) for row in frame.trades])


def a_trade_at_another_price(frame: m.EventFrame) -> m.EventFrame:
    return replace(frame, trades=[replace(row, price=row.price + 1) for row in frame.trades])


def a_level_too_many(frame: m.EventFrame) -> m.EventFrame:
    rows = [*frame.levels, m.LevelRow(BTC, 0, 1, 1, 1)] if frame.first_seq == 1 else frame.levels
    return replace(frame, levels=rows)


@pytest.mark.parametrize(
    "defect",
    [positions_do_not_add_up, the_book_is_crossed, a_fill_of_nobody, a_trade_at_another_price, a_level_too_many],
)
def test_sums_that_do_not_come_out_are_found(tmp_path: Path, defect: Callable[[m.EventFrame], m.EventFrame]) -> None:
    world = clean().world
    world.captures.clear()
    report = judge(world, tmp_path, create=lambda config: Defective(config, after=defect))
    assert set(report.counts) == {"I12"}, report.lines()


def test_trading_in_a_halt_and_with_oneself_is_found(tmp_path: Path) -> None:
    for defect, said in ((_halted, "in state HALT"), (_with_oneself, "trades with itself")):
        world = clean().world
        world.captures.clear()
        data = tmp_path / said.replace(" ", "-")
        report = judge(world, data, create=lambda config, defect=defect: Defective(config, after=defect))
        assert set(report.counts) == {"I12"}
        assert any(said in finding.sentence for finding in report.findings)


def test_who_touches_anothers_order_is_found(tmp_path: Path) -> None:
    builder = clean()
    builder.ask(m.Cancel("eve", BTC, 0, "a6"))
    assert builder.world.calls[-1].outcome.reason == "UNKNOWN_ORDER"
    world = builder.world
    world.captures.clear()

    def forget_the_owner(command: m.Command) -> m.Command:
        return (
            replace(command, account="ann") if isinstance(command, m.Cancel) and command.target_id == "a6" else command
        )

    world.calls.pop()
    report = judge(world, tmp_path, create=lambda config: Defective(config, before=forget_the_owner))
    assert set(report.counts) == {"I15"}, report.lines()


# --- what no engine forbids once it has forgotten -----------------------------------------------------------------


def _forgetful() -> Builder:
    """After an hour of log time this shard has forgotten every id whose order is over."""
    builder = Builder(ids_window_ns=NS_PER_S)
    builder.lead(A, 1)
    builder.world.promised = {A: 1, B: 1}
    builder.world.incarnations = {A: 1, B: 2}
    return builder


def test_an_id_that_ran_again_after_it_was_forgotten_is_found(tmp_path: Path) -> None:
    builder = _forgetful()
    passing = order("again", Side.BUY, 1, time_in_force=TimeInForce.IOC)
    builder.ask(passing)
    builder.tick(3_600 * NS_PER_S)
    (reply,) = builder.ask(passing)
    assert isinstance(reply, m.Executed)
    assert not reply.duplicate
    report = judge(builder.world, tmp_path)
    assert set(report.counts) == {"I4"}, report.lines()


def test_a_newly_signed_request_with_a_forgotten_id_is_a_new_order(tmp_path: Path) -> None:
    builder = _forgetful()
    passing = order("again", Side.BUY, 1, time_in_force=TimeInForce.IOC)
    builder.ask(passing)
    builder.tick(3_600 * NS_PER_S)
    builder.ask(replace(passing, client_ns=10**16))
    assert judge(builder.world, tmp_path).clean


def test_a_voided_id_that_ran_late_is_found(tmp_path: Path) -> None:
    builder = _forgetful()
    builder.ask(m.Resolve("ann", BTC, "late"))
    builder.tick(3_600 * NS_PER_S)
    builder.ask(order("late", Side.BUY, 1, time_in_force=TimeInForce.IOC))
    report = judge(builder.world, tmp_path)
    assert set(report.counts) == {"I7"}, report.lines()


# --- reading ------------------------------------------------------------------------------------------------------


def test_a_log_that_begins_with_a_snapshot_finds_what_is_missing_in_other_files(tmp_path: Path) -> None:
    """The primary's first file is gone, as after a hand-over; the other node still has what is missing."""
    world = clean().world
    world.after_write.append(lambda data: sorted((data / "shards" / B).glob("*.segment"))[0].unlink())
    report = judge(world, tmp_path)
    assert report.clean, report.lines()
    assert report.coverage.unchecked_answers == 0


def test_what_lies_before_every_file_is_told_as_unchecked(tmp_path: Path) -> None:
    builder = clean()
    world = builder.world
    world.versions.append(replace(world.versions[-1], epoch=3, primary=(B, 2)))
    builder.lead(B, 2)
    builder.snapshot(B)
    builder.ask(order("z1", Side.BUY, 2, 70), order("z2", Side.SELL, 1, 70, account="bob"))
    world.promised = {A: 3, B: 3}
    for node in (A, B):
        world.after_write.append(lambda data, node=node: _forget_before_term_3(data / "shards" / node))
    world.snapshots[A].clear()
    report = judge(world, tmp_path)
    assert report.clean, report.lines()
    assert report.coverage.answers == 2
    assert report.coverage.unchecked_answers > 10
    assert any("were not checked" in note for note in report.notes)


def test_a_torn_tail_of_a_killed_node_is_no_finding(tmp_path: Path) -> None:
    world = clean().world

    def tear(data: Path) -> None:
        path = sorted((data / "shards" / A).glob("*.segment"))[-1]
        content = path.read_bytes().rstrip(b"\0")
        content += bytes(-len(content) % ALIGNMENT)
        path.write_bytes(content + content[512:560] + b"torn")

    world.after_write.append(tear)
    assert judge(world, tmp_path).clean


def test_snapshots_that_a_running_node_removes_meanwhile_are_compared_all_the_same(tmp_path: Path) -> None:
    def remove(stage: str, *_: int) -> None:
        if stage.startswith("reading s0"):
            for path in (tmp_path / "shards").glob("*/*.snapshot"):
                path.unlink()

    report = judge(clean().world, tmp_path, progress=remove)
    assert report.clean, report.lines()
    assert report.coverage.snapshots == 2
    assert not list((tmp_path / "shards").glob("*/*.snapshot"))


def test_a_directory_without_journals_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="holds no journal"):
        check(Inputs(data=tmp_path), progress=lambda *_: None)


def _forget_before_term_3(directory: Path) -> None:
    for path in sorted(directory.glob("*.segment"))[:2]:
        path.unlink()


def _halted(frame: m.EventFrame) -> m.EventFrame:
    return replace(frame, states=[replace(row, state=State.HALT) for row in frame.states])


def _with_oneself(frame: m.EventFrame) -> m.EventFrame:
    orders = [replace(row, account="ann") if row.client_order_id == "b1" else row for row in frame.orders]
    trades = [replace(row, taker_account="ann") if row.taker_client_order_id == "b1" else row for row in frame.trades]
    return replace(frame, orders=orders, trades=trades)
