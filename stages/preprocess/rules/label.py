"""Rules about a label, alone and over its CT."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.grid import box_of
from stages.preprocess.files import LabelNames
from stages.preprocess.problems import Finding

PLAUSIBLE_LIVER_ML = (100.0, 6000.0)  # a child's to a massively enlarged one; partial ones fall out
# median in the liver: fat makes it dark, contrast medium bright
PLAUSIBLE_LIVER_HU = (-30.0, 300.0)
LOST_SHARE = 0.01  # of the liver that may lie outside the CT: the rim of the outermost voxels
MOST_PARTS = 3  # values that can all be liver: tissue, lesions, vessels
LIVER_SAMPLE = 200_000  # voxels, more than enough for a median

EXCLUDE = "or list the case under data.exclude"


def label_names(path: Path, wanted: Sequence[str], names: LabelNames | None) -> Finding | None:
    """The structures that liver_values names are there."""
    missing = [name for name in wanted if name not in (names or {})]
    if not missing:
        return None
    known = ", ".join(names) if names else "none"
    fact = f"has no structure named {', '.join(missing)}; the data set names {known}"
    return Finding("label_names", path, fact, "correct preprocess.liver_values")


def label_integers(path: Path, label_map: NDArray[Any]) -> Finding | None:
    """Values are whole numbers; fractions, left by a linear resampling, can be rounded."""
    if label_map.dtype.kind != "f":
        return None
    if not np.isfinite(label_map).all():  # infinity is equal to itself rounded
        fact = "holds values that are not numbers"
        return Finding("label_integers", path, fact, f"export the label again, {EXCLUDE}")
    if np.array_equal(label_map, np.rint(label_map)):
        return None
    share = float(np.mean(label_map != np.rint(label_map)))
    fact = f"{share:.2%} of its values are no whole numbers, as after a linear resampling"
    return Finding("label_integers", path, fact, "export it with nearest neighbour", fixable=True)


def label_values(
    path: Path,
    *,
    negative: Sequence[int] = (),
    undeclared: dict[int, int] | None = None,
    unseen: int = 0,
) -> Finding | None:
    """No value of unknown meaning: negative, 255, not named by a data set that names its values.

    Args:
        path: the label.
        negative: the values below 0.
        undeclared: voxels of each value that has no name where others have one.
        unseen: voxels of 255 beside other values.
    """
    facts = []
    if negative:
        facts.append(f"has negative values ({_list(negative)})")
    if undeclared:
        counts = _list(f"{value} ({voxels:,} voxels)" for value, voxels in undeclared.items())
        facts.append(f"has {counts}, which the data set does not name: not taken for liver")
    if unseen:
        fact = f"has 255 ({unseen:,} voxels) beside other values, which often means: not looked at"
        facts.append(f"{fact}; not taken for liver")
    if not facts:
        return None
    fix = "correct the label, or list in preprocess.liver_values what is liver"
    return Finding("label_values", path, "; ".join(facts), fix)


def many_values(
    path: Path, unclear: Sequence[object], named: Sequence[str] = (), apart: Sequence[int] = ()
) -> Finding | None:
    """Few values that nothing says to be liver, each touching another, where any value is liver.

    Args:
        path: the label.
        unclear: the values, or their names where those do not speak of a liver.
        named: those of them that are names of something, of which one at most may be a liver's.
        apart: those without a name that touch no other, as what lies in one organ does.
    """
    if len(unclear) <= MOST_PARTS and len(named) <= 1 and not apart:
        return None
    fact = f"has {len(unclear)} values above 0 ({_list(unclear)}), all taken for liver"
    if len(named) > 1:
        fact = f"{fact}, though no name is known to be a liver's"
    if apart:
        fact = f"{fact}, of which {_list(apart)} lies apart as another organ does"
    return Finding("many_values", path, fact, "set preprocess.liver_values")


def other_organs(path: Path, organs: dict[str, int]) -> Finding | None:
    """No structure of another name than the liver's, where any value is to be liver.

    Args:
        path: the label.
        organs: voxels by structure, of those whose names are other organs'.
    """
    if not organs:
        return None
    listed = _list(f"{name} ({voxels:,} voxels)" for name, voxels in organs.items())
    fact = f"names {listed}, which is not taken for liver though liver_values is any"
    return Finding("other_organs", path, fact, "set preprocess.liver_values to what is liver")


def ignore_label(path: Path, name: str, voxels: int) -> Finding | None:
    """No voxels of a value that the data set calls ``ignore``: nobody looked at them.

    Args:
        path: the label.
        name: the value and its name.
        voxels: how many have it.
    """
    if not voxels:
        return None
    fact = f"has {voxels:,} voxels of the data set's ignore label ({name}): nobody looked at them"
    fix = f"complete the label; rules.ignore_label: warn takes them for background; {EXCLUDE}"
    return Finding("ignore_label", path, fact, fix)


def overlap_of_liver(path: Path, before_ml: float) -> Finding:
    """What breaks rule ``overlap`` when the grids share space but no liver lies in it."""
    fact = f"none of its liver ({before_ml:.1f} ml) lies inside the CT"
    return Finding("overlap", path, fact, f"check the geometry of both, {EXCLUDE}")


def label_outside(path: Path, before_ml: float, after_ml: float) -> Finding | None:
    """The liver lies inside the CT.

    Args:
        path: the label.
        before_ml: volume of the liver on the label's own grid.
        after_ml: volume on the CT's grid.
    """
    lost = 1 - after_ml / before_ml if before_ml else 0.0
    if lost <= LOST_SHARE:
        return None
    fact = f"{lost:.0%} of its liver ({before_ml - after_ml:.1f} ml) lie outside the CT"
    return Finding("label_outside", path, fact, f"check the geometry of both, {EXCLUDE}")


def liver_empty(
    path: Path, mask: Mask, values: Sequence[int], liver_values: str | Sequence[object]
) -> Finding | None:
    """There is liver: at least one voxel.

    Args:
        path: the label.
        mask: the liver.
        values: those that occur, ascending.
        liver_values: what counts as liver: ``any``, or numbers or names.
    """
    if mask.any():
        return None
    is_any = isinstance(liver_values, str)
    wanted = "above 0 is liver" if is_any else f"among {_list(liver_values)}"
    fact = f"has no liver: no value {wanted} (its values: {_list(values)})"
    fix = f"set preprocess.liver_values, correct the label, {EXCLUDE}"
    return Finding("liver_empty", path, fact, fix)


def liver_volume(path: Path, liver_ml: float) -> Finding | None:
    """A whole liver of 100 to 6000 ml; others are partial or have a wrong spacing."""
    low, high = PLAUSIBLE_LIVER_ML
    if low <= liver_ml <= high:
        return None
    fact = f"the liver measures {liver_ml:.1f} ml; {low:.0f} to {high:.0f} ml are plausible"
    fix = "check the spacing in the header; a part of a liver is fine if it is meant"
    return Finding("liver_volume", path, fact, fix)


def liver_hu(path: Path, hu: Volume, mask: Mask) -> Finding | None:
    """Inside the label the CT is as dense as liver, or the label lies elsewhere.

    Args:
        path: the label.
        hu: int16 HU, (Z, Y, X).
        mask: 0/1, of the same shape.
    """
    median = median_hu(hu, mask)
    if is_liver_hu(median):
        return None
    low, high = PLAUSIBLE_LIVER_HU
    fact = f"half of its voxels are below {median:.0f} HU; {low:.0f} to {high:.0f} HU are plausible"
    fix = f"look at both in a viewer: the label may be turned, shifted or of another CT; {EXCLUDE}"
    return Finding("liver_hu", path, fact, fix)


def liver_turned(path: Path, how: str) -> Finding | None:
    """No other order or place of the label's voxels puts the liver where the CT clearly has one.

    Args:
        path: the label.
        how: the order that would, in words; empty if there is none.
    """
    if not how:
        return None
    fact = f"its liver would fit the CT far better {how}: its place or order was lost"
    return Finding("liver_turned", path, fact, f"export it with the CT's geometry, {EXCLUDE}")


def is_liver_hu(median_hu: float) -> bool:
    """Whether a liver may have this median."""
    low, high = PLAUSIBLE_LIVER_HU
    return low <= median_hu <= high


def median_hu(hu: Volume, mask: Mask) -> float:
    """The median HU of the mask's voxels, or of evenly spread ones where they are many.

    NaN if it has none.
    """
    found = sampled_hu(hu, mask)
    return float(np.median(found)) if found.size else float("nan")


def sampled_hu(hu: NDArray[Any], mask: Mask) -> NDArray[Any]:
    """The HU, (Z, Y, X), of the mask's voxels, or of evenly spread ones where they are many."""
    box = box_of(mask)
    if box is None:
        return np.empty(0, hu.dtype)
    inside, values = mask[box.slices], hu[box.slices]
    step = max(1, math.floor((np.count_nonzero(inside) / LIVER_SAMPLE) ** (1 / 3)))
    every = (slice(None, None, step),) * 3
    found: NDArray[Any] = values[every][inside[every] > 0]
    return found if found.size else values[inside > 0]


def liver_cropped_away(path: Path, mask: Mask) -> Finding | None:
    """Some liver is left in the prepared box."""
    if mask.any():
        return None
    return Finding(
        "liver_cropped_away", path, "no liver is left in the prepared box", "choose another crop"
    )


def _list(values: object) -> str:
    listed = [str(value) for value in values]  # type: ignore[attr-defined]
    return ", ".join(listed[:10]) + (", …" if len(listed) > 10 else "")
