"""Checkpoints: written whole or not at all, loadable without running anything in them."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cache.errors import ModelError
from cache.files import replacing
from stages.train.params import TrainParams
from stages.train.unet import UNet3d

CHECKPOINT_VERSION = 3

Row = dict[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to use it, and in ``last.pt`` to go on training it.

    What is drawn at random follows from the seed and the position, and the learning rate from the
    position alone, so the position is all there is to save of generators and of the schedule.

    Attributes:
        run_key: SHA-256 over parameters and data; only the same run resumes from here.
        seed: of the split, the weights and the plan.
        split: patient ids by role, as ``split.json`` has them.
        train: the ``train`` section it was trained with.
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
    seed: int
    split: dict[str, list[str]]
    train: dict[str, Any]
    preprocess: dict[str, Any]
    data_digest: str
    began_from: dict[str, str] = field(default_factory=dict)
    code: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    tally: dict[str, Any] = field(default_factory=dict)
    trained_s: float = 0.0
    best_dice: float | None = None
    history: list[Row] = field(default_factory=list)
    validations: list[dict[str, Any]] = field(default_factory=list)
    model: dict[str, Any] = field(default_factory=dict)
    average: dict[str, Any] = field(default_factory=dict)
    optimizer: dict[str, Any] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)

    def params(self) -> TrainParams:
        """The ``train`` section, checked."""
        return TrainParams.model_validate(self.train)

    @property
    def weights(self) -> dict[str, Any]:
        """The weights to predict with: the averaged ones where there are any."""
        return self.average or self.model

    def network(self) -> UNet3d:
        """The network with the weights to predict with, on the CPU."""
        params = self.params()
        network = UNet3d(1, 2, params.n_channels, params.upsampling)
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
            torch.save({"version": CHECKPOINT_VERSION, **vars(checkpoint)}, partial)
            if previous is not None and path.is_file():
                _second_name(path, previous)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        fix = "free some space and run it again; it goes on after the last whole checkpoint"
        raise ModelError(path, f"cannot be written ({_reason(error)})", fix) from error


def _second_name(path: Path, other: Path) -> None:
    """Let a file also be found under another name; it is there under its own all the time."""
    other.unlink(missing_ok=True)
    try:
        other.hardlink_to(path)
    except OSError:  # a file system without links
        shutil.copyfile(path, other)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        ModelError: it is missing, damaged, or another version of liver3d wrote it.
    """
    if not path.is_file():
        raise ModelError(path, "there is no model here", "run python -m pipeline.train first")
    try:
        fields = torch.load(path, map_location="cpu", weights_only=True)
        version = fields.pop("version")
        if version == CHECKPOINT_VERSION:
            checkpoint = Checkpoint(**fields)
            checkpoint.params()  # refuses parameters this code does not know
            return checkpoint
    except Exception as error:  # torch stumbles over a damaged or foreign file in a dozen ways
        fact = f"is damaged, or no model of liver3d ({_reason(error)})"
        fix = "delete it and run python -m pipeline.train again"
        raise ModelError(path, fact, fix) from error
    fact = f"has version {version}; this liver3d reads version {CHECKPOINT_VERSION}"
    fix = "update liver3d" if version > CHECKPOINT_VERSION else "run python -m pipeline.train again"
    raise ModelError(path, fact, fix)


def is_checkpoint(path: Path) -> bool:
    """Whether this liver3d can load it."""
    try:
        load_checkpoint(path)
    except ModelError:
        return False
    return True


def cpu_state(module: nn.Module) -> dict[str, Any]:
    """A module's weights on the CPU, laid out in the plain order whatever the training used."""
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in module.state_dict().items()
    }


def _reason(error: Exception) -> str:
    """The kind of an error and the first line of its message, without a full stop."""
    line = str(error).partition("\n")[0].rstrip(". ")
    return f"{type(error).__name__}: {line}" if line else type(error).__name__
