"""What may be mended in a mask: all but its largest piece, and the holes in it."""

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.case import Mask
from cache.grid import box_of


def keep_largest(mask: Mask) -> None:
    """Take away, in place, all but the largest connected piece; of several, the first one stays.

    Voxels that share a face, an edge or a corner are connected.

    Args:
        mask: uint8 0/1, (Z, Y, X); may be empty.
    """
    box = box_of(mask)
    if box is None:
        return
    inside = mask[box.slices]  # labels take four bytes a voxel, and most of a CT is background
    find = sitk.ConnectedComponentImageFilter()
    find.FullyConnectedOn()
    image = find.Execute(sitk.GetImageFromArray(inside))
    labels = sitk.GetArrayViewFromImage(image)
    counts = sum(
        np.bincount(plane.ravel(), minlength=find.GetObjectCount() + 1) for plane in labels
    )
    largest = 1 + int(np.argmax(np.asarray(counts)[1:]))
    for plane, own in zip(inside, labels, strict=True):  # slice by slice, for the same reason
        np.equal(own, largest, out=plane.view(bool))


def fill_holes(mask: Mask) -> None:
    """Fill, in place, the background that the mask encloses on all sides.

    Background is connected through faces alone. What reaches the edge of the CT is no hole.

    Args:
        mask: uint8 0/1, (Z, Y, X); may be empty.
    """
    box = box_of(mask)
    if box is None:
        return
    inside = mask[box.slices]  # all that lies outside this box is background in one piece
    filled = sitk.BinaryFillhole(sitk.GetImageFromArray(inside), False, 1)
    inside[:] = sitk.GetArrayViewFromImage(filled)
