"""A mask as a DICOM segmentation (SEG) of the series it was predicted from.

It names the series by its UIDs, so that a viewer lays it over the slices, and nothing of the
patient.
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
from stages.image_file import unwritable
from stages.predict.slices import WITHOUT

SERIES_NUMBER = 1000  # behind the scanner's own, which viewers sort by it
COLOUR_CIELAB = (41486, 40888, 41006)  # red-brown, sRGB 221 130 101, as 3D Slicer paints livers


def require_highdicom() -> None:
    """Make sure that the package that writes the files is there, before any work is done.

    Raises:
        ParamsError: it is not.
    """
    if importlib.util.find_spec("highdicom") is None:
        fix = 'python -m pip install "highdicom>=0.24"'
        raise ParamsError("--dicom-seg", "needs highdicom, which is not installed", fix)


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
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # highdicom on odd tags; its words may quote what stands in them
        fact = f"cannot be made from the tags of the slices ({type(error).__name__})"
        raise SourceError(path, fact, f"export the series again, or {WITHOUT}") from error


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
