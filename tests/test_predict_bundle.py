"""Predicting with an exported model: the same masks, without the code that trains."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from pipeline.predict import main
from tiny import brightness_network, python

WITHOUT_TRAINING = """
import sys
from pipeline.predict import main
main(sys.argv[1:], standalone_mode=False)
print([name for name in sys.modules if name.startswith("stages.train")])
"""


@pytest.fixture
def ct_places(write_volume, tmp_path):
    """Where such a CT lies and where its mask belongs."""

    def write(mask):
        hu = np.full((22, 26, 30), -1000, np.int16)
        hu[1:21, 2:25, 2:29] = -100
        hu[4:13, 5:15, 14:24] = 200
        ct = write_volume("ct.nii.gz", hu, spacing_xyz_mm=(3.5, 4.25, 5.5))
        return ("--ct", ct, "--out", tmp_path / mask)

    return write


@pytest.fixture
def model(write_model):
    """A model that finds what is bright."""
    return write_model(brightness_network(), train={"patch_zyx": [16, 16, 16]})


@pytest.fixture
def bundle(model, run_command, tmp_path):
    """That model exported."""
    export = pytest.importorskip("pipeline.export").main
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    places = ("--out", tmp_path / "bundle", "--cases", tmp_path / "no-cases")
    ended = run_command(export, "--model", model, *places)
    assert ended.exit_code == 0, ended.output
    return tmp_path / "bundle"


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.slow
def test_importing_the_command_imports_nothing_that_trains(tmp_path):
    script = WITHOUT_TRAINING.replace("main(sys.argv[1:], standalone_mode=False)", "")
    ended = python("-c", script, cwd=tmp_path)
    assert (ended.stdout, ended.stderr) == ("[]\n", "")


def test_a_folder_that_is_no_bundle_is_refused(ct_places, run_command, tmp_path):
    (tmp_path / "folder").mkdir()
    ended = run_command(main, "--model", tmp_path / "folder", *ct_places("mask.nii.gz"))
    assert ended.exit_code == 2
    assert f"error: {tmp_path / 'folder'}" in ended.output


@pytest.mark.slow
def test_a_bundle_predicts_as_its_model_does(bundle, model, ct_places, run_command, tmp_path):
    for path, mask in ((model, "a.nii.gz"), (bundle, "b.nii.gz")):
        ended = run_command(main, "--model", path, *ct_places(mask), "--device", "cpu")
        assert ended.exit_code == 0, ended.output
    assert voxels(tmp_path / "a.nii.gz").sum() > 0
    np.testing.assert_array_equal(voxels(tmp_path / "a.nii.gz"), voxels(tmp_path / "b.nii.gz"))


@pytest.mark.slow
def test_a_bundle_runs_without_the_code_that_trains(bundle, ct_places, tmp_path):
    words = ("--model", bundle, *ct_places("mask.nii.gz"))
    ended = python("-c", WITHOUT_TRAINING, *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("\n[]\n")
    assert (tmp_path / "mask.nii.gz").is_file()


@pytest.mark.slow
def test_a_bundle_and_a_checkpoint_of_one_preparation_are_averaged(
    bundle, model, ct_places, run_command
):
    models = ("--model", bundle, "--model", model)
    ended = run_command(main, *models, *ct_places("mask.nii.gz"), "--device", "cpu")
    assert ended.exit_code == 0, ended.output
