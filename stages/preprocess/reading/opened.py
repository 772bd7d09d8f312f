"""A file whose header SimpleITK has read, and what that header says itself."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from cache.grid import Grid, triple_mm
from stages.preprocess.problems import Finding
from stages.preprocess.reading.dicom_kind import refuse_dicom
from stages.preprocess.reading.header_text import TextHeader
from stages.preprocess.reading.itk import refusal, straightened_sform, without_warnings
from stages.preprocess.reading.nifti import nifti_header
from stages.preprocess.reading.sniff import TEXTS, extension_by_content, readable
from stages.preprocess.reading.stated import Stated, stated_by_nifti, stated_by_text
from stages.preprocess.reading.text_header import text_header
from stages.preprocess.rules import header
from stages.preprocess.rules.ct import EXPORT_AGAIN

NRRD = (".nrrd", ".nhdr")
ANALYZE = ("nifti_type", "0")  # as ITK's reader of NIfTI reports it


@dataclass(frozen=True)
class Opened:
    """A file whose header has been read, but none of its voxels.

    Attributes:
        reader: has read the header.
        kind: the ending it should have, by its content; None if it is of another kind.
        stated: the geometry it states; None if it is of another kind.
        text: its header, if that is text.
    """

    reader: sitk.ImageFileReader
    kind: str | None
    stated: Stated | None
    text: TextHeader | None

    def in_mm(self, grid: Grid) -> Grid:
        """A grid as SimpleITK reads it, which takes every unit of a text header for mm."""
        mm = 1.0 if self.stated is None else self.stated.reader_mm
        if mm == 1.0:
            return grid
        spacing, origin = np.multiply(grid.spacing_zyx_mm, mm), np.multiply(grid.origin_xyz_mm, mm)
        return replace(grid, spacing_zyx_mm=triple_mm(spacing), origin_xyz_mm=triple_mm(origin))


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """Open a file; what SimpleITK raises while it is open is raised as a fault of the file.

    Raises:
        SourceError: it cannot be read, or its header breaks a rule without which nothing can be
            prepared.
        MemoryError: SimpleITK could not get the memory.
    """
    if path.is_file() and path.stat().st_size == 0:
        raise SourceError(path, "is empty", EXPORT_AGAIN, rule="truncated")
    kind = extension_by_content(path)
    if kind is None:
        refuse_dicom(path)
    stated, text = _stated(path, kind)
    if stated is not None:
        stop_at(header.spacing_positive(path, stated.spacing_xyz_mm))
    straightened = stated is not None and stated.is_straightened
    with readable(path) as openable, without_warnings(), straightened_sform(straightened):
        reader = sitk.ImageFileReader()
        reader.SetFileName(str(openable))
        if kind in NRRD:
            # asked for ct.nrrd, ITK's reader of NIfTI opens a ct.nrrd.nii.gz beside it
            reader.SetImageIO("NrrdImageIO")
        try:
            reader.ReadImageInformation()
            stop_at(header.known_place(path, is_analyze=_is_analyze(reader, kind)))
            yield Opened(reader, kind, stated, text)
        except RuntimeError as error:
            raise refusal(path, error) from error


def stop_at(finding: Finding | None) -> None:
    """Give up on a file that breaks a rule without which nothing can be prepared."""
    if finding is not None:
        raise SourceError(finding.path, finding.fact, finding.fix, rule=finding.rule)


def _stated(path: Path, kind: str | None) -> tuple[Stated | None, TextHeader | None]:
    """What the header says of the geometry, and all of a header that is text.

    Raises:
        SourceError: it is damaged, or its unit of length is not known.
    """
    if kind in TEXTS:
        text = text_header(path)
        return (stated_by_text(path, text), text) if text else (None, None)
    nifti = nifti_header(path)
    return (stated_by_nifti(nifti) if nifti else None), None


def _is_analyze(reader: sitk.ImageFileReader, kind: str | None) -> bool:
    """Whether ITK's reader of NIfTI took a file for its forerunner."""
    key, value = ANALYZE
    return (
        kind not in TEXTS and key in reader.GetMetaDataKeys() and reader.GetMetaData(key) == value
    )
