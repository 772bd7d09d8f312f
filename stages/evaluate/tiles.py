"""The summary as the report shows it: a tile for the main scores, a table for all of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stages.evaluate.background import Folded
from stages.evaluate.shown import DASH, number, signed

Text = Callable[[float | None, int], str]


@dataclass(frozen=True)
class Kind:
    """How one score of the summary is shown.

    Attributes:
        key: its name in metrics.json.
        name: its name for people.
        unit: of its values; empty for shares.
        digits: decimals.
        text: what makes a text of a value.
        has_tile: whether it is one of the main scores.
    """

    key: str
    name: str
    unit: str
    digits: int
    text: Text = number
    has_tile: bool = False


@dataclass(frozen=True)
class Tile:
    """A score of the summary as texts; a figure that is not defined is a dash.

    ``no_interval`` says why there is no interval, and is empty where there is one.
    """

    name: str
    unit: str
    mean: str
    interval: str
    no_interval: str
    median: str
    sd: str
    undefined: int


KINDS = (
    Kind("dice", "Dice", "", 3, has_tile=True),
    Kind("surface_dice", "Surface Dice", "", 3, has_tile=True),
    Kind("hd95_mm", "HD95", "mm", 1, has_tile=True),
    Kind("assd_mm", "ASSD", "mm", 2, has_tile=True),
    Kind("absolute_volume_error_ml", "Absolute volume error", "ml", 0, has_tile=True),
    Kind("absolute_volume_error_percent", "Absolute volume error", "%", 1),
    Kind("volume_error_ml", "Volume error", "ml", 0, signed),
    Kind("iou", "IoU", "", 3),
    Kind("sensitivity", "Sensitivity", "", 3),
    Kind("precision", "Precision", "", 3),
)


def tiles(summary: dict[str, Any]) -> list[Tile]:
    """The main scores."""
    return [_tile(kind, summary[kind.key]) for kind in KINDS if kind.has_tile]


def all_figures(summary: dict[str, Any]) -> Folded:
    """Every score of the summary, a row each."""
    columns = ("Score", "Mean", "95 % interval of the mean", "Median", "SD", "Without a value")
    rows = []
    for kind in KINDS:
        tile = _tile(kind, summary[kind.key])
        name = f"{kind.name}, {kind.unit}" if kind.unit else kind.name
        rows.append((name, tile.mean, tile.interval, tile.median, tile.sd, str(tile.undefined)))
    return Folded("All scores of the summary", columns, rows)


def _tile(kind: Kind, figures: dict[str, Any]) -> Tile:
    mean, median, low, high = (
        kind.text(figures[name], kind.digits)
        for name in ("mean", "median", "ci95_low", "ci95_high")
    )
    missing = figures["ci95_missing"] or ""
    interval = DASH if missing else f"{low} to {high}"
    sd = number(figures["sd"], kind.digits)
    return Tile(kind.name, kind.unit, mean, interval, missing, median, sd, figures["undefined"])
