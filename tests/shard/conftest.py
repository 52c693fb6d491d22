"""What several stories of two real nodes begin with."""

from collections.abc import Iterator

import pytest

from tests.shard.pair import Pair
from tests.shard.peers import short_directory


@pytest.fixture
def pair() -> Iterator[Pair]:
    with short_directory() as root:
        pair = Pair(root)
        yield pair
        pair.close()
