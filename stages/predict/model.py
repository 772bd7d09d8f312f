"""Models to predict with: checkpoints of training, or bundles that were exported from them.

Each carries the parameters its training data was prepared with; new CTs are prepared by these.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cache.errors import ModelError, ParamsError
from cache.files import named
from cache.grid import Triple
from stages.evaluate.window import Network
from stages.preprocess.params import PreprocessParams, preparation_differences, preparation_of


@dataclass(frozen=True)
class Model:
    """A network with all that predicting needs to know of it.

    Attributes:
        network: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W).
        preprocess: the ``preprocess`` section its training data was prepared with.
        window_zyx: shape of the patches it was trained on; None for whole volumes.
        smallest_side: voxels that it needs on every axis.
        digest: SHA-256 of its file; of a bundle, of the graph's.
        name: of its file or folder.
    """

    network: Network
    preprocess: PreprocessParams
    window_zyx: Triple | None
    smallest_side: int
    digest: str
    name: str


@dataclass(frozen=True)
class Ensemble:
    """Models whose probabilities are averaged; often a single one.

    Attributes:
        models: all of one preparation and one window.
        device: where patches are made and their results added up.
    """

    models: list[Model]
    device: torch.device

    @property
    def preprocess(self) -> PreprocessParams:
        """How a CT is prepared for them."""
        return self.models[0].preprocess

    @property
    def window_zyx(self) -> Triple | None:
        """Shape of the patches they are shown; None for whole volumes."""
        return self.models[0].window_zyx

    @property
    def smallest_side(self) -> int:
        """Voxels that each of them has enough of on every axis."""
        return max(model.smallest_side for model in self.models)

    @property
    def digests(self) -> list[str]:
        """Of the models, in the order they were given in."""
        return [model.digest for model in self.models]


def load_ensemble(paths: Sequence[Path], device_name: str) -> Ensemble:
    """Load models that are to be averaged.

    Args:
        paths: checkpoints, or folders with bundles.
        device_name: as ``--device`` has it.

    Raises:
        ModelError: one is missing or damaged, or two were trained on data prepared otherwise or
            on other patches.
        ParamsError: a model cannot compute on the device.
    """
    are_bundles = all(path.is_dir() for path in paths)
    device = _device_of_bundles(device_name) if are_bundles else _device(device_name)
    models = [load_model(path, device) for path in paths]
    for path, model in zip(paths[1:], models[1:], strict=True):
        _require_alike((paths[0], models[0]), (path, model))
    # onnxruntime takes patches from the host's memory, wherever it computes
    return Ensemble(models, torch.device("cpu") if are_bundles else device)


def load_model(path: Path, device: torch.device) -> Model:
    """Load a checkpoint, or a bundle if the path is a folder.

    Raises:
        ModelError: it is missing or damaged, or another version of liver3d made it.
        ParamsError: its preparation has parameters this version does not know, or it cannot
            compute on the device.
    """
    return _bundle(path, device) if path.is_dir() else _checkpoint(path, device)


def _checkpoint(path: Path, device: torch.device) -> Model:
    # imported here: a bundle is run without the code that trained it
    from stages.train.checkpoints.checkpoint import load_checkpoint
    from stages.train.device import network_on_hu

    checkpoint = load_checkpoint(path)
    spec = checkpoint.spec
    network = network_on_hu(checkpoint.network(), spec, device)
    fix = "use the liver3d it was trained with, or train it again"
    preprocess = preparation_of(checkpoint.preprocess, path, made="was trained", fix=fix)
    with named(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Model(network, preprocess, spec.patch_zyx, spec.smallest_side, digest, path.name)


def _bundle(path: Path, device: torch.device) -> Model:
    from stages.export.bundle import read_bundle  # and a checkpoint without onnxruntime

    bundle = read_bundle(path)
    fix = "use the liver3d it was exported with, or export it again"
    preprocess = preparation_of(bundle.preprocess, path, made="was exported", fix=fix)
    network = bundle.network(device)
    return Model(
        network,
        preprocess,
        bundle.window_zyx,
        bundle.smallest_side,
        bundle.digest,
        path.resolve().name,
    )


def _device(name: str) -> torch.device:
    from stages.train.device import choose_device

    return choose_device(name)


def _device_of_bundles(name: str) -> torch.device:
    """The device that ``--device`` names; ``auto`` is the CPU, which every onnxruntime has."""
    try:
        return torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        fact = f"{name!r} is not the name of a device"
        raise ParamsError("--device", fact, "use auto, cpu or cuda") from error


def _require_alike(first: tuple[Path, Model], other: tuple[Path, Model]) -> None:
    """Refuse to average models that would have to be shown a CT in two ways."""
    if differing := preparation_differences(_shown(first[1]), _shown(other[1])):
        fact = f"cannot be averaged with {first[0]}: {', '.join(differing)}"
        fix = "name models of one preparation and patch, such as the folds of a cross-validation"
        raise ModelError(other[0], fact, fix)


def _shown(model: Model) -> dict[str, Any]:
    """All that decides what a model is shown of a CT."""
    fields = model.preprocess.model_dump(mode="json")
    return {**fields, "patch_zyx": model.window_zyx and list(model.window_zyx)}
