"""Writing voxels as an image file: the one place that does, whole or not at all."""

import errno
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.errors import DataError
from cache.files import replacing
from cache.grid import Grid
from cache.paths import is_plain, plain_folder

# One file with all of the geometry. Others lose it (png, tif), need a second file beside (mhd,
# hdr), which replacing() would leave under its temporary name, or crash the process (dcm).
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha")
NIFTI_HEADER = 352  # bytes before the voxels
HEADER_ENDS = {".nrrd": b"\n", ".mha": b"ElementDataFile = LOCAL\n"}  # the last line
READ_BYTES = 1 << 20  # at once
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS  # for zlib to find out
PART = "only a part of it was written; is the disk full?"
NOTE = "ITK_FileNotes"  # ITK's word for what is the field descrip in NIfTI
PHANTOM = "synthetic CT of liver3d"  # the note in the files of a phantom, CT and label alike
USUAL_LEVEL = -1  # of compression, as the writer of the format has it


def require_ending(path: Path) -> None:
    """Refuse a name whose ending is not a format for masks, before any work is done.

    Raises:
        DataError: names the endings there are.
    """
    if not has_ending(path):
        fix = "give an --out that ends in .nii.gz"
        raise DataError(path, f"has none of the endings {', '.join(ENDINGS)}", fix)


def has_ending(path: Path) -> bool:
    """Whether a name's ending is a format for masks."""
    return path.name.endswith(ENDINGS)


def ending_of(path: Path) -> str:
    """The ending of a path that has one of ``ENDINGS``; for the others StopIteration."""
    return next(each for each in ENDINGS if path.name.endswith(each))


def write_image(
    path: Path, voxels: NDArray[Any], grid: Grid, *, level: int = USUAL_LEVEL, note: str = ""
) -> None:
    """Write an array on its grid, compressed; the file's ending chooses the format.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        voxels: (Z, Y, X), of a type that the format has.
        grid: where they are.
        level: of compression, 1 (fast) to 9.
        note: what the header says the file is (``descrip`` in NIfTI), up to 79 characters.

    Raises:
        DataError: no format has this ending, or it cannot be written there, as on a full disk.
    """
    require_ending(path)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetDirection(grid.direction)
    if note:
        image.SetMetaData(NOTE, note)
    try:
        with replacing(path) as partial, _plain(partial) as plain:
            sitk.WriteImage(image, str(plain), useCompression=True, compressionLevel=level)
            _require_whole(plain, voxels.nbytes)
            shutil.move(plain, partial)
    except (RuntimeError, OSError, EOFError, zlib.error) as error:
        raise unwritable(path, error) from error


@contextmanager
def _plain(partial: Path) -> Iterator[Path]:
    """A path to write to that SimpleITK takes: beside the file, if the folder's own is one.

    It ends the process at a name that is not UTF-8, and on Windows takes ASCII alone.
    """
    name = "image" + ending_of(partial)
    if is_plain(partial.parent):
        yield partial.with_name(name)
        return
    with plain_folder(partial) as folder:
        yield folder / name


def unwritable(path: Path, error: Exception) -> DataError:
    """What to say of a file that a library or the disk refused to write."""
    said = error.strerror if isinstance(error, OSError) else None
    reason = said or str(error).strip().splitlines()[-1]
    fix = "free some space, or give an --out in a folder that can be written"
    return DataError(path, f"cannot be written: {reason}", fix)


def _require_whole(path: Path, voxel_bytes: int) -> None:
    """Make sure that a file holds its voxels: on a full disk, not every writer says so.

    That of NIfTI never does, and that of NRRD does not if the disk fills up with its last bytes.

    Raises:
        OSError, EOFError, zlib.error: it does not.
    """
    with path.open("rb") as file:
        if path.suffix in HEADER_ENDS:
            while file.readline() not in {HEADER_ENDS[path.suffix], b""}:
                pass
        header = NIFTI_HEADER if path.name.endswith((".nii", ".nii.gz")) else 0
        found = sum(map(len, _blocks(file) if path.suffix == ".nii" else _unpacked(file)))
    if found < header + voxel_bytes:
        raise OSError(errno.ENOSPC, PART)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    return iter(lambda: file.read(READ_BYTES), b"")


def _unpacked(file: BinaryIO) -> Iterator[bytes]:
    """What a compressed stream holds, block by block; EOFError where it is cut short."""
    stream = zlib.decompressobj(GZIP_OR_ZLIB)
    for block in _blocks(file):
        yield stream.decompress(block)
    if not stream.eof:
        raise EOFError(PART)
