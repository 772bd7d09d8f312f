"""The slices of one DICOM series, and their order along the body."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SourceError
from cache.grid import triple_mm
from stages.preprocess.reading.dicom_file import EXPORT
from stages.preprocess.rules.header import spacing_positive

SAME_PLACE_MM = 1e-3
NOT_SQUARE = 0.02  # of two unit vectors' products: directions are rounded to two digits, or better
# how the readers turn stored numbers into HU
STORED_AS = (
    "RescaleSlope",
    "RescaleIntercept",
    "PixelRepresentation",
    "BitsAllocated",
    "BitsStored",
)
# one for each scan, phase or reconstruction, and how it is called
SCAN_TAGS = {
    "AcquisitionNumber": "acquisition number",
    "TemporalPositionIdentifier": "temporal position",
    "TemporalPositionIndex": "temporal position",
    "TriggerTime": "trigger time",
    "NominalPercentageOfCardiacPhase": "cardiac phase",
    "NominalCardiacTriggerDelayTime": "trigger delay",
    "IrradiationEventUID": "irradiation event",
    "AcquisitionUID": "acquisition",
    "StudyInstanceUID": "study",
    "SeriesNumber": "series number",
    "SeriesDescription": "series description",
    "ProtocolName": "protocol",
    "ScanOptions": "scan option",
    "ImageType": "image type",
    "KVP": "tube voltage",
    "ConvolutionKernel": "kernel",
    "FilterType": "filter",
    "ContrastBolusAgent": "contrast agent",
    "SliceThickness": "slice thickness",
    "ReconstructionDiameter": "reconstruction diameter",
}
TIME_TAGS = ("AcquisitionDateTime", "AcquisitionTime", "ContentTime", "SeriesTime")
# nothing of the patient is read
STACK_TAGS = [
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "PhotometricInterpretation",
    "ModalityLUTSequence",
    *STORED_AS,
]
# slices are compared by these; what cannot be understood of them is left out of it
COMPARED_TAGS = ["FrameOfReferenceUID", "RescaleType", "InstanceNumber", *SCAN_TAGS, *TIME_TAGS]


@dataclass(frozen=True)
class Slice:
    """One file of a series.

    Attributes:
        path: the file.
        header: its tags.
        origin_xyz_mm: centre of its first voxel, LPS.
        normal: unit vector out of the slice, along which slices are stacked.
        spacing_yx_mm: between its rows, and between its columns.
        stored_as: what decides how its stored numbers become HU, by the tags STORED_AS; None for
            what it does not state.
    """

    path: Path
    header: Any
    origin_xyz_mm: NDArray[np.float64]
    normal: NDArray[np.float64]
    spacing_yx_mm: tuple[float, float]
    stored_as: tuple[float | None, ...]

    @property
    def position_mm(self) -> float:
        """Where it is along the normal."""
        return float(self.origin_xyz_mm @ self.normal)

    @property
    def directions(self) -> NDArray[np.float64]:
        """Where its rows and columns run, six cosines."""
        return np.array([float(cosine) for cosine in self.header.ImageOrientationPatient])

    def stored(self, tag: str) -> float | None:
        """One of the numbers of STORED_AS."""
        return self.stored_as[STORED_AS.index(tag)]


def slice_of(path: Path, header: Any) -> Slice:
    """The slice in a file.

    Raises:
        SourceError: it does not state where it is, or its voxels would not be read as HU.
    """
    try:
        x, y = np.reshape([float(c) for c in header.ImageOrientationPatient], (2, 3))
        origin = np.array(triple_mm(header.ImagePositionPatient))
    except (AttributeError, TypeError, ValueError) as error:
        fact = "states no position and orientation in the patient"
        raise SourceError(path, fact, EXPORT) from error
    _require_place(path, origin, x, y)
    _require_readable_voxels(path, header)
    spacing = _spacing(path, header.get("PixelSpacing"))
    return Slice(path, header, origin, np.cross(x, y), spacing, _stored_as(path, header))


def _require_place(
    path: Path, origin: NDArray[np.float64], x: NDArray[np.float64], y: NDArray[np.float64]
) -> None:
    axes = np.stack([x, y])
    is_square = np.abs(axes @ axes.T - np.eye(2)).max() <= NOT_SQUARE
    if not np.isfinite(origin).all() or not is_square:  # a NaN is not square either
        fact = "states a position or directions that cannot be: axes of length 1 at right angles"
        raise SourceError(path, fact, EXPORT)


def _require_readable_voxels(path: Path, header: Any) -> None:
    if header.get("PhotometricInterpretation") == "MONOCHROME1":
        fact = "is MONOCHROME1 (white is low), whose voxels would be read inverted"
        raise SourceError(path, fact, "export it as MONOCHROME2, or turn it into a NIfTI file")
    if header.get("ModalityLUTSequence"):
        fact = "states its HU by a table (Modality LUT), which would not be applied"
        raise SourceError(path, fact, "export it with a rescale slope and intercept")


def without_repeats(slices: Sequence[Slice]) -> tuple[list[Slice], list[tuple[Slice, Slice]]]:
    """The slices in ascending order of their places, and pairs that are at one place.

    Of each pair the first is kept.
    """
    ordered = sorted(slices, key=lambda one: (one.position_mm, one.path.name))
    kept, repeats = [ordered[0]], []
    for one in ordered[1:]:
        if abs(one.position_mm - kept[-1].position_mm) < SAME_PLACE_MM:
            repeats.append((kept[-1], one))
        else:
            kept.append(one)
    return kept, repeats


def same_voxels(first: Slice, second: Slice) -> bool:
    """Whether two slices are the same picture, to the last bit."""
    import pydicom

    if first.stored_as != second.stored_as:
        return False
    ours, theirs = (
        pydicom.dcmread(one.path, force=True).get("PixelData") for one in (first, second)
    )
    return bool(ours == theirs)


def is_of_one_kind(slices: Sequence[Slice]) -> bool:
    """Whether the stored numbers of all slices become HU in one way."""
    return len({one.stored_as for one in slices}) == 1


def has_fractions(slices: Sequence[Slice]) -> bool:
    """Whether a slope or an intercept makes fractions of whole numbers."""
    return any(
        not (one.stored(tag) or 0.0).is_integer()
        for one in slices
        for tag in ("RescaleSlope", "RescaleIntercept")
    )


def _stored_as(path: Path, header: Any) -> tuple[float | None, ...]:
    numbers: list[float | None] = []
    for tag in STORED_AS:
        value = header.get(tag)
        try:
            numbers.append(None if value is None or value == "" else float(value))
        except (TypeError, ValueError) as error:
            raise SourceError(path, f"states a {tag} that is not a number", EXPORT) from error
        is_zero = tag == "RescaleSlope" and numbers[-1] == 0
        if is_zero or not np.isfinite(numbers[-1] or 0):
            raise SourceError(path, f"states a {tag} of {numbers[-1]:g}", EXPORT)
    return tuple(numbers)


def _spacing(path: Path, spacing_yx_mm: Any) -> tuple[float, float]:
    """Refuse a slice without a pixel spacing: the reader would take 1 mm without a word."""
    try:
        y_mm, x_mm = (float(mm) for mm in spacing_yx_mm)
    except (TypeError, ValueError) as error:
        fact = "states no pixel spacing"
        raise SourceError(path, fact, EXPORT, rule="spacing_positive") from error
    finding = spacing_positive(path, (x_mm, y_mm))
    if finding is not None:
        raise SourceError(path, finding.fact, finding.fix, rule=finding.rule)
    return y_mm, x_mm
