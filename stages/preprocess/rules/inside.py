"""The rule about which files a header may name as its voxels."""

import os
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.problems import Finding
from stages.preprocess.reading.text_header import data_files, declared_data_files


def data_inside(header: Path, folder: Path) -> Finding | None:
    """A header may name any file of the machine as its voxels; a data set has its own.

    Args:
        header: a CT or a label; of a folder or a file that cannot be opened nothing is said.
        folder: which its data have to be in.
    """
    outside = [path for path in data_of(header, declared=True) if not is_inside(path, folder)]
    if not outside:
        return None
    fact = f"names a data file outside {folder}: {outside[0]}"
    fix = "put the data file beside the header, or leave this file out"
    return Finding("data_inside", header, fact, fix)


def data_of(header: Path, *, declared: bool = False) -> list[Path]:
    """The data files of a detached header; with ``declared`` those too that are not there."""
    try:
        found = data_files(header)
        return found + declared_data_files(header) if declared else found
    except (OSError, SourceError):  # a folder of that name, a dead link: for the reader to say
        return []


def home_of(path: Path, folder: Path) -> Path:
    """The folder a file's data have to be in: the one it was found below, or else its own."""
    return folder if is_inside(path, folder) else path.parent


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder, links not followed.

    A data set may well consist of links, only a header's text is foreign.
    """
    return Path(location(path)).is_relative_to(location(folder))


def location(path: Path) -> str:
    """One text for all ways to write a path, links not followed."""
    return os.path.normcase(os.path.normpath(path.absolute()))
