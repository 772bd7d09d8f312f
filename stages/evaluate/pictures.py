"""Pictures of cases for the report, as PNG bytes: both outlines on the CT, and the worst slice."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stages.evaluate.overlap import AnyMask, as_bool
from stages.evaluate.slice_error import SliceError, largest_error

SOFT_TISSUE_HU = (-160.0, 240.0)
# blue and orange of Okabe and Ito, told apart by every kind of colour vision
TRUTH_COLOUR = "#56B4E9"
PREDICTION_COLOUR = "#E69F00"
TINT = 0.75  # opacity of what differs: the CT still shows through
LETTER_COLOUR = "#dddddd"
PANEL_INCH = 3.2
NARROWEST, WIDEST = 0.5, 1.4  # a panel's width over its height
# 160 per inch fills a 1000 px page on a screen of two pixels to one
DOTS_PER_INCH = 160


@dataclass(frozen=True)
class Picture:
    """A case as the report shows it.

    Attributes:
        png: slices on black, which suits a light and a dark page.
        error: the slice with the largest error, the last one drawn; None if nothing differs.
    """

    png: bytes
    error: SliceError | None


def case_picture(
    volume: NDArray[np.int16],
    truth: AnyMask,
    prediction: AnyMask,
    *,
    spacing_zyx_mm: Sequence[float],
    hu_window: tuple[float, float] | None,
) -> Picture:
    """Draw three axial slices and a coronal one with both outlines, and the worst axial one.

    The axial slices lie at 25, 50 and 75 % of the liver's height, the coronal one where the
    liver is largest; the liver is the truth's, or else the prediction's, or else everything.
    In the axial slice with the most differing voxels, missed liver is tinted in the truth's colour
    and what was wrongly taken for liver in the prediction's.
    Shown as radiologists do: the patient's left is on the right, the head is up.

    Args:
        volume: (Z, Y, X) int16 in HU on an LPS grid with z towards the head.
        truth: the same shape, uint8 of 0 and 1, or bool; may be empty.
        prediction: the same.
        spacing_zyx_mm: distance between voxel centres.
        hu_window: (low, high) HU shown black and white; None shows soft tissue, -160 to 240.
    """
    masks = as_bool(truth, "truth"), as_bool(prediction, "prediction")
    axials, coronal = _slices(next((mask for mask in masks if mask.any()), np.ones_like(masks[0])))
    error = largest_error(*masks, spacing_zyx_mm)
    worst = axials[1] if error is None else error.index
    views = _views(axials, coronal, error, spacing_zyx_mm)
    planes, *outlines = (
        [*_planes(array, axials, coronal), array[worst]] for array in (volume, *masks)
    )
    panels, figure = _panels([_width(p, v.tall) for p, v in zip(planes, views, strict=True)])
    low, high = hu_window or SOFT_TISSUE_HU
    for panel, plane, view, *pair in zip(panels, planes, views, *outlines, strict=True):
        panel.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=view.tall)
        if panel is panels[-1]:
            _tint_errors(panel, *pair, tall=view.tall)
        else:
            _draw_outlines(panel, *pair)
        _name_sides(panel, view)
    return Picture(_png(figure), error)


@dataclass(frozen=True)
class _View:
    """How a slice is shown: its title, its four sides, a voxel's height over its width."""

    title: str
    ends: str
    tall: float


def _views(
    axials: list[int], coronal: int, error: SliceError | None, spacing_zyx_mm: Sequence[float]
) -> list[_View]:
    z, y, x = spacing_zyx_mm
    worst = "no error" if error is None else f"largest error, slice {error.index}"
    return [
        *(_View(f"axial, slice {at}", "RLAP", y / x) for at in axials),
        _View(f"coronal, row {coronal}", "RLHF", z / x),
        _View(worst, "RLAP", y / x),
    ]


def _slices(liver: NDArray[np.bool_]) -> tuple[list[int], int]:
    """The slices at 25, 50 and 75 % of a mask's height, and the row where it is largest."""
    inside = np.flatnonzero(liver.any(axis=(1, 2)))
    first, last = int(inside[0]), int(inside[-1])
    axials = [round(first + share * (last - first)) for share in (0.25, 0.5, 0.75)]
    areas = np.count_nonzero(liver, axis=(0, 2))
    largest = np.flatnonzero(areas == areas.max())
    return axials, int(largest[largest.size // 2])


def _planes(array: NDArray[Any], axials: list[int], coronal: int) -> list[NDArray[Any]]:
    """The pictured slices as a screen has them: first row on top, and so the head."""
    return [*(array[at] for at in axials), array[::-1, coronal]]


def _width(plane: NDArray[Any], tall: float) -> float:
    """A panel's width over its height, where a voxel is ``tall`` times as high as wide."""
    width = float(plane.shape[1] / (plane.shape[0] * tall))
    # a crop of few slices is a strip: it gets black above and below, not a picture of its length
    return min(max(width, NARROWEST), WIDEST)


def _panels(widths: list[float]) -> tuple[list[Axes], Figure]:
    """Black panels side by side, all of one height, with room for a title."""
    figure = Figure(figsize=(PANEL_INCH * sum(widths), PANEL_INCH * 1.09), facecolor="black")
    figure.subplots_adjust(left=0, right=1, bottom=0, top=0.92, wspace=0.02)
    return list(figure.subplots(1, len(widths), width_ratios=widths)), figure


def _draw_outlines(panel: Axes, truth: NDArray[np.bool_], prediction: NDArray[np.bool_]) -> None:
    """The truth thick, the prediction thin upon it: where they agree both can be seen."""
    for mask, colour, width in ((truth, TRUTH_COLOUR, 2.8), (prediction, PREDICTION_COLOUR, 1.2)):
        if mask.any():
            rows, columns = (np.arange(-1, side + 1) for side in mask.shape)
            # a rim of background, or a liver cut by the border would have an open outline
            panel.contour(
                columns, rows, np.pad(mask, 1), levels=[0.5], colors=colour, linewidths=width
            )


def _tint_errors(
    panel: Axes, truth: NDArray[np.bool_], prediction: NDArray[np.bool_], *, tall: float
) -> None:
    """Colour missed liver as the truth, and what was wrongly taken for liver as the prediction."""
    tint = np.zeros((*truth.shape, 4))
    tint[truth & ~prediction] = to_rgba(TRUTH_COLOUR, TINT)
    tint[prediction & ~truth] = to_rgba(PREDICTION_COLOUR, TINT)
    panel.imshow(tint, interpolation="nearest", aspect=tall)


def _name_sides(panel: Axes, view: _View) -> None:
    """Title a slice, and write what lies on its left, right, top and bottom."""
    panel.set_axis_off()
    panel.set_title(view.title, color=LETTER_COLOUR, fontsize=12, pad=4)
    places = [(0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015)]
    aligned = [("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom")]
    for letter, place, (ha, va) in zip(view.ends, places, aligned, strict=True):
        text = panel.text(*place, letter, transform=panel.transAxes, ha=ha, va=va)
        text.set(color=LETTER_COLOUR, fontsize=11)
        # a black rim, since a letter may lie on bright tissue
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # no Software entry: the same data give the same bytes whichever matplotlib drew them
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
