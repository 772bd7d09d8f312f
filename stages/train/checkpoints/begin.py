"""Beginning with the weights of another model instead of random ones."""

import hashlib
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.errors import ModelError
from stages.train.checkpoints.checkpoint import load_checkpoint
from stages.train.params import TrainParams
from stages.train.split import Split

LOG = logging.getLogger(__name__)
SHAPING = ("n_channels", "upsampling")  # parameters that the weights' shapes follow from


@dataclass(frozen=True)
class Beginning:
    """The weights that a run begins with.

    Attributes:
        weights: of the network; empty for random ones.
        record: the file's name and the weights' digest; empty for random ones.
    """

    weights: dict[str, Any] = field(default_factory=dict)
    record: dict[str, str] = field(default_factory=dict)


def beginning(path: Path | None, models: Path, params: TrainParams, split: Split) -> Beginning:
    """The weights of a model, to begin with; random ones without a model.

    Warns of patients that the model has learnt from and that are now to judge it.

    Args:
        path: the model's file, or None.
        models: where the run writes its own models, which is no place for the file.
        params: the ``train`` section.
        split: of the run.

    Raises:
        ModelError: there is no whole model, its network is another one, or it lies where the run
            would write over it.
    """
    if path is None:
        return Beginning()
    if path.resolve().parent == models.resolve():
        fact = f"lies in {models}, where this run writes its own models"
        raise ModelError(path, fact, "copy it elsewhere, or name another folder with --out")
    model = load_checkpoint(path)
    for name in SHAPING:
        if (theirs := getattr(model.spec, name)) != (ours := getattr(params.spec, name)):
            fact = f"has train.{name} {theirs}, and this run {ours}"
            raise ModelError(path, fact, f"set train.{name} to {theirs}")
    for role in ("validation", "test"):
        if seen := sorted({*model.split["train"]} & {*getattr(split, role)}):
            LOG.warning(
                "%s was trained on %d patients that are for %s now, so their scores will be too"
                " good: %s",
                *(path, len(seen), role, ", ".join(seen[:10])),
            )
    return Beginning(model.weights, {"file": path.name, "digest": _digest(model.weights)})


def _digest(weights: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, weight in sorted(weights.items()):
        digest.update(name.encode())
        digest.update(weight.numpy().tobytes())
    return digest.hexdigest()
