"""What a store says of the data that a model was trained on, in counts and ranges alone."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cache.case import Role
from cache.grid import TripleMm, triple_mm
from cache.manifest import NAME
from cache.orientation import lps_grid
from cache.reader import CaseStore
from stages.train.checkpoints.checkpoint import Checkpoint
from stages.train.split import Split

ROLES: tuple[Role, ...] = ("train", "validation", "test")
PHANTOM = re.compile(r"phantom-\d{3,}")  # the ids that pipeline.phantom gives


@dataclass(frozen=True)
class TrainingCases:
    """The cases that a model was trained on.

    Attributes:
        counts: of the cases, by role.
        finest_zyx_mm: the smallest distance of voxel centres of any training CT as received,
            along each LPS axis.
        coarsest_zyx_mm: the largest one.
        liver_ml: of the training cases, the smallest and the largest liver.
    """

    counts: dict[str, int]
    finest_zyx_mm: TripleMm
    coarsest_zyx_mm: TripleMm
    liver_ml: tuple[float, float]


def training_cases(cases: Path, checkpoint: Checkpoint) -> TrainingCases | None:
    """What a store says of them; None unless it still holds the very data of the training.

    Raises:
        StoreError: the store is damaged.
    """
    if not (cases / NAME).is_file():
        return None
    store = CaseStore(cases)
    split = Split(**checkpoint.split)
    trained = split.cases(store.manifest, "train")
    if store.manifest.digest != checkpoint.data_digest or not trained:
        return None
    infos = [store.info(case_id) for case_id in trained]
    spacings = [lps_grid(info.source_grid, info.orientation).spacing_zyx_mm for info in infos]
    livers = [info.liver_ml for info in infos]
    return TrainingCases(
        counts={role: len(split.cases(store.manifest, role)) for role in ROLES},
        finest_zyx_mm=triple_mm(map(min, zip(*spacings, strict=True))),
        coarsest_zyx_mm=triple_mm(map(max, zip(*spacings, strict=True))),
        liver_ml=(min(livers), max(livers)),
    )


def are_phantoms(patients: Iterable[str]) -> bool:
    """Whether all of them are named as our own synthetic CTs are."""
    names = list(patients)
    return bool(names) and all(PHANTOM.fullmatch(name) for name in names)
