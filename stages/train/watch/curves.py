"""Curves and latest values in DVCLive's file layout: TSVs, a picture, and metrics.json."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.cells import cell_of
from cache.files import remove, replacing, write_json, write_text
from stages.train.checkpoints.checkpoint import Row
from stages.train.watch.picture import curves_picture

CASE_COLUMNS = ("epoch", "case", "dice", "iou")


def write_curves(
    folder: Path,
    history: list[Row],
    validations: Sequence[Mapping[str, Any]] = (),
    *,
    picture: bool = True,
) -> None:
    """Write what is below ``plots/``, and ``metrics.json``, anew from all rows.

    Written whole every time, from the rows a checkpoint carries: a resumed run has no gap and no
    doubled row, and what an earlier run left is replaced or removed. Without a row there is no
    file; a value that is not a number is left out, in the table of cases as an empty field.

    Args:
        folder: for ``plots/metrics/<group>/<name>.tsv``, ``plots/images/curves.png``,
            ``plots/validation_cases.csv`` and ``metrics.json``.
        history: a row per epoch.
        validations: a row per validation and case: ``epoch``, ``case``, ``dice``, ``iou``.
        picture: whether to draw the picture too, which takes longer than all the rest; if not,
            the one that is there stays.
    """
    names = sorted({name for row in history for name in row if name != "epoch"})
    plots = folder / "plots"
    curves = plots / "metrics"
    for stale in set(curves.rglob("*.tsv")) - {curves / f"{name}.tsv" for name in names}:
        stale.unlink()
    for name in names:
        _write_tsv(curves / f"{name}.tsv", name.split("/")[-1], name, history)
    _write_cases(plots / "validation_cases.csv", validations)
    if picture or not history:
        _write_picture(plots / "images" / "curves.png", history)
    if history:
        write_json(folder / "metrics.json", _latest(history, names))
    else:
        remove(folder / "metrics.json")


def _write_tsv(path: Path, column: str, name: str, history: list[Row]) -> None:
    lines = [f"step\t{column}"]
    lines += [f"{row['epoch']:.0f}\t{row[name]:.6g}" for row in history if _is_number(row, name)]
    write_text(path, "\n".join(lines) + "\n")


def _write_cases(path: Path, validations: Sequence[Mapping[str, Any]]) -> None:
    if not validations:
        remove(path)
        return
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(CASE_COLUMNS)
    for row in validations:
        scores = [f"{row[name]:.6g}" if _is_number(row, name) else "" for name in ("dice", "iou")]
        table.writerow([row["epoch"], cell_of(row["case"]), *scores])
    write_text(path, text.getvalue())


def _write_picture(path: Path, history: list[Row]) -> None:
    if not history:
        remove(path)
        return
    with replacing(path) as partial:
        partial.write_bytes(curves_picture(history))


def _latest(history: list[Row], names: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"step": int(history[-1]["epoch"])}
    for name in names:
        rows = [row for row in history if _is_number(row, name)]
        if rows:
            group, _, leaf = name.rpartition("/")
            values.setdefault(group, {})[leaf] = rows[-1][name]
    return values


def _is_number(row: Mapping[str, Any], name: str) -> bool:
    return name in row and math.isfinite(row[name])
