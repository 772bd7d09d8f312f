"""How far two masks overlap: Dice, IoU and their kin, all from four voxel counts."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

AnyMask = NDArray[np.uint8] | NDArray[np.bool_]  # 0 or 1; as stored, or as compared


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of a prediction against the truth; counts of several cases can be added.

    Attributes:
        true_positive: liver in both.
        false_positive: liver in the prediction alone.
        false_negative: liver in the truth alone.
        true_negative: liver in neither.
    """

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    def __add__(self, other: "Overlap") -> "Overlap":
        return Overlap(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def dice(self) -> float:
        """2·TP / (2·TP + FP + FN), 0 to 1. NaN if both masks are empty, 0 if one is."""
        shared = 2 * self.true_positive
        return _ratio(shared, shared + self.false_positive + self.false_negative)

    @property
    def iou(self) -> float:
        """TP / (TP + FP + FN), 0 to 1. NaN if both masks are empty, 0 if one is."""
        either = self.true_positive + self.false_positive + self.false_negative
        return _ratio(self.true_positive, either)

    @property
    def sensitivity(self) -> float:
        """TP / (TP + FN), 0 to 1: the share of the truth that was found. NaN if there is none."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def precision(self) -> float:
        """TP / (TP + FP), 0 to 1: the share of the prediction that is true. NaN if it is empty."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def accuracy(self) -> float:
        """(TP + TN) / voxels, 0 to 1. NaN without voxels; near 1 wherever liver is rare."""
        agreed = self.true_positive + self.true_negative
        return _ratio(agreed, agreed + self.false_positive + self.false_negative)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def as_bool(mask: AnyMask, name: str) -> NDArray[np.bool_]:
    """A mask as bool, without a copy.

    Args:
        mask: bool, or uint8 of 0 and 1; any shape, also without voxels.
        name: what the message calls the mask.

    Raises:
        ValueError: another type, or a value above 1 (a label map, or a mask of 0 and 255).
    """
    if mask.dtype == np.bool_:
        return mask.view(np.bool_)
    if mask.dtype != np.uint8:
        raise ValueError(f"{name} is {mask.dtype}; a mask is uint8 or bool")
    highest = int(mask.max(initial=0))
    if highest > 1:
        raise ValueError(f"{name} holds the value {highest}; a mask is 0 or 1, binarize it first")
    return mask.view(np.bool_)


def overlap(prediction: AnyMask, truth: AnyMask) -> Overlap:
    """Count where two masks agree and where they differ.

    Args:
        prediction: uint8 of 0 and 1, or bool; any number of axes.
        truth: the same, of the same shape.

    Raises:
        ValueError: unequal shapes, or an array that is not a mask.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction is {prediction.shape} but truth is {truth.shape}")
    ours, theirs = as_bool(prediction, "prediction"), as_bool(truth, "truth")
    both = int(np.count_nonzero(ours & theirs))
    only_ours = int(np.count_nonzero(ours)) - both
    only_theirs = int(np.count_nonzero(theirs)) - both
    return Overlap(both, only_ours, only_theirs, ours.size - both - only_ours - only_theirs)
