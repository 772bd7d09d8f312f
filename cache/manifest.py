"""The list of cases in a store. Written last: what is in it is whole."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.case import FORMAT_VERSION, CaseInfo
from cache.errors import StoreError
from cache.files import write_json

NAME = "manifest.json"
REBUILD = "run python -m pipeline.preprocess; it keeps what is whole and redoes the rest"


@dataclass(frozen=True)
class Entry:
    """One case of a manifest: what the split and a quick look need, without opening the case."""

    case_id: str
    patient_id: str
    file: str
    key: str
    shape_zyx: tuple[int, int, int]
    spacing_zyx_mm: tuple[float, float, float]
    liver_ml: float


@dataclass(frozen=True)
class Manifest:
    """The cases of a store, by case id, and the parameters they were prepared with."""

    cases: dict[str, Entry]
    params: dict[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over the keys of all cases: equal digests mean equal training data."""
        lines = [f"{case_id} {entry.key}\n" for case_id, entry in sorted(self.cases.items())]
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def entry_of(info: CaseInfo, file: str) -> Entry:
    """The manifest's line for a case."""
    return Entry(
        info.case_id,
        info.patient_id,
        file,
        info.key,
        info.prepared_grid.shape_zyx,
        info.prepared_grid.spacing_zyx_mm,
        info.liver_ml,
    )


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Publish the list of cases, in the order of their ids."""
    cases = [vars(manifest.cases[case_id]) for case_id in sorted(manifest.cases)]
    fields = {"format_version": FORMAT_VERSION, "params": manifest.params, "cases": cases}
    write_json(root / NAME, fields)


def read_manifest(root: Path) -> Manifest:
    """The list of cases of a store.

    Raises:
        StoreError: there is no store, its manifest is damaged, or a newer liver3d wrote it.
    """
    path = root / NAME
    if not path.is_file():
        raise StoreError(path, "there is no prepared data here", REBUILD)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        check_version(path, fields)
        entries = [_entry(line) for line in fields["cases"]]
        return Manifest({entry.case_id: entry for entry in entries}, fields["params"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(path, f"the manifest is damaged ({error})", REBUILD) from error


def check_version(path: Path, fields: dict[str, Any]) -> None:
    """Refuse what a newer liver3d wrote, by name.

    Raises:
        StoreError: the format version is above the one this code knows.
    """
    version = fields["format_version"]
    if version > FORMAT_VERSION:
        raise StoreError(
            path,
            f"has format version {version}; this liver3d reads up to {FORMAT_VERSION}",
            "update liver3d, or prepare the data anew with this one",
        )


def _entry(line: dict[str, Any]) -> Entry:
    shape, spacing = tuple(line.pop("shape_zyx")), tuple(line.pop("spacing_zyx_mm"))
    return Entry(shape_zyx=shape, spacing_zyx_mm=spacing, **line)
