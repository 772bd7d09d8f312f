"""Rules about a liver over its CT that hold for whole ones alone: of a lesion, chance decides."""

from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.grid import box_of
from stages.preprocess.problems import Finding
from stages.preprocess.rules.ct import THINNEST_BODY_HU
from stages.preprocess.rules.label import EXCLUDE, PLAUSIBLE_LIVER_ML, sampled_hu

# from fat to calcified or full of contrast medium, with the noise of thin slices
SOFT_HU = (-200, 500)
STRANGE_SHARE = 0.2  # of a liver's voxels beyond that: a label 6 slices off has 0.3, real ones 0.02
LEAST_VOXELS = 1000  # of a liver, to tell an outline from
OUTLINE_LEFT = 0.1  # of an outline's voxels with all neighbours in the plane; of a liver's 0.8
SAME_PLACE = 0.5  # of the smaller of two slices of one structure, above the other
# of the largest slice's voxels: a speck that a mouse left above the liver is no slice of it
SLICE_OF_A_LIVER = 0.1
LARGEST_LIVER_ML = 15_000.0  # beyond any that was ever weighed
LARGEST_SHARE = 0.4  # of all tissue in a CT, for a liver that is too large already


def strange_hu(path: Path, hu: Volume, mask: Mask) -> Finding | None:
    """Most of a liver is soft tissue, and the CT was scanned where it lies.

    Args:
        path: the label.
        hu: int16 HU, (Z, Y, X).
        mask: 0/1, of the same shape.
    """
    box = box_of(mask)
    if box is None:
        return None
    with_liver = np.flatnonzero(mask.any(axis=(1, 2)))
    flat = sum(bool((hu[z] == hu[z].flat[0]).all()) for z in with_liver)
    if flat:
        fact = f"{flat} of {with_liver.size} slices with liver have one value in all of the CT"
        return Finding(
            "liver_hu", path, f"{fact}: they are lost", f"export the CT again, {EXCLUDE}"
        )
    found = sampled_hu(hu, mask)
    share = float(np.mean((found < SOFT_HU[0]) | (found > SOFT_HU[1])))
    if share <= STRANGE_SHARE:
        return None
    fact = f"{share:.0%} of its voxels are not soft tissue ({SOFT_HU[0]} to {SOFT_HU[1]} HU)"
    fix = f"look at both in a viewer: the label may be shifted, or slices not in HU; {EXCLUDE}"
    return Finding("liver_hu", path, fact, fix)


def label_filled(path: Path, mask: Mask) -> Finding | None:
    """A liver is drawn in every slice that it crosses, and not as an outline.

    Args:
        path: the label.
        mask: 0/1, (Z, Y, X), of a whole liver.
    """
    box = box_of(mask)
    if box is None:
        return None
    liver = mask[box.slices] > 0
    for axis, name in enumerate(("axial", "coronal", "sagittal")):
        missing = _left_out(np.moveaxis(liver, axis, 0))
        if missing:
            fact = f"{missing} {name} slices between others with liver have none: not drawn"
            return Finding("label_filled", path, fact, f"complete the label, {EXCLUDE}")
    if np.count_nonzero(liver) < LEAST_VOXELS:
        return None
    core = np.pad(liver, ((0, 0), (1, 1), (1, 1)))
    core = core[:, :-2] & core[:, 1:-1] & core[:, 2:]
    core = core[..., :-2] & core[..., 1:-1] & core[..., 2:]
    if np.count_nonzero(core) > OUTLINE_LEFT * np.count_nonzero(liver):
        return None
    fact = "is an outline: nearly all voxels lie at its border"
    return Finding("label_filled", path, fact, f"fill it, {EXCLUDE}")


def _left_out(liver: NDArray[np.bool_]) -> int:
    """Empty slices along the first axis between two of the liver that lie above each other."""
    voxels = np.count_nonzero(liver, axis=(1, 2))
    missing = 0
    for before, after in pairwise(np.flatnonzero(voxels)):
        if after - before > 1:
            smaller = min(voxels[before], voxels[after])
            is_speck = smaller < SLICE_OF_A_LIVER * voxels.max()
            shared = np.count_nonzero(liver[before] & liver[after])
            if not is_speck and shared >= SAME_PLACE * smaller:
                missing += int(after - before) - 1
    return missing


def liver_too_large(path: Path, hu: Volume, mask: Mask, liver_ml: float) -> Finding | None:
    """A liver is at most 15 litres, and, beyond 6, less than 40 % of all tissue.

    Args:
        path: the label.
        hu: int16 HU, (Z, Y, X).
        mask: 0/1, of the same shape.
        liver_ml: what it measures.
    """
    fact, fix = (
        f"the liver measures {liver_ml:.0f} ml",
        f"correct the label or its spacing, {EXCLUDE}",
    )
    if liver_ml > LARGEST_LIVER_ML:
        return Finding("liver_too_large", path, f"{fact}, which none ever did", fix)
    if liver_ml <= PLAUSIBLE_LIVER_ML[1]:
        return None
    tissue = int(np.count_nonzero(hu > THINNEST_BODY_HU))
    share = float(np.count_nonzero(mask)) / max(1, tissue)
    if share < LARGEST_SHARE:
        return None
    return Finding("liver_too_large", path, f"{fact}, {share:.0%} of all tissue in the CT", fix)
