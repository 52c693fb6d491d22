"""Who gets which epoch and incarnation, what the map says, and what a restarted coordinator still knows."""

from typing import Any

import pytest

from coordinator.core.cluster import DAEMONS_MAX, Inbound
from exchange import messages as m
from exchange.domain import NS_PER_MS, NS_PER_S
from exchange.errors import ConfigError, StoreError, WireError
from exchange.limits import BEAT_SUSPECT_NS
from exchange.wire import decode_coordinator_outbound
from tests.coordinator.world import (
    A0,
    A1,
    B0,
    CLI,
    G0,
    INSTRUMENTS,
    NODES,
    TICK_NS,
    World,
    endpoints,
    instrument,
    registration,
    said,
)


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_map_knows_the_instruments_and_nobody_who_serves_them(world: World) -> None:
    assert world.cluster.map == m.ShardMap(
        1, [m.ShardEntry(s, 0, "", 0, "", "", False) for s in ("s0", "s1")], INSTRUMENTS
    )


def test_the_first_node_leads_and_its_shard_serves_once_it_says_so(world: World) -> None:
    assert world.register(A0) == m.Registered(1, 1)
    orders, events = "ipc:///run/orders.s0-a", "ipc:///run/events.s0-a"
    assert world.entry("s0") == m.ShardEntry("s0", 1, "s0-a", 1, orders, events, False)
    version = world.cluster.map.version
    assert said(world.beat(A0, ready=False), m.BeatSeen) == [m.BeatSeen(version, True)]
    assert said(world.beat(A0, ready=True), m.BeatSeen) == [m.BeatSeen(version + 1, True)]
    assert world.entry("s0").serving
    assert not world.entry("s1").serving


def test_ready_means_ready_to_lead_this_term(world: World) -> None:
    """A standby that is well beats ready too: the beat that it sent before it was promoted must not open the term."""
    world.register(A0)
    world.beat(A0, role="standby")
    assert not world.entry("s0").serving
    world.beat(A0, epoch=0)
    assert not world.entry("s0").serving
    world.beat(A0)
    assert world.entry("s0").serving


def test_each_start_of_the_only_node_is_a_new_term(world: World) -> None:
    assert world.up(A1) == m.Registered(1, 1)
    assert world.register(A1, promised_epoch=1, session="second") == m.Registered(2, 2)
    assert not world.entry("s1").serving
    assert said(world.beat(A1, incarnation=1), m.BeatSeen) == [m.BeatSeen(world.cluster.map.version, False)]
    assert not world.entry("s1").serving
    world.beat(A1)
    assert (world.entry("s1").epoch, world.entry("s1").incarnation, world.entry("s1").serving) == (2, 2, True)


def test_a_registration_that_is_repeated_gets_the_same_answer(world: World) -> None:
    first = world.register(A1)
    version = world.cluster.map.version
    assert world.register(A1) == first
    assert world.register(A1, promised_epoch=1) == first
    assert world.cluster.map.version == version
    world.beat(A1)
    again = world.register(A1, promised_epoch=1, session="second")
    assert (again.epoch, world.register(A1, promised_epoch=1, session="second")) == (2, again)


def test_a_late_copy_of_an_ended_session_s_registration_changes_nothing(world: World) -> None:
    world.up(A1)
    world.up(A1, promised_epoch=1, session="second")
    before = world.group("s1")
    assert "was started again: session session-s1-a is over" in world.register(A1).refused
    assert world.group("s1") == before
    assert world.entry("s1").serving


def test_a_swapped_data_directory_is_refused(world: World) -> None:
    world.up(A1)
    before = world.cluster.map
    refused = world.register(A1, uuid="journal-other", promised_epoch=1, session="second").refused
    assert "journal has uuid journal-other, the shard's only copy is journal-s1-a" in refused
    assert world.cluster.map == before


