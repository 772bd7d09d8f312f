"""predictions.json: what became of each CT, so that a run that was killed goes on."""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath

from cache.errors import DataError, SourceError
from cache.files import named, read_bytes, write_json
from cache.jsons import parsed
from cache.sealed import sealed, unsealed
from stages.preprocess.reading.below import files_below
from stages.preprocess.reading.text_header import data_files

NAME = "predictions.json"
SCHEMA_VERSION = 3
WITHOUT_DIGEST = 2  # the version before, which is read all the same

Stamp = list[int]  # files, bytes, newest change in ns
Written = dict[str, str]  # file below the folder -> SHA-256


@dataclass(frozen=True)
class Entry:
    """What became of one CT.

    Attributes:
        key: SHA-256 over the models and the choices it was predicted with.
        stamp: what its files looked like.
        files: what was written, below the folder of predictions.json, and its SHA-256; if there
            was a fault, what could not be taken away.
        liver_ml: volume of the mask; None if there was a fault.
        warnings: what is to be doubted about the CT.
        fault: why there is no mask, and what to do about it; None if there is one.
    """

    key: str
    stamp: Stamp
    files: Written
    liver_ml: float | None
    warnings: list[str]
    fault: str | None


class Journal:
    """The entries of a folder of masks, by the names of their CTs; written whole after each.

    Other runs may write to the folder meanwhile, as on a second GPU: what they add is read again.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._file = _version_of(out / NAME)
        self._entries = _read(out / NAME)

    def finished(self, name: str, key: str, stamp: Stamp, mask: Path) -> Entry | None:
        """The entry of a CT that is as it was, was predicted so, and whose files are there."""
        self._read_again()
        entry = self._entries.get(name)
        if entry is None or entry.fault is not None or (entry.key, entry.stamp) != (key, stamp):
            return None
        if mask.relative_to(self._out).as_posix() not in entry.files:
            return None
        return entry if all((self._out / file).is_file() for file in entry.files) else None

    def require_unchanged(self, name: str, mask: Path) -> None:
        """Refuse to replace what somebody has changed since it was written, for this CT or another.

        Raises:
            SourceError: names the file.
        """
        own = mask.relative_to(self._out).as_posix()
        known = {file: one.files[file] for one in self._entries.values() for file in one.files}
        for file in {own, *self._files(name)} & known.keys():
            path = self._out / file
            if path.is_file() and digest_of(path) != known[file]:
                fact = "was changed since it was predicted, and would be replaced"
                raise SourceError(path, fact, "move it away, or name another --out")

    def discard(self, name: str, *, but: Written) -> Written:
        """Delete what an earlier run wrote of a CT and nobody has changed since.

        Args:
            name: of the CT.
            but: what is to stay.

        Returns:
            What is left of it because it was changed.
        """
        left = {}
        for file, digest in self._files(name).items():
            path = self._out / file
            if file in but or not path.is_file():
                continue
            if digest_of(path) == digest:
                path.unlink()
            else:
                left[file] = digest
        return left

    def files_of_others(self, names: set[str]) -> list[str]:
        """What is there of CTs that have other names than these, below the folder, sorted."""
        files = {
            file
            for name, entry in self._entries.items()
            if name not in names
            for file in entry.files
        }
        return sorted(file for file in files if (self._out / file).is_file())

    def _files(self, name: str) -> Written:
        entry = self._entries.get(name)
        return {} if entry is None else entry.files

    def add(self, name: str, entry: Entry) -> None:
        """Write down what became of a CT; another one that had the same files has them no more.

        Raises:
            DataError: the file was damaged meanwhile.
        """
        self._read_again()
        for other in [
            each for each, one in self._entries.items() if one.files.keys() & entry.files
        ]:
            del self._entries[other]
        self._entries[name] = entry
        fields = {
            "schema_version": SCHEMA_VERSION,
            "predictions": {each: asdict(one) for each, one in self._entries.items()},
        }
        write_json(self._out / NAME, sealed(fields))
        self._file = _version_of(self._out / NAME)

    def _read_again(self) -> None:
        """Take over what another run has written down since."""
        file = _version_of(self._out / NAME)
        if file != self._file:
            self._file, self._entries = file, _read(self._out / NAME)


def _version_of(path: Path) -> tuple[int, int, int] | None:
    """What differs between the file as it was and one that took its place; None without one."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def digest_of(path: Path) -> str:
    """SHA-256 of a file; its time would change with every copy of the folder."""
    with named(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
        return files_below(path)
    return [path, *data_files(path)]


def _read(path: Path) -> dict[str, Entry]:
    """The entries of a file; none where there is none, or where they are of the first version.

    Raises:
        DataError: it is damaged, so that nobody knows which masks somebody has changed.
    """
    try:
        fields = parsed(read_bytes(path).decode("utf-8"))
        version = fields["schema_version"]
        if version < WITHOUT_DIGEST:
            return {}  # it has no digests of masks: all CTs are predicted again
        fields = unsealed(fields, is_old=version == WITHOUT_DIGEST)
        entries = {name: Entry(**entry) for name, entry in fields["predictions"].items()}
        for entry in entries.values():
            for file, _digest in entry.files.items():  # AttributeError for a list of names
                _require_below(file)
        return entries
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fact = f"is damaged, so it cannot tell which masks were changed by hand ({error})"
        fix = "move those away, delete this file and run it again: all CTs are predicted again"
        raise DataError(path, fact, fix) from error


def _require_below(file: str) -> None:
    """ValueError for a name that leads out of the folder: files are deleted by these."""
    parts = PurePosixPath(file).parts
    if not parts or file.startswith("/") or ":" in parts[0] or ".." in parts or "\\" in file:
        raise ValueError(file)
