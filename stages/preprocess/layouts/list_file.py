"""A list that names the CT and label of every case: cases.csv or cases.json."""

import csv
import io
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cache.cells import text_of
from cache.errors import SourceError
from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case
from stages.preprocess.layouts.list_ids import Named, ids_of
from stages.preprocess.layouts.pairs import claim_of, named_path
from stages.preprocess.layouts.texts import read_json, read_text
from stages.preprocess.layouts.tree import Tree

NAMES = ("cases.csv", "cases.json")
COLUMNS = ("ct", "label", "case_id", "patient_id")
NEEDED = ("ct", "label")
EXAMPLE = (
    "cases.csv with the columns ct,label and, if you like, case_id,patient_id; or cases.json with "
    "a list of objects of these keys"
)
DELIMITERS = "\t;,"


@dataclass(frozen=True)
class Row:
    """One case of the list.

    Attributes:
        at: where in the list it stands, as in "line 3".
        cells: a text for each of ``COLUMNS``, empty where there is none.
    """

    at: str
    cells: dict[str, str]


def _sign(tree: Tree) -> str | None:
    path = _list_of(tree)
    return f"{path.name} lists the cases" if path else None


def _find(tree: Tree) -> Found:
    path = _list_of(tree)
    if path is None:
        raise SourceError(tree.root, "holds no list of cases", f"write {EXAMPLE}")
    rows = list(_json_rows(path) if path.suffix.lower() == ".json" else _csv_rows(path))
    if not rows:
        raise SourceError(path, "lists no cases", f"write it as {EXAMPLE}")
    ids = ids_of(path, [_named(path, row) for row in rows])
    claims = gathered(zip(ids, [_claim(path, row) for row in rows], strict=True))
    return Found(claims, [no_case(path, "lists the cases")], f"is not named in {path.name}")


def _list_of(tree: Tree) -> Path | None:
    """The folder's list, or the very file that was given instead of a folder."""
    if tree.root.suffix.lower() in (".csv", ".json") and tree.root.is_file():
        return tree.root
    return next(
        (path for name in NAMES for path in tree.files(tree.root) if path.name == name), None
    )


def _named(path: Path, row: Row) -> Named:
    file = row.cells["ct"] or row.cells["label"]
    if not file:
        raise SourceError(path, f"{row.at} names no CT and no label", "name both, or remove it")
    return Named(row.at, row.cells["case_id"], named_path(path.parent, file))


def _claim(path: Path, row: Row) -> Claim:
    cts, labels = (
        [named_path(path.parent, row.cells[key])] if row.cells[key] else [] for key in NEEDED
    )
    claim = claim_of(cts, labels, named_in=f"{path.name}, {row.at},")
    return replace(claim, patient_id=row.cells["patient_id"] or None)


def _csv_rows(path: Path) -> Iterator[Row]:
    """The rows of a table with a heading, its cells parted by comma, semicolon or tab.

    Raises:
        SourceError: it is no such table; names the line.
    """
    text = read_text(path)
    heading = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = next((mark for mark in DELIMITERS if mark in heading), ",")
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    try:
        for cells in reader:
            at, cells = f"line {reader.line_num}", [text_of(cell.strip()) for cell in cells]
            if not any(cells):
                continue
            if columns is None:
                columns = [cell.lower() for cell in cells]
                _require_columns(path, at, columns)
            else:
                yield _row(path, at, columns, cells)
    except csv.Error as error:
        raise SourceError(path, f"line {reader.line_num}: {error}", "mend that line") from error


def _row(path: Path, at: str, columns: list[str], cells: list[str]) -> Row:
    if len(cells) > len(columns):
        fact = f"{at} has {len(cells)} cells, but there are {len(columns)} columns"
        raise SourceError(
            path, fact, 'put "quotation marks" around a cell with the delimiter in it'
        )
    return Row(at, dict.fromkeys(COLUMNS, "") | dict(zip(columns, cells, strict=False)))


def _json_rows(path: Path) -> Iterator[Row]:
    """The objects of a list.

    Raises:
        SourceError: it is no list of objects with texts or numbers; names the entry.
    """
    entries = read_json(path)
    if not isinstance(entries, list):
        fact = f"is a JSON {type(entries).__name__}, not a list"
        raise SourceError(path, fact, f"write it as {EXAMPLE}")
    for number, entry in enumerate(entries, 1):
        at = f"entry {number}"
        if not isinstance(entry, dict):
            raise SourceError(path, f"{at} is not an object", f"write it as {EXAMPLE}")
        _require_columns(path, at, list(entry))
        yield Row(at, {key: _text(path, at, entry.get(key)) for key in COLUMNS})


def _text(path: Path, at: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        fact = f"{at} has {reprlib.repr(value)}, which is not text"
        raise SourceError(path, fact, f"write it as {EXAMPLE}")
    return str(value).strip()


def _require_columns(path: Path, at: str, columns: list[str]) -> None:
    unknown = [column for column in columns if column not in COLUMNS]
    missing = [column for column in NEEDED if column not in columns]
    repeated = [column for column, count in Counter(columns).items() if count > 1]
    for fault, names in (("lacks", missing), ("has unknown", unknown), ("repeats", repeated)):
        if names:
            fact = f"{at} {fault} {', '.join(map(repr, names))}"
            raise SourceError(path, fact, f"write it as {EXAMPLE}")


LAYOUT = Layout("list", EXAMPLE, _sign, _find)
