"""Reading one CT or label with SimpleITK, after making sure that it is whole.

Here SimpleITK's x, y, z order becomes an array's z, y, x.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.case import AIR_HU, Volume
from cache.errors import SourceError
from cache.grid import Grid, triple, triple_mm
from cache.orientation import to_lps
from stages.image_file import NOTE, PHANTOM
from stages.preprocess.files import LabelNames
from stages.preprocess.problems import Finding
from stages.preprocess.reading.channels import (
    MOST_CHANNELS,
    channel_count,
    channels_of,
    one_label_map,
    plain_numbers,
)
from stages.preprocess.reading.dicom import choose_series
from stages.preprocess.reading.intact import require_checksum, require_whole_file
from stages.preprocess.reading.itk import refusal, without_warnings
from stages.preprocess.reading.nifti import with_lost_numbers
from stages.preprocess.reading.opened import opened, stop_at
from stages.preprocess.reading.png import png_files, read_png_stack
from stages.preprocess.reading.preamble import with_preambles
from stages.preprocess.reading.segments import segments_of
from stages.preprocess.reading.sniff import readable_series
from stages.preprocess.rules import header
from stages.preprocess.rules.ct import EXPORT_AGAIN
from stages.preprocess.rules.phases import phases_in_voxels

INT16 = np.iinfo(np.int16)
OUTPUT = {"whole": sitk.sitkInt32, "fractions": sitk.sitkFloat64}


@dataclass(frozen=True)
class SourceVolume:
    """A file's voxels in its own data type, turned to LPS.

    Attributes:
        path: the file or folder.
        array: (Z, Y, X), LPS; of a segmentation in overlapping layers (Z, Y, X, layers).
        grid: where its voxels lie in the file's own order.
        orientation: where the file's x, y and z axes point, for instance "LPS" or "RAS".
        names: label values by structure, where the file names them.
        layers: the layer of each of a structure's values, in their order; where there are names.
        findings: what its header breaks, and files of its folder that do not belong to it.
        is_synthetic: whether its header says that it is a phantom of ours.
    """

    path: Path
    array: NDArray[Any]
    grid: Grid
    orientation: str
    names: LabelNames | None = None
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    is_synthetic: bool = False


def read_ct(path: Path) -> SourceVolume:
    """Read a CT: a file, or a folder with a DICOM series.

    Raises:
        SourceError: it is cut short or damaged, is not one three-dimensional volume of plain
            numbers, or SimpleITK refuses it.
    """
    volume = _read_series(path, is_ct=True) if path.is_dir() else _read_file(path, is_label=False)
    if volume.array.ndim != 3:
        raise SourceError(path, "is a segmentation, not a CT", EXPORT_AGAIN, rule="plain_numbers")
    doubts = (
        header.spacing_plausible(path, volume.grid),
        header.identity_affine(path, volume.grid),
    )
    return replace(volume, findings=[*volume.findings, *(doubt for doubt in doubts if doubt)])


def read_label(path: Path, ct_grid: Grid | None) -> SourceVolume:
    """Read a label: a file, a folder with a DICOM series, or one with a PNG image per slice.

    Args:
        path: the file or folder.
        ct_grid: the CT's grid, which is that of PNG images; None if the CT cannot be read.

    Raises:
        SourceError: as for a CT; or the images do not fit the CT.
    """
    if not path.is_dir():
        return _read_file(path, is_label=True)
    if not png_files(path):
        return _read_series(path, is_ct=False)
    if ct_grid is None:
        raise SourceError(path, "has no CT to lie on", "mend the CT first")
    orientation = orientation_of(ct_grid)
    stack = _turned(read_png_stack(path, ct_grid), orientation)
    return SourceVolume(path, stack, ct_grid, orientation)


def orientation_of(grid: Grid) -> str:
    """Where a grid's x, y and z axes point, in three letters."""
    name: str = sitk.DICOMOrientImageFilter.GetOrientationFromDirectionCosines(grid.direction)
    return name


def as_hu(source: SourceVolume, *, fill_nan: bool = False) -> Volume:
    """The voxels as int16 HU: fractions rounded, values beyond int16 clipped.

    Args:
        source: the CT as read.
        fill_nan: take what is not a number for air.
    """
    array = source.array
    if array.dtype.kind == "f":
        if fill_nan:
            array = np.nan_to_num(array, nan=AIR_HU)
        array = np.rint(array)
    if array.dtype != np.int16:
        array = np.clip(array, INT16.min, INT16.max)
    hu: Volume = array.astype(np.int16, copy=False)
    return hu


