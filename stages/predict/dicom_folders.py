"""Which folders of a search are DICOM series, going by what their files are."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.reading.dicom import Series, choose_series
from stages.preprocess.reading.dicom_file import read_header
from stages.preprocess.reading.dicom_kind import (
    PLACE_TAGS,
    TABLE_OF_CONTENTS,
    class_of,
    is_image,
    is_localizer,
    is_of_ct,
    name_of,
)
from stages.preprocess.reading.dicom_start import is_dicom

NOT_ONE = ("dicom_repeats", "dicom_mixed", "dicom_phases")
NOT_SPREAD = (*NOT_ONE, "dicom_choice", "dicom_gaps", "direction")
SERIES_TAGS = ("SeriesInstanceUID", "StudyInstanceUID")
ALONE = "beside the folders of other series; put it into a folder of its own"


@dataclass
class DicomFolders:
    """What a search knows of the DICOM files it came by.

    Attributes:
        tree: the folders that are searched.
        taken: slices of series that were found, which may be in folders below.
        notes: what is DICOM and not predicted: a place and what is there.
    """

    tree: Tree
    taken: set[Path] = field(default_factory=set)
    notes: list[tuple[Path, str]] = field(default_factory=list)

    def is_series(self, folder: Path) -> bool:
        """Whether a folder is one CT by the files in it, whatever else is below.

        A few stray slices above the folders of other series are none; they join the notes.
        """
        files = [path for path in self.tree.files(folder) if path not in self.taken]
        first = next(_slices(files), None)
        if first is None:
            self._note_others(folder, files)
            return False
        below = (path for each in self.tree.folders(folder) for path in self._left(each))
        if next(_slices(below), None) is None:
            return True
        try:
            series = choose_series(folder, is_ct=True)
        except SourceError:  # reading it will say the same
            return True
        if _is_of(folder, series):
            self.taken.update(series.slices)
            return True
        count = sum(1 for _ in _slices(files))
        self.notes.append((first, f"{count} CT {'slice' if count == 1 else 'slices'} {ALONE}"))
        return False

    def is_spread(self, folder: Path) -> bool:
        """Whether the slices of one series, and of no other, are parted over subfolders.

        Each of these would be part of a CT. Their first slices decide whether it is looked into.
        """
        firsts = (next(_slices(self._left(each)), None) for each in self.tree.folders(folder))
        try:
            if not _are_of_one_series(first for first in firsts if first is not None):
                return False
            series = choose_series(folder, is_ct=True)
        except SourceError:  # reading each will say so
            return False
        if not {finding.rule for finding in series.findings}.isdisjoint(NOT_SPREAD):
            return False
        self.taken.update(series.slices)
        return True

    def _left(self, folder: Path) -> Iterator[Path]:
        return (path for path in self.tree.files_below(folder) if path not in self.taken)

    def _note_others(self, folder: Path, files: Iterable[Path]) -> None:
        found = Counter(words for path in files if (words := _what_else(path)))
        if found:
            told = [f"{n} {'file' if n == 1 else 'files'}: {each}" for each, n in found.items()]
            self.notes.append((folder, f"holds no CT ({'; '.join(sorted(told))})"))


def holds_dicom(files: Iterable[Path]) -> bool:
    """Whether some of these files are DICOM, of whatever kind."""
    return any(map(is_dicom, files))


def _is_of(folder: Path, series: Series) -> bool:
    """Whether a series is in a folder itself, perhaps with more of its slices below.

    Where anonymising emptied the UIDs, slices below may be other people's: they are at one place.
    """
    is_here = [path.parent == folder for path in series.slices]
    is_apart = {finding.rule for finding in series.findings}.isdisjoint(NOT_ONE)
    return all(is_here) or (any(is_here) and is_apart)


def _are_of_one_series(slices: Iterable[Path]) -> bool:
    """Whether these are several, and state one series; no more are looked at than it takes."""
    stated: list[tuple[str, ...]] = []
    for path in slices:
        header = read_header(path, SERIES_TAGS)
        stated.append(tuple(str(header.get(tag) or "") for tag in SERIES_TAGS))
        if stated[-1] != stated[0] or "" in stated[0]:
            return False
    return len(stated) > 1


def _slices(files: Iterable[Path]) -> Iterator[Path]:
    """Those that are images of a CT, or may be; reading will say what is wrong with them."""
    for path in files:
        if not is_dicom(path):
            continue
        try:
            header = read_header(path, [], ["ImageType", *PLACE_TAGS])
        except SourceError:
            yield path
            continue
        if is_image(header) and is_of_ct(header) and not is_localizer(header):
            yield path


def _what_else(path: Path) -> str:
    """What a DICOM file is that is not a slice of a CT; empty for others, and for an index."""
    if not is_dicom(path):
        return ""
    header = read_header(path, [], ["ImageType"])
    if class_of(header) == TABLE_OF_CONTENTS:
        return ""
    return "a localizer" if is_localizer(header) else name_of(header)
