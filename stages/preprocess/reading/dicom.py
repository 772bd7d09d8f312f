"""The series in a DICOM folder: which one is meant, its slices in their order along the body.

pydicom reads the headers, SimpleITK later the voxels.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SourceError
from cache.grid import triple_mm
from stages.preprocess.policy import OTHER_FILES
from stages.preprocess.problems import Finding
from stages.preprocess.reading.sniff import is_dicom
from stages.preprocess.rules.header import spacing_positive
from stages.preprocess.rules.series import dicom_gaps, dicom_repeats, gantry_tilt

# nothing of the patient is read
TAGS = [
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "Rows",
    "Columns",
    "BitsAllocated",
    "NumberOfFrames",
    "PixelSpacing",
]
SOP_CLASS = "MediaStorageSOPClassUID"
SAME_PLACE_MM = 1e-3
EXPORT = "export one series with one file per slice, or turn it into a NIfTI file"


@dataclass(frozen=True)
class Slice:
    """One file of a series.

    Attributes:
        path: the file.
        origin_xyz_mm: centre of its first voxel, LPS.
        normal: unit vector out of the slice, along which slices are stacked.
    """

    path: Path
    origin_xyz_mm: NDArray[np.float64]
    normal: NDArray[np.float64]

    @property
    def position_mm(self) -> float:
        """Where it lies along the normal."""
        return float(self.origin_xyz_mm @ self.normal)


@dataclass(frozen=True)
class Series:
    """The slices to read, in ascending order of their positions, and what was odd about them.

    Attributes:
        slices: files, none at the place of another.
        findings: gaps, repeats, tilt, and the files of the folder that do not belong to it.
    """

    slices: list[Path]
    findings: list[Finding]


def choose_series(folder: Path, *, is_ct: bool) -> Series:
    """The series of a folder with the most slices; for a CT, of those that are CT.

    Args:
        folder: holds DICOM files, at any depth.
        is_ct: whether a CT is looked for; a label may be of any modality.

    Raises:
        SourceError: no series can be used.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    unused = {path: "no DICOM file" for path in files if not is_dicom(path)}
    groups: dict[tuple[Any, ...], list[Any]] = defaultdict(list)
    for path in files:
        if path in unused:
            continue
        header = _header(path)
        if header.get("Rows"):
            groups[_series_of(header)].append((path, header))
        else:
            unused[path] = "holds no image"
    wanted = {key: group for key, group in groups.items() if not is_ct or key[0] in ("CT", "")}
    if not wanted:
        found = ", ".join(sorted({f"{key[0]} ({len(g)} files)" for key, g in groups.items()}))
        fact = f"holds no CT series; it has {found or 'no DICOM file'}"
        raise SourceError(folder, fact, "name the folder of the CT series")
    chosen = max(wanted, key=lambda key: (len(wanted[key]), repr(key)))
    for key, group in groups.items():
        if key != chosen:
            number, kind = group[0][1].get("SeriesNumber"), key[0] or "unknown"
            what = f"another series (number {number}, {kind})"
            unused |= {path: what for path, _ in group}
    return _ordered(folder, groups[chosen], unused)


def _header(path: Path) -> Any:
    """The tags of one file; refused if it ends within its header or its voxels."""
    import pydicom  # 0.15 s to import, and most data sets are no DICOM
    from pydicom.config import disable_value_validation

    try:
        # validation would quote odd values, UIDs among them, in warnings
        with path.open("rb") as file, disable_value_validation():
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS)
            header_bytes = file.tell()
            _require_all_bytes(path, header, header_bytes)
            _require_convertible(header)
    except (SourceError, MemoryError):
        raise
    # of damaged bytes, pydicom raises what they happen to lead to: a dozen types, some its own
    except Exception as error:
        raise SourceError(path, f"its DICOM header cannot be read ({error})", EXPORT) from error
    return header


def _require_convertible(header: Any) -> None:
    """Turn every tag that is used into what it stands for: text becomes numbers here, or cannot."""
    for tag in TAGS:
        header.get(tag)
    hash(_series_of(header)), _frames(header)


