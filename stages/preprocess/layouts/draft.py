"""A list of cases to begin with, of a data set in which names do not say it all."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.folders import groups
from stages.preprocess.layouts.pairing.group import Group, is_pair
from stages.preprocess.layouts.pairing.match import matched_by_name
from stages.preprocess.layouts.pairing.words import role
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import has_dicom, has_extension, stem


@dataclass(frozen=True)
class Row:
    """A line of the list; what is None is for somebody to complete.

    Attributes:
        ct: the CT.
        label: its label.
        case_id: empty where only one of the two is known.
    """

    ct: Path | None
    label: Path | None
    case_id: str = ""


def draft(src: Path) -> list[Row]:
    """What may be CTs and labels below a folder, those together whose names say so.

    Labels of other structures are not among them. Where names say too little for a layout, no more
    than equal names are put together.
    """
    tree = Tree(src)
    try:
        found = groups(tree)
    except SourceError:  # one case in two folders: somebody has to choose
        found = []
    rows = [row for group in found for row in _of_group(group, src, alone=len(found) == 1)]
    return rows or list(_of_all(tree))


def _of_group(group: Group, src: Path, *, alone: bool) -> Iterator[Row]:
    places = () if alone else group.where.relative_to(src).parts
    for name, claim in sorted(group.claims.items()):
        if is_pair(claim):
            yield Row(claim.cts[0], claim.labels[0], "_".join((*places, name)))
        else:
            yield from (Row(path, None) for path in claim.cts)
            yield from (Row(None, path) for path in claim.labels)


def _of_all(tree: Tree) -> Iterator[Row]:
    cts: list[Path] = []
    labels: list[Path] = []
    for path, said in _volumes(tree):
        if said != "other":
            (labels if said == "label" else cts).append(path)
    cases = matched_by_name([_name(path) for path in cts], [_name(path) for path in labels])
    for case in sorted(cases, key=lambda case: case.name):
        if case.is_pair:
            yield Row(cts[case.cts[0]], labels[case.labels[0]], case.name)
        else:
            yield from (Row(cts[at], None) for at in case.cts)
            yield from (Row(None, labels[at]) for at in case.labels)


def _volumes(tree: Tree) -> Iterator[tuple[Path, str | None]]:
    """Every file and DICOM folder, and what its name or that of a folder above it says."""
    for folder in tree.walk(tree.root):
        above = [folder, *folder.parents][: len(folder.relative_to(tree.root).parts)]
        of_folder = next((said for each in above if (said := role(each.name))), None)
        files = tree.files(folder)
        if has_dicom(files):
            yield folder, of_folder
        for path in files:
            if has_extension(path):
                yield path, role(path.name) or of_folder


def _name(path: Path) -> str:
    return stem(path.name)
