"""Whether a CT's values are Hounsfield units at all, and whether they can be made so."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import AIR_HU, Volume
from stages.preprocess.problems import Finding
from stages.preprocess.rules.ct import DENSEST_AIR_HU, THINNEST_BODY_HU, HuRange

SHIFT_HU = 1024  # a 12-bit scanner stores HU + 1024; an intercept of -1024 takes it away again
SAMPLE = 1_000_000  # voxels, evenly spread: enough for shares of a thousandth
FAT_HU = -50  # and air: all that is darker than water; a CT of a body always has some
FAT_SHARE = 0.001
PICTURE_LEVELS = 255  # of an 8-bit picture
SOFT_HU = (-200, 300)  # fat, muscle, organs with and without contrast
BODY_HU = -724  # denser than most of a lung
SOFT_SHARE = 0.7  # of the body: 0.85 to 0.98 in CTs of abdomen and torso
BODY_SHARE, AIR_SHARE = 0.05, 0.01  # of all voxels, to tell anything from
AIR_BINS = np.arange(1, 202, 4)  # stored values from 1: what is clipped at 0 is left out
AIR_PEAK = (8, 64)  # where the air of a CT shifted by 1024 peaks: near 24, with noise and streaks
CHECK = "check the rescale slope and intercept of the export, or export it again as a CT in HU"


def not_hu(path: Path, hu: Volume, values: HuRange) -> Finding | None:
    """The values can be Hounsfield units: there is fat or air, and matter, and more than 255 steps.

    Those of a CT whose intercept of -1024 was lost are found out by where its air and its soft
    tissue lie; then they can be mended.

    Args:
        path: the CT.
        hu: its values as int16, (Z, Y, X).
        values: their range.
    """
    scanned = _sample(hu, values)
    dark = float(np.mean(scanned < FAT_HU)) if scanned.size else 0.0
    span = f"values run from {values.lowest_scanned} to {values.high}"
    if is_shifted(scanned):
        fact = f"{span}, as of a CT whose rescale intercept of -{SHIFT_HU} was lost"
        fix = f"{SHIFT_HU} is taken away; export it with its rescale intercept"
        return Finding("not_hu", path, fact, fix, fixable=True)
    if values.high < THINNEST_BODY_HU:
        fact = f"{span}, and nothing is denser than {THINNEST_BODY_HU} HU: these are not HU"
    elif dark < FAT_SHARE:
        fact = f"{span}, and nothing is as dark as fat or air: these are not HU"
        if values.lowest_scanned >= -100 and values.high >= 1000:
            fact += "; it looks as if the rescale intercept, usually -1024, was left out"
    elif values.high - values.lowest_scanned <= PICTURE_LEVELS:
        fact = f"{span}, no more than an 8-bit picture has; a CT has thousands of values"
    else:
        return None
    return Finding("not_hu", path, fact, CHECK)


def is_shifted(scanned: NDArray[Any]) -> bool:
    """Whether values are provably HU + 1024.

    None is negative, air peaks near 24 (not at 0, as it would in HU + 1000), and nearly all of the
    body is soft tissue, with some bone above it.
    """
    if not scanned.size or scanned.min() < 0:
        return False
    shifted = scanned.astype(np.int32) - SHIFT_HU
    body = shifted[shifted > BODY_HU]
    air = scanned[(scanned > 0) & (shifted < DENSEST_AIR_HU)]
    if body.size < BODY_SHARE * scanned.size or air.size < AIR_SHARE * scanned.size:
        return False
    counts, edges = np.histogram(air, AIR_BINS)
    peak = edges[int(np.argmax(counts))] + 2
    soft = float(np.mean((body > SOFT_HU[0]) & (body < SOFT_HU[1])))
    has_bone = bool(body.max() > SOFT_HU[1])
    return AIR_PEAK[0] <= peak <= AIR_PEAK[1] and soft >= SOFT_SHARE and has_bone


def without_shift(hu: Volume, values: HuRange) -> Volume:
    """The CT with 1024 taken away; padding becomes air."""
    shifted = np.clip(hu.astype(np.int32) - SHIFT_HU, np.iinfo(np.int16).min, None)
    if values.padding is not None:
        shifted[hu == values.padding] = AIR_HU
    return shifted.astype(np.int16)


def _sample(hu: Volume, values: HuRange) -> NDArray[Any]:
    """Evenly spread voxels, padding apart."""
    step = max(1, round((hu.size / SAMPLE) ** (1 / 3)))
    sample = hu[::step, ::step, ::step]
    return sample[sample != values.padding] if values.padding is not None else sample.ravel()
