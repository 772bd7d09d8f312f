"""One case's scores on the source grid, their summary, and the two files that hold them."""

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from cache.case import Role
from cache.errors import StoreError
from cache.files import replacing, write_json
from cache.grid import Grid
from stages.evaluate.overlap import AnyMask, overlap
from stages.evaluate.surface import hd95_mm

MaskOnGrid = tuple[AnyMask, Grid]  # (Z, Y, X), and where its voxels lie

# NIfTI headers hold float32: what went through a file differs in the seventh digit
SAME_SHARE = 1e-4
SAME_MM = 0.01
# of the numbers in files: a hundredth of a percent of Dice, a tenth of a micrometre
DECIMALS = 4


@dataclass(frozen=True)
class CaseScores:
    """How well one case was predicted.

    Attributes:
        case_id: the case.
        patient_id: its patient.
        role: what the case was to the model; only test cases say how it does on new patients.
        dice: 0 to 1; NaN if both masks are empty.
        iou: 0 to 1; NaN if both masks are empty.
        hd95_mm: at least 0; NaN if both masks are empty, inf if one is.
        volume_ml: of the prediction.
        reference_volume_ml: of the truth.
        volume_error_ml: prediction minus truth.
        volume_error_percent: of the truth's volume; NaN if the truth is empty.
    """

    case_id: str
    patient_id: str
    role: Role
    dice: float
    iou: float
    hd95_mm: float
    volume_ml: float
    reference_volume_ml: float
    volume_error_ml: float
    volume_error_percent: float


def score_case(
    case_id: str, patient_id: str, role: Role, *, prediction: MaskOnGrid, truth: MaskOnGrid
) -> CaseScores:
    """Compare a prediction with the truth, voxel by voxel on their common grid.

    Nothing is resized: a score of a resampled mask is a score of something else.

    Args:
        case_id: the case.
        patient_id: its patient.
        role: what the case was to the model.
        prediction: mask (Z, Y, X), uint8 of 0 and 1 or bool, and its grid.
        truth: the same.

    Raises:
        StoreError: the two grids are not the same; the message names what differs.
        ValueError: an array that is not a mask of 0 and 1, or not of its grid's shape.
    """
    mask, grid = truth
    _refuse_unequal_grids(prediction[1], grid, case_id)
    if mask.shape != grid.shape_zyx:
        raise ValueError(f"truth is {mask.shape} but its grid {grid.shape_zyx}")
    counts = overlap(prediction[0], mask)
    volume = (counts.true_positive + counts.false_positive) * grid.voxel_ml
    reference = (counts.true_positive + counts.false_negative) * grid.voxel_ml
    error = volume - reference
    return CaseScores(
        case_id=case_id,
        patient_id=patient_id,
        role=role,
        dice=counts.dice,
        iou=counts.iou,
        hd95_mm=hd95_mm(prediction[0], mask, grid.spacing_zyx_mm),
        volume_ml=volume,
        reference_volume_ml=reference,
        volume_error_ml=error,
        volume_error_percent=100.0 * error / reference if reference else math.nan,
    )


def summarise(scores: Sequence[CaseScores]) -> dict[str, Any]:
    """Mean and median of each score over exactly the cases given; the caller picks which.

    A case whose score is NaN or infinite has no part in that score's mean and median. It is
    counted under ``undefined``, so that a missed liver does not pass for a better HD95.

    Returns:
        ``{"cases": n, "dice": {"mean", "median", "undefined"}, "iou": …, "hd95_mm": …,
        "volume_error_ml": …, "absolute_volume_error_ml": …}``; the error with its sign shows a
        bias, the absolute one the size. Without a finite value, mean and median are None.
    """
    return {
        "cases": len(scores),
        "dice": _middle(s.dice for s in scores),
        "iou": _middle(s.iou for s in scores),
        "hd95_mm": _middle(s.hd95_mm for s in scores),
        "volume_error_ml": _middle(s.volume_error_ml for s in scores),
        "absolute_volume_error_ml": _middle(abs(s.volume_error_ml) for s in scores),
    }


def badness(score: CaseScores) -> tuple[bool, float, str]:
    """The key that sorts cases by rising Dice, then by id; those without a Dice come last."""
    return math.isnan(score.dice), score.dice, score.case_id


def worst_first(scores: Iterable[CaseScores]) -> list[CaseScores]:
    """The cases in the order the table, the report and the command show them."""
    return sorted(scores, key=badness)


def write_metrics_json(path: Path, summary: dict[str, Any]) -> None:
    """Write a summary as JSON for DVC, whole or not at all.

    Raises:
        ValueError: the summary holds NaN or inf, which JSON has no word for.
    """
    write_json(path, summary)


def write_cases_csv(path: Path, scores: Sequence[CaseScores]) -> None:
    """Write one row a case, worst Dice first, whole or not at all.

    Numbers have four decimals; NaN is an empty field, infinity is ``inf``.
    """
    names = [field.name for field in fields(CaseScores)]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for case in worst_first(scores):
            writer.writerow({name: _cell(value) for name, value in asdict(case).items()})


def _refuse_unequal_grids(prediction: Grid, truth: Grid, case_id: str) -> None:
    pairs = {
        "shape_zyx": (prediction.shape_zyx, truth.shape_zyx, 0.0, 0.0),
        "spacing_zyx_mm": (prediction.spacing_zyx_mm, truth.spacing_zyx_mm, SAME_SHARE, 0.0),
        "origin_xyz_mm": (prediction.origin_xyz_mm, truth.origin_xyz_mm, 0.0, SAME_MM),
        "direction": (prediction.direction, truth.direction, 0.0, SAME_SHARE),
    }
    unequal = [
        f"{name} of the prediction is {ours} but of the label {theirs}"
        for name, (ours, theirs, share, gap) in pairs.items()
        if not np.allclose(ours, theirs, rtol=share, atol=gap)
    ]
    if unequal:
        raise StoreError(
            case_id,
            "; ".join(unequal),
            "predict the case on the label's own CT, or export both on one grid; "
            "scores never resize a mask",
        )


def _middle(values: Iterable[float]) -> dict[str, float | int | None]:
    everything = list(values)
    finite = [value for value in everything if math.isfinite(value)]
    return {
        "mean": round(statistics.fmean(finite), DECIMALS) if finite else None,
        "median": round(statistics.median(finite), DECIMALS) if finite else None,
        "undefined": len(everything) - len(finite),
    }


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else "inf" if math.isinf(value) else f"{value:.{DECIMALS}f}"
