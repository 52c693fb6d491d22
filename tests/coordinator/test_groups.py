"""Coordinator and nodes as processes: deaths noticed by the kernel or by silence, operators, kill -9, pauses."""

import signal
import time
from collections.abc import Callable, Iterator

import msgspec
import pytest

from coordinator.core.group import Group
from coordinator.store.sqlite import read_history
from exchange import messages as m
from exchange.config import Replication
from exchange.failpoints import VARIABLE, Point
from tests.daemons import PATIENCE_S, Place, Process

NEVER_MS = 600_000
"""With this bound nobody is found by silence: what happens then was noticed in another way, and no node that is kept
from running for a while loses its place in a story that is not about that."""
PATIENT_MS = 1_500
"""For stories that need silence to be found, and no more of it than they make themselves."""
PAUSE_S = 2 * PATIENT_MS / 1_000


class Stage:
    """A coordinator and the nodes of s0, looked at through a gateway's map and an operator's eyes."""

    def __init__(self, replication: Replication) -> None:
        self.place = Place(replicas=2, replication=replication)
        self.coordinator = self.place.start("coordinator", "c0")
        self.gateway = self.place.peer("gateway:g0")
        self.cli = self.place.peer("cli:1")
        self.nodes: dict[str, Process] = {}

    def start(self, name: str, *options: str) -> None:
        self.nodes[name] = self.place.start("tests.coordinator.node", name, *options)

    def pair(self, *, a: tuple[str, ...] = (), b: tuple[str, ...] = ()) -> None:
        """s0-a leads, s0-b is in sync."""
        self.gateway.register()
        self.start("s0-a", *a)
        self.led_by("s0-a", 1)
        self.start("s0-b", *b)
        self.in_sync("s0-a", "s0-b")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        self.place.kill(self.nodes.pop(name), number)

    def led_by(self, node: str, epoch: int) -> None:
        """Wait until this node serves in this term, as the map says."""

        def serves(map_: m.ShardMap) -> bool:
            entry = map_.shards[0]
            return (entry.node, entry.epoch, entry.serving) == (node, epoch, True)

        self.gateway.ask(m.AskMap(), m.ShardMap, serves)

    def shard(self, when: Callable[[m.ShardStatus], bool]) -> m.ShardStatus:
        """Wait until an operator sees this of s0."""
        return self.cli.ask(m.AskStatus(), m.ClusterStatus, lambda status: when(status.shards[0])).shards[0]

    def in_sync(self, *nodes: str) -> m.ShardStatus:
        return self.shard(lambda shard: shard.isr == list(nodes))

    def healthy(self, *nodes: str) -> None:
        def well(status: m.ClusterStatus) -> bool:
            return all(row.health == "healthy" for row in status.daemons if row.name in nodes)

        self.cli.ask(m.AskStatus(), m.ClusterStatus, well)

    def coordinator_ran(self) -> None:
        """Wait until the coordinator has judged everybody since it stood still: it hears itself in the same step."""
        self.cli.ask(m.AskStatus(), m.ClusterStatus, lambda status: status.daemons[0].age_ms < PATIENT_MS)

    def operate(self, message: m.Switch | m.Elect) -> str:
        """Say it once and wait for the end."""
        self.cli.send(message)
        return self.cli.wait(m.Operated).refused

    def records(self) -> list[Group]:
        """Every record that s0 ever had."""
        history = read_history(self.place.config.data / "control")
        return [msgspec.msgpack.decode(row.value, type=Group) for row in history if row.key == "shard/s0"]


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    stage = Stage(getattr(request, "param", Replication()))
    yield stage
    stage.place.close()


def replication(**values: int) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("stage", [Replication(**values)], indirect=True)  # type: ignore[arg-type]


@replication(suspect_ms=NEVER_MS)
def test_a_killed_primary_is_replaced_without_waiting_for_silence(stage: Stage) -> None:
    stage.pair()
    stage.kill("s0-a")
    stage.led_by("s0-b", 2)
    assert stage.in_sync("s0-b").flags == ["SOLO", "NO_FAILOVER"]
    stage.start("s0-a")
    stage.in_sync("s0-a", "s0-b")
    stage.kill("s0-b")
    stage.led_by("s0-a", 3)


@replication(suspect_ms=PATIENT_MS)
def test_a_primary_that_stands_still_is_replaced_and_follows_when_it_wakes(stage: Stage) -> None:
    stage.pair()
    stage.nodes["s0-a"].send_signal(signal.SIGSTOP)
    stage.led_by("s0-b", 2)
    stage.nodes["s0-a"].send_signal(signal.SIGCONT)
    stage.in_sync("s0-a", "s0-b")
    stage.led_by("s0-b", 2)


def test_a_primary_that_its_standby_hears_is_given_time(stage: Stage) -> None:
    stage.pair(b=("--hears", "20"))
    stage.nodes["s0-a"].send_signal(signal.SIGSTOP)
    stage.shard(lambda shard: not shard.serving)
    stage.nodes["s0-a"].send_signal(signal.SIGCONT)
    stage.led_by("s0-a", 1)
    stage.nodes["s0-a"].send_signal(signal.SIGSTOP)
    stage.led_by("s0-b", 2)


