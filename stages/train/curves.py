"""Curves and latest values in DVCLive's file layout: one TSV per metric, and metrics.json."""

import math
from pathlib import Path
from typing import Any

from cache.files import replacing, write_json
from stages.train.checkpoint import Row


def write_curves(folder: Path, history: list[Row]) -> None:
    """Write ``plots/metrics/<group>/<name>.tsv`` and ``metrics.json`` anew from all rows.

    Written whole every time, from the rows a checkpoint carries: a resumed run has no gap and no
    doubled row, and what an earlier run left is replaced.
    """
    names = sorted({name for row in history for name in row if name != "epoch"})
    curves = folder / "plots" / "metrics"
    for stale in set(curves.rglob("*.tsv")) - {curves / f"{name}.tsv" for name in names}:
        stale.unlink()
    for name in names:
        _write_tsv(curves / f"{name}.tsv", name.split("/")[-1], name, history)
    if history:
        write_json(folder / "metrics.json", _latest(history, names))
    else:
        (folder / "metrics.json").unlink(missing_ok=True)


def _write_tsv(path: Path, column: str, name: str, history: list[Row]) -> None:
    lines = [f"step\t{column}"]
    lines += [f"{row['epoch']:.0f}\t{row[name]:.6g}" for row in history if _is_number(row, name)]
    with replacing(path) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _latest(history: list[Row], names: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {"step": int(history[-1]["epoch"])}
    for name in names:
        rows = [row for row in history if _is_number(row, name)]
        if rows:
            group, _, leaf = name.rpartition("/")
            values.setdefault(group, {})[leaf] = rows[-1][name]
    return values


def _is_number(row: Row, name: str) -> bool:
    return name in row and math.isfinite(row[name])
