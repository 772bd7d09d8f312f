"""``pipeline.score``: masks of any origin against labels, and what it refuses by name."""

import csv
import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from pipeline.score import main
from tiny import block, names, python

SPACING_XYZ_MM = (2.0, 1.0, 3.0)
LABEL = block()
PREDICTION = block(stop=(9, 8, 8))  # a sheet of 6x6 more than the label's 6x6x6


@pytest.fixture
def write_mask(write_volume):
    """Write a mask; the default is the label, on a grid with unequal sides and spacings."""

    def write(path, array=LABEL, **how):
        return write_volume(path, array, **{"spacing_xyz_mm": SPACING_XYZ_MM, **how})

    return write


@pytest.fixture
def score(run_command, tmp_path):
    """Score the folders predictions and labels into scores."""

    def run(*flags):
        folders = [("predictions", "predictions"), ("labels", "labels"), ("out", "scores")]
        places = [word for flag, name in folders for word in (f"--{flag}", tmp_path / name)]
        return run_command(main, *places, *flags)

    return run


@pytest.fixture
def rows(tmp_path):
    """The table that was written, by case."""

    def read():
        with (tmp_path / "scores/cases.csv").open(newline="", encoding="utf-8") as file:
            return {row["case_id"]: row for row in csv.DictReader(file)}

    return read


@pytest.fixture
def metrics(tmp_path):
    return lambda: json.loads((tmp_path / "scores/metrics.json").read_text(encoding="utf-8"))


def refused(ended):
    """The message of a run that ended with 2."""
    assert ended.exit_code == 2
    assert "Traceback" not in ended.output
    return ended.output


def test_masks_are_scored_as_a_model_is(write_mask, score, rows, metrics):
    write_mask("predictions/a.nii.gz", PREDICTION)
    write_mask("labels/a.nii.gz")
    ended = score()
    assert ended.exit_code == 0
    row = rows()["a"]
    assert float(row["dice"]) == pytest.approx(2 * 216 / (216 + 252), abs=1e-4)
    assert (row["hd95_mm"], row["volume_error_ml"]) == ("3.0000", "0.2160")
    assert (row["patient_id"], row["role"]) == ("a", "")
    assert metrics()["dice"]["mean"] == float(row["dice"])
    assert "mean Dice 0.9231" in ended.output


def test_a_tolerance_changes_surface_dice_alone_and_is_written_down(
    write_mask, score, rows, metrics
):
    write_mask("predictions/a.nii.gz", PREDICTION)
    write_mask("labels/a.nii.gz")
    score("--tolerance-mm", "2.9")
    strict = rows()["a"]
    score("--tolerance-mm", "3")
    lenient = rows()["a"]
    assert float(strict["surface_dice"]) < float(lenient["surface_dice"]) == 1.0
    assert strict["dice"] == lenient["dice"]
    assert metrics()["tolerance_mm"] == 3.0


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.NII", "a.nii.gz"])
def test_the_ending_may_be_another_than_the_labels(write_mask, score, rows, name):
    write_mask("labels/a.nii.gz")
    written = write_mask(f"predictions/{name.lower()}")
    written.rename(written.with_name(name))
    assert score().exit_code == 0
    assert rows()["a"]["dice"] == "1.0000"


def test_a_mask_and_a_label_in_two_unicode_forms_are_a_pair(write_mask, score, rows):
    write_mask("labels/M\u00fcller.nii.gz")
    write_mask("predictions/Mu\u0308ller.nii.gz")
    assert score().exit_code == 0
    assert list(rows()) == ["M\u00fcller"]


