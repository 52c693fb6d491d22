"""Every failpoint strikes once on real nodes: what was acknowledged is there afterwards, and both nodes are equal."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from exchange import failpoints
from exchange.config import Replication
from exchange.errors import ConfigError
from exchange.failpoints import Point
from shardex import journal
from tests.shard.pair import A, B, Pair, resend, trade
from tests.shard.peers import order, short_directory

Process = subprocess.Popen[bytes]
Story = Callable[["Stage", Point], None]


class Stage:
    """A pair in which one point of one node is armed; `action` strikes it as soon as `trigger` exists."""

    def __init__(self, root: Path, action: str) -> None:
        self.pair = Pair(
            root, replication=Replication(shrink_ms=1_000), segment_bytes=20_000, snapshot_every_bytes=30_000
        )
        self.action = action
        self.trigger = root / "strike"
        self.acknowledged: dict[int, dict[str, object]] = {}
        self._number = 0

    def armed(self, point: Point) -> str:
        return f"{point}:{self.action}:{self.trigger}"

    def trade(self, *, count: int = 10) -> None:
        """Orders that are answered."""
        self._number += 1
        self.acknowledged[self._number] = (count, trade(self.pair.door(), self._number, count=count))

    def strike(self, node: str, cause: Callable[[], object]) -> None:
        """Let the point strike when `cause` leads there; a process that dies of it is started again."""
        process = self.pair.lives[node]
        self.trigger.touch()
        cause()
        self.pair.until(lambda: not self.trigger.exists())
        self.end(node, process)

    def end(self, node: str, process: Process) -> None:
        """What the strike has left."""
        pair = self.pair
        if self.action.startswith("pause"):
            return
        pair.until(lambda: process.poll() is not None)
        if pair.lives.get(node) is process:
            del pair.lives[node]
        pair.led.bury(node)
        if pair.primary == node and pair.standby in pair.led.isr and pair.standby in pair.lives:
            pair.led.fail_over()
        if node not in pair.lives:
            pair.start(node)

    def orders_under_way(self) -> None:
        """Sent, and nobody waits for the answer."""
        gateway = self.pair.door()
        for number in range(5):
            gateway.send(*(order(900_000 + 10 * number + one) for one in range(10)))
        self._keep = gateway

    def settle(self) -> None:
        """Both nodes are there, all first answers are given again, both journals are whole and equal."""
        pair = self.pair
        pair.until_paired()
        for number, (count, answers) in self.acknowledged.items():
            resend(pair.door(), number, answers, count=count)
        trade(pair.door(), 5_000)
        pair.until_even()
        records = []
        for node in (A, B):
            pair.kill(pair.lives.pop(node))
            directory = pair.config.node_directory(node)
            verdict = journal.verify(directory, lambda _done, _all: None)
            assert verdict.state in (journal.State.OK, journal.State.TORN), verdict.detail
            records.append(pair.records(node))
        for seq, record in records[0].items():
            assert records[1].get(seq, record) == record


def of_the_primary(stage: Stage, point: Point) -> None:
    stage.pair.start_both(failpoints={A: stage.armed(point)})
    stage.trade()
    stage.strike(A, stage.orders_under_way)


def of_the_standby(stage: Stage, point: Point) -> None:
    stage.pair.start_both(failpoints={B: stage.armed(point)})
    stage.trade()
    stage.strike(B, stage.orders_under_way)


def of_a_new_primary(stage: Stage, point: Point) -> None:
    pair = stage.pair
    pair.start_both(failpoints={B: stage.armed(point)})
    stage.trade()
    pair.kill_primary()
    stage.strike(B, pair.led.fail_over)
    pair.until_serving(B)
    pair.start(A)


def of_a_primary_that_becomes_alone(stage: Stage, point: Point) -> None:
    pair = stage.pair
    pair.start_both(failpoints={A: stage.armed(point)})
    stage.trade()
    stage.strike(A, lambda: pair.kill_node(B))
    pair.until_serving(A)
    pair.start(B)


def of_a_cut(stage: Stage, point: Point) -> None:
    pair = stage.pair
    pair.start_both()
    for _ in range(5):
        stage.trade(count=100)
    pair.until_whole()
    pair.led.unwilling = True
    pair.kill_node(B)
    seq = max(pair.records(A))
    stage.orders_under_way()
    pair.until(lambda: max(pair.records(A)) > seq)
    pair.kill_node(A)
    pair.start(B)
    pair.until_serving(B)
    pair.led.unwilling = False
    stage.trigger.touch()
    process = pair.start(A, failpoint=stage.armed(point))
    pair.until(lambda: not stage.trigger.exists())
    stage.end(A, process)
    pair.until_paired()
    assert pair.divergent(A)


def of_a_snapshot(stage: Stage, point: Point) -> None:
    """Only the child that writes it is struck; the next snapshot comes."""
    pair = stage.pair
    pair.start_both(failpoints={B: stage.armed(point)})
    stage.trigger.touch()
    while stage.trigger.exists():
        stage.trade(count=100)
    while not pair.snapshots(B):
        stage.trade(count=100)


def of_a_hand_over(stage: Stage, point: Point) -> None:
    pair = stage.pair
    gives = point is Point.HANDOVER_BEFORE_PART
    pair.start_both()
    stage.trade()
    pair.leave_behind(B, failpoint=stage.armed(point) if gives else "")
    last_seq = max(pair.records(B))
    while pair.oldest(A) <= last_seq:
        stage.trade(count=100)
    stage.trigger.touch()
    taker = pair.start(B, failpoint="" if gives else stage.armed(point))
    victim, process = (A, pair.lives[A]) if gives else (B, taker)
    pair.until(lambda: not stage.trigger.exists())
    stage.end(victim, process)


STORIES: dict[Point, Story] = {
    Point.PROMISE_BEFORE: of_a_new_primary,
    Point.PROMISE_AFTER: of_a_new_primary,
    Point.STATE_WRITTEN: of_a_new_primary,
    Point.STATE_ONE_COPY: of_a_new_primary,
    Point.FILE_BEFORE_RENAME: of_a_new_primary,
    Point.W4_BEFORE_WRITE: of_the_primary,
    Point.W5_WRITTEN: of_the_primary,
    Point.W5_SENT: of_the_primary,
    Point.W5_APPLIED: of_the_primary,
    Point.W5_SYNCED: of_the_primary,
    Point.W6_BEFORE_WRITE: of_the_standby,
    Point.W6_WRITTEN: of_the_standby,
    Point.W6_APPLIED: of_the_standby,
    Point.W6_SYNCED: of_the_standby,
    Point.W6_BEFORE_ACK: of_the_standby,
    Point.W8_BEFORE_RELEASE: of_the_primary,
    Point.W8_RELEASED: of_the_primary,
    Point.ISR_BEFORE_ASK: of_a_primary_that_becomes_alone,
    Point.ISR_ASKED: of_a_primary_that_becomes_alone,
    Point.CUT_BEFORE_ARCHIVE: of_a_cut,
    Point.CUT_ARCHIVED: of_a_cut,
    Point.CUT_SNAPSHOTS_REMOVED: of_a_cut,
    Point.CUT_TRUNCATED: of_a_cut,
    Point.SNAPSHOT_BEFORE_WRITE: of_a_snapshot,
    Point.SNAPSHOT_RENAMED: of_a_snapshot,
    Point.HANDOVER_BEFORE_PART: of_a_hand_over,
    Point.HANDOVER_RECEIVED: of_a_hand_over,
    Point.REBUILD_MARKED: of_a_hand_over,
    Point.REBUILD_WIPED: of_a_hand_over,
    Point.REBUILD_PLACED: of_a_hand_over,
}


def test_every_point_has_its_story() -> None:
    others = [point for point in Point if point not in STORIES]
    assert others == [Point.APPLY, Point.COORDINATOR_BEFORE_WRITE, Point.COORDINATOR_AFTER_WRITE]


@pytest.mark.parametrize("point", STORIES)
def test_a_process_that_dies_at_any_step_loses_nothing(point: Point) -> None:
    tell(point, "exit")


@pytest.mark.slow
@pytest.mark.parametrize("action", ["eio", "pause_1000"])
@pytest.mark.parametrize("point", STORIES)
def test_a_disk_that_fails_or_a_pause_at_any_step_loses_nothing(point: Point, action: str) -> None:
    tell(point, action)


def tell(point: Point, action: str) -> None:
    with short_directory() as root:
        stage = Stage(root, action)
        try:
            STORIES[point](stage, point)
            stage.settle()
        finally:
            stage.pair.close()


@pytest.mark.parametrize("text", ["w5-sent", "w5-sent:", "w5-sent:explode", "nowhere:exit", "w5-sent:pause_x", ":exit"])
def test_a_failpoint_that_is_not_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="SHARDEX_FAILPOINT must be POINT"):
        failpoints.arm(text)
