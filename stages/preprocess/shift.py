"""Whether a liver would fit its CT better at another place: a label whose origin was lost.

Every place is tried on a coarse grid at once, by Fourier transform; the best few are then fitted as
``fit.py`` fits.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.grid import Box, box_of
from stages.preprocess.fit import LEAST_FIT, NOISE_HU, WINDOW_HU, Places, fit_of, moved, places_of
from stages.preprocess.rules.label import PLAUSIBLE_LIVER_HU

COARSE = 64  # voxels along a side of the grid on which all places are tried
TRIED = 4  # of the best places
LEAST_VOXELS = 1000  # of a liver: fewer fit somewhere by chance
GOOD_FIT = 1.0  # five real livers fit 1.2 to 2.4 where they lie, 0.5 to 0.7 when moved
NEAR = 2  # coarse voxels: a border that is drawn a little off is not another place

Steps = tuple[int, ...]  # along z, y and x


def fits_elsewhere(hu: Volume, mask: Mask, times: float) -> str:
    """By how many voxels a liver has to move to fit the CT so many times as well, in words.

    Args:
        hu: int16 HU, (Z, Y, X).
        mask: 0/1, of the same shape.
        times: how much better it has to be.

    Returns:
        For instance "moved by -3 along z, 4 along x (voxels)"; empty if it fits nowhere so well.
    """
    box = box_of(mask)
    if box is None or np.count_nonzero(mask) < LEAST_VOXELS:
        return ""
    places = places_of(mask, box)
    here = fit_of(hu, places)
    if here >= GOOD_FIT:
        return ""
    found = [_climb(hu, places, place) for place in _promising(hu, mask, box)]
    # a climb may end beside the liver's own place, where one that was drawn too small fits better
    best, shift = max((one for one in found if not _is_near(one[1], hu)), default=(0.0, (0, 0, 0)))
    if best <= max(times * here, LEAST_FIT):
        return ""
    along = [f"{voxels} along {axis}" for axis, voxels in zip("zyx", shift, strict=True) if voxels]
    return f"moved by {', '.join(along)} (voxels)"


def _promising(hu: Volume, mask: Mask, box: Box) -> list[Steps]:
    """The best places on the coarse grid, in voxels, beyond those nearby."""
    steps = _steps(hu)
    every = tuple(slice(None, None, step) for step in steps)
    inside = mask[every] > 0
    score = _scores(np.clip(hu[every], *WINDOW_HU).astype(np.float32), inside)
    for axis, (step, start, stop) in enumerate(
        zip(steps, box.start_zyx, box.stop_zyx, strict=True)
    ):
        side = score.shape[axis]
        shift = np.fft.fftfreq(side, 1 / side).round() * step
        is_out = (shift < -start) | (shift > hu.shape[axis] - stop)
        score[tuple(is_out if each == axis else slice(None) for each in range(3))] = 0
    near = np.ix_(*(np.arange(-NEAR, NEAR + 1) % side for side in score.shape))
    score[near] = 0
    best = np.argsort(score, axis=None)[: -TRIED - 1 : -1]
    found = [np.unravel_index(at, score.shape) for at in best if score.flat[at] > 0]
    return [
        tuple(
            int(at - side if at > side // 2 else at) * step
            for at, side, step in zip(place, score.shape, steps, strict=True)
        )
        for place in found
    ]


def _steps(hu: Volume) -> list[int]:
    """Voxels along each side of a coarse one."""
    return [-(-side // COARSE) for side in hu.shape]


def _is_near(shift: Steps, hu: Volume) -> bool:
    return all(abs(by) <= NEAR * step for by, step in zip(shift, _steps(hu), strict=True))


def _scores(values: NDArray[np.float32], inside: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How far the liver's surroundings are from its mean HU, by its spread, at every shift."""
    rim = _grown(inside) & ~inside
    if not inside.any() or not rim.any():
        return np.zeros(values.shape, np.float32)
    first, second = np.fft.rfftn(values), np.fft.rfftn(values**2)

    def mean(transformed: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[np.float32]:
        template = np.conj(np.fft.rfftn(where.astype(np.float32)))
        found = np.fft.irfftn(transformed * template, values.shape, axes=(0, 1, 2))
        return np.asarray(found / np.count_nonzero(where), np.float32)

    middle = mean(first, inside)
    spread = np.sqrt(np.maximum(mean(second, inside) - middle**2, 0))
    apart = mean(second, rim) - 2 * middle * mean(first, rim) + middle**2
    low, high = PLAUSIBLE_LIVER_HU
    is_liver = (middle >= low) & (middle <= high)
    return np.where(is_liver, np.sqrt(np.maximum(apart, 0)) / (spread + NOISE_HU), 0)


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = inside.copy()
    for axis in range(3):
        ahead = tuple(slice(1, None) if each == axis else slice(None) for each in range(3))
        behind = tuple(slice(None, -1) if each == axis else slice(None) for each in range(3))
        grown[ahead] |= inside[behind]
        grown[behind] |= inside[ahead]
    return grown


def _climb(hu: Volume, places: Places, shift: Steps) -> tuple[float, Steps]:
    """The best fit near a place, and where it is."""
    best = (fit_of(hu, moved(places, shift, hu.shape)), shift)
    for step in (4, 2, 1):
        for axis in range(3):
            for way in (-step, step):
                at = tuple(each + (way if axis == one else 0) for one, each in enumerate(best[1]))
                best = max(best, (fit_of(hu, moved(places, at, hu.shape)), at))
    return best
