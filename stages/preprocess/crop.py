"""Choosing the box that is cut out of a case, in voxels of the LPS-turned source."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.errors import SourceError
from cache.grid import Box, TripleMm, box_of, triple
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
            rule="slices_there",
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
        fact = f"no voxel is denser than {BODY_HU} HU"
        raise SourceError(path, fact, fix, rule="body_found")
    box = _around(_largest_piece(dense))
    # the voxels between the outermost coarse one and the next may still be body
    start = np.multiply(np.subtract(box.start_zyx, 1), steps) + 1
    stop = np.multiply(box.stop_zyx, steps)
    return _with_margin(Box(triple(start), triple(stop)), volume.shape, spacing_zyx_mm, margin_mm)


def label_box(mask: Mask, spacing_zyx_mm: TripleMm, margin_mm: float) -> Box:
    """The box of the liver mask, grown by a margin and clipped; for experiments only."""
    return _with_margin(_around(mask), mask.shape, spacing_zyx_mm, margin_mm)


def _largest_piece(dense: NDArray[np.bool_]) -> NDArray[np.bool_]:
    # SimpleITK is at hand; scipy.ndimage would take 0.2 s to import, in every worker
    image = sitk.GetImageFromArray(dense.view(np.uint8))
    opened = sitk.BinaryMorphologicalOpening(image, [1, 1, 0], sitk.sitkBox, 0, 1)
    pieces = sitk.RelabelComponent(sitk.ConnectedComponent(opened))
    largest: NDArray[np.bool_] = sitk.GetArrayFromImage(pieces) == 1
    if not largest.any():  # a body thinner than the opening: better too large a box than none
        return dense
    return largest


def _around(mask: NDArray[Any]) -> Box:
    box = box_of(mask)
    assert box is not None  # the callers have made sure that some voxel is true
    return box


def _with_margin(
    box: Box, shape_zyx: Sequence[int], spacing_zyx_mm: TripleMm, margin_mm: float
) -> Box:
    voxels = [int(np.ceil(margin_mm / spacing)) for spacing in spacing_zyx_mm]
    return box.grown(voxels).clipped(shape_zyx)
