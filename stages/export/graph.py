"""UNet3d as an ONNX graph, written layer by layer from the network's own modules.

Written here and not by torch's exporter, so that every torch that can train can export, the same
weights give the same bytes, and nothing of the machine is recorded
(docs/decisions/0016-export.md). What the graph computes is compared with torch at every export.
"""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from stages.export.extra import required
from stages.export.foreign import INPUT, OUTPUT
from stages.network import SMALLEST_SIDE
from stages.train.unet import Double, DoubleConv, Down, Halve, Out, UNet3d, Up

OPSET = 17  # read by onnxruntime from 1.12 on; the operators below need no more
IR_VERSION = 8
SIDES = ("depth", "height", "width")
TWO = (2, 2, 2)
MEANING = (
    "hu: CT in Hounsfield units, float32 (batch, 1, depth, height, width), every side at least"
    f" {SMALLEST_SIDE};"
    " logits: float32 (batch, 2, depth, height, width), background and liver."
    " Not for clinical use."
)


def write_onnx(path: Path, network: nn.Module, hu_window: tuple[float, float] | None) -> None:
    """Write the network as an ONNX file, weights inside; batch and sides stay open.

    Args:
        path: of the file.
        network: on the CPU, float32.
        hu_window: (low, high) HU that the graph clips its input to and scales to [-1, 1]; None
            hands the HU on as they are.

    Raises:
        ParamsError: onnx is not installed.
        TypeError: it is another network than UNet3d.
    """
    if not isinstance(network, UNet3d):
        raise TypeError(f"no graph of {type(network).__name__} can be written")
    onnx = required("onnx")
    graph = Graph(onnx)
    logits = _unet(graph, network, _windowed(graph, hu_window))
    graph.add("Identity", logits, name=OUTPUT)
    model = graph.model()
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, str(path))


class Graph:
    """The nodes and weights of an ONNX graph, in the order they are added.

    A value is known by its name, which is also the name of the node it comes from.
    """

    def __init__(self, onnx: Any) -> None:
        self._onnx = onnx
        self._nodes: list[Any] = []
        self._weights: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Add a node with one output; gives the output's name."""
        helper = self._onnx.helper
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: NDArray[Any] | Tensor) -> str:
        """Add an array, once; gives its name."""
        if isinstance(values, Tensor):
            values = values.detach().numpy()
        self._weights[name] = self._onnx.numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def model(self) -> Any:
        """All of it as an ONNX model."""
        helper, kind = self._onnx.helper, self._onnx.TensorProto.FLOAT
        graph = helper.make_graph(
            self._nodes,
            "UNet3d",
            [helper.make_tensor_value_info(INPUT, kind, ["batch", 1, *SIDES])],
            [helper.make_tensor_value_info(OUTPUT, kind, ["batch", 2, *SIDES])],
            list(self._weights.values()),
            doc_string=MEANING,
        )
        opset = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="liver3d"
        )


def _windowed(graph: Graph, hu_window: tuple[float, float] | None) -> str:
    """The window of stages/train/intensity.py, operation by operation."""
    if hu_window is None:
        return INPUT
    low_hu, high_hu = hu_window
    low = graph.constant("window.low_hu", _scalar(low_hu))
    high = graph.constant("window.high_hu", _scalar(high_hu))
    factor = graph.constant("window.factor", _scalar(2 / (high_hu - low_hu)))
    clipped = graph.add("Clip", INPUT, low, high, name="window.clip")
    shifted = graph.add("Sub", clipped, low, name="window.shift")
    scaled = graph.add("Mul", shifted, factor, name="window.scale")
    return graph.add("Sub", scaled, graph.constant("window.one", _scalar(1)), name="window")


