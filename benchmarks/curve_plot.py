"""The race to accuracy as a picture: Dice against wall time, seeds thin, their mean thick."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

from benchmarks.race import Curve

COLOURS = ("#0072B2", "#D55E00")  # of Okabe and Ito, told apart by every kind of colour vision
DICE_TICKS = (0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.97, 0.98, 0.985, 0.99, 0.995)
DOTS_PER_INCH = 160


def plot_curves(
    path: Path, curves: Mapping[str, Sequence[Curve]], marks_s: Sequence[float], *, title: str
) -> None:
    """Draw all runners' curves.

    Args:
        path: of the PNG.
        curves: of every seed, by runner; all at the same moments.
        marks_s: where they are compared, seconds; thin lines.
        title: what is shown.
    """
    figure = Figure(figsize=(7.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for colour, (name, seeds) in zip(COLOURS, curves.items(), strict=False):
        moments = sorted(seeds[0])
        minutes = [moment / 60 for moment in moments]
        for curve in seeds:
            shown = [curve[moment] for moment in moments]
            axes.plot(minutes, shown, color=colour, linewidth=0.8, alpha=0.45)
        mean = [statistics.fmean(curve[moment] for curve in seeds) for moment in moments]
        axes.plot(minutes, mean, color=colour, linewidth=2.4, marker="o", markersize=3, label=name)
    for mark in marks_s:
        axes.axvline(mark / 60, color="#999999", linewidth=0.8, linestyle=":")
    axes.set_xlabel("wall time from the raw CTs, minutes")
    axes.set_ylabel("mean Dice of the validation CTs")
    # near one, half of what is missing counts as much as anywhere
    axes.set_yscale("function", functions=(_shown, _dice))
    axes.yaxis.set_major_locator(FixedLocator(DICE_TICKS))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
    axes.set_ylim(0, 1 - 0.8 * (1 - _best(curves)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, linewidth=0.4, alpha=0.6)
    axes.set_title(title, fontsize=10)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=DOTS_PER_INCH)


def _best(curves: Mapping[str, Sequence[Curve]]) -> float:
    return max(dice for seeds in curves.values() for curve in seeds for dice in curve.values())


def _shown(dice: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.log10(np.maximum(1 - np.asarray(dice), 1e-6))


def _dice(shown: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 - 10 ** -np.asarray(shown)
