"""What a case will need, judged by its files' headers: memory, disk and time."""

import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from cache.grid import Grid, triple, triple_mm
from stages.preprocess.files import CaseFiles
from stages.preprocess.params import PreprocessParams
from stages.preprocess.prepare import target_grid
from stages.preprocess.reading.below import files_below
from stages.preprocess.reading.dicom_file import read_header
from stages.preprocess.reading.dicom_start import is_dicom
from stages.preprocess.reading.opened import opened

# a worker's peak, measured with benchmarks.measure on 2 cores and glibc for CTs of 70, 140 and 280
# slices of 512·512: 201 MB, and per voxel 7.0 bytes for int16 with a uint8 label, of which 3.0 are
# the label's: 21.1 more with float64. Other CTs than int16 are copied while they become it: 22.4
# bytes for float32 and 44.9 for float64, label included; and four times the slices stored took 15.5
# more as Zarr, 22.2 as HDF5. The estimate should be 5 to 40 % higher.
BYTES_BESIDES = 270_000_000
INT16_COPIES = 2
OTHER_COPIES = 5
LABEL_COPIES = 3
BYTES_PER_STORED_VOXEL = 1.0
BYTES_PER_ADDED_VOXEL = 7.0  # stored ones beyond as many as the source has
STORED_SHARE = 0.55  # of int16 and uint8, after blosc-lz4; noise compresses badly
# of one processor, whatever the size: 200 cases of 14·18·20 voxels took 0.038 as Zarr and 0.027 as
# HDF5, and 10,000 by two processes 214 of the clock
SECONDS_PER_CASE = 0.04
SECONDS_PER_VOXEL = 1e-8  # of one processor, read and stored ones alike
ABSURD_MM = 1e4  # a spacing from which nothing can be judged, not even the memory
UNKNOWN_INFLATION = 4  # voxels' bytes per byte of a file whose header says nothing
TRIED = 8  # files of a DICOM folder that are looked into for two slices
SLICES_DIFFER = 4  # x in bytes, of compressed slices of one series; other files are often smaller
THICK_MM = 5.0  # between slices that do not say: as far apart as is usual, rather than too near
# nothing of the patient is read
SERIES_TAGS = [
    "Rows",
    "Columns",
    "BitsAllocated",
    "PixelSpacing",
    "SliceThickness",
    "ImagePositionPatient",
    "InstanceNumber",
]


@dataclass(frozen=True)
class Header:
    """What a volume's header says of its voxels.

    Attributes:
        grid: where they are.
        voxel_bytes: of each.
        is_int16: whether they need no conversion to be HU.
    """

    grid: Grid
    voxel_bytes: int
    is_int16: bool


@dataclass(frozen=True)
class Need:
    """What preparing one case takes.

    Attributes:
        memory_bytes: of the process, at its peak.
        disk_bytes: in the store.
        seconds: of one processor.
    """

    memory_bytes: int
    disk_bytes: int
    seconds: float


def need_of(files: CaseFiles, params: PreprocessParams) -> Need:
    """What a case will need, from the headers of its CT and label; a crop may make it less.

    Nothing makes it fail: reading in earnest will say what is wrong with a file. A folder with two
    DICOM series counts as one with the slices of both.
    """
    header = _series_header(files.ct) if files.ct.is_dir() else _header(files.ct)
    if header is None:
        voxels = stored = _bytes(files.ct) * UNKNOWN_INFLATION // 2
        ct_bytes = voxels * 2 * INT16_COPIES
    else:
        voxels = math.prod(header.grid.shape_zyx)
        # the source's axes stand for the store's: before turning it, the estimate is no worse
        stored = math.prod(target_grid(header.grid, params).shape_zyx)
        copies = INT16_COPIES if header.is_int16 else OTHER_COPIES
        ct_bytes = voxels * header.voxel_bytes * copies
    label_bytes = LABEL_COPIES * _label_bytes(files.label, voxels)
    memory = BYTES_BESIDES + ct_bytes + label_bytes + stored * BYTES_PER_STORED_VOXEL
    memory += max(0, stored - voxels) * BYTES_PER_ADDED_VOXEL
    disk = stored * np.dtype(np.int16).itemsize * STORED_SHARE
    seconds = SECONDS_PER_CASE + (voxels + stored) * SECONDS_PER_VOXEL
    return Need(int(memory), int(disk), seconds)


