"""A folder per case with its CT and its label, as P001/CT.nii.gz and P001/liver.nii.gz."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.preprocess.layouts.layout import Claim
from stages.preprocess.layouts.pairing.group import Group, group_of
from stages.preprocess.layouts.pairing.words import Role, core, is_of_liver_alone, is_split, role
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import (
    TRIED,
    has_dicom,
    has_extension,
    holds_dicom,
    is_dicom_object,
    stem,
)


@dataclass(frozen=True)
class Candidate:
    """What may be the CT or the label of a case.

    Attributes:
        path: a file, or a folder with DICOM files.
        name: what its name says, without ending; empty for the case's own folder.
        role: what its own name, or that of the folder it is in, says it is.
    """

    path: Path
    name: str
    role: Role | None


def find(tree: Tree, folder: Path) -> Group | None:
    """The cases that are folders in ``folder``; None if none has both a CT and a label."""
    cases = [each for each in tree.folders(folder) if not is_split(each.name)]
    claims = [(case.name, claim_of(tree, case)) for case in cases]
    pieces = [(name, claim) for name, claim in claims if claim]
    return group_of(folder, "each folder holds a CT and a label", pieces)


def claim_of(tree: Tree, case: Path) -> Claim | None:
    """The CT and the label of a case's folder, all of them if there are several.

    None where nothing says that it is a case.
    """
    candidates = list(_candidates(tree, case))
    labels = _labels(candidates)
    cts = _cts(case, [one for one in candidates if one.role in ("ct", None)], labels)
    if not cts and not labels:
        return None
    ct_paths, label_paths = (tuple(one.path for one in found) for found in (cts, labels))
    return Claim(ct_paths, label_paths, folders=(case,))


def _candidates(tree: Tree, case: Path) -> Iterator[Candidate]:
    for path in _volumes(tree, case):
        yield Candidate(path, stem(path.name), role(path.name))
    others = [path for path in tree.files(case) if not has_extension(path)]
    objects = [path for path in others if _may_be_label(path, others) and is_dicom_object(path)]
    yield from (Candidate(path, path.stem, role(path.stem)) for path in objects)
    if has_dicom(path for path in others if path not in objects):
        yield Candidate(case, "", None)
    for folder in tree.folders(case):
        said = role(folder.name)
        if holds_dicom(tree, folder):
            yield Candidate(folder, folder.name, said)
        elif said:
            for path in _volumes(tree, folder):
                other = role(path.name) == "other"
                yield Candidate(path, stem(path.name), "other" if other else said)


def _may_be_label(path: Path, beside: list[Path]) -> bool:
    # the headers of hundreds of slices are not read
    return len(beside) <= TRIED or role(path.stem) is not None


def _volumes(tree: Tree, folder: Path) -> list[Path]:
    return [path for path in tree.files(folder) if has_extension(path)]


def _labels(candidates: list[Candidate]) -> list[Candidate]:
    """The labels; of several, the one that is of the liver alone, if one is."""
    labels = [one for one in candidates if one.role == "label"]
    of_liver = [one for one in labels if is_of_liver_alone(one.name)]
    return of_liver if len(of_liver) == 1 else labels


def _cts(case: Path, others: list[Candidate], labels: list[Candidate]) -> list[Candidate]:
    """The CTs: what is called one, else what is called as the folder or the label is, or DICOM."""
    called_so = [one for one in others if one.role == "ct"]
    if called_so:
        return called_so
    own = {core(case.name), *(core(one.name) for one in labels)}
    return [one for one in others if one.path.is_dir() or core(one.name) in own]
