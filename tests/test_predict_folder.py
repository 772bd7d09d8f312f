"""``pipeline.predict`` on folders: which CTs are found, what stops one and not the others."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import DataError, SourceError
from cache.sealed import sealed
from pipeline.predict import main
from stages.predict.find import PROBABILITY, find_tasks
from stages.predict.journal import NAME
from test_dicom import counted, positions, write_slice
from tiny import brightness_network, names

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
FOREIGN = json.dumps(
    {
        "schema_version": 2,
        "predictions": {
            "1.nii.gz": {
                "key": "k",
                "stamp": [1, 2, 3],
                "files": ["1.nii.gz"],
                "liver_ml": 1.0,
                "warnings": [],
                "fault": None,
            }
        },
    }
)
SHAPE_ZYX = (18, 20, 22)
PATIENCE_S = 120.0


@pytest.fixture
def write_ct(write_volume):
    """Write a CT of a body in air with a bright block, another in each; gives the path."""

    def write(name, *, seed=0, shape_zyx=SHAPE_ZYX):
        hu = np.full(shape_zyx, -1000, np.int16)
        hu[1:17, 2:18, 2:20] = -100
        hu[4 : 9 + seed, 5:12, 6:14] = 200
        return write_volume(name, hu, spacing_xyz_mm=(4.0, 4.5, 5.0))

    return write


@pytest.fixture
def predict(run_command, write_model, tmp_path, monkeypatch):
    """Run the command with a model that finds what is bright, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    model = write_model(brightness_network(), preprocess={"grid": "keep"})

    def run(*args, ct="cts", out="masks", models=(model,)):
        named = [word for path in models for word in ("--model", path)]
        return run_command(main, *named, "--ct", ct, "--out", out, "--device", "cpu", *args)

    return run


def found(ct, out="masks"):
    """The names of the CTs found below a folder, and of their masks."""
    tasks, is_folder, unlisted, _ = find_tasks(ct, ct.parent / out)
    assert is_folder
    assert unlisted == []
    return {task.name: task.mask.relative_to(ct.parent / out).as_posix() for task in tasks}


def series(folder):
    for index, name in enumerate("ab"):
        write_slice(folder / name, counted()[index], positions()[index])


def journal(out):
    return json.loads((out / NAME).read_text(encoding="utf-8"))["predictions"]


def voxels(path):
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


