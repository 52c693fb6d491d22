"""The coordinator's rules by name. Production has all of them; a test switches one off and must see it missed."""

from msgspec import Struct


class Rules(Struct, frozen=True):
    """Names follow docs/PROTOCOL.md. False = the rule is not obeyed."""

    ask_names_ver: bool = True
    """R3, R4: a request is granted only while the metadata is what the asker knew."""
    promote_from_set: bool = True
    """R5: only a member of the recorded in-sync set is promoted."""
    session_ends_membership: bool = True
    """R8: a node that starts again is no longer in the set, unless it is to lead."""
    session_starts_term: bool = True
    """R8: a primary that starts again leads a new term."""
    weigh_lossy: bool = True
    """R8: in the mode `replicated` an only member that may have lost records leads only after logs were compared."""


ALL = Rules()
