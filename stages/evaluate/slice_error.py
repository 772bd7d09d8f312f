"""Where a prediction is most wrong: the axial slice with the most differing voxels."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MM2_PER_CM2 = 100.0


@dataclass(frozen=True)
class SliceError:
    """What differs in one axial slice.

    Attributes:
        index: of the slice, from the first plane, 0.
        missed_cm2: area of the truth that is not predicted.
        extra_cm2: area of the prediction that is not true.
    """

    index: int
    missed_cm2: float
    extra_cm2: float


def largest_error(
    truth: NDArray[np.bool_], prediction: NDArray[np.bool_], spacing_zyx_mm: Sequence[float]
) -> SliceError | None:
    """Find the axial slice in which the most voxels differ, the lowest of several.

    Args:
        truth: (Z, Y, X), bool.
        prediction: the same shape, bool.
        spacing_zyx_mm: distance between voxel centres.

    Returns:
        None if no voxel differs.
    """
    differing = np.count_nonzero(truth != prediction, axis=(1, 2))
    index = int(differing.argmax())
    if not differing[index]:
        return None
    voxel_cm2 = spacing_zyx_mm[1] * spacing_zyx_mm[2] / MM2_PER_CM2
    missed = int(np.count_nonzero(truth[index] & ~prediction[index]))
    extra = int(differing[index]) - missed
    return SliceError(index, missed * voxel_cm2, extra * voxel_cm2)
