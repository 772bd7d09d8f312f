"""Reading a case and holding it against every rule, before anything is made of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask, Volume
from stages.preprocess.files import CaseFiles, LabelNames
from stages.preprocess.ledger import Ledger
from stages.preprocess.place import place
from stages.preprocess.problems import Finding
from stages.preprocess.reading.read import (
    SourceVolume,
    as_hu,
    read_ct,
    read_label,
    stop_at,
)
from stages.preprocess.rules import ct as ct_rules
from stages.preprocess.rules import header, scale
from stages.preprocess.rules import label as label_rules
from stages.preprocess.rules.series import NEVER_PREDICTED

LiverValues = Literal["any"] | list[int] | list[str]
FEW_VALUES = 8
OF_THE_GRID = ("spacing_plausible", "identity_affine")  # judged once it is known which one counts
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
    placed = None
    if ct is not None and label is not None:
        placed = place(ct, label, hu, liver, ledger)
    if ct is not None:
        ledger.note(*_doubts_of_lengths(placed.ct if placed else ct))
    if placed is None:
        return None
    liver_ml = float(np.count_nonzero(placed.mask)) * placed.ct.grid.voxel_ml
    ledger.note(
        label_rules.liver_volume(files.label, liver_ml),
        label_rules.liver_hu(files.label, placed.hu, placed.mask),
    )
    if ledger.is_out:
        return None
    return Inspected(replace(placed.ct, array=placed.hu), placed.hu, placed.mask)


def ct_to_predict(path: Path) -> tuple[SourceVolume, Volume, list[Finding]]:
    """A CT without a label, all that can be mended mended, and what is to be doubted about it.

    Raises:
        SourceError: it cannot be used.
    """
    ct = read_ct(path)
    for finding in ct.findings:
        # two phases in one folder would be mixed, slice by slice
        is_repeat = finding.rule == "dicom_repeats" and not finding.fixable
        if is_repeat or finding.rule in NEVER_PREDICTED:
            stop_at(finding)
    unfit = ct_rules.finite(path, ct.array)
    if unfit is not None and not unfit.fixable:
        stop_at(unfit)
    hu, found = mended(path, as_hu(ct, fill_nan=unfit is not None))
    return ct, hu, [*ct.findings, *(one for one in found if one.rule != "padding")]


def mended(path: Path, hu: Volume) -> tuple[Volume, list[Finding]]:
    """A CT's values with all that can be mended mended, and what was found about them.

    Training and prediction see the same: a policy decides whether a case is used and how that is
    told, never what its voxels become.

    Args:
        path: the CT.
        hu: its values as int16, (Z, Y, X).
    """
    values = ct_rules.HuRange.of(hu)
    found = [ct_rules.padding(path, hu, values), scale.not_hu(path, hu, values)]
    is_scaled = found[1] is not None
    if found[1] is not None and found[1].fixable:
        hu = scale.without_shift(hu, values)
        values, is_scaled = ct_rules.HuRange.of(hu), False
    found += [
        ct_rules.hu_limits(path, values),
        None if is_scaled else ct_rules.hu_range(path, values),
    ]
    return ct_rules.without_padding(hu, values), [one for one in found if one is not None]


def _doubts_of_lengths(ct: SourceVolume) -> list[Finding]:
    """What is to be doubted about the grid that a CT ends up with."""
    found = [header.spacing_plausible(ct.path, ct.grid), header.identity_affine(ct.path, ct.grid)]
    return [one for one in found if one is not None]


def _inspect_ct(ct: SourceVolume, ledger: Ledger) -> Volume | None:
    ledger.note(*(one for one in ct.findings if one.rule not in OF_THE_GRID))
    unfit = ct_rules.finite(ct.path, ct.array)
    ledger.note(unfit)
    if unfit is not None and not (unfit.fixable and ledger.fixes("finite")):
        return None
    hu, found = mended(ct.path, as_hu(ct, fill_nan=unfit is not None))
    ledger.note(*found)
    return hu


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
