"""The protocol's rules by name. Production has all of them; a test switches one off and must see a checker object."""

from msgspec import Struct


class Rules(Struct, frozen=True):
    """Names follow docs/PROTOCOL.md. False = the rule is not obeyed."""

    fence: bool = True
    """R1: only the leader of the promised term is obeyed and acknowledged."""
    commit_needs_view: bool = True
    """R2: commit waits for every member of the maximal view."""
    shrink_recorded_first: bool = True
    """R3: a standby is required until the store has recorded that it is not."""
    obey_refusal: bool = True
    """R3: a primary that learns of a higher term stops."""
    match_answers: bool = True
    """R3, R4: only the answer that names the open question decides it."""
    require_before_add: bool = True
    """R4: a standby's acknowledgements are required before the store is asked to add it."""
    term_opens: bool = True
    """R6: a term begins with EpochStart, behind everything that was inherited."""
    name_target: bool = True
    """R7: a message from or for another incarnation is dropped."""
    cut_suffix: bool = True
    """R9: a standby cuts what the primary does not have before it appends."""
    sync_solo: bool = True
    """R10: a primary alone syncs before it answers, in any mode."""
    compare_logs: bool = True
    """J1, R13: acknowledgements carry chain and trail, and must be equal to the primary's."""
    sync_before_ack: bool = True
    """W5, W6: in the mode `both` nothing counts before it is durable."""
    release_after_commit: bool = True
    """W8: answers and events leave only when committed."""
    bound_time: bool = True
    """R15: log time does not follow a wall clock that jumps ahead."""
    doubt_is_silent: bool = True
    """E4: who stops leading never says "not executed" of a command that has a seq."""


ALL = Rules()
