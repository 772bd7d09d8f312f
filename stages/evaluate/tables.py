"""Scores as tables: cases.csv, metrics.json, and what a command prints."""

import csv
import math
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from cache.cells import cell_of
from cache.files import replacing, write_json
from stages.evaluate.scores import CaseScores, worst_first
from stages.evaluate.summary import DECIMALS

SHOWN = 12  # cases in the printed table, the worst ones


def write_metrics_json(path: Path, summary: dict[str, Any]) -> None:
    """Write a summary as JSON for DVC, whole or not at all.

    Raises:
        ValueError: the summary holds NaN or inf, which JSON has no word for.
    """
    write_json(path, summary)


def write_cases_csv(path: Path, scores: Sequence[CaseScores]) -> None:
    """Write one row a case, worst Dice first, whole or not at all.

    Numbers have four decimals; NaN is an empty field, infinity is ``inf``. Names that a
    spreadsheet would take for formulas begin with an apostrophe (``cache.cells``).
    """
    names = [field.name for field in fields(CaseScores)]
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, lineterminator="\n")
        writer.writeheader()
        for case in worst_first(scores):
            writer.writerow({name: _cell(value) for name, value in asdict(case).items()})


def case_lines(scores: Sequence[CaseScores]) -> list[str]:
    """A table of the worst cases, for a console; with their roles, where these are known."""
    width = 12 if any(one.role for one in scores) else 0
    head = (
        f"{'case':24}{'role'[:width].ljust(width)}{'Dice':>8}{'surface Dice':>14}{'HD95 mm':>9}"
        f"{'ASSD mm':>9}{'volume ml':>11}{'error ml':>10}"
    )
    rows = [
        f"{one.case_id[:23]:24}{one.role.ljust(width)}{one.dice:8.4f}{one.surface_dice:14.4f}"
        f"{one.hd95_mm:9.1f}{one.assd_mm:9.2f}{one.volume_ml:11.0f}{one.volume_error_ml:+10.0f}"
        for one in worst_first(scores)
    ]
    more = [f"… and {len(rows) - SHOWN} better ones"] if len(rows) > SHOWN else []
    return [head, *rows[:SHOWN], *more]


def mean_line(summary: dict[str, Any]) -> str:
    """One line for a summary: the mean Dice and how sure it is."""
    dice, cases = summary["dice"], summary["cases"]
    if dice["mean"] is None:
        return f"no Dice is defined: {cases} cases without liver, found and true"
    low, high, missing = dice["ci95_low"], dice["ci95_high"], dice["ci95_missing"]
    sure = f"no 95 % interval: {missing}" if missing else f"95 % interval {low:.4f} to {high:.4f}"
    left_out = f", {dice['undefined']} of them without liver" if dice["undefined"] else ""
    return (
        f"mean Dice {dice['mean']:.4f} ({sure}), median {dice['median']:.4f},"
        f" {cases} cases{left_out}"
    )


def _cell(value: str | float) -> str:
    if isinstance(value, str):
        return cell_of(value)
    return "" if math.isnan(value) else "inf" if math.isinf(value) else f"{value:.{DECIMALS}f}"