def test_a_store_that_went_back_in_time_is_noticed(world: World) -> None:
    world.up(A1)
    refused = world.register(A1, promised_epoch=9, session="second").refused
    assert refused.startswith("METADATA_BEHIND")
    assert "has seen version 0 and promised epoch 9, the control store is at 2 and 1" in refused
    assert world.register(A1, promised_epoch=9).refused == refused
    assert "has seen version 99" in world.register(A1, view_ver=99, session="second").refused
    assert world.register(A1, session="third", promised_epoch=1).refused.startswith("METADATA_BEHIND")
    assert World().register(A1, promised_epoch=1).refused.startswith("METADATA_BEHIND")


def test_somebody_else_s_journal_does_not_say_that_the_store_is_behind(world: World) -> None:
    world.up(A1)
    assert world.register(A1, uuid="other", session="x", promised_epoch=9).refused.startswith("METADATA_BEHIND")
    assert world.register(A1, session="second", promised_epoch=1) == m.Registered(2, 2)


def _shrink(world: World) -> m.AskIsr:
    session = world.group("s0").current("s0-a")
    return m.AskIsr("s0", 1, world.ver("s0"), world.group("s0").epoch, *session, [m.Member(*session, "")])


def test_a_store_that_is_behind_a_living_node_decides_nothing(world: World) -> None:
    world.pair()
    world.beat(A0, view=99)
    assert world.status("s0").flags == ["NO_FAILOVER", "METADATA_BEHIND"]
    assert world.cluster.status(world.now).health == "degraded"
    before = world.group("s0")
    assert world.say(A0, _shrink(world)) == []  # a copy that comes when the store was put right might be granted
    refused = [said(world.say(CLI, message), m.Operated)[0].refused for message in (
        m.Switch("me", "s0"), m.Elect("me", "s0", "s0-b", True)
    )]  # fmt: skip
    assert all("METADATA_BEHIND" in sentence for sentence in refused)
    world.gone("s0-a")
    world.pass_time(3 * NS_PER_S)
    assert world.group("s0") == before


def test_a_journal_that_went_back_in_time_is_noticed(world: World) -> None:
    world.up(A1)
    world.up(A1, promised_epoch=1, session="second")
    refused = world.register(A1, promised_epoch=1, session="third").refused
    assert refused.startswith("JOURNAL_BEHIND")
    assert "has served epoch 2, its journal knows only 1" in refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "s9-a"}, "node 's9-a' of shard 's0' is not in the configuration; there are s0-a of s0, s0-b of s0"),
        ({"shard": "s1"}, "node 's0-a' of shard 's1' is not in the configuration"),
        ({"role": "wizard"}, "role 'wizard' is not one of"),
        ({"uuid": ""}, "uuid must match"),
        ({"uuid": "x" * 65}, "uuid must match"),
        ({"session": ""}, "session must match"),
        ({"session": "x y"}, "session must match"),
        ({"endpoints": {"orders": "ipc:///o"}}, "endpoint 'events' must match"),
        ({"endpoints": {"orders": "ipc:///o", "events": "ipc:///e"}}, "endpoint 'replica' must match"),
        ({"endpoints": {}}, "endpoint 'orders' must match"),
        ({"endpoints": {"orders": "http://example.org", "events": "ipc:///e"}}, "endpoint 'orders' must match"),
        ({"endpoints": {"orders": "tcp://host", "events": "ipc:///e"}}, "endpoint 'orders' must match"),
        ({"endpoints": {"orders": "ipc:///" + "x" * 100, "events": "ipc:///e"}}, "endpoint 'orders' must match"),
        ({"endpoints": endpoints("x") | {"rest": "ftp://example.org"}}, "endpoint 'rest' must match"),
        ({"endpoints": {"Orders!": "ipc:///o"}}, "endpoint 'Orders!' must match"),
        ({"endpoints": {f"e{n}": "ipc:///e" for n in range(9)}}, "9 endpoints, at most 8"),
        ({"promised_epoch": -1}, "promised_epoch must be 0 to"),
        ({"promised_epoch": 2**32}, "promised_epoch must be 0 to"),
        ({"last_epoch": -1}, "last_epoch must be 0 to"),
        ({"last_seq": -1}, "last_seq must be 0 to"),
        ({"view_ver": -1}, "view_ver must be 0 to"),
        ({"pid": 0}, "pid must be 1 to"),
        ({"pid": 2**40}, "pid must be 1 to"),
    ],
)
def test_who_may_not_take_part_is_told_why(world: World, changes: dict[str, Any], sentence: str) -> None:
    before = world.cluster.map
    register = registration(A0, **changes)
    peer = f"{register.role}:{register.name}".encode()
    [(to, answer)] = world.say(peer, register)
    assert to == peer
    assert isinstance(answer, m.Registered)
    assert (answer.incarnation, answer.epoch) == (0, 0)
    assert sentence in answer.refused
    assert world.cluster.map == before


