"""The text at the start of MetaImage and NRRD files, and the files it takes the voxels from.

Their readers end the process at lines they do not expect, be it some that nobody needs: here such
lines are passed over, and the others have to be sound before a reader sees them.
"""

import os
import re
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.reading.header_text import TextHeader
from stages.preprocess.reading.magic import GZIP_MAGIC, is_nifti
from stages.preprocess.reading.metaimage import DATA_LINE, metaimage_header
from stages.preprocess.reading.nrrd import nrrd_header
from stages.preprocess.reading.regular import require_regular
from stages.preprocess.rules.ct import EXPORT_AGAIN

START_BYTES = 4096
LONG_HEADER = 1 << 20  # bytes, far more than any MetaImage header has
NIFTI = (".nii", ".nii.gz")
NRRD_END = re.compile(rb"\n\r?\n|\r\r")
DATA_KEY = re.compile(
    rb"^[ \t]*(?:elementdatafile|data ?file)\s*[=:]\s*([^\n]*)", re.IGNORECASE | re.MULTILINE
)


def text_header(path: Path) -> TextHeader | None:
    """The header of a MetaImage or NRRD file; None for any other file.

    Raises:
        SourceError: it is not a regular file; it lacks what a reader needs, or states something
            that cannot be.
    """
    text = _start(path)
    if not text:
        return None
    try:
        return nrrd_header(text) if text.startswith(b"NRRD") else metaimage_header(text)
    except ValueError as error:
        raise SourceError(path, f"has a damaged header: {error}", EXPORT_AGAIN) from error


def is_metaimage(path: Path, start: bytes) -> bool:
    """Whether a file is MetaImage, by its first bytes, or by its ending if it is nothing else."""
    if start.startswith((GZIP_MAGIC, b"NRRD")) or is_nifti(start):
        return False
    # the reader goes by the ending, and finds the words behind any number of comments
    is_called_so = path.name.lower().endswith((".mha", ".mhd"))
    return is_called_so or b"NDims" in start or start.startswith(b"ObjectType")


def data_files(path: Path) -> list[Path]:
    """The files with the voxels, beside a header that names them; empty for all other files.

    Raises:
        SourceError: the header is not a regular file.
    """
    return sorted({data for data in declared_data_files(path) if is_file(data)})


def declared_data_files(path: Path) -> list[Path]:
    """The data files a detached header declares, or their pattern, whether they are there or not.

    Empty for all other files. A file with the ending of NIfTI is not opened: it is the usual one,
    and ``require_known_data`` refuses a detached header under it.

    Raises:
        SourceError: the header is not a regular file.
    """
    if path.name.lower().endswith(NIFTI):
        return []
    return [path.parent / name for name in _data_names(path)]


def data_below(path: Path) -> dict[str, Path]:
    """The data files of a header by their names below its folder; it finds others by itself.

    Raises:
        SourceError: one is named as above the folder.
    """
    below = [data for data in data_files(path) if data.is_relative_to(path.parent)]
    named = {str(data.relative_to(path.parent)): data for data in below}
    for name in named:
        if ".." in Path(name).parts:
            fact = f"names the data file {name!r} above its folder, and is read under another name"
            fix = "give it the ending of its format and an ASCII path, or put the data beside it"
            raise SourceError(path, fact, fix)
    return named


def require_known_data(path: Path) -> None:
    """Refuse a header whose data ``data_files`` does not know: the case's key would lack them.

    Raises:
        SourceError: names the data file that is not there, or the pattern.
    """
    text = _start(path)
    if len(text) >= LONG_HEADER and not text.startswith(b"NRRD") and not DATA_KEY.search(text):
        raise SourceError(path, f"has no ElementDataFile in {len(text):,} bytes", "export it again")
    names = _data_names(path)
    if names and path.name.lower().endswith(NIFTI):
        fact, fix = "is a header that names its data file, under the ending of NIfTI", "rename it"
        raise SourceError(path, fact, fix, rule="data_inside")
    for name in names:
        if "%" in name:
            fact = f"names its data files by the pattern {name!r}"
            raise SourceError(path, fact, "write the volume as one file", rule="data_inside")
        if not is_file(path.parent / name):
            fact = f"names the data file {name!r}, which is not there"
            raise SourceError(path, fact, "put the data file where the header has it")


def is_file(path: Path) -> bool:
    """Whether a regular file is there; a line of a header may be no file's name at all."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _data_names(path: Path) -> list[str]:
    """What a header's text names as its data: files, or a pattern for their names.

    Source: MetaIO's documentation (``ElementDataFile``) and the definition of NRRD
    (``data file``); either may say LIST, and one name a line follows.
    """
    text = _start(path)
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


def _start(path: Path) -> bytes:
    """The start of a MetaImage or NRRD file with its whole header; empty for all others.

    Every carriage return in it is a line feed.
    """
    require_regular(path)
    with path.open("rb") as file:
        text = file.read(START_BYTES)
        if text.startswith(b"NRRD"):
            # the names of many structures make it as long as they like
            while not NRRD_END.search(text) and (more := file.read(len(text))):
                text += more
            end = NRRD_END.search(text)
            text = text[: end.end()] if end else text
        elif is_metaimage(path, text):
            while not _has_data_line(text) and len(text) < LONG_HEADER:
                if not (more := file.read(len(text))):
                    break
                text += more
        else:
            return b""
    return text.replace(b"\r", b"\n")


def _has_data_line(text: bytes) -> bool:
    """Whether the line that ends a MetaImage header is there, and whole."""
    found = DATA_LINE.search(text)
    return found is not None and found.end() < len(text)
