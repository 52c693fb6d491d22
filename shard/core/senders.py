"""Which process of a gateway counts: the newest that was heard (rule E9). Pure.

Remembered by one process for one term: batches name their term, so nothing that was sent to an earlier primary is taken
here anyway, and a primary that starts again begins a new term.
"""

SENDERS_MAX = 1_024
"""Peers that are remembered; beyond that the one that was heard first is forgotten."""


class Senders:
    """Incarnation and newest batch by peer."""

    def __init__(self) -> None:
        self._newest: dict[bytes, tuple[int, int]] = {}

    def is_over(self, peer: bytes, incarnation: int, batch: int) -> bool:
        """This batch is of a process that was followed by another one of its name, which was heard already.

        Both numbers have to say so: those of batches go on over the lives of a gateway, and incarnations begin anew
        when a control store was lost, which must not shut out living gateways.
        """
        known = self._newest.pop(peer, (incarnation, batch))
        over = incarnation < known[0] and batch <= known[1]
        self._newest[peer] = known if over else (incarnation, max(batch, known[1]))
        if len(self._newest) > SENDERS_MAX:
            del self._newest[next(iter(self._newest))]
        return over
