"""Reading params.yaml: the one place where it is read, checked and refused."""

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from cache.errors import ParamsError
from cache.files import named
from stages.evaluate.params import EvaluateParams
from stages.phantom.params import PhantomParams
from stages.preprocess.params import LayoutName, PreprocessParams
from stages.preprocess.policy import RulesParams
from stages.train.params import TrainParams

PLAIN_NAME = re.compile(r"\w[\w-]*")  # a part of a path and of the name of a stage in DVC
FIX = "correct it in {path}; presets/ has complete examples"
UPGRADE = "python -m pipeline.configure --upgrade"  # adds what is missing, takes out the rest


class DataParams(BaseModel, frozen=True, extra="forbid"):
    """The ``data:`` section: where the scans are and which of them count."""

    src: str  # the scans: a folder, or a CSV or JSON list of them
    phantoms: list[str]  # folders below data/ that the phantom stage fills; empty for real data
    layout: LayoutName
    exclude: list[str]  # case ids
    patient_id: str | None  # regular expression; its first group, or all it matches, is the patient
    split_file: str | None  # a split to use instead of one drawn from the seed

    @field_validator("phantoms")
    @classmethod
    def _are_names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not PLAIN_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a plain name of a folder below data/")
        return value

    @field_validator("patient_id")
    @classmethod
    def _is_an_expression(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression ({error})") from None
        return value


class Params(BaseModel, frozen=True, extra="forbid"):
    """All of params.yaml."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    data: DataParams
    phantom: PhantomParams
    preprocess: PreprocessParams
    rules: RulesParams
    train: TrainParams
    evaluate: EvaluateParams


def read_params(path: Path) -> Params:
    """Read and check a parameter file.

    All of it is checked whatever the command, so that a slip in ``train`` is found before hours
    of preprocessing.

    Raises:
        ParamsError: the file is missing or no YAML; a key is unknown, missing or impossible.
    """
    fields = _read_yaml(path)
    try:
        return Params.model_validate(fields)
    except ValidationError as error:
        facts = [_fact(fault, fields) for fault in error.errors()]
        raise ParamsError(path, "\n  ".join(facts), _fix(path, error)) from None


def read_text(path: Path) -> str:
    """The text of a parameter file.

    Raises:
        ParamsError: the file is missing, or not UTF-8.
    """
    if not path.is_file():
        fix = "run it where params.yaml is, or name one with --params"
        raise ParamsError(path, "there is no such file", fix)
    try:
        with named(path):
            return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8"
        raise ParamsError(path, f"is not valid YAML: {error}", fix) from error


def _fix(path: Path, error: ValidationError) -> str:
    """What to do; keys that are missing or unknown are those of another liver3d, or slips."""
    fix = FIX.format(path=path)
    if not any(fault["type"] in ("missing", "extra_forbidden") for fault in error.errors()):
        return fix
    where = "" if path == Path("params.yaml") else f" --params {path}"
    return f"if it is of an older liver3d: {UPGRADE}{where}; else {fix}"


def _read_yaml(path: Path) -> dict[str, Any]:
    return parsed(path, read_text(path))


def parsed(path: Path, text: str) -> dict[str, Any]:
    """What a parameter file's text holds, not yet checked.

    Raises:
        ParamsError: it is not YAML, or holds no parameters.
    """
    try:
        # DVC reads YAML 1.2 in the same way
        fields = YAML(typ="safe", pure=True).load(text)
    except RecursionError as error:
        raise ParamsError(path, "is nested too deeply", "copy one from presets/") from error
    except YAMLError as error:
        reason = " ".join(str(error).split())
        raise ParamsError(path, f"is not valid YAML: {reason}", "mend the line it names") from error
    if not isinstance(fields, dict):
        raise ParamsError(path, "holds no parameters", "copy one from presets/")
    return fields


def _fact(fault: Any, fields: dict[str, Any]) -> str:
    """One line for one of pydantic's faults: the key as one would write it, and what is wrong."""
    # pydantic adds the tried type where several are allowed, as in list[int]; nobody wrote that
    location: Sequence[Any] = [part for part in fault["loc"] if "[" not in str(part)]
    key = ".".join(str(part) for part in location)
    if fault["type"] == "extra_forbidden":
        return f"{key} is not a parameter{_nearest(location)}"
    if fault["type"] == "missing":
        return f"{key} is missing{_similar(location, fields)}"
    reason = str(fault["msg"]).removeprefix("Value error, ")
    if fault["type"] == "value_error":  # our own rules name the values they are about
        return f"{key}: {reason}" if key else reason
    return f"{key}: {reason} (it is {fault['input']!r})" if key else reason


def _nearest(location: Sequence[Any]) -> str:
    """Offer the known key that is most like an unknown one."""
    return _did_you_mean(location, _known(location))


def _similar(location: Sequence[Any], fields: dict[str, Any]) -> str:
    """Offer the unknown key that was written where one is missing."""
    section: Any = fields
    for part in location[:-1]:
        section = section[part]
    unknown = [str(name) for name in section if name not in _known(location)]
    return _did_you_mean(location, unknown, "; is it")


def _known(location: Sequence[Any]) -> list[str]:
    """All keys of the section that a key is in."""
    model: Any = Params
    for part in location[:-1]:
        annotation = model.model_fields[part].annotation
        # a section that may be null is a union of its model and None
        model = next(one for one in (*get_args(annotation), annotation) if one is not NoneType)
    return list(model.model_fields)


def _did_you_mean(location: Sequence[Any], names: list[str], words: str = "; did you mean") -> str:
    close = difflib.get_close_matches(str(location[-1]), names, n=1)
    prefix = "".join(f"{part}." for part in location[:-1])
    return f"{words} {prefix}{close[0]}?" if close else ""