@pytest.mark.parametrize(
    ("peer", "message"),
    [
        (G0, registration(A0)),
        (A1, m.Beat("shard", "s0-a", 1, 0, False, {})),
        (b"\x00\x01\x02", registration(G0)),
        (b"gateway:G 0", registration(b"gateway:G 0")),
        (b"gateway:", registration(b"gateway:")),
        (b"gateway:a/b", registration(b"gateway:a/b")),
        (G0, m.AskIsr("s0", 1, 1, 1, "s0-a", 1, [])),
        (A1, m.AskIsr("s0", 1, 1, 1, "s0-a", 1, [])),
        (A1, m.AskIsr("s0", 1, 1, 1, "s1-a", 1, [])),
        (A0, m.AskIsr("s9", 1, 1, 1, "s0-a", 1, [])),
        (A1, m.Drained("s0", 1, "s1-a", 1, m.Member("s0-b", 1, ""), 5)),
        (G0, m.Switch("me", "s0")),
        (A0, m.Elect("me", "s0", "s0-b", True)),
    ],
)
def test_nobody_speaks_for_another(world: World, peer: bytes, message: Inbound) -> None:
    world.pair()
    before = world.cluster.map
    with pytest.raises(WireError):
        world.cluster.on_message(peer, message, 0)
    assert world.perform() == []
    assert world.cluster.map == before


def test_other_daemons_get_an_incarnation_for_each_process(world: World) -> None:
    assert world.register(G0) == m.Registered(1, 0)
    assert world.register(G0) == m.Registered(1, 0)
    assert world.register(G0, uuid="process-2") == m.Registered(2, 0)
    assert [seen.known for seen in said(world.beat(G0, incarnation=1), m.BeatSeen)] == [False]
    assert [seen.known for seen in said(world.beat(G0, incarnation=2), m.BeatSeen)] == [True]


def test_daemons_have_a_ceiling(world: World) -> None:
    for number in range(DAEMONS_MAX):
        assert not world.register(f"gateway:g{number}".encode()).refused
    assert "there is no room for more" in world.register(b"gateway:more").refused
    assert not world.register(G0, uuid="process-2").refused


def test_every_registered_peer_hears_of_a_new_map_and_others_do_not(world: World) -> None:
    world.up(G0)
    world.say(CLI, m.AskMap())
    told = world.say(A0, registration(A0))
    maps = [(peer, answer.version) for peer, answer in told if isinstance(answer, m.ShardMap)]
    assert maps == [(G0, 2), (A0, 2)]


def test_a_silent_shard_stops_serving_in_the_map_and_keeps_its_epoch(world: World) -> None:
    world.up(A0)
    world.up(A1)
    version = world.cluster.map.version
    world.pass_time(BEAT_SUSPECT_NS, A1)
    assert world.cluster.map.version == version + 1
    assert (world.entry("s0").serving, world.entry("s0").epoch) == (False, 1)
    assert world.entry("s1").serving
    world.beat(A0)
    assert (world.entry("s0").serving, world.entry("s0").epoch) == (True, 1)
    assert world.cluster.map.version == version + 2


def test_a_paused_coordinator_blames_nobody(world: World) -> None:
    world.pair()
    world.pass_time(2 * TICK_NS)
    before = world.group("s0")
    world.now += 60 * NS_PER_S
    world.cluster.on_tick(world.now)
    assert world.entry("s0").serving
    world.pass_time(300 * NS_PER_MS)
    world.pass_time(NS_PER_S, A0, B0)
    assert world.entry("s0").serving
    assert world.group("s0") == before
    world.pass_time(2 * BEAT_SUSPECT_NS)
    assert not world.entry("s0").serving


