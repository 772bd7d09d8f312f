"""What a case will need, judged by its files' headers: memory, disk and time."""

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from cache.grid import Grid, triple, triple_mm
from stages.preprocess.files import CaseFiles
from stages.preprocess.params import PreprocessParams
from stages.preprocess.prepare import target_grid
from stages.preprocess.reading.sniff import readable

# a worker's peak beside the CT as read: benchmarks/preprocess.py measured 8.0 bytes per voxel of an
# int16 CT at its native grid, 7.7 at 1.5 mm, over 200 MB of a worker that does nothing
BYTES_BESIDES = 250_000_000
BYTES_PER_SOURCE_VOXEL = 5.5
BYTES_PER_STORED_VOXEL = 1.0
STORED_SHARE = 0.55  # of int16 and uint8, after blosc-lz4; noise compresses badly
SECONDS_PER_VOXEL = 1e-8  # of one processor, read and stored ones alike
ABSURD_MM = 1e4  # a spacing from which nothing can be judged, not even the memory
UNKNOWN_INFLATION = 4  # voxels' bytes per byte of a file whose header says nothing


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
    """What a case will need, from its header; a crop may make it less."""
    header = _header(files.ct)
    if header is None:
        voxels = stored = _bytes(files.ct) * UNKNOWN_INFLATION // 2
        voxel_bytes = 2
    else:
        grid, voxel_bytes = header
        voxels = math.prod(grid.shape_zyx)
        # the source's axes stand for the store's: before turning it, the estimate is no worse
        stored = math.prod(target_grid(grid, params).shape_zyx)
    memory = (
        BYTES_BESIDES
        + voxels * (voxel_bytes + BYTES_PER_SOURCE_VOXEL)
        + stored * BYTES_PER_STORED_VOXEL
    )
    disk = stored * np.dtype(np.int16).itemsize * STORED_SHARE
    return Need(int(memory), int(disk), (voxels + stored) * SECONDS_PER_VOXEL)


def announced(needs: Sequence[Need], out: Path, *, workers: int, kept: int) -> str:
    """What is about to be done, in one line; it warns where the disk will not do."""
    disk = sum(need.disk_bytes for need in needs)
    free = shutil.disk_usage(out if out.exists() else out.parent).free
    seconds = sum(need.seconds for need in needs) / min(workers, len(needs))
    line = (
        f"{len(needs)} cases to read, {kept} unchanged; if all are new, about {disk / 1e9:.1f} GB "
        f"({free / 1e9:.0f} GB are free), about {_duration(seconds)}"
    )
    return f"{line}; the disk may fill up" if disk > free else line


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _header(path: Path) -> tuple[Grid, int] | None:
    """A volume's grid and the bytes of one voxel, without its voxels; None if it cannot be read."""
    if path.is_dir():
        return None
    try:
        with readable(path) as openable:
            reader = sitk.ImageFileReader()
            reader.SetFileName(str(openable))
            reader.ReadImageInformation()
            if reader.GetDimension() != 3:
                return None
            grid = Grid(triple(reader.GetSize()[::-1]), triple_mm(reader.GetSpacing()[::-1]))
            kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    except (RuntimeError, SourceError, OSError):
        return None  # reading it in earnest will say why
    if not all(0 < spacing < ABSURD_MM for spacing in grid.spacing_zyx_mm):
        return None
    bits = next((int(word.removesuffix("-bit")) for word in kind.split() if "-bit" in word), 32)
    return grid, bits // 8


def _bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    try:
        return sum(file.stat().st_size for file in files)
    except OSError:
        return 0
