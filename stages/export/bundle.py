"""Running a bundle: by onnxruntime, and without a line of the code that trained it."""

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from cache.errors import ModelError, ParamsError
from cache.files import named, read_text
from cache.grid import Triple
from cache.jsons import parsed
from cache.sealed import KEY, unsealed
from stages.export.extra import required
from stages.export.foreign import (
    INPUT,
    ITS_OWN,
    OUTPUT,
    require_interface,
    require_logits,
    require_whole,
)
from stages.export.preparation import FILE, VERSION, WITHOUT_DIGEST, Preparation
from stages.machine import is_shortage

if TYPE_CHECKING:
    from stages.evaluate.window import Network

LOG = logging.getLogger(__name__)
AGAIN = "run python -m pipeline.export again, or copy the whole folder anew"
GPU_PROVIDER, CPU_PROVIDER = "CUDAExecutionProvider", "CPUExecutionProvider"
ERRORS_ONLY, FATAL_ONLY = 3, 4  # of onnxruntime's log levels


@dataclass(frozen=True)
class Bundle:
    """A model for deployment, read from its folder.

    Attributes:
        path: of the graph.
        preprocess: the ``preprocess`` section that its training data was prepared with.
        window_zyx: shape of the sliding window's patches; None for whole volumes.
        smallest_side: voxels that the graph needs on every axis.
        digest: SHA-256 of the graph's file.
    """

    path: Path
    preprocess: dict[str, Any]
    window_zyx: Triple | None
    smallest_side: int
    digest: str

    def network(self, device: torch.device) -> "Network":
        """The graph as a function: HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W).

        Both are on the device they came from; between the two the data is in host memory.

        Args:
            device: where to compute, a CPU or a CUDA device.

        Raises:
            ParamsError: onnxruntime is not installed, or cannot compute there.
            ModelError: this onnxruntime cannot read the graph, it keeps weights in other files, or
                it takes or gives something else than ours.
        """
        runtime = required("onnxruntime")
        providers = _providers(runtime, device)
        require_whole(self.path)
        try:
            session = runtime.InferenceSession(
                str(self.path), _options(runtime), providers=providers
            )
        except Exception as error:  # onnxruntime has a dozen kinds of its own
            if is_shortage(error):
                raise
            reason = str(error).partition("\n")[0]
            fix = 'python -m pip install --upgrade "onnxruntime>=1.17"'
            raise ModelError(self.path, f"cannot be run by onnxruntime: {reason}", fix) from error
        _require_provider(session, device)
        require_interface(self.path, session)
        options = runtime.RunOptions()
        options.log_severity_level = FATAL_ONLY  # errors come as exceptions

        def predict(hu: Tensor) -> Tensor:
            patch = np.ascontiguousarray(hu.cpu().numpy())
            logits = _logits(self.path, session, patch, options)
            return torch.from_numpy(logits).to(hu.device)

        return predict


def read_bundle(folder: Path) -> Bundle:
    """Read what a bundle says of itself, and make sure that its graph is the one it speaks of.

    Args:
        folder: as ``pipeline.export`` wrote it.

    Raises:
        ModelError: a file is missing or damaged, the graph is another one, a newer liver3d wrote
            it, or it is no ONNX graph.
    """
    preparation = _read_preparation(folder / FILE)
    path = folder / preparation.graph.file
    if path.suffix != ".onnx":
        # torch unpickles such a file, and a pickle from elsewhere may run anything
        fact = f"holds {path.name}, which liver3d does not run, since loading it may run any code"
        raise ModelError(folder, fact, "export the model with --to onnx")
    if not path.is_file():
        raise ModelError(folder, f"has no {path.name}", AGAIN)
    with named(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != preparation.graph.sha256:
        fact = f"is damaged, or belongs to another bundle: {FILE} has another digest of it"
        raise ModelError(path, fact, AGAIN)
    smallest_side = preparation.graph.smallest_side
    return Bundle(path, preparation.preprocess, preparation.window_zyx, smallest_side, digest)


def _read_preparation(path: Path) -> Preparation:
    if not path.is_file():
        fact = f"is no bundle: it has no {path.name}"
        raise ModelError(path.parent, fact, "name a checkpoint, or a folder of pipeline.export")
    try:
        fields = parsed(read_text(path))
        version = fields["format_version"]
        if version > VERSION:
            fact = f"has format {version}; this liver3d reads up to {VERSION}"
            raise ModelError(path, fact, "update liver3d")
        if KEY not in fields and version == WITHOUT_DIGEST:
            LOG.warning("%s is of an older liver3d and has no digest: %s", path, AGAIN)
        return Preparation.model_validate(unsealed(fields, is_old=version == WITHOUT_DIGEST))
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(path, f"is damaged ({_reason(error)})", AGAIN) from error


def _reason(error: Exception) -> str:
    """What is wrong, in one line."""
    if isinstance(error, ValidationError):
        names = [".".join(map(str, fault["loc"])) for fault in error.errors()]
        return f"missing or wrong: {', '.join(names)}"
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def _logits(path: Path, session: Any, patch: NDArray[np.float32], options: Any) -> NDArray[Any]:
    try:
        [logits] = session.run([OUTPUT], {INPUT: patch}, options)
    except Exception as error:  # onnxruntime has a dozen kinds of its own
        if is_shortage(error):
            raise
        reason = str(error).partition("\n")[0]
        fact = f"cannot be run by onnxruntime on a patch of {patch.shape}: {reason}"
        raise ModelError(path, fact, ITS_OWN) from error
    require_logits(path, logits, patch)
    return np.asarray(logits)


def _options(runtime: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = ERRORS_ONLY
    # the arena keeps what the largest layer once needed, and saves no time with layers so large
    options.enable_cpu_mem_arena = False
    # its threads would spin, and take the processors from torch, which blends the patches
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _providers(runtime: Any, device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return [CPU_PROVIDER]
    if device.type != "cuda" or GPU_PROVIDER not in runtime.get_available_providers():
        raise _no_provider(device)
    return [(GPU_PROVIDER, {"device_id": device.index or 0}), CPU_PROVIDER]


def _require_provider(session: Any, device: torch.device) -> None:
    """Refuse the CPU, to which onnxruntime falls back without a word where CUDA fails to load."""
    if device.type == "cuda" and GPU_PROVIDER not in session.get_providers():
        raise _no_provider(device)


def _no_provider(device: torch.device) -> ParamsError:
    fact = f"is {device}, which this onnxruntime cannot use"
    fix = "use --device cpu, or python -m pip install onnxruntime-gpu in place of onnxruntime"
    return ParamsError("--device", fact, fix)
