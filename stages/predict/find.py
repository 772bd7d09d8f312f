"""The CTs that are to be predicted, and the masks they become."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from cache.errors import DataError, SourceError
from stages.evaluate.export import beside
from stages.image_file import has_ending, require_ending
from stages.predict.dicom_folders import DicomFolders, holds_dicom
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.reading.sniff import EXTENSIONS, extension_by_content

MASK_ENDING = ".nii.gz"
PROBABILITY = "_probability"  # stands behind the name of a mask whose probability a file holds
SEGMENTATION = ".dcm"  # in place of the mask's ending


@dataclass(frozen=True)
class Task:
    """A CT and where its mask belongs.

    Attributes:
        name: of the CT, below the folder that was named, with slashes on every system.
        path: a file, or a folder with a DICOM series.
        mask: the file to write.
        home: the folder that all of the CT's data have to be in.
    """

    name: str
    path: Path
    mask: Path
    home: Path

    @property
    def is_series(self) -> bool:
        """Whether the CT is a DICOM series."""
        return self.path.is_dir()


class Found(NamedTuple):
    """What a search found.

    Attributes:
        tasks: sorted by name.
        are_many: whether ``out`` is a folder: then each mask is in it as its CT is in ``ct``.
        unlisted: folders that could not be looked into.
        notes: what is DICOM but not predicted: a place, and what is there.
    """

    tasks: list[Task]
    are_many: bool
    unlisted: list[SourceError]
    notes: Sequence[tuple[Path, str]] = ()


def find_tasks(ct: Path, out: Path, beside_it: Sequence[str] = ()) -> Found:
    """The CT that was named, or those below the folder that was named.

    Args:
        ct: a file, a folder with the files of a DICOM series, or a folder with any of these below.
        out: the mask's file of one CT, or the folder for those of several.
        beside_it: what else is written, PROBABILITY or SEGMENTATION.

    Raises:
        DataError: ``out`` has no ending for a mask, is one file for several CTs, or is where a CT
            lies.
        SourceError: there is no CT, or its folder cannot be listed.
    """
    if not ct.exists():
        raise SourceError(ct, "there is no such file or folder", "name a CT, or a folder with CTs")
    found = _tasks(ct, out)
    _spare_sources(found.tasks, beside_it)
    return found


def _tasks(ct: Path, out: Path) -> Found:
    if not ct.is_dir():
        return _one(ct, out)
    tree = Tree(ct)
    unlisted: list[SourceError] = []
    dicom = DicomFolders(tree)
    found = sorted(_below(dicom, ct, os.path.realpath(out), unlisted))
    # of a folder with other objects than CTs, reading it says what they are
    if found == [ct] or (not found and holds_dicom(tree.files(ct))):
        return _one(ct, out)
    if _place(out) == _place(ct):
        fix = "name another folder"
        raise DataError(out, "is where the CTs lie; the next run would take the masks for CTs", fix)
    if not found:
        for fault in unlisted:
            raise fault
        fix = "name a CT's file, the folder of a DICOM series, or a folder with CTs"
        raise SourceError(ct, "holds no CT", fix)
    if not has_ending(out):
        if out.exists() and not out.is_dir():
            raise DataError(out, "is a file, where the folder for the masks should be", "move it")
        return Found(_named(ct, found, out), True, unlisted, dicom.notes)
    if len(found) > 1:
        raise DataError(out, f"is one mask, but {ct} holds {len(found)} CTs", "name a folder")
    return Found([Task(found[0].name, found[0], out, ct)], False, unlisted, dicom.notes)


def _one(ct: Path, out: Path) -> Found:
    require_ending(out)
    return Found([Task(ct.name, ct, out, ct if ct.is_dir() else ct.parent)], False, [])


def written_beside(mask: Path, what: str) -> Path:
    """The file beside a mask that holds its PROBABILITY or its SEGMENTATION."""
    return beside(mask, "", what) if what == SEGMENTATION else beside(mask, what)


def _below(
    dicom: DicomFolders, folder: Path, left_out: str, unlisted: list[SourceError]
) -> Iterator[Path]:
    """Files and folders that are CTs; beside and below one's slices, other series alone.

    Folders that cannot be looked into join ``unlisted``.
    """
    listing = dicom.tree.listing(folder)
    if listing.fault is not None:
        fact = f"cannot be listed ({listing.fault.strerror})"
        unlisted.append(SourceError(folder, fact, "let it be read, or take it out of the folder"))
        return
    # masks of an earlier run are left out
    folders = [each for each in listing.folders if os.path.realpath(each) != left_out]
    if dicom.is_series(folder):
        yield folder
        below = (path for each in folders for path in dicom.tree.walk(each))
        yield from (path for path in below if dicom.is_series(path))
        return
    if dicom.is_spread(folder):
        yield folder
    yield from (path for path in listing.files if _is_volume(path))
    for each in folders:
        yield from _below(dicom, each, left_out, unlisted)


def _is_volume(path: Path) -> bool:
    """Whether a file is an image or should be one; what is wrong with it, reading it will say."""
    try:
        return path.name.lower().endswith(EXTENSIONS) or extension_by_content(path) is not None
    except SourceError:
        return True


def _spare_sources(tasks: Sequence[Task], beside_it: Sequence[str]) -> None:
    """Refuse a file that would take the place of a CT, or lie among the slices of one.

    Raises:
        DataError: names it.
    """
    sources = {_place(task.path) for task in tasks}
    for task in tasks:
        for file in (task.mask, *(written_beside(task.mask, what) for what in beside_it)):
            if sources & {_place(file), _place(file.parent)}:
                fact = "would take the place of a CT, or lie among its slices"
                raise DataError(file, fact, "name another --out")


def _place(path: Path) -> str:
    """What two names of one place have in common, on a disk that ignores case too."""
    return os.path.realpath(path).casefold()


def _named(ct: Path, found: list[Path], out: Path) -> list[Task]:
    """A mask for each CT, called as the CT; where two would be called the same, endings stay.

    Raises:
        DataError: two CTs would still have one mask.
    """
    # the folder itself may be one, above others
    places = {path: path.relative_to(ct) if path != ct else Path(ct.name) for path in found}
    bare = {path: place.with_name(_without_ending(path)) for path, place in places.items()}
    counts = Counter(str(name).lower() for name in bare.values())
    tasks = []
    for path, name in bare.items():
        own = places[path]
        is_plain = counts[str(name).lower()] == 1 and not name.name.endswith(PROBABILITY)
        # no second dot: ITK's reader of NIfTI, asked for 1.nrrd, opens a 1.nrrd.nii.gz beside it
        kept = name if is_plain else own.with_name(own.name.replace(".", "_"))
        mask = out / kept.with_name(kept.name + MASK_ENDING)
        tasks.append(Task(own.as_posix(), path, mask, ct))
    _require_own_masks(tasks)
    return tasks


def _require_own_masks(tasks: Sequence[Task]) -> None:
    owners: dict[str, Task] = {}
    for task in tasks:
        other = owners.setdefault(str(task.mask).lower(), task)
        if other is not task:
            fact = f"would have the same mask as {other.name}, {task.mask.name}"
            raise DataError(task.path, fact, "rename one of the two CTs")


def _without_ending(path: Path) -> str:
    """A file's name without the ending of its format; a folder's name as it is."""
    if path.is_dir():
        return path.name
    ending = next((each for each in EXTENSIONS if path.name.lower().endswith(each)), "")
    return path.name[: len(path.name) - len(ending)] or path.name
