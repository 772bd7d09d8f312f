"""Reading a case and holding it against every rule, before anything is made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from cache.errors import SourceError
from cache.orientation import from_lps, lps_grid, to_lps
from stages.preprocess.files import CaseFiles, LabelNames
from stages.preprocess.ledger import Ledger
from stages.preprocess.problems import Finding
from stages.preprocess.reading.read import (
    SourceVolume,
    as_hu,
    onto_grid,
    read_ct,
    read_label,
    stop_at,
)
from stages.preprocess.rules import ct as ct_rules
from stages.preprocess.rules import label as label_rules

LiverValues = Literal["any"] | list[int] | list[str]
FEW_VALUES = 8
MOST_VALUES = 4096  # that integers of a label may span to be counted in a table


@dataclass(frozen=True)
class Inspected:
    """A case that passed, mended where a policy says so.

    Attributes:
        ct: the CT as read.
        hu: its voxels as int16 HU, (Z, Y, X), LPS.
        mask: the liver as 0/1, of the same shape.
    """

    ct: SourceVolume
    hu: Volume
    mask: Mask

    @property
    def liver_ml(self) -> float:
        """Volume of the liver."""
        return float(np.count_nonzero(self.mask)) * self.ct.grid.voxel_ml


def inspect_case(files: CaseFiles, liver_values: LiverValues, ledger: Ledger) -> Inspected | None:
    """Read a case's two files and apply every rule to them.

    Both files are looked at even if the first cannot be used, so that one run names all faults.

    Args:
        files: where they lie.
        liver_values: what counts as liver: ``any`` value above 0, numbers, or names.
        ledger: where all that is found is written down.

    Returns:
        The case, or None if something keeps it out of the store.
    """
    ct = ledger.attempt(lambda: read_ct(files.ct))
    label = ledger.attempt(lambda: read_label(files.label, ct.grid if ct else None))
    hu = None if ct is None else _inspect_ct(ct, ledger)
    liver = None if label is None else _inspect_label(label, files, liver_values, ledger)
    if ct is None or label is None:
        return None
    apart = label_rules.overlap(label.path, ct.grid, label.grid)
    differs = None if apart else label_rules.label_grid(label.path, ct.grid, label.grid)
    ledger.note(apart, differs)
    if hu is None or liver is None or ((apart or differs) and ledger.is_out):
        return None
    mask = _onto_ct(ct, label, liver, ledger, is_elsewhere=differs is not None)
    if mask is None:
        return None
    liver_ml = float(np.count_nonzero(mask)) * ct.grid.voxel_ml
    ledger.note(
        label_rules.liver_volume(label.path, liver_ml), label_rules.liver_hu(label.path, hu, mask)
    )
    return None if ledger.is_out else Inspected(replace(ct, array=hu), hu, mask)


def ct_to_predict(path: Path) -> tuple[SourceVolume, Volume, list[Finding]]:
    """A CT without a label, all that can be mended mended, and what is to be doubted about it.

    Raises:
        SourceError: it cannot be used.
    """
    ct = read_ct(path)
    for finding in ct.findings:
        # two phases in one folder would be mixed, slice by slice
        if finding.rule == "dicom_repeats" and not finding.fixable:
            stop_at(finding)
    unfit = ct_rules.finite(path, ct.array)
    if unfit is not None and not unfit.fixable:
        stop_at(unfit)
    hu = as_hu(ct, fill_nan=unfit is not None)
    values = ct_rules.HuRange.of(hu)
    doubts = [*ct.findings, ct_rules.hu_limits(path, values), ct_rules.hu_range(path, values)]
    return (
        ct,
        ct_rules.without_padding(hu, values),
        [doubt for doubt in doubts if doubt is not None],
    )


def _inspect_ct(ct: SourceVolume, ledger: Ledger) -> Volume | None:
    ledger.note(*ct.findings)
    unfit = ct_rules.finite(ct.path, ct.array)
    ledger.note(unfit)
    if unfit is not None and not (unfit.fixable and ledger.fixes("finite")):
        return None
    hu = as_hu(ct, fill_nan=unfit is not None)
    values = ct_rules.HuRange.of(hu)
    ledger.note(
        ct_rules.padding(ct.path, hu, values),
        ct_rules.hu_limits(ct.path, values),
        ct_rules.hu_range(ct.path, values),
    )
    return ct_rules.without_padding(hu, values) if ledger.fixes("padding") else hu


def _inspect_label(
    label: SourceVolume, files: CaseFiles, liver_values: LiverValues, ledger: Ledger
) -> Mask | None:
    """The liver on the label's own grid, turned to LPS."""
    ledger.note(*label.findings)
    fractions = label_rules.label_integers(label.path, label.array)
    ledger.note(fractions)
    if fractions is not None and not (fractions.fixable and ledger.fixes("label_integers")):
        return None
    array = np.rint(label.array) if fractions is not None else label.array
    label = replace(label, array=array)
    mask = ledger.attempt(lambda: _liver(label, label.names or files.names, liver_values))
    if mask is None:
        return None
    values = values_of(array)
    numbers = None if liver_values == "any" else _numbers(label.names or files.names, liver_values)
    layered = tuple(label.layers) if array.ndim > 3 else ()
    ledger.note(label_rules.label_values(label.path, values, numbers, layered))
    empty = label_rules.liver_empty(label.path, mask, values, numbers)
    ledger.note(empty)
    return mask if empty is None else None


