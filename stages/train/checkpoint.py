"""Checkpoints: written whole or not at all, loadable without running anything in them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cache.errors import ModelError
from cache.files import replacing
from stages.train.params import TrainParams
from stages.train.unet import UNet3d

CHECKPOINT_VERSION = 2

Row = dict[str, float]


@dataclass(frozen=True)
class Checkpoint:
    """A model with all that is needed to use it, and in ``last.pt`` to go on training it.

    Attributes:
        run_key: SHA-256 over parameters and data; only the same run resumes from here.
        epoch: epochs done.
        best_dice: highest mean validation Dice so far, None before the first validation.
        history: a row per epoch, as in the curves.
        seed: of the split, the weights and the plan.
        split: patient ids by role, as ``split.json`` has them.
        train: the ``train`` section it was trained with.
        preprocess: the ``preprocess`` section its data was prepared with.
        data_digest: of the manifest it was trained on.
        model: the weights.
        optimizer: the optimizer's state; empty in ``best.pt``.
    """

    run_key: str
    epoch: int
    best_dice: float | None
    history: list[Row]
    seed: int
    split: dict[str, list[str]]
    train: dict[str, Any]
    preprocess: dict[str, Any]
    data_digest: str
    model: dict[str, Any]
    optimizer: dict[str, Any]

    def params(self) -> TrainParams:
        """The ``train`` section, checked."""
        return TrainParams.model_validate(self.train)

    def network(self) -> UNet3d:
        """The network with these weights, on the CPU, ready to predict."""
        params = self.params()
        network = UNet3d(1, 2, params.n_channels, params.upsampling)
        network.load_state_dict(self.model)
        return network.eval()


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; a crash leaves the previous one.

    Raises:
        ModelError: the disk refused it.
    """
    try:
        with replacing(path) as partial:
            torch.save({"version": CHECKPOINT_VERSION, **vars(checkpoint)}, partial)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter
        fix = "free some space and run it again; it goes on after the last whole checkpoint"
        raise ModelError(path, f"cannot be written ({_reason(error)})", fix) from error


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