def test_a_restarted_coordinator_goes_on_and_a_live_shard_does_not_notice(world: World) -> None:
    world.up(A0)
    world.up(G0)
    before = world.cluster.map
    world.now += 10 * NS_PER_S
    world.start()
    assert world.cluster.map == before
    assert said(world.beat(A0), m.BeatSeen) == [m.BeatSeen(before.version, True)]
    assert said(world.beat(G0, incarnation=2), m.BeatSeen) == [m.BeatSeen(before.version, True)]
    assert world.register(A1).incarnation == 3
    world.pass_time(2 * BEAT_SUSPECT_NS)
    assert not world.entry("s0").serving


def test_nothing_is_told_before_it_is_written(world: World) -> None:
    world.cluster.on_message(A0, registration(A0), 0)
    ready = world.cluster.ready()
    written = [write.key for write in ready.writes]
    assert written == ["incarnation", "shard/s0", "map"]
    told = [decode_coordinator_outbound(send.payload) for send in ready.sends]
    member = m.Member("s0-a", 1, "ipc:///run/replica.s0-a")
    registered = m.Registered(1, 1, session="session-s0-a")
    assert told == [registered, world.cluster.map, m.ShardView("s0", 1, 1, member, [member], [member])]
    assert ready.writes[-1].value == ready.sends[1].payload


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_crash_between_two_writes_loses_and_repeats_nothing(world: World, writes: int) -> None:
    """Killed after `writes` of the three writes of a registration: the node asks again and gets one fresh epoch."""
    world.cluster.on_message(A1, registration(A1), 0)
    for write in world.cluster.ready().writes[:writes]:
        world.store.cas(write.key, write.expect_ver, write.value, world.term)
    world.start()
    granted = world.register(A1)
    assert granted.epoch == 1
    assert said(world.beat(A1), m.BeatSeen)[0].known
    assert world.entry("s1").serving
    assert world.register(A0).incarnation > granted.incarnation


def test_a_changed_file_gives_a_new_map(world: World) -> None:
    world.up(A0)
    before = world.cluster.map
    more = [instrument(0, "AAPLUSD", "s0", collar_bps=50), INSTRUMENTS[1], instrument(2, "TSLAUSD", "s2")]
    world.start(nodes=[*NODES, ("s2", "s2-a")], instruments=more)
    assert world.cluster.map.version == before.version + 1
    assert world.cluster.map.instruments == more
    assert world.entry("s0").serving
    assert world.entry("s2").epoch == 0


@pytest.mark.parametrize(
    ("instruments", "sentence"),
    [
        ([instrument(0, "TSLAUSD", "s0"), INSTRUMENTS[1]], "symbol was 'AAPLUSD' and must not become 'TSLAUSD'"),
        (INSTRUMENTS[:1], r"number 2 was MSFTUSD and is gone"),
        ([INSTRUMENTS[0], instrument(1, "MSFTUSD", "s0")], "shard was 's1' and must not become 's0'"),
        ([instrument(0, "AAPLUSD", "s0", price_decimals=4), INSTRUMENTS[1]], "price_decimals was 2"),
    ],
)
def test_a_file_that_contradicts_the_past_is_refused(
    world: World, instruments: list[m.Instrument], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        world.start(instruments=instruments)
    world.start()


def test_the_only_copy_must_not_leave_the_file(world: World) -> None:
    world.up(A0)
    with pytest.raises(ConfigError, match="s0: only s0-a is in sync and must not leave the file"):
        world.start(nodes=[("s0", "s0-b"), ("s1", "s1-a")])


@pytest.mark.parametrize("key", ["map", "incarnation", "shard/s0", "daemon/gateway/g0"])
def test_a_damaged_store_stops_the_coordinator(world: World, key: str) -> None:
    world.up(A0)
    world.up(G0)
    entry = world.store.read(key)
    assert entry is not None
    world.store.cas(key, entry.ver, b"\xc1", world.term)
    with pytest.raises(StoreError, match=f"key {key} is damaged"):
        world.start()
