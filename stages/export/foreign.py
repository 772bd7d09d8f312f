"""Whether an ONNX graph, which may come from elsewhere, is what a bundle holds."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import ModelError
from cache.files import read_bytes

INPUT, OUTPUT = "hu", "logits"
FLOAT = "tensor(float)"  # as onnxruntime calls float32
AXES = 5  # batch, channels, depth, height, width
ITS_OWN = "name a folder that pipeline.export wrote, or export the model again"
# In a graph's protobuf every tensor kept elsewhere has an entry {key: "location"}: the tag of field
# 1, the key's length, the key. Either number may be written with more bytes than it needs.
ELSEWHERE = re.compile(rb"(\n|\x8a\x80*\x00)(\x08|\x88\x80*\x00)location")


def require_whole(path: Path) -> None:
    """Refuse a graph that keeps weights in other files.

    onnxruntime would take them from any file of the bundle, and the graph's digest, which stands
    for the whole model, says nothing of them.

    Raises:
        ModelError: it does.
    """
    data = read_bytes(path)
    # a search for the pattern alone takes fifty times as long
    if b"location" in data and ELSEWHERE.search(data):
        fact = "keeps weights in other files, which its digest does not cover"
        raise ModelError(path, fact, "save it as one file, or export the model again")


def require_interface(path: Path, session: Any) -> None:
    """Refuse a graph that takes or gives something else than ``stages.export.graph`` writes.

    Args:
        path: of the graph, for the message.
        session: of onnxruntime, with the graph.

    Raises:
        ModelError: names what is another, and what it should be.
    """
    for kind, wanted, channels, found in (
        ("takes", INPUT, 1, session.get_inputs()),
        ("gives", OUTPUT, 2, session.get_outputs()),
    ):
        if [_described(one) for one in found] != [_expected(wanted, channels)]:
            fact = (
                f"{kind} {', '.join(map(_told, found)) or 'nothing'}, not {wanted}: float32"
                f" (batch, {channels}, depth, height, width) with open sides"
            )
            raise ModelError(path, fact, ITS_OWN)


def require_logits(path: Path, logits: Any, hu: NDArray[np.float32]) -> None:
    """Refuse what is not two values for every voxel, whatever shape the graph has promised.

    Raises:
        ModelError: names the two shapes.
    """
    wanted = (hu.shape[0], 2, *hu.shape[2:])
    if logits.shape != wanted or logits.dtype != np.float32:
        fact = f"gave {logits.dtype} {logits.shape} for a patch of {hu.shape}, not {wanted}"
        raise ModelError(path, fact, ITS_OWN)


def _described(one: Any) -> tuple[Any, ...]:
    """Name, type and shape of an input or output; None for an open side."""
    return one.name, one.type, [side if isinstance(side, int) else None for side in one.shape]


def _expected(name: str, channels: int) -> tuple[Any, ...]:
    return name, FLOAT, [channels if axis == 1 else None for axis in range(AXES)]


def _told(one: Any) -> str:
    sides = ", ".join("any" if side is None else str(side) for side in one.shape)
    return f"{one.name}: {one.type.removeprefix('tensor(').removesuffix(')')} ({sides})"
