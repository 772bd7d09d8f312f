"""How numbers, times and pictures stand in the report."""

import base64
import math

DASH = "\N{EN DASH}"


def number(value: float | None, digits: int) -> str:
    """A number with this many decimals; a dash for None and NaN, ∞ for infinity."""
    if value is None or math.isnan(value):
        return DASH
    return "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int) -> str:
    """The same with its sign; what rounds to zero has none."""
    text = number(value, digits)
    if value is None or not math.isfinite(value) or not float(text.replace(",", "")):
        return text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}") if value < 0 else f"+{text}"


def sortable(value: float) -> str:
    """The number for the table's sorting; empty for NaN, which sorts last."""
    return "" if math.isnan(value) else repr(value)


def duration(seconds: float | None) -> str:
    """A time as people say it: 12.3 s, 4 min 5 s, 3 h 20 min; None was not recorded."""
    if seconds is None:
        return "not recorded"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if seconds < 3599.5:
        return "{} min {} s".format(*divmod(round(seconds), 60))
    return "{} h {} min".format(*divmod(round(seconds / 60), 60))


def png(data: bytes) -> str:
    """A picture as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
