"""Whether a store still holds the bytes that were written.

The manifest has a digest of itself and of every file it lists, so a single flipped bit is found,
wherever it is. What a manifest does not list is told apart: it harms nobody who reads the store.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from cache.case import CaseInfo
from cache.errors import StoreError
from cache.manifest import NAME, Entry, StoredFile, case_files, read_manifest, sha256_of
from cache.writer import read_info

A_FOLDER = "is a folder, not a file"
NOT_LISTED = "is no file of this case"  # systems and people leave theirs inside a case's folder
THREADS = 8  # cases at a time: hashing lets other threads run, and a disk seldom feeds more
SAME_IN_BOTH = (
    "case_id",
    "patient_id",
    "key",
    "liver_ml",
    "ct_digest",
    "findings",
    "label_counts",
)  # manifest and case


@dataclass(frozen=True)
class Damage:
    """What is wrong with a store, in one place.

    Attributes:
        case_id: the case it belongs to; empty for the manifest.
        path: the file, or the case's file or folder.
        fact: what is wrong with it.
        is_foreign: something lies there that nobody wrote with the case; it only has to go.
    """

    case_id: str
    path: Path
    fact: str
    is_foreign: bool = False


class Shortcuts(Protocol):
    """What remembers files whose bytes were known, to spare hashing them again."""

    def digest(self, path: Path) -> str | None:
        """The SHA-256 of a file that nobody has touched since it was taken; None for any other."""


def verify_store(
    root: Path,
    *,
    shortcuts: Shortcuts | None,
    progress: Callable[[int, int], object] = lambda done, cases: None,
) -> list[Damage]:
    """Look for every difference between a store and its manifest.

    Args:
        root: the store.
        shortcuts: what remembers unchanged files: of those it looks only at the sizes. None reads
            every byte, and compares every case's attributes with the manifest.
        progress: called after each case with the number of cases done and of all cases.

    Returns:
        Empty if the store is whole, else what is wrong, by case and path. A manifest that is
        missing or damaged is all that is told then: nothing else can be judged without it.
    """
    try:
        entries = read_manifest(root).cases
    except StoreError as error:
        return [Damage("", root / NAME, error.fact)]
    check = partial(case_damages, root, shortcuts=shortcuts)
    found: list[Damage] = []
    with ThreadPoolExecutor(THREADS) as threads:
        damages = threads.map(check, (entries[case_id] for case_id in sorted(entries)))
        for done, of_case in enumerate(damages, 1):
            found += of_case
            progress(done, len(entries))
    return found


def case_damages(root: Path, entry: Entry, *, shortcuts: Shortcuts | None) -> list[Damage]:
    """What is wrong with one case of a store, by path; empty if nothing is.

    Args:
        root: the store.
        entry: the case's line in the manifest.
        shortcuts: what remembers unchanged files; None hashes every byte and compares the case's
            attributes with the entry.
    """
    facts = {name: _fact(root / name, file, shortcuts) for name, file in entry.files.items()}
    if shortcuts is None and not any(facts.values()):
        # only now: of damaged metadata, nobody knows what a library makes
        facts[entry.file] = _disagreement(root / entry.file, entry)
    for file in case_files(root / entry.file):
        facts.setdefault(file.relative_to(root).as_posix(), NOT_LISTED)
    return [
        Damage(entry.case_id, root / name, fact, fact in {A_FOLDER, NOT_LISTED})
        for name, fact in sorted(facts.items())
        if fact
    ]


def unlisted(root: Path) -> list[Path]:
    """What lies in a store beside its manifest and the cases that lists, sorted; no damage.

    Such are cases that are no longer in the source, leftovers of killed writers, and files
    somebody put there. Without a readable manifest nothing is unlisted.
    """
    try:
        listed = {entry.file for entry in read_manifest(root).cases.values()}
    except StoreError:
        return []
    return sorted(path for path in root.iterdir() if path.name not in {NAME, *listed})


def _fact(path: Path, written: StoredFile, shortcuts: Shortcuts | None) -> str:
    """What is wrong with a file; empty if nothing is."""
    try:
        stat = path.stat()
        if path.is_dir():
            return A_FOLDER
        if stat.st_size != written.size_bytes:
            return f"has {stat.st_size:,} bytes; {written.size_bytes:,} were written"
        if shortcuts is not None and shortcuts.digest(path) == written.sha256:
            return ""
        same = sha256_of(path) == written.sha256
    except FileNotFoundError:
        return "is not there"
    except OSError as error:  # the disk itself reports a fault
        return f"cannot be read ({error.strerror})"
    return "" if same else "does not hold the bytes that were written: its SHA-256 differs"


def _disagreement(path: Path, entry: Entry) -> str:
    """What the manifest says of a case otherwise than the case itself; empty if nothing."""
    try:
        info = read_info(path)
    except StoreError as error:
        return error.fact
    stored, listed = _said_by(info), {name: getattr(entry, name) for name in _said_by(info)}
    unlike = [name for name in stored if stored[name] != listed[name]]
    return f"is another case than the manifest lists: {', '.join(unlike)} differ" if unlike else ""


def _said_by(info: CaseInfo) -> dict[str, object]:
    """What a case says of itself that its line in the manifest says as well."""
    grid = {name: getattr(info.prepared_grid, name) for name in ("shape_zyx", "spacing_zyx_mm")}
    return {**{name: getattr(info, name) for name in SAME_IN_BOTH}, **grid}
