"""predictions.json: what became of each CT, so that a run that was killed goes on."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from cache.errors import SourceError
from cache.files import write_json
from stages.preprocess.reading.sniff import data_files

NAME = "predictions.json"
SCHEMA_VERSION = 1

Stamp = list[int]  # files, bytes, newest change in ns


@dataclass(frozen=True)
class Entry:
    """What became of one CT.

    Attributes:
        key: SHA-256 over the models and the choices it was predicted with.
        stamp: what its files looked like.
        files: what was written, below the folder of predictions.json; empty if there was a fault.
        liver_ml: volume of the mask; None if there was a fault.
        warnings: what is to be doubted about the CT.
        fault: why there is no mask, and what to do about it; None if there is one.
    """

    key: str
    stamp: Stamp
    files: list[str]
    liver_ml: float | None
    warnings: list[str]
    fault: str | None


class Journal:
    """The entries of a folder of masks, by the names of their CTs; written whole after each."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._entries = _read(out / NAME)

    def finished(self, name: str, key: str, stamp: Stamp) -> Entry | None:
        """The entry of a CT that is as it was, was predicted so, and whose masks are there."""
        entry = self._entries.get(name)
        if entry is None or entry.fault is not None or (entry.key, entry.stamp) != (key, stamp):
            return None
        return entry if all((self._out / file).is_file() for file in entry.files) else None

    def files(self, name: str) -> list[str]:
        """What an earlier run wrote of a CT, below the folder; nothing if it knew none."""
        entry = self._entries.get(name)
        return [] if entry is None else entry.files

    def add(self, name: str, entry: Entry) -> None:
        """Write down what became of a CT."""
        self._entries[name] = entry
        fields = {
            "schema_version": SCHEMA_VERSION,
            "predictions": {each: asdict(one) for each, one in self._entries.items()},
        }
        write_json(self._out / NAME, fields)


def stamp_of(path: Path) -> Stamp:
    """What changes when a CT does: of a file with those its header names, or of a folder's files.

    Raises:
        SourceError: they cannot be looked at.
    """
    try:
        stats = [file.stat() for file in _files(path)]
    except OSError as error:
        fact = f"cannot be read ({error.strerror})"
        raise SourceError(path, fact, "check that it is there and may be read") from error
    newest = max((stat.st_mtime_ns for stat in stats), default=0)
    return [len(stats), sum(stat.st_size for stat in stats), newest]


def _files(path: Path) -> Iterable[Path]:
    if path.is_dir():
        return (file for file in path.rglob("*") if file.is_file())
    return [path, *data_files(path)]


def _read(path: Path) -> dict[str, Entry]:
    """The entries of a file; none where it is missing, damaged, or of another version."""
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["schema_version"] != SCHEMA_VERSION:
            return {}
        return {name: Entry(**entry) for name, entry in fields["predictions"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # all is predicted anew
