"""Decimal text and integer units: exact in both directions, plain refusals for everything else."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exchange.domain import PRICE_MAX
from exchange.money import decimal_units, format_units, parse_units, units_decimal

UNITS = st.integers(-PRICE_MAX, PRICE_MAX)
DECIMALS = st.integers(0, 12)


@pytest.mark.parametrize(
    ("text", "decimals", "units"),
    [
        ("150.25", 2, 15_025),
        ("150", 2, 15_000),
        ("0", 0, 0),
        ("0.00000001", 8, 1),
        ("-0.5", 1, -5),
        ("-0", 2, 0),
        ("007", 0, 7),
        ("1.50", 1, 15),
        ("1.000000000000", 0, 1),
        ("1000000000000000", 0, PRICE_MAX),
    ],
)
def test_plain_decimals_become_units(text: str, decimals: int, units: int) -> None:
    assert parse_units(text, decimals) == units


@pytest.mark.parametrize(
    "text",
    ["", " ", " 1", "1 ", "+1", "1e5", "1E5", "NaN", "Infinity", "-", "--1", ".", "1.", ".5", "1.2.3", "0x10", "1_000"],
)
def test_what_is_not_a_plain_decimal_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a plain decimal number"):
        parse_units(text, 2)


@pytest.mark.parametrize("text", ["１", "١", "²", "1.٢"])
def test_digits_of_other_scripts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a plain decimal number"):
        parse_units(text, 2)


def test_digits_beyond_the_scale_are_refused() -> None:
    with pytest.raises(ValueError, match=r"150\.255 has more than 2 decimals"):
        parse_units("150.255", 2)
    with pytest.raises(ValueError, match="has more than 2 decimals"):
        decimal_units(Decimal("150.255"), 2)


@pytest.mark.parametrize("start", ["9", "0.0", "-"])
def test_a_flood_of_digits_is_refused_before_it_is_read(start: str) -> None:
    text = start + start[-1] * 1_000_000
    with pytest.raises(ValueError, match="characters is too long"):
        parse_units(text, 2)


@pytest.mark.parametrize(
    ("number", "rule"),
    [
        (Decimal("NaN"), "not a finite number"),
        (Decimal("sNaN"), "not a finite number"),
        (Decimal("-Infinity"), "not a finite number"),
        (Decimal("1e999999"), "too many digits"),
        (Decimal("1e-999999"), "too many digits"),
    ],
)
def test_numbers_that_are_none_are_refused(number: Decimal, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        decimal_units(number, 2)


def test_exponents_are_read_exactly() -> None:
    assert decimal_units(Decimal("1e2"), 2) == 10_000
    assert decimal_units(Decimal("-15025e-2"), 2) == -15_025
    assert decimal_units(Decimal("1.500e1"), 0) == 15


@given(UNITS, DECIMALS)
def test_units_survive_text_and_decimal(units: int, decimals: int) -> None:
    assert parse_units(format_units(units, decimals), decimals) == units
    assert decimal_units(units_decimal(units, decimals), decimals) == units


@given(UNITS, DECIMALS)
def test_text_has_every_decimal_and_says_the_same_as_arithmetic(units: int, decimals: int) -> None:
    text = format_units(units, decimals)
    assert Fraction(text) == Fraction(units, 10**decimals)
    assert len(text.partition(".")[2]) == decimals


@given(st.text(max_size=40) | st.text("0123456789.-+eE ", max_size=40), DECIMALS)
def test_any_text_is_read_exactly_or_refused(text: str, decimals: int) -> None:
    try:
        units = parse_units(text, decimals)
    except ValueError:
        return
    assert Fraction(text) == Fraction(units, 10**decimals)


@given(st.decimals(places=6, min_value=-(10**9), max_value=10**9), DECIMALS)
def test_any_decimal_is_read_exactly_or_refused(number: Decimal, decimals: int) -> None:
    try:
        units = decimal_units(number, decimals)
    except ValueError:
        assert Fraction(number) * 10**decimals % 1
        return
    assert Fraction(number) == Fraction(units, 10**decimals)
