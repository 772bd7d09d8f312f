"""The report: one HTML file that opens anywhere, holds its pictures and asks for no network."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.files import replacing
from stages.evaluate.background import Background
from stages.evaluate.pictures import PREDICTION_COLOUR, TRUTH_COLOUR
from stages.evaluate.scores import CaseScores, badness, worst_first
from stages.evaluate.shown import duration, number, png, signed, sortable
from stages.evaluate.slice_error import SliceError
from stages.evaluate.summary import FEWEST_PATIENTS
from stages.evaluate.tiles import all_figures, tiles

# what a case's role is worth to the reader; a test case needs no mark
MARKS = {"train": "seen in training", "validation": "picked the model", "test": "", "": ""}


class Shown(Protocol):
    """A picture of a case: its PNG, and the slice with the largest error, if there is one."""

    @property
    def png(self) -> bytes: ...  # noqa: D102

    @property
    def error(self) -> SliceError | None: ...  # noqa: D102


@dataclass(frozen=True)
class Report:
    """What the report shows.

    Attributes:
        background: where the model comes from.
        scores: all cases of the table, in any order.
        counted: those of them that the summary is of.
        summary: what ``summarise`` made of these.
        distributions: PNG of how the scores are spread.
        pictures: the cases to show, in any order.
        tolerance_mm: of surface Dice.
    """

    background: Background
    scores: Sequence[CaseScores]
    counted: Sequence[CaseScores]
    summary: dict[str, Any]
    distributions: bytes
    pictures: Sequence[tuple[CaseScores, Shown]]
    tolerance_mm: float


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("stages.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, signed=signed, sortable=sortable, png=png, duration=duration
    )
    html = environment.get_template("report.html.j2").render(
        report=report,
        background=report.background,
        tiles=tiles(report.summary),
        folded=[all_figures(report.summary), *report.background.folded],
        cases=worst_first(report.scores),
        pictures=sorted(report.pictures, key=lambda pair: badness(pair[0])),
        marks=MARKS,
        fewest_patients=FEWEST_PATIENTS,
        truth_colour=TRUTH_COLOUR,
        prediction_colour=PREDICTION_COLOUR,
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8", newline="\n")
