"""How well a liver fits its CT, and whether another order of its voxels would fit better.

A liver fits where it is of one density and where its border is one in the CT as well. In five real
livers (whole ones and slabs of 3 and 20 slices) a mirrored one fitted at most two thirds as well
as the true one.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.grid import Box, box_of
from stages.preprocess.rules.label import is_liver_hu, sampled_hu

WINDOW_HU = (-200, 300)  # a border to bone or lung says no more than one to fat
NOISE_HU = 20.0  # spread that a liver has anyway: without it, a flat one would fit infinitely well
LEAST_FIT = (
    0.7  # the five fitted 1.2 to 2.3, mirrored 0.1 to 1.1; below, one says no more than another
)
ENOUGH = 48  # voxels along a side, to twice as many: more make it slower and no surer


@dataclass(frozen=True)
class Places:
    """Where a liver and its border lie in a CT, sampled as coarsely as suffices.

    Attributes:
        around: the liver's box and a little more.
        every: the voxels of it that are looked at.
        inside: the numbers of those in the liver, or of evenly spread ones of them.
        one_side: of neighbours on both sides of the border, the one's number.
        other_side: and the other's.
    """

    around: tuple[slice, ...]
    every: tuple[slice, ...]
    inside: NDArray[np.intp]
    one_side: NDArray[np.intp]
    other_side: NDArray[np.intp]


def fits_better(hu: Volume, mask: Mask, times: float) -> str:
    """In which other order of its voxels a liver fits the CT so many times as well, in words.

    An array that is saved without its orientation is mirrored or transposed.

    Args:
        hu: int16 HU, (Z, Y, X).
        mask: 0/1, of the same shape.
        times: how much better it has to be.

    Returns:
        The best, for instance "mirrored along x"; empty if none fits so well, or there is no liver.
    """
    box = box_of(mask)
    if box is None:
        return ""
    places = places_of(mask, box)
    here = fit_of(hu, places)
    fits = [(fit_of(turned, places), how) for how, turned in _turns(hu)]
    best, how = max(fits)
    return how if best > max(times * here, LEAST_FIT) else ""


def _turns(hu: Volume) -> Iterator[tuple[str, Volume]]:
    """The CT mirrored and, where sides are equal, transposed in plane; what was done, in words."""
    swaps = [("", hu)]
    if hu.shape[1] == hu.shape[2]:
        swaps.append(("x and y swapped", hu.transpose(0, 2, 1)))
    for (swapped, volume), flips in itertools.product(
        swaps, itertools.product((False, True), repeat=3)
    ):
        axes = [axis for axis, is_flipped in zip("zyx", flips, strict=True) if is_flipped]
        mirrored = f"mirrored along {', '.join(axes)}" if axes else ""
        if swapped or mirrored:
            step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
            yield " and ".join(one for one in (swapped, mirrored) if one), volume[step]


def places_of(mask: Mask, box: Box) -> Places:
    """What is asked of every order of the CT's voxels, found once."""
    steps = [max(1, side // ENOUGH) for side in box.shape_zyx]
    around = box.grown(steps).clipped(mask.shape).slices
    every = tuple(slice(None, None, step) for step in steps)
    inside = mask[around][every]
    numbers = np.arange(inside.size).reshape(inside.shape)
    pairs = []
    for axis in range(3):
        a, b = (
            tuple(part if each == axis else slice(None) for each in range(3))
            for part in (slice(None, -1), slice(1, None))
        )
        is_border = inside[a] != inside[b]
        pairs.append((numbers[a][is_border], numbers[b][is_border]))
    one_side, other_side = (np.concatenate(side) for side in zip(*pairs, strict=True))
    return Places(around, every, sampled_hu(numbers, inside), one_side, other_side)


def moved(places: Places, shift: Sequence[int], shape: Sequence[int]) -> Places | None:
    """The same places, so many voxels further on; None where they would leave the CT."""
    around = tuple(
        slice(part.start + by, part.stop + by)
        for part, by in zip(places.around, shift, strict=True)
    )
    is_inside = all(
        part.start >= 0 and part.stop <= side for part, side in zip(around, shape, strict=True)
    )
    return replace(places, around=around) if is_inside else None


def fit_of(hu: Volume, places: Places | None) -> float:
    """The step in HU across the liver's border, by the spread of those inside; 0 for no liver."""
    if places is None:
        return 0.0
    values = np.clip(hu[places.around][places.every], *WINDOW_HU).ravel()
    found = values[places.inside]
    if not found.size:
        return 0.0
    first, middle, third = _quartiles(found)
    if not is_liver_hu(middle):
        return 0.0
    steps = np.abs(values[places.one_side] - values[places.other_side])
    step = float(steps.mean()) if steps.size else 0.0
    return step / float(third - first + NOISE_HU)


def _quartiles(found: NDArray[np.int16]) -> NDArray[np.intp]:
    """The three quartiles of HU inside the window, to 1 HU: far faster by a table."""
    low, high = WINDOW_HU
    below = np.bincount(found - low, minlength=high - low + 1).cumsum()
    return np.searchsorted(below, np.array([0.25, 0.5, 0.75]) * found.size) + low