def _series_of(header: Any) -> tuple[Any, ...]:
    """What all slices of one stack share; localizers often carry the series' own UID."""
    angles = header.get("ImageOrientationPatient") or []
    return (
        str(header.get("Modality") or ""),
        str(header.get("SeriesInstanceUID") or ""),
        tuple(round(float(cosine), 2) + 0.0 for cosine in angles),
        header.get("Rows"),
        header.get("Columns"),
    )


def _ordered(folder: Path, group: list[tuple[Path, Any]], unused: dict[Path, str]) -> Series:
    slices = sorted((_slice(path, header) for path, header in group), key=_place)
    kept, repeats = [slices[0]], []
    for one in slices[1:]:
        before = kept[-1]
        if abs(one.position_mm - before.position_mm) < SAME_PLACE_MM:
            repeats.append((before.path, one.path))
        else:
            kept.append(one)
    origins = np.array([one.origin_xyz_mm for one in kept])
    findings = [
        dicom_repeats(folder, len(repeats), is_same=all(_same_voxels(*two) for two in repeats)),
        dicom_gaps(folder, [one.position_mm for one in kept]),
        gantry_tilt(folder, origins, kept[0].normal),
    ]
    found = [finding for finding in findings if finding is not None]
    return Series([one.path for one in kept], found + _other_files(folder, unused.values()))


def _other_files(folder: Path, reasons: Iterable[str]) -> list[Finding]:
    """One finding per reason for files of the folder that are not read.

    It is stored, so it has no names: they may hold the patient's.
    """
    return [
        Finding(OTHER_FILES, folder, f"{count} {'file' if count == 1 else 'files'}: {reason}", "-")
        for reason, count in sorted(Counter(reasons).items())
    ]


def _slice(path: Path, header: Any) -> Slice:
    if _frames(header) > 1:
        raise SourceError(path, "holds several frames in one file", EXPORT)
    try:
        x, y = np.reshape([float(c) for c in header.ImageOrientationPatient], (2, 3))
        origin = np.array(triple_mm(header.ImagePositionPatient))
    except (AttributeError, TypeError, ValueError) as error:
        fact = "states no position and orientation in the patient"
        raise SourceError(path, fact, EXPORT) from error
    _require_spacing(path, header.get("PixelSpacing"))
    return Slice(path, origin, np.cross(x, y))


def _frames(header: Any) -> int:
    return int(header.get("NumberOfFrames") or 1)


def _require_spacing(path: Path, spacing_yx_mm: Any) -> None:
    """Refuse a slice without a pixel spacing: the reader would take 1 mm without a word."""
    try:
        y_mm, x_mm = (float(mm) for mm in spacing_yx_mm)
    except (TypeError, ValueError) as error:
        fact = "states no pixel spacing"
        raise SourceError(path, fact, EXPORT, rule="spacing_positive") from error
    finding = spacing_positive(path, (x_mm, y_mm))
    if finding is not None:
        raise SourceError(path, finding.fact, finding.fix, rule=finding.rule)


def _require_all_bytes(path: Path, header: Any, header_bytes: int) -> None:
    """Refuse a file that ends within its header, or within voxels that are not compressed."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    found = path.stat().st_size
    is_image = "Image Storage" in getattr(header.file_meta.get(SOP_CLASS), "name", "")
    if is_image and not header.get("Rows"):
        fact = f"ends early: {found:,} bytes hold no whole header"
        raise SourceError(path, fact, EXPORT, rule="truncated")
    plain = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)
    if not header.get("Rows") or header.file_meta.get("TransferSyntaxUID") not in plain:
        return  # a decoder notices by itself
    bits = header.get("BitsAllocated") or 16
    voxels = _frames(header) * int(header.Rows) * int(header.get("Columns") or 0)
    tag_bytes = 8 if header.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian else 12
    needed = header_bytes + tag_bytes + voxels * int(bits) // 8
    if found < needed:
        fact = f"ends early: {found:,} of {needed:,} bytes are there"
        raise SourceError(path, fact, EXPORT, rule="truncated")


def _place(one: Slice) -> tuple[float, str]:
    return one.position_mm, one.path.name


def _same_voxels(first: Path, second: Path) -> bool:
    import pydicom

    ours, theirs = (pydicom.dcmread(path).get("PixelData") for path in (first, second))
    return bool(ours == theirs)
