"""What a file states itself: SimpleITK mends odd values without a word.

Source: nifti1.h of the NIfTI data format working group; MetaIO's documentation; the
definition of NRRD, in which only ``spacings`` can be odd: of ``space directions`` it reads all.
"""

import gzip
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SourceError
from cache.grid import TripleMm, triple_mm
from stages.preprocess.reading.sniff import GZIP_MAGIC, START_BYTES, inflated
from stages.preprocess.rules.ct import EXPORT_AGAIN

HEADER_BYTES, HEADER_BYTES_2 = 348, 540  # of NIfTI-1 and NIfTI-2, the first number in either
# where NIfTI-1 keeps what: a format of struct, and a byte's number
SPACING, SFORM_CODE, SFORM = ("3f", 80), ("h", 254), ("12f", 280)
MAGIC, SINGLE_FILE = ("4s", 344), b"n+1\0"
DATA_TYPE, VOXELS_AT = ("h", 70), ("f", 108)
METAIMAGE_SPACING = re.compile(rb"^(?:ElementSpacing|ElementSize)\s*=\s*(.+)$", re.MULTILINE)
NRRD_SPACING = re.compile(rb"^spacings:\s*(\S+\s+\S+\s+\S+)\s*$", re.MULTILINE)
SINGLE_FILE_BYTES = 352  # its header and the four bytes that announce extensions
LAST_EXACT = 1 << 24  # a float has no odd whole numbers beyond, and no header is so long
NIFTI_FLOATS = {16: "f4", 64: "f8"}  # by its codes of data types
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Stated:
    """The geometry a header states.

    Attributes:
        spacing_xyz_mm: as it stands there, be it zero, negative or no number.
        sform_lps: the ``sform`` of NIfTI as a 3x4 matrix from voxels (x, y, z) to LPS mm; None
            if it has none.
    """

    spacing_xyz_mm: TripleMm
    sform_lps: NDArray[np.float64] | None


def stated_geometry(path: Path) -> Stated | None:
    """The geometry in the header of a NIfTI, MetaImage or NRRD file; None for any other file.

    Raises:
        SourceError: it is NIfTI-2.
    """
    head = _head(path)
    text = METAIMAGE_SPACING.search(head) if b"NDims" in head else None
    if head.startswith(b"NRRD"):
        text = NRRD_SPACING.search(head)
    if text:
        try:
            return Stated(triple_mm(text[1].split()[:3]), None)
        except ValueError:
            return None  # not three numbers: reading the file will say what is wrong with it
    if _order(head, HEADER_BYTES_2):
        fact = "is a NIfTI-2 file, which SimpleITK cannot read"
        raise SourceError(path, fact, "convert it to NIfTI-1 or NRRD")
    order = _order(head)
    if order is None:
        return None
    (code,) = _unpack(head, order, SFORM_CODE)
    rows = np.reshape(_unpack(head, order, SFORM), (3, 4))
    sform = RAS_TO_LPS @ rows if code > 0 else None
    return Stated(triple_mm(_unpack(head, order, SPACING)), sform)


def require_voxels_behind_header(path: Path) -> None:
    """Refuse a NIfTI file that states an impossible place for its voxels.

    SimpleITK takes a few bytes of the header for voxels then, without a word.

    Raises:
        SourceError: states where they should begin.
    """
    head = _head(path)
    order = _order(head)
    if order is None:
        return
    (start,), (magic,) = _unpack(head, order, VOXELS_AT), _unpack(head, order, MAGIC)
    first = SINGLE_FILE_BYTES if magic == SINGLE_FILE else 0
    if not (first <= start <= LAST_EXACT and start == int(start)):
        fact = f"states that its voxels begin at byte {start:g} (vox_offset), not {first} or later"
        raise SourceError(path, fact, EXPORT_AGAIN)


def with_lost_numbers(path: Path, voxels: NDArray[Any]) -> NDArray[Any]:
    """The voxels of a NIfTI file with NaN and infinity, for which its reader puts 0.

    Args:
        path: the file, which is whole.
        voxels: (Z, Y, X) as read.

    Returns:
        A copy, or the very array if nothing was lost or the file is of another format.
    """
    if voxels.dtype.kind != "f":
        return voxels
    stored = _stored_floats(path, voxels.size)
    lost = np.flatnonzero(~np.isfinite(stored))
    if not lost.size:
        return voxels
    restored = np.array(voxels, order="C")
    restored.ravel()[lost] = stored[lost]
    return restored


def _stored_floats(path: Path, count: int) -> NDArray[Any]:
    """The first voxels of a NIfTI file as they are stored; none if they are no floats."""
    head = _head(path)
    order = _order(head)
    if order is None:
        return np.empty(0)
    (code,), (start,) = _unpack(head, order, DATA_TYPE), _unpack(head, order, VOXELS_AT)
    if code not in NIFTI_FLOATS:
        return np.empty(0)
    dtype = np.dtype(order + NIFTI_FLOATS[code])
    return np.frombuffer(_content(path, int(start), count * dtype.itemsize), dtype)


def _content(path: Path, start: int, count: int) -> bytes:
    """Bytes of a file, or of what it holds if it is gzip."""
    with path.open("rb") as file:
        is_packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    with gzip.open(path) if is_packed else path.open("rb") as content:
        content.seek(start)
        return content.read(count)


def _order(head: bytes, size: int = HEADER_BYTES) -> str | None:
    """The order of bytes of a NIfTI header of this size; None for any other file."""
    if len(head) < size:
        return None
    orders = (order for order in "<>" if struct.unpack_from(f"{order}i", head)[0] == size)
    return next(orders, None)


def _unpack(head: bytes, order: str, place: tuple[str, int]) -> tuple[Any, ...]:
    return struct.unpack_from(order + place[0], head, place[1])


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(START_BYTES)
    except OSError:
        return b""  # reading the file itself will say what is wrong with it
    return inflated(head, HEADER_BYTES_2) if head.startswith(GZIP_MAGIC) else head
