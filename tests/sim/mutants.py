"""The rules, each switched off: the simulation must object to every one of them.

Some rules are covered twice. A mutant then switches off both, because with the second belt on nothing can be seen:
R1 and R9 are backed by the comparison of chains (J1), which finds a standby with another log when it acknowledges.
"""

from coordinator.core.rules import Rules as CoordinatorRules
from shard.core.rules import Rules as ShardRules
from tests.sim.run import Mutant

MUTANTS = [
    Mutant("R1 fence", shard=ShardRules(fence=False, compare_logs=False)),
    Mutant("R1 promised before anything is said", promise_last=True),
    Mutant("R2 commit needs the view", shard=ShardRules(commit_needs_view=False)),
    Mutant("R3 shrink is recorded first", shard=ShardRules(shrink_recorded_first=False)),
    Mutant("R3 a refusal means deposed", shard=ShardRules(obey_refusal=False)),
    Mutant("R3 a question names its version", coordinator=CoordinatorRules(ask_names_ver=False)),
    Mutant("R3 an answer names its question", shard=ShardRules(match_answers=False)),
    Mutant("R4 require before add", shard=ShardRules(require_before_add=False)),
    Mutant("R5 promote from the set only", coordinator=CoordinatorRules(promote_from_set=False)),
    Mutant("R6 a term begins with EpochStart", shard=ShardRules(term_opens=False)),
    Mutant("R7 incarnations are named", shard=ShardRules(name_target=False)),
    Mutant("R8 a new session is out of the set", coordinator=CoordinatorRules(session_ends_membership=False)),
    Mutant("R8 a new session begins a term", coordinator=CoordinatorRules(session_starts_term=False)),
    Mutant("R8 lossy logs are weighed", coordinator=CoordinatorRules(weigh_lossy=False), relaxed=True),
    Mutant("R9 cut what the primary has not", shard=ShardRules(cut_suffix=False, compare_logs=False)),
    Mutant("R10 alone means synced", shard=ShardRules(sync_solo=False), relaxed=True),
    Mutant("R15 log time is bounded", shard=ShardRules(bound_time=False)),
    Mutant("W5 durable before it counts", shard=ShardRules(sync_before_ack=False), relaxed=False),
    Mutant("W8 let go after commit", shard=ShardRules(release_after_commit=False)),
    Mutant("E1 one id runs once", fresh_ids=True),
    Mutant("E4 silence about what has a seq", shard=ShardRules(doubt_is_silent=False)),
    Mutant("E6 503 only when certain", lying=True),
    Mutant("CS2 durable before it is told", tell_first=True),
]