class TestFinding:
    def test_masks_lie_as_their_cts_do(self, write_ct, tmp_path):
        for name in ("cts/2.nrrd", "cts/a/b/1.nii.gz", "cts/a/1.mha"):
            write_ct(name)
        assert found(tmp_path / "cts") == {
            "2.nrrd": "2.nii.gz",
            "a/1.mha": "a/1.nii.gz",
            "a/b/1.nii.gz": "a/b/1.nii.gz",
        }

    def test_a_folder_of_slices_is_one_ct(self, write_ct, tmp_path):
        series(tmp_path / "cts" / "p1" / "venous")
        series(tmp_path / "cts" / "p2")
        write_ct("cts/p3.nii.gz")
        assert found(tmp_path / "cts") == {
            "p1/venous": "p1/venous.nii.gz",
            "p2": "p2.nii.gz",
            "p3.nii.gz": "p3.nii.gz",
        }

    def test_files_that_are_no_images_are_passed_over(self, write_ct, tmp_path):
        write_ct("cts/1.nii.gz")
        for name in ("notes.txt", "table.csv", ".hidden.nii.gz", "Thumbs.db"):
            (tmp_path / "cts" / name).write_text("-")
        assert found(tmp_path / "cts") == {"1.nii.gz": "1.nii.gz"}

    def test_a_damaged_image_is_not_passed_over(self, tmp_path):
        (tmp_path / "cts").mkdir()
        (tmp_path / "cts" / "1.nii.gz").write_bytes(b"")
        (tmp_path / "cts" / "2").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
        assert set(found(tmp_path / "cts")) == {"1.nii.gz", "2"}

    def test_a_volume_without_an_ending_is_found_by_its_content(self, write_ct, tmp_path):
        write_ct("cts/1.nii.gz").rename(tmp_path / "cts" / "1")
        assert found(tmp_path / "cts") == {"1": "1.nii.gz"}

    def test_cts_that_differ_in_the_ending_alone_keep_it(self, write_ct, tmp_path):
        for name in ("cts/1.nii.gz", "cts/1.nrrd", "cts/2.nrrd"):
            write_ct(name)
        assert found(tmp_path / "cts") == {
            "1.nii.gz": "1_nii_gz.nii.gz",
            "1.nrrd": "1_nrrd.nii.gz",
            "2.nrrd": "2.nii.gz",
        }

    def test_no_mask_is_called_as_the_probability_of_another(self, write_ct, tmp_path):
        write_ct("cts/1.nii.gz")
        write_ct("cts/1_probability.nii.gz")
        masks = found(tmp_path / "cts").values()
        assert set(masks) == {"1.nii.gz", "1_probability_nii_gz.nii.gz"}

    def test_two_cts_that_would_still_have_one_mask_are_refused(self, write_ct, tmp_path):
        for name in ("cts/1.nii.gz", "cts/1.nrrd", "cts/1_nrrd.nii.gz"):
            write_ct(name)
        with pytest.raises(DataError, match="would have the same mask as"):
            find_tasks(tmp_path / "cts", tmp_path / "masks")

    @pytest.mark.parametrize(
        ("ct", "out"), [("cts/1.nii.gz", "cts/1.nii.gz"), ("cts", "cts"), ("S1", "S1/a.nii.gz")]
    )
    def test_a_mask_never_takes_the_place_of_a_ct(self, write_ct, tmp_path, ct, out):
        write_ct("cts/1.nii.gz")
        series(tmp_path / "S1")
        with pytest.raises(DataError, match=r"place of a CT|where the CTs lie"):
            find_tasks(tmp_path / ct, tmp_path / out)

    def test_a_probability_takes_the_place_of_a_ct_only_if_it_is_written(self, write_ct, tmp_path):
        ct = write_ct("1_probability.nii.gz")
        out = tmp_path / "1.nii.gz"
        assert not find_tasks(ct, out).are_many
        with pytest.raises(DataError, match="place of a CT"):
            find_tasks(ct, out, [PROBABILITY])

    def test_a_file_where_the_folder_for_masks_should_be_is_refused(self, write_ct, tmp_path):
        write_ct("cts/1.nii.gz")
        (tmp_path / "masks").touch()
        with pytest.raises(DataError, match="is a file, where the folder"):
            find_tasks(tmp_path / "cts", tmp_path / "masks")

    def test_masks_of_an_earlier_run_below_the_cts_are_not_taken_for_cts(self, write_ct, tmp_path):
        write_ct("cts/1.nii.gz")
        write_ct("cts/masks/1.nii.gz")
        assert set(found(tmp_path / "cts", out="cts/masks")) == {"1.nii.gz"}

    def test_an_index_of_a_disc_is_no_series(self, tmp_path):
        series(tmp_path / "cts" / "S1")
        series(tmp_path / "cts" / "S2")
        (tmp_path / "cts" / "S1" / "a").rename(tmp_path / "cts" / "DICOMDIR")
        assert set(found(tmp_path / "cts")) == {"S1", "S2"}

    def test_a_folder_without_a_ct_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="holds no CT"):
            find_tasks(tmp_path, tmp_path / "masks")

    def test_one_mask_for_several_cts_is_refused(self, write_ct, tmp_path):
        write_ct("cts/1.nii.gz")
        write_ct("cts/2.nii.gz")
        with pytest.raises(DataError, match=r"is one mask, but .* holds 2 CTs"):
            find_tasks(tmp_path / "cts", tmp_path / "mask.nii.gz")

    def test_one_mask_for_a_folder_with_one_ct_is_taken(self, write_ct, tmp_path):
        ct = write_ct("cts/deep/1.nii.gz")
        [task], is_folder, *_ = find_tasks(tmp_path / "cts", tmp_path / "mask.nii.gz")
        assert (task.path, is_folder) == (ct, False)


