"""What a file is by its content: names lie, and SimpleITK goes by names."""

import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cache.errors import SourceError

# the longer ending first, where one ends like another
EXTENSIONS = (".nii.gz", ".nii", ".mha", ".mhd", ".seg.nrrd", ".nrrd", ".nhdr")
HEADER_BYTES = 352  # a NIfTI-1 header; it has its magic word at 344
START_BYTES = 4096  # of a file, in which the whole header of a compressed one is
DICOM_BYTES = 132  # 128 that mean nothing, then the magic word
GZIP_MAGIC = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs"
DETACHED = (".mhd", ".nhdr")  # headers that name the file with the voxels


def extension_by_content(path: Path) -> str | None:
    """The extension a file should have, or None if it is no volume we know.

    Raises:
        SourceError: it is a git-LFS pointer instead of the data.
    """
    if path.is_dir():
        fix = "name one file; turn a DICOM series into a NIfTI file first"
        raise SourceError(path, "is a folder, not a volume", fix)
    try:
        with path.open("rb") as file:
            head = file.read(START_BYTES)
    except OSError as error:
        raise SourceError(path, f"cannot be opened ({error})", "check that it is there") from error
    if head.startswith(LFS_POINTER):
        fix = "fetch the data itself with: git lfs pull"
        raise SourceError(path, "is a git-LFS pointer, not the data", fix, rule="lfs_pointer")
    if head.startswith(GZIP_MAGIC):
        return ".nii.gz" if _is_nifti(inflated(head, HEADER_BYTES)) else None
    if _is_nifti(head):
        return ".nii"
    if head.startswith(b"NRRD"):
        return ".nhdr" if path.suffix.lower() == ".nhdr" else ".nrrd"
    if b"NDims" in head or head.startswith(b"ObjectType"):
        return ".mhd" if path.suffix.lower() == ".mhd" else ".mha"
    return None


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by the word that stands behind its preamble."""
    try:
        with path.open("rb") as file:
            return file.read(DICOM_BYTES)[128:] == b"DICM"
    except OSError:
        return False


def data_files(path: Path) -> list[Path]:
    """The files with the voxels, beside a header that names them; empty for all other files."""
    if not path.name.lower().endswith(DETACHED):
        return []
    # "ElementDataFile = 1.raw", "data file: 1.raw", or a list with one name a line
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    names = {line.partition(mark)[2].strip() for line in lines for mark in "=:"}
    names |= {line.strip() for line in lines}
    return sorted(path.parent / name for name in names if name and _is_file(path.parent / name))


def declared_data_files(path: Path) -> list[Path]:
    """The data files a detached header declares, or their pattern, whether they are there or not.

    Empty for all other files.
    """
    if not path.name.lower().endswith(DETACHED):
        return []
    lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    # "ElementDataFile = ../slice%03d.raw 1 9 1", "data file: 1.raw"
    pairs = [re.split("[=:]", line, maxsplit=1) for line in lines]
    names = [pair[1].strip() for pair in pairs if len(pair) == 2 and _is_data_key(pair[0])]
    return [path.parent / name for name in names]


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """The path under which SimpleITK can open a file: its own, or a temporary link's.

    A link is made where the extension is missing or wrong, and on Windows where the path is not
    ASCII, which SimpleITK cannot open there.
    """
    extension = extension_by_content(path)
    fits = extension is None or path.name.lower().endswith(extension)
    if fits and (os.name != "nt" or str(path).isascii()):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="liver3d-") as folder:
        link = Path(folder) / f"volume{extension or path.suffix}"
        _link(path.resolve(), link)
        for beside in data_files(path):
            _link(beside.resolve(), Path(folder) / beside.name)
        yield link


@contextmanager
def readable_series(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths under which SimpleITK can open the files of a series, in the same order."""
    if os.name != "nt" or all(str(path).isascii() for path in files):
        yield list(files)
        return
    with tempfile.TemporaryDirectory(prefix="liver3d-") as folder:
        links = [Path(folder) / f"{number:06}.dcm" for number in range(len(files))]
        for path, link in zip(files, links, strict=True):
            _link(path.resolve(), link)
        yield links


def _link(target: Path, link: Path) -> None:
    """Link, or copy where the file system or Windows forbids links."""
    for attempt in (os.symlink, os.link, shutil.copyfile):
        try:
            attempt(target, link)
        except OSError:
            if attempt is shutil.copyfile:
                raise
        else:
            return


def _is_data_key(text: str) -> bool:
    return text.strip().lower().replace(" ", "") in ("elementdatafile", "datafile")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a line of a header that cannot be a file's name
        return False


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:12] == b"n+2\0\r\n\x1a\n"


def inflated(start: bytes, count: int) -> bytes:
    """The first bytes of what a gzip stream holds; empty if it is none or is damaged.

    The gzip module would inflate a whole buffer for them, which takes a hundred times as long.

    Args:
        start: the first bytes of the stream; a few more than are wanted, for they may hardly be
            compressed.
        count: bytes wanted.
    """
    try:
        return zlib.decompressobj(wbits=31).decompress(start, count)
    except zlib.error:
        return b""
