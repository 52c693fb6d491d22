"""The tape: newest first, after a sequence, and what it can prove to be complete."""

from exchange.domain import compose_id
from exchange.limits import IMAGE_TRADES_MAX
from exchange.messages import PublicTrade
from marketdata.core.trades import Tape


def trade(counter: int, seq: int | None = None) -> PublicTrade:
    return PublicTrade(compose_id(3, counter), 100, 1, 0, 0, 1, counter if seq is None else seq)


def numbers(trades: list[PublicTrade]) -> list[int]:
    return [trade.trade_id - compose_id(3, 0) for trade in trades]


def tape(*trades: PublicTrade) -> Tape:
    filled = Tape()
    for one in trades:
        assert filled.add(one) == 0
    return filled


def test_the_newest_come_first() -> None:
    kept = tape(trade(1), trade(2), trade(3))
    assert numbers(kept.newest(2)) == [3, 2]
    assert numbers(kept.newest(100)) == [3, 2, 1]
    assert kept.last == trade(3)
    assert Tape().newest(5) == []


def test_all_fills_of_one_command_share_its_sequence() -> None:
    kept = tape(trade(1, 10), trade(2, 10), trade(3, 11))
    assert kept.after(9) == ([trade(1, 10), trade(2, 10), trade(3, 11)], True)
    assert kept.after(10) == ([trade(3, 11)], True)
    assert kept.after(11) == ([], True)


def test_what_fell_out_makes_older_requests_incomplete() -> None:
    kept = tape(*[trade(counter) for counter in range(1, IMAGE_TRADES_MAX + 3)])
    assert kept.after(2)[1]
    assert numbers(kept.after(2)[0])[0] == 3
    assert not kept.after(1)[1]
    assert len(kept.newest(2 * IMAGE_TRADES_MAX)) == IMAGE_TRADES_MAX


def test_a_tape_that_starts_in_the_middle_proves_only_what_follows() -> None:
    kept = tape(trade(50, 500), trade(51, 510))
    assert not kept.after(499)[1]
    assert kept.after(500) == ([trade(51, 510)], True)


def test_repetitions_are_dropped_and_holes_are_counted() -> None:
    kept = tape(trade(1), trade(2))
    assert kept.add(trade(2)) == -1
    assert kept.add(trade(6)) == 3
    assert numbers(kept.newest(10)) == [6]
    assert not kept.after(2)[1]


def test_after_a_restart_nothing_before_it_is_proven() -> None:
    kept = tape(trade(1), trade(2))
    kept.restart(40)
    assert kept.after(39) == ([], False)
    assert kept.after(40) == ([], True)
    assert kept.add(trade(1, 41)) == 0