class TestAFolder:
    def test_every_ct_has_its_mask_on_its_grid(self, write_ct, predict, tmp_path):
        for seed, name in enumerate(["cts/1.nii.gz", "cts/sub/2.nrrd"]):
            write_ct(name, seed=seed)
        ended = predict()
        assert ended.exit_code == 0, ended.output
        assert "1/2 1.nii.gz: liver 25 ml\n" in ended.output
        assert "2/2 sub/2.nrrd: liver 30 ml\n" in ended.output
        assert voxels("masks/1.nii.gz").sum() == 5 * 7 * 8
        assert voxels("masks/sub/2.nii.gz").sum() == 6 * 7 * 8
        ct, mask = (sitk.ReadImage(name) for name in ("cts/sub/2.nrrd", "masks/sub/2.nii.gz"))
        assert mask.GetSize() == ct.GetSize()
        assert mask.GetOrigin() == ct.GetOrigin()
        assert mask.GetDirection() == ct.GetDirection()

    def test_a_ct_it_cannot_take_has_one_line_and_the_others_go_on(
        self, write_ct, predict, tmp_path
    ):
        for name in ("cts/1.nii.gz", "cts/2.nii.gz", "cts/3.nii.gz"):
            write_ct(name)
        broken = tmp_path / "cts" / "2.nii.gz"
        broken.write_bytes(broken.read_bytes()[:-40])
        ended = predict()
        assert ended.exit_code == 2
        assert "Traceback" not in ended.output
        (line,) = [line for line in ended.output.splitlines() if "2.nii.gz" in line]
        assert line.startswith("2/3 2.nii.gz: not predicted: cts/2.nii.gz: ")
        assert line.endswith(", or leave this CT out")  # data.exclude is for preprocessing
        assert "error: cts: 1 of 3 CTs could not be predicted\n" in ended.output
        assert names(tmp_path / "masks") == ["1.nii.gz", "3.nii.gz", NAME]
        assert journal(tmp_path / "masks")["2.nii.gz"]["fault"] in line

    def test_what_is_odd_about_a_ct_is_told_and_written_down(self, write_volume, predict, tmp_path):
        hu = np.full(SHAPE_ZYX, -100, np.int16)
        hu[4:9, 5:12, 6:14] = 200
        write_volume("cts/1.nii.gz", hu, spacing_xyz_mm=(4.0, 4.5, 5.0))
        ended = predict()
        assert ended.exit_code == 0
        assert "warning: cts/1.nii.gz: values run from -100 to 200" in ended.output
        warnings = journal(tmp_path / "masks")["1.nii.gz"]["warnings"]
        assert any(warning.startswith("values run from -100 to 200") for warning in warnings)

    def test_probabilities_lie_beside_the_masks_and_agree_with_them(self, write_ct, predict):
        write_ct("cts/1.nii.gz")
        predict("--probabilities")
        probability, mask = voxels("masks/1_probability.nii.gz"), voxels("masks/1.nii.gz")
        assert probability.dtype == np.float32
        assert 0 <= probability.min() < 0.5 < probability.max() <= 1
        np.testing.assert_array_equal(probability > 0.5, mask == 1)
        assert mask.sum() == 5 * 7 * 8

    def test_a_wish_for_dicom_does_not_stop_other_files(self, write_ct, predict, tmp_path):
        pytest.importorskip("highdicom")
        write_ct("cts/1.nii.gz")
        ended = predict("--dicom-seg")
        assert ended.exit_code == 0, ended.output
        assert "warning: cts/1.nii.gz: is no DICOM series" in ended.output
        assert names(tmp_path / "masks") == ["1.nii.gz", NAME]


