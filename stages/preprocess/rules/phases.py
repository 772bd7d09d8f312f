"""Two phases in one stack, known by the voxels where the headers are silent."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stages.preprocess.problems import Finding
from stages.preprocess.rules.series import dicom_phases

WINDOW_HU = (-1000, 1000)  # metal and padding would outweigh tissue
SIDE = 128  # of a slice, sampled as coarsely as that leaves so many voxels a side
LEAST_VOXELS = 900  # of a sampled slice; fewer are too noisy to judge by
FLOOR_HU = 0.5  # slices that are equal but for so much tell nothing
# a slice's difference from its neighbours over that from the next but one. Of real CTs it is
# 0.55 to 0.8 at every place; of nothing but noise 1; of phases that alternate 1.5 and more
TOO_MUCH = 1.2
IN_A_ROW = 4


def phases_in_voxels(folder: Path, stack: NDArray[Any]) -> Finding | None:
    """One scan: its neighbouring slices are more alike than those two apart. Rule ``dicom_phases``.

    Args:
        folder: the series.
        stack: HU, the slices first, in the order of their places.
    """
    step = max(1, min(stack.shape[1:]) // SIDE)
    sampled = stack[:, ::step, ::step]
    if len(stack) < IN_A_ROW + 2 or sampled[0].size < LEAST_VOXELS:
        return None
    near, far = (_differences(sampled, apart) for apart in (1, 2))
    is_odd = (near[:-1] + near[1:]) / 2 > TOO_MUCH * np.maximum(far, FLOOR_HU)
    in_a_row = np.convolve(is_odd, np.ones(IN_A_ROW), "valid").max()
    if in_a_row < IN_A_ROW:
        return None
    how = (
        f"at {int(is_odd.sum())} of {is_odd.size} places, slices are less like their neighbours "
        "than like those two apart, as of two phases that alternate"
    )
    return dicom_phases(folder, how)


def _differences(stack: NDArray[Any], apart: int) -> NDArray[np.float64]:
    """Mean absolute difference of slices so many apart, inside the window."""
    shown = (np.clip(one, *WINDOW_HU).astype(np.float32) for one in stack)
    before: list[NDArray[np.float32]] = []
    found = []
    for one in shown:
        if len(before) == apart:
            found.append(float(np.abs(one - before.pop(0)).mean()))
        before.append(one)
    return np.array(found)
