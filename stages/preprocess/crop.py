"""Choosing the box that is cut out of a case, in voxels of the LPS-turned source."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cache.case import Mask, Volume
from cache.errors import SourceError
from cache.grid import Box, TripleMm, triple
from cache.orientation import AXIS_OF, REVERSED

BODY_HU = -300  # denser than lung, fat included; docs/decisions/0003-body-box.md
COARSE_MM = 4.0  # the body is found on a grid this coarse: thin things such as the table vanish


def slices_box(path: Path, shape_zyx: Sequence[int], orientation: str, slices: range) -> Box:
    """The box of slices ``[a, b)``, counted in the file's own order.

    Raises:
        SourceError: the CT has fewer slices than that.
    """
    axis = AXIS_OF[orientation[2]]
    count = shape_zyx[axis]
    if slices.stop > count:
        raise SourceError(
            path,
            f"has {count} slices; crop: slices asks for [{slices.start}, {slices.stop})",
            "choose preprocess.slices that every case has, use crop: body, or exclude the case",
        )
    first, last = slices.start, slices.stop
    if orientation[2] in REVERSED:
        first, last = count - slices.stop, count - slices.start
    start, stop = [0, 0, 0], list(shape_zyx)
    start[axis], stop[axis] = first, last
    return Box(triple(start), triple(stop))


def body_box(path: Path, volume: Volume, spacing_zyx_mm: TripleMm, margin_mm: float) -> Box:
    """The box of the body, grown by a margin and clipped to the volume.

    The body, not the label, sets the box: at prediction there is no label. The body is the
    largest connected piece denser than -300 HU on a coarse grid after an opening, which drops
    the table and clothes.

    Raises:
        SourceError: nothing is denser than -300 HU; the CT is empty or not in HU.
    """
    steps = [max(1, round(COARSE_MM / spacing)) for spacing in spacing_zyx_mm]
    dense = volume[:: steps[0], :: steps[1], :: steps[2]] > BODY_HU
    if not dense.any():
        fix = "check that the file is a CT in Hounsfield units"
        raise SourceError(path, f"no voxel is denser than {BODY_HU} HU", fix)
    box = _box_of(_largest_piece(dense))
    # the voxels between the outermost coarse one and the next may still be body
    start = np.multiply(np.subtract(box.start_zyx, 1), steps) + 1
    stop = np.multiply(box.stop_zyx, steps)
    return _with_margin(Box(triple(start), triple(stop)), volume.shape, spacing_zyx_mm, margin_mm)


def label_box(mask: Mask, spacing_zyx_mm: TripleMm, margin_mm: float) -> Box:
    """The box of the liver mask, grown by a margin and clipped; for experiments only."""
    return _with_margin(_box_of(mask), mask.shape, spacing_zyx_mm, margin_mm)


def _largest_piece(dense: NDArray[np.bool_]) -> NDArray[np.bool_]:
    opened = ndimage.binary_opening(dense, np.ones((1, 3, 3), bool))
    labelled, count = ndimage.label(opened)
    if count == 0:  # a body thinner than the opening: better too large a box than none
        return dense
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    return np.asarray(labelled == sizes.argmax())


def _box_of(mask: NDArray[np.generic]) -> Box:
    """The smallest box around all true voxels of an array that has some."""
    (z, y, x) = ndimage.find_objects(mask.astype(np.uint8), max_label=1)[0]
    return Box(triple((z.start, y.start, x.start)), triple((z.stop, y.stop, x.stop)))


def _with_margin(
    box: Box, shape_zyx: Sequence[int], spacing_zyx_mm: TripleMm, margin_mm: float
) -> Box:
    voxels = [int(np.ceil(margin_mm / spacing)) for spacing in spacing_zyx_mm]
    return box.grown(voxels).clipped(shape_zyx)
