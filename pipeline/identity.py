"""What an evaluation depends on besides its cases and parameters, as one digest."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from stages.train.checkpoints.checkpoint import Checkpoint

ROOT = Path(__file__).parent.parent
PACKAGES = ("pipeline", "stages", "cache")
# what computes masks, scores and pictures
LIBRARIES = ("matplotlib", "numpy", "scipy", "SimpleITK", "torch")


def evaluation_digest(model: Checkpoint, device: torch.device) -> str:
    """SHA-256 over a model, the device it runs on, our code and the libraries that compute.

    Equal digests mean that a case's mask, scores and picture are the same. What is hashed is the
    text of the code, not a version that somebody would have to raise.

    Args:
        model: the weights that predict, and what they were trained with.
        device: what predicts.
    """
    digest = hashlib.sha256()
    for name, weight in sorted(model.weights.items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    parts = {
        "spec": model.spec.model_dump(mode="json"),
        "train": model.train,
        "preprocess": model.preprocess,
        "device": _device(device),
        "code": _code_digest(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "python": platform.python_version(),
    }
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()


def _device(device: torch.device) -> str:
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type} {kind}"


def _code_digest() -> str:
    """SHA-256 over the text of every module of ours."""
    digest = hashlib.sha256()
    for file in sorted(file for name in PACKAGES for file in (ROOT / name).rglob("*.py")):
        digest.update(f"{file.relative_to(ROOT).as_posix()}\n".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
