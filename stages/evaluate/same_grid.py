"""Whether two masks lie on one grid, but for the rounding of a file's header."""

import numpy as np

from cache.grid import Grid

# NIfTI headers hold float32: what went through a file differs in the seventh digit
SAME_SHARE = 1e-4
SAME_MM = 0.01


def differences(prediction: Grid, truth: Grid) -> list[str]:
    """What differs between the grids of a prediction and of its label, in words; empty if nothing.

    Spacings may differ by 0.01 %, cosines of directions by 0.0001, origins by 0.01 mm.
    """
    pairs = {
        "shape_zyx": (prediction.shape_zyx, truth.shape_zyx, 0.0, 0.0),
        "spacing_zyx_mm": (prediction.spacing_zyx_mm, truth.spacing_zyx_mm, SAME_SHARE, 0.0),
        "origin_xyz_mm": (prediction.origin_xyz_mm, truth.origin_xyz_mm, 0.0, SAME_MM),
        "direction": (prediction.direction, truth.direction, 0.0, SAME_SHARE),
    }
    return [
        f"{name} of the prediction is {ours} but of the label {theirs}"
        for name, (ours, theirs, share, gap) in pairs.items()
        if not np.allclose(ours, theirs, rtol=share, atol=gap)
    ]
