"""What lies in a store and is in no manifest: a killed run loses no finished case."""

from contextlib import AbstractContextManager
from pathlib import Path

from cache import lock
from cache.errors import StoreError
from cache.files import named, read_bytes, remove, write_text
from cache.manifest import NAME, Entry, entry_from_dict, entry_to_dict, read_manifest
from cache.sealed import sealed_line, unsealed_line
from cache.state import state_folder
from stages.preprocess.digests import Shortcuts


class Journal:
    """The entries of a store that no manifest lists, one per line, each with a digest of the line.

    ``begin`` takes the manifest away, so that nobody trains on a store between two states; what it
    listed is in the journal from then on, and each finished case is added. Once a new manifest is
    written, ``end`` leaves only what it does not list: cases that lie there and are left out, for
    now, by a policy or because their files are gone.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._path = state_folder(out) / "journal.jsonl"

    def begin(self) -> None:
        """Take the manifest away; its entries are in the journal from then on."""
        self._write(self.read())
        remove(self._out / NAME)

    def read(self) -> dict[str, Entry]:
        """The entries known from the manifest, and those that it does not list."""
        return self._entries() | _manifest_entries(self._out)

    def add(self, entry: Entry) -> None:
        """Write down a case that is whole in the store."""
        with named(self._path), self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(entry))

    def end(self, unlisted: dict[str, Entry]) -> None:
        """Keep what the manifest does not list, and nothing else."""
        if unlisted != self._entries():
            self._write(unlisted)

    def _write(self, entries: dict[str, Entry]) -> None:
        write_text(self._path, "".join(map(_line, entries.values())))

    def _entries(self) -> dict[str, Entry]:
        found = {}
        for line in self._lines():
            try:
                entry = entry_from_dict(unsealed_line(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                # damaged, or the line during which the machine stopped: its case is done again
                continue
            found[entry.case_id] = entry
        return found

    def _lines(self) -> list[bytes]:
        try:
            return read_bytes(self._path).splitlines()
        except FileNotFoundError:
            return []  # of a new store, or one that came from elsewhere


def shortcuts_of(out: Path) -> Shortcuts:
    """The digests remembered of a store's files and of its sources."""
    return Shortcuts(state_folder(out) / "digests.jsonl")


def only_writer(out: Path) -> AbstractContextManager[None]:
    """Keep other runs away from a store; the lock goes with the process, however it ends.

    Raises:
        StoreError: another run is writing there.
    """
    fix = "wait until it is done, or give another --out"
    return lock.only_writer(out, StoreError(out, "another run is writing to this store", fix))


def _manifest_entries(out: Path) -> dict[str, Entry]:
    try:
        return read_manifest(out).cases
    except StoreError:
        return {}  # none, or damaged: what it listed is prepared again


def _line(entry: Entry) -> str:
    return sealed_line(entry_to_dict(entry))
