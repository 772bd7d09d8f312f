"""The list of cases in a store and their files' digests. Written last: what is in it is whole."""

import errno
import hashlib
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from cache.case import FORMAT_VERSION, CaseInfo
from cache.errors import StoreError
from cache.files import ATTEMPTS, PAUSE_S, json_text, named, read_bytes, write_text
from cache.jsons import parsed
from cache.orientation import lps_grid

NAME = "manifest.json"
REBUILD = "run python -m pipeline.preprocess; it keeps what is whole and redoes the rest"
NO_DIGEST = "0" * 64  # what stands in the manifest while its own digest is computed
OF_SOURCE = ("source_shape_zyx", "source_spacing_zyx_mm")
TAIL = '"\n}\n'  # what follows that digest, since "sha256" is the last of the sorted keys


@dataclass(frozen=True)
class StoredFile:
    """A file of a case as it was written."""

    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class Entry:
    """One case of a manifest: what the split and a quick look need, without opening the case.

    Attributes:
        case_id: name of the case, unique in the store.
        patient_id: the person; cases of one patient stay on one side of the split.
        file: the case's file or folder, below the store's root.
        key: SHA-256 over sources, parameters and code version; equal keys mean equal bytes.
        shape_zyx: of the stored image and mask, voxels.
        spacing_zyx_mm: of the same.
        liver_ml: volume of the whole liver mask on the source grid.
        ct_digest: SHA-256 of the CT's voxels.
        findings: what was odd about the sources, as in ``CaseInfo``.
        files: every file of the case, by its path from the store's root, with forward slashes.
        label_counts: every value of the label, as in ``CaseInfo``.
        source_shape_zyx: of the CT turned to LPS, voxels; None where an older liver3d wrote it.
        source_spacing_zyx_mm: of the same.
    """

    case_id: str
    patient_id: str
    file: str
    key: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    liver_ml: float
    ct_digest: str
    findings: list[dict[str, Any]]
    files: dict[str, StoredFile]
    label_counts: list[dict[str, Any]] = field(default_factory=list)
    source_shape_zyx: tuple[int, int, int] | None = None
    source_spacing_zyx_mm: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class Manifest:
    """The cases of a store, by case id, and the parameters they were prepared with."""

    cases: dict[str, Entry]
    params: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over the keys of all cases: equal digests mean equal training data."""
        lines = [f"{case_id} {entry.key}\n" for case_id, entry in sorted(self.cases.items())]
        return hashlib.sha256(_encoded("".join(lines))).hexdigest()


def entry_of(info: CaseInfo, root: Path, path: Path) -> Entry:
    """The manifest's line for a case just written: the digests are of what lies there now.

    Args:
        info: what is known of the case.
        root: the store.
        path: the case's file or folder in it.

    Raises:
        OSError: a file of the case cannot be read.
    """
    source = lps_grid(info.source_grid, info.orientation)
    return Entry(
        info.case_id,
        info.patient_id,
        path.name,
        info.key,
        info.prepared_grid.shape_zyx,
        info.prepared_grid.spacing_zyx_mm,
        info.liver_ml,
        info.ct_digest,
        info.findings,
        file_digests(root, path),
        info.label_counts,
        source_shape_zyx=source.shape_zyx,
        source_spacing_zyx_mm=source.spacing_zyx_mm,
    )


def file_digests(root: Path, path: Path) -> dict[str, StoredFile]:
    """Size and digest of every file of a case, by its path from the store's root, sorted.

    Where another process writes the same case meanwhile, all are of one and the same writing.

    Raises:
        FileNotFoundError: the case is not there, or was replaced in every attempt.
        OSError: a file cannot be read.
    """
    for _ in range(ATTEMPTS):
        before = _identity(path)
        try:
            digests = _digests(root, path)
            if before is not None and _identity(path) == before:
                return digests
        except OSError:  # the disk's fault only if nobody exchanged the case in between
            if before is not None and _identity(path) == before:
                raise
        time.sleep(PAUSE_S)
    raise FileNotFoundError(errno.ENOENT, "is not there, or is being written", str(path))


def _identity(path: Path) -> tuple[int, int, int] | None:
    """What differs between a case's file or folder and the one that took its place, if any."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None  # it is moved away just before the new one is moved in
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _digests(root: Path, path: Path) -> dict[str, StoredFile]:
    found = {file.relative_to(root).as_posix(): file for file in case_files(path)}
    return {
        name: StoredFile(found[name].stat().st_size, sha256_of(found[name]))
        for name in sorted(found)
    }


