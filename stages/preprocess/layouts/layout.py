"""What every layout answers: by what it is recognised, and which files claim to be which case."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path

from stages.preprocess.files import LabelNames
from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.problems import Finding, Problem


@dataclass(frozen=True)
class Claim:
    """The files that claim to be one case. One CT and one label are right.

    Attributes:
        cts: files, or folders that hold a DICOM series.
        labels: the same, or folders with a PNG image per slice.
        folders: folders that hold nothing but this case.
        findings: what only the layout can know to be wrong with it.
        patient_id: the person, where the data set names one.
        names: what the data set calls the label's values, where it does.
    """

    cts: tuple[Path, ...] = ()
    labels: tuple[Path, ...] = ()
    folders: tuple[Path, ...] = ()
    findings: tuple[Finding, ...] = ()
    patient_id: str | None = None
    names: LabelNames | None = None

    def joined(self, other: "Claim") -> "Claim":
        """Both claims as one; of two patients or two lists of names, the first counts."""
        return Claim(
            self.cts + other.cts,
            self.labels + other.labels,
            self.folders + other.folders,
            self.findings + other.findings,
            self.patient_id if self.patient_id is not None else other.patient_id,
            self.names if self.names is not None else other.names,
        )


@dataclass(frozen=True)
class Found:
    """What a layout makes of a folder.

    Attributes:
        claims: by the case's id.
        ignored: files and folders it knows to be no training case, with the reason.
        other: the reason for all files that neither ``claims`` nor ``ignored`` names.
        findings: what is wrong with the data set as a whole.
    """

    claims: dict[str, Claim]
    ignored: list[Problem] = field(default_factory=list)
    other: str = "is not the CT or label of a case"
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """One way to lay out a data set.

    Attributes:
        name: its word for ``data.layout``.
        example: how such a data set lies, in one line.
        sign: the fact by which a folder is recognised; None if it is not.
        find: the cases of a folder that has the sign.
    """

    name: str
    example: str
    sign: Callable[[Tree], str | None]
    find: Callable[[Tree], Found]


def gathered(pieces: Iterable[tuple[str, Claim]]) -> dict[str, Claim]:
    """The claims by case id, all of one id joined.

    Ids that differ in their Unicode form alone are one, in the composed form; where each of them
    has both a CT and a label, they are cases that only the disk tells apart, and stay so.
    """
    exact: dict[str, Claim] = {}
    for case_id, claim in pieces:
        exact[case_id] = exact[case_id].joined(claim) if case_id in exact else claim
    forms: dict[str, list[str]] = {}
    for case_id in exact:
        forms.setdefault(composed(case_id), []).append(case_id)
    claims: dict[str, Claim] = {}
    for name, ids in forms.items():
        if len(ids) > 1 and all(exact[each].cts and exact[each].labels for each in ids):
            claims |= {each: exact[each] for each in ids}
        else:
            claims[name] = reduce(Claim.joined, [exact[each] for each in ids])
    return claims


def no_case(path: Path, fact: str) -> Problem:
    """The problem of a file or folder that is known to be no training case."""
    return Problem.ignored("not_a_case", "", path, fact)


def with_files(tree: Tree, claim: Claim) -> Claim:
    """A claim without the folders that hold no file: those become findings."""
    empty = [("ct_missing", path) for path in claim.cts if _is_empty(tree, path)]
    empty += [("label_missing", path) for path in claim.labels if _is_empty(tree, path)]
    faults = {path: tree.listing(path).fault for _, path in empty}
    paths = {path for _, path in empty}
    fix = "unpack or export the case again, or list it under data.exclude"
    return replace(
        claim,
        cts=tuple(path for path in claim.cts if path not in paths),
        labels=tuple(path for path in claim.labels if path not in paths),
        findings=tuple(
            Finding(rule, path, _unlisted(faults[path]) or "holds no files", fix)
            for rule, path in empty
        ),
    )


def _unlisted(fault: OSError | None) -> str:
    return f"cannot be listed ({fault.strerror})" if fault else ""


def _is_empty(tree: Tree, folder: Path) -> bool:
    return next(tree.files_below(folder), None) is None
