"""The report: an HTML page that opens anywhere and asks for no network.

It is one file as long as its pictures fit into 30 MB; of more, those of the better cases are in a
folder beside it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stages.evaluate.background import Background
from stages.evaluate.pictures import PREDICTION_COLOUR, TRUTH_COLOUR
from stages.evaluate.scores import CaseScores, badness, worst_first
from stages.evaluate.shown import duration, number, png, signed, sortable
from stages.evaluate.slice_error import SliceError
from stages.evaluate.summary import FEWEST_PATIENTS
from stages.evaluate.tiles import all_figures, tiles
from stages.html_page import write_page
from stages.page_pictures import PagePictures, count_inside, png_size

IN_PAGE_BYTES = 30_000_000  # of pictures in the file itself: about 40 of CTs of 512·512 voxels
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
    """Write the report, whole or not at all.

    The pictures of the worst cases are in the HTML file, up to 30 MB; those of all others in the
    folder ``report_files`` beside it, which is there in any case. In memory is one at a time.

    Args:
        path: the HTML file.
        report: what it shows.
    """
    ordered = sorted(report.pictures, key=lambda pair: badness(pair[0]))
    inside = count_inside((len(picture.png) for _, picture in ordered), IN_PAGE_BYTES)
    pictures = PagePictures(path, "png", inside)
    values = {
        "report": report,
        "background": report.background,
        "tiles": tiles(report.summary),
        "fewest_patients": FEWEST_PATIENTS,
        "folded": [all_figures(report.summary), *report.background.folded],
        "cases": worst_first(report.scores),
        "pictures": _views(ordered, pictures),
        "has_pictures": bool(ordered),
        "inside": inside,
        "beside": pictures.folder.name if len(ordered) > inside else "",
        "marks": MARKS,
        "truth_colour": TRUTH_COLOUR,
        "prediction_colour": PREDICTION_COLOUR,
    }
    filters = (number, signed, sortable, png, duration)
    write_page(path, "stages.evaluate", "report.html.j2", filters=filters, values=values)
    pictures.end()


def _views(
    ordered: list[tuple[CaseScores, Shown]], pictures: PagePictures
) -> Iterator[dict[str, Any]]:
    """One picture after the other as the template wants it."""
    for case, picture in ordered:
        content = picture.png
        address = pictures.address(content)
        # what is loaded late must have its size before, or the page would jump
        size = None if address.startswith("data:") else png_size(content)
        yield {"case": case, "error": picture.error, "address": address, "size": size}
