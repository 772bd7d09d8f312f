"""Every value of a label: how often it occurs, what it is called, and whether it is liver."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cache.case import Mask
from stages.preprocess.files import LabelNames
from stages.preprocess.problems import Finding
from stages.preprocess.rules import label
from stages.preprocess.rules.organs import (
    is_ignored,
    is_lesion_or_vessel,
    is_liver,
    is_liver_part,
    is_nameless,
    is_other_organ,
)

LiverValues = Literal["any"] | list[int] | list[str]
# "other": another structure; "undeclared": the data set names its values, and not this one;
# "unseen": an ignore label, or 255 beside other values: nobody looked there
Use = Literal["background", "liver", "other", "undeclared", "unseen", "negative"]
UNSEEN_VALUE = 255  # where nothing names it
FEW_VALUES = 8
MOST_VALUES = 4096  # that integers of a label may span to be counted in a table


@dataclass(frozen=True)
class Counted:
    """One value of a label.

    Attributes:
        value: the value.
        name: what the file or the data set calls it; empty where nothing names it.
        layer: the layer it is in, of a segmentation in layers; else 0.
        voxels: how many have it.
        use: what it is taken for.
    """

    value: int
    name: str
    layer: int
    voxels: int
    use: Use

    def to_dict(self, voxel_ml: float | None) -> dict[str, Any]:
        """For problems.json: value, name, voxels, ml (None where the lengths are lost), use."""
        ml = None if voxel_ml is None else round(self.voxels * voxel_ml, 3)
        fields = {"value": self.value, "name": self.name, "voxels": self.voxels, "ml": ml}
        return {**fields, "use": self.use}


@dataclass(frozen=True)
class Wanted:
    """What is to be liver, and what is known of the values.

    Attributes:
        liver_values: ``any``, numbers, or names.
        names: label values by structure; None where nothing names them.
        has_others: whether several values above 0 occur.
    """

    liver_values: LiverValues
    names: LabelNames | None
    has_others: bool

    @property
    def is_declared(self) -> bool:
        """Whether the data set names its values; a name without values stands for all of them."""
        return bool(self.names) and () not in (self.names or {}).values()

    def use(self, value: int, named: Sequence[str]) -> Use:
        """What a value of these names is taken for."""
        if value <= 0:
            return "negative" if value < 0 else "background"
        if any(is_ignored(name) for name in named):
            return "unseen"
        if self._is_asked_for(value, named):
            return "liver"
        if value == UNSEEN_VALUE and not named and self.has_others:
            return "unseen"
        if self.is_declared and not named:
            return "undeclared"
        return "liver" if self._is_any(named) else "other"

    def _is_asked_for(self, value: int, named: Sequence[str]) -> bool:
        if self.liver_values == "any":
            return False
        return value in self.liver_values or any(name in self.liver_values for name in named)

    def _is_any(self, named: Sequence[str]) -> bool:
        names = self.names or {}
        if self.liver_values != "any":
            # a name that stands for every value above 0
            return any(names.get(str(name)) == () for name in self.liver_values)
        # a name of several values is a region's, such as all organs; one of its own says more
        own = [name for name in named if len(set(names[name])) == 1] or named
        if not named or any(is_other_organ(name) for name in own):
            return not named
        if any(is_liver(name) for name in names):  # "arota" beside it, as AMOS spells it, is not
            return any(is_liver_part(name) and not is_nameless(name) for name in named)
        # of a tumour or a vessel without a liver nobody knows whose it is
        return not any(is_other_organ(name) or is_lesion_or_vessel(name) for name in names)


def account(
    array: NDArray[Any],
    liver_values: LiverValues,
    names: LabelNames | None,
    layers: dict[str, tuple[int, ...]],
) -> list[Counted]:
    """Every value of a label, by layer and value.

    Args:
        array: whole numbers, (Z, Y, X), or (Z, Y, X, layers).
        liver_values: what is to be liver.
        names: label values by structure; None where nothing names them.
        layers: of a segmentation in layers, the layer of each of a structure's values.
    """
    planes = [array] if array.ndim == 3 else [array[..., at] for at in range(array.shape[-1])]
    counts = [counts_of(plane) for plane in planes]
    positive = {value for found in counts for value in found if value > 0}
    wanted = Wanted(liver_values, names, len(positive) > 1)
    counted = []
    for layer, found in enumerate(counts):
        named = _names_in(names, layers if array.ndim > 3 else None, layer)
        for value, voxels in found.items():
            own = named.get(value, [])
            counted.append(Counted(value, ", ".join(own), layer, voxels, wanted.use(value, own)))
    return counted


def value_findings(
    path: Path, counted: Sequence[Counted], *, is_any: bool, apart: Sequence[int] = ()
) -> list[Finding]:
    """What the values of a label break.

    Args:
        path: the label.
        counted: its values.
        is_any: whether any value was to be liver.
        apart: values without a name that touch none of the others.
    """
    of: dict[str, list[Counted]] = {}
    for one in counted:
        of.setdefault(one.use, []).append(one)
    ignored = [one for one in of.get("unseen", []) if one.name]
    organs: Counter[str] = Counter()
    for one in of.get("other", []) if is_any else []:
        organs[one.name] += one.voxels
    unclear = [one.name or one.value for one in of.get("liver", []) if not is_liver_part(one.name)]
    named = [str(name) for name in unclear if isinstance(name, str) and not is_nameless(name)]
    found = [
        label.label_values(
            path,
            negative=[one.value for one in of.get("negative", [])],
            undeclared={one.value: one.voxels for one in of.get("undeclared", [])},
            unseen=sum(one.voxels for one in of.get("unseen", []) if not one.name),
        ),
        label.many_values(path, unclear, named, apart) if is_any else None,
        label.other_organs(path, organs),
        label.ignore_label(
            path,
            ", ".join(f"{one.value}: {one.name}" for one in ignored),
            sum(one.voxels for one in ignored),
        ),
    ]
    return [finding for finding in found if finding is not None]


def liver_of(array: NDArray[Any], counted: Sequence[Counted]) -> Mask:
    """The liver as 0/1: the voxels of all values that are taken for it, of any layer."""
    if array.ndim == 3:
        return _mask_of(array, [one for one in counted if one.value > 0])
    masks = [
        _mask_of(
            array[..., layer], [one for one in counted if one.layer == layer and one.value > 0]
        )
        for layer in range(array.shape[-1])
    ]
    return np.asarray(np.max(masks, axis=0))


def _mask_of(label_map: NDArray[Any], positive: Sequence[Counted]) -> Mask:
    liver = [one.value for one in positive if one.use == "liver"]
    # every value above 0 is one comparison, however many there are
    return binarize(label_map, None if liver and len(liver) == len(positive) else liver)


def binarize(label_map: NDArray[Any], liver_values: Sequence[int] | None) -> Mask:
    """The liver as 0/1: every value above zero (None), or the listed ones."""
    if liver_values is None:
        return _as_mask(label_map > 0)
    if len(liver_values) == 1:
        return _as_mask(label_map == liver_values[0])
    return _as_mask(np.isin(label_map, liver_values))


def counts_of(label_map: NDArray[Any]) -> dict[int, int]:
    """How many voxels have each value that occurs, ascending; the values are whole numbers."""
    low, high = int(label_map.min()), int(label_map.max())
    if high - low <= FEW_VALUES:  # a pass for each is far faster than the table below
        return _counts_of_few(label_map, low, high)
    if label_map.dtype.kind not in "iu" or high - low > MOST_VALUES:
        values, found = np.unique(label_map, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, found, strict=True)}
    table = np.zeros(high - low + 1, np.int64)  # far faster than sorting
    for part in label_map:  # slice by slice: the index of a voxel takes eight bytes
        shifted = np.subtract(part, low, dtype=np.intp).ravel()
        table += np.bincount(shifted, minlength=table.size)
    return {int(at) + low: int(table[at]) for at in np.flatnonzero(table)}


def _counts_of_few(label_map: NDArray[Any], low: int, high: int) -> dict[int, int]:
    """The counts of values of a small range: slice by slice, which stays in the cache."""
    counts = {
        value: sum(int(np.count_nonzero(part == value)) for part in label_map)
        for value in range(low + 1, high + 1)
    }
    counts = {low: label_map.size - sum(counts.values()), **counts}
    return {value: count for value, count in counts.items() if count}


def _names_in(
    names: LabelNames | None, layers: dict[str, tuple[int, ...]] | None, layer: int
) -> dict[int, list[str]]:
    """The names of each value in a layer."""
    found: dict[int, list[str]] = {}
    for name, values in (names or {}).items():
        places = (layer,) * len(values) if layers is None else layers.get(name, ())
        for value, place in zip(values, places, strict=False):
            if place == layer:
                found.setdefault(value, []).append(name)
    return found


def _as_mask(is_liver: Any) -> Mask:
    mask: Mask = np.asarray(is_liver, bool).view(np.uint8)
    return mask
