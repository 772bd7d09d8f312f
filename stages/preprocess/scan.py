"""Finding the cases under --src, and a reason for every file that is none."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from stages.preprocess.files import CaseFiles
from stages.preprocess.layouts import judge
from stages.preprocess.layouts.detect import choose
from stages.preprocess.layouts.layout import Claim, Found
from stages.preprocess.layouts.names import composed
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.untracked import untracked
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import LEFT_OUT, Finding, Problem
from stages.preprocess.rules.inside import data_of, location


@dataclass(frozen=True)
class Scan:
    """What a data set holds.

    Attributes:
        layout: name of the layout.
        reason: in one line, by what it was recognised.
        cases: those that can be prepared, sorted by id.
        problems: one for all else: broken rules, and files of no case.
    """

    layout: str
    reason: str
    cases: list[CaseFiles]
    problems: list[Problem]


def scan(
    src: Path, *, layout: str, exclude: Iterable[str], patient_id: str | None, rules: RulesParams
) -> Scan:
    """Find every CT and label of a data set.

    Every file below ``src`` is in a case, or is named by a problem, itself or through a folder it
    lies in. What lies below a folder that is a case's CT or label is that case's.

    Args:
        src: the data set's folder, or a list of cases.
        layout: how it lies, a word of ``layouts.detect.NAMES``.
        exclude: ids of cases to leave out.
        patient_id: regular expression that finds the patient in a case's id: its first group, or
            all it matches. None: every case is a patient of its own, unless a list says more.
        rules: what follows when a rule is broken.

    Raises:
        SourceError: the data set is not there or not laid out so, or its list cannot be read.
    """
    chosen, reason = choose(src, layout)
    tree, excluded = Tree(src), {composed(case_id) for case_id in exclude}
    found = chosen.find(tree)
    left = {key for key in found.claims if composed(key) in excluded}
    wanted = {key: claim for key, claim in found.claims.items() if key not in left}
    cases, problems = _judged(src, wanted, patient_id, rules)
    problems += found.ignored
    problems += [Problem.of(one, "", rules.policy(one.rule)) for one in found.findings]
    problems += [_excluded(key, found.claims[key]) for key in sorted(left)]
    problems += _unknown_exclusions(excluded - {composed(key) for key in found.claims}, rules)
    problems += _left_out(found, cases, problems)
    problems += untracked(tree) if src.is_dir() else []
    return Scan(chosen.name, reason, cases, problems + _unnamed(tree, found, cases, problems))


def _judged(
    src: Path, claims: dict[str, Claim], patient_id: str | None, rules: RulesParams
) -> tuple[list[CaseFiles], list[Problem]]:
    """The claims that are cases, sorted by id, and the rules that were broken."""
    cases, problems = [], []
    taken: dict[str, str] = {}
    for case_id, claim in sorted(claims.items()):
        found = judge.findings(src, case_id, claim, taken)
        patient = judge.patient_of(case_id, claim, patient_id)
        if patient is None and not found:
            found = [judge.without_patient(case_id, claim, patient_id)]
        broken = [Problem.of(one, case_id, rules.policy(one.rule)) for one in found]
        problems += broken
        if not any(problem.severity in LEFT_OUT for problem in broken):
            taken[judge.folded(case_id)] = case_id
            (ct,), (label,), root = claim.cts, claim.labels, judge.root_of(src, claim)
            cases.append(CaseFiles(case_id, patient or case_id, ct, label, claim.names, root))
    return cases, problems


def _excluded(case_id: str, claim: Claim) -> Problem:
    named = [one.path for one in claim.findings]
    path = [*claim.cts, *claim.labels, *claim.folders, *named][0]
    return Problem.ignored("excluded", case_id, path, "is listed under data.exclude")


def _unknown_exclusions(case_ids: set[str], rules: RulesParams) -> list[Problem]:
    rule, where = "unknown_exclusion", Path("data.exclude")
    finding = Finding(rule, where, "no case has this id", "correct or remove it")
    return [Problem.of(finding, case_id, rules.policy(rule)) for case_id in sorted(case_ids)]


def _left_out(found: Found, cases: list[CaseFiles], problems: list[Problem]) -> list[Problem]:
    """A line for the CTs and labels of cases that are left out, where no other problem has one."""
    named = {location(Path(problem.path)) for problem in problems}
    kept = {case.case_id for case in cases}
    return [
        _of_left_out(path, case_id)
        for case_id, claim in found.claims.items()
        if case_id not in kept
        for path in (*claim.cts, *claim.labels)
        if location(path) not in named
    ]


def _of_left_out(path: Path, case_id: str) -> Problem:
    fact = f"belongs to case {case_id}, which is left out"
    return Problem.ignored("case_left_out", case_id, path, fact)


def _unnamed(
    tree: Tree, found: Found, cases: list[CaseFiles], problems: list[Problem]
) -> list[Problem]:
    """A reason for every file that neither belongs to a case nor is named by a problem."""
    if not tree.root.is_dir():
        return []  # a list was given, not a folder: what lies around it is not the data set
    volumes = [path for case in cases for path in (case.ct, case.label)]
    known = {*volumes, *(path for volume in volumes for path in data_of(volume))}
    known |= {Path(problem.path) for problem in problems}
    kept = {case.case_id for case in cases}
    owners = {
        location(path): case_id
        for case_id, claim in found.claims.items()
        if case_id not in kept
        for path in _also_of(claim)
    }
    locations = {location(path) for path in known}
    return list(_rest(tree, tree.root, locations, owners, found.other))


def _also_of(claim: Claim) -> list[Path]:
    """The folders of a case, and the data files of its headers."""
    beside = [path for volume in (*claim.cts, *claim.labels) for path in data_of(volume)]
    return [*claim.folders, *beside]


def _rest(
    tree: Tree, folder: Path, known: set[str], owners: dict[str, str], other: str
) -> Iterator[Problem]:
    """The files below a folder whose location is not known, nor that of a folder they lie in.

    Args:
        tree: the data set.
        folder: where to look.
        known: locations of files and folders that are accounted for.
        owners: id of the case that is left out, by the locations of its folders and data
            files; grows by the folders below them.
        other: what to say of a file that has no owner.
    """
    listing = tree.listing(folder)
    if listing.fault is not None:
        fact = f"cannot be listed ({listing.fault.strerror}); cases in it are missed"
        yield Problem("warning", "not_listed", "", str(folder), fact, "let it be read")
    for path in listing.hidden:
        if location(path) not in known:
            fact = "belongs to the system or is hidden, and not to the data set"
            yield Problem.ignored("hidden", "", path, fact)
    of_folder = owners.get(location(folder))
    for path in listing.files:
        if (place := location(path)) not in known:
            owner = owners.get(place, of_folder)
            ignored = Problem.ignored("not_a_case", "", path, other)
            yield _of_left_out(path, owner) if owner else ignored
    for path in listing.folders:
        if (place := location(path)) not in known:
            if of_folder:
                owners.setdefault(place, of_folder)
            yield from _rest(tree, path, known, owners, other)
