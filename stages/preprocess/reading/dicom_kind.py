"""What a DICOM file is, by the class of its object (SOP class): a CT's slice, or what else.

Source: DICOM PS3.4 B.5; pydicom has the names.
"""

from collections.abc import MutableSequence
from pathlib import Path
from typing import Any

from cache.errors import SourceError
from stages.preprocess.reading.dicom_file import EXPORT, SOP_CLASS, frames_of, read_header
from stages.preprocess.reading.dicom_start import is_dicom

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
SEVERAL_FRAMES = (f"{CT_IMAGE}.1", f"{CT_IMAGE}.2")  # enhanced, and converted from older files
# of programs that make DICOM of other files; of screenshots too, which state no place
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PLACE_TAGS = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
TABLE_OF_CONTENTS = "1.2.840.10008.1.3.10"
# what people call them; all others have the standard's name
USUAL_NAMES = {
    TABLE_OF_CONTENTS: "a table of contents (DICOMDIR)",
    "1.2.840.10008.5.1.4.1.1.66.4": "a DICOM segmentation (SEG)",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose (RTDOSE)",
    "1.2.840.10008.5.1.4.1.1.481.3": "a radiotherapy structure set (RTSTRUCT)",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan (RTPLAN)",
}
# of files that do not state their class
NO_IMAGES = ("AU", "DOC", "KO", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN", "RTSTRUCT", "SEG", "SR")
BEFORE_A_VOWEL = ("A", "E", "I", "MR", "O", "X")
LOCALIZERS = {"LOCALIZER", "SCOUT", "TOPOGRAM"}
UNKNOWN_CLASS = "an object of a class of its own"
CONVERT = "convert it to a NIfTI file on the CT's grid, for instance with 3D Slicer"


def class_of(header: Any) -> str:
    """The UID of an object's class; empty if the file does not state it."""
    meta = getattr(header, "file_meta", None) or {}
    return str(header.get("SOPClassUID") or meta.get(SOP_CLASS) or "")


def name_of(header: Any) -> str:
    """The words for an object: its class; where it states none, its modality."""
    uid = class_of(header)
    modality = str(header.get("Modality") or "")
    if uid in USUAL_NAMES:
        return USUAL_NAMES[uid]
    name = _standard_name(uid)
    if name:
        return f"{'an' if name.startswith(BEFORE_A_VOWEL) else 'a'} {name}"
    return f"a {modality} object" if modality in NO_IMAGES else UNKNOWN_CLASS


def is_image(header: Any) -> bool:
    """Whether an object is images with voxels of their own; one that says nothing may be."""
    uid = class_of(header)
    if not uid:
        return str(header.get("Modality") or "") not in NO_IMAGES
    name = _standard_name(uid)
    return "Image Storage" in name or (not name and bool(header.get("Rows")))


def is_of_ct(header: Any) -> bool:
    """Whether an object holds images of a CT, single or many; where it is silent, it may."""
    modality = str(header.get("Modality") or "")
    is_ct = modality in ("CT", "") and class_of(header) in (CT_IMAGE, *SEVERAL_FRAMES, "")
    return is_ct or is_converted(header)


def is_converted(header: Any) -> bool:
    """Whether it is a slice of a CT as conversion programs write it: a capture with a place."""
    return (
        class_of(header) == SECONDARY_CAPTURE
        and header.get("Modality") == "CT"
        and int(header.get("SamplesPerPixel") or 1) == 1
        and all(header.get(tag) for tag in PLACE_TAGS)
    )


def holds_several(header: Any) -> bool:
    """Whether a file is a whole volume, as enhanced CTs are."""
    return frames_of(header) > 1 or class_of(header) in SEVERAL_FRAMES


def is_localizer(header: Any) -> bool:
    """Whether an image shows where to scan: a scout, topogram or localizer, not a slice."""
    return bool(LOCALIZERS & {word.upper() for word in words_of(header, "ImageType")})


def words_of(header: Any, tag: str) -> list[str]:
    """The values of a tag that has several, as texts; empty if it is not there."""
    value = header.get(tag)
    if value is None:
        return []
    several = isinstance(value, MutableSequence)
    return [str(one) for one in (value if several else [value])]


def refuse_dicom(path: Path) -> None:
    """Refuse a single DICOM file, which is not a volume: a series is a folder.

    Raises:
        SourceError: it is one; it says what kind.
    """
    if not is_dicom(path):
        return
    header = read_header(path, [], ["ImageType"])
    if not is_image(header):
        fact = f"is {name_of(header)}, which is not read as a volume"
        raise SourceError(path, fact, CONVERT)
    if holds_several(header):
        raise several_frames(path, header)
    fact = f"is one DICOM file ({name_of(header)}), not a series"
    raise SourceError(path, fact, "name the folder with the slices of its series")


def several_frames(path: Path, header: Any) -> SourceError:
    """The refusal of a file that is a whole volume."""
    fact = f"holds several frames in one file ({name_of(header)}), which is not read"
    return SourceError(path, fact, EXPORT)


def _standard_name(uid: str) -> str:
    """The standard's name of a class; empty if it has none."""
    from pydicom.uid import UID_dictionary

    return UID_dictionary[uid][0] if uid in UID_dictionary else ""
