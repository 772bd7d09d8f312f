"""The kinds of graph that a model can be exported to."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from stages.evaluate.window import Network
from stages.export import program
from stages.export.bundle import read_bundle
from stages.export.graph import write_onnx
from stages.export.preparation import GraphName
from stages.network import SMALLEST_SIDE

Writer = Callable[[Path, nn.Module, tuple[float, float] | None], None]


@dataclass(frozen=True)
class Form:
    """A kind of graph.

    Attributes:
        name: as ``--to`` has it.
        title: as the model card has it.
        file: of the graph, in the bundle.
        smallest_side: that its input may have, voxels.
        write: a file of a network on the CPU and its HU window.
        open: a bundle's folder as a network on the CPU, as its user would.
        extras: what else lies in such a bundle, by name, copied from this package.
    """

    name: str
    title: str
    file: GraphName
    smallest_side: int
    write: Writer
    open: Callable[[Path], Network]
    extras: tuple[str, ...] = ()


FORMS = {
    form.name: form
    for form in (
        Form(
            name="onnx",
            title="an ONNX graph",
            file="model.onnx",
            smallest_side=SMALLEST_SIDE,
            write=write_onnx,
            open=lambda folder: read_bundle(folder).network(torch.device("cpu")),
            extras=("example.py",),
        ),
        Form(
            name="torch",
            title="an exported program of torch",
            file="model.pt2",
            smallest_side=program.SMALLEST_SIDE,
            write=program.write_program,
            open=lambda folder: program.open_program(folder / "model.pt2"),
        ),
    )
}
