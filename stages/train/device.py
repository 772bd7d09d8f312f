"""Which device computes, in which precision and memory layout."""

import logging
import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor, nn

from cache.errors import ParamsError
from stages.train.intensity import to_network_input
from stages.train.params import TrainParams

LOG = logging.getLogger(__name__)


def choose_device(name: str) -> torch.device:
    """The device of ``--device``: ``auto`` takes a GPU if torch can use one.

    Raises:
        ParamsError: the device is not there, or is no device.
    """
    if name == "auto":
        if not torch.cuda.is_available() and has_unused_gpu():
            LOG.warning(
                "there is an NVIDIA GPU, but this torch (%s) cannot use it; the README's"
                " installation section says how to get one that can",
                torch.__version__,
            )
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" makes tensors too, but without values
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ParamsError("--device", f"{name!r}: {reason}", "use auto, cpu or cuda") from error
    return device


def has_unused_gpu() -> bool:
    """Whether the machine has an NVIDIA driver, whatever torch makes of it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False  # hidden on purpose
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def autocast(params: TrainParams, device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision where asked for; ``auto`` is bfloat16 on GPUs that have it, else fp32."""
    wanted = params.precision == "bf16" or (
        params.precision == "auto"
        and device.type == "cuda"
        # older GPUs can only emulate it, slower than fp32
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def require_sound_gradients(params: TrainParams, device: torch.device) -> None:
    """Refuse to train in bfloat16 on the CPU, where some gradients are wrong; predicting is sound.

    Seen with torch 2.13 and AVX-512: of a 3x3x3 convolution that sees exactly two slices, the
    weights' gradient holds uninitialised memory. Patches 16 to 23 or 32 to 47 slices deep are
    halved down to two.

    Raises:
        ParamsError: the precision is bf16 and the device the CPU.
    """
    if params.precision == "bf16" and device.type == "cpu":
        fact = "is bf16, in which torch computes some gradients wrongly on the CPU"
        raise ParamsError("train.precision", fact, "set it to auto, which is fp32 there")


def place(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on its device, in the memory layout that is faster there.

    Channels last made a training step 1.5 times faster on the CPU
    (docs/decisions/0004-layout-and-precision.md); it has not been measured on a GPU.
    """
    if device.type == "cpu":
        return network.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload, no-any-return]
    return network.to(device)


def network_on_hu(
    network: nn.Module, params: TrainParams, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The network as evaluation sees it: HU (B, 1, D, H, W) in, logits (B, 2, D, H, W) out."""
    network = place(network, device)

    def predict(volume: Tensor) -> Tensor:
        with autocast(params, device):
            logits: Tensor = network(to_network_input(volume, params.hu_window))
        return logits

    return predict
