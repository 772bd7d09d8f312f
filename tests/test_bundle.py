"""Running a bundle: what the graph computes, and one message for each way it can be broken."""

import hashlib
import json
import shutil
import sys
from contextlib import suppress
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import ModelError, ParamsError
from cache.reader import CaseStore
from cache.sealed import KEY, sealed
from exported import export, network, write_model
from stages.evaluate.window import liver_probability
from stages.export.bundle import read_bundle
from stages.export.graph import write_onnx
from stages.train.device import network_on_hu
from stages.train.intensity import to_network_input
from tiny import PREPROCESS, one_thread, python, spec_of

CPU = torch.device("cpu")
HU_WINDOW = (-160.0, 240.0)


@pytest.fixture(scope="module")
def exported(cases, tmp_path_factory):
    """A bundle of a network of random weights; no test changes it."""
    folder = tmp_path_factory.mktemp("exported")
    with one_thread():
        export(write_model(folder / "best.pt"), folder / "bundle", cases=cases)
    return folder / "bundle"


@pytest.fixture
def bundle(exported, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(exported, tmp_path / "bundle")


@pytest.fixture(scope="module")
def open_graph(tmp_path_factory):
    """Write a network as a graph and open it; gives HU -> logits, as numpy."""
    import onnxruntime

    def run(of, hu_window):
        path = tmp_path_factory.mktemp("graph") / "model.onnx"
        write_onnx(path, of, hu_window)
        session = onnxruntime.InferenceSession(str(path))
        return lambda hu: session.run(["logits"], {"hu": hu})[0]

    return run


@pytest.fixture(scope="module", params=["trilinear", "transposed"])
def both(request, open_graph):
    """One network, and its graph."""
    made = network(upsampling=request.param)
    return made, open_graph(made, HU_WINDOW)


def hu_of(shape):
    return np.random.default_rng(0).integers(-1000, 1000, shape).astype(np.float32)


@settings(max_examples=5)
@given(batch=st.integers(1, 3), sides=st.tuples(*[st.integers(16, 40)] * 3))
@torch.inference_mode()
def test_the_graph_takes_any_batch_and_any_sides_from_16_and_gives_the_networks_logits(
    both, batch, sides
):
    made, graph = both
    hu = hu_of((batch, 1, *sides))
    with one_thread():
        expected = made(to_network_input(torch.from_numpy(hu), HU_WINDOW))
    logits = graph(hu)
    assert logits.dtype == np.float32
    assert logits.shape == (batch, 2, *sides)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_what_lies_outside_the_hu_window_looks_like_its_edge(both):
    _, graph = both
    hu = hu_of((1, 1, 16, 17, 18))
    np.testing.assert_array_equal(graph(hu), graph(hu.clip(*HU_WINDOW)))
    assert np.abs(graph(hu) - graph(hu + 50)).max() > 1e-3


def test_a_model_of_raw_hu_gets_them_raw(open_graph):
    made = network()
    hu = hu_of((1, 1, 16, 17, 18))
    with torch.inference_mode():
        expected = made(torch.from_numpy(hu))
    np.testing.assert_allclose(open_graph(made, None)(hu), expected, atol=1e-4)


def test_a_layer_the_graph_does_not_know_is_refused(tmp_path):
    made = network()
    made.conv.layers[2] = torch.nn.LeakyReLU()
    with pytest.raises(TypeError, match="LeakyReLU"):
        write_onnx(tmp_path / "model.onnx", made, None)


def test_the_graph_keeps_its_weights_under_the_networks_names(exported):
    weights = {one.name for one in onnx.load(exported / "model.onnx").graph.initializer}
    assert set(network().state_dict()) <= weights


def test_by_sliding_window_a_bundle_gives_what_the_checkpoint_gives(exported, cases):
    volume = CaseStore(cases).image("case-0")
    networks = network_on_hu(network(), spec_of(), CPU), read_bundle(exported).network(CPU)
    where = {"window_zyx": (16, 16, 16), "overlap": 0.5, "device": CPU}
    with one_thread():
        ours, theirs = (liver_probability(one, volume, **where) for one in networks)
    assert np.ptp(ours) > 0.1
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_a_bundle_has_the_models_preparation_and_window(exported):
    bundle = read_bundle(exported)
    assert bundle.preprocess == PREPROCESS
    assert bundle.window_zyx == (16, 16, 16)
    assert bundle.path == exported / "model.onnx"


@pytest.mark.slow
def test_a_bundle_runs_without_any_training_code(exported):
    script = """
import sys, torch
from pathlib import Path
from stages.export.bundle import read_bundle
network = read_bundle(Path(sys.argv[1])).network(torch.device("cpu"))
assert network(torch.zeros(1, 1, 16, 17, 18)).shape == (1, 2, 16, 17, 18)
print([name for name in sys.modules if name.startswith(("stages.train", "onnx.", "SimpleITK"))])
"""
    ended = python("-c", script, exported, cwd=exported.parent)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def refused(bundle):
    with pytest.raises(ModelError) as caught:
        read_bundle(bundle)
    return str(caught.value)


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    assert str(refused(tmp_path)).startswith(f"{tmp_path}: is no bundle")


def test_a_bundle_without_its_graph_is_named(bundle):
    (bundle / "model.onnx").unlink()
    assert f"{bundle}: has no model.onnx" in refused(bundle)


def test_a_flipped_bit_in_the_graph_is_found(bundle):
    path = bundle / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    assert f"{path}: is damaged" in refused(bundle)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format_version": "1"}', "\0"])
def test_a_damaged_preparation_is_named(bundle, text):
    (bundle / "preparation.json").write_text(text)
    assert f"{bundle / 'preparation.json'}: is damaged" in refused(bundle)


def test_no_flipped_bit_in_the_preparation_is_believed(bundle, exported):
    path, expected = bundle / "preparation.json", read_bundle(exported)
    whole = path.read_bytes()
    for offset in range(0, len(whole), 7):
        content = bytearray(whole)
        content[offset] ^= 1 << offset % 8
        path.write_bytes(content)
        with suppress(ModelError):
            assert replace(read_bundle(bundle), path=expected.path) == expected, offset


def test_a_digit_of_the_preparation_that_was_changed_is_damage(bundle):
    path = bundle / "preparation.json"
    before = path.read_text()
    path.write_text(before.replace('"margin_mm": 5.0', '"margin_mm": 7.0'))
    assert path.read_text() != before
    assert f"{path}: is damaged" in refused(bundle)


def test_a_bundle_without_a_digest_of_its_preparation_is_damaged(bundle):
    path = bundle / "preparation.json"
    fields = json.loads(path.read_text())
    del fields[KEY]
    path.write_text(json.dumps(fields))
    assert "is damaged (ValueError: it has no sha256)" in refused(bundle)


def test_an_older_bundle_that_has_no_such_digest_is_read_with_a_warning(bundle, exported, caplog):
    path = bundle / "preparation.json"
    fields = json.loads(path.read_text())
    del fields[KEY]
    path.write_text(json.dumps({**fields, "format_version": 1}))
    assert read_bundle(bundle).preprocess == read_bundle(exported).preprocess
    assert "is of an older liver3d and has no digest" in caplog.text


def test_a_missing_parameter_is_named(bundle):
    change(bundle, preprocess=None)
    assert "missing or wrong: preprocess" in refused(bundle)


@pytest.mark.parametrize(
    "changed", [{"window_zyx": [8, 8, 8]}, {"window_zyx": [-5, 16, 16]}, {"threshold": 0.9}]
)
def test_what_nothing_would_heed_is_refused(bundle, changed):
    change(bundle, **changed)
    assert "missing or wrong" in refused(bundle)


def test_a_newer_bundle_is_refused_by_its_version(bundle):
    change(bundle, format_version=9)
    assert "has format 9; this liver3d reads up to 2\n  fix: update liver3d" in refused(bundle)


def test_a_bundle_of_torch_is_not_unpickled_but_refused(bundle):
    change(bundle, graph={"file": "model.pt2"})
    assert "--to onnx" in refused(bundle)


def change(bundle, *, graph=None, **fields):
    """Change some of what a bundle says of itself, and of its graph."""
    path = bundle / "preparation.json"
    before = json.loads(path.read_text())
    after = {**before, **fields, "graph": {**before["graph"], **(graph or {})}}
    path.write_text(json.dumps(sealed(after)))


def test_a_graph_that_onnxruntime_cannot_read_is_named(bundle):
    path = bundle / "model.onnx"
    path.write_bytes(b"no graph")
    digest = hashlib.sha256(b"no graph").hexdigest()
    change(bundle, graph={"sha256": digest})
    with pytest.raises(ModelError, match="cannot be run by onnxruntime"):
        read_bundle(bundle).network(CPU)


def test_without_onnxruntime_the_fix_is_named(exported, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ParamsError, match="onnxruntime") as caught:
        read_bundle(exported).network(CPU)
    assert "pip install" in caught.value.fix


def test_a_device_that_onnxruntime_cannot_use_is_refused(exported):
    with pytest.raises(ParamsError, match="--device: is meta") as caught:
        read_bundle(exported).network(torch.device("meta"))
    assert "--device cpu" in caught.value.fix
