"""dataset.json, as nnU-Net and the Medical Segmentation Decathlon write it."""

import reprlib
from pathlib import Path
from typing import Any

from cache.errors import SourceError
from stages.preprocess.files import LabelNames
from stages.preprocess.layouts.texts import read_json
from stages.preprocess.problems import Finding

NAME = "dataset.json"
DIGITS = 18  # a number of more is not a label's value
EXAMPLE = '{"labels": {"background": 0, "liver": 1}}'


def read_dataset(folder: Path) -> dict[str, Any]:
    """A data set's dataset.json; an empty dictionary if it has none.

    Raises:
        SourceError: it is not a JSON object.
    """
    path = folder / NAME
    if not path.is_file():
        return {}
    fields = read_json(path)
    if not isinstance(fields, dict):
        fact = f"is a JSON {type(fields).__name__}, not an object"
        raise SourceError(path, fact, f"write it like {EXAMPLE}, or remove it")
    return fields


def glance(folder: Path) -> dict[str, Any]:
    """dataset.json as far as it can be read, for recognising a layout; never raises."""
    try:
        return read_dataset(folder)
    except SourceError:
        return {}


def label_names(folder: Path, fields: dict[str, Any]) -> LabelNames | None:
    """What dataset.json calls the label's values, without the background; None if it does not.

    nnU-Net writes ``{"liver": 1, "whole": [1, 2]}``; the Decathlon, and nnU-Net's first version,
    write ``{"1": "liver"}``.

    Raises:
        SourceError: an entry is neither.
    """
    labels = fields.get("labels")
    if labels is None:
        return None
    if not isinstance(labels, dict):
        raise SourceError(folder / NAME, "labels is not an object", f"write it like {EXAMPLE}")
    names: LabelNames = {}
    for key, value in labels.items():
        name, values = _entry(folder, key, value)
        # one name may stand at several numbers
        names[name] = names.get(name, ()) + values
    return {name: values for name, values in names.items() if set(values) != {0}}


def case_count(folder: Path, fields: dict[str, Any], found: int) -> list[Finding]:
    """Whether as many training cases were found as dataset.json announces, if it does."""
    announced = fields.get("numTraining")
    if not isinstance(announced, int) or announced == found:
        return []
    fact = f"dataset.json announces {announced} training cases, {found} are there"
    fix = "copy the data set again if some are missing, or correct numTraining"
    return [Finding("case_count", folder / NAME, fact, fix)]


def _entry(folder: Path, key: str, value: object) -> tuple[str, tuple[int, ...]]:
    if isinstance(value, str) and (number := _number(key)) is not None:
        return value, (number,)
    numbers = [_number(one) for one in (value if isinstance(value, list) else [value])]
    values = tuple(number for number in numbers if number is not None)
    if not values or len(values) != len(numbers):
        fact = f"labels has {reprlib.repr(key)}: {reprlib.repr(value)}, which names no values"
        raise SourceError(folder / NAME, fact, f"write it like {EXAMPLE}")
    return key, values


def _number(value: object) -> int | None:
    if isinstance(value, str):
        return int(value) if value.isdecimal() and len(value) <= DIGITS else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