def onto_grid(array: NDArray[Any], own: Grid, target: Grid) -> NDArray[Any]:
    """A label map brought onto another grid by geometry, with nearest neighbour; 0 outside.

    Args:
        array: (Z, Y, X).
        own: the grid it is on.
        target: the grid it is wanted on.
    """
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(own.spacing_zyx_mm[::-1])
    image.SetOrigin(own.origin_xyz_mm)
    image.SetDirection(own.direction)
    resample = sitk.ResampleImageFilter()
    resample.SetInterpolator(sitk.sitkNearestNeighbor)
    resample.SetSize(target.shape_zyx[::-1])
    resample.SetOutputSpacing(target.spacing_zyx_mm[::-1])
    resample.SetOutputOrigin(target.origin_xyz_mm)
    resample.SetOutputDirection(target.direction)
    return np.asarray(sitk.GetArrayFromImage(resample.Execute(image)))


def _read_file(path: Path, *, is_label: bool) -> SourceVolume:
    with opened(path) as file:
        reader, count = file.reader, channel_count(file.reader)
        # the header alone decides most rejections; a bad case's voxels are never decompressed
        findings = [header.extension(path, file.kind)]
        names, layers = segments_of(path, file.text, count)
        has_channels = is_label and 1 < count <= MOST_CHANNELS
        if not has_channels:
            findings.append(_take_three_dimensions(path, reader))
            if not names:
                stop_at(plain_numbers(path, reader))
        require_whole_file(path, reader)
        image = reader.Execute()
    voxels = sitk.GetArrayViewFromImage(image)
    if not require_checksum(path, voxels):
        voxels = with_lost_numbers(path, voxels)
    first = image  # which has to stay: the voxels are its own
    if has_channels:
        first, voxels = channels_of(image, voxels)
        if not names:
            voxels, finding = one_label_map(path, reader, voxels)
            findings.append(finding)
    grid = file.in_mm(grid_of(first))
    stop_at(header.finite_geometry(path, grid))
    findings += header.of_place(path, grid, file.stated)
    orientation = orientation_of(grid)
    return SourceVolume(
        path,
        _turned(voxels, orientation),
        grid,
        orientation,
        names=names or None,
        layers=layers,
        findings=[finding for finding in findings if finding],
        is_synthetic=NOTE in reader.GetMetaDataKeys() and PHANTOM in reader.GetMetaData(NOTE),
    )


def _read_series(path: Path, *, is_ct: bool) -> SourceVolume:
    series = choose_series(path, is_ct=is_ct)
    reader = sitk.ImageSeriesReader()
    with (
        with_preambles(series.slices) as files,
        readable_series(files) as openable,
        without_warnings(),
    ):
        reader.SetFileNames([str(file) for file in openable])
        if series.numbers in OUTPUT:  # else all slices would become what the first one is
            reader.SetOutputPixelType(OUTPUT[series.numbers])
        try:
            image = reader.Execute()
        except RuntimeError as error:
            raise refusal(path, error) from error
    stop_at(plain_numbers(path, image))
    grid = grid_of(image)
    voxels = sitk.GetArrayViewFromImage(image)
    findings = [*series.findings, header.direction(path, grid)]
    if is_ct and not any(one.rule == "dicom_phases" for one in series.findings):
        findings.append(phases_in_voxels(path, voxels))
    orientation = orientation_of(grid)
    return SourceVolume(
        path,
        _turned(voxels, orientation),
        grid,
        orientation,
        findings=[finding for finding in findings if finding],
    )


def _turned(voxels: NDArray[Any], orientation: str) -> NDArray[Any]:
    """A copy turned to LPS, in one piece: later passes over a view of another order are slow."""
    if voxels.ndim == 3:
        return np.array(to_lps(voxels, orientation), order="C")
    layers = [to_lps(voxels[..., layer], orientation) for layer in range(voxels.shape[-1])]
    return np.stack(layers, axis=-1)


def grid_of(image: Any) -> Grid:
    """The grid of a three-dimensional SimpleITK image."""
    return Grid(
        triple(image.GetSize()[::-1]),
        triple_mm(image.GetSpacing()[::-1]),
        triple_mm(image.GetOrigin()),
        tuple(float(cosine) for cosine in image.GetDirection()),
    )


def _take_three_dimensions(path: Path, reader: sitk.ImageFileReader) -> Finding | None:
    """Drop further dimensions of size 1; give up on a file that has others."""
    finding = header.three_dimensional(path, reader.GetSize())
    if finding is not None:
        if not finding.fixable:
            stop_at(finding)
        reader.SetExtractSize([*reader.GetSize()[:3], *(0 for _ in reader.GetSize()[3:])])
    return finding
