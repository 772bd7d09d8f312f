"""What the report tells besides the scores: model, data, parameters, times."""

from collections.abc import Sequence
from dataclasses import dataclass

from stages.evaluate.known_problems import KnownProblems


@dataclass(frozen=True)
class Folded:
    """A table of texts that the reader unfolds.

    Attributes:
        title: what it is a table of.
        columns: the headings.
        rows: as many texts each as there are headings.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class StageTime:
    """How long a stage took.

    Attributes:
        stage: its name.
        seconds: None where nothing recorded it.
        note: what it did in that time.
    """

    stage: str
    seconds: float | None
    note: str = ""


@dataclass(frozen=True)
class Background:
    """Where the scored model comes from.

    Attributes:
        facts: pairs of a name and a value, in the order to show.
        folded: parameters and data in full.
        curves: PNG of the training's curves.
        problems: what stage one found; None if its list is not there.
        times: of the stages before.
    """

    facts: Sequence[tuple[str, str]]
    folded: Sequence[Folded]
    curves: bytes
    problems: KnownProblems | None
    times: Sequence[StageTime]
