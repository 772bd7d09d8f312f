"""What stands in problems.json: every file that is not in the store, and every doubt."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from cache.errors import DataError
from cache.files import write_json

Severity = Literal["skipped", "warning", "ignored"]


@dataclass(frozen=True)
class Problem:
    """One finding about the source data.

    Attributes:
        severity: ``skipped`` (the case is not in the store), ``warning`` (it is, look at it) or
            ``ignored`` (a file that is no CT and no label).
        rule: name of the rule that found it.
        case_id: the case it belongs to; empty for files of no case.
        path: the file or folder at fault.
        fact: what is wrong.
        fix: what to do about it.
    """

    severity: Severity
    rule: str
    case_id: str
    path: str
    fact: str
    fix: str

    @classmethod
    def skipped(cls, rule: str, case_id: str, error: DataError) -> "Problem":
        """The problem of a case that a data fault keeps out of the store."""
        return cls("skipped", rule, case_id, str(error.where), error.fact, error.fix)


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write problems.json: ``{"problems": [{severity, rule, case_id, path, fact, fix}, …]}``."""
    write_json(path, {"problems": [asdict(problem) for problem in problems]})