class TestAgain:
    @pytest.fixture
    def done(self, write_ct, predict, tmp_path):
        """Three CTs, predicted; the times of their masks are set back so that writing shows."""
        for seed in range(3):
            write_ct(f"cts/{seed}.nii.gz", seed=seed)
        assert predict().exit_code == 0
        for mask in (tmp_path / "masks").glob("*.nii.gz"):
            os.utime(mask, ns=(0, 0))

        def written():
            masks = (tmp_path / "masks").glob("*.nii.gz")
            return sorted(mask.name for mask in masks if mask.stat().st_mtime_ns)

        return written

    def test_what_is_finished_is_left_and_said(self, done, predict):
        ended = predict()
        assert ended.exit_code == 0
        assert done() == []
        assert "2/3 1.nii.gz: liver 30 ml, as before\n" in ended.output
        assert ended.output.endswith("0 predicted, 3 left from an earlier run\n")

    def test_a_ct_that_changed_is_predicted_again(self, done, predict, write_ct):
        write_ct("cts/1.nii.gz", seed=5)
        predict()
        assert done() == ["1.nii.gz"]

    def test_a_mask_that_is_gone_is_made_again(self, done, predict, tmp_path):
        (tmp_path / "masks" / "2.nii.gz").unlink()
        predict()
        assert done() == ["2.nii.gz"]

    @pytest.mark.parametrize("args", [["--overlap", "0.25"], ["--fill-holes"]])
    def test_a_folder_is_predicted_again_with_other_choices(self, done, predict, args):
        predict(*args)
        assert done() == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]

    def test_another_model_predicts_all_again(self, done, predict, write_model):
        model = write_model(brightness_network(), name="other.pt", preprocess={"crop": "none"})
        predict(models=[model])
        assert done() == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]

    def test_a_probability_that_is_not_asked_for_any_more_goes_with_its_mask(
        self, done, predict, tmp_path
    ):
        predict("--probabilities")
        assert "1_probability.nii.gz" in names(tmp_path / "masks")
        predict()
        assert names(tmp_path / "masks") == ["0.nii.gz", "1.nii.gz", "2.nii.gz", NAME]

    def test_a_fault_is_tried_again(self, done, predict, tmp_path, write_ct):
        (tmp_path / "cts" / "1.nii.gz").write_bytes(b"")
        for _ in range(2):
            ended = predict()
            assert ended.exit_code == 2
            assert "2/3 1.nii.gz: not predicted: " in ended.output
        write_ct("cts/1.nii.gz", seed=1)
        assert predict().exit_code == 0
        assert done() == ["1.nii.gz"]

    def test_the_mask_of_a_ct_that_became_unusable_goes(self, done, predict, tmp_path):
        (tmp_path / "cts" / "1.nii.gz").write_bytes(b"")
        predict()
        assert names(tmp_path / "masks") == ["0.nii.gz", "2.nii.gz", NAME]

    def test_a_mask_that_somebody_corrected_is_never_replaced(self, done, predict, tmp_path):
        mask = tmp_path / "masks" / "1.nii.gz"
        mask.write_bytes(b"corrected by hand")
        for _ in range(2):
            ended = predict("--fill-holes")
            assert ended.exit_code == 2
            assert "was changed since it was predicted" in ended.output
        assert mask.read_bytes() == b"corrected by hand"
        assert done() == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]

    def test_a_corrected_mask_is_not_replaced_for_a_ct_that_took_its_name(
        self, done, predict, tmp_path, write_ct
    ):
        (tmp_path / "masks" / "1.nii.gz").write_bytes(b"corrected by hand")
        (tmp_path / "cts" / "1.nii.gz").unlink()
        write_ct("cts/1.nrrd", seed=4)
        assert "was changed since it was predicted" in predict().output
        assert (tmp_path / "masks" / "1.nii.gz").read_bytes() == b"corrected by hand"

    def test_a_ct_that_takes_anothers_name_takes_its_mask(self, done, predict, tmp_path, write_ct):
        first = (tmp_path / "cts" / "1.nii.gz").rename(tmp_path / "1.nii.gz")
        write_ct("cts/1.nrrd", seed=4)
        predict()
        (tmp_path / "cts" / "1.nrrd").unlink()
        first.rename(tmp_path / "cts" / "1.nii.gz")
        assert "2/3 1.nii.gz: liver 30 ml\n" in predict().output

    def test_a_journal_that_names_files_elsewhere_deletes_none(self, done, predict, tmp_path):
        journal = tmp_path / "masks" / NAME
        fields = json.loads(journal.read_text(encoding="utf-8"))
        fields["predictions"]["1.nii.gz"]["files"]["../cts/0.nii.gz"] = "0" * 64
        journal.write_text(json.dumps(sealed(fields)), encoding="utf-8")
        assert predict("--fill-holes").exit_code == 2
        assert (tmp_path / "cts" / "0.nii.gz").is_file()
        assert done() == []

    def test_a_damaged_journal_is_refused_since_masks_may_be_corrected_by_hand(
        self, done, predict, tmp_path
    ):
        journal = tmp_path / "masks" / NAME
        for content in ("{", "[]", '{"schema_version": 2}', '{"schema_version": 3}', FOREIGN, "\0"):
            journal.write_text(content)
            ended = predict()
            assert ended.exit_code == 2, content
            assert "predictions.json: is damaged" in ended.output, content
            assert done() == [], content
        journal.unlink()
        assert predict().exit_code == 0
        assert done() == ["0.nii.gz", "1.nii.gz", "2.nii.gz"]

    def test_a_changed_digit_in_the_journal_is_damage(self, done, predict, tmp_path):
        journal = tmp_path / "masks" / NAME
        before = journal.read_text(encoding="utf-8")
        journal.write_text(before.replace('"liver_ml": 30', '"liver_ml": 31', 1), encoding="utf-8")
        assert journal.read_text(encoding="utf-8") != before
        assert "is damaged" in predict().output

    def test_a_journal_of_the_version_without_a_digest_is_gone_on_from(
        self, done, predict, tmp_path
    ):
        journal = tmp_path / "masks" / NAME
        fields = json.loads(journal.read_text(encoding="utf-8"))
        del fields["sha256"]
        journal.write_text(json.dumps({**fields, "schema_version": 2}), encoding="utf-8")
        assert "0 predicted, 3 left" in predict().output
        assert done() == []


