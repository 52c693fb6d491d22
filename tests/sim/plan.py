"""What goes wrong in one run: a list that the seed draws before anything happens, so that a story can be shortened.

Most runs have a *mixture*: faults of some kinds, one after the other. Every fourth one plays *scripts* too, or only
these: two or three faults whose order is what a rule is there for, with gaps that chance draws. Who leads when a script
begins is not known here, so its roles are named: the one who plays them is found when it happens.
"""

from collections.abc import Callable, Iterator, Sequence
from random import Random

from msgspec import Struct

from tests.sim.world import MS

NODES = ("a", "b")
Script = Callable[[Random, int], Iterator["Fault"]]
LINKS = [("a", "b"), ("b", "a"), ("a", "coordinator"), ("coordinator", "a"), ("b", "coordinator"), ("coordinator", "b")]
LINKS += [(gateway, node) for gateway in ("g0", "g1") for node in NODES]
LINKS += [(node, gateway) for gateway in ("g0", "g1") for node in NODES]


class Fault(Struct, frozen=True):
    """At `at_ns` `kind` happens to `target`; `for_ns` later it is over. `number` settles the rest.

    `target` = a node, or the role `leader` or `standby`; of `block`, `echo` and `slow` a way such as `standby>leader`.
    """

    at_ns: int
    kind: str
    target: str
    for_ns: int
    number: int

    def __str__(self) -> str:
        return f"{self.at_ns / 1e6:8.1f} ms  {self.kind} {self.target} for {self.for_ns / 1e6:.0f} ms ({self.number})"


KINDS = {
    "kill": 6,
    "kill at step": 6,
    "stop machine": 5,
    "stop machine at step": 5,
    "pause": 4,
    "cut": 6,
    "cut one way": 6,
    "isolate": 4,
    "break sync": 2,
    "replace disk": 3,
    "rot": 2,
    "clock": 2,
    "kill coordinator": 3,
    "lose store answers": 3,
    "kill gateway": 2,
    "switch": 3,
    "elect": 3,
    "lull": 3,
    "kill both": 2,
}
"""How often each kind comes in a mixture, relatively. Each run uses some of them only: what is rare in a mixture is
common alone."""


def plan(seed: int, dice: Random, until_ns: int) -> list[Fault]:
    """The faults of one run, in order of time. Every fourth seed plays scripts, most of these nothing else; every
    sixteenth one plays those of many steps only, in fair weather, and another sixteenth is about slow ways."""
    faults = list(_mixture(dice, until_ns))
    if seed % 4 == 0:
        faults = [*(faults if dice.random() < 0.25 else []), *_scripts(dice, until_ns, SCRIPTS)]
    elif seed % 16 == 3:
        faults = list(_slow_ways(dice, until_ns))
    elif is_long(seed):
        faults = list(_scripts(dice, until_ns, LONG_SCRIPTS))
    return sorted(faults, key=lambda fault: fault.at_ns)


def is_long(seed: int) -> bool:
    """Plays scripts of many steps: they need fair weather, else one of the steps always fails."""
    return seed % 16 == 7


def _mixture(dice: Random, until_ns: int) -> Iterator[Fault]:
    kinds = [kind for kind in KINDS if dice.random() < 0.5] or ["kill"]
    weights = [KINDS[kind] for kind in kinds]
    gap_ns = dice.choice((100, 250, 600)) * MS
    at_ns = 300 * MS
    while at_ns < until_ns:
        kind = dice.choices(kinds, weights)[0]
        for_ns = dice.choice((5, 30, 120, 350, 800, 1_500)) * MS
        yield Fault(at_ns, kind, dice.choice(NODES), for_ns, dice.randrange(1 << 30))
        if dice.random() < 0.3:
            at_ns += dice.randrange(1 * MS, 20 * MS)  # soon another one, while the first still works
        else:
            at_ns += dice.randrange(1, 2 * gap_ns)


def _slow_ways(dice: Random, until_ns: int) -> Iterator[Fault]:
    """Changes of hands while some ways between nodes and coordinator are slow, and old messages come again: what is
    a race of a millisecond elsewhere lasts as long as a reign here."""
    kinds = {"slow": 6, "echo": 4, "switch": 4, "elect": 3, "kill": 3, "pause": 2, "lull": 2, "stop machine": 2}
    at_ns = 300 * MS
    while at_ns < until_ns:
        kind = dice.choices(list(kinds), list(kinds.values()))[0]
        target, number = dice.choice(NODES), dice.randrange(1 << 30)
        if kind in ("slow", "echo"):
            target, number = ">".join(dice.choice(LINKS[:6])), dice.choice((30, 120, 400, 900)) * dice.randrange(MS)
        yield Fault(at_ns, kind, target, dice.choice((5, 30, 120, 350, 800)) * MS, number)
        at_ns += dice.choice((10, 60, 250)) * dice.randrange(MS)


