"""A digest of what a checkpoint holds: equal for equal values, however the file is laid out."""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


def content_digest(value: Any) -> str:
    """SHA-256 over nested dictionaries, lists, tuples, tensors, numbers and text.

    Raises:
        TypeError: something else is among it, which no checkpoint may pickle either.
    """
    digest = hashlib.sha256()
    for part in _parts(value):
        digest.update(part)
    return digest.hexdigest()


def _parts(value: Any) -> Iterator[bytes | memoryview]:
    """Bytes that no other value has."""
    if isinstance(value, Tensor):
        yield f"tensor {value.dtype} {list(value.shape)}\n".encode()
        yield _content(value)
    elif isinstance(value, dict):
        yield f"dict {len(value)}\n".encode()
        for key, item in value.items():
            yield from _parts(key)
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}\n".encode()
        for item in value:
            yield from _parts(item)
    elif value is None or isinstance(value, bool | int | float | str):
        yield f"{type(value).__name__} {value!r}\n".encode()
    else:
        raise TypeError(f"{type(value).__name__} is nothing to pickle into a checkpoint")


def _content(tensor: Tensor) -> memoryview:
    """A tensor's numbers in the plain order."""
    is_dense = tensor.layout == torch.strided
    if not is_dense or tensor.nbytes > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor that holds less than it shows is nothing to pickle")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