def _onto_ct(
    ct: SourceVolume, label: SourceVolume, liver: Mask, ledger: Ledger, *, is_elsewhere: bool
) -> Mask | None:
    """The liver turned as the CT was, and brought onto its grid if it is on another."""
    if not is_elsewhere:
        return _turned_alike(liver, label.orientation, ct.orientation)
    before_ml = float(np.count_nonzero(liver)) * label.grid.voxel_ml
    moved = ledger.attempt(lambda: on_the_ct(ct, label, liver))
    if moved is None:
        return None
    after_ml = float(np.count_nonzero(moved)) * ct.grid.voxel_ml
    if not after_ml:
        ledger.note(label_rules.overlap_of_liver(label.path, before_ml))
        return None
    ledger.note(label_rules.label_outside(label.path, before_ml, after_ml))
    return moved


def _turned_alike(liver: Mask, own: str, wanted: str) -> Mask:
    """A mask turned to LPS by its own orientation, turned by the CT's instead.

    Near 45 degrees two directions that are one to 1e-7 may have other letters.
    """
    if own == wanted:
        return liver
    return np.ascontiguousarray(to_lps(from_lps(liver, own), wanted))


def on_the_ct(ct: SourceVolume, label: SourceVolume, liver: Mask) -> Mask:
    """The liver on the CT's grid.

    Raises:
        SourceError: the axes of one of the two span no space.
    """
    own, wanted = lps_grid(label.grid, label.orientation), lps_grid(ct.grid, ct.orientation)
    try:
        return onto_grid(liver, own, wanted)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1:]
        fact = f"cannot be brought onto the CT's grid: {' '.join(reason) or 'no reason given'}"
        fix = "export the label on the CT's grid"
        raise SourceError(label.path, fact, fix, rule="label_grid") from error


def _liver(label: SourceVolume, names: LabelNames | None, liver_values: LiverValues) -> Mask:
    """The liver as 0/1, from one label map or from a segmentation in layers.

    Raises:
        SourceError: a structure that liver_values names is not there.
    """
    if liver_values == "any":
        every = label.array > 0
        return _as_mask(every if every.ndim == 3 else every.any(axis=-1))
    wanted = [name for name in liver_values if isinstance(name, str)]
    stop_at(label_rules.label_names(label.path, wanted, names))
    if label.array.ndim == 3:
        return binarize(label.array, _numbers(names, liver_values))
    chosen = [
        label.array[..., layer] == value
        for name in wanted
        for layer, value in zip(label.layers[name], (names or {})[name], strict=True)
    ]
    if not chosen:
        chosen = [np.isin(label.array, liver_values).any(axis=-1)]
    return _as_mask(np.any(chosen, axis=0))


def binarize(label_map: NDArray[Any], liver_values: Sequence[int] | None) -> Mask:
    """The liver as 0/1: every value above zero (None), or the listed ones."""
    if liver_values is None:
        return _as_mask(label_map > 0)
    if len(liver_values) == 1:
        return _as_mask(label_map == liver_values[0])
    return _as_mask(np.isin(label_map, liver_values))


def _as_mask(is_liver: Any) -> Mask:
    mask: Mask = np.asarray(is_liver, bool).view(np.uint8)
    return mask


def values_of(label_map: NDArray[Any]) -> list[int]:
    """The values that occur in a label, ascending; whole numbers are taken for granted."""
    low, high = int(label_map.min()), int(label_map.max())
    if high - low <= FEW_VALUES:  # a pass for each is far faster than the table below
        between = [value for value in range(low + 1, high) if (label_map == value).any()]
        return sorted({low, *between, high})
    if label_map.dtype.kind not in "iu" or high - low > MOST_VALUES:
        return [int(value) for value in np.unique(label_map)]
    occurs = np.zeros(high - low + 1, bool)  # far faster than sorting
    for part in label_map:  # slice by slice: the index of a voxel takes eight bytes
        occurs[np.subtract(part, low, dtype=np.intp)] = True
    return [int(value) + low for value in np.flatnonzero(occurs)]


def _numbers(names: LabelNames | None, liver_values: LiverValues) -> list[int] | None:
    """Label values for numbers or names; None for every value above 0."""
    numbers: list[int] = []
    for value in liver_values:
        if not isinstance(value, str):
            numbers.append(value)
        elif (names or {}).get(value) == ():
            return None
        else:
            numbers += (names or {}).get(value, ())
    return numbers
