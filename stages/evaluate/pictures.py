"""Pictures of cases for the report, as PNG bytes: both outlines on the CT."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from stages.evaluate.overlap import AnyMask, as_bool

SOFT_TISSUE_HU = (-160.0, 240.0)
# blue and orange of Okabe and Ito, told apart by every kind of colour vision
TRUTH_COLOUR = "#56B4E9"
PREDICTION_COLOUR = "#E69F00"
LETTER_COLOUR = "#dddddd"
PANEL_INCH = 3.2
NARROWEST, WIDEST = 0.5, 1.4  # a panel's width over its height
# 160 per inch fills a 1000 px page on a screen of two pixels to one
DOTS_PER_INCH = 160


def case_picture(
    volume: NDArray[np.int16],
    truth: AnyMask,
    prediction: AnyMask,
    *,
    spacing_zyx_mm: Sequence[float],
    hu_window: tuple[float, float] | None,
) -> bytes:
    """Draw three axial slices and a coronal one with both outlines.

    The axial slices lie at 25, 50 and 75 % of the liver's height, the coronal one where the
    liver is largest; the liver is the truth's, or else the prediction's, or else everything.
    Shown as radiologists do: the patient's left is on the right, the head is up.

    Args:
        volume: (Z, Y, X) int16 in HU on an LPS grid with z towards the head.
        truth: the same shape, uint8 of 0 and 1, or bool; may be empty.
        prediction: the same.
        spacing_zyx_mm: distance between voxel centres.
        hu_window: (low, high) HU shown black and white; None shows soft tissue, -160 to 240.

    Returns:
        A PNG on black, so that it suits a light and a dark page.
    """
    masks = as_bool(truth, "truth"), as_bool(prediction, "prediction")
    axials, coronal = _slices(next((mask for mask in masks if mask.any()), np.ones_like(masks[0])))
    z, y, x = spacing_zyx_mm
    views = [(f"axial, slice {at}", "RLAP", y / x) for at in axials]
    views.append((f"coronal, row {coronal}", "RLHF", z / x))
    planes = _planes(volume, axials, coronal)
    outlines = zip(*(_planes(mask, axials, coronal) for mask in masks), strict=True)
    panels, figure = _panels(
        [_width(p, tall) for p, (_, _, tall) in zip(planes, views, strict=True)]
    )
    low, high = hu_window or SOFT_TISSUE_HU
    for panel, plane, pair, view in zip(panels, planes, outlines, views, strict=True):
        title, ends, tall = view
        panel.imshow(plane, cmap="gray", vmin=low, vmax=high, aspect=tall)
        _draw_outlines(panel, *pair)
        _name_sides(panel, title, ends)
    return _png(figure)


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


def _name_sides(panel: Axes, title: str, ends: str) -> None:
    """Title a slice, and write what lies on its left, right, top and bottom."""
    panel.set_axis_off()
    panel.set_title(title, color=LETTER_COLOUR, fontsize=10, pad=4)
    places = [(0.015, 0.5), (0.985, 0.5), (0.5, 0.985), (0.5, 0.015)]
    aligned = [("left", "center"), ("right", "center"), ("center", "top"), ("center", "bottom")]
    for letter, place, (ha, va) in zip(ends, places, aligned, strict=True):
        text = panel.text(*place, letter, transform=panel.transAxes, ha=ha, va=va)
        text.set(color=LETTER_COLOUR, fontsize=9)
        # a black rim, since a letter may lie on bright tissue
        text.set_path_effects([withStroke(linewidth=1.5, foreground="black")])


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # no Software entry: the same data give the same bytes whichever matplotlib drew them
    figure.savefig(buffer, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()
