"""What a file is by its content: names lie, and SimpleITK goes by names."""

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.reading.links import linked

# the longer ending first, where one ends like another
EXTENSIONS = (".nii.gz", ".nii", ".mha", ".mhd", ".seg.nrrd", ".nrrd", ".nhdr")
HEADER_BYTES = 352  # a NIfTI-1 header; it has its magic word at 344
START_BYTES = 4096  # of a file, in which the whole header of a compressed one is
GZIP_MAGIC = b"\x1f\x8b"
LFS_POINTER = b"version https://git-lfs"
NIFTI = (".nii", ".nii.gz")
LONG_HEADER = 1 << 16  # bytes, far more than any MetaImage header has
NRRD_END = re.compile(rb"\n\r?\n|\r\r")
DATA_KEY = re.compile(
    rb"^[ \t]*(?:elementdatafile|data ?file)\s*[=:]\s*([^\n]*)", re.IGNORECASE | re.MULTILINE
)


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


def data_files(path: Path) -> list[Path]:
    """The files with the voxels, beside a header that names them; empty for all other files."""
    return sorted({data for data in declared_data_files(path) if _is_file(data)})


def declared_data_files(path: Path) -> list[Path]:
    """The data files a detached header declares, or their pattern, whether they are there or not.

    Empty for all other files. A file with the ending of NIfTI is not opened: it is the usual one,
    and ``readable`` refuses a detached header under it.
    """
    if path.name.lower().endswith(NIFTI):
        return []
    return [path.parent / name for name in _data_names(path)]


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """The path under which SimpleITK can open a file: its own, or a temporary link's.

    A link is made where the extension is missing or wrong, and where SimpleITK cannot open the
    path: on Windows one that is not ASCII, elsewhere one that is no text.

    Raises:
        SourceError: it is a git-LFS pointer, or it names its data in a way that hides what is read.
    """
    extension = extension_by_content(path)
    _require_known_data(path)
    fits = extension is None or path.name.lower().endswith(extension)
    if fits and _can_be_opened(path):
        yield path
        return
    name = f"volume{extension or path.suffix}"
    with linked({**_links_beside(path), name: path}) as folder:
        yield folder / name


@contextmanager
def readable_series(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths under which SimpleITK can open the files of a series, in the same order."""
    if all(map(_can_be_opened, files)):
        yield list(files)
        return
    links = {f"{number:06}.dcm": path for number, path in enumerate(files)}
    with linked(links) as folder:
        yield [folder / name for name in links]


def _can_be_opened(path: Path) -> bool:
    """Whether SimpleITK takes this path; at a name that is no UTF-8 it ends the process."""
    if os.name == "nt":
        return str(path).isascii()
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding, kept as surrogates
        return False
    return True


def _links_beside(path: Path) -> dict[str, Path]:
    """The data files of a header by their names below its folder; it finds others by itself."""
    below = [data for data in data_files(path) if data.is_relative_to(path.parent)]
    links = {str(data.relative_to(path.parent)): data for data in below}
    for name in links:
        if ".." in Path(name).parts:
            fact = f"names the data file {name!r} above its folder, and is read under another name"
            fix = "give it the ending of its format and an ASCII path, or put the data beside it"
            raise SourceError(path, fact, fix)
    return links


def _require_known_data(path: Path) -> None:
    """Refuse a header whose data ``data_files`` does not know: the case's key would lack them."""
    text = _header_text(path)
    if len(text) > LONG_HEADER and not text.startswith(b"NRRD") and not DATA_KEY.search(text):
        raise SourceError(path, f"has no ElementDataFile in {len(text):,} bytes", "export it again")
    names = _data_names(path)
    if names and path.name.lower().endswith(NIFTI):
        fact, fix = "is a header that names its data file, under the ending of NIfTI", "rename it"
        raise SourceError(path, fact, fix, rule="data_inside")
    for name in names:
        if "%" in name:
            fact = f"names its data files by the pattern {name!r}"
            raise SourceError(path, fact, "write the volume as one file", rule="data_inside")
        if not _is_file(path.parent / name):
            fact = f"names the data file {name!r}, which is not there"
            raise SourceError(path, fact, "put the data file where the header has it")


def _data_names(path: Path) -> list[str]:
    """What a header's text names as its data: files, or a pattern for their names.

    Source: MetaIO's documentation (``ElementDataFile``) and the definition of NRRD
    (``data file``); either may say LIST, and one name a line follows.
    """
    text = _header_text(path)
    names = []
    for found in DATA_KEY.finditer(text):
        name = found[1].strip()
        if name.upper().startswith(b"LIST"):
            rest = path.read_bytes().replace(b"\r", b"\n")[found.end() :]
            names += rest.splitlines()
            break
        if name.upper() != b"LOCAL":
            names.append(name)
    return [os.fsdecode(name.strip()) for name in names if name.strip()]


def _header_text(path: Path) -> bytes:
    """The start of a MetaImage or NRRD file with its whole header; empty for all others.

    Every carriage return in it is a line feed.
    """
    with path.open("rb") as file:
        text = file.read(START_BYTES)
        if text.startswith(b"NRRD"):
            # the names of many structures make it as long as they like
            while not NRRD_END.search(text) and (more := file.read(len(text))):
                text += more
            end = NRRD_END.search(text)
            text = text[: end.start()] if end else text
        elif _is_metaimage(path, text):
            text += file.read(LONG_HEADER)
        else:
            return b""
    return text.replace(b"\r", b"\n")


def _is_metaimage(path: Path, head: bytes) -> bool:
    # the reader goes by the ending, and finds the words behind any number of comments
    is_called_so = path.name.lower().endswith((".mha", ".mhd"))
    return is_called_so or b"NDims" in head or head.startswith(b"ObjectType")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a line of a header that cannot be a file's name
        return False


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:12] == b"n+2\0\r\n\x1a\n"


def inflated(start: bytes, count: int) -> bytes:
    """The first bytes of what a gzip stream holds; empty if it is none or is damaged.

    The gzip module would inflate a whole buffer for them, which takes 5 ms a time.

    Args:
        start: the first bytes of the stream; a few more than are wanted, for they may hardly be
            compressed.
        count: bytes wanted.
    """
    try:
        return zlib.decompressobj(wbits=31).decompress(start, count)
    except zlib.error:
        return b""
