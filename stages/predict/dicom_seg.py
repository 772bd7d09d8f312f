"""A mask as a DICOM segmentation (SEG) of the series it was predicted from.

It names the series by its UIDs, so that a viewer lays it over the slices, and nothing of the
patient: of each slice only the tags in ``TAGS`` are read.
"""

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.case import Mask
from cache.errors import ParamsError, SourceError
from cache.files import replacing
from stages.evaluate.export import unwritable
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
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"  # CT Image Storage
SERIES_NUMBER = 1000  # behind the scanner's own, which viewers sort by it
COLOUR_CIELAB = (41486, 40888, 41006)  # red-brown, sRGB 221 130 101, as 3D Slicer paints livers
WITHOUT = "leave out --dicom-seg"
ALONE = (
    "its slices state no study or series, so the DICOM segmentation has made-up ones; a viewer can"
    " still place it by the frame of reference"
)


def require_highdicom() -> None:
    """Make sure that the package that writes the files is there, before any work is done.

    Raises:
        ParamsError: it is not.
    """
    if importlib.util.find_spec("highdicom") is None:
        fix = 'python -m pip install "highdicom>=0.24"'
        raise ParamsError("--dicom-seg", "needs highdicom, which is not installed", fix)


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
    slices = [_reference(path) for path in choose_series(folder, is_ct=True).slices]
    made_up = [_stands_in(each, key) for each in slices for key in ABOVE_A_FILE]
    for key in ("StudyInstanceUID", "FrameOfReferenceUID"):
        if len({str(each.get(key)) for each in slices}) > 1:
            fact = f"its slices have more than one {key}"
            raise SourceError(folder, fact, f"export the series again, or {WITHOUT}")
    for each in slices[1:]:
        # equal to rounding, for they are one series; highdicom wants them equal to the last digit
        each.ImageOrientationPatient = slices[0].ImageOrientationPatient
    return slices, [ALONE] if any(made_up) else []


def write_seg(
    path: Path, mask: Mask, slices: Sequence[Any], *, spacing_mm: float, version: str, model: str
) -> None:
    """Write a mask as a DICOM SEG with a binary segment, the liver; empty slices are left out.

    A mask without liver has all its slices, so that the file says that none was found.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        mask: uint8 0/1, (slices, rows, columns), as the series lies in its files.
        slices: of ``source_slices``.
        spacing_mm: between the slices; their thickness where they state none.
        version: of liver3d.
        model: what tells the model from others; stands where a device has its serial number.

    Raises:
        DataError: it cannot be written there.
    """
    from highdicom import UID
    from highdicom.seg import Segmentation
    from pydicom.config import disable_value_validation

    for each in slices:
        if not each.get("SliceThickness"):
            each.SliceThickness = round(spacing_mm, 6)
    try:
        with replacing(path) as partial, _quiet(), disable_value_validation():
            segmentation = Segmentation(
                source_images=slices,
                pixel_array=mask,
                segmentation_type="BINARY",
                segment_descriptions=[_liver(version, model)],
                series_instance_uid=UID(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=UID(),
                instance_number=1,
                manufacturer="liver3d",
                manufacturer_model_name="liver3d",
                software_versions=version,
                device_serial_number=model,
                content_label="LIVER",
                series_description="Liver, segmented by liver3d",
                omit_empty_frames=bool(mask.any()),
            )
            segmentation.save_as(partial)
    except OSError as error:
        raise unwritable(path, error) from error


def _liver(version: str, model: str) -> Any:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.coding import Code

    algorithm = AlgorithmIdentificationSequence(
        name="liver3d",
        family=Code("123110", "DCM", "Artificial Intelligence"),
        version=version,
        parameters={"model": model},
    )
    description = SegmentDescription(
        segment_number=1,
        segment_label="Liver",
        segmented_property_category=Code("123037004", "SCT", "Anatomical Structure"),
        segmented_property_type=Code("10200004", "SCT", "Liver"),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
    )
    description.RecommendedDisplayCIELabValue = list(COLOUR_CIELAB)
    return description


def _reference(path: Path) -> Any:
    """What is read of one slice."""
    import pydicom
    from pydicom.config import disable_value_validation

    with disable_value_validation():
        header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
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
    if reference.SOPClassUID != CT_IMAGE:
        fact = f"is a {reference.SOPClassUID.name}, not a CT Image Storage"
        raise SourceError(path, fact, WITHOUT)
    return reference


def _stands_in(reference: Any, key: str) -> bool:
    """Make up a UID that was taken out, the same for all slices of one frame of reference."""
    from pydicom.uid import generate_uid

    if reference.get(key):
        return False
    setattr(reference, key, generate_uid(entropy_srcs=[str(reference.FrameOfReferenceUID), key]))
    return True


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep highdicom from telling of every module it copies, with the UIDs of the study."""
    logger = logging.getLogger("highdicom")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
