"""riskd as a process behind real shards: questions, kill -9 of either side, lost history, garbage."""

import random
import signal
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from exchange import messages as m
from exchange.domain import Kind, SelfTrade, Side, TimeInForce
from exchange.wire import array_header, decode_risk_outbound, decode_shard_outbound, encode
from riskd.core import checkpoint
from riskd.core.checkpoint import CheckpointError
from tests.daemons import Place, eventually

AAPL = 0


class Venue:
    """A coordinator, two shards, one riskd; a trader and somebody who asks."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.place.start("coordinator", "c0")
        self.shard = self.place.start("shard", "s0-a")
        self.place.start("shard", "s1-a")
        self.riskd = self.place.start("riskd", "r0")
        self.trader = self.place.peer("gateway:g0", "orders.s0-a", decode_shard_outbound)
        self.asker = self.place.peer("gateway:g0", "risk", decode_risk_outbound)
        self.cli = self.place.peer("cli:1")
        self._batches = 0
        self._questions = 0
        self.until_healthy()

    @property
    def checkpoint(self) -> int:
        """Commands of shard s0 that the checkpoint on the disk covers."""
        try:
            read = checkpoint.decode((self.place.config.data / "risk" / "checkpoint").read_bytes())
        except (FileNotFoundError, CheckpointError):
            return 0
        return read.ledger("s0").cursor.seq

    def until_healthy(self, *, term: int = 1, accounts: int = 0) -> m.DaemonStatus:
        """Wait until both shards and riskd are, s0 in this term, riskd with so many accounts; returns riskd's row."""

        def well(status: m.ClusterStatus) -> bool:
            rows = {row.name: row for row in status.daemons}
            healthy = all(rows[name].health == "healthy" for name in ("s0-a", "s1-a", "r0"))
            this = rows["r0"].pid == self.riskd.pid and rows["r0"].stats.get("accounts") == accounts
            return healthy and rows["s0-a"].epoch == term and this

        status = self.cli.ask(m.AskStatus(), m.ClusterStatus, well)
        return next(row for row in status.daemons if row.role == "riskd")

    def until_published_to(self, *, accounts: int = 0) -> None:
        """Wait until riskd hears what the shards publish: what they say before that, a forgetful one cannot repeat."""
        seqs, images = [], -1
        while True:
            stats = self.until_healthy(accounts=accounts).stats
            if stats["images"] != images:
                seqs, images = [stats["seq.s0"], stats["seq.s1"]], stats["images"]
            if stats["seq.s0"] > seqs[0] and stats["seq.s1"] > seqs[1]:
                return

    def trade(self, buyer: str, seller: str, price: int, quantity: int) -> None:
        """Trade AAPL between two accounts. The batch is sent once: the shard must be there."""
        self._batches += 1
        orders = [
            m.Submit(
                account, f"o{self._batches}.{side.value}", AAPL, side, Kind.LIMIT, TimeInForce.GTC, 0, SelfTrade.NONE,
                price, quantity,
            )
            for account, side in ((seller, Side.SELL), (buyer, Side.BUY))
        ]  # fmt: skip
        self.trader.send(m.Batch("g0", 1, self._batches, 0, 2), encode(orders))
        self.trader.wait(m.Answers, lambda said: said.batch == self._batches)

    def positions(self, account: str, *, quantity: int) -> m.Positions:
        """What riskd says once it knows the account at this position and all streams are live."""

        def current(said: m.Positions) -> bool:
            live = bool(said.as_of) and all(live for _, _, live in said.as_of.values())
            return live and any(held.position == quantity for held in said.holdings)

        return self.ask(account, current)

    def ask(self, account: str, when: Callable[[m.Positions], bool]) -> m.Positions:
        """Such an answer to this question: one that was asked again before may still be answered, by a riskd that is
        dead meanwhile.
        """
        self._questions += 1
        question = m.AskPositions(self._questions, account)
        return self.asker.ask(question, m.Positions, lambda said: said.request == question.request and when(said))


@pytest.fixture
def venue() -> Iterator[Venue]:
    with closing(Place()) as place:
        yield Venue(place)


@pytest.fixture
def forgetful_venue() -> Iterator[Venue]:
    """Its shards keep no events to speak of for re-sending."""
    with closing(Place(ring_bytes=1)) as place:
        venue = Venue(place)
        venue.until_published_to()
        yield venue


def test_trades_become_positions(venue: Venue) -> None:
    venue.trade("ann", "bob", 15_000, 5)
    venue.trade("ann", "bob", 16_000, 5)
    venue.trade("bob", "ann", 17_000, 4)
    said = venue.positions("ann", quantity=6)
    assert (said.account, said.exposure) == ("ann", {"USD": "1020.00"})
    assert said.holdings == [m.Holding(AAPL, 6, 0, 0, "93000", 14, "6000", True)]
    assert sorted(said.as_of) == ["s0", "s1"]
    assert venue.positions("bob", quantity=-6).holdings[0].realised == "-6000"
    assert venue.until_healthy(accounts=2).stats["conservation"] == "ok"
    assert venue.ask("nobody", lambda _: True).holdings == []


