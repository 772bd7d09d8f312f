"""The report: one HTML file that opens anywhere, holds its pictures and asks for no network."""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.files import replacing
from stages.evaluate.pictures import PREDICTION_COLOUR, TRUTH_COLOUR
from stages.evaluate.scores import CaseScores, badness, worst_first

DASH = "\N{EN DASH}"
# what a case's role is worth to the reader; a test case needs no mark
MARKS = {"train": "seen in training", "validation": "picked the model", "test": ""}


@dataclass(frozen=True)
class Report:
    """What the report shows.

    Attributes:
        facts: pairs of a name and a value, in the order to show: model, parameters, data.
        summary: what ``summarise`` made of the cases that count.
        scores: all cases of the table, in any order.
        curves: PNG of the training's curves.
        pictures: the cases to show, each with its PNG, in any order.
    """

    facts: Sequence[tuple[str, str]]
    summary: dict[str, Any]
    scores: Sequence[CaseScores]
    curves: bytes
    pictures: Sequence[tuple[CaseScores, bytes]]


def write_report(path: Path, report: Report) -> None:
    """Write the report as one HTML file, whole or not at all."""
    environment = Environment(
        loader=PackageLoader("stages.evaluate", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, signed=signed, sortable=sortable, png=png)
    html = environment.get_template("report.html.j2").render(
        report=report,
        tiles=_tiles(report.summary),
        cases=worst_first(report.scores),
        pictures=sorted(report.pictures, key=lambda pair: badness(pair[0])),
        marks=MARKS,
        truth_colour=TRUTH_COLOUR,
        prediction_colour=PREDICTION_COLOUR,
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8", newline="\n")


def number(value: float | None, digits: int) -> str:
    """A number with this many decimals; a dash for None and NaN, ∞ for infinity."""
    if value is None or math.isnan(value):
        return DASH
    return "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int) -> str:
    """The same with its sign; what rounds to zero has none."""
    text = number(value, digits)
    if value is None or not math.isfinite(value) or not float(text.replace(",", "")):
        return text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}") if value < 0 else f"+{text}"


def sortable(value: float) -> str:
    """The number for the table's sorting; empty for NaN, which sorts last."""
    return "" if math.isnan(value) else repr(value)


def png(data: bytes) -> str:
    """A picture as an address that holds the picture itself."""
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _tiles(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The summary as tiles: what it is of, mean, median, and how many cases had no value."""
    kinds: list[tuple[str, str, str, int, Callable[[float | None, int], str]]] = [
        ("Dice", "dice", "", 3, number),
        ("IoU", "iou", "", 3, number),
        ("HD95", "hd95_mm", "mm", 1, number),
        ("Volume error", "volume_error_ml", "ml", 0, signed),
        ("Volume error, absolute", "absolute_volume_error_ml", "ml", 0, number),
    ]
    return [
        {
            "name": name,
            "unit": unit,
            "mean": text(summary[key]["mean"], digits),
            "median": text(summary[key]["median"], digits),
            "undefined": summary[key]["undefined"],
        }
        for name, key, unit, digits, text in kinds
    ]
