"""The geometry a file states itself: SimpleITK mends odd values without a word."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import SourceError
from cache.grid import TripleMm, triple_mm
from stages.preprocess.reading.header_text import TextHeader
from stages.preprocess.reading.nifti import NiftiHeader

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])
MM = {"mm": 1.0, "cm": 10.0, "m": 1e3, "um": 1e-3, "nm": 1e-6}
UNIT_NAMES = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), "mm"),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), "cm"),
    **dict.fromkeys(("m", "meter", "metre"), "m"),
    **dict.fromkeys(("um", "µm", "μm", "micron", "micrometer", "micrometre"), "um"),
    **dict.fromkeys(("nm", "nanometer", "nanometre"), "nm"),
}
NO_UNIT = ("", "?", "??", "???", "none", "unknown")
SPACINGS = ("ElementSpacing", "ElementSize", "spacings")  # of MetaImage and NRRD
# NRRD's space directions, which are lengths, have their unit in one field, its spacings in another
DIRECTION_UNITS, SPACING_UNITS = ("DistanceUnits", "spaceunits"), ("DistanceUnits", "units")


@dataclass(frozen=True)
class Stated:
    """The geometry a header states.

    Attributes:
        spacing_xyz_mm: be it zero, negative or no number; None if it is not stated as such.
        sform_lps: the ``sform`` of NIfTI as a 3x4 matrix from voxels (x, y, z) to LPS mm; None
            if it has none.
        has_qform: whether a NIfTI header has a rotation and an origin besides.
        unit: of the lengths in the file; empty where they are mm, or none is stated.
        reader_mm: what SimpleITK's lengths have to be multiplied by to become mm.
    """

    spacing_xyz_mm: TripleMm | None
    sform_lps: NDArray[np.float64] | None = None
    has_qform: bool = False
    unit: str = ""
    reader_mm: float = 1.0

    @property
    def is_straightened(self) -> bool:
        """Whether a sform alone says where the axes point, which the reader may straighten."""
        return self.sform_lps is not None and not self.has_qform


def stated_by_nifti(header: NiftiHeader) -> Stated:
    """The geometry of a NIfTI header, whose unit SimpleITK knows."""
    mm = MM[header.unit or "mm"]
    sform = None
    if header.sform_ras is not None:
        sform = RAS_TO_LPS @ header.sform_ras * mm
    spacing = triple_mm([length * mm for length in header.spacing_xyz])
    return Stated(spacing, sform, header.has_qform, header.unit)


def stated_by_text(path: Path, header: TextHeader) -> Stated:
    """The geometry of a MetaImage or NRRD header, whose unit SimpleITK ignores.

    Of NRRD's directions no reader makes anything odd, so they are not looked at.

    Raises:
        SourceError: its unit is not known, or not the same along all axes.
    """
    name = next((name for name in SPACINGS if name in header.fields), None)
    unit = _unit_of(path, header, SPACING_UNITS if name == "spacings" else DIRECTION_UNITS)
    mm = MM[unit]
    words = header.fields[name].split()[:3] if name else []
    spacing = triple_mm([float(word) * mm for word in words]) if len(words) == 3 else None
    return Stated(spacing, unit="" if unit == "mm" else unit, reader_mm=mm)


def _unit_of(path: Path, header: TextHeader, fields: tuple[str, ...]) -> str:
    text = next((header.units[name] for name in fields if name in header.units), "")
    words = re.findall(r'"([^"]*)"', text) if '"' in text else [text]
    # a fourth axis is not a length
    stated = {word.strip().lower() for word in words[:3]} - set(NO_UNIT)
    units = {UNIT_NAMES.get(word, UNIT_NAMES.get(word.removesuffix("s"), "")) for word in stated}
    if "" in units or len(units) > 1:
        fact = f"states its lengths in {', '.join(sorted(stated))}"
        fix = "write it in mm, and the same unit along all axes"
        raise SourceError(path, fact, fix, rule="length_unit")
    return units.pop() if units else "mm"
