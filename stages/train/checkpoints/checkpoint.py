"""Checkpoints: written whole or not at all, loadable without running anything in them."""

import shutil
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import NonNegativeFloat, NonNegativeInt, TypeAdapter, ValidationError
from torch import nn

from cache.errors import ModelError
from cache.files import replacing
from stages.network import NetworkSpec
from stages.train.checkpoints.fields import EpochRow, Origin, Roles, ScoreRow
from stages.train.checkpoints.fields import Row as Row
from stages.train.checkpoints.sealed import (
    FIX,
    damaged,
    read_sealed,
    reason_of,
    without_digest,
    write_sealed,
)
from stages.train.networks import make_network, misfit

CHECKPOINT_VERSION = 4
OLDEST_VERSION = 3  # has the network in its ``train`` section alone, and no digest


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to use it, and in ``last.pt`` to go on training it.

    What is drawn at random follows from the seed and the position, and the learning rate from the
    position alone, so the position is all there is to save of generators and of the schedule.

    Attributes:
        run_key: SHA-256 over parameters and data; only the same run resumes from here.
        seed: of the split, the weights and the plan.
        split: patient ids by role, as ``split.json`` has them.
        spec: the network, all that is needed to build it and to show it a CT.
        train: the ``train`` section it was trained with, for the record: it may have other keys
            than those of today.
        preprocess: the ``preprocess`` section its data was prepared with.
        data_digest: of the manifest it was trained on.
        began_from: the file and the digest of the weights it began with; empty for random ones.
        code: versions of liver3d and torch, and the commit where that is known.
        epoch: epochs done.
        batch: batches done of the epoch that is going on.
        tally: what these add up to.
        trained_s: seconds of training and validating so far, over all restarts.
        best_dice: highest mean validation Dice so far, None before the first validation.
        history: a row per epoch, as in the curves.
        validations: the score of every case of every validation: epoch, case, dice, iou.
        model: the weights; in ``best.pt`` the averaged ones where weights are averaged.
        average: the averaged weights; empty where there are none, and in ``best.pt``.
        optimizer: the optimizer's state; empty in ``best.pt``.
        scaler: the gradient scaler's state; empty without one, and in ``best.pt``.
    """

    run_key: str
    seed: NonNegativeInt
    split: Roles
    spec: NetworkSpec
    train: dict[str, Any]
    preprocess: dict[str, Any]
    data_digest: str
    began_from: Origin = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    epoch: NonNegativeInt = 0
    batch: NonNegativeInt = 0
    tally: dict[str, Any] = field(default_factory=dict)
    trained_s: NonNegativeFloat = 0.0
    best_dice: float | None = None
    history: list[EpochRow] = field(default_factory=list)
    validations: list[ScoreRow] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Any]:
        """The weights to predict with: the averaged ones where there are any."""
        return self.average or self.model

    def network(self) -> nn.Module:
        """The network with the weights to predict with, on the CPU."""
        network = make_network(self.spec)
        network.load_state_dict(self.weights)
        return network.eval()

    def to_keep(self) -> "Checkpoint":
        """The same without what only training needs, as ``best.pt`` is."""
        return replace(self, model=self.weights, average={}, optimizer={}, scaler={}, tally={})


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, previous: Path | None = None) -> None:
    """Write a checkpoint; a crash leaves the one that was there.

    Args:
        path: the file.
        checkpoint: all of it.
        previous: where to keep what was at ``path``; None keeps nothing.

    Raises:
        ModelError: the disk refused it.
    """
    try:
        with replacing(path) as partial:
            write_sealed(partial, _fields(checkpoint))
            if previous is not None and path.is_file():
                _second_name(path, previous)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        fix = "free some space and run it again; it goes on after the last whole checkpoint"
        raise ModelError(path, f"cannot be written ({reason_of(error)})", fix) from error


def _fields(checkpoint: Checkpoint) -> dict[str, Any]:
    """What a file holds: numbers, text and tensors alone."""
    spec = checkpoint.spec.model_dump(mode="json")
    return {"version": CHECKPOINT_VERSION, **vars(checkpoint), "spec": spec}


def _second_name(path: Path, other: Path) -> None:
    """Let a file also be found under another name; it is there under its own all the time."""
    other.unlink(missing_ok=True)
    try:
        other.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, other)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; what it holds is a whole model.

    Raises:
        ModelError: it is missing or damaged, is another thing than a model, or another version of
            liver3d wrote it.
        OSError: the disk refused it.
    """
    fields = _readable(path, read_sealed(path))
    try:
        checkpoint = _reader().validate_python(fields)
    except ValidationError as error:
        raise _refusal(path, error) from None
    for weights in (checkpoint.model, *filter(None, [checkpoint.average])):
        if (fault := misfit(checkpoint.spec, weights)) is not None:
            raise ModelError(path, f"does not hold the weights of its network: {fault}", FIX)
    return checkpoint


@cache
def _reader() -> TypeAdapter[Checkpoint]:
    return TypeAdapter(Checkpoint)


def _readable(path: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a file as today's files have them, whichever readable version wrote it."""
    version = fields.get("version")
    if type(version) is not int:
        raise damaged(path, "it names no version")
    _require_readable(path, version)
    if version == OLDEST_VERSION:
        train = fields.get("train")
        return {**fields, "spec": NetworkSpec.fields_of(train if isinstance(train, dict) else {})}
    return without_digest(path, fields)


def _require_readable(path: Path, version: int) -> None:
    if OLDEST_VERSION <= version <= CHECKPOINT_VERSION:
        return
    known = f"versions {OLDEST_VERSION} to {CHECKPOINT_VERSION}"
    is_newer = version > CHECKPOINT_VERSION
    fix = "update liver3d" if is_newer else "run python -m pipeline.train again"
    raise ModelError(path, f"has version {version}; this liver3d reads {known}", fix)


def _refusal(path: Path, error: ValidationError) -> ModelError:
    """What the first field at fault says."""
    first = error.errors()[0]
    name = ".".join(map(str, first["loc"]))
    reason = f"{name}: {first['msg'].removeprefix('Value error, ')}"
    if first["loc"][0] == "spec":
        fact = f"has a network that this liver3d cannot build ({reason})"
        return ModelError(path, fact, f"update liver3d if a newer one wrote it; else {FIX}")
    return damaged(path, reason)


def cpu_state(module: nn.Module) -> dict[str, Any]:
    """A module's weights on the CPU, laid out in the plain order whatever the training used."""
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in module.state_dict().items()
    }
