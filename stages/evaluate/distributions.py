"""How the cases' scores are spread, as PNG bytes: a dot for each case, and boxes."""

import io
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from stages.evaluate.scores import CaseScores

# Okabe and Ito's, told apart by every kind of colour vision
DOT_COLOUR = "#0072B2"
BOX_COLOUR = "#D55E00"
LEAST_FOR_A_BOX = 5  # quartiles of fewer cases say nothing
GOLDEN = 0.618034  # its multiples, modulo one, never crowd
SPREAD = 0.8  # of the dots to the sides, where a panel is 1.6 wide
MARGIN = 1.12  # of an axis beyond the farthest dot
DOTS_PER_INCH = 160  # fills a 1000 px page on a screen of two pixels to one

SHARES = (("dice", "Dice"), ("surface_dice", "Surface Dice"))


def distributions_picture(scores: Sequence[CaseScores], counted: Sequence[CaseScores]) -> bytes:
    """Draw Dice, surface Dice, HD95 and volume error of each case, and volume against volume.

    Cases that count have filled dots, the others hollow ones; the boxes are of those that count:
    median, quartiles, and whiskers to the farthest dot within 1.5 times the quartiles' distance.
    Cases without a finite value are told under their panel.

    Args:
        scores: all cases; may be none.
        counted: those of them that the summary is of.

    Returns:
        A PNG on white; the same scores give the same bytes.
    """
    figure = Figure(figsize=(12.0, 3.7))
    figure.subplots_adjust(left=0.04, right=0.99, bottom=0.17, top=0.9, wspace=0.42)
    panels = figure.subplots(1, 5, width_ratios=[1, 1, 1, 1, 2])
    for panel, (name, title) in zip(panels, SHARES, strict=False):
        lowest = _strip(panel, name, scores, counted)
        panel.set_title(title, fontsize=11)
        panel.set_ylim(max(-0.02, 1 - MARGIN * max(0.1, 1 - min(lowest, default=1.0))), 1.01)
    _distance(panels[2], scores, counted)
    _error(panels[3], scores, counted)
    _volumes(panels[4], scores, counted)
    return _png(figure)


def _distance(panel: Axes, scores: Sequence[CaseScores], counted: Sequence[CaseScores]) -> None:
    values = _strip(panel, "hd95_mm", scores, counted)
    panel.set_title("HD95, mm", fontsize=11)
    panel.set_ylim(0, MARGIN * max(1.0, *values, 0))


def _error(panel: Axes, scores: Sequence[CaseScores], counted: Sequence[CaseScores]) -> None:
    values = _strip(panel, "volume_error_ml", scores, counted)
    panel.axhline(0, color="#888888", linewidth=0.9, zorder=1)
    panel.set_title("Volume error, ml", fontsize=11)
    limit = MARGIN * max(1.0, *(abs(value) for value in values), 0)
    panel.set_ylim(-limit, limit)


def _volumes(panel: Axes, scores: Sequence[CaseScores], counted: Sequence[CaseScores]) -> None:
    """The predicted volume against the truth's; on the line they are equal."""
    ids = {one.case_id for one in counted}
    top = 1.08 * max([1.0, *(max(one.volume_ml, one.reference_volume_ml) for one in scores)])
    panel.plot([0, top], [0, top], color="#888888", linewidth=0.9, zorder=1)
    dots = [(one.reference_volume_ml, one.volume_ml, one.case_id in ids) for one in scores]
    _draw_dots(panel, dots)
    panel.set(xlim=(0, top), ylim=(0, top), aspect="equal", anchor="W")
    panel.set_title("Volume, ml", fontsize=11)
    panel.set_xlabel("reference")
    panel.set_ylabel("predicted")
    _plain(panel)


def _strip(
    panel: Axes, name: str, scores: Sequence[CaseScores], counted: Sequence[CaseScores]
) -> list[float]:
    """Draw one score of each case; gives the finite values."""
    ids = {one.case_id for one in counted}
    finite = sorted(
        (float(getattr(one, name)), one.case_id in ids)
        for one in scores
        if math.isfinite(getattr(one, name))
    )
    aside = [SPREAD * (rank * GOLDEN % 1 - 0.5) for rank in range(len(finite))]
    if len(finite) == 1:
        aside = [0.0]
    _draw_dots(panel, [(x, *pair) for x, pair in zip(aside, finite, strict=True)])
    boxed = [value for value, counts in finite if counts]
    if len(boxed) >= LEAST_FOR_A_BOX:
        lines = {"color": BOX_COLOUR, "linewidth": 1.3}
        panel.boxplot(
            boxed, positions=[0], widths=0.9, showfliers=False, manage_ticks=False, zorder=2,
            boxprops=lines, whiskerprops=lines, capprops=lines,
            medianprops={**lines, "linewidth": 2.2},
        )  # fmt: skip
    panel.set(xlim=(-0.8, 0.8), xticks=[])
    panel.set_xlabel(_without(name, scores), fontsize=9)
    _plain(panel)
    return [value for value, _ in finite]


def _without(name: str, scores: Sequence[CaseScores]) -> str:
    """How many cases have no dot, and why."""
    values = [getattr(one, name) for one in scores]
    infinite, undefined = sum(map(math.isinf, values)), sum(map(math.isnan, values))
    told = [(infinite, "infinite"), (undefined, "undefined")]
    return "\n".join(f"{count} {word}" for count, word in told if count)


def _draw_dots(panel: Axes, dots: Sequence[tuple[float, float, bool]]) -> None:
    """Draw dots at (x, y), filled or hollow."""
    for is_filled in (False, True):
        chosen = [(x, y) for x, y, filled in dots if filled == is_filled]
        if chosen:
            panel.plot(
                *zip(*chosen, strict=True), "o", markersize=4.5, alpha=0.75, clip_on=False,
                markerfacecolor=DOT_COLOUR if is_filled else "none", markeredgecolor=DOT_COLOUR,
            )  # fmt: skip


def _plain(panel: Axes) -> None:
    panel.grid(alpha=0.3, axis="y")
    panel.spines[["top", "right"]].set_visible(False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # no Software entry: the same scores give the same bytes whichever matplotlib drew them
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
