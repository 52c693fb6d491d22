"""The protocol's rules by name. Production has all of them; a test switches one off and must see the checker object."""

from msgspec import Struct


class Rules(Struct, frozen=True):
    """Names follow docs/PROTOCOL.md. False = the rule is not obeyed."""

    fence: bool = True
    """R1: refuse what is of a lower term than promised."""
    commit_needs_view: bool = True
    """R2: commit waits for every member of the maximal view."""
    shrink_recorded_first: bool = True
    """R3: drop a standby only after the store has recorded it."""
    obey_refusal: bool = True
    """R3: a primary that learns of a higher term stops."""
    require_before_add: bool = True
    """R4: require a standby's acknowledgements before asking to add it."""
    name_target: bool = True
    """R7: a message meant for another incarnation is dropped."""
    cut_suffix: bool = True
    """R9: a standby cuts what the primary does not have before it appends."""
    sync_before_ack: bool = True
    """W7 and R10: nothing counts before it is durable."""
    release_after_commit: bool = True
    """W8: answers and events leave only when committed."""


ALL = Rules()
