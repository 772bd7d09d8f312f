"""The problems that stage one found in the data, as the report shows them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cache.errors import StoreError
from cache.files import read_text
from cache.jsons import parsed
from cache.sealed import unsealed

SCHEMA_VERSION = 1  # docs/problems.md
SEVERITIES = ("error", "skipped", "warning", "fixed", "ignored")  # worst first
FIELDS = ("severity", "rule", "case_id", "path", "fact", "fix")
SHOWN = 200  # problems; a data set may bring thousands of files that are no CT
KEPT_PARTS = 3  # of an absolute path, whose beginning names people and machines


@dataclass(frozen=True)
class KnownProblem:
    """One problem: see docs/problems.md."""

    severity: str
    rule: str
    case_id: str
    path: str
    fact: str
    fix: str


@dataclass(frozen=True)
class KnownProblems:
    """All problems of a data set.

    Attributes:
        counts: how many there are of each severity and rule, the worst and most first.
        shown: the worst ones.
        more: how many there are besides these.
    """

    counts: Sequence[tuple[str, str, int]]
    shown: Sequence[KnownProblem]
    more: int


def read_problems(path: Path) -> KnownProblems | None:
    """Read ``problems.json``; None if it is not there.

    Of absolute paths the last three parts are kept: a report goes to others.

    Raises:
        StoreError: the file is damaged, or another version of liver3d wrote it.
    """
    if not path.is_file():
        return None
    try:
        document = unsealed(parsed(read_text(path)), is_old=True)
        if document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version is {document['schema_version']}")
        problems = [_shortened(fields) for fields in document["problems"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        fact = f"cannot be read as a list of problems ({error})"
        raise StoreError(
            path, fact, "run python -m pipeline.preprocess, which writes it"
        ) from error
    return of_problems(problems)


def of_problems(problems: Sequence[KnownProblem]) -> KnownProblems:
    """Count problems and pick those to show."""
    counted = Counter((one.severity, one.rule) for one in problems)
    ordered = sorted(counted.items(), key=lambda pair: (_rank(pair[0][0]), -pair[1], pair[0][1]))
    counts = [(severity, rule, count) for (severity, rule), count in ordered]
    worst = sorted(problems, key=lambda one: (_rank(one.severity), one.case_id, one.path))
    return KnownProblems(counts, worst[:SHOWN], max(0, len(worst) - SHOWN))


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity)


def _shortened(fields: dict[str, Any]) -> KnownProblem:
    problem = KnownProblem(**{name: str(fields[name]) for name in FIELDS})
    _rank(problem.severity)  # an unknown one is refused here
    start = _private_start(problem.path)
    if not start:
        return problem
    # the fact and the fix may name files of the same data set
    short = {name: getattr(problem, name).replace(start, "…") for name in ("path", "fact", "fix")}
    return KnownProblem(**{**vars(problem), **short})


def _private_start(path: str) -> str:
    """What precedes the last parts of an absolute path; empty for a relative one."""
    for kind in (PurePosixPath, PureWindowsPath):
        whole = kind(path)
        if whole.is_absolute():
            last = str(kind(*whole.parts[1:][-KEPT_PARTS:]))
            start = path[: len(path) - len(last)]
            return start.rstrip("/\\")
    return ""
