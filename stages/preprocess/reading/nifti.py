"""What a NIfTI-1 file states itself. Source: nifti1.h of the NIfTI data format working group."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SourceError
from stages.preprocess.reading.magic import GZIP_MAGIC, inflated, is_nifti
from stages.preprocess.reading.regular import start_of
from stages.preprocess.rules.ct import EXPORT_AGAIN

START_BYTES = 4096  # of a file, in which the whole header of a compressed one is
HEADER_BYTES, HEADER_BYTES_2 = 348, 540  # of NIfTI-1 and NIfTI-2, the first number in either
# where NIfTI-1 keeps what: a format of struct, and a byte's number
DIMENSIONS = ("8h", 40)
SIZE, SPACING, QFORM_CODE, SFORM_CODE = ("i", 0), ("3f", 80), ("h", 252), ("h", 254)
QFORM = ("6f", 256)  # a rotation and the origin
SFORM, UNITS, MAGIC = ("12f", 280), ("B", 123), ("4s", 344)
DATA_TYPE, VOXELS_AT = ("h", 70), ("f", 108)
SINGLE_FILE = b"n+1\0"
SINGLE_FILE_BYTES = 352  # its header and the four bytes that announce extensions
LAST_EXACT = 1 << 24  # a float has no odd whole numbers beyond, and no header is so long
LENGTH_UNITS = {1: "m", 3: "um"}  # the lower three bits of its units; 2 is mm, 0 unknown
FLOATS = {16: "f4", 64: "f8"}  # by its codes of data types
# bytes of a voxel by the same codes; the header has them once more, and its readers ignore that
VOXEL_BYTES = {2: 1, 4: 2, 8: 4, 16: 4, 32: 8, 64: 8, 128: 3, 256: 1, 512: 2, 768: 4}
VOXEL_BYTES |= {1024: 8, 1280: 8, 1536: 16, 1792: 16, 2048: 32, 2304: 4}


@dataclass(frozen=True)
class NiftiHeader:
    """A NIfTI-1 header.

    Attributes:
        spacing_xyz: as it stands there, be it zero, negative or no number; in its own unit.
        sform_ras: rows of a 3x4 matrix from voxels (x, y, z) to RAS, in its own unit; None if it
            has none.
        has_qform: whether it has a rotation and an origin besides.
        unit: of its lengths, "m" or "um"; empty for mm, and where it states none.
        order: of its bytes, "<" or ">".
        data_type: its code.
        voxels_at: the byte where its voxels begin.
    """

    spacing_xyz: tuple[float, float, float]
    sform_ras: NDArray[np.float64] | None
    has_qform: bool
    unit: str
    order: str
    data_type: int
    voxels_at: int


def nifti_header(path: Path) -> NiftiHeader | None:
    """The header of a NIfTI-1 file, compressed or not; None for any other file.

    Raises:
        SourceError: it is NIfTI-2, its header is damaged, or states an impossible place for its
            voxels: SimpleITK would take a few bytes of the header for voxels.
    """
    head = start_of(path, START_BYTES)
    head = inflated(head, HEADER_BYTES_2) if head.startswith(GZIP_MAGIC) else head
    if _order(head, HEADER_BYTES_2):
        fact = "is a NIfTI-2 file, which SimpleITK cannot read"
        raise SourceError(path, fact, "convert it to NIfTI-1 or NRRD")
    order = _order(head, HEADER_BYTES)
    if order is None or not is_nifti(head):
        _require_other(path, head, order)
        return None
    _require_dimensions(path, head, order)
    ((code,), (qform,)) = _unpack(head, order, SFORM_CODE), _unpack(head, order, QFORM_CODE)
    if qform > 0 and not np.isfinite(_unpack(head, order, QFORM)).all():
        fact = "has a rotation or an origin (qform) that is not a number, for which readers put 0"
        raise SourceError(path, fact, EXPORT_AGAIN)
    rows = np.reshape(_unpack(head, order, SFORM), (3, 4)).astype(np.float64)
    x, y, z = _unpack(head, order, SPACING)
    return NiftiHeader(
        spacing_xyz=(x, y, z),
        sform_ras=rows if code > 0 else None,
        has_qform=qform > 0,
        unit=LENGTH_UNITS.get(head[UNITS[1]] & 7, ""),
        order=order,
        data_type=_unpack(head, order, DATA_TYPE)[0],
        voxels_at=_voxels_at(path, head, order),
    )


def with_lost_numbers(path: Path, voxels: NDArray[Any]) -> NDArray[Any]:
    """The voxels of a NIfTI file with NaN and infinity, for which its reader puts 0.

    Args:
        path: the file, which is whole.
        voxels: (Z, Y, X) as read.

    Returns:
        A copy, or the very array if nothing was lost or the file is of another format.
    """
    header = nifti_header(path) if voxels.dtype.kind == "f" else None
    if header is None or header.data_type not in FLOATS:
        return voxels
    dtype = np.dtype(header.order + FLOATS[header.data_type])
    stored = np.frombuffer(_content(path, header.voxels_at, voxels.size * dtype.itemsize), dtype)
    lost = np.flatnonzero(~np.isfinite(stored))
    if not lost.size:
        return voxels
    restored = np.array(voxels, order="C")
    restored.ravel()[lost] = stored[lost]
    return restored


def _require_other(path: Path, head: bytes, order: str | None) -> None:
    """Refuse a damaged header of NIfTI, and its forerunner ANALYZE, which knows no place.

    Readers take one for the other, with the origin at zero.
    """
    if order is not None:
        fact = "has no magic word: it is ANALYZE, which knows no place in space, or damaged NIfTI"
        raise SourceError(path, fact, "convert the original scan to NIfTI or NRRD")
    if is_nifti(head):
        (size,) = _unpack(head, "<", SIZE)
        fact = f"has a damaged header: its length is given as {size}, not {HEADER_BYTES}"
        raise SourceError(path, fact, EXPORT_AGAIN)


def _require_dimensions(path: Path, head: bytes, order: str) -> None:
    """Readers take a side of 0 for 1, and would read a part."""
    count, *sides = _unpack(head, order, DIMENSIONS)
    if not 1 <= count <= len(sides) or min(sides[:count]) < 1:
        fact = f"has a damaged header: its dimensions are {count}: {'·'.join(map(str, sides))}"
        raise SourceError(path, fact, EXPORT_AGAIN)


def _voxels_at(path: Path, head: bytes, order: str) -> int:
    (start,), (magic,) = _unpack(head, order, VOXELS_AT), _unpack(head, order, MAGIC)
    first = SINGLE_FILE_BYTES if magic == SINGLE_FILE else 0
    if not (first <= start <= LAST_EXACT and start == int(start)):
        fact = f"states that its voxels begin at byte {start:g} (vox_offset), not {first} or later"
        raise SourceError(path, fact, EXPORT_AGAIN)
    return int(start)


def _content(path: Path, start: int, count: int) -> bytes:
    """Bytes of a file, or of what it holds if it is gzip."""
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with gzip.open(path) if is_packed else path.open("rb") as content:
        content.seek(start)
        return content.read(count)


def _order(head: bytes, size: int) -> str | None:
    """The order of bytes of a NIfTI header of this size; None for any other file."""
    if len(head) < size:
        return None
    orders = (order for order in "<>" if struct.unpack_from(f"{order}i", head)[0] == size)
    return next(orders, None)


def _unpack(head: bytes, order: str, place: tuple[str, int]) -> tuple[Any, ...]:
    return struct.unpack_from(order + place[0], head, place[1])
