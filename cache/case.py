"""The nouns of the store: what is known of a case, a case ready to be written, a patch of one."""

from dataclasses import dataclass, field
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from cache.grid import Box, Grid

Volume = NDArray[np.int16]  # (Z, Y, X), HU
Mask = NDArray[np.uint8]  # (Z, Y, X), 0 or 1
Voxels = NDArray[np.int32]  # (N, 3), indices in z, y, x

Role = Literal["train", "validation", "test"]  # of a case, in a split

FORMAT_VERSION = 2
AIR_HU = -1000  # what lies outside a volume: air, by the definition of the Hounsfield scale


@dataclass(frozen=True)
class CaseInfo:
    """What is known of a prepared case: all that is needed to go back to the source grid.

    Attributes:
        case_id: name of the case, unique in the store.
        patient_id: the person; cases of one patient stay on one side of the split.
        key: SHA-256 over sources, parameters and code version; equal keys mean equal bytes.
        source_grid: the CT's own grid, as its file has it.
        orientation: where the source's x, y and z axes point, for instance "LPS" or "RAS".
        box: what was cut out of the source after turning it to LPS, in source voxels.
        prepared_grid: the grid of the stored image and mask.
        liver_ml: volume of the whole liver mask on the source grid.
        source_digests: SHA-256 of the source files' bytes, by role ("ct", "label").
        ct_digest: SHA-256 over every fourth slice of the CT as int16 HU, turned to LPS: the same
            for two files that hold the same CT.
        params: the parameters the case was prepared with.
        findings: what was odd about the sources: rule, role ("ct" or "label"), fact, fix, and
            whether it was mended ("fixed").
        label_counts: every value of the label: value, name, voxels, ml, and what it is taken for.
    """

    case_id: str
    patient_id: str
    key: str
    source_grid: Grid
    orientation: str
    box: Box
    prepared_grid: Grid
    liver_ml: float
    source_digests: dict[str, str]
    ct_digest: str
    params: dict[str, Any]
    findings: list[dict[str, Any]]
    label_counts: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists, strings and numbers, for JSON."""
        return {
            "format_version": FORMAT_VERSION,
            "case_id": self.case_id,
            "patient_id": self.patient_id,
            "key": self.key,
            "source_grid": self.source_grid.to_dict(),
            "orientation": self.orientation,
            "box": {"start_zyx": list(self.box.start_zyx), "stop_zyx": list(self.box.stop_zyx)},
            "prepared_grid": self.prepared_grid.to_dict(),
            "liver_ml": self.liver_ml,
            "source_digests": self.source_digests,
            "ct_digest": self.ct_digest,
            "params": self.params,
            "findings": self.findings,
            "label_counts": self.label_counts,
        }

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """The inverse of ``to_dict``; the format version is the reader's business."""
        # stores of before have no counts
        fields = {"label_counts": [], **fields}
        values = {name: fields[name] for name in cls.__dataclass_fields__}
        values["source_grid"] = Grid.from_dict(fields["source_grid"])
        values["prepared_grid"] = Grid.from_dict(fields["prepared_grid"])
        box = fields["box"]
        values["box"] = Box(tuple(box["start_zyx"]), tuple(box["stop_zyx"]))
        return cls(**values)


@dataclass(frozen=True)
class PreparedCase:
    """A case as it goes into the store.

    Attributes:
        info: what is known of it.
        volume: int16 HU on the prepared grid, (Z, Y, X).
        mask: uint8 0/1 on the prepared grid, (Z, Y, X).
        source_mask: uint8 0/1 on the CT's own grid and axes, array order of its file.
        foreground_zyx: a sample of liver voxels of ``mask``, for choosing patches; may be empty.
    """

    info: CaseInfo
    volume: Volume
    mask: Mask
    source_mask: Mask
    foreground_zyx: Voxels

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The stored arrays by the names they have in the store."""
        return {
            "image": self.volume,
            "mask": self.mask,
            "source_mask": self.source_mask,
            "foreground_zyx": self.foreground_zyx,
        }


@dataclass(frozen=True)
class Patch:
    """What training asks for: a box of one case, which may leave the volume."""

    case_id: str
    box: Box