def case_files(path: Path) -> list[Path]:
    """The files a case consists of; none if it is not there."""
    if path.is_dir():
        return [file for file in path.rglob("*") if not file.is_dir()]
    return [path] if path.exists() else []


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, read block by block."""
    with named(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Publish the list of cases, in the order of their ids, with a digest of the list itself.

    A finding may quote a file's name that is not text; such characters are written as escapes.
    """
    fields = {
        "format_version": FORMAT_VERSION,
        "params": manifest.params,
        "cases": [entry_to_dict(manifest.cases[case_id]) for case_id in sorted(manifest.cases)],
        "sha256": NO_DIGEST,
    }
    content = _encoded(json_text(fields))
    before = content.decode("utf-8").removesuffix(NO_DIGEST + TAIL)
    write_text(root / NAME, before + hashlib.sha256(content).hexdigest() + TAIL)


def read_manifest(root: Path) -> Manifest:
    """The list of cases of a store.

    Raises:
        StoreError: there is no store, its manifest is damaged, be it by one bit, or another
            version of liver3d wrote it.
    """
    path = root / NAME
    if not path.is_file():
        raise StoreError(path, "there is no prepared data here", REBUILD)
    try:
        content = read_bytes(path)
        fields = parsed(content.decode("utf-8"))
        if "sha256" not in fields:  # format version 1 has no digest; a later one may do otherwise
            check_version(path, fields)
        _require_own_digest(content)
        check_version(path, fields)
        entries = [entry_from_dict(line) for line in fields["cases"]]
        return Manifest({entry.case_id: entry for entry in entries}, fields["params"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(path, f"the manifest is damaged ({error})", REBUILD) from error


def check_version(path: Path, fields: dict[str, Any]) -> None:
    """Refuse what another version of liver3d wrote, by name.

    Raises:
        StoreError: the format version is not the one this code reads and writes.
    """
    version = fields["format_version"]
    if version > FORMAT_VERSION:
        raise StoreError(
            path,
            f"has format version {version}; this liver3d reads up to {FORMAT_VERSION}",
            "update liver3d, or prepare the data anew with this one",
        )
    if version < FORMAT_VERSION:
        raise StoreError(
            path,
            f"has format version {version}, of an older liver3d; this one reads {FORMAT_VERSION}",
            "run python -m pipeline.preprocess again; it prepares the data anew",
        )


def _encoded(text: str) -> bytes:
    """The bytes that ``write_text`` writes, whatever characters the text has."""
    return text.encode("utf-8", "backslashreplace")


def _require_own_digest(content: bytes) -> None:
    """Raise ValueError unless the manifest's last value is the digest of the manifest itself."""
    before, tail = content[: -len(NO_DIGEST + TAIL)], content[-len(TAIL) :]
    stated = content[len(before) : -len(tail)]
    if hashlib.sha256(before + NO_DIGEST.encode() + tail).hexdigest().encode() != stated:
        raise ValueError("its text is not the one its sha256 was taken of")


def entry_to_dict(entry: Entry) -> dict[str, Any]:
    """Plain lists, strings and numbers, for JSON."""
    return asdict(entry)


def entry_from_dict(line: dict[str, Any]) -> Entry:
    """The inverse of ``entry_to_dict``. KeyError, TypeError or AttributeError if it is none."""
    line = dict(line)
    shape, spacing = tuple(line.pop("shape_zyx")), tuple(line.pop("spacing_zyx_mm"))
    line |= {name: tuple(line[name]) for name in OF_SOURCE if line.get(name) is not None}
    files = {name: StoredFile(**stored) for name, stored in line.pop("files").items()}
    return Entry(shape_zyx=shape, spacing_zyx_mm=spacing, files=files, **line)
