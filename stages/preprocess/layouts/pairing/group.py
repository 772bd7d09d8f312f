"""CTs and labels that are in one place and belong together by their names."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stages.preprocess.layouts.layout import Claim, gathered
from stages.preprocess.problems import Problem


@dataclass(frozen=True)
class Group:
    """What was found in one place.

    Attributes:
        where: the folder in which the cases are.
        how: in a few words, by what CTs and labels were put together.
        claims: by the case's id; at least one has both a CT and a label.
        ignored: what is there and is known to be no training case, with the reason.
    """

    where: Path
    how: str
    claims: dict[str, Claim]
    ignored: list[Problem] = field(default_factory=list)

    @property
    def pair(self) -> tuple[Path, Path] | None:
        """A CT and its label, as an example; None if no case is without doubt."""
        sure = sorted(case_id for case_id, claim in self.claims.items() if is_pair(claim))
        return (self.claims[sure[0]].cts[0], self.claims[sure[0]].labels[0]) if sure else None


def is_pair(claim: Claim) -> bool:
    """Whether a claim is one CT and one label, and nothing is wrong with it."""
    return len(claim.cts) == len(claim.labels) == 1 and not claim.findings


def group_of(
    where: Path, how: str, pieces: Iterable[tuple[str, Claim]], ignored: Iterable[Problem] = ()
) -> Group | None:
    """A group; None where no case has both a CT and a label."""
    claims = gathered(pieces)
    if not any(claim.cts and claim.labels for claim in claims.values()):
        return None
    return Group(where, how, claims, list(ignored))