def _scripts(dice: Random, until_ns: int, scripts: Sequence[tuple[Script, int]]) -> Iterator[Fault]:
    """One of the scripts, again and again: each needs two nodes in sync, which the others do not leave."""
    script, lasts_ns = dice.choice(scripts)
    at_ns = 400 * MS
    while at_ns < until_ns:
        yield from script(dice, at_ns)
        at_ns += lasts_ns + dice.randrange(400 * MS)


def _deposed_in_doubt(dice: Random, at_ns: int) -> Iterator[Fault]:
    """E4, E6, R9: a leader loses one direction of the way to its standby, hence cannot commit what it writes, and is
    replaced. The gateways hear late of its heir: until then they have only the word of the one who was deposed."""
    way = dice.choice(("standby>leader", "leader>standby"))
    elect_ns = at_ns + dice.choice((30, 90, 250)) * dice.randrange(MS // 4, MS)
    yield Fault(at_ns, "block", way, elect_ns - at_ns + dice.choice((50, 500)) * MS, 0)
    yield Fault(elect_ns, "block", "coordinator>gateways", dice.choice((100, 400, 900)) * MS, 0)
    yield Fault(elect_ns, "elect", "standby", 0, 0)
    if dice.random() < 0.5:
        yield Fault(elect_ns, "lull", "standby", dice.choice((100, 400, 900)) * MS, 0)


def _old_mail_of_a_standby(dice: Random, at_ns: int) -> Iterator[Fault]:
    """R7: a standby comes back with less than it had, and what it acknowledged before arrives once more. Nothing is
    traded meanwhile: else its old words would be too old to be believed."""
    yield Fault(at_ns, "lull", "standby", 300 * MS, 0)
    at_ns += dice.randrange(20 * MS, 60 * MS)
    yield Fault(at_ns, "echo", "standby>leader", 60 * MS, dice.randrange(20 * MS, 80 * MS))
    at_ns += dice.randrange(20 * MS, 60 * MS)
    yield Fault(at_ns, dice.choice(("replace disk", "stop machine")), "standby", 5 * MS, 1)


def _old_wish_of_a_leader(dice: Random, at_ns: int) -> Iterator[Fault]:
    """R3: a leader has its standby added, loses it, goes on alone, and then what it once asked for arrives again."""
    yield Fault(at_ns, "echo", "leader>coordinator", 200 * MS, dice.randrange(400 * MS, 900 * MS))
    yield Fault(at_ns + dice.randrange(20 * MS), "kill", "standby", 5 * MS, 0)
    way = dice.choice(("standby>leader", "leader>standby"))
    yield Fault(at_ns + dice.randrange(50 * MS, 250 * MS), "block", way, 1_000 * MS, 0)


def _old_answer_of_the_store(dice: Random, at_ns: int) -> Iterator[Fault]:
    """R3, R4: who leads again soon after has an open question on a slow way, and hears that one of the reign before is
    refused. Its standby falls silent meanwhile: were it no longer required, what is committed then would be missing
    when the question is granted."""
    back_ns = at_ns + dice.randrange(400 * MS, 500 * MS)
    again_ns = back_ns + dice.randrange(400 * MS, 500 * MS)
    for switch_ns in (at_ns, back_ns, again_ns):
        yield Fault(switch_ns, "switch", "leader", 0, 0)
    yield Fault(at_ns + 70 * MS, "echo", "leader>coordinator", 350 * MS, dice.randrange(1_200 * MS, 1_500 * MS))
    yield Fault(again_ns + 70 * MS, "slow", "leader>coordinator", 1_000 * MS, dice.randrange(800 * MS, 900 * MS))
    yield Fault(again_ns + dice.randrange(150 * MS, 350 * MS), "block", "leader>standby", 900 * MS, 0)


SCRIPTS = (
    (_deposed_in_doubt, 500 * MS),
    (_old_mail_of_a_standby, 500 * MS),
    (_old_wish_of_a_leader, 1_500 * MS),
)
LONG_SCRIPTS = ((_old_answer_of_the_store, 2_000 * MS),)
"""Each with the time that it takes."""
