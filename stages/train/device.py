"""Which device computes, in which precision, and what is set for it."""

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.amp import GradScaler

from cache.errors import ParamsError
from stages.network import NetworkSpec
from stages.train.intensity import to_network_input
from stages.train.params import TrainParams

LOG = logging.getLogger(__name__)
TENSOR_CORES = (7, 0)  # compute capability from which on GPUs multiply fp16 faster than fp32

Chosen = Literal["bf16", "fp16", "fp32"]
Layout = Literal["contiguous", "channels last"]
WithPrecision = TrainParams | NetworkSpec


def choose_device(name: str) -> torch.device:
    """The device of ``--device``: ``auto`` takes a GPU if torch can use one.

    Of several processes that torchrun started on a machine, ``auto`` and ``cuda`` give each one
    its own.

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
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unusable(name, "is not the name of a device") from error
    try:
        torch.zeros(1, device=device).item()  # "meta" makes tensors too, but without values
    except (RuntimeError, AssertionError, ImportError) as error:
        raise _unusable(name, _why_not(device, error)) from error
    return device


def _unusable(name: str, fact: str) -> ParamsError:
    has_gpu = torch.cuda.is_available()
    fix = "use auto, cpu or cuda" if has_gpu else "use auto or cpu"
    if name.startswith("cuda") and not has_gpu and has_unused_gpu():
        fix += "; how to get a torch for the GPU is in the README's installation section"
    return ParamsError("--device", f"{name!r} {fact}", fix)


def _why_not(device: torch.device, error: Exception) -> str:
    """Why torch cannot compute there; of other devices than GPUs, its words are for its authors."""
    if device.type != "cuda":
        return f"is not a device that torch {torch.__version__} can compute on here"
    count = torch.cuda.device_count()
    if not torch.cuda.is_available():
        return f"is a GPU, and torch {torch.__version__} has none it can use here"
    if device.index is not None and device.index >= count:
        return f"is not there: the GPUs are numbered from 0 to {count - 1}"
    return f"cannot be used: {str(error).partition(chr(10))[0]}"


def has_unused_gpu() -> bool:
    """Whether the machine has an NVIDIA driver, whatever torch makes of it."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return False  # hidden on purpose
    return shutil.which("nvidia-smi") is not None or Path("/proc/driver/nvidia/version").exists()


def chosen_precision(params: WithPrecision, device: torch.device) -> Chosen:
    """The precision that ``precision`` comes to on a device.

    ``auto`` is bf16 on a GPU that has it in hardware (others emulate it, slower than fp32), fp16 on
    an older one with tensor cores, else fp32.
    """
    if params.precision != "auto":
        return params.precision
    if device.type != "cuda":
        return "fp32"
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return "fp16" if torch.cuda.get_device_capability(device) >= TENSOR_CORES else "fp32"


def autocast(params: WithPrecision, device: torch.device) -> AbstractContextManager[None]:
    """Mixed precision, where it is to be."""
    chosen = chosen_precision(params, device)
    kind = torch.float16 if chosen == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=chosen != "fp32")


def make_scaler(params: TrainParams, device: torch.device) -> GradScaler | None:
    """What keeps small gradients from vanishing in fp16; other precisions need none."""
    if chosen_precision(params, device) != "fp16":
        return None
    return GradScaler(device.type)


def require_sound_gradients(params: TrainParams, device: torch.device) -> None:
    """Refuse to train in half precision on the CPU; predicting is sound.

    Seen with torch 2.13 and AVX-512: of a 3x3x3 convolution that sees exactly two slices, the
    weights' gradient in bfloat16 holds uninitialised memory. Patches 16 to 23 or 32 to 47 slices
    deep are halved down to two. In float16 the gradients were right, but a step (8 channels,
    1·32·48·48) took 6.7 times the processor time of fp32.

    Raises:
        ParamsError: the precision is bf16 or fp16 and the device the CPU.
    """
    if device.type != "cpu" or params.precision not in ("bf16", "fp16"):
        return
    fact = "is bf16, in which torch computes some gradients wrongly on the CPU"
    if params.precision == "fp16":
        fact = "is fp16, with which a CPU is several times slower than with fp32"
    raise ParamsError("train.precision", fact, "set it to auto, which is fp32 there")


@contextmanager
def settings(params: TrainParams, device: torch.device) -> Iterator[None]:
    """What a run sets for the whole of torch, until it is over.

    fp32 means fp32: no TF32. cuDNN looks for the fastest algorithm where patches have one shape,
    and takes deterministic ones alone with ``train.deterministic``.
    """
    cudnn = torch.backends.cudnn
    is_exact, was_exact = params.deterministic, torch.are_deterministic_algorithms_enabled()
    before = (cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32)
    products = torch.get_float32_matmul_precision()
    if is_exact and device.type == "cuda":
        # read by cuBLAS when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    cudnn.benchmark = params.patch_zyx is not None and not is_exact
    cudnn.deterministic = is_exact
    cudnn.allow_tf32 = False
    # backends.cuda.matmul.allow_tf32 would contradict it, at which torch.compile stumbles
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(is_exact)
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision(products)
        torch.use_deterministic_algorithms(was_exact)


def place(network: nn.Module, device: torch.device, layout: Layout | None = None) -> nn.Module:
    """The network on its device, in a memory layout.

    Args:
        network: moved in place.
        device: where to.
        layout: of weights and feature maps; None for the one that is faster on a CPU, channels
            last (docs/decisions/0004-layout-and-precision.md), and elsewhere for the present one.
    """
    if layout is None and device.type != "cpu":
        return network.to(device)
    kind = torch.contiguous_format if layout == "contiguous" else torch.channels_last_3d
    return network.to(device, memory_format=kind)  # type: ignore[call-overload, no-any-return]


def network_on_hu(
    network: nn.Module, spec: NetworkSpec, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """The network as evaluation sees it: HU (B, 1, D, H, W) in, logits (B, 2, D, H, W) out."""
    network = place(network, device)

    def predict(volume: Tensor) -> Tensor:
        with autocast(spec, device):
            logits: Tensor = network(to_network_input(volume, spec.hu_window))
        return logits

    return predict
