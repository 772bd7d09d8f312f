"""A training step of UNet3d on an augmented batch, and what its augmentation takes.

Needs no more than benchmarks/loader_gpu.py does.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

from stages.train.augment.apply import network_input
from stages.train.augment.params import AugmentationParams
from stages.train.device import place
from stages.train.sample import Batch
from stages.train.unet import UNet3d

HU_WINDOW = (-160.0, 240.0)
AUGMENTATION = AugmentationParams.model_validate(
    {
        "flip": {"probability_zyx": (0.5, 0.5, 0.5)},
        "rotation": {"probability": 0.2, "degrees": 30},
        "scaling": {"probability": 0.2, "factor": (0.7, 1.4)},
        "shift": None,
        "elastic": None,
        "noise": {"probability": 0.1, "sd": (0, 0.1)},
        "blur": {"probability": 0.1, "sigma_voxels": (0.5, 1)},
        "brightness": {"probability": 0.15, "factor": (0.75, 1.25)},
        "contrast": {"probability": 0.15, "factor": (0.75, 1.25)},
        "low_resolution": {"probability": 0.125, "factor": (0.5, 1)},
        "gamma": {"probability": 0.3, "probability_inverted": 0.1, "exponent": (0.7, 1.5)},
    }
)


def trainer(channels: int, device: torch.device) -> Callable[[Batch], float]:
    """A function that does one training step and tells the milliseconds of its augmentation."""
    torch.manual_seed(0)
    network = place(UNet3d(1, 2, channels), device).train()
    optimizer = torch.optim.Adam(network.parameters())

    def train(batch: Batch) -> float:
        began = mark(device)
        inputs, mask = network_input(batch, HU_WINDOW)
        ended = mark(device)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            logits = network(inputs)
        loss = F.cross_entropy(logits.float(), mask.long())
        loss.backward()
        optimizer.step()
        loss.item()  # training looks at each loss, and so waits for each step
        return milliseconds(began, ended)

    return train


def mark(device: torch.device) -> Any:
    """A moment: of the device's own queue, where it has one."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def milliseconds(began: Any, ended: Any) -> float:
    """The time between two moments that have passed."""
    return 1e3 * (ended - began) if isinstance(began, float) else began.elapsed_time(ended)
