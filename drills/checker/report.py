"""What the checker says: findings with their evidence, and how much was looked at. Counts are exact."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from msgspec import Struct, field

DETAILS_MAX = 20
"""Findings of one invariant that are told in full; the rest is counted."""

INVARIANTS = {
    "I1": "agreement: nodes have the same records",
    "I2": "dense order: seq, term, time, who wrote",
    "I3": "durability: what was answered is in the log",
    "I4": "at most once: no id took effect twice",
    "I5": "fidelity: answers are what the log gives",
    "I6": "real-time order: answered before is sequenced before",
    "I7": "honesty: what was denied did not happen",
    "I8": "promotion: only from the in-sync set, with everything acknowledged",
    "I9": "fence: nothing of a term after the promise of a higher one",
    "I10": "view: released only when every required node had it",
    "I11": "determinism: every snapshot is what replay gives",
    "I12": "conservation: positions, quantities, books, states",
    "I13": "events: gap-free, committed, never retracted",
    "I15": "ownership: nobody touches another's order",
    "I16": "availability: no interval without success beyond the bound",
}


class Finding(Struct, frozen=True):
    """One broken rule. `subject` = shard or node; `evidence` = files, offsets, seqs, terms, ids."""

    invariant: str
    subject: str
    sentence: str
    evidence: dict[str, Any]


class Gap(Struct, frozen=True):
    """Longest time without a success of one shard while somebody asked; monotonic start."""

    shard: str
    longest_ns: int
    from_ns: int


class Coverage(Struct):
    """How much was looked at."""

    nodes: int = 0
    records: int = 0
    commands: int = 0
    calls: int = 0
    answers: int = 0
    unchecked_answers: int = 0
    captured: int = 0
    snapshots: int = 0
    traced: int = 0
    terms: dict[str, int] = field(default_factory=dict)


class Report(Struct):
    """The verdict. `findings` has at most DETAILS_MAX of each invariant, `counts` counts all."""

    findings: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    coverage: Coverage = field(default_factory=Coverage)
    gaps: list[Gap] = field(default_factory=list)

    def add(self, findings: Iterable[Finding]) -> None:
        """Take findings; nothing is told twice."""
        for finding in findings:
            count = self.counts.get(finding.invariant, 0)
            self.counts[finding.invariant] = count + 1
            if count < DETAILS_MAX:
                self.findings.append(finding)

    @property
    def clean(self) -> bool:
        """No invariant is broken."""
        return not self.counts

    def lines(self) -> list[str]:
        """For people: what was looked at, what is wrong, what could not be seen."""
        c = self.coverage
        terms = ", ".join(f"{shard} in term {term}" for shard, term in sorted(c.terms.items()))
        said = [
            f"{c.nodes} nodes, {c.records:,} records, {c.commands:,} committed commands ({terms or 'no term'})",
            f"{c.calls:,} calls, {c.answers:,} final answers, {c.captured:,} captured frames, {c.snapshots} snapshots",
        ]
        told = Counter(finding.invariant for finding in self.findings)
        for name, title in INVARIANTS.items():
            if name in self.counts:
                said.append(f"{name:>4} BROKEN {self.counts[name]} times: {title}")
                said += [f"       {f.subject}: {f.sentence}" for f in self.findings if f.invariant == name]
                if self.counts[name] > told[name]:
                    said.append(f"       and {self.counts[name] - told[name]} more")
        for gap in self.gaps:
            said.append(f"{gap.shard}: longest time without a success {gap.longest_ns / 1e6:,.0f} ms")
        said += [f"note: {note}" for note in self.notes]
        said.append("clean" if self.clean else f"{sum(self.counts.values())} findings")
        return said
