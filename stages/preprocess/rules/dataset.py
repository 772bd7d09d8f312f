"""Rules about several cases together."""

from pathlib import Path

from stages.preprocess.problems import Finding


def same_ct(path: Path, patient_id: str, first: tuple[str, str]) -> Finding | None:
    """No CT of one patient again under another's name: it would be on both sides of the split.

    Args:
        path: the case's CT.
        patient_id: the case's patient.
        first: the first case with the very same voxels, and its patient.
    """
    first_case, first_patient = first
    if patient_id == first_patient:
        return None
    fact = f"holds the very voxels of case {first_case}, of another patient"
    return Finding("same_ct", path, fact, "keep one of the two, or give both one patient id")