def announced(needs: Sequence[Need], out: Path, *, workers: int | None, kept: int) -> str:
    """What is about to be done, in one line; it warns where the disk will not do.

    Args:
        needs: of every case to read; at least one.
        out: the store, or where it will be.
        workers: processes at a time; None where nobody knows, and so how long it takes.
        kept: how many cases are unchanged.
    """
    disk = sum(need.disk_bytes for need in needs)
    free = shutil.disk_usage(out if out.exists() else out.parent).free
    line = (
        f"{len(needs)} cases to read, {kept} unchanged; if all are new, about {disk / 1e9:.1f} GB "
        f"({free / 1e9:.0f} GB are free)"
    )
    if workers is not None:
        seconds = sum(need.seconds for need in needs) / min(workers, len(needs))
        line += f", about {_duration(seconds)}"
    return f"{line}; the disk may fill up" if disk > free else line


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _label_bytes(path: Path, ct_voxels: int) -> int:
    """A label in its own data type; where its header says nothing, a byte per voxel of the CT."""
    header = _header(path)
    if header is None:
        return ct_voxels
    return math.prod(header.grid.shape_zyx) * header.voxel_bytes


def _header(path: Path) -> Header | None:
    """What a file says of its voxels, without reading them; None if it cannot be read."""
    if path.is_dir() or is_dicom(path):  # a single DICOM file is refused in the end
        return None
    try:
        with opened(path) as file:
            reader = file.reader
            size, spacing = reader.GetSize(), reader.GetSpacing()
            if len(size) < 3:
                return None
            grid = file.in_mm(Grid(triple(size[2::-1]), triple_mm(spacing[2::-1])))
            kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
            layers = reader.GetNumberOfComponents() * math.prod(size[3:])
    except (RuntimeError, SourceError, OSError, MemoryError):
        return None  # reading it in earnest will say why
    if not all(0 < spacing < ABSURD_MM for spacing in grid.spacing_zyx_mm):
        return None
    bits = next((int(word.removesuffix("-bit")) for word in kind.split() if "-bit" in word), 32)
    return Header(grid, bits // 8 * layers, kind == "16-bit signed integer")


def _series_header(folder: Path) -> Header | None:
    """The same of a DICOM folder, from two of its slices and the number of files of their size."""
    try:
        sizes = sorted((file.stat().st_size, file) for file in files_below(folder))
        # one of the middle is a slice, whatever lies beside them
        slices = _slices([file for _, file in sizes[len(sizes) // 2 :]])
        size, first = sizes[len(sizes) // 2][0], next(slices)
        count = sum(size <= other * SLICES_DIFFER for other, _ in sizes)
        shape = triple((count, first.Rows, first.Columns))
        spacing = triple_mm((_slice_distance_mm(first, next(slices, first)), *first.PixelSpacing))
        voxel_bytes = int(first.BitsAllocated) // 8
    except Exception:  # pydicom may raise any at a damaged file; reading it will say why
        return None
    is_sound = min(shape) > 0 and all(0 < mm < ABSURD_MM for mm in spacing)
    # SimpleITK makes HU of them, which are int16 whatever the slices hold, but for rare scanners
    return Header(Grid(shape, spacing), voxel_bytes, voxel_bytes == 2) if is_sound else None


def _slices(files: Sequence[Path]) -> Iterator[Any]:
    """The headers of slices among the first of these files."""
    for file in islice(files, TRIED):
        if is_dicom(file):
            header = read_header(file, [], SERIES_TAGS)  # which inflates a few MB at most
            if header.get("Rows"):
                yield header


def _slice_distance_mm(first: Any, second: Any) -> float:
    """How far apart the slices of a series are, by two of them, which need not be neighbours."""
    try:
        apart = math.dist(first.ImagePositionPatient, second.ImagePositionPatient)
        return apart / abs(int(second.InstanceNumber) - int(first.InstanceNumber))
    except (AttributeError, TypeError, ValueError, ZeroDivisionError):
        return float(first.get("SliceThickness") or THICK_MM)


def _bytes(path: Path) -> int:
    try:
        files = files_below(path) if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files)
    except (OSError, SourceError):
        return 0