def test_another_order_of_the_axes_is_no_other_grid(write_mask, score, rows):
    # voxel (z, y, x) of the label is (x, z, y) of a file whose axes point to P, I and L
    turned = np.ascontiguousarray(np.flip(PREDICTION.transpose(2, 0, 1), axis=1))
    write_mask("labels/a.nii.gz", origin_xyz_mm=(10.0, 20.0, 30.0))
    last_z = 30.0 + 3.0 * (LABEL.shape[0] - 1)
    write_mask(
        "predictions/a.nii.gz",
        turned,
        spacing_xyz_mm=(1.0, 3.0, 2.0),
        origin_xyz_mm=(10.0, 20.0, last_z),
        direction=(0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    )
    ended = score()
    assert ended.exit_code == 0, ended.output
    assert (rows()["a"]["dice"], rows()["a"]["hd95_mm"]) == ("0.9231", "3.0000")


def test_values_say_what_is_liver(write_mask, score, rows):
    organs = np.where(LABEL > 0, 6, 0).astype(np.int16)
    organs[0] = 1  # a spleen
    tumour = LABEL.copy()
    tumour[4:6, 4:6, 4:6] = 2
    write_mask("predictions/a.nii.gz", organs)
    write_mask("labels/a.nii.gz", tumour)
    assert score("--prediction-values", "6", "--label-values", "1,2").exit_code == 0
    assert rows()["a"]["dice"] == "1.0000"
    score("--prediction-values", "any", "--label-values", "1")
    assert float(rows()["a"]["precision"]) < 0.9


@pytest.mark.parametrize("kind", ["predictions", "labels"])
def test_a_255_beside_other_values_is_told_and_counts_only_if_it_is_asked_for(
    write_mask, score, rows, kind
):
    unseen = LABEL.copy()
    unseen[0, :3, :5] = 255
    write_mask("predictions/a.nii.gz", unseen if kind == "predictions" else LABEL)
    write_mask("labels/a.nii.gz", unseen if kind == "labels" else LABEL)
    ended = score()
    assert ended.exit_code == 0
    assert f"{kind}/a.nii.gz: has 255 (15 voxels) beside other values" in ended.output
    assert rows()["a"]["dice"] == "1.0000"
    ended = score("--prediction-values", "1,255", "--label-values", "1,255")
    assert "beside other values" not in ended.output
    assert rows()["a"]["dice"] == "0.9664"  # 2·216 / (2·216 + 15)


def test_of_a_segmentation_in_layers_every_layer_counts(write_mask, score, rows, tmp_path):
    label = write_mask("labels/a.nii.gz")
    layers = np.stack([LABEL, np.zeros_like(LABEL)], axis=-1)
    layers[:5, ..., 0], layers[:5, ..., 1] = 0, LABEL[:5]
    image = sitk.GetImageFromArray(layers, isVector=True)
    image.CopyInformation(sitk.ReadImage(str(label)))
    for layer in range(2):
        segment = {"ID": layer, "Name": f"part{layer}", "LabelValue": 1, "Layer": layer}
        for key, value in segment.items():
            image.SetMetaData(f"Segment{layer}_{key}", str(value))
    (tmp_path / "predictions").mkdir()
    sitk.WriteImage(image, str(tmp_path / "predictions/a.seg.nrrd"))
    ended = score()
    assert ended.exit_code == 0, ended.output
    assert rows()["a"]["dice"] == "1.0000"


@pytest.mark.parametrize("values", ["liver", "0", "1,-2", ""])
def test_values_that_are_none_are_refused(write_mask, score, values):
    write_mask("labels/a.nii.gz")
    write_mask("predictions/a.nii.gz")
    assert "--label-values" in refused(score("--label-values", values))


@pytest.mark.parametrize("tolerance", ["0", "-1", "nan", "inf"])
def test_a_tolerance_that_is_no_length_is_refused(write_mask, score, tolerance):
    assert "above 0 mm" in refused(score("--tolerance-mm", tolerance))


class TestFaults:
    """What cannot be scored is named, the others are scored, and the run ends with 2."""

    @pytest.fixture
    def good(self, write_mask):
        """A pair without fault."""
        write_mask("labels/good.nii.gz")
        write_mask("predictions/good.nii.gz", PREDICTION)

    @pytest.mark.parametrize(
        ("how", "named"),
        [
            ({"spacing_xyz_mm": (2.0, 1.0, 3.5)}, "spacing_zyx_mm"),
            ({"origin_xyz_mm": (-11.0, 8.0, 23.0)}, "origin_xyz_mm"),
            ({"array": LABEL[:-1]}, "shape_zyx"),
        ],
    )
    def test_another_grid_is_refused_by_name(
        self, good, write_mask, score, rows, metrics, how, named
    ):
        write_mask("labels/a.nii.gz")
        write_mask("predictions/a.nii.gz", **how)
        message = refused(score())
        assert f"a: {named}" in message
        assert "never resize" in message
        assert set(rows()) == {"good"}
        assert metrics()["not_scored"] == 1

    def test_a_label_without_a_prediction_does_not_vanish(
        self, good, write_mask, score, metrics, tmp_path
    ):
        write_mask("labels/missed.nii.gz")
        message = refused(score())
        assert f"{tmp_path / 'labels/missed.nii.gz'}: has no prediction" in message
        assert "1 of its 2 labels are scored" in message
        assert metrics()["not_scored"] == 1

    def test_a_prediction_without_a_label_is_named(self, good, write_mask, score, rows):
        write_mask("predictions/other.nii.gz")
        assert "other.nii.gz: has no label" in refused(score())
        assert set(rows()) == {"good"}

    def test_one_name_for_two_files_is_refused(self, good, write_mask, score, rows):
        write_mask("labels/a.nii.gz")
        write_mask("predictions/a.nii.gz")
        write_mask("predictions/a.nrrd")
        message = refused(score())
        assert "has the name of a.nrrd" in message
        assert "has no prediction" not in message
        assert set(rows()) == {"good"}

    def test_probabilities_are_refused_with_the_fix(self, good, write_mask, score, rows):
        write_mask("labels/a.nii.gz")
        write_mask("predictions/a.nii.gz", LABEL * np.float32(0.9))
        message = refused(score())
        assert "a.nii.gz: " in message
        assert "exceed one half" in message
        assert set(rows()) == {"good"}

    def test_a_file_that_was_cut_short_is_refused(self, good, write_mask, score, rows):
        write_mask("labels/a.nii.gz")
        path = write_mask("predictions/a.nii", np.repeat(LABEL, 5, axis=0))
        path.write_bytes(path.read_bytes()[:-900])
        assert "ends early" in refused(score())
        assert set(rows()) == {"good"}

    def test_a_sheared_grid_is_refused_for_its_lengths_would_be_wrong(
        self, good, write_mask, score, rows
    ):
        sheared = (1.0, 0.1, 0.0, 0.0, 0.995, 0.0, 0.0, 0.0, 1.0)
        for folder in ("labels", "predictions"):
            write_mask(f"{folder}/a.mha", direction=sheared)
        assert "not at right angles" in refused(score())
        assert set(rows()) == {"good"}

    def test_names_that_differ_on_both_sides_are_listed(self, write_mask, score, tmp_path):
        write_mask("labels/segmentation-7.nii.gz")
        write_mask("predictions/volume-7.nii.gz")
        message = refused(score())
        assert "volume-7" in message
        assert "segmentation-7" in message
        assert "name every prediction like its label" in message
        assert not (tmp_path / "scores").exists()

    def test_where_nothing_could_be_scored_nothing_is_written(self, write_mask, score, tmp_path):
        write_mask("labels/a.nii.gz")
        write_mask("predictions/a.nii.gz", LABEL[:-1])
        assert "0 of its 1 labels are scored" in refused(score())
        assert not (tmp_path / "scores").exists()

    @pytest.mark.parametrize("folder", ["predictions", "labels"])
    def test_a_folder_that_is_missing_or_empty_is_named(self, good, score, tmp_path, folder):
        for file in (tmp_path / folder).iterdir():
            file.unlink()
        assert f"{tmp_path / folder}: holds no volume" in refused(score())
        (tmp_path / folder).rmdir()
        assert f"{tmp_path / folder}: there is no such folder" in refused(score())

    def test_labels_are_not_scored_against_themselves(self, good, run_command, tmp_path):
        same = tmp_path / "labels"
        flags = ("--predictions", same, "--labels", same, "--out", tmp_path / "scores")
        assert "name two folders" in refused(run_command(main, *flags))


def test_notes_and_folders_beside_the_masks_are_left_alone(write_mask, score, rows, tmp_path):
    write_mask("labels/a.nii.gz")
    write_mask("predictions/a.nii.gz")
    (tmp_path / "predictions/plans.json").write_text("{}")
    (tmp_path / "predictions/._a.nii.gz").write_bytes(b"macOS")
    (tmp_path / "labels/old.nii.gz").mkdir()
    assert score().exit_code == 0
    assert set(rows()) == {"a"}


def test_scoring_again_replaces_what_was_there(write_mask, score, tmp_path, rows):
    write_mask("labels/a.nii.gz")
    write_mask("predictions/a.nii.gz", PREDICTION)
    score()
    write_mask("predictions/a.nii.gz")
    score()
    assert rows()["a"]["dice"] == "1.0000"
    assert names(tmp_path / "scores") == ["cases.csv", "metrics.json"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")
@pytest.mark.slow
def test_a_pair_too_large_for_the_memory_there_is_is_named_and_the_others_are_scored(
    write_volume, tmp_path
):
    for folder in ("predictions", "labels"):
        write_volume(f"{folder}/large.nrrd", size_xyz=(410, 400, 390), dtype=np.uint8, hu=1)
        write_volume(f"{folder}/small.nrrd", size_xyz=(20, 18, 16), dtype=np.uint8, hu=1)
    script = (
        "import psutil, resource; from pipeline.score import main\n"
        "most = psutil.Process().memory_info().vms + 200_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))\n"
        "main(['--predictions', 'predictions', '--labels', 'labels', '--out', 'scores'])\n"
    )
    ended = python("-c", script, cwd=tmp_path)
    assert ended.returncode == 2
    assert "large.nrrd: does not fit into memory" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "small" in (tmp_path / "scores" / "cases.csv").read_text(encoding="utf-8")
