"""Models to be exported, and bundles made of them; shared by the tests of export."""

from dataclasses import replace

import torch

from pipeline.version import code_version
from stages.export.form import FORMS
from stages.export.run import Places, run
from stages.train.checkpoints.checkpoint import Checkpoint, cpu_state, save_checkpoint
from stages.train.unet import UNet3d
from tiny import PREPROCESS, TRAIN, spec_of

SPLIT = {
    "train": [f"case-{index}" for index in range(5)],
    "validation": ["case-5"],
    "test": ["case-6", "case-7"],
}
VALIDATIONS = [
    {"epoch": 1, "case": "case-5", "dice": 0.25, "iou": 0.2},
    {"epoch": 2, "case": "case-5", "dice": 0.875, "iou": 0.75},
]


def network(*, upsampling="trilinear", seed=0):
    """A network of random weights whose norms scale and shift, as those of a trained one do."""
    torch.manual_seed(seed)
    made = UNet3d(1, 2, 8, upsampling)
    with torch.no_grad():
        for value in made.parameters():
            if value.ndim == 1:
                value.add_(0.2 * torch.randn_like(value))
    return made.eval()


def write_model(path, of=None, *, train=None, preprocess=None, **fields):
    """Save a network as a checkpoint of two epochs; gives its path."""
    made = of or network()
    checkpoint = Checkpoint(
        **{
            "run_key": "k",
            "seed": 1,
            "split": SPLIT,
            "spec": spec_of(**(train or {})),
            "train": {**TRAIN, **(train or {})},
            "preprocess": {**PREPROCESS, **(preprocess or {})},
            "data_digest": "d" * 64,
            "code": {"liver3d": "0.1.0", "torch": "2.13.0"},
            "epoch": 2,
            "best_dice": 0.875,
            "validations": VALIDATIONS,
            "model": cpu_state(made),
            **fields,
        }
    )
    save_checkpoint(path, checkpoint)
    return path


def export(model, out, *, cases=None, form=FORMS["onnx"], metrics=None, **changes):
    """Export a model; without a store a phantom serves to compare."""
    places = Places(model, cases or model.parent / "no-store", metrics, out)
    return run(places, replace(form, **changes), code=code_version())
