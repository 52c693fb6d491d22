"""Who gets which epoch and incarnation, what the map says, and what a restarted coordinator still knows."""

from typing import Any

import msgspec
import pytest

from coordinator.core.cluster import DAEMONS_MAX, Cluster
from coordinator.core.health import Health
from coordinator.store.base import Ok, take_lease
from coordinator.store.memory import MemoryStore
from exchange import messages as m
from exchange.domain import NS_PER_S
from exchange.errors import ConfigError, StoreError, WireError
from exchange.limits import BEAT_SUSPECT_NS, TICK_INTERVAL_NS
from exchange.wire import decode_coordinator_outbound

S0, S1, G0 = b"shard:s0", b"shard:s1", b"gateway:g0"


def instrument(index: int, symbol: str, shard: str, **changes: Any) -> m.Instrument:
    plain = m.Instrument(index, symbol, symbol[:-3], "USD", 2, 0, 1, 1, 1, 10**6, 1, 10**8, 1_000, 0, -1, shard)
    return msgspec.structs.replace(plain, **changes)


INSTRUMENTS = [instrument(0, "AAPLUSD", "s0"), instrument(1, "MSFTUSD", "s1")]
ENDPOINTS = {"orders": "ipc:///run/o", "events": "ipc:///run/e"}


class World:
    """A cluster core over a store that outlives it, with all writes performed and all sends collected."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.now = 0
        self.start()

    def start(self, shards: tuple[str, ...] = ("s0", "s1"), instruments: list[m.Instrument] = INSTRUMENTS) -> None:
        self.term = take_lease(self.store, "c0")
        entries = {key: (entry.value, entry.ver) for key, entry in self.store.changes("", 0)[1]}
        expected = [*(("shard", shard) for shard in shards), ("gateway", "g0")]
        self.health = Health(expected)
        self.cluster = Cluster(
            entries, shards=list(shards), instruments=instruments, health=self.health, now_ns=self.now
        )
        self.perform()

    def perform(self) -> list[tuple[bytes, m.CoordinatorOutbound]]:
        ready = self.cluster.ready()
        for write in ready.writes:
            done = self.store.cas(write.key, write.expect_ver, write.value, self.term)
            assert done == Ok(write.expect_ver + 1)
        return [(send.peer, decode_coordinator_outbound(send.payload)) for send in ready.sends]

    def say(self, peer: bytes, message: m.Register | m.Beat | m.AskMap) -> list[tuple[bytes, m.CoordinatorOutbound]]:
        self.cluster.on_message(peer, message, self.now)
        return self.perform()

    def register(self, peer: bytes, **changes: Any) -> m.Registered:
        role, _, name = peer.decode().partition(":")
        uuid = f"journal-{name}" if role == "shard" else "process-1"
        endpoints = ENDPOINTS if role == "shard" else {}
        message = msgspec.structs.replace(m.Register(role, name, 7, uuid, 0, 0, endpoints), **changes)
        answers = [answer for to, answer in self.say(peer, message) if to == peer]
        [registered] = [answer for answer in answers if isinstance(answer, m.Registered)]
        if not registered.refused:
            assert answers[-1] == self.cluster.map
        return registered

    def beat(self, peer: bytes, incarnation: int, *, ready: bool = True, **stats: Any) -> m.BeatSeen:
        role, _, name = peer.decode().partition(":")
        answers = self.say(peer, m.Beat(role, name, incarnation, 0, ready, stats))
        [seen] = [answer for to, answer in answers if to == peer and isinstance(answer, m.BeatSeen)]
        return seen

    def up(self, peer: bytes, **changes: Any) -> m.Registered:
        registered = self.register(peer, **changes)
        self.beat(peer, registered.incarnation)
        return registered

    def pass_time(self, ns: int) -> None:
        for _ in range(ns // TICK_INTERVAL_NS):
            self.now += TICK_INTERVAL_NS
            self.cluster.on_tick(self.now)

    def entry(self, shard: str) -> m.ShardEntry:
        [entry] = [entry for entry in self.cluster.map.shards if entry.shard == shard]
        return entry


@pytest.fixture
def world() -> World:
    return World()


def test_the_first_map_knows_the_instruments_and_nobody_who_serves_them(world: World) -> None:
    assert world.cluster.map == m.ShardMap(
        1, [m.ShardEntry(s, 0, "", 0, "", "", False) for s in ("s0", "s1")], INSTRUMENTS
    )


def test_a_shard_gets_an_epoch_and_serves_once_it_says_so(world: World) -> None:
    assert world.register(S0) == m.Registered(1, 1)
    assert world.entry("s0") == m.ShardEntry("s0", 1, "s0", 1, "ipc:///run/o", "ipc:///run/e", False)
    version = world.cluster.map.version
    assert world.beat(S0, 1, ready=False) == m.BeatSeen(version, True)
    assert world.beat(S0, 1, ready=True) == m.BeatSeen(version + 1, True)
    assert world.entry("s0").serving
    assert not world.entry("s1").serving


def test_each_start_of_a_shard_is_a_new_term(world: World) -> None:
    assert world.up(S0) == m.Registered(1, 1)
    assert world.register(S0, promised_epoch=1) == m.Registered(2, 2)
    assert not world.entry("s0").serving
    assert world.beat(S0, 1) == m.BeatSeen(world.cluster.map.version, False)
    assert not world.entry("s0").serving
    world.beat(S0, 2)
    assert world.entry("s0") == m.ShardEntry("s0", 2, "s0", 2, "ipc:///run/o", "ipc:///run/e", True)


def test_a_registration_that_is_repeated_gets_the_same_answer(world: World) -> None:
    first = world.register(S0)
    version = world.cluster.map.version
    assert world.register(S0) == first
    assert world.cluster.map.version == version
    world.beat(S0, first.incarnation)
    again = world.register(S0, promised_epoch=1, pid=8)
    assert (again.epoch, world.register(S0, promised_epoch=1, pid=8)) == (2, again)


def test_a_swapped_data_directory_is_refused(world: World) -> None:
    world.up(S0)
    before = world.cluster.map
    refused = world.register(S0, uuid="journal-other", promised_epoch=1).refused
    assert "journal has uuid journal-other, the shard's journal is journal-s0" in refused
    assert world.cluster.map == before


def test_a_store_that_went_back_in_time_is_noticed(world: World) -> None:
    world.up(S0)
    refused = world.register(S0, promised_epoch=9).refused
    assert refused.startswith("METADATA_BEHIND")
    assert "has promised epoch 9, the control store knows only 1" in refused
    assert World().register(S0, promised_epoch=1).refused.startswith("METADATA_BEHIND")


def test_a_journal_that_went_back_in_time_is_noticed(world: World) -> None:
    world.up(S0)
    world.up(S0, promised_epoch=1)
    refused = world.register(S0, promised_epoch=1).refused
    assert refused.startswith("JOURNAL_BEHIND")
    assert "has served epoch 2, its journal knows only 1" in refused


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"name": "s9"}, "shard 's9' is not in the configuration; shards are s0, s1"),
        ({"role": "wizard"}, "role 'wizard' is not one of"),
        ({"uuid": ""}, "uuid must match"),
        ({"uuid": "x" * 65}, "uuid must match"),
        ({"endpoints": {"orders": "ipc:///o"}}, "endpoint 'events' must match"),
        ({"endpoints": {}}, "endpoint 'orders' must match"),
        ({"endpoints": {"orders": "http://example.org", "events": "ipc:///e"}}, "endpoint 'orders' must match"),
        ({"endpoints": {"orders": "tcp://host", "events": "ipc:///e"}}, "endpoint 'orders' must match"),
        ({"endpoints": {"orders": "ipc:///" + "x" * 100, "events": "ipc:///e"}}, "endpoint 'orders' must match"),
        ({"endpoints": ENDPOINTS | {"rest": "ftp://example.org"}}, "endpoint 'rest' must match"),
        ({"endpoints": {"Orders!": "ipc:///o"}}, "endpoint 'Orders!' must match"),
        ({"endpoints": {f"e{n}": "ipc:///e" for n in range(9)}}, "9 endpoints, at most 8"),
        ({"promised_epoch": -1}, "promised_epoch must be 0 to"),
        ({"promised_epoch": 2**32}, "promised_epoch must be 0 to"),
    ],
)
def test_who_may_not_take_part_is_told_why(world: World, changes: dict[str, Any], sentence: str) -> None:
    before = world.cluster.map
    register = msgspec.structs.replace(m.Register("shard", "s0", 7, "journal-s0", 0, 0, ENDPOINTS), **changes)
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
        (b"gateway:g0", m.Register("shard", "s0", 7, "u", 0, 0, ENDPOINTS)),
        (b"shard:s1", m.Beat("shard", "s0", 1, 0, False, {})),
        (b"\x00\x01\x02", m.Register("gateway", "g0", 7, "u", 0, 0, {})),
        (b"gateway:G 0", m.Register("gateway", "G 0", 7, "u", 0, 0, {})),
        (b"gateway:", m.Register("gateway", "", 7, "u", 0, 0, {})),
        (b"gateway:a/b", m.Register("gateway", "a/b", 7, "u", 0, 0, {})),
    ],
)
def test_nobody_speaks_for_another(world: World, peer: bytes, message: m.Register | m.Beat) -> None:
    world.up(S0)
    before = world.cluster.map
    with pytest.raises(WireError):
        world.cluster.on_message(peer, message, 0)
    assert world.perform() == []
    assert world.cluster.map == before


def test_other_daemons_get_an_incarnation_for_each_process(world: World) -> None:
    assert world.register(G0) == m.Registered(1, 0)
    assert world.register(G0) == m.Registered(1, 0)
    assert world.register(G0, uuid="process-2") == m.Registered(2, 0)
    assert not world.beat(G0, 1).known
    assert world.beat(G0, 2).known


def test_daemons_have_a_ceiling(world: World) -> None:
    for number in range(DAEMONS_MAX):
        assert not world.register(f"gateway:g{number}".encode()).refused
    assert "there is no room for more" in world.register(b"gateway:more").refused
    assert not world.register(G0, uuid="process-2").refused


def test_every_registered_peer_hears_of_a_new_map_and_others_do_not(world: World) -> None:
    world.up(G0)
    world.say(b"cli:1", m.AskMap())
    told = world.say(S0, m.Register("shard", "s0", 7, "journal-s0", 0, 0, ENDPOINTS))
    maps = [(peer, answer.version) for peer, answer in told if isinstance(answer, m.ShardMap)]
    assert maps == [(G0, 2), (S0, 2)]


def test_a_silent_shard_stops_serving_in_the_map_and_keeps_its_epoch(world: World) -> None:
    world.up(S0)
    world.up(S1)
    version = world.cluster.map.version
    while world.now <= BEAT_SUSPECT_NS:
        world.beat(S1, 2)
        world.pass_time(TICK_INTERVAL_NS)
    assert world.cluster.map.version == version + 1
    assert (world.entry("s0").serving, world.entry("s0").epoch) == (False, 1)
    assert world.entry("s1").serving
    world.beat(S0, 1)
    assert (world.entry("s0").serving, world.entry("s0").epoch) == (True, 1)
    assert world.cluster.map.version == version + 2


def test_a_paused_coordinator_blames_nobody(world: World) -> None:
    world.up(S0)
    world.pass_time(2 * TICK_INTERVAL_NS)
    world.now += 60 * NS_PER_S
    world.cluster.on_tick(world.now)
    assert world.entry("s0").serving
    world.pass_time(2 * BEAT_SUSPECT_NS)
    assert not world.entry("s0").serving


def test_a_restarted_coordinator_goes_on_and_a_live_shard_does_not_notice(world: World) -> None:
    world.up(S0)
    world.up(G0)
    before = world.cluster.map
    world.now += 10 * NS_PER_S
    world.start()
    assert world.cluster.map == before
    assert world.beat(S0, 1) == m.BeatSeen(before.version, True)
    assert world.beat(G0, 2) == m.BeatSeen(before.version, True)
    assert world.register(S1).incarnation == 3
    world.pass_time(2 * BEAT_SUSPECT_NS)
    assert not world.entry("s0").serving


def test_nothing_is_told_before_it_is_written(world: World) -> None:
    world.cluster.on_message(S0, m.Register("shard", "s0", 7, "journal-s0", 0, 0, ENDPOINTS), 0)
    ready = world.cluster.ready()
    written = [write.key for write in ready.writes]
    assert written == ["incarnation", "shard/s0", "map"]
    told = [decode_coordinator_outbound(send.payload) for send in ready.sends]
    assert told[0] == m.Registered(1, 1)
    assert ready.writes[-1].value == ready.sends[-1].payload


@pytest.mark.parametrize("writes", [0, 1, 2, 3])
def test_a_crash_between_two_writes_loses_and_repeats_nothing(world: World, writes: int) -> None:
    """Killed after `writes` of the three writes of a registration: the shard asks again and gets one fresh epoch."""
    world.cluster.on_message(S0, m.Register("shard", "s0", 7, "journal-s0", 0, 0, ENDPOINTS), 0)
    for write in world.cluster.ready().writes[:writes]:
        world.store.cas(write.key, write.expect_ver, write.value, world.term)
    world.start()
    granted = world.register(S0)
    assert granted.epoch == 1
    assert world.beat(S0, granted.incarnation).known
    assert world.entry("s0").serving
    assert world.register(S1).incarnation > granted.incarnation


def test_a_changed_file_gives_a_new_map(world: World) -> None:
    world.up(S0)
    before = world.cluster.map
    more = [instrument(0, "AAPLUSD", "s0", collar_bps=50), INSTRUMENTS[1], instrument(2, "TSLAUSD", "s2")]
    world.start(shards=("s0", "s1", "s2"), instruments=more)
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


@pytest.mark.parametrize("key", ["map", "incarnation", "shard/s0", "daemon/gateway/g0"])
def test_a_damaged_store_stops_the_coordinator(world: World, key: str) -> None:
    world.up(S0)
    world.up(G0)
    entry = world.store.read(key)
    assert entry is not None
    world.store.cas(key, entry.ver, b"\xc1", world.term)
    with pytest.raises(StoreError, match=f"key {key} is damaged"):
        world.start()
