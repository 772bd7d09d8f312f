"""The model card of a bundle: what it is, what it learnt from, how good it is, where it ends."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.errors import ModelError
from cache.jsons import parsed
from stages.evaluate.summary import FEWEST_PATIENTS
from stages.export.cases import TrainingCases, are_phantoms
from stages.export.form import Form
from stages.export.parity import Parity
from stages.export.preparation import Preparation
from stages.train.checkpoints.checkpoint import Checkpoint

DASH = "\N{EN DASH}"
SHOWN = ("mean", "median", "sd", "ci95_low", "ci95_high", "undefined")  # of each score, in order


@dataclass(frozen=True)
class Card:
    """What the card tells.

    Attributes:
        checkpoint: the model.
        form: of the graph.
        preparation: as it is in the bundle.
        parity: what was found when the graph was compared.
        cases: of the training; None where they are not at hand.
        metrics: test scores as they were given, or None.
    """

    checkpoint: Checkpoint
    form: Form
    preparation: Preparation
    parity: Parity
    cases: TrainingCases | None
    metrics: dict[str, Any] | None


def card_text(card: Card, *, code: dict[str, str]) -> str:
    """The card as Markdown.

    Args:
        card: what to tell.
        code: versions of the software that exports.
    """
    environment = Environment(
        loader=PackageLoader("stages.export", "."),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(
        figure=figure, versions=versions, sides=sides, ranges=ranges, stated=stated
    )
    checkpoint = card.checkpoint
    roles = {role: len(patients) for role, patients in checkpoint.split.items()}
    return environment.get_template("card.md.j2").render(
        card=card,
        checkpoint=checkpoint,
        spec=checkpoint.spec,
        train=checkpoint.train,
        preprocess=checkpoint.preprocess,
        weights=sum(weight.numel() for weight in checkpoint.weights.values()),
        patients=roles,
        are_phantoms=are_phantoms(chain.from_iterable(checkpoint.split.values())),
        validation=validation_dice(checkpoint),
        scores=_scores(card.metrics or {}),
        shown=SHOWN,
        fewest_patients=FEWEST_PATIENTS,
        code=code,
    )


def read_metrics(path: Path | None) -> dict[str, Any] | None:
    """The test scores that evaluation wrote; None without a file.

    Raises:
        ModelError: the file is missing, or holds no summary of scores.
    """
    if path is None:
        return None
    fix = "name the metrics.json that pipeline.evaluate wrote for this model, or leave it out"
    try:
        metrics = parsed(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(path, f"cannot be read as scores ({error})", fix) from error
    if not isinstance(metrics, dict) or not _scores(metrics):
        raise ModelError(path, "holds no summary of scores", fix)
    return metrics


def validation_dice(checkpoint: Checkpoint) -> list[float]:
    """The validation Dice of each case that has one, with the very weights of the checkpoint.

    Empty where these weights were not validated.
    """
    rows = [row for row in checkpoint.validations if row["epoch"] == checkpoint.epoch]
    return sorted(row["dice"] for row in rows if math.isfinite(row["dice"]))


def figure(value: Any, digits: int = 3) -> str:
    """A number for a reader; a dash where there is none."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return DASH
    return f"{value:,.{digits}f}" if isinstance(value, float) else str(value)


def versions(code: dict[str, str]) -> str:
    """Names and versions, in one line."""
    return ", ".join(f"{name} {version}" for name, version in code.items()) or "unknown"


def stated(section: dict[str, Any], *names: str) -> str:
    """Parameters by name, each with a comma behind it, but those that the section lacks."""
    return "".join(f"`{name}` {section[name]}, " for name in names if name in section)


def sides(values: Sequence[Any] | None) -> str:
    """Sides of a box or a voxel."""
    return DASH if values is None else "·".join(DASH if n is None else f"{n:g}" for n in values)


def ranges(low: Sequence[float], high: Sequence[float]) -> str:
    """From the lowest to the highest, along each axis."""
    return ", ".join(f"{a:.2f} to {b:.2f}" for a, b in zip(low, high, strict=True))


def _scores(metrics: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The scores of a summary that have a mean.

    liver3d once gave an interval of two patients already; of too few cases it is left out here.
    """
    cases = metrics.get("cases")
    are_few = isinstance(cases, int) and cases < FEWEST_PATIENTS
    hidden: dict[str, Any] = {"ci95_low": None, "ci95_high": None} if are_few else {}
    return {
        name: {**fields, **hidden}
        for name, fields in metrics.items()
        if isinstance(fields, dict) and "mean" in fields
    }
