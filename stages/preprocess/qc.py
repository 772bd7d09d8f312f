"""All cases of a data set on one page, to look through before training: ``data/qc.html``."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.grid import Triple, TripleMm
from stages.html_page import write_page
from stages.page_pictures import PagePictures, count_inside
from stages.preprocess.picture import OUTLINE_COLOUR
from stages.preprocess.problems import LEFT_OUT, Problem, Severity

IN_PAGE_BYTES = 15_000_000  # of pictures in the file itself: about 1500 to 2000
SHOWN: tuple[Severity, ...] = ("error", "skipped", "warning", "fixed")  # the gravest first
IGNORED: Severity = "ignored"
USES = {
    "liver": "liver",
    "other": "not liver",
    "undeclared": "not declared, not liver",
    "unseen": "not looked at, not liver",
    "negative": "not liver",
}
ProblemsOf = Mapping[str, list[Problem]]  # case id -> what is shown of it


@dataclass(frozen=True)
class Card:
    """What the page shows of one case.

    Attributes:
        case_id: name of the case; its problems are found by it.
        patient_id: the person; empty where it is unknown.
        picture: a JPEG; empty if there is none.
        liver_ml: volume of the liver; None where it is unknown.
        shape_zyx: voxels of the prepared case; None where there is none.
        spacing_zyx_mm: distance between voxel centres of the same.
        source_shape_zyx: voxels of the CT, turned to LPS as the prepared case is; None where
            that is not known.
        source_spacing_zyx_mm: distance between voxel centres of the same.
        label_counts: every value of the label, as in ``CaseInfo``.
    """

    case_id: str
    patient_id: str
    picture: bytes
    liver_ml: float | None
    shape_zyx: Triple | None
    spacing_zyx_mm: TripleMm | None
    label_counts: Sequence[Mapping[str, Any]] = ()
    source_shape_zyx: Triple | None = None
    source_spacing_zyx_mm: TripleMm | None = None


def write_qc(path: Path, cards: Iterable[Card], problems: Iterable[Problem]) -> None:
    """Write the page as an HTML file that asks for no network, whole or not at all.

    Cases with problems come first, then by id, 9 before 10. The same cases give the same bytes.
    The first pictures are in the file itself, up to 15 MB, all others in the folder ``qc_files``
    beside it, which is there in any case. The file is written card by card: in memory is what
    ``cards`` holds, and one card more.

    Args:
        path: the HTML file.
        cards: the cases, in any order. A case that is named by a problem alone gets a card
            without a picture.
        problems: those of all cases, in any order; ignored files are counted, not listed.
    """
    problems = list(problems)
    of_case = _by_case(problem for problem in problems if problem.severity != IGNORED)
    ordered = _in_order(cards, of_case)
    places = {card.case_id: place for place, card in enumerate(ordered, start=1)}
    sizes = [len(card.picture) for card in ordered if card.picture]
    inside = count_inside(sizes, IN_PAGE_BYTES)
    pictures = PagePictures(path, "jpeg", inside)
    values = {
        "counts": Counter(problem.severity for problem in problems),
        "cases": len(ordered),
        "left_out": sum(_is_left_out(card, of_case) for card in ordered),
        "severities": SHOWN,
        "grave": LEFT_OUT,
        "rows": sorted((one for listed in of_case.values() for one in listed), key=_gravest_first),
        "places": places,
        "cards": _views(ordered, of_case, pictures),
        "inside": inside,
        "beside": pictures.folder.name if len(sizes) > inside else "",
        "outline_colour": OUTLINE_COLOUR,
    }
    filters = (ml, size, spacing, counted)
    write_page(path, "stages.preprocess", "qc.html.j2", filters=filters, values=values)
    pictures.end()


def ml(value: float) -> str:
    """A volume without decimals, or with one below 10 ml, where it matters."""
    return f"{value:,.0f} ml" if value >= 10 else f"{value:.1f} ml"


def size(shape_zyx: Triple) -> str:
    """The voxels as x·y·z, as scanners and viewers name them."""
    return "·".join(str(side) for side in reversed(shape_zyx))


def spacing(spacing_zyx_mm: TripleMm) -> str:
    """The spacing as x·y·z in mm, to three digits."""
    return "·".join(f"{mm:.3g}" for mm in reversed(spacing_zyx_mm))


def counted(one: Mapping[str, Any]) -> str:
    """A value of a label in words: its name, voxels and volume, and what it is taken for."""
    name = f" {one['name']}" if one["name"] else ""
    volume = "" if one["ml"] is None else f", {ml(one['ml'])}"
    return f"{one['value']}{name}: {one['voxels']:,} voxels{volume}, {USES[one['use']]}"


def _by_case(problems: Iterable[Problem]) -> dict[str, list[Problem]]:
    """The problems of each case, the gravest first; those of no case under the empty id."""
    of_case: dict[str, list[Problem]] = {}
    for problem in sorted(problems, key=_gravest_first):
        of_case.setdefault(problem.case_id, []).append(problem)
    return of_case


def _in_order(cards: Iterable[Card], of_case: ProblemsOf) -> list[Card]:
    ordered = list(cards)
    missing = of_case.keys() - {card.case_id for card in ordered} - {""}
    ordered += [Card(case_id, "", b"", None, None, None) for case_id in missing]
    return sorted(ordered, key=lambda card: (card.case_id not in of_case, _natural(card.case_id)))


def _views(
    ordered: list[Card], of_case: ProblemsOf, pictures: PagePictures
) -> Iterator[dict[str, Any]]:
    """One card after the other as the template wants it; the text of a picture lives that long."""
    for card in ordered:
        yield {
            "card": card,
            "problems": of_case.get(card.case_id, []),
            "left_out": _is_left_out(card, of_case),
            "picture": pictures.address(card.picture) if card.picture else "",
        }


def _is_left_out(card: Card, of_case: ProblemsOf) -> bool:
    return any(problem.severity in LEFT_OUT for problem in of_case.get(card.case_id, []))


def _gravest_first(problem: Problem) -> tuple[Any, ...]:
    case = _natural(problem.case_id)
    return SHOWN.index(problem.severity), case, problem.path, problem.rule, problem.fact


def _natural(case_id: str) -> tuple[list[tuple[int, str]], str]:
    """A key that sorts 9 before 10; the id itself tells 1 from 01."""
    parts = re.split(r"([0-9]+)", case_id)  # text and digits take turns, so like meets like
    # by the count of digits, then digit by digit: Python makes no number of more than 4,300
    numbers = [part.lstrip("0") for part in parts]
    keys = zip(parts, numbers, strict=True)
    return [(len(n), n) if at % 2 else (0, part) for at, (part, n) in enumerate(keys)], case_id