@posix
@pytest.mark.slow
def test_a_killed_run_goes_on(write_ct, write_model, predict, tmp_path, repo):
    count = 20
    for seed in range(count):
        write_ct(f"cts/{seed:02}.nii.gz", seed=seed % 8)
    assert predict(out="whole").exit_code == 0
    words = ("--model", "best.pt", "--ct", "cts", "--out", "masks", "--device", "cpu")
    killed = subprocess.Popen(
        [sys.executable, "-m", "pipeline.predict", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + PATIENCE_S
    while not (tmp_path / "masks" / NAME).exists() or len(journal(tmp_path / "masks")) < 3:
        assert time.monotonic() < end
        time.sleep(0.005)
    killed.kill()
    assert killed.wait() == -signal.SIGKILL  # so it had not ended by itself
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "masks").glob("*.nii.gz")}
    finished = journal(tmp_path / "masks")
    assert 3 <= len(finished) < count
    ended = predict()
    assert ended.exit_code == 0, ended.output
    assert f"{len(finished)} left from an earlier run" in ended.output
    for name in finished:
        assert (tmp_path / "masks" / name).stat().st_mtime_ns == before[name]
    for seed in range(count):
        ours, theirs = (voxels(tmp_path / out / f"{seed:02}.nii.gz") for out in ("masks", "whole"))
        np.testing.assert_array_equal(ours, theirs)
    assert names(tmp_path / "masks") == names(tmp_path / "whole")
