"""One case's scores on the source grid."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from cache.case import Role
from cache.errors import StoreError
from cache.grid import Grid
from stages.evaluate.overlap import AnyMask, overlap
from stages.evaluate.same_grid import differences
from stages.evaluate.surface import (
    assd_mm,
    robust_hausdorff_mm,
    surface_dice,
    surface_distances,
)

MaskOnGrid = tuple[AnyMask, Grid]  # (Z, Y, X), and where its voxels lie
CaseRole = Role | Literal[""]  # "" where nothing is known of a training


@dataclass(frozen=True)
class CaseScores:
    """How well one case was predicted.

    Where a mask is empty, the scores are

    ====================  ==========  ===========  ================
    score                 both empty  truth empty  prediction empty
    ====================  ==========  ===========  ================
    dice, iou             NaN         0            0
    sensitivity           NaN         NaN          0
    precision             NaN         0            NaN
    hd95_mm, assd_mm      NaN         inf          inf
    surface_dice          NaN         0            0
    volume_error_percent  NaN         NaN          -100
    ====================  ==========  ===========  ================

    Attributes:
        case_id: the case.
        patient_id: its patient.
        role: what the case was to the model; only test cases say how it does on new patients.
            Empty where nothing is known of it.
        dice: 2·TP / (2·TP + FP + FN) of voxels, 0 to 1.
        iou: TP / (TP + FP + FN), 0 to 1.
        sensitivity: TP / (TP + FN), 0 to 1.
        precision: TP / (TP + FP), 0 to 1.
        hd95_mm: 95 % of the area of either surface lies within it from the other; at least 0.
        assd_mm: mean distance over the area of both surfaces; at least 0.
        surface_dice: share of the area of both surfaces within the tolerance, 0 to 1.
        volume_ml: of the prediction.
        reference_volume_ml: of the truth.
        volume_error_ml: prediction minus truth.
        volume_error_percent: of the truth's volume.
    """

    case_id: str
    patient_id: str
    role: CaseRole
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    volume_ml: float
    reference_volume_ml: float
    volume_error_ml: float
    volume_error_percent: float


def score_case(
    case_id: str,
    patient_id: str,
    role: CaseRole,
    *,
    prediction: MaskOnGrid,
    truth: MaskOnGrid,
    tolerance_mm: float,
) -> CaseScores:
    """Compare a prediction with the truth, voxel by voxel on their common grid.

    Nothing is resized: a score of a resampled mask is a score of something else.

    Args:
        case_id: the case.
        patient_id: its patient.
        role: what the case was to the model.
        prediction: mask (Z, Y, X), uint8 of 0 and 1 or bool, and its grid.
        truth: the same.
        tolerance_mm: of surface Dice, above 0.

    Raises:
        StoreError: the two grids are not the same; the message names what differs.
        ValueError: an array that is not a mask of 0 and 1, or not of its grid's shape.
    """
    mask, grid = truth
    _refuse_unequal_grids(prediction[1], grid, case_id)
    if mask.shape != grid.shape_zyx:
        raise ValueError(f"truth is {mask.shape} but its grid {grid.shape_zyx}")
    counts = overlap(prediction[0], mask)
    ways = surface_distances(prediction[0], mask, grid.spacing_zyx_mm)
    volume = (counts.true_positive + counts.false_positive) * grid.voxel_ml
    reference = (counts.true_positive + counts.false_negative) * grid.voxel_ml
    error = volume - reference
    return CaseScores(
        case_id=case_id,
        patient_id=patient_id,
        role=role,
        dice=counts.dice,
        iou=counts.iou,
        sensitivity=counts.sensitivity,
        precision=counts.precision,
        hd95_mm=robust_hausdorff_mm(ways, 95.0),
        assd_mm=assd_mm(ways),
        surface_dice=surface_dice(ways, tolerance_mm),
        volume_ml=volume,
        reference_volume_ml=reference,
        volume_error_ml=error,
        volume_error_percent=100.0 * error / reference if reference else math.nan,
    )


def badness(score: CaseScores) -> tuple[bool, float, str]:
    """The key that sorts cases by rising Dice, then by id; those without a Dice come last."""
    return math.isnan(score.dice), score.dice, score.case_id


def worst_first(scores: Iterable[CaseScores]) -> list[CaseScores]:
    """The cases in the order the table, the report and the command show them."""
    return sorted(scores, key=badness)


def _refuse_unequal_grids(prediction: Grid, truth: Grid, case_id: str) -> None:
    unequal = differences(prediction, truth)
    if unequal:
        raise StoreError(
            case_id,
            "; ".join(unequal),
            "predict the case on the label's own CT, or export both on one grid; "
            "scores never resize a mask",
        )
