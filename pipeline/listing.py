"""What ``configure --src`` says of a folder of scans, and the list it writes where names fail."""

import csv
import io
from itertools import islice
from pathlib import Path

from cache.cells import cell_of
from cache.errors import DataError, SourceError
from pipeline.command import say
from pipeline.rewrite import rewrite
from stages.preprocess.layouts.detect import choose
from stages.preprocess.layouts.draft import Row, draft
from stages.preprocess.layouts.list_file import COLUMNS
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.untracked import untracked

NAME = "cases.csv"
SHOWN = 5  # things that dvc repro would stop at


def source_of(src: Path, folder: Path, layout: str) -> Path:
    """What ``data.src`` should name: the scans, or a list of them that is written here.

    Says how the scans are recognised. Where they are not, a cases.csv is written of what may be
    CTs and labels, beside the parameter file, and what is to be completed in it is said.

    Args:
        src: the folder of scans, or a list of them.
        folder: where the parameter file is.
        layout: ``data.layout``.

    Raises:
        DataError: the name of ``src`` cannot be written into a parameter file.
    """
    if not _is_text(src):
        raise DataError(src, "has a name that is not UTF-8, which no file can hold", "rename it")
    if not src.exists():
        return src
    _tell_untracked(src)
    try:
        say(choose(src, layout)[1])
    except SourceError as error:
        say(f"note: {error.where}: {error.fact}")
        rows = draft(src) if src.is_dir() else []
        return _written(rows, folder) if rows else src
    return src


def _written(rows: list[Row], folder: Path) -> Path:
    path = folder / NAME
    kept = [row for row in rows if all(map(_is_text, _paths(row)))]
    backup = rewrite(path, _table(kept, folder))
    if backup is not None:
        say(f"what {path} was is in {backup}")
    say(f"{path} lists what may be cases, and data.src names it: {_to_do(kept)}")
    if len(kept) < len(rows):
        say(f"note: {len(rows) - len(kept)} rows are not in it: their names are not UTF-8")
    return path


def _to_do(rows: list[Row]) -> str:
    """What somebody has to do with the list."""
    missing = {
        "ct": sum(row.ct is None for row in rows),
        "label": sum(row.label is None for row in rows),
    }
    asked = [f"{column} in {count} rows" for column, count in missing.items() if count]
    whole = sum(row.ct is not None and row.label is not None for row in rows)
    todo = f"complete {' and '.join(asked)}, and delete" if asked else "delete"
    return f"{whole} of {len(rows)} rows are whole; {todo} rows that are not for training"


def _table(rows: list[Row], folder: Path) -> str:
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for row in rows:
        table.writerow(
            {
                "ct": _cell(row.ct, folder),
                "label": _cell(row.label, folder),
                "case_id": cell_of(row.case_id),
                "patient_id": "",
            }
        )
    return text.getvalue()


def _cell(path: Path | None, folder: Path) -> str:
    """A path as the list has it: from its own folder on, or from the root."""
    if path is None:
        return ""
    whole, home = path.absolute(), folder.absolute()
    near = whole.relative_to(home) if whole.is_relative_to(home) else whole
    return cell_of(near.as_posix())


def _paths(row: Row) -> list[Path]:
    return [path for path in (row.ct, row.label) if path is not None]


def _tell_untracked(src: Path) -> None:
    found = untracked(Tree(src)) if src.is_dir() else iter(())
    for problem in islice(found, SHOWN):
        say(f"note: {problem.path}: {problem.fact}; {problem.fix}")
    if next(found, None) is not None:
        say("note: more of these are named by python -m pipeline.preprocess --check-only")


def _is_text(path: Path) -> bool:
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding, kept as surrogates
        return False
    return True
