"""Finding the cases under --src, and a reason for every file that is none."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.problems import Problem
from stages.preprocess.sniff import EXTENSIONS, data_files, extension_by_content

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
    cts, labels = _volumes(src / "image"), _volumes(src / "label")
    cases, problems = [], []
    for case_id in sorted(cts.keys() | labels.keys()):
        refusals = _refusals(src, case_id, cts.get(case_id), labels.get(case_id), set(exclude))
        problems += refusals
        if not refusals:
            cases.append(CaseFiles(case_id, case_id, cts[case_id][0], labels[case_id][0]))
    problems += _unknown_exclusions(exclude, cts.keys() | labels.keys())
    return Scan(cases, problems + _unused_files(src, cases, problems))


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise SourceError(folder, "there is no such folder", f"lay the data out as {LAYOUT}")
    if not any(folder.iterdir()):
        raise SourceError(folder, "the folder is empty", f"lay the data out as {LAYOUT}")


def _volumes(folder: Path) -> dict[str, list[Path]]:
    """The volumes that claim to be a case, by its id, below image/ or label/; one each is right."""
    found: dict[str, list[Path]] = defaultdict(list)
    for entry in sorted(folder.iterdir()):
        case_id = stem(entry.name)
        if entry.name.startswith("."):  # .DS_Store, .ipynb_checkpoints: never a case
            continue
        if entry.is_dir():
            found[case_id] += _volumes_of_case(entry, case_id)
        elif is_volume(entry):
            found[case_id].append(entry)
    return dict(found)


def _volumes_of_case(folder: Path, case_id: str) -> list[Path]:
    """The volumes in a case's folder; the one named like the folder alone, if there is one."""
    volumes = sorted(path for path in folder.rglob("*") if path.is_file() and is_volume(path))
    named = [path for path in volumes if stem(path.name) == case_id]
    return named or volumes


def _refusals(
    src: Path, case_id: str, cts: list[Path] | None, labels: list[Path] | None, exclude: set[str]
) -> list[Problem]:
    """Why a case cannot be prepared; nothing if it can."""
    if case_id in exclude:
        path = str([*(cts or []), *(labels or []), src][0])
        return [Problem("ignored", "excluded", case_id, path, "is listed under data.exclude", "-")]
    problems = []
    for folder, paths in ((src / "image", cts), (src / "label", labels)):
        if paths is not None and len(paths) != 1:
            problems.append(_not_one(folder, case_id, paths))
    if cts is None and labels:
        fact, fix = "is a label without a CT", "add the CT under image/"
        problems.append(_skipped("ct-missing", case_id, labels[0], fact, fix))
    if labels is None and cts:
        fact, fix = "is a CT without a label", "add the label under label/"
        problems.append(_skipped("label-missing", case_id, cts[0], fact, fix))
    if not problems and cts and not SAFE_ID.fullmatch(case_id):
        fact = f"the id {case_id!r} cannot be a file's name everywhere"
        problems.append(_skipped("safe-id", case_id, cts[0], fact, "rename it"))
    return problems


def _not_one(folder: Path, case_id: str, paths: list[Path]) -> Problem:
    fix = f"keep one file per case, named {case_id}"
    if paths:
        names = ", ".join(path.relative_to(folder).as_posix() for path in paths[:4])
        fact = f"{len(paths)} volumes claim to be this case: {names}"
        return _skipped("one-file-per-case", case_id, paths[0], fact, fix)
    entry = next(entry for entry in sorted(folder.iterdir()) if stem(entry.name) == case_id)
    fact = f"holds no volume ({', '.join(EXTENSIONS)})"
    return _skipped("one-file-per-case", case_id, entry, fact, fix)


def _skipped(rule: str, case_id: str, path: Path, fact: str, fix: str) -> Problem:
    fix = f"{fix}, or list the case under data.exclude"
    return Problem("skipped", rule, case_id, str(path), fact, fix)


def _unknown_exclusions(exclude: Iterable[str], known: Iterable[str]) -> list[Problem]:
    fact, fix = "no case has this id", "correct or remove it"
    return [
        Problem("warning", "unknown-exclusion", case_id, "data.exclude", fact, fix)
        for case_id in sorted(set(exclude) - set(known))
    ]


def _unused_files(src: Path, cases: list[CaseFiles], problems: list[Problem]) -> list[Problem]:
    """A reason for every file that neither belongs to a case nor is named by a problem."""
    used = {path for case in cases for path in (case.ct, case.label)}
    used |= {beside for path in used for beside in data_files(path)}
    named = {problem.path for problem in problems}
    left_out = {problem.case_id for problem in problems if problem.rule != "unknown-exclusion"}
    return [
        _unused(path, _case_of(path.relative_to(src)), left_out)
        for path in _files(src)
        if path not in used and str(path) not in named
    ]


def _unused(path: Path, case_id: str, left_out: set[str]) -> Problem:
    if case_id in left_out:
        fact = f"belongs to case {case_id}, which is left out"
        return Problem("ignored", "case-left-out", case_id, str(path), fact, "-")
    fact = "is not the CT or label of a case"
    return Problem("ignored", "not-a-volume", "", str(path), fact, "-")


def _case_of(relative: Path) -> str:
    """The id of the case a file below image/ or label/ would belong to."""
    return stem(relative.parts[1]) if len(relative.parts) > 1 else ""


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
        # an id may have a dot in it, as in image/1.2.840/1.2.840
        bare = not path.suffix or path.name == path.parent.name
        return bare and extension_by_content(path) is not None
    except SourceError:
        return True  # meant as a volume; reading it will say what is wrong with it