def test_a_stopped_riskd_has_written_what_the_shards_could_not_tell_again(forgetful_venue: Venue) -> None:
    venue = forgetful_venue
    venue.trade("ann", "bob", 15_000, 5)
    seq = venue.positions("ann", quantity=5).as_of["s0"][1]
    eventually(lambda: venue.checkpoint >= seq, "checkpoint")
    assert venue.place.kill(venue.riskd, signal.SIGTERM) == 0
    assert venue.checkpoint >= seq
    venue.riskd = venue.place.start("riskd", "r0")
    held = venue.positions("ann", quantity=5).holdings[0]
    assert (held.cost, held.volume) == ("75000", 5)


def test_what_happened_while_it_was_away_is_fetched_from_the_shard(venue: Venue) -> None:
    venue.trade("ann", "bob", 15_000, 5)
    seq = venue.positions("ann", quantity=5).as_of["s0"][1]
    eventually(lambda: venue.checkpoint >= seq, "checkpoint")
    venue.place.kill(venue.riskd)
    venue.trade("ann", "bob", 16_000, 5)
    venue.riskd = venue.place.start("riskd", "r0")
    assert venue.positions("ann", quantity=10).holdings == [m.Holding(AAPL, 10, 0, 0, "155000", 10, "0", True)]


def test_without_a_checkpoint_the_stream_is_read_from_its_start(venue: Venue) -> None:
    venue.trade("ann", "bob", 15_000, 5)
    venue.positions("ann", quantity=5)
    file = venue.place.config.data / "risk" / "checkpoint"
    for damage in (file.unlink, lambda: file.write_bytes(file.read_bytes()[:-3])):
        eventually(lambda: venue.checkpoint, "checkpoint")
        venue.place.kill(venue.riskd)
        damage()
        venue.riskd = venue.place.start("riskd", "r0")
        assert venue.positions("ann", quantity=5).holdings == [m.Holding(AAPL, 5, 0, 0, "75000", 5, "0", True)]


def test_history_that_nobody_has_any_more_is_not_invented(forgetful_venue: Venue) -> None:
    venue = forgetful_venue
    venue.trade("ann", "bob", 15_000, 5)
    venue.positions("ann", quantity=5)
    eventually(lambda: venue.checkpoint, "checkpoint")
    venue.place.kill(venue.riskd)
    (venue.place.config.data / "risk" / "checkpoint").unlink()
    venue.riskd = venue.place.start("riskd", "r0")
    held = venue.positions("ann", quantity=5).holdings[0]
    assert (held.volume, held.exact) == (0, False)
    venue.until_published_to(accounts=2)
    venue.trade("ann", "bob", 16_000, 1)
    assert venue.positions("ann", quantity=6).holdings[0].volume == 1
    assert venue.until_healthy(accounts=2).stats["conservation"] == "ok"


def test_a_shard_that_is_killed_is_not_live_until_it_is_back(venue: Venue) -> None:
    venue.trade("ann", "bob", 15_000, 5)
    epoch = venue.positions("ann", quantity=5).as_of["s0"][0]
    venue.place.kill(venue.shard)
    said = venue.ask("ann", lambda said: not said.as_of["s0"][2] and said.as_of["s1"][2])
    assert said.holdings[0].position == 5
    venue.shard = venue.place.start("shard", "s0-a")
    venue.until_healthy(term=2, accounts=2)
    venue.trade("ann", "bob", 16_000, 5)
    said = venue.positions("ann", quantity=10)
    assert said.as_of["s0"][0] == epoch + 1
    assert said.holdings == [m.Holding(AAPL, 10, 0, 0, "155000", 10, "0", True)]


def test_garbage_at_the_door_harms_nothing(venue: Venue) -> None:
    hostile = venue.place.peer("gateway:evil", "risk", decode_risk_outbound)
    dice = random.Random(3)
    for _ in range(100):
        hostile.socket.send(dice.randbytes(dice.randrange(50)))
    hostile.socket.send(encode(m.AskPositions(1, "x" * 100_000)))
    hostile.socket.send(encode(m.AskPositions(1, "ann")), b"y" * 100_000)
    hostile.socket.send(array_header(1 << 20))
    hostile.ask(m.AskPositions(99, "nobody"), m.Positions, lambda said: said.request == 99)
    venue.trade("ann", "bob", 15_000, 5)
    assert venue.positions("ann", quantity=5).holdings[0].position == 5
    assert venue.riskd.poll() is None


def test_before_the_coordinator_is_there_questions_are_declined() -> None:
    with closing(Place()) as place:
        riskd = place.start("riskd", "r0")
        asker = place.peer("gateway:g0", "risk", decode_risk_outbound)
        said = asker.ask(m.AskPositions(3, "ann"), m.NotServed)
        assert said == m.NotServed(3, "riskd has not heard from the coordinator yet")
        assert place.kill(riskd, signal.SIGTERM) == 0
