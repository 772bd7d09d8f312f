"""ONNX graphs that are not a bundle's: refused as what they are, before or while they are run."""

import hashlib
import json
import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from cache.errors import DataError, ModelError
from cache.sealed import sealed
from exported import export, write_model
from stages.export.bundle import read_bundle
from stages.export.foreign import require_whole
from stages.machine import naming_shortage
from tiny import one_thread

CPU = torch.device("cpu")
OPEN = ["batch", 1, "depth", "height", "width"]
PATCH = torch.zeros(1, 1, 16, 17, 18)


@pytest.fixture(scope="module")
def exported(cases, tmp_path_factory):
    """A bundle of a network of random weights; no test changes it."""
    folder = tmp_path_factory.mktemp("exported")
    with one_thread():
        export(write_model(folder / "best.pt"), folder / "bundle", cases=cases)
    return folder / "bundle"


@pytest.fixture
def with_graph(exported, tmp_path):
    """A copy of the bundle with another graph, whose digest it states; gives the bundle."""

    def put(model):
        bundle = shutil.copytree(exported, tmp_path / "bundle")
        (bundle / "model.onnx").write_bytes(model.SerializeToString())
        digest = hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()
        fields = json.loads((bundle / "preparation.json").read_text(encoding="utf-8"))
        fields["graph"]["sha256"] = digest
        (bundle / "preparation.json").write_text(json.dumps(sealed(fields)), encoding="utf-8")
        return bundle

    return put


def graph(nodes=None, *, name="hu", shape=OPEN, kind=TensorProto.FLOAT, more=(), **changes):
    """A graph that gives its input twice, as two channels; with anything about it changed."""
    out = {"name": "logits", "shape": [*OPEN[:1], 2, *OPEN[2:]], "kind": kind, **changes}
    made = helper.make_graph(
        nodes or [helper.make_node("Concat", [name, name], [out["name"]], axis=1)],
        "foreign",
        [helper.make_tensor_value_info(name, kind, shape), *more],
        [helper.make_tensor_value_info(out["name"], out["kind"], out["shape"])],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def refused(bundle):
    with pytest.raises(ModelError) as caught:
        read_bundle(bundle).network(CPU)(PATCH)
    assert caught.value.where == bundle / "model.onnx"
    return caught.value.fact


def test_a_foreign_graph_that_takes_and_gives_what_ours_does_is_run(with_graph):
    logits = read_bundle(with_graph(graph())).network(CPU)(PATCH)
    assert logits.shape == (1, 2, 16, 17, 18)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": "image"}, "takes image: float (batch, 1, depth, height, width), not hu: float32"),
        ({"kind": TensorProto.DOUBLE}, "takes hu: double "),
        ({"shape": ["batch", 3, "d", "h", "w"]}, "takes hu: float (batch, 3, d, h, w), not hu"),
        ({"shape": ["batch", 1, "h", "w"]}, "takes hu: float (batch, 1, h, w), not hu"),
        ({"shape": ["batch", 1, 96, 96, 96]}, "with open sides"),
    ],
)
def test_a_graph_with_another_input_is_refused_with_both(with_graph, changed, said):
    assert said in refused(with_graph(graph(**changed)))


def test_a_graph_with_another_output_is_refused_with_both(with_graph):
    node = helper.make_node("Concat", ["hu", "hu", "hu"], ["classes"], axis=1)
    shape = ["batch", 3, "depth", "height", "width"]
    one = graph([node], shape=OPEN)
    one.graph.output[0].CopyFrom(helper.make_tensor_value_info("classes", TensorProto.FLOAT, shape))
    assert "gives classes: float (batch, 3, depth, height, width), not logits" in refused(
        with_graph(one)
    )


def test_a_graph_with_a_second_input_is_refused(with_graph):
    second = helper.make_tensor_value_info("spacing", TensorProto.FLOAT, [3])
    assert "spacing: float (3)" in refused(with_graph(graph(more=[second])))


def test_a_graph_that_gives_another_shape_than_it_promises_is_refused(with_graph):
    nodes = [
        helper.make_node("Concat", ["hu", "hu"], ["both"], axis=1),
        helper.make_node("MaxPool", ["both"], ["logits"], kernel_shape=[2] * 3, strides=[2] * 3),
    ]
    said = refused(with_graph(graph(nodes)))
    assert said.startswith("gave float32 (1, 2, 8, 8, 9) for a patch of (1, 1, 16, 17, 18), not")


def test_a_graph_that_fails_while_it_runs_is_refused_with_the_reason(with_graph, capfd):
    said = refused(with_graph(resizing("Reshape", "hu", [1, 2, 3, 1, 1])))
    assert said.startswith("cannot be run by onnxruntime on a patch of (1, 1, 16, 17, 18): ")
    assert capfd.readouterr().err == ""


def test_a_graph_of_an_opset_to_come_is_refused(with_graph):
    one = graph()
    one.opset_import[0].version = 999
    assert "cannot be run by onnxruntime" in refused(with_graph(one))


def test_a_graph_that_needs_more_memory_than_there_is_is_no_bad_graph(with_graph):
    bundle = with_graph(resizing("Expand", "one", [1, 2, 9000, 9000, 9000]))
    network = read_bundle(bundle).network(CPU)
    with pytest.raises(DataError, match="does not fit into memory") as caught, naming_shortage("x"):
        network(PATCH)
    assert caught.value.where == "x"


def resizing(operator, of, factors):
    """A graph that reshapes or expands something to the input's shape times these factors."""
    one = graph(
        [
            helper.make_node("Shape", ["hu"], ["sides"]),
            helper.make_node("Mul", ["sides", "factors"], ["wanted"]),
            helper.make_node(operator, [of, "wanted"], ["logits"]),
        ]
    )
    for name, values in (("factors", factors), ("one", np.ones((1, 1, 1, 1, 1), np.float32))):
        one.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return one


class TestExternalData:
    @pytest.fixture
    def scattered(self, exported, tmp_path):
        """A bundle whose graph keeps its weights in a second file, as onnx writes it."""
        bundle = shutil.copytree(exported, tmp_path / "bundle")
        path = bundle / "model.onnx"
        onnx.save(
            onnx.load(path),
            str(path),
            save_as_external_data=True,
            location="weights.bin",
            size_threshold=0,
        )
        fields = json.loads((bundle / "preparation.json").read_text(encoding="utf-8"))
        fields["graph"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
        (bundle / "preparation.json").write_text(json.dumps(sealed(fields)), encoding="utf-8")
        return bundle

    def test_a_graph_with_weights_in_another_file_of_the_bundle_is_refused(self, scattered):
        assert "keeps weights in other files" in refused(scattered)

    def test_an_entry_written_with_longer_numbers_is_found_too(self, scattered):
        path = scattered / "model.onnx"
        entry = b"\x8a\x80\x00\x88\x00location"
        path.write_bytes(path.read_bytes().replace(b"\n\x08location", entry))
        with pytest.raises(ModelError, match="other files"):
            require_whole(path)

    def test_a_graph_in_one_file_may_have_the_word_in_a_name(self, with_graph):
        node = helper.make_node("Concat", ["hu", "hu"], ["logits"], axis=1, name="a_location")
        assert read_bundle(with_graph(graph([node]))).network(CPU)(PATCH).shape[1] == 2
