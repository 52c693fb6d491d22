"""One run: a safety phase with faults, then everything is mended and must come to an end; the invariants all along."""

import traceback
from random import Random

from msgspec import Struct

from coordinator.core import rules as coordinator_rules
from exchange import messages as m
from shard.core import rules as shard_rules
from tests.sim.consumer import Consumer
from tests.sim.council import Council
from tests.sim.entry import Client, Gateway
from tests.sim.faults import Fate
from tests.sim.oracle import Oracle
from tests.sim.plan import Fault, is_long, plan
from tests.sim.shell import Shell
from tests.sim.verdict import Verdict
from tests.sim.world import MS, Network, Violation, Weather, World

SAFETY_NS = 4_000 * MS
LIVENESS_NS = 12_000 * MS
INSTRUMENTS = [
    m.Instrument(index, symbol, symbol[:3], "USD", 2, 0, 1, 1, 1, 10**9, 1, 10**9, 0, 0, -1, "s0")
    for index, symbol in enumerate(("BTCUSD", "ETHUSD"))
]


class Mutant(Struct, frozen=True):
    """What is switched off. `name` "" = nothing."""

    name: str = ""
    shard: shard_rules.Rules = shard_rules.ALL
    coordinator: coordinator_rules.Rules = coordinator_rules.ALL
    lying: bool = False
    fresh_ids: bool = False
    tell_first: bool = False
    promise_last: bool = False
    relaxed: bool | None = None


class Report(Struct, frozen=True):
    """How a run ended. `violation` "" = well."""

    seed: int
    violation: str
    events: int
    commits: int
    epochs: int
    story: list[tuple[int, str]]
    faults: list[Fault]


NOTHING = Mutant()


def run(seed: int, mutant: Mutant = NOTHING, faults: list[Fault] | None = None) -> Report:
    """Equal arguments give equal reports. `faults` = some of those of the seed, None = all."""
    dice = Random(seed)
    relaxed = dice.random() < 0.3
    relaxed = relaxed if mutant.relaxed is None else mutant.relaxed
    faults = plan(seed, Random(seed + 1), SAFETY_NS) if faults is None else faults
    world = World()
    network = Network(world, Random(seed + 2), Weather(Random(seed + 3)))
    if is_long(seed):
        network.weather.calm()
    oracle = Oracle(world, relaxed=relaxed)
    snapshots = dice.random() < 0.3
    council = Council(
        world, network, Random(seed + 4), oracle, instruments=INSTRUMENTS, relaxed=relaxed, rules=mutant.coordinator,
        tell_first=mutant.tell_first,
    )  # fmt: skip
    for number, (name, peer) in enumerate((("a", "b"), ("b", "a"))):
        shell = Shell(
            world, network, Random(seed + 5 + number), oracle, name=name, peer=peer, relaxed=relaxed,
            snapshots=snapshots, rules=mutant.shard, instruments=INSTRUMENTS, promise_last=mutant.promise_last,
        )  # fmt: skip
        shell.on_end = council.process_ended
        oracle.shells[name] = shell
    shells = oracle.shells
    gateways = [
        Gateway(
            world, network, Random(seed + 7 + number), name=f"g{number}", shells=shells, lying=mutant.lying,
            fresh_ids=mutant.fresh_ids,
        )
        for number in range(2)
    ]  # fmt: skip
    clients = [
        Client(world, Random(seed + 10 + number), name=f"acc{number}", gateways=gateways, instruments=len(INSTRUMENTS))
        for number in range(4)
    ]
    consumers = [Consumer(world, network, Random(seed + 20), name="gc", shells=shells)]
    fate = Fate(
        world, network, oracle, shells=shells, council=council, gateways=gateways, clients=clients, relaxed=relaxed
    )
    violation = ""
    try:
        council.start()
        for shell in shells.values():
            shell.start()
        fate.plan(faults)
        world.run(SAFETY_NS)
        world.tell("everything is mended")
        fate.heal()
        for client in clients:
            client.stop()

        def settled() -> bool:
            if not all(client.idle for client in clients) or len(oracle.group.isr) != 2:
                return False
            leader = shells[oracle.group.primary[0]]
            current = all(oracle.group.current(name) in oracle.group.isr for name in shells)
            seq = oracle.committed_seq
            caught_up = all(consumer.follower.cursor.seq >= seq - 5 for consumer in consumers)
            return leader.serving and current and caught_up

        if not world.run(SAFETY_NS + LIVENESS_NS, settled):
            raise Violation("liveness", _what_is_missing(oracle, clients, consumers))
        Verdict(oracle).judge(clients, consumers)
    except Violation as found:
        violation = str(found)
        world.tell(violation)
    except Exception as defect:
        place = traceback.extract_tb(defect.__traceback__)[-1]
        violation = f"defect: {defect!r} in {place.name} of {place.filename.rpartition('/')[2]}:{place.lineno}"
        world.tell(violation)
    return Report(seed, violation, world.events, oracle.commits, oracle.group.epoch, world.story, faults)


def _what_is_missing(oracle: Oracle, clients: list[Client], consumers: list[Consumer]) -> str:
    group = oracle.group
    busy = [client.name for client in clients if not client.idle]
    serving = [shell.name for shell in oracle.shells.values() if shell.serving]
    cursors = [consumer.follower.cursor.seq for consumer in consumers]
    return (
        f"term {group.epoch} of {group.primary}, in sync {list(group.isr)}, serving {serving}, undecided {busy}, "
        f"consumers at {cursors}, committed {oracle.committed_seq}, weighing {group.weighing}, "
        f"nodes { ({name: node.incarnation for name, node in group.nodes.items()}) }"
    )
