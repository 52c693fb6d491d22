"""Levels against a sorted model, and the checksum against its published vector."""

from hypothesis import given
from hypothesis import strategies as st

from exchange.domain import Side
from marketdata.core.depth import Book, checksum

ROWS = st.lists(st.tuples(st.sampled_from(Side), st.integers(1, 30), st.integers(0, 3)), max_size=80)


@given(ROWS, st.lists(st.integers(0, 79), max_size=5), st.integers(1, 40))
def test_the_top_equals_a_sorted_model_whenever_somebody_looks(
    rows: list[tuple[Side, int, int]], looks: list[int], depth: int
) -> None:
    book = Book()
    model: dict[Side, dict[int, int]] = {Side.BUY: {}, Side.SELL: {}}
    for number, (side, price, quantity) in enumerate(rows):
        book.sides[side].set(price, quantity)
        model[side][price] = quantity
        if number in looks:
            assert book.bids.top(depth) == best(model[Side.BUY], depth, reverse=True)
    assert book.bids.top(depth) == best(model[Side.BUY], depth, reverse=True)
    assert book.asks.top(depth) == best(model[Side.SELL], depth, reverse=False)


@given(ROWS, ROWS, ROWS)
def test_changes_turn_the_book_before_into_the_book_after(
    before: list[tuple[Side, int, int]], first: list[tuple[Side, int, int]], second: list[tuple[Side, int, int]]
) -> None:
    book = Book()
    for side, price, quantity in before:
        book.sides[side].set(price, quantity)
    copies = [dict(ladder.top(1_000)) for ladder in book.sides]
    book.track(on=True)
    for rows in (first, second):
        for side, price, quantity in rows:
            book.sides[side].set(price, quantity)
        for copy, ladder in zip(copies, book.sides, strict=True):
            copy.update(ladder.take_changes())
            assert {price: quantity for price, quantity in copy.items() if quantity} == dict(ladder.top(1_000))


def test_nothing_is_noted_when_nobody_tracks() -> None:
    book = Book()
    book.bids.set(100, 5)
    book.track(on=True)
    book.bids.set(101, 5)
    book.track(on=False)
    book.bids.set(102, 5)
    assert book.bids.take_changes() == []


def test_a_cleared_book_is_empty_and_forgets_its_changes() -> None:
    book = Book()
    book.track(on=True)
    book.bids.set(100, 5)
    book.asks.set(101, 5)
    book.clear()
    assert (book.bids.top(10), book.asks.top(10), book.bids.take_changes()) == ([], [], [])
    book.asks.set(103, 7)
    assert book.asks.top(10) == [(103, 7)]


def test_checksum_of_the_published_vector() -> None:
    bids, asks = [(15_024, 300), (5, 7)], [(15_026, 200), (15_027, 1_000)]
    assert checksum(bids, asks) == 2_275_213_449


def test_checksum_of_a_book_takes_ten_levels_a_side() -> None:
    book = Book()
    for step in range(20):
        book.bids.set(1_000 - step, 1 + step)
        book.asks.set(1_001 + step, 1 + step)
    assert book.checksum() == checksum(book.bids.top(10), book.asks.top(10))
    before = book.checksum()
    book.bids.set(985, 999)
    assert book.checksum() == before
    book.bids.set(991, 999)
    assert book.checksum() != before


def best(levels: dict[int, int], depth: int, *, reverse: bool) -> list[tuple[int, int]]:
    standing = [(price, quantity) for price, quantity in levels.items() if quantity]
    return sorted(standing, reverse=reverse)[:depth]
