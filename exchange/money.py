"""Decimal text to integer units and back. The only place where a decimal point is read or written; no float."""

from decimal import Decimal

from exchange.domain import PRICE_MAX, QUANTITY_MAX

_DIGITS_MAX = len(str(max(PRICE_MAX, QUANTITY_MAX))) + 20


def parse_units(text: str, decimals: int) -> int:
    """Units of 10^-decimals in a plain decimal text such as "150.25".

    Raises ValueError with a sentence when the text is not plain decimal ("1e5", "+1", "NaN", " 1"), is too long, or
    has a non-zero digit beyond `decimals`.
    """
    whole, point, fraction = text.partition(".")
    sign = -1 if whole[:1] == "-" else 1
    digits = whole[1:] if sign < 0 else whole
    if len(text) > _DIGITS_MAX:
        raise ValueError(f"number of {len(text)} characters is too long (at most {_DIGITS_MAX})")
    if not (digits.isascii() and digits.isdigit()) or (point and not (fraction.isascii() and fraction.isdigit())):
        raise ValueError(f"{text!r} is not a plain decimal number")
    if len(fraction) > decimals:
        if fraction[decimals:].strip("0"):
            raise ValueError(f"{text} has more than {decimals} decimals")
        fraction = fraction[:decimals]
    units = int(digits + fraction.ljust(decimals, "0"))
    return -units if sign < 0 else units


def decimal_units(number: Decimal, decimals: int) -> int:
    """Units of 10^-decimals in a finite Decimal; ValueError as parse_units. Exponents are allowed ("1e2")."""
    if not number.is_finite():
        raise ValueError(f"{number} is not a finite number")
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    if len(digits) + abs(exponent) > _DIGITS_MAX:
        raise ValueError("number has too many digits")
    shift = exponent + decimals
    units = int("".join(map(str, digits)) + "0" * max(shift, 0))
    if shift < 0:
        units, beyond = divmod(units, int("1" + "0" * -shift))
        if beyond:
            raise ValueError(f"{number} has more than {decimals} decimals")
    return -units if sign else units


def format_units(units: int, decimals: int) -> str:
    """Plain decimal text of `units` of 10^-decimals, always with all decimals: format_units(15025, 2) = "150.25"."""
    if decimals == 0:
        return str(units)
    sign = "-" if units < 0 else ""
    text = str(abs(units)).rjust(decimals + 1, "0")
    return f"{sign}{text[:-decimals]}.{text[-decimals:]}"


def units_decimal(units: int, decimals: int) -> Decimal:
    """The exact Decimal of `units` of 10^-decimals, without trailing zeros: what the classic JSON dialect prints."""
    text = format_units(units, decimals)
    return Decimal(text.rstrip("0").rstrip(".") if "." in text else text)
