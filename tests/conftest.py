"""Property tests try the same examples in every run, so that a failure is a change's; `make explore` tries others.

No example has a deadline: how long one takes on a busy machine says nothing about right and wrong.
"""

from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None)
settings.register_profile("explore", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile("steady")
