"""SHA-256 of files, remembered by path, size and time so that unchanged ones are not read again."""

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from cache.files import named, write_text
from cache.sealed import sealed_line, unsealed_line
from stages.preprocess.files import CaseFiles
from stages.preprocess.layouts.tree import is_hidden
from stages.preprocess.reading.below import files_below
from stages.preprocess.reading.regular import require_regular
from stages.preprocess.reading.text_header import data_files

LOG = logging.getLogger(__name__)

# a file changed again within the clock's tick of a first change keeps its time; a file that was
# quiet for so long before it was read cannot have been caught between two such changes
QUIET_NS = 2_000_000_000

Stamp = tuple[int, int]  # size in bytes, time of the last change in ns


@dataclass(frozen=True)
class Known:
    """A file's digest, and what the file looked like when it was taken."""

    stamp: Stamp
    sha256: str


class Shortcuts:
    """Digests of files seen before.

    Those that were neither asked for nor learned are forgotten when it is saved, so that it does
    not grow for ever.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _load(path)
        self._used: set[str] = set()

    def digest(self, path: Path) -> str | None:
        """The SHA-256 of a file that looks as it did when it was read; None for any other."""
        known = self.known(path)
        return None if known is None else known.sha256

    def known(self, path: Path) -> Known | None:
        """The same, with what the file looked like."""
        name = absolute(path)
        known = self._known.get(name)
        if known is None or known.stamp != _stamp_now(name):
            return None
        self._used.add(name)
        return known

    def forget(self) -> None:
        """Believe no size and no time: every file is read."""
        self._known.clear()

    def learn(self, known: Mapping[str, Known]) -> None:
        """Remember digests, by absolute path."""
        self._known.update(known)
        self._used.update(known)

    def save(self) -> None:
        """Write down what was used; where the disk refuses it, the next run reads it all again."""
        kept = {path: self._known[path] for path in sorted(self._used & self._known.keys())}
        lines = [sealed_line([path, *known.stamp, known.sha256]) for path, known in kept.items()]
        try:
            write_text(self._path, "".join(lines))
        except OSError as error:  # what stops the run is to be told, not this
            LOG.warning("%s: cannot be written (%s)", self._path, error)


def stamp_of(stat: os.stat_result) -> Stamp:
    """What changes when a file is written to."""
    return stat.st_size, stat.st_mtime_ns


def absolute(path: Path) -> str:
    """The name a file's digest is remembered under."""
    return os.path.abspath(path)  # noqa: PTH100 - far faster than Path, a thousand times a run


def hash_files(paths: Iterable[Path]) -> dict[str, Known]:
    """Read files and take their digests, by absolute path.

    Raises:
        OSError: one cannot be read.
        SourceError: one is not a regular file.
    """
    found = {}
    for path in paths:
        require_regular(path)
        stamp = stamp_of(path.stat())
        with named(path), path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        found[absolute(path)] = Known(stamp, digest)
    return found


def quiet(known: Mapping[str, Known]) -> dict[str, Known]:
    """Those of digests just taken whose files had not been written to immediately before."""
    latest = time.time_ns() - QUIET_NS
    return {path: one for path, one in known.items() if one.stamp[1] < latest}


@dataclass(frozen=True)
class Origin:
    """A case's source files as they were found, listed once and read once.

    Attributes:
        ct: files of the CT.
        label: files of the label.
        known: the digest of each, by absolute path.
    """

    ct: list[Path]
    label: list[Path]
    known: dict[str, Known]

    @classmethod
    def of(cls, files: CaseFiles) -> "Origin":
        """List and read a case's files. OSError if one cannot be read."""
        ct, label = source_files(files.ct), source_files(files.label)
        return cls(ct, label, hash_files([*ct, *label]))

    @classmethod
    def remembered(cls, files: CaseFiles, shortcuts: Shortcuts) -> "Origin | None":
        """The same without reading; None unless every file looks as it did when it was read."""
        try:
            ct, label = source_files(files.ct), source_files(files.label)
        except (OSError, SourceError):  # gone since the scan: reading it in earnest will say so
            return None
        known = {}
        for path in (*ct, *label):
            digest = shortcuts.known(path)
            if digest is None:
                return None
            known[absolute(path)] = digest
        return cls(ct, label, known)

    def digests(self, files: CaseFiles) -> dict[str, str]:
        """One digest for the CT and one for the label, from those of all their files."""
        return {
            role: combined(path, {name: self.known[name].sha256 for name in map(absolute, listed)})
            for role, path, listed in (
                ("ct", files.ct, self.ct),
                ("label", files.label, self.label),
            )
        }

    def changed(self, files: CaseFiles) -> list[Path]:
        """The files that no longer look as they did, that are gone, or that are new."""
        now = {*source_files(files.ct), *source_files(files.label)}
        touched = [Path(path) for path, one in self.known.items() if _stamp_now(path) != one.stamp]
        return touched + sorted(now - {*self.ct, *self.label})


def source_files(path: Path) -> list[Path]:
    """All files of a CT or label: the file, the data file of a mere header, or a whole folder.

    What a file browser leaves in a folder is none of them.

    Raises:
        SourceError: a folder cannot be listed.
    """
    if not path.is_dir():
        return [path, *data_files(path)]
    return [file for file in files_below(path) if not is_hidden(file.name)]


def combined(path: Path, digests: Mapping[str, str]) -> str:
    """One digest for the files of a CT or label: a single file's own.

    Args:
        path: the file or folder.
        digests: SHA-256 of each of its files, by absolute path.
    """
    if len(digests) == 1:
        return next(iter(digests.values()))
    base = absolute(path if path.is_dir() else path.parent)
    lines = sorted(
        f"{Path(os.path.relpath(name, base)).as_posix()} {sha}" for name, sha in digests.items()
    )
    # a file's name on Linux may be no text
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()


def _stamp_now(path: str) -> Stamp | None:
    try:
        return stamp_of(os.stat(path))  # noqa: PTH116 - a string is at hand
    except OSError:
        return None


def _load(path: Path) -> dict[str, Known]:
    """What an earlier run wrote down, without lines that are damaged; it is only a shortcut."""
    found = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:  # not there, or not readable: the files themselves are read
        return {}
    for line in lines:
        with suppress(ValueError, TypeError):
            name, size, time_ns, sha = unsealed_line(line)
            found[name] = Known((size, time_ns), sha)
    return found
