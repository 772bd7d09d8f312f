"""What stands in problems.json: every file that is not in the store, and every doubt."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from cache.errors import DataError
from cache.files import write_json
from cache.sealed import sealed
from stages.preprocess.policy import Policy

SCHEMA_VERSION = 1
Severity = Literal["error", "skipped", "fixed", "warning", "ignored"]
SEVERITIES: dict[Policy, Severity] = {
    "error": "error",
    "skip": "skipped",
    "warn": "warning",
    "fix": "fixed",
    "keep": "warning",  # an empty label that is meant looks like one that is not
    "ignore": "ignored",
}
LEFT_OUT: tuple[Severity, ...] = ("error", "skipped")  # of such a case, nothing is in the store


@dataclass(frozen=True)
class Finding:
    """A rule that is broken, before its policy has decided what follows.

    Attributes:
        rule: name of the rule, as in the ``rules:`` section of params.yaml.
        path: the file or folder at fault.
        fact: what is wrong, with numbers and units.
        fix: what to do about it.
        fixable: whether it can be mended where its rule's policy is ``fix``.
        stops: whether nothing is left to be prepared, whatever the policy is.
    """

    rule: str
    path: Path
    fact: str
    fix: str
    fixable: bool = False
    stops: bool = False

    def severity(self, policy: Policy) -> Severity:
        """What follows under a policy: what cannot be fixed or used is skipped."""
        if self.stops and SEVERITIES[policy] not in LEFT_OUT:
            return "skipped"
        return "skipped" if policy == "fix" and not self.fixable else SEVERITIES[policy]


@dataclass(frozen=True)
class Problem:
    """One line of problems.json.

    Attributes:
        severity: ``error`` (ends the run with exit code 2), ``skipped`` (the case is not in the
            store), ``fixed`` (it is, mended), ``warning`` (it is, look at it) or ``ignored``
            (a file that is no CT and no label of a case).
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
    def of(cls, finding: Finding, case_id: str, policy: Policy) -> "Problem":
        """What a finding becomes under a policy."""
        return cls(
            finding.severity(policy),
            finding.rule,
            case_id,
            str(finding.path),
            finding.fact,
            finding.fix,
        )

    @classmethod
    def skipped(cls, rule: str, case_id: str, error: DataError) -> "Problem":
        """The problem of a case that a fault of the machine keeps out of the store."""
        return cls("skipped", rule, case_id, str(error.where), error.fact, error.fix)

    @classmethod
    def ignored(cls, rule: str, case_id: str, path: Path, fact: str) -> "Problem":
        """The problem of a file that is no CT and no label of a case, which is no fault."""
        return cls("ignored", rule, case_id, str(path), fact, "-")


def write_problems(
    path: Path, problems: Iterable[Problem], labels: Mapping[str, list[dict[str, Any]]]
) -> None:
    """Write problems.json, whose schema docs/problems.md describes.

    ``{"schema_version": 1, "counts": {severity: n, …}, "problems": [{severity, rule, case_id,
    path, fact, fix}, …], "labels": {case_id: [{value, name, voxels, ml, use}, …], …}, "sha256":
    …}``, sorted by case, path and rule.

    Args:
        path: the file.
        problems: in any order.
        labels: every value of each case's label.
    """
    listed = sorted(problems, key=lambda one: (one.case_id, one.path, one.rule, one.fact))
    fields = {
        "schema_version": SCHEMA_VERSION,
        "counts": dict(Counter(problem.severity for problem in listed)),
        "problems": [asdict(problem) for problem in listed],
        "labels": dict(sorted(labels.items())),
    }
    write_json(path, sealed(fields))
