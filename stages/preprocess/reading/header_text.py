"""What the headers of MetaImage and NRRD have in common: lines of text before the voxels."""

import math
import os
import re
import shutil
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

PLAIN = re.compile(rb"[\t\n\r -~]*")
LONGEST_VALUE = 1000  # characters of what a reader needs, names of data files apart
ALIKE = 0.8  # as difflib measures it: one letter of six may differ
SHOWN = 40  # characters of a value in a message


@dataclass(frozen=True)
class TextHeader:
    """What the text before the voxels says.

    Attributes:
        fields: what a reader needs, by name: MetaImage's as it is, NRRD's in small letters without
            blanks. All have been checked.
        units: the units of length it states, by field; not for the reader.
        pairs: all else it states, by name.
        rest_at: the first byte behind it: of the voxels, or of the names of data files.
        is_plain: whether it has nothing that a reader may stumble over.
        clean: a header that says the same to a reader, and nothing else.
    """

    fields: dict[str, str]
    units: dict[str, str]
    pairs: dict[str, str]
    rest_at: int
    is_plain: bool
    clean: bytes

    def write_clean(self, source: Path, target: Path) -> None:
        """Copy the file under its clean header."""
        with source.open("rb") as whole, target.open("wb") as copy:
            copy.write(self.clean)
            whole.seek(self.rest_at)
            shutil.copyfileobj(whole, copy, 1 << 20)


def text_of(value: bytes) -> str:
    """A text of whatever encoding: UTF-8 if it can be, else Latin-1, which any bytes can be."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")


def needed(lines: Iterable[tuple[str, bytes]], data_key: str) -> dict[str, str]:
    """The fields of a reader by name.

    Raises:
        ValueError: two lines contradict each other, or one is endless or no ASCII.
    """
    fields: dict[str, str] = {}
    for name, value in lines:
        is_plain = len(value) <= LONGEST_VALUE and PLAIN.fullmatch(value)
        if name != data_key and not is_plain:
            raise ValueError(f"its {name} is {shown(text_of(value))}")
        text = os.fsdecode(value)
        if fields.setdefault(name, text) != text:
            raise ValueError(f"it states {name} as {shown(fields[name])} and as {shown(text)}")
    return fields


def require_no_damaged_names(
    fields: Collection[str], others: Iterable[str], groups: Iterable[Sequence[str]]
) -> None:
    """Refuse a header that lacks a field and has a line of nearly the same name.

    A reader would put a default in its place: the origin at zero, another order of bytes.

    Args:
        fields: the names of what is stated.
        others: the names of all other lines.
        groups: names of fields of which one is enough.

    Raises:
        ValueError: names both.
    """
    names = [name for group in groups if not set(fields) & set(group) for name in group]
    missing = {name.lower(): name for name in names}
    for other in others:
        close = get_close_matches(other.strip().lower(), missing, 1, ALIKE)
        if close:
            raise ValueError(f"it has {shown(other)} and no {missing[close[0]]}")


def require_place(
    fields: Collection[str], damaged: Sequence[str], groups: Iterable[Sequence[str]]
) -> None:
    """Refuse a header that lacks a field nearly every one has, and has a line that is none.

    Args:
        fields: the names of what is stated.
        damaged: lines that are none, by their names or whole.
        groups: names of fields of which one is enough.

    Raises:
        ValueError: names both.
    """
    missing = [group[0] for group in groups if not set(fields) & set(group)]
    if damaged and missing:
        raise ValueError(f"it has {shown(damaged[0])} and no {missing[0]}")


def require(fields: dict[str, str], names: Iterable[str]) -> None:
    """ValueError: a field is missing."""
    for name in names:
        if name not in fields:
            raise ValueError(f"it has no {name}")


def wrong(fields: dict[str, str], name: str) -> ValueError:
    """What to raise of a field that cannot be."""
    return ValueError(f"its {name} is {shown(fields[name])}")


def whole_numbers(fields: dict[str, str], name: str, count: int, *, least: int) -> list[int]:
    """So many whole numbers of a field. ValueError: it holds something else."""
    words = fields[name].split()
    if len(words) != count or not all(re.fullmatch(r"[+-]?\d{1,18}", word) for word in words):
        raise wrong(fields, name)
    numbers = [int(word) for word in words]
    if min(numbers) < least:
        raise wrong(fields, name)
    return numbers


def require_numbers(fields: dict[str, str], name: str, count: int) -> None:
    """ValueError: a field does not hold so many numbers, finite or not."""
    words = fields[name].split()
    if len(words) != count:
        raise wrong(fields, name)
    for word in words:
        number(fields, name, word)


def number(fields: dict[str, str], name: str, word: str) -> float:
    """A number of a field, finite or not. ValueError: it is none."""
    try:
        value = float(word.replace("_", "x"))  # Python's own way to write a million
    except ValueError:
        raise wrong(fields, name) from None
    if math.isinf(value) and "inf" not in word.lower():
        raise wrong(fields, name)
    return value


def shown(text: str) -> str:
    """A value in a message."""
    short = text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
    return f"{short!r}, {len(text):,} characters long," if len(text) > SHOWN else repr(short)
