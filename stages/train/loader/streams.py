"""Work for a GPU beside what it computes."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def side_stream(device: torch.device) -> Any:
    """A new stream of a CUDA device; None for other devices, which have none."""
    if device.type != "cuda":
        return None
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def on_stream(stream: Any) -> AbstractContextManager[Any]:
    """Inside, what is asked of the device goes to this stream; to the usual one if it is None."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)
