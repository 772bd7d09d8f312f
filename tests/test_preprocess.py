"""Stage one as it is run: the command, its store, its problems, and what survives a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from cache.case import FORMAT_VERSION
from cache.reader import CaseStore
from pipeline.preprocess import main

ARRAYS = ("image", "mask", "source_mask", "foreground_zyx")


@pytest.fixture
def preprocess(run_command, params_file, tmp_path):
    """Run the command on ``src`` with one worker; gives how it ended."""

    def run(src, *flags, out="cases", changes=None, workers=1, params=None):
        params = params or params_file(changes)
        places = ("--src", src, "--out", tmp_path / out, "--params", params)
        return run_command(main, *places, "--workers", workers, *flags)

    return run


@pytest.fixture
def store(tmp_path):
    """The store the command writes."""
    return tmp_path / "cases"


def bytes_of(root):
    """Every file of a store with its bytes, by its path from there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def times_of(root):
    """When each case's files were last written."""
    return {
        case.name: max(
            path.stat().st_mtime_ns for path in (case, *case.rglob("*")) if path.is_file()
        )
        for case in root.iterdir()
        if case.name != "manifest.json"
    }


def problems_of(root):
    """What problems.json beside a store says: (severity, rule, case id) of each."""
    text = (root.parent / "problems.json").read_text(encoding="utf-8")
    return [(p["severity"], p["rule"], p["case_id"]) for p in json.loads(text)["problems"]]


class TestOneRun:
    def test_every_case_is_in_the_manifest_and_can_be_read(self, preprocess, write_dataset, store):
        ended = preprocess(write_dataset())
        assert ended.exit_code == 0
        assert "3 cases in" in ended.output
        cases = CaseStore(store)
        assert cases.case_ids == ["1", "2", "3"]
        assert all(cases.mask(case_id).any() for case_id in cases.case_ids)
        assert problems_of(store) == []

    def test_the_manifest_says_what_a_split_needs(self, preprocess, write_dataset, store):
        preprocess(write_dataset(["a"]), changes={"preprocess.grid": "keep"})
        manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["format_version"] == FORMAT_VERSION
        assert manifest["params"]["grid"] == "keep"
        (case,) = manifest["cases"]
        assert (case["case_id"], case["patient_id"], case["file"]) == ("a", "a", "a.zarr")
        # the body is [1, 13), [2, 15), [3, 18) and 5 mm are one voxel
        assert case["shape_zyx"] == [14, 15, 17]
        assert case["spacing_zyx_mm"] == [11.0, 10.0, 9.0]
        assert case["liver_ml"] == pytest.approx(333 * 0.99)

    def test_one_bad_case_does_not_stop_the_others(self, preprocess, write_dataset, store):
        src = write_dataset()
        bad = src / "image/2/2.nii.gz"
        bad.write_bytes(bad.read_bytes()[:-2000])
        ended = preprocess(src)
        assert ended.exit_code == 0
        assert f"{bad}: ends early" in ended.output
        assert CaseStore(store).case_ids == ["1", "3"]
        assert problems_of(store) == [("skipped", "source", "2")]

    def test_a_doubt_is_told_and_the_case_is_kept(self, preprocess, write_dataset, store):
        ended = preprocess(write_dataset(["1"], spacing_xyz_mm=(2.0, 2.5, 3.0)))
        assert ended.exit_code == 0
        assert "ml are plausible" in ended.output
        assert problems_of(store) == [("warning", "liver-volume", "1")]
        assert CaseStore(store).case_ids == ["1"]

    def test_ignored_files_are_counted_and_written_but_not_listed(
        self, preprocess, write_dataset, store
    ):
        src = write_dataset(["1"])
        (src / "README.txt").write_text("about")
        ended = preprocess(src)
        assert "0 problems, 1 files ignored" in ended.output
        assert "README" not in ended.output
        assert problems_of(store) == [("ignored", "not-a-volume", "")]

    def test_excluded_cases_are_left_out(self, preprocess, write_dataset, store):
        preprocess(write_dataset(), changes={"data.exclude": ["2"]})
        assert CaseStore(store).case_ids == ["1", "3"]

    def test_the_source_folder_may_stand_in_the_parameters(
        self, run_command, params_file, write_dataset, store
    ):
        params = params_file({"data.src": str(write_dataset(["1"]))})
        assert run_command(main, "--params", params, "--out", store).exit_code == 0
        assert CaseStore(store).case_ids == ["1"]

    def test_the_source_folder_is_not_changed(self, preprocess, write_dataset):
        src = write_dataset()
        before = bytes_of(src)
        preprocess(src)
        assert bytes_of(src) == before

    def test_both_formats_hold_the_same_arrays(self, preprocess, write_dataset, tmp_path):
        src = write_dataset()
        for stored in ("zarr", "hdf5"):
            preprocess(src, out=stored, changes={"preprocess.format": stored})
        zarr, hdf5 = (CaseStore(tmp_path / stored) for stored in ("zarr", "hdf5"))
        for case_id in ("1", "2", "3"):
            for name in ARRAYS:
                ours, theirs = (getattr(one, name)(case_id) for one in (zarr, hdf5))
                np.testing.assert_array_equal(ours, theirs)


