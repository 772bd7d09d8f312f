"""A picture of a run's curves, as PNG bytes; the report of the evaluation shows it too."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# Okabe and Ito's, told apart by every kind of colour vision
COLOURS = {
    "train/loss": "#0072B2",
    "train/iou": "#56B4E9",
    "validation/dice": "#D55E00",
    "validation/iou": "#E69F00",
    "train/lr": "#009E73",
    "loader/waiting": "#CC79A7",
}
LABELS = {
    "validation/dice": "validation Dice",
    "validation/iou": "validation IoU",
    "train/iou": "training IoU",
}
MOST_DOTS = 40  # points of a curve, above which dots would only thicken the line
LEAST_WAITING = 0.05  # of the time at the panel's top: less than that is not worth a mountain
DOTS_PER_INCH = 160  # fills a 1000 px page on a screen of two pixels to one

History = Sequence[Mapping[str, float]]


def curves_picture(history: History) -> bytes:
    """Draw loss, overlap with the truth, learning rate and waiting for data against the epoch.

    Args:
        history: one row an epoch, with ``epoch`` and any of ``train/loss``, ``train/iou``,
            ``validation/dice``, ``validation/iou``, ``train/lr`` and ``loader/waiting``; what is
            missing or no number is left out. May be empty.

    Returns:
        A PNG on white, the best validation Dice marked; the same rows give the same bytes.
    """
    figure = Figure(figsize=(10.0, 6.0))
    # measured: matplotlib's own layouts take as long as all the rest
    figure.subplots_adjust(left=0.07, right=0.985, bottom=0.08, top=0.94, hspace=0.2, wspace=0.18)
    (loss, overlap), (rate, waiting) = figure.subplots(2, 2, sharex=True)
    _draw(loss, history, ["train/loss"], "Training loss")
    _draw(overlap, history, list(LABELS), "Overlap with the truth")
    overlap.set_ylim(top=1.03)
    _mark_best(overlap, history)
    _draw(rate, history, ["train/lr"], "Learning rate")
    _draw(waiting, history, ["loader/waiting"], "Share of the time waiting for data")
    waiting.set_ylim(top=max(LEAST_WAITING, waiting.get_ylim()[1]))
    waiting.yaxis.set_major_formatter(PercentFormatter(1.0))
    loss.set_xlim(0, max([2.0, *(row["epoch"] for row in history)]) * 1.02)
    loss.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    for lower in (rate, waiting):
        lower.set_xlabel("epoch")
    if overlap.lines:
        overlap.legend(frameon=False, fontsize=9)
    return _png(figure)


def _draw(axes: Axes, history: History, names: list[str], title: str) -> None:
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    for name in names:
        points = _points(history, name)
        # validation is often not run every epoch: dots show where it was
        style: dict[str, Any] = {"marker": "o", "markersize": 3} if len(points) <= MOST_DOTS else {}
        if points:
            style |= {"color": COLOURS[name], "label": LABELS.get(name)}
            axes.plot(*zip(*points, strict=True), **style)
    axes.set_ylim(bottom=0)
    if not axes.lines:
        axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center")


def _mark_best(axes: Axes, history: History) -> None:
    points = _points(history, "validation/dice")
    if points:
        epoch, dice = max(points, key=lambda point: point[1])
        label = f"best validation Dice, {dice:.3f}"
        axes.plot(epoch, dice, "*", color=COLOURS["validation/dice"], markersize=13, label=label)


def _points(history: History, name: str) -> list[tuple[float, float]]:
    """The (epoch, value) pairs of one curve, without rows that lack it or hold no number."""
    pairs = [(row["epoch"], row.get(name, math.nan)) for row in history]
    return [(epoch, value) for epoch, value in pairs if math.isfinite(value)]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # no Software entry: the same rows give the same bytes whichever matplotlib drew them
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
