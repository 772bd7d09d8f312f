"""Laying a label over its CT: by geometry, or by index where one of the two has lost it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.errors import SourceError
from cache.orientation import from_lps, lps_grid, to_lps
from stages.machine import is_shortage
from stages.preprocess.fit import fits_better
from stages.preprocess.ledger import Ledger
from stages.preprocess.reading.read import SourceVolume, onto_grid
from stages.preprocess.rules import geometry
from stages.preprocess.rules import label as label_rules

CLEARLY = 1.2  # times as well


@dataclass(frozen=True)
class Placed:
    """A label laid over its CT.

    Attributes:
        ct: the CT, with the label's grid where it has lost its own.
        hu: its voxels, (Z, Y, X), LPS.
        mask: the liver as 0/1, of the same shape.
    """

    ct: SourceVolume
    hu: Volume
    mask: Mask


def place(
    ct: SourceVolume, label: SourceVolume, hu: Volume | None, liver: Mask | None, ledger: Ledger
) -> Placed | None:
    """Lay a label over its CT, and write down what is wrong with where it is.

    Args:
        ct: the CT as read.
        label: the label as read.
        hu: the CT's voxels; None if they cannot be used.
        liver: the liver on the label's own grid; None if there is none.
        ledger: where all that is found is written down.

    Returns:
        None if they do not fit, or one of them cannot be used.
    """
    differs = geometry.label_grid(label.path, ct.grid, label.grid)
    apart = geometry.overlap(label.path, ct.grid, label.grid)
    is_lost = differs is not None and geometry.lost_side(ct.grid, label.grid) is not None
    if is_lost and not (apart and _sizes(ct, label)):
        return _by_index(ct, label, hu, liver, ledger)
    if apart is not None:
        differs = None
    ledger.note(apart, differs)
    if hu is None or liver is None or ((apart or differs) and ledger.is_out):
        return None
    mask = _onto_ct(ct, label, liver, ledger, is_elsewhere=differs is not None)
    return None if mask is None else Placed(ct, hu, mask)


def label_voxel_ml(ct: SourceVolume | None, label: SourceVolume) -> float | None:
    """The volume of a label's voxel; None where nobody knows its lengths."""
    grid = label.grid
    if geometry.has_lengths(grid) or (ct is not None and ct.grid == grid):
        return grid.voxel_ml
    is_known = ct is not None and not _sizes(ct, label) and geometry.has_lengths(ct.grid)
    return ct.grid.voxel_ml if ct is not None and is_known else None


def _by_index(
    ct: SourceVolume, label: SourceVolume, hu: Volume | None, liver: Mask | None, ledger: Ledger
) -> Placed | None:
    """Lay voxel over voxel as the files number them, where that can be right."""
    side = geometry.lost_side(ct.grid, label.grid)
    lost = ct if side == "ct" else label
    takes_labels = side == "ct" and not geometry.has_lengths(ct.grid)
    placed, doubt, median = None, _sizes(ct, label), float("nan")
    if not doubt and hu is not None and liver is not None:
        placed = Placed(ct, hu, _turned_alike(liver, label.orientation, ct.orientation))
        median = label_rules.median_hu(placed.hu, placed.mask)
        doubt = _doubt(placed, median)
    ledger.note(geometry.geometry_lost(lost.path, lost.grid, median_hu=median, doubt=doubt))
    if doubt or placed is None or not ledger.fixes("geometry_lost"):
        return None
    return _on_the_labels_grid(placed, label) if takes_labels else placed


def _sizes(ct: SourceVolume, label: SourceVolume) -> str:
    if ct.grid.shape_zyx == label.grid.shape_zyx:
        return ""
    ours, theirs = ("·".join(str(side) for side in one.grid.shape_zyx[::-1]) for one in (ct, label))
    return f"cannot be laid over by index: the CT has {ours} voxels (x·y·z), the label {theirs}"


def _doubt(placed: Placed, median_hu: float) -> str:
    """Why the liver is not there; empty if it does, or if there is none."""
    if np.isnan(median_hu):
        return ""
    if not label_rules.is_liver_hu(median_hu):
        low, high = label_rules.PLAUSIBLE_LIVER_HU
        return (
            f"voxel by voxel half of the liver would be below {median_hu:.0f} HU; "
            f"{low:.0f} to {high:.0f} HU are plausible"
        )
    turned = fits_better(placed.hu, placed.mask, CLEARLY)
    return f"voxel by voxel the liver would fit better {turned}" if turned else ""


def _on_the_labels_grid(placed: Placed, label: SourceVolume) -> Placed:
    """The case on the label's grid, voxel for voxel: it knows the lengths that the CT has lost."""
    ct = placed.ct
    hu = _turned_alike(placed.hu, ct.orientation, label.orientation)
    mask = _turned_alike(placed.mask, ct.orientation, label.orientation)
    known = replace(ct, array=hu, grid=label.grid, orientation=label.orientation)
    return Placed(known, hu, mask)


def _onto_ct(
    ct: SourceVolume, label: SourceVolume, liver: Mask, ledger: Ledger, *, is_elsewhere: bool
) -> Mask | None:
    """The liver turned as the CT was, and moved onto its grid if it is on another."""
    if not is_elsewhere:
        return _turned_alike(liver, label.orientation, ct.orientation)
    before_ml = float(np.count_nonzero(liver)) * label.grid.voxel_ml
    moved = ledger.attempt(lambda: on_the_ct(ct, label, liver))
    if moved is None:
        return None
    after_ml = float(np.count_nonzero(moved)) * ct.grid.voxel_ml
    if before_ml and not after_ml:
        ledger.note(label_rules.overlap_of_liver(label.path, before_ml))
        return None
    ledger.note(label_rules.label_outside(label.path, before_ml, after_ml))
    return moved


def _turned_alike(array: NDArray[Any], own: str, wanted: str) -> NDArray[Any]:
    """An array turned to LPS by its own orientation, turned by the other's instead.

    Near 45 degrees two directions that are one to 1e-7 may have other letters.
    """
    if own == wanted:
        return array
    return np.ascontiguousarray(to_lps(from_lps(array, own), wanted))


def on_the_ct(ct: SourceVolume, label: SourceVolume, liver: Mask) -> Mask:
    """The liver on the CT's grid.

    Raises:
        SourceError: the axes of one of the two span no space.
        MemoryError: the machine is at fault, and not the label.
    """
    own, wanted = lps_grid(label.grid, label.orientation), lps_grid(ct.grid, ct.orientation)
    try:
        return onto_grid(liver, own, wanted)
    except RuntimeError as error:
        if is_shortage(error):
            raise MemoryError(str(error).strip().splitlines()[-1]) from error
        reason = str(error).strip().splitlines()[-1:]
        fact = f"cannot be brought onto the CT's grid: {' '.join(reason) or 'no reason given'}"
        fix = "export the label on the CT's grid"
        raise SourceError(label.path, fact, fix, rule="label_grid") from error
