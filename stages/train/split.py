"""Who trains, who validates, who tests: by patient, a pure function of seed and patient ids."""

import hashlib
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cache.case import Role
from cache.errors import ParamsError
from cache.files import write_json
from cache.jsons import parsed
from cache.manifest import Manifest
from cache.sealed import KEY, sealed, unsealed


@dataclass(frozen=True)
class Split:
    """Patient ids by role, each list sorted; no patient stands in two."""

    train: list[str]
    validation: list[str]
    test: list[str]

    def role_of(self, patient_id: str) -> Role | None:
        """The role of a patient, None for one the split does not know."""
        roles: tuple[Role, ...] = ("train", "validation", "test")
        return next((role for role in roles if patient_id in getattr(self, role)), None)

    def cases(self, manifest: Manifest, role: Role) -> list[str]:
        """Case ids of all patients of a role, sorted."""
        patients = set(getattr(self, role))
        return sorted(
            case_id for case_id, entry in manifest.cases.items() if entry.patient_id in patients
        )


def split_patients(
    patient_ids: Iterable[str],
    *,
    seed: int,
    validation_share: float,
    test_share: float,
    folds: int | None = None,
    fold: int = 0,
) -> Split:
    """Split patients by the order of a hash of seed and id.

    Each has a fixed place in that order, the first are for testing and the last for validation,
    so that a new patient moves at most one other at each border. A share above zero gives at
    least one patient as long as one is left to train on.

    With folds, the same patients are for testing; the others are cut, in that order, into parts
    that differ by one patient at most. One part validates and the rest train, so that over all
    folds everybody validates once. A new patient moves at most one other across each border, into
    the part beside it.

    Args:
        patient_ids: in any order; one named twice counts once.
        seed: of the order.
        validation_share: of all patients; what validates with folds is a part.
        test_share: of all patients.
        folds: number of parts, at least 2; None to validate by share.
        fold: the part that validates, from 0.

    Raises:
        ParamsError: there are fewer patients than folds, so that a part would be empty.
    """
    ordered = sorted(set(patient_ids), key=lambda patient: _place(seed, patient))
    # whatever the test share, validation and training each keep a patient of three or more
    kept = 2 if validation_share > 0 and len(ordered) > 2 else 1
    n_test = _count(test_share, len(ordered), left=len(ordered) - kept)
    test, others = ordered[:n_test], ordered[n_test:]
    if folds is None:
        n_validation = _count(validation_share, len(ordered), left=len(others) - 1)
        first, end = len(others) - n_validation, len(others)
    else:
        _require_enough(others, test, folds)
        first, end = _borders(len(others), folds)[fold : fold + 2]
    return Split(
        train=sorted(others[:first] + others[end:]),
        validation=sorted(others[first:end]),
        test=sorted(test),
    )


def read_split(path: Path, patient_ids: Iterable[str]) -> Split:
    """A split from a file ``{"train": [...], "validation": [...], "test": [...]}``.

    One that training wrote has a digest, too, which must be that of its values.

    Raises:
        ParamsError: the file is missing or malformed, names a patient twice, or none to train on.
    """
    fix = 'give {"train": [patient ids], "validation": [...], "test": [...]}, each patient once'
    try:
        fields = parsed(path.read_text(encoding="utf-8"))
        if isinstance(fields, dict) and KEY in fields:
            fix = f"{fix}; if you changed what training wrote, take its {KEY} out"
        fields = unsealed(fields, is_old=True)
        split = Split(*(_listed(fields, role) for role in ("train", "validation", "test")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ParamsError(path, f"is no split file ({error})", fix) from error
    named = split.train + split.validation + split.test
    twice = sorted({patient for patient in named if named.count(patient) > 1})
    if twice:
        raise ParamsError(path, f"names {', '.join(twice)} more than once", fix)
    if not set(split.train) & set(patient_ids):
        raise ParamsError(path, "names no patient of the store for training", fix)
    return split


def write_split(path: Path, split: Split) -> None:
    """Record a split, readable by ``read_split``."""
    write_json(path, sealed(asdict(split)))


def _listed(fields: dict[str, Any], role: Role) -> list[str]:
    patients = fields[role]
    # a string would be taken for a list of letters, and a number for a patient nobody has
    if not isinstance(patients, list) or not all(isinstance(name, str) for name in patients):
        raise TypeError(f"{role} is no list of patient ids in quotes")
    # as the store has them: macOS writes an accent as a letter of its own
    return sorted(unicodedata.normalize("NFC", name) for name in patients)


def _place(seed: int, patient: str) -> bytes:
    return hashlib.sha256(f"{seed}:{patient}".encode()).digest()


def _count(share: float, patients: int, *, left: int) -> int:
    if share == 0:
        return 0
    return min(max(1, round(share * patients)), max(0, left))


def _borders(patients: int, folds: int) -> list[int]:
    return [patients * fold // folds for fold in range(folds + 1)]


def _require_enough(others: list[str], test: list[str], folds: int) -> None:
    if len(others) < folds:
        tested = f"and {len(test)} set apart for testing"
        fact = f"is {folds}, more than there are patients ({len(others)}, {tested})"
        fix = f"take at most {len(others)}" if len(others) > 1 else "set it to null"
        raise ParamsError("train.folds", fact, f"{fix}, or add patients to the store")
