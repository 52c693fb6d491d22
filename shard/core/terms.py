"""Where each term ends in a journal, and where two journals part: rule R9. Pure."""

from collections.abc import Iterable

from exchange import messages as m
from shard.core.journal import Position

TERMS_MAX = 64
"""How many a standby shows its primary; who was away for more terms begins anew."""


class Terms:
    """Of one journal, oldest first."""

    def __init__(self, terms: Iterable[m.Term]) -> None:
        self._terms = list(terms)

    def note(self, after: Position) -> None:
        """A record was written; the journal stands at `after`."""
        term = m.Term(after.epoch, after.seq, after.chain)
        if self._terms and self._terms[-1].epoch == after.epoch:
            self._terms[-1] = term
        else:
            self._terms.append(term)

    def newest(self) -> list[m.Term]:
        """What another node is shown."""
        return self._terms[-TERMS_MAX:]

    def common_seq(self, theirs: list[m.Term]) -> int:
        """The last record end that both journals have: one term has one author, so one is a prefix of the other there.

        A term that ends at the same seq with two chains is nobody's prefix: the one before it counts.
        """
        mine = {term.epoch: term for term in self._terms}
        for term in reversed(theirs):
            own = mine.get(term.epoch)
            if own is not None and (own.last_seq != term.last_seq or own.chain == term.chain):
                return min(own.last_seq, term.last_seq)
        return 0
