"""The ids of a list's rows: those in it, else what differs in the rows' paths."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.judge import folded
from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.volumes import stem

SHOWN = 4  # rows in a message


@dataclass(frozen=True)
class Named:
    """What a row has for an id.

    Attributes:
        at: where in the list it stands, as in "line 3".
        case_id: the id it gives; empty if it gives none.
        file: its CT, or its label if it names no CT.
    """

    at: str
    case_id: str
    file: Path


def ids_of(path: Path, rows: Sequence[Named]) -> list[str]:
    """An id for every row, no two of which are one file's name anywhere.

    The id of a row that gives none is the name of its CT; where that does not tell all rows apart,
    as with ``P001/ct.nii.gz`` and ``P002/ct.nii.gz``, the name of the folder; where that does not
    either, all of the path in which the rows differ, joined by ``_``. All rows without an id get
    theirs in the same way.

    Args:
        path: the list, for messages.
        rows: its rows.

    Raises:
        SourceError: two rows are one case; names them.
    """
    given = [composed(row.case_id) for row in rows]
    files = [row.file for row in rows if not row.case_id]
    ways: tuple[Callable[[list[Path]], list[str]], ...] = (_by_name, _by_folder, _by_difference)
    for way in ways:
        found = iter(way(files))
        ids = [case_id or next(found) for case_id in given]
        if not _repeated(ids):
            return ids
    found = iter(_by_name(files))
    raise _collision(path, rows, [case_id or next(found) for case_id in given])


def _by_name(files: list[Path]) -> list[str]:
    return [composed(stem(file.name)) for file in files]


def _by_folder(files: list[Path]) -> list[str]:
    return [composed(file.parent.name) for file in files]


def _by_difference(files: list[Path]) -> list[str]:
    """The parts of each path without those that all begin with, and without those all end with."""
    parts = [[*file.parts[:-1], stem(file.name)] for file in files]
    first = _common(parts)
    ends = [list(reversed(each[first:])) for each in parts]
    last = _common(ends)
    return [composed("_".join(reversed(each[last:]))) for each in ends]


def _common(paths: list[list[str]]) -> int:
    """How many parts all paths begin with alike; of each, at least one part stays."""
    shortest = min((len(each) for each in paths), default=1)
    alike = 0
    while alike < shortest - 1 and len({each[alike] for each in paths}) == 1:
        alike += 1
    return alike


def _repeated(ids: list[str]) -> dict[str, list[int]]:
    """The places of ids that several rows have, by what they have in common."""
    places = defaultdict(list)
    for place, case_id in enumerate(ids):
        places[folded(case_id)].append(place)
    return {name: at for name, at in places.items() if len(at) > 1}


def _collision(path: Path, rows: Sequence[Named], ids: list[str]) -> SourceError:
    at = next(iter(_repeated(ids).values()))
    places = ", ".join(rows[place].at for place in at[:SHOWN])
    more = f" and {len(at) - SHOWN} more" if len(at) > SHOWN else ""
    fact = f"{len(at)} rows are case {ids[at[0]]!r}: {places}{more}"
    return SourceError(
        path, fact, "give every row a case_id of its own, in upper and lower case too"
    )
