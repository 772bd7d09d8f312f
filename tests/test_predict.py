"""``pipeline.predict``: one CT in, one mask out in the CT's geometry, or one readable message."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
import torch

from pipeline.predict import main
from stages.evaluate.overlap import overlap
from stages.preprocess.inspect import ct_to_predict
from stages.train.unet import UNet3d
from tiny import ball, brightness_network, names, python

SHAPE_ZYX = (22, 26, 30)
SPACING_XYZ_MM = (3.5, 4.25, 5.5)
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)  # RAS
SIDEWAYS = (0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0, -1.0, 0.0)  # slices from right to left
TURNED = (0.955336, 0.295520, 0.0, 0.295520, -0.955336, 0.0, 0.0, 0.0, -1.0)
LIVER = ball(SHAPE_ZYX, (8, 10, 19), 5)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to be in: predict needs no params.yaml and writes only what it is told."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def write_ct(write_volume):
    """Write a CT of a body in air with a bright ball, off the middle on every axis."""

    def write(name="ct.nii.gz", *, direction=FLIPPED, air=-1000, body=-100):
        hu = np.full(SHAPE_ZYX, air, np.float32 if isinstance(air, float) else np.int16)
        hu[1:21, 2:25, 2:29] = body
        hu[LIVER] = 200
        return write_volume(name, hu, spacing_xyz_mm=SPACING_XYZ_MM, direction=direction)

    return write


@pytest.fixture
def predict(run_command):
    return lambda *args: run_command(main, "--device", "cpu", *args)


def geometry(path):
    image = sitk.ReadImage(str(path))
    return image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection()


def refused(ended, folder):
    """The message of a run that was refused, after making sure that nothing was written."""
    assert ended.exit_code == 2
    assert ended.output.startswith("error: ")
    assert "Traceback" not in ended.output
    assert names(folder) == []
    return ended.output


@pytest.mark.parametrize("direction", [FLIPPED, SIDEWAYS], ids=["flipped", "sideways"])
def test_the_mask_has_exactly_the_geometry_of_the_ct(write_ct, write_model, predict, direction):
    ct = write_ct(direction=direction)
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    assert ended.exit_code == 0
    assert geometry("mask.nii.gz") == geometry(ct)


def test_an_oblique_ct_keeps_its_geometry_to_single_precision(write_ct, write_model, predict):
    ct = write_ct(direction=TURNED)
    predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    ours, theirs = geometry("mask.nii.gz"), geometry(ct)
    assert ours[:2] == theirs[:2]
    assert ours[2] == pytest.approx(theirs[2], rel=1e-6)
    assert ours[3] == pytest.approx(theirs[3], abs=1e-6)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd", "ct.mha"])
@pytest.mark.parametrize("direction", [FLIPPED, SIDEWAYS], ids=["flipped", "sideways"])
@pytest.mark.parametrize("grid", ["keep", "spacing"])
def test_a_bright_ball_is_found_where_it_lies(
    write_ct, write_model, predict, name, direction, grid
):
    ct = write_ct(name, direction=direction)
    model = write_model(brightness_network(), preprocess={"grid": grid, "margin_mm": 0.0})
    predict("--model", model, "--ct", ct, "--out", "mask.nii.gz")
    mask = sitk.GetArrayFromImage(sitk.ReadImage("mask.nii.gz"))
    assert overlap(mask, LIVER).dice >= (1.0 if grid == "keep" else 0.9)


def test_a_model_of_patches_predicts_too(write_ct, write_model, predict):
    model = write_model(train={"patch_zyx": [16, 16, 16]})
    ended = predict("--model", model, "--ct", write_ct(), "--out", "mask.nii", "--overlap", "0.25")
    assert ended.exit_code == 0
    assert geometry("mask.nii")[0] == (30, 26, 22)


def test_predict_says_the_livers_volume(write_ct, write_model, predict):
    model = write_model(brightness_network(), preprocess={"grid": "keep"})
    ended = predict("--model", model, "--ct", write_ct(), "--out", "mask.nii.gz")
    # a ball of radius 5 has 515 voxels, each of 0.0818 ml
    assert ended.output == "liver 42 ml; mask: mask.nii.gz\n"


def test_a_model_of_label_crops_takes_the_body_and_says_so(write_ct, write_model, predict):
    model = write_model(preprocess={"crop": "label"})
    ended = predict("--model", model, "--ct", write_ct(), "--out", "mask.nii.gz")
    assert ended.exit_code == 0
    assert "there is no label, so the body is taken" in ended.output


@pytest.mark.parametrize("air", [float("nan"), -3024], ids=["NaN", "padding"])
def test_what_was_not_scanned_is_taken_for_air(write_ct, air):
    _, hu, _ = ct_to_predict(write_ct("odd.mha", air=air))
    _, expected, _ = ct_to_predict(write_ct("ct.mha"))
    np.testing.assert_array_equal(hu, expected)


def test_a_ct_without_air_is_doubted_and_predicted(write_ct, write_model, predict):
    ct = write_ct(air=0)
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    assert ended.exit_code == 0
    assert f"warning: {ct}: values run from -100 to 200; a CT in HU has air" in ended.output


def test_a_ct_whose_values_are_not_hu_is_refused_with_the_flag_for_models_of_such(
    write_ct, write_model, predict, folder
):
    ct = write_ct(air=0, body=1064)
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    message = refused(ended, folder)
    assert "nothing is as dark as fat or air: these are not HU" in message
    assert "--any-values" in message


def test_any_values_predicts_a_ct_whose_values_are_not_hu_with_a_warning(
    write_ct, write_model, predict
):
    ct = write_ct(air=0, body=1064)
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz", "--any-values")
    assert ended.exit_code == 0
    assert f"warning: {ct}: values run from 0 to 1064" in ended.output


def test_a_ct_with_infinite_values_is_named(write_ct, write_model, predict, folder):
    ct = write_ct("ct.nrrd", air=float("-inf"))
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    assert f"{ct}: 0 voxels are NaN and" in refused(ended, folder)


def test_a_missing_model_is_named(write_ct, predict, folder, tmp_path):
    model = tmp_path / "none.pt"
    ended = predict("--model", model, "--ct", write_ct(), "--out", "mask.nii.gz")
    assert f"{model}: there is no model here" in refused(ended, folder)


@pytest.mark.parametrize("content", [b"", b"no model", None], ids=["empty", "text", "cut short"])
def test_a_damaged_model_is_named(write_ct, write_model, predict, folder, content):
    model = write_model()
    model.write_bytes(model.read_bytes()[:-100] if content is None else content)
    ended = predict("--model", model, "--ct", write_ct(), "--out", "mask.nii.gz")
    assert f"{model}: is damaged" in refused(ended, folder)


def test_a_model_with_unknown_parameters_is_named_with_them(write_ct, write_model, predict, folder):
    model = write_model(preprocess={"margin_cm": 1})
    ended = predict("--model", model, "--ct", write_ct(), "--out", "mask.nii.gz")
    assert f"{model}: was trained with parameters" in refused(ended, folder)
    assert "margin_cm" in ended.output


def test_a_missing_ct_is_named(write_model, predict, folder, tmp_path):
    ct = tmp_path / "none.nii.gz"
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    assert str(ct) in refused(ended, folder)


def test_a_folder_instead_of_a_ct_is_named(write_model, predict, folder, tmp_path):
    ended = predict("--model", write_model(), "--ct", tmp_path, "--out", "mask.nii.gz")
    assert str(tmp_path) in refused(ended, folder)


@pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nrrd"])
def test_a_ct_cut_short_is_named(write_ct, write_model, predict, folder, name):
    ct = write_ct(name)
    ct.write_bytes(ct.read_bytes()[: ct.stat().st_size // 2])
    ended = predict("--model", write_model(), "--ct", ct, "--out", "mask.nii.gz")
    assert str(ct) in refused(ended, folder)


def test_an_unknown_ending_is_refused_before_the_model_is_looked_for(
    write_ct, predict, folder, tmp_path
):
    ended = predict("--model", tmp_path / "none.pt", "--ct", write_ct(), "--out", "mask.png")
    assert "mask.png: has none of the endings" in refused(ended, folder)


def test_an_unknown_device_is_refused(write_ct, write_model, run_command, folder):
    places = ("--model", write_model(), "--ct", write_ct(), "--out", "mask.nii.gz")
    ended = run_command(main, *places, "--device", "tpu9")
    assert "--device: 'tpu9' is not the name of a device" in refused(ended, folder)


@pytest.mark.slow
def test_predict_as_a_process_prints_one_message_and_no_traceback(write_model, folder, tmp_path):
    places = ("--model", write_model(), "--ct", tmp_path / "none.nii", "--out", "mask.nii.gz")
    ended = python("-m", "pipeline.predict", *places, cwd=folder)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.startswith(f"error: {tmp_path / 'none.nii'}: there is no such")
    assert "Traceback" not in ended.stderr
    assert names(folder) == []


class TestChoices:
    @pytest.fixture
    def found(self, write_model, predict):
        """Predict with a model that finds what is bright; gives the mask of a CT."""
        model = write_model(brightness_network(), preprocess={"grid": "keep", "margin_mm": 0.0})

        def run(ct, *args):
            ended = predict("--model", model, "--ct", ct, "--out", "mask.nii.gz", *args)
            assert ended.exit_code == 0, ended.output
            return sitk.GetArrayFromImage(sitk.ReadImage("mask.nii.gz"))

        return run

    @pytest.fixture
    def odd_ct(self, write_volume):
        """A ball with a hole in it, and a smaller one apart."""
        hu = np.full(SHAPE_ZYX, -1000, np.int16)
        hu[1:21, 2:25, 2:29] = -100
        hu[LIVER] = 200
        hu[8, 10, 19] = -100
        hu[ball(SHAPE_ZYX, (16, 20, 6), 2)] = 200
        return write_volume("odd.nii.gz", hu, spacing_xyz_mm=SPACING_XYZ_MM, direction=FLIPPED)

    def test_nothing_is_mended_unasked(self, found, odd_ct):
        assert found(odd_ct).sum() == 515 - 1 + 33

    def test_the_largest_piece_is_kept(self, found, odd_ct):
        assert found(odd_ct, "--keep-largest").sum() == 515 - 1

    def test_holes_are_filled(self, found, odd_ct):
        assert found(odd_ct, "--fill-holes").sum() == 515 + 33

    def test_largest_piece_and_filled_holes_together_leave_one_whole_piece(self, found, odd_ct):
        np.testing.assert_array_equal(found(odd_ct, "--keep-largest", "--fill-holes"), LIVER)

    def test_mirroring_changes_nothing_for_a_network_without_a_side(self, found, odd_ct):
        plain = found(odd_ct)
        np.testing.assert_array_equal(found(odd_ct, "--tta"), plain)

    def test_the_probability_has_the_geometry_of_the_ct_too(self, found, odd_ct, folder):
        mask = found(odd_ct, "--probabilities")
        assert names(folder) == ["mask.nii.gz", "mask_probability.nii.gz"]
        assert geometry("mask_probability.nii.gz") == geometry(odd_ct)
        image = sitk.ReadImage("mask_probability.nii.gz")
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image) > 0.5, mask == 1)


class TestSeveralModels:
    @pytest.fixture
    def sure(self, write_model):
        """Save a network that gives every voxel the same odds of liver."""

        def write(name, odds, **changes):
            network = UNet3d(1, 2, 8)
            with torch.no_grad():
                network.out.conv.weight.zero_()
                network.out.conv.bias.copy_(torch.tensor([0.0, odds]))
            return write_model(network, name=name, **changes)

        return write

    def probability(self):
        image = sitk.ReadImage("mask_probability.nii.gz")
        return sitk.GetArrayFromImage(image).max()

    def test_the_probabilities_of_several_models_are_averaged(self, sure, write_ct, predict):
        first, other = sure("a.pt", np.log(0.9 / 0.1)), sure("b.pt", np.log(0.2 / 0.8))
        models = ("--model", first, "--model", other)
        predict(*models, "--ct", write_ct(), "--out", "mask.nii.gz", "--probabilities")
        assert self.probability() == pytest.approx(0.55, abs=1e-6)

    def test_models_of_two_preparations_are_refused(self, sure, write_ct, predict, folder):
        first, other = sure("a.pt", 0.0), sure("b.pt", 0.0, preprocess={"grid": "keep"})
        models = ("--model", first, "--model", other)
        ended = predict(*models, "--ct", write_ct(), "--out", "mask.nii.gz")
        assert f"{other}: cannot be averaged with {first}: grid is keep, not spacing" in refused(
            ended, folder
        )