@replication(suspect_ms=NEVER_MS)
def test_the_first_of_the_set_that_comes_back_leads(stage: Stage) -> None:
    stage.pair()
    stage.kill("s0-b")
    stage.shard(lambda shard: "NO_FAILOVER" in shard.flags)
    stage.kill("s0-a")
    stage.shard(lambda shard: not shard.serving)
    stage.start("s0-b")
    stage.led_by("s0-b", 2)
    stage.start("s0-a")
    stage.in_sync("s0-a", "s0-b")
    assert [record.unclean for record in stage.records() if record.unclean] == []


@replication(suspect_ms=NEVER_MS)
def test_an_operator_switches_back_and_forth(stage: Stage) -> None:
    stage.pair()
    for epoch, node in ((2, "s0-b"), (3, "s0-a")):
        assert stage.operate(m.Switch("me", "s0")) == ""
        stage.led_by(node, epoch)
        stage.in_sync("s0-a", "s0-b")


@replication(suspect_ms=NEVER_MS)
def test_a_primary_that_does_not_hand_over_goes_on(stage: Stage) -> None:
    stage.pair(a=("--deaf",))
    assert stage.operate(m.Switch("me", "s0")) == "shard s0: s0-a did not drain within 2 s: it goes on"
    stage.led_by("s0-a", 1)


@replication(suspect_ms=PATIENT_MS, failovers_max=1)
def test_a_shard_that_flaps_waits_for_an_operator(stage: Stage) -> None:
    stage.pair()
    stage.kill("s0-a")
    stage.led_by("s0-b", 2)
    stage.start("s0-a")
    stage.in_sync("s0-a", "s0-b")
    stage.nodes["s0-b"].send_signal(signal.SIGSTOP)
    stage.shard(lambda shard: "FLAPPING" in shard.flags)
    assert stage.operate(m.Elect("me", "s0", "s0-a", False)) == ""
    stage.led_by("s0-a", 3)


@replication(suspect_ms=NEVER_MS)
def test_an_operator_who_accepts_a_loss_leaves_a_mark(stage: Stage) -> None:
    stage.pair()
    stage.kill("s0-a")
    stage.led_by("s0-b", 2)
    stage.kill("s0-b")
    stage.shard(lambda shard: not shard.serving)
    stage.start("s0-a")
    stage.healthy("s0-a")
    assert "say --accept-loss" in stage.operate(m.Elect("me", "s0", "s0-a", False))
    assert stage.operate(m.Elect("me", "s0", "s0-a", True)) == ""
    stage.led_by("s0-a", 3)
    assert "UNCLEAN" in stage.in_sync("s0-a").flags


@replication(suspect_ms=NEVER_MS)
@pytest.mark.parametrize("point", [Point.COORDINATOR_BEFORE_WRITE, Point.COORDINATOR_AFTER_WRITE])
def test_a_coordinator_killed_in_a_failover_ends_it_when_it_is_back(stage: Stage, point: Point) -> None:
    stage.pair()
    stage.place.kill(stage.coordinator)
    armed = stage.place.directory / "now"
    stage.coordinator = stage.place.start("coordinator", "c0", **{VARIABLE: f"{point}:exit:{armed}"})
    stage.healthy("s0-a", "s0-b")
    armed.touch()
    stage.kill("s0-a")
    assert stage.coordinator.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    stage.coordinator = stage.place.start("coordinator", "c0")
    stage.led_by("s0-b", 2)
    terms = [record.epoch for record in stage.records()]
    assert (terms[-1], sorted(terms)) == (2, terms)
    assert {record.primary[0] for record in stage.records() if record.epoch == 2} == {"s0-b"}


@replication(suspect_ms=NEVER_MS)
def test_nodes_do_not_notice_a_coordinator_that_starts_again(stage: Stage) -> None:
    stage.pair()
    before = stage.records()
    stage.place.kill(stage.coordinator)
    stage.coordinator = stage.place.start("coordinator", "c0")
    stage.healthy("s0-a", "s0-b")
    stage.led_by("s0-a", 1)
    assert stage.records() == before
    stage.kill("s0-a")
    stage.led_by("s0-b", 2)


@replication(suspect_ms=PATIENT_MS)
def test_a_coordinator_that_stood_still_blames_nobody(stage: Stage) -> None:
    stage.pair()
    before = stage.records()
    stage.coordinator.send_signal(signal.SIGSTOP)
    time.sleep(PAUSE_S)  # the pause itself: longer than any silence that is tolerated
    stage.coordinator.send_signal(signal.SIGCONT)
    stage.coordinator_ran()
    stage.healthy("s0-a", "s0-b")
    assert stage.records() == before


def test_a_stranger_s_process_id_is_not_watched(stage: Stage) -> None:
    """The peers here live in this very process, which does not bear their titles: only silence ends them."""
    a, b = stage.place.peer("shard:s0-a"), stage.place.peer("shard:s0-b")
    stage.gateway.register()
    a.register()
    b.register()
    a.beat(role="primary", epoch=1)
    # Every map is told, however short it was true; who asks may come too late.
    stage.gateway.wait(m.ShardMap, lambda map_: map_.shards[0].serving)
    stage.gateway.wait(m.ShardMap, lambda map_: not map_.shards[0].serving)