def _scalar(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


def _unet(graph: Graph, network: UNet3d, features: str) -> str:
    """As ``UNet3d.forward``."""
    levels = [_layer(graph, network.conv, features, "conv")]
    for name in ("down1", "down2", "down3", "down4"):
        levels.append(_layer(graph, getattr(network, name), levels[-1], name))
    features = levels.pop()
    for name in ("up1", "up2", "up3", "up4"):
        features = _up(graph, getattr(network, name), features, levels.pop(), name)
    return _layer(graph, network.out, features, "out")


def _up(graph: Graph, up: Up, below: str, skip: str, name: str) -> str:
    """As ``Up.forward``. At most one voxel is missing, and torch's halves put it behind."""
    below = _layer(graph, up.up, below, f"{name}.up")
    wanted = graph.add("Shape", skip, name=f"{name}.wanted", start=2)
    present = graph.add("Shape", below, name=f"{name}.present", start=2)
    missing = graph.add("Sub", wanted, present, name=f"{name}.missing")
    # batch, channels and three sides in front, batch and channels behind
    others = graph.constant("no_padding", np.zeros(7, np.int64))
    padding = graph.add("Concat", others, missing, name=f"{name}.padding", axis=0)
    padded = graph.add("Pad", below, padding, name=f"{name}.pad")
    joined = graph.add("Concat", skip, padded, name=f"{name}.join", axis=1)
    return _layer(graph, up.conv, joined, f"{name}.conv")


def _layer(graph: Graph, layer: nn.Module, features: str, name: str) -> str:
    """One module and those in it, named as in the network's state."""
    match layer:
        case nn.Sequential():
            for part, module in layer.named_children():
                features = _layer(graph, module, features, f"{name}.{part}")
            return features
        case DoubleConv() | Down():
            return _layer(graph, layer.layers, features, f"{name}.layers")
        case Out():
            return _layer(graph, layer.conv, features, f"{name}.conv")
        case nn.Conv3d():
            return _convolution(graph, layer, features, name)
        case nn.ConvTranspose3d():
            return _transposed(graph, layer, features, name)
        case nn.GroupNorm():
            return _group_norm(graph, layer, features, name)
        case nn.ReLU():
            return graph.add("Relu", features, name=name)
        case Halve():
            return graph.add("MaxPool", features, name=name, kernel_shape=TWO, strides=TWO)
        case Double():
            return _double(graph, features, name)
    raise TypeError(f"{name} is a {type(layer).__name__}, of which this graph knows nothing")


def _convolution(graph: Graph, layer: nn.Conv3d, features: str, name: str) -> str:
    before = [int(side) for side in layer.padding]
    return graph.add(
        "Conv",
        features,
        *_weights(graph, layer, name),
        name=name,
        kernel_shape=layer.kernel_size,
        pads=[*before, *before],
    )


def _transposed(graph: Graph, layer: nn.ConvTranspose3d, features: str, name: str) -> str:
    kernel, strides = layer.kernel_size, layer.stride
    weights = _weights(graph, layer, name)
    return graph.add(
        "ConvTranspose", features, *weights, name=name, kernel_shape=kernel, strides=strides
    )


def _weights(graph: Graph, layer: nn.Conv3d | nn.ConvTranspose3d, name: str) -> list[str]:
    assert layer.bias is not None
    named = {"weight": layer.weight, "bias": layer.bias}
    return [graph.constant(f"{name}.{part}", values) for part, values in named.items()]


def _group_norm(graph: Graph, layer: nn.GroupNorm, features: str, name: str) -> str:
    """Mean and variance of each group, written out.

    onnxruntime's InstanceNormalization adds up a group's float32 in one row: of 3·48·128·128 its
    result was off by 2e-4, this one's by 9e-7.
    """
    per_group = layer.num_channels // layer.num_groups
    groups = graph.constant(f"{name}.groups", np.array([0, layer.num_groups, per_group], np.int64))
    shape = graph.add("Shape", features, name=f"{name}.shape")
    sides = graph.add("Shape", features, name=f"{name}.sides", start=2)
    grouping = graph.add("Concat", groups, sides, name=f"{name}.grouping", axis=0)
    grouped = graph.add("Reshape", features, grouping, name=f"{name}.grouped")
    centred = graph.add(
        "Sub", grouped, _mean(graph, grouped, f"{name}.mean"), name=f"{name}.centred"
    )
    squared = graph.add("Mul", centred, centred, name=f"{name}.squared")
    variance = _mean(graph, squared, f"{name}.variance")
    epsilon = graph.constant("epsilon", _scalar(layer.eps))
    enlarged = graph.add("Add", variance, epsilon, name=f"{name}.enlarged")
    deviation = graph.add("Sqrt", enlarged, name=f"{name}.deviation")
    weight, bias = (_of_channels(graph, layer, part, name) for part in ("weight", "bias"))
    factor = graph.add("Div", weight, deviation, name=f"{name}.factor")
    scaled = graph.add("Mul", centred, factor, name=f"{name}.scaled")
    shifted = graph.add("Add", scaled, bias, name=f"{name}.shifted")
    return graph.add("Reshape", shifted, shape, name=name)


def _mean(graph: Graph, grouped: str, name: str) -> str:
    """The mean of each group (B, groups, channels, D, H, W), axis by axis to keep it exact."""
    rows = graph.add("ReduceMean", grouped, name=f"{name}.rows", axes=[5])
    planes = graph.add("ReduceMean", rows, name=f"{name}.planes", axes=[4])
    return graph.add("ReduceMean", planes, name=name, axes=[2, 3])


def _of_channels(graph: Graph, layer: nn.GroupNorm, part: str, name: str) -> str:
    """The norm's weights or biases, laid out as the groups are."""
    values: Tensor = getattr(layer, part)
    return graph.constant(f"{name}.{part}", values.view(layer.num_groups, -1, 1, 1, 1))


def _double(graph: Graph, features: str, name: str) -> str:
    scales = graph.constant("scales", np.array([1, 1, 2, 2, 2], np.float32))
    return graph.add(
        "Resize",
        features,
        "",  # a region of interest, which this mode has not
        scales,
        name=name,
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
