"""What some fields of a checkpoint must hold; checked where a file is read."""

from typing import Annotated, Any

from pydantic import AfterValidator

ROLES = {"train", "validation", "test"}
SCORE = {"epoch": int | float, "case": str, "dice": int | float, "iou": int | float}

Row = dict[str, float]


def _names_all_roles(split: dict[str, list[str]]) -> dict[str, list[str]]:
    if split.keys() != ROLES:
        raise ValueError(f"names {', '.join(sorted(split)) or 'nobody'}")
    return split


def _is_of_an_epoch(row: Row) -> Row:
    if "epoch" not in row:
        raise ValueError("names no epoch")
    return row


def _is_a_score(row: dict[str, Any]) -> dict[str, Any]:
    if not all(isinstance(row.get(name), kind) for name, kind in SCORE.items()):
        raise ValueError("is not the score of a case")
    return row


def _names_file_and_digest(record: dict[str, str]) -> dict[str, str]:
    if record and not record.keys() >= {"file", "digest"}:
        raise ValueError("names no file and digest")
    return record


Roles = Annotated[dict[str, list[str]], AfterValidator(_names_all_roles)]  # patient ids
EpochRow = Annotated[Row, AfterValidator(_is_of_an_epoch)]
ScoreRow = Annotated[dict[str, Any], AfterValidator(_is_a_score)]
Origin = Annotated[dict[str, str], AfterValidator(_names_file_and_digest)]  # or empty
