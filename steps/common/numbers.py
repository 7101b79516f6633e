"""Numbers as a dump writes them: ASCII digits, and within bounds."""

from steps.common.budgets import LARGEST, LONGEST_NUMBER


def to_float(value: object) -> float:
    """Give a number, or the number that a text is; NaN and infinity are some.

    Python reads `1_0` and the digits of all scripts as well, which no format does.

    Raises:
        ValueError: it is none, or does not fit into a double.
    """
    if isinstance(value, str):
        if not value.isascii() or "_" in value or len(value) > LONGEST_NUMBER:
            raise ValueError
    elif not isinstance(value, int | float) or isinstance(value, bool):
        raise ValueError
    try:
        return float(value)
    except OverflowError:
        raise ValueError from None


def to_int(value: object) -> int:
    """Give a whole number, which may be written as 3.0 or as text, from -`LARGEST` to `LARGEST`.

    Raises:
        ValueError: it is none.
    """
    if type(value) is int and -LARGEST <= value <= LARGEST:
        return value
    number = to_float(value)
    if not number.is_integer() or abs(number) > LARGEST:
        raise ValueError
    return int(number)
