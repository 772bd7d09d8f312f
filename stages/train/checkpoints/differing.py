"""What sets the parameters of two runs apart, in a line that a terminal can hold."""

from collections.abc import Iterator, Mapping
from typing import Any

SHOWN = 4  # parameters
LONGEST = 40  # characters of a value
ABSENT = object()


def differing(before: Mapping[str, Any], now: Mapping[str, Any], section: str) -> list[str]:
    """Each parameter of a section that was another, with both values; of many, the first ones.

    Parameters within parameters are listed by themselves: of ``train.augmentation`` what changed,
    not all.
    """
    found = list(_differing(before, now, section))
    more = [f"{len(found) - SHOWN} more parameters differ"] if len(found) > SHOWN else []
    return [*found[:SHOWN], *more]


def _differing(before: Mapping[str, Any], now: Mapping[str, Any], at: str) -> Iterator[str]:
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name, ABSENT), now.get(name, ABSENT)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differing(old, new, f"{at}.{name}")
        elif old != new:
            yield f"{at}.{name} was {_short(old)}, is {_short(new)}"


def _short(value: Any) -> str:
    text = "absent" if value is ABSENT else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
