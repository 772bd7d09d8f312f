"""What is found about one case, written down as it is found."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cache.errors import SourceError
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import LEFT_OUT, Finding, Problem

T = TypeVar("T")


@dataclass
class Ledger:
    """What is found about one case, and whether it can still go into the store."""

    case_id: str
    rules: RulesParams
    findings: list[Finding] = field(default_factory=list)
    label_counts: list[dict[str, Any]] = field(default_factory=list)  # as in ``CaseInfo``

    def note(self, *findings: Finding | None) -> None:
        """Write down what is broken."""
        self.findings += [finding for finding in findings if finding is not None]

    def attempt(self, step: Callable[[], T]) -> T | None:
        """What a step gives; None if a rule makes it impossible, which is written down."""
        try:
            return step()
        except SourceError as error:
            self.note(finding_of(error))
            return None

    def fixes(self, rule: str) -> bool:
        """Whether what breaks this rule is to be mended."""
        return self.rules.policy(rule) == "fix"

    @property
    def problems(self) -> list[Problem]:
        """The findings under their policies."""
        return [
            Problem.of(finding, self.case_id, self.rules.policy(finding.rule))
            for finding in self.findings
        ]

    @property
    def is_out(self) -> bool:
        """Whether some finding keeps the case out of the store."""
        return any(problem.severity in LEFT_OUT for problem in self.problems)


def finding_of(error: SourceError) -> Finding:
    """A fault met while reading, as the finding of its rule, which nothing can follow."""
    return Finding(error.rule, Path(error.where), error.fact, error.fix, stops=True)
