"""Finding the cases under --src, and a reason for every file that is none."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.problems import Problem
from stages.preprocess.sniff import EXTENSIONS, extension_by_content

LAYOUT = "image/<id>/<id>.nii.gz with label/<id>/<id>.nii.gz, or image/<id>.nii.gz with label/…"
SAFE_ID = re.compile(r"\w[\w .+=@()-]*", re.UNICODE)


@dataclass(frozen=True)
class CaseFiles:
    """Where a case's CT and label lie."""

    case_id: str
    patient_id: str
    ct: Path
    label: Path


@dataclass(frozen=True)
class Scan:
    """What a folder holds: the cases, and a problem for all else."""

    cases: list[CaseFiles]
    problems: list[Problem]


def scan(src: Path, exclude: Iterable[str]) -> Scan:
    """Find every CT and label under a folder laid out as image/ and label/.

    Args:
        src: folder that holds ``image`` and ``label``; in each, a file per case or a folder per
            case, which may have the very name of the file in it, extension and all.
        exclude: ids of cases to leave out.

    Raises:
        SourceError: the folder, or one of the two in it, is missing or empty.
    """
    for folder in (src, src / "image", src / "label"):
        _require_folder(folder)
    cts, ct_problems = _volumes(src / "image")
    labels, label_problems = _volumes(src / "label")
    broken = {problem.case_id for problem in ct_problems + label_problems}
    cases, problems = [], ct_problems + label_problems
    for case_id in sorted(cts.keys() | labels.keys()):
        problem = _refusal(case_id, cts.get(case_id), labels.get(case_id), set(exclude))
        if problem is None:
            cases.append(CaseFiles(case_id, case_id, cts[case_id], labels[case_id]))
        elif case_id not in broken:
            problems.append(problem)
    problems += _unknown_exclusions(exclude, cts.keys() | labels.keys())
    return Scan(cases, problems + _unused_files(src, cases, problems))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SourceError(folder, "there is no such folder", f"lay the data out as {LAYOUT}")
    if not any(folder.iterdir()):
        raise SourceError(folder, "the folder is empty", f"lay the data out as {LAYOUT}")


def _volumes(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """The volume of each case id below image/ or label/, and the ids that have none or several."""
    candidates: dict[str, list[Path]] = defaultdict(list)
    for entry in sorted(folder.iterdir()):
        case_id = stem(entry.name)
        if entry.is_dir():
            candidates[case_id] += _volumes_of_case(entry, case_id)
        elif is_volume(entry):
            candidates[case_id].append(entry)
    found = {case_id: paths[0] for case_id, paths in candidates.items() if len(paths) == 1}
    problems = [
        _not_one(folder, case_id, paths) for case_id, paths in candidates.items() if len(paths) != 1
    ]
    return found, problems


def _volumes_of_case(folder: Path, case_id: str) -> list[Path]:
    """The volumes in a case's folder; the one named like the folder alone, if there is one."""
    volumes = sorted(path for path in folder.rglob("*") if path.is_file() and is_volume(path))
    named = [path for path in volumes if stem(path.name) == case_id]
    return named or volumes


def _not_one(folder: Path, case_id: str, paths: list[Path]) -> Problem:
    fact = "holds no volume SimpleITK could read"
    if paths:
        names = ", ".join(path.name for path in paths[:4])
        fact = f"{len(paths)} volumes claim to be this case: {names}"
    fix = f"keep one file per case, named {case_id}, or list the case under data.exclude"
    return Problem("skipped", "one-file-per-case", case_id, str(folder / case_id), fact, fix)


def _refusal(
    case_id: str, ct: Path | None, label: Path | None, exclude: set[str]
) -> Problem | None:
    path = str(ct or label)
    if case_id in exclude:
        return Problem("ignored", "excluded", case_id, path, "is listed under data.exclude", "-")
    if ct is None:
        fix = "add the CT under image/, or list the case under data.exclude"
        return Problem("skipped", "ct-missing", case_id, path, "is a label without a CT", fix)
    if label is None:
        fix = "add the label under label/, or list the case under data.exclude"
        return Problem("skipped", "label-missing", case_id, path, "is a CT without a label", fix)
    if not SAFE_ID.fullmatch(case_id):
        fact = f"the id {case_id!r} cannot be a file's name everywhere"
        return Problem("skipped", "safe-id", case_id, path, fact, "rename it to letters and digits")
    return None


def _unknown_exclusions(exclude: Iterable[str], known: Iterable[str]) -> list[Problem]:
    fact, fix = "no case has this id", "correct or remove it"
    return [
        Problem("warning", "unknown-exclusion", case_id, "data.exclude", fact, fix)
        for case_id in sorted(set(exclude) - set(known))
    ]


def _unused_files(src: Path, cases: list[CaseFiles], problems: list[Problem]) -> list[Problem]:
    """A reason for every file that neither belongs to a case nor is named by a problem."""
    used = {path for case in cases for path in (case.ct, case.label)}
    named = {problem.path for problem in problems}
    fact = "is not the CT or label of a case"
    return [
        Problem("ignored", "not-a-volume", "", str(path), fact, "-")
        for path in _files(src)
        if path not in used and str(path) not in named
    ]


def _files(src: Path) -> Iterator[Path]:
    yield from sorted(path for path in src.rglob("*") if path.is_file())


def stem(name: str) -> str:
    """A file's or folder's name without the extension of a volume, if it has one."""
    for extension in EXTENSIONS:
        if name.lower().endswith(extension) and len(name) > len(extension):
            return name[: -len(extension)]
    return name


def is_volume(path: Path) -> bool:
    """Whether a file is meant as a volume: by its extension, or by content if it has none."""
    if path.name.startswith("."):
        return False
    if path.name.lower().endswith(EXTENSIONS):
        return True
    try:
        return not path.suffix and extension_by_content(path) is not None
    except SourceError:
        return True  # meant as a volume; reading it will say what is wrong with it
