"""What a DICOM segmentation has to know of the slices it belongs to, and nothing of the patient."""

from pathlib import Path
from typing import Any

from cache.errors import SourceError
from stages.preprocess.reading.dicom import choose_series

OF_A_FILE = ("SOPClassUID", "SOPInstanceUID")  # the file's own header states them as well
ABOVE_A_FILE = ("StudyInstanceUID", "SeriesInstanceUID")
NEEDED = (
    "FrameOfReferenceUID",
    "Rows",
    "Columns",
    "PixelSpacing",
    "ImagePositionPatient",
    "ImageOrientationPatient",
)
# highdicom writes how the slices were compressed, if with loss
COMPRESSION = (
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
TAGS = (*OF_A_FILE, *ABOVE_A_FILE, *NEEDED, "SliceThickness", *COMPRESSION)
# of the patient and the study: DICOM wants them there, and takes them empty
LEFT_EMPTY = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
WITHOUT = "leave out --dicom-seg"
ALONE = (
    "its slices state no study or series, so the DICOM segmentation has made-up ones; a viewer can"
    " still place it by the frame of reference"
)


def source_slices(folder: Path) -> tuple[list[Any], list[str]]:
    """What a segmentation has to know of the slices of a series, in their order along the body.

    Args:
        folder: with the series that ``read_ct`` reads from it.

    Returns:
        A pydicom data set for each slice, without anything of the patient; and what is to be
        doubted about them.

    Raises:
        SourceError: no series can be used, or a slice lacks what a segmentation refers to.
    """
    slices = [_checked_reference(path) for path in choose_series(folder, is_ct=True).slices]
    made_up = [_stands_in(each, key) for each in slices for key in ABOVE_A_FILE]
    for key in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if len({str(each.get(key)) for each in slices}) > 1:
            fact = f"its slices have more than one {key}"
            raise SourceError(folder, fact, f"export the series again, or {WITHOUT}")
    for each in slices[1:]:
        # equal to rounding, for they are one series; highdicom wants them equal to the last digit
        each.ImageOrientationPatient = slices[0].ImageOrientationPatient
    return slices, [ALONE] if any(made_up) else []


def _checked_reference(path: Path) -> Any:
    try:
        return _reference(path)
    except (ValueError, TypeError, AttributeError) as error:
        # pydicom converts a value when it is asked for; its words may quote it
        fact = f"has a tag that cannot be understood ({type(error).__name__})"
        raise SourceError(path, fact, f"export the series again, or {WITHOUT}") from error


def _reference(path: Path) -> Any:
    """What is read of one slice."""
    import pydicom
    from pydicom.config import disable_value_validation

    with disable_value_validation():
        header = pydicom.dcmread(
            path, stop_before_pixels=True, specific_tags=list(TAGS), force=True
        )
    for key in OF_A_FILE:
        if not header.get(key):  # anonymisers empty it, and leave the file's own header
            setattr(header, key, header.file_meta.get(f"MediaStorage{key}"))
    missing = [key for key in (*OF_A_FILE, *NEEDED) if header.get(key) in (None, "")]
    if missing:
        fact = f"states no {', '.join(missing)}, which a segmentation refers to"
        raise SourceError(path, fact, f"export the series again, or {WITHOUT}")
    reference = pydicom.Dataset()
    for key in TAGS:
        if key in header:
            reference.add(header[key])
    for key in LEFT_EMPTY:
        setattr(reference, key, None)
    # pydicom leaves what is not a number as text, and highdicom would stumble over it in the end
    float(reference.get("SliceThickness") or 0)
    return reference


def _stands_in(reference: Any, key: str) -> bool:
    """Make up a UID that was taken out, the same for all slices of one frame of reference."""
    from pydicom.uid import generate_uid

    if reference.get(key):
        return False
    setattr(reference, key, generate_uid(entropy_srcs=[str(reference.FrameOfReferenceUID), key]))
    return True
