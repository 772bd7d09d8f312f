"""Labels with several volumes on one grid: one for each structure."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.errors import SourceError
from stages.preprocess.problems import Finding
from stages.preprocess.reading.opened import stop_at
from stages.preprocess.rules import header
from stages.preprocess.rules.ct import EXPORT_AGAIN

MOST_CHANNELS = 256  # the largest labels there are have some 120 structures


def channel_count(reader: sitk.ImageFileReader) -> int:
    """How many volumes of one grid a file holds, along a further axis or in each voxel.

    Args:
        reader: has read the header.

    Returns:
        1 for a plain volume, for complex numbers, and for what holds volumes along several axes.
    """
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        return 1
    inside, along = reader.GetNumberOfComponents(), math.prod(reader.GetSize()[3:])
    return 1 if min(inside, along) > 1 else max(inside, along)


def channels_of(image: sitk.Image, voxels: NDArray[Any]) -> tuple[sitk.Image, NDArray[Any]]:
    """The first volume, for its geometry, and all of them as (Z, Y, X, channels).

    Args:
        image: as it was read.
        voxels: its own, which a view of them keeps only as long as the image is there.
    """
    size = image.GetSize()
    if len(size) == 3:
        return image, voxels
    first = sitk.Extract(image, [*size[:3], *(0 for _ in size[3:])])
    return first, np.moveaxis(voxels.reshape(-1, *voxels.shape[-3:]), 0, -1)


def plain_numbers(path: Path, image: sitk.ImageFileReader | sitk.Image) -> Finding | None:
    """One real number per voxel."""
    is_read = isinstance(image, sitk.Image)
    count = image.GetNumberOfComponentsPerPixel() if is_read else image.GetNumberOfComponents()
    return header.plain_numbers(path, sitk.GetPixelIDValueAsString(image.GetPixelID()), count)


def one_label_map(
    path: Path, reader: sitk.ImageFileReader, channels: NDArray[Any]
) -> tuple[NDArray[np.uint8], Finding]:
    """The label map of a one-hot label, (Z, Y, X), and that it was one.

    Args:
        path: the label.
        reader: has read its header.
        channels: (Z, Y, X, channels).

    Raises:
        SourceError: it is none.
    """
    size, found = reader.GetSize(), from_one_hot(channels)
    if found is None:
        several = header.three_dimensional(path, size) if len(size) > 3 else None
        stop_at(several or plain_numbers(path, reader))
        raise SourceError(path, "holds several volumes", EXPORT_AGAIN, rule="three_dimensional")
    label_map, has_background = found
    return label_map, header.one_hot(path, channels.shape[3], has_background=has_background)


def from_one_hot(channels: NDArray[Any]) -> tuple[NDArray[np.uint8], bool] | None:
    """The label map that was taken apart into channels of 0 and 1, no two of them 1 at one voxel.

    Args:
        channels: (Z, Y, X, channels).

    Returns:
        uint8 (Z, Y, X), and whether the first channel is the background, which it is where every
        voxel has its 1: then a structure's value is the number of its channel, counted from 0, and
        else from 1. None if the channels are not such a thing, or all are empty.
    """
    shape, count = channels.shape[:3], channels.shape[3]
    label_map, covered = np.zeros(shape, np.uint8), np.zeros(shape, np.uint16)
    for channel in range(count):
        is_one = channels[..., channel] == 1
        if not (is_one | (channels[..., channel] == 0)).all():
            return None
        covered += is_one
        label_map[is_one] = channel
    if int(covered.max()) != 1:
        return None
    if covered.all():
        return label_map, True
    label_map[covered == 1] += 1
    return (label_map, False) if count < MOST_CHANNELS else None
