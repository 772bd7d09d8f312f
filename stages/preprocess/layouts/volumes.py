"""Which files are meant as volumes, and which folders as a DICOM series."""

from collections.abc import Iterable
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.reading.dicom_file import read_header
from stages.preprocess.reading.dicom_kind import (
    TABLE_OF_CONTENTS,
    class_of,
    holds_several,
    is_image,
)
from stages.preprocess.reading.dicom_start import is_dicom
from stages.preprocess.reading.sniff import EXTENSIONS, extension_by_content

DICOM_ENDINGS = ("", ".dcm", ".dicom", ".ima")
TRIED = 4  # files a folder; a viewer or a note may lie beside the slices, but not before them all


def stem(name: str) -> str:
    """A file's or folder's name without the extension of a volume, if it has one."""
    for extension in EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)]
    return name


def has_extension(path: Path) -> bool:
    """Whether a file has the extension of a volume."""
    return path.name.lower().endswith(EXTENSIONS)


def is_volume(path: Path) -> bool:
    """Whether a file is meant as a volume: by its extension, or by content if it has none."""
    if has_extension(path):
        return True
    try:
        # an id may have a dot in it, as in image/1.2.840/1.2.840
        bare = not path.suffix or path.name == path.parent.name
        return bare and extension_by_content(path) is not None
    except SourceError:
        return True  # meant as a volume; reading it will say what is wrong with it


def is_dicom_object(path: Path) -> bool:
    """Whether a file is all of a DICOM object, such as SEG, RTSTRUCT or an enhanced CT.

    Such a file is meant as a volume, and reading it will say what it is; one slice of a series is
    not.
    """
    if has_extension(path) or not is_dicom(path):
        return False
    try:
        header = read_header(path, [])
    except SourceError:
        return False
    is_index = class_of(header) == TABLE_OF_CONTENTS
    return not is_index and (not is_image(header) or holds_several(header))


def holds_dicom(tree: Tree, folder: Path) -> bool:
    """Whether a folder, or one below it, holds DICOM files."""
    return any(has_dicom(tree.files(each)) for each in tree.walk(folder))


def has_dicom(files: Iterable[Path]) -> bool:
    """Whether some of the files of one folder are DICOM.

    A few are looked into, those first that are named as DICOM files are: a series has hundreds.
    """
    bare = [path for path in files if not has_extension(path)]
    return any(is_dicom(path) for path in sorted(bare, key=_unlike_dicom)[:TRIED])


def _unlike_dicom(path: Path) -> bool:
    # the name of a slice may be a UID, whose last number looks like an ending
    ending = path.suffix.lower()
    return ending not in DICOM_ENDINGS and not ending[1:].isdigit()
