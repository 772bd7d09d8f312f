"""Folders of CTs beside folders of labels, as images/ and masks/ or img/ and label/."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.layout import Claim, no_case
from stages.preprocess.layouts.pairing.group import Group, group_of
from stages.preprocess.layouts.pairing.match import Case, matched
from stages.preprocess.layouts.pairing.words import (
    Role,
    is_of_another,
    is_of_liver_alone,
    is_set_apart,
    role,
)
from stages.preprocess.layouts.sides import volumes_of
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import stem
from stages.preprocess.problems import Finding, Problem

FIX = "keep one folder of CTs and one of labels, or write a list of cases"


@dataclass(frozen=True)
class Volume:
    """A volume, the name that its case is found by, and the folder of CTs or labels it is in."""

    name: str
    path: Path
    side: Path


def find(tree: Tree, folder: Path) -> Group | None:
    """The cases of folders that are in ``folder``; None if no CT there has a label.

    Raises:
        SourceError: two folders hold a CT, or a label, of one case.
    """
    cts, labels = _sides(tree, folder, "ct"), _sides(tree, folder, "label")
    of_liver = [side for side in labels if is_of_liver_alone(side.name)]
    others = [side for side in labels if side not in of_liver] if len(of_liver) == 1 else []
    labels = [side for side in labels if side not in others]
    others += _sides(tree, folder, "other")
    if not cts or not labels:
        return None
    livers = [one for one in _volumes(tree, labels) if not _is_another_of_case(one)]
    pieces = list(pieces_of(_volumes(tree, cts), _of_liver(livers)))
    names = ", ".join(side.name for side in cts), ", ".join(side.name for side in labels)
    ignored = [no_case(side, "holds labels of other structures") for side in others]
    ignored += _set_apart(tree, folder)
    return group_of(folder, f"{names[0]} and {names[1]} hold CTs and labels", pieces, ignored)


def _sides(tree: Tree, folder: Path, which: Role) -> list[Path]:
    return [
        each
        for each in tree.folders(folder)
        if role(each.name) == which and not is_set_apart(each.name)
    ]


def _set_apart(tree: Tree, folder: Path) -> list[Problem]:
    fact = "is named as cases for testing or validation, which are not for training"
    return [
        no_case(each, fact)
        for each in tree.folders(folder)
        if role(each.name) and is_set_apart(each.name)
    ]


def _volumes(tree: Tree, sides: Sequence[Path]) -> list[Volume]:
    return [
        Volume(name, path, side)
        for side in sides
        for name, paths in volumes_of(tree, side).items()
        for path in paths
    ]


def _is_another_of_case(volume: Volume) -> bool:
    """Whether it is another structure in a case's own folder, as labels/P1/spleen.nii.gz."""
    return volume.path.parent != volume.side and is_of_another(volume.path.name)


def _of_liver(labels: Sequence[Volume]) -> list[Volume]:
    """The labels without those that are beside one of the liver alone in a case's own folder."""
    alone = [
        one.path.parent
        for one in labels
        if one.path.parent != one.side and is_of_liver_alone(stem(one.path.name))
    ]
    return [
        one
        for one in labels
        if alone.count(one.path.parent) != 1 or is_of_liver_alone(stem(one.path.name))
    ]


def pieces_of(cts: Sequence[Volume], labels: Sequence[Volume]) -> Iterator[tuple[str, Claim]]:
    """The claims of CTs and labels that are put together by their names, with the case's id.

    Raises:
        SourceError: two folders hold a CT, or a label, of one case.
    """
    for case in matched([one.name for one in cts], [one.name for one in labels]):
        of_case = [cts[place] for place in case.cts], [labels[place] for place in case.labels]
        for volumes in of_case:
            _require_one_folder(case.name, volumes)
        paths = [tuple(one.path for one in volumes) for volumes in of_case]
        yield case.name, Claim(paths[0], paths[1], findings=_doubts(case, paths[0]))


def _doubts(case: Case, cts: Sequence[Path]) -> tuple[Finding, ...]:
    if not case.rival:
        return ()
    fact = f"may belong to the label {case.name} as well as to {case.rival}"
    fix = "rename one of them, or write a list of cases"
    return (Finding("one_file_per_case", cts[0], fact, fix),)


def _require_one_folder(case_id: str, volumes: Sequence[Volume]) -> None:
    of_side = {volume.side: volume.path for volume in reversed(volumes)}
    if len(of_side) > 1:
        paths = ", ".join(str(path) for path in sorted(of_side.values()))
        fact = f"several folders in it hold case {case_id}: {paths}"
        raise SourceError(volumes[0].side.parent, fact, FIX)