class TestRefusals:
    """Exit 2, one readable message, no traceback."""

    def refused(self, ended):
        assert ended.exit_code == 2
        assert ended.output.count("error: ") == 1
        assert "fix: " in ended.output
        assert "Traceback" not in ended.output
        return ended.output

    def test_no_case_left_names_the_reasons(self, preprocess, write_dataset, store):
        src = write_dataset(["1", "2"])
        for case_id in ("1", "2"):
            (src / f"label/{case_id}/{case_id}.nii.gz").write_bytes(b"")
        output = self.refused(preprocess(src))
        assert "no case can be used, 2 are skipped" in output
        assert str(src / "label/1/1.nii.gz") in output
        assert "problems.json" in output
        assert len(problems_of(store)) == 2
        assert not (store / "manifest.json").exists()

    def test_a_store_of_which_no_case_is_left_has_no_manifest(
        self, preprocess, write_dataset, store
    ):
        src = write_dataset(["1"])
        preprocess(src)
        (src / "label/1/1.nii.gz").write_bytes(b"")
        self.refused(preprocess(src))
        assert [path.name for path in store.iterdir()] == ["1.zarr"]

    def test_a_missing_source_folder(self, preprocess, tmp_path):
        assert str(tmp_path / "nowhere") in self.refused(preprocess(tmp_path / "nowhere"))

    def test_a_file_in_place_of_the_store(self, preprocess, write_dataset, tmp_path):
        (tmp_path / "file").write_text("mine")
        assert "cannot be made" in self.refused(preprocess(write_dataset(["1"]), out="file"))
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_folder_without_image_and_label(self, preprocess, tmp_path):
        (tmp_path / "src").mkdir()
        output = self.refused(preprocess(tmp_path / "src"))
        assert "image/<id>/<id>.nii.gz" in output

    def test_a_missing_source_folder_leaves_the_store_alone(
        self, preprocess, write_dataset, store, tmp_path
    ):
        preprocess(write_dataset())
        before = bytes_of(store)
        preprocess(tmp_path / "nowhere")
        assert bytes_of(store) == before

    def test_a_missing_parameter_file(self, preprocess, tmp_path):
        output = self.refused(preprocess(tmp_path, params=tmp_path / "none.yaml"))
        assert "none.yaml: there is no such file" in output

    def test_a_parameter_file_that_is_no_yaml(self, preprocess, tmp_path):
        (tmp_path / "bad.yaml").write_text("seed: [1\ndata: {")
        output = self.refused(preprocess(tmp_path, params=tmp_path / "bad.yaml"))
        assert "no valid YAML" in output

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"preprocess.margin": 5},
                "preprocess.margin is not a parameter; did you mean preprocess.margin_mm?",
            ),
            ({"preproces": {}}, "preproces is not a parameter; did you mean preprocess?"),
            ({"train.epoch": 5}, "train.epoch is not a parameter; did you mean train.epochs?"),
            ({"preprocess.crop": "bodies"}, "preprocess.crop: Input should be 'none', 'slices'"),
            ({"preprocess.crop": "slices"}, "crop: slices needs a value for slices"),
            ({"preprocess.grid": "shape"}, "grid: shape needs a value for shape_zyx"),
            ({"preprocess.slices": [9, 9]}, "slices is [9, 9]; the first must be below"),
            ({"preprocess.liver_values": "all"}, "preprocess.liver_values: Input should be 'any'"),
            ({"preprocess.liver_values": [0]}, "preprocess.liver_values.0: Input should be gr"),
            ({"preprocess.margin_mm": -1}, "preprocess.margin_mm: Input should be greater"),
            ({"preprocess.margin_mm": float("inf")}, "preprocess.margin_mm: Input should be a fi"),
            ({"preprocess.spacing_zyx_mm": [1, 0, 1]}, "preprocess.spacing_zyx_mm.1: Input sho"),
            ({"data.exclude": [7]}, "data.exclude.0: Input should be a valid string (it is 7)"),
        ],
    )
    def test_parameters_that_are_unknown_or_impossible(
        self, preprocess, tmp_path, changes, message
    ):
        assert message in self.refused(preprocess(tmp_path, changes=changes))

    def test_a_missing_parameter_is_named_with_the_one_that_was_written(
        self, preprocess, params_file, tmp_path
    ):
        params = params_file()
        params.write_text(params.read_text().replace("margin_mm:", "margin_nm:"))
        output = self.refused(preprocess(tmp_path, params=params))
        assert "preprocess.margin_mm is missing; is it preprocess.margin_nm?" in output
        assert "margin_nm is not a parameter; did you mean preprocess.margin_mm?" in output

    @pytest.mark.skipif(sys.platform == "win32", reason="a file's size is limited on POSIX alone")
    def test_a_full_disk(self, write_dataset, params_file, store, repo, tmp_path):
        large = np.random.default_rng(0).integers(-999, 999, (40, 80, 90)).astype(np.int16)
        src = write_dataset(["1"], ct=large, label=(large > 0).astype(np.uint8))
        params = params_file({"preprocess.crop": "none", "preprocess.grid": "keep"})
        script = (
            "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
            "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
            "from pipeline.preprocess import main; main()"
        )
        places = ("--src", str(src), "--out", str(store), "--params", str(params), "--workers", "1")
        ended = subprocess.run(
            [sys.executable, "-c", script, *places],
            cwd=repo,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 2, ended.stderr
        assert "cannot be written" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert list(store.iterdir()) == []


class TestRunningAgain:
    def test_a_second_run_keeps_everything_and_writes_the_same_bytes(
        self, preprocess, write_dataset, store
    ):
        src = write_dataset()
        preprocess(src)
        before, times = bytes_of(store), times_of(store)
        ended = preprocess(src)
        assert "0 prepared now, 3 kept" in ended.output
        assert bytes_of(store) == before
        assert times_of(store) == times

    def test_an_edited_label_redoes_exactly_its_case(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset()
        preprocess(src)
        times = times_of(store)
        edited = np.zeros((14, 18, 20), np.uint8)
        edited[5:9, 5:9, 6:14] = 1
        write_case("2", seed=1, label=edited)
        assert "1 prepared now, 2 kept" in preprocess(src).output
        changed = {name for name, written in times_of(store).items() if written != times[name]}
        assert changed == {"2.zarr"}
        assert CaseStore(store).info("2").liver_ml == pytest.approx(4 * 4 * 8 * 0.99)

    @pytest.mark.parametrize("changes", [{"train.hu_window": [-100, 300]}, {"seed": 7}])
    def test_parameters_of_training_change_nothing(self, preprocess, write_dataset, store, changes):
        src = write_dataset()
        preprocess(src)
        before = bytes_of(store)
        assert "0 prepared now, 3 kept" in preprocess(src, changes=changes).output
        assert bytes_of(store) == before

    def test_a_parameter_of_preprocessing_redoes_all(self, preprocess, write_dataset, store):
        src = write_dataset()
        preprocess(src)
        ended = preprocess(src, changes={"preprocess.margin_mm": 30})
        assert "3 prepared now, 0 kept" in ended.output
        assert CaseStore(store).info("1").params["margin_mm"] == 30

    def test_another_order_of_runs_gives_the_same_bytes(self, preprocess, write_dataset, tmp_path):
        src = write_dataset()
        preprocess(src, out="a")
        preprocess(write_dataset(["3"], folder="other"), out="b")
        preprocess(src, out="b", changes={"preprocess.margin_mm": 30})
        preprocess(src, out="b")
        assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")

    def test_a_folder_moved_elsewhere_is_not_prepared_again(
        self, preprocess, write_dataset, tmp_path
    ):
        src = write_dataset()
        preprocess(src)
        src.rename(tmp_path / "moved")
        assert "3 kept" in preprocess(tmp_path / "moved").output

    def test_a_damaged_case_is_prepared_again(self, preprocess, write_dataset, store):
        src = write_dataset()
        preprocess(src)
        before = bytes_of(store)
        (store / "2.zarr" / "zarr.json").write_text("{")
        assert "1 prepared now, 2 kept" in preprocess(src).output
        assert bytes_of(store) == before

    def test_a_case_of_a_newer_format_is_prepared_again(self, preprocess, write_dataset, store):
        src = write_dataset()
        preprocess(src)
        metadata = store / "2.zarr" / "zarr.json"
        newer = metadata.read_text().replace('"format_version": 1', '"format_version": 2')
        assert newer != metadata.read_text()
        metadata.write_text(newer)
        assert "1 prepared now, 2 kept" in preprocess(src).output


class TestCasesThatAreGone:
    @pytest.fixture
    def src_without_2(self, preprocess, write_dataset):
        """A prepared folder from which case 2 was then taken."""
        src = write_dataset()
        preprocess(src)
        for folder in ("image", "label"):
            shutil.rmtree(src / folder / "2")
        return src

    def test_they_leave_the_manifest_and_stay_on_the_disk(self, preprocess, src_without_2, store):
        preprocess(src_without_2)
        assert CaseStore(store).case_ids == ["1", "3"]
        assert (store / "2.zarr").is_dir()

    def test_with_prune_they_leave_the_disk(self, preprocess, src_without_2, store):
        preprocess(src_without_2, "--prune")
        assert sorted(path.name for path in store.iterdir()) == [
            "1.zarr",
            "3.zarr",
            "manifest.json",
        ]

    def test_when_they_come_back_they_are_kept(self, preprocess, src_without_2, write_case, store):
        preprocess(src_without_2)
        write_case("2", seed=1)
        assert "0 prepared now, 3 kept" in preprocess(src_without_2).output

    def test_prune_also_takes_the_other_format(self, preprocess, write_dataset, store):
        src = write_dataset(["1"])
        preprocess(src)
        preprocess(src, changes={"preprocess.format": "hdf5"})
        assert sorted(path.name for path in store.iterdir()) == ["1.h5", "1.zarr", "manifest.json"]
        preprocess(src, "--prune", changes={"preprocess.format": "hdf5"})
        assert sorted(path.name for path in store.iterdir()) == ["1.h5", "manifest.json"]


class TestKilled:
    def test_what_a_killed_run_left_is_gone_after_the_next(self, preprocess, write_dataset, store):
        (store / ".partial-2.zarr" / "image").mkdir(parents=True)
        (store / ".partial-2.zarr" / "image" / "zarr.json").write_text("{}")
        (store / ".partial-9.h5").write_bytes(b"half")
        assert preprocess(write_dataset()).exit_code == 0
        assert not list(store.glob(".*"))

    @pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
    def test_a_run_killed_midway_and_started_again_ends_as_if_never_killed(
        self, preprocess, params_file, write_dataset, repo, tmp_path
    ):
        src = write_dataset([str(n) for n in range(1, 31)])
        preprocess(src, out="whole")
        killed = tmp_path / "killed"
        places = ("--src", src, "--out", killed, "--params", params_file(), "--workers", 1)
        command = [sys.executable, "-m", "pipeline.preprocess", *map(str, places)]
        process = subprocess.Popen(
            command, cwd=repo, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not list(killed.glob("1*.zarr")) and process.poll() is None:
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL  # so it had not ended by itself
        finished = len(list(killed.glob("[!.]*.zarr")))
        assert 0 < finished < 30
        assert not (killed / "manifest.json").exists()
        ended = preprocess(src, out="killed")
        assert f"{30 - finished} prepared now, {finished} kept" in ended.output
        assert bytes_of(killed) == bytes_of(tmp_path / "whole")


class TestWorkers:
    def test_two_give_the_same_bytes_as_one(self, preprocess, write_dataset, tmp_path):
        src = write_dataset(["1", "2", "3", "4"])
        shutil.rmtree(src / "label/2")
        (src / "label/1/1.nii.gz").write_bytes(b"")  # a refusal travels between processes too
        for out, workers in (("one/cases", 1), ("two/cases", 2)):
            assert preprocess(src, out=out, workers=workers).exit_code == 0
        one, two = tmp_path / "one", tmp_path / "two"
        assert bytes_of(one) == bytes_of(two)
        # sorted by case, whoever found them and when
        assert problems_of(two / "cases") == [
            ("skipped", "source", "1"),
            ("skipped", "label-missing", "2"),
        ]
