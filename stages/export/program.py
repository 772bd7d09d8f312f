"""The network as torch's exported program, for those who have torch and not our code."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from stages.evaluate.window import Network
from stages.train.intensity import to_network_input

# torch.export takes a side of one voxel for a constant, and four halvings of 16 to 31 leave one
SMALLEST_SIDE = 32
EXAMPLE = (2, 1, 33, 34, 35)


class OnHu(nn.Module):
    """The network with its HU window in front of it, for prediction."""

    def __init__(self, network: nn.Module, hu_window: tuple[float, float] | None) -> None:
        super().__init__()
        self.network = network.eval()
        self.hu_window = hu_window

    def forward(self, hu: Tensor) -> Tensor:
        """HU as float32 (B, 1, D, H, W) -> logits (B, 2, D, H, W)."""
        logits: Tensor = self.network(to_network_input(hu, self.hu_window))
        return logits


def write_program(path: Path, network: nn.Module, hu_window: tuple[float, float] | None) -> None:
    """Write the network as an exported program; batch and sides from 32 voxels on stay open.

    Args:
        path: of the file, which ends in ``.pt2``.
        network: on the CPU, float32.
        hu_window: (low, high) HU that the program clips its input to and scales to [-1, 1]; None
            hands the HU on as they are.
    """
    sides = {
        axis: Dim(name, min=SMALLEST_SIDE)
        for axis, name in ((2, "depth"), (3, "height"), (4, "width"))
    }
    program = torch.export.export(
        OnHu(network, hu_window),
        (torch.zeros(EXAMPLE),),
        dynamic_shapes=({0: Dim("batch"), **sides},),
    )
    for node in program.graph.nodes:
        # where in whose files each line of the network stands
        node.meta.pop("stack_trace", None)
    torch.export.save(program, path)


def open_program(path: Path) -> Network:
    """The network of an exported program, on the CPU.

    torch unpickles what is in the file, which may run anything: only for a file just written.
    """
    network: Network = torch.export.load(path).module()
    return network
