"""Reading a case and holding it against every rule, before anything is made of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cache.case import Mask, Volume
from stages.preprocess.apart import values_apart
from stages.preprocess.files import CaseFiles
from stages.preprocess.fit import fits_better
from stages.preprocess.ledger import Ledger
from stages.preprocess.place import Placed, label_voxel_ml, place
from stages.preprocess.problems import Finding
from stages.preprocess.reading.opened import stop_at
from stages.preprocess.reading.read import (
    SourceVolume,
    as_hu,
    read_ct,
    read_label,
)
from stages.preprocess.rules import ct as ct_rules
from stages.preprocess.rules import header, liver, scale
from stages.preprocess.rules import label as label_rules
from stages.preprocess.rules.series import NEVER_PREDICTED
from stages.preprocess.shift import fits_elsewhere
from stages.preprocess.values import LiverValues, account, liver_of, value_findings

FAR = 1.5  # times as well a turned liver fits, for its label to be wrong whatever its header says
UNCLEAR = ("not_hu", "many_values")  # after which no place fits, and none would tell why
OF_THE_GRID = ("spacing_plausible", "identity_affine")  # judged once it is known which one counts


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
    placed = None
    if label is not None:
        voxel_ml = label_voxel_ml(ct, label)
        drawn = _inspect_label(label, files, liver_values, ledger, voxel_ml=voxel_ml)
        placed = None if ct is None else place(ct, label, hu, drawn, ledger)
    # a phantom is made with its own lengths: they are right, be they a patient's or not
    is_phantom = ct is not None and label is not None and ct.is_synthetic and label.is_synthetic
    if ct is not None and not is_phantom:
        ledger.note(*_doubts_of_lengths(placed.ct if placed else ct))
    if placed is None:
        return None
    if placed.mask.any():
        is_clear = not any(one.rule in UNCLEAR for one in ledger.findings)
        ledger.note(
            *_doubts_of_liver(placed, files.label, is_phantom=is_phantom, is_clear=is_clear)
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


def _doubts_of_liver(
    placed: Placed, path: Path, *, is_phantom: bool, is_clear: bool
) -> list[Finding]:
    """What is to be doubted about a liver: where it is, and how large it is."""
    liver_ml = float(np.count_nonzero(placed.mask)) * placed.ct.grid.voxel_ml
    is_whole = liver_ml >= label_rules.PLAUSIBLE_LIVER_ML[0]  # of a lesion, chance decides
    found = [
        None if is_phantom else label_rules.liver_volume(path, liver_ml),
        label_rules.liver_hu(path, placed.hu, placed.mask),
        *(_doubts_of_whole(placed, path, liver_ml, is_clear=is_clear) if is_whole else []),
    ]
    return [one for one in found if one is not None]


def _doubts_of_whole(
    placed: Placed, path: Path, liver_ml: float, *, is_clear: bool
) -> list[Finding | None]:
    """What is to be doubted about a liver that seems to be whole."""
    hu, mask = placed.hu, placed.mask
    is_dense = label_rules.is_liver_hu(label_rules.median_hu(hu, mask))  # else liver_hu has said it
    filled = liver.label_filled(path, mask)
    turned = ""
    if is_clear and filled is None:
        turned = fits_better(hu, mask, FAR) or fits_elsewhere(hu, mask, FAR)
    return [
        label_rules.liver_turned(path, turned),
        liver.strange_hu(path, hu, mask) if is_dense else None,
        filled,
        liver.liver_too_large(path, hu, mask, liver_ml),
    ]


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
    label: SourceVolume,
    files: CaseFiles,
    liver_values: LiverValues,
    ledger: Ledger,
    *,
    voxel_ml: float | None,
) -> Mask | None:
    """The liver on the label's own grid, turned to LPS."""
    ledger.note(*label.findings)
    fractions = label_rules.label_integers(label.path, label.array)
    ledger.note(fractions)
    if fractions is not None and not (fractions.fixable and ledger.fixes("label_integers")):
        return None
    array = np.rint(label.array) if fractions is not None else label.array
    label = replace(label, array=array)
    names = label.names or files.names
    if liver_values != "any":
        wanted = [name for name in liver_values if isinstance(name, str)]
        missing = label_rules.label_names(label.path, wanted, names)
        ledger.note(missing)
        if missing is not None:
            return None
    counted = account(array, liver_values, names, label.layers)
    mask = liver_of(array, counted)
    ledger.label_counts = [one.to_dict(voxel_ml) for one in counted]
    is_any = liver_values == "any"
    nameless = {one.value: one.voxels for one in counted if one.use == "liver" and not one.name}
    apart = values_apart(array, nameless) if is_any and array.ndim == 3 else []
    ledger.note(*value_findings(label.path, counted, is_any=is_any, apart=apart))
    values = sorted({one.value for one in counted})
    empty = label_rules.liver_empty(label.path, mask, values, liver_values)
    ledger.note(empty)
    is_kept = empty is None or ledger.rules.policy("liver_empty") == "keep"
    return mask if is_kept else None
