"""Stage one as it is run: the command, its store, its problems, and what it does again."""

import json
import os
import shutil
import sys
import time

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from pydicom import dcmread

from cache.case import FORMAT_VERSION
from cache.files import PARTIAL
from cache.reader import CaseStore
from cache.state import STATE
from pipeline.preprocess import main

ARRAYS = ("image", "mask", "source_mask", "foreground_zyx")
CASE_SHAPE = (14, 18, 20)  # of the case that write_case writes, spacing 11, 10, 9 mm


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


@pytest.fixture(params=["zarr", "hdf5"])
def stored_as(request):
    """The two formats of a store, as a change of the parameter file."""
    return {"preprocess.format": request.param}


@pytest.fixture
def old_dataset(write_dataset):
    """A data set nobody has touched for an hour, so that its files' times can be relied on."""

    def write(*args, **how):
        src = write_dataset(*args, **how)
        settle(src)
        return src

    return write


def settle(folder):
    """Date all files of a folder an hour back."""
    before = time.time() - 3600
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (before, before))


def bytes_of(root):
    """Every file of a store with its bytes, by its path from there."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def state_of(root):
    """Every file and folder of a store, and when it was last written."""
    return {path.relative_to(root).as_posix(): path.stat().st_mtime_ns for path in root.rglob("*")}


def cases_written(root, before):
    """The ids of the cases of which some file was written since ``state_of`` gave ``before``."""
    now = state_of(root)
    files = {name for name in now if now[name] != before.get(name) and name != "manifest.json"}
    return sorted({name.split("/")[0].rpartition(".")[0] for name in files})


def pages_of(root):
    """The bytes of problems.json and of qc.html beside a store."""
    return [(root.parent / name).read_bytes() for name in ("problems.json", "qc.html")]


def problems_of(root):
    """What problems.json beside a store says: (severity, rule, case id) of each.

    That other files of a case that is left out are left out with it, is tested once.
    """
    text = (root.parent / "problems.json").read_text(encoding="utf-8")
    return [
        (p["severity"], p["rule"], p["case_id"])
        for p in json.loads(text)["problems"]
        if p["rule"] != "case_left_out"
    ]


def cut_short(path):
    """Take the end of a file away, as a download that was broken off does."""
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def small_liver():
    """A label of 20 ml, less than a liver has."""
    label = np.zeros(CASE_SHAPE, np.uint8)
    label[5:7, 5:7, 6:11] = 1
    return label


def padded_hu():
    """A CT that has -3024 HU where nothing was scanned."""
    rng = np.random.default_rng(77)
    volume = np.full(CASE_SHAPE, -1000, np.int16)
    volume[1:13, 2:15, 3:18] = rng.integers(20, 130, (12, 13, 15))
    volume[:, :2] = -3024
    return volume


class TestOneRun:
    def test_qc_shows_the_grid_of_the_source_turned_to_lps_and_that_of_the_prepared_case(
        self, preprocess, write_dataset, store
    ):
        # x and y of the file exchanged: its columns run towards the back
        turned = (0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, -1.0)
        changes = {
            "preprocess.crop": "none",
            "preprocess.grid": "shape",
            "preprocess.shape_zyx": [7, 9, None],
            "preprocess.spacing_zyx_mm": None,
        }
        src = write_dataset(["1"], direction=turned)
        # 20 voxels of 9 mm along the file's x, 18 of 10 along y, 14 of 11 along z
        grids = ("18·20·14 → 18·9·7", "10·9·11 → 10·20·22 mm")
        for _ in ("prepared", "kept"):
            preprocess(src, changes=changes)
            page = (store.parent / "qc.html").read_text(encoding="utf-8")
            assert all(grid in page for grid in grids)

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

    def test_the_patient_is_found_in_the_cases_id(self, preprocess, write_dataset, store):
        src = write_dataset(["P1_2019", "P1_2021", "P2_2020"])
        preprocess(src, changes={"data.patient_id": r"^(P\d+)_"})
        manifest = json.loads((store / "manifest.json").read_text(encoding="utf-8"))
        patients = {case["case_id"]: case["patient_id"] for case in manifest["cases"]}
        assert patients == {"P1_2019": "P1", "P1_2021": "P1", "P2_2020": "P2"}

    def test_one_bad_case_does_not_stop_the_others(self, preprocess, write_dataset, store):
        src = write_dataset()
        bad = cut_short(src / "image/2/2.nii.gz")
        ended = preprocess(src)
        assert ended.exit_code == 0
        assert str(bad) in ended.output
        assert CaseStore(store).case_ids == ["1", "3"]
        assert problems_of(store) == [("skipped", "truncated", "2")]

    def test_an_absurd_spacing_does_not_stop_the_others(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset(["1"])
        how = {"ct_name": "{id}/{id}.mha", "label_name": "{id}/{id}.mha"}
        write_case("2", seed=2, spacing_xyz_mm=(1e6, 1e6, 1e6), **how)
        write_case("3", seed=3, spacing_xyz_mm=(1e90, 1e90, 1e90), **how)
        # its liver alone would keep it out, before its size does
        changes = {"rules.liver_too_large": "warn"}
        assert preprocess(src, changes=changes).exit_code == 0
        assert CaseStore(store).case_ids == ["1"]
        for case_id in ("2", "3"):
            assert ("skipped", "spacing_positive", case_id) in problems_of(store)

    def test_a_doubt_is_told_and_the_case_is_kept(self, preprocess, write_dataset, store):
        ended = preprocess(write_dataset(["1"], label=small_liver()))
        assert ended.exit_code == 0
        assert "ml are plausible" in ended.output
        assert problems_of(store) == [("warning", "liver_volume", "1")]
        assert CaseStore(store).case_ids == ["1"]

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

    def test_zarr_and_hdf5_stores_hold_the_same_arrays(self, preprocess, write_dataset, tmp_path):
        src = write_dataset()
        for stored in ("zarr", "hdf5"):
            preprocess(src, out=stored, changes={"preprocess.format": stored})
        zarr, hdf5 = (CaseStore(tmp_path / stored) for stored in ("zarr", "hdf5"))
        for case_id in ("1", "2", "3"):
            for name in ARRAYS:
                ours, theirs = (getattr(one, name)(case_id) for one in (zarr, hdf5))
                np.testing.assert_array_equal(ours, theirs)


class TestProblems:
    """problems.json: every file is prepared, or it says why not."""

    @pytest.fixture
    def messy(self, write_dataset, write_case, write_volume):
        """A data set in which much is wrong; prepared with ``MESSY`` only case 1 is without."""
        src = write_dataset()
        cut_short(src / "image/2/2.nii.gz")
        write_case("4", seed=4, label=small_liver())
        write_case("5", seed=5, ct=padded_hu())
        write_volume("src/image/6/6.nii.gz", padded_hu())  # no label
        write_volume("src/label/7/7.nii.gz", small_liver())  # no CT
        (src / "README.txt").write_text("about")
        (src / "image/1/notes.txt").write_text("about 1")
        return src

    MESSY = {"data.exclude": ["3", "99"]}  # noqa: RUF012 - nobody changes it

    def test_problems_json_has_a_version_counts_and_one_entry_for_each_problem(
        self, preprocess, messy, store
    ):
        preprocess(messy, changes=self.MESSY)
        told = json.loads((store.parent / "problems.json").read_text(encoding="utf-8"))
        assert sorted(told) == ["counts", "labels", "problems", "schema_version", "sha256"]
        assert told["schema_version"] == 1
        keys = {"severity", "rule", "case_id", "path", "fact", "fix"}
        assert all(set(problem) == keys for problem in told["problems"])
        assert all(isinstance(text, str) for one in told["problems"] for text in one.values())
        severities = [problem["severity"] for problem in told["problems"]]
        assert told["counts"] == {name: severities.count(name) for name in set(severities)}

    def test_problems_json_is_sorted_by_case_path_and_rule(self, preprocess, messy, store):
        preprocess(messy, changes=self.MESSY)
        problems = json.loads((store.parent / "problems.json").read_text())["problems"]
        keys = [(one["case_id"], one["path"], one["rule"]) for one in problems]
        assert keys == sorted(keys)
        assert len(keys) >= 8

    def test_every_file_is_prepared_or_explained(self, preprocess, messy, store):
        preprocess(messy, changes=self.MESSY)
        problems = json.loads((store.parent / "problems.json").read_text())["problems"]
        explained = {problem["path"] for problem in problems}
        for case_id in CaseStore(store).case_ids:
            explained |= {
                str(messy / kind / case_id / f"{case_id}.nii.gz") for kind in ("image", "label")
            }
        for file in messy.rglob("*"):
            if file.is_file():
                assert {str(file), *map(str, file.parents)} & explained, file

    def test_another_number_of_workers_gives_the_same_bytes(self, preprocess, messy, tmp_path):
        for out, workers in (("one/cases", 1), ("two/cases", 2)):
            ended = preprocess(messy, out=out, workers=workers, changes=self.MESSY)
            assert ended.exit_code == 0
        assert pages_of(tmp_path / "one/cases") == pages_of(tmp_path / "two/cases")
        assert bytes_of(tmp_path / "one/cases") == bytes_of(tmp_path / "two/cases")

    @pytest.mark.parametrize("state", ["as it was", "deleted"])
    def test_a_rerun_tells_the_same_in_the_same_bytes(self, preprocess, messy, store, state):
        settle(messy)
        preprocess(messy, changes=self.MESSY)
        before = pages_of(store)
        assert ("fixed", "padding", "5") in problems_of(store)
        assert ("warning", "liver_volume", "4") in problems_of(store)
        if state == "deleted":
            shutil.rmtree(store.parent / STATE)
        assert "0 prepared now, 3 kept" in preprocess(messy, changes=self.MESSY).output
        assert pages_of(store) == before

    def test_ignored_files_are_counted_and_written_but_not_listed(
        self, preprocess, write_dataset, store
    ):
        src = write_dataset(["1"])
        (src / "README.txt").write_text("about")
        ended = preprocess(src)
        assert "1 ignored" in ended.output
        assert "README" not in ended.output
        assert problems_of(store) == [("ignored", "not_a_case", "")]

    def test_another_series_beside_the_one_that_is_read_is_printed(
        self, preprocess, write_dataset, write_slices
    ):
        src = write_dataset(["1"])
        (src / "image/1/1.nii.gz").unlink()
        for path in sorted(write_slices(src / "image/1").iterdir())[:2]:
            other = dcmread(path)
            other.SeriesInstanceUID, other.SeriesDescription = "1.2.3", "Topogram"
            other.save_as(path.with_name(f"other-{path.name}"))
        ended = preprocess(src)
        assert (
            'beside case 1: 2 files: another series (number None, CT, "Topogram")' in ended.output
        )

    def test_files_of_a_dicom_folder_that_are_no_slices_are_told_again(
        self, preprocess, write_dataset, write_slices, store
    ):
        src = write_dataset(["1"])
        (src / "image/1/1.nii.gz").unlink()
        folder = write_slices(src / "image/1")
        (folder / "report.txt").write_text("a report")
        settle(src)
        assert preprocess(src).exit_code == 0, problems_of(store)
        before = pages_of(store)
        assert ("ignored", "other_files", "1") in problems_of(store)
        assert "1 kept" in preprocess(src).output
        assert pages_of(store) == before


@pytest.fixture
def write_slices():
    """Write the CT of ``write_case`` as a DICOM series into a folder."""

    def write(folder):
        volume = np.full(CASE_SHAPE, -1000, np.int16)
        volume[1:13, 2:15, 3:18] = 100
        uid = "1.2.826.0.1.3680043.2.1125.1.7"
        for number, plane in enumerate(volume):
            image = sitk.GetImageFromArray(plane[None])
            image.SetSpacing((9.0, 10.0, 11.0))
            tags = {
                "0008|0060": "CT",
                "0008|0018": f"{uid}.{number + 1}",
                "0020|000d": f"{uid}.100",
                "0020|000e": f"{uid}.101",
                "0020|0013": str(number + 1),
                "0020|0032": f"-11\\7\\{23 + 11 * number}",
                "0020|0037": "1\\0\\0\\0\\1\\0",
                "0018|0050": "11",
                "0028|1052": "0",
                "0028|1053": "1",
            }
            for tag, value in tags.items():
                image.SetMetaData(tag, value)
            writer = sitk.ImageFileWriter()
            writer.KeepOriginalImageUIDOn()
            writer.SetFileName(str(folder / f"slice{number:03}.dcm"))
            writer.Execute(image)
        return folder

    return write


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
        assert "no case can be used:" in output
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

    def test_a_missing_source_folder_is_refused(self, preprocess, tmp_path):
        assert str(tmp_path / "nowhere") in self.refused(preprocess(tmp_path / "nowhere"))

    def test_a_file_in_place_of_the_store(self, preprocess, write_dataset, tmp_path):
        (tmp_path / "file").write_text("mine")
        assert "cannot be made" in self.refused(preprocess(write_dataset(["1"]), out="file"))
        assert (tmp_path / "file").read_text() == "mine"

    def test_a_store_inside_the_data_set(self, preprocess, write_dataset):
        src = write_dataset(["1"])
        assert "is inside the data set" in self.refused(preprocess(src, out="src/cases"))
        assert not (src / "cases").exists()

    @pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
    def test_a_store_inside_the_data_set_by_a_link(self, preprocess, write_dataset, tmp_path):
        (tmp_path / "link").symlink_to(write_dataset(["1"]))
        output = self.refused(preprocess(tmp_path / "src", out="link/cases"))
        assert "is inside the data set" in output

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

    def test_a_missing_parameter_file_is_refused(self, preprocess, tmp_path):
        output = self.refused(preprocess(tmp_path, params=tmp_path / "none.yaml"))
        assert "none.yaml: there is no such file" in output

    def test_a_parameter_file_that_is_no_yaml(self, preprocess, tmp_path):
        (tmp_path / "bad.yaml").write_text("seed: [1\ndata: {")
        output = self.refused(preprocess(tmp_path, params=tmp_path / "bad.yaml"))
        assert "is not valid YAML" in output

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


class TestRunningAgain:
    def test_nothing_is_touched_where_nothing_changed(
        self, preprocess, old_dataset, store, stored_as
    ):
        src = old_dataset()
        preprocess(src, changes=stored_as)
        before, state, pages = bytes_of(store), state_of(store), pages_of(store)
        assert "0 prepared now, 3 kept" in preprocess(src, changes=stored_as).output
        assert bytes_of(store) == before
        assert state_of(store) == state  # not even the manifest is written anew
        assert pages_of(store) == pages

    def test_files_too_young_for_their_times_to_be_relied_on_are_read_again_and_kept(
        self, preprocess, write_dataset, store, stored_as
    ):
        src = write_dataset()
        preprocess(src, changes=stored_as)
        before, state = bytes_of(store), state_of(store)
        assert "0 prepared now, 3 kept" in preprocess(src, changes=stored_as).output
        assert bytes_of(store) == before
        assert cases_written(store, state) == []

    def test_an_edited_label_redoes_exactly_its_case(
        self, preprocess, old_dataset, write_case, store, stored_as
    ):
        src = old_dataset()
        preprocess(src, changes=stored_as)
        state = state_of(store)
        edited = np.zeros(CASE_SHAPE, np.uint8)
        edited[5:9, 5:9, 6:14] = 1
        write_case("2", seed=1, label=edited)
        assert "1 prepared now, 2 kept" in preprocess(src, changes=stored_as).output
        assert cases_written(store, state) == ["2"]
        assert CaseStore(store).info("2").liver_ml == pytest.approx(4 * 4 * 8 * 0.99)

    def test_a_file_changed_to_one_of_the_same_size_redoes_its_case(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset(ct_name="{id}/{id}.nii", label_name="{id}/{id}.nii")
        settle(src)
        preprocess(src)
        state, ct = state_of(store), src / "image/2/2.nii"
        size = ct.stat().st_size
        write_case("2", seed=9, ct_name="{id}/{id}.nii", label_name="{id}/{id}.nii")
        assert ct.stat().st_size == size
        assert "1 prepared now, 2 kept" in preprocess(src).output
        assert cases_written(store, state) == ["2"]

    def test_a_touched_file_is_read_and_its_case_kept(self, preprocess, old_dataset, store):
        src = old_dataset()
        preprocess(src)
        state = state_of(store)
        (src / "label/2/2.nii.gz").touch()
        assert "0 prepared now, 3 kept" in preprocess(src).output
        assert cases_written(store, state) == []

    @pytest.mark.parametrize("changes", [{"train.hu_window": [-100, 300]}, {"seed": 7}])
    def test_parameters_of_training_change_nothing(self, preprocess, old_dataset, store, changes):
        src = old_dataset()
        preprocess(src)
        state = state_of(store)
        assert "0 prepared now, 3 kept" in preprocess(src, changes=changes).output
        assert state_of(store) == state

    def test_a_parameter_of_preprocessing_redoes_all(self, preprocess, old_dataset, store):
        src = old_dataset()
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
        self, preprocess, old_dataset, store, tmp_path
    ):
        src = old_dataset()
        preprocess(src)
        state = state_of(store)
        src.rename(tmp_path / "moved")
        assert "0 prepared now, 3 kept" in preprocess(tmp_path / "moved").output
        assert cases_written(store, state) == []

    def test_a_store_without_its_state_folder_is_not_prepared_again(
        self, preprocess, old_dataset, store, stored_as
    ):
        src = old_dataset()
        preprocess(src, changes=stored_as)
        state, pages = state_of(store), pages_of(store)
        shutil.rmtree(store.parent / STATE)
        assert "0 prepared now, 3 kept" in preprocess(src, changes=stored_as).output
        assert cases_written(store, state) == []
        assert pages_of(store) == pages

    def test_a_store_copied_elsewhere_is_kept(self, preprocess, old_dataset, tmp_path, stored_as):
        src = old_dataset()
        preprocess(src, changes=stored_as)
        shutil.copytree(tmp_path / "cases", tmp_path / "elsewhere/copy")
        ended = preprocess(src, out="elsewhere/copy", changes=stored_as)
        assert "0 prepared now, 3 kept" in ended.output

    def test_two_stores_side_by_side_do_not_make_each_other_forget(
        self, preprocess, old_dataset, tmp_path
    ):
        src = old_dataset()
        for stored in ("zarr", "hdf5", "zarr"):
            preprocess(src, out=stored, changes={"preprocess.format": stored})
        remembered = {
            stored: (tmp_path / STATE / stored / "digests.jsonl").read_text().splitlines()
            for stored in ("zarr", "hdf5")
        }
        # six sources, and the files of three cases
        assert len(remembered["hdf5"]) == 6 + 3
        assert len(remembered["zarr"]) > 6 + 3
        assert sum("/src/" in line for line in remembered["zarr"]) == 6


class TestDamagedStore:
    """What a case's files went through, and exactly that case is prepared again."""

    @pytest.mark.parametrize("harm", ["flipped", "truncated", "deleted", "lost"])
    def test_a_damaged_case_is_prepared_again(
        self, preprocess, old_dataset, store, stored_as, harm
    ):
        src = old_dataset()
        preprocess(src, changes=stored_as)
        before = bytes_of(store)
        case = next(store.glob("2.*"))
        file = case if case.is_file() else next(path for path in case.rglob("c/*/*/*"))
        content = bytearray(file.read_bytes())
        if harm == "flipped":
            content[len(content) // 2] ^= 1
            file.write_bytes(content)
        elif harm == "truncated":
            file.write_bytes(content[:-1])
        elif harm == "deleted":
            file.unlink()
        else:
            (shutil.rmtree if case.is_dir() else os.remove)(case)
        state = state_of(store)
        assert "1 prepared now, 2 kept" in preprocess(src, changes=stored_as).output
        assert cases_written(store, state) == ["2"]
        assert bytes_of(store) == before

    def test_a_damaged_manifest_has_all_prepared_again_to_the_same_bytes(
        self, preprocess, old_dataset, store
    ):
        src = old_dataset()
        preprocess(src)
        before = bytes_of(store)
        (store / "manifest.json").write_text("{")
        assert preprocess(src).exit_code == 0
        assert bytes_of(store) == before

    @pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
    def test_a_damaged_picture_is_drawn_again_from_the_store(
        self, preprocess, write_dataset, store, damage
    ):
        src = write_dataset()
        preprocess(src)
        before, pages = bytes_of(store), pages_of(store)
        picture = next((store.parent / STATE / store.name / "pictures").glob("*.jpg"))
        whole = picture.read_bytes()
        middle = len(whole) // 2
        flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        picture.write_bytes({"flip": flipped, "cut": whole[:middle], "remove": b""}[damage])
        assert "0 prepared now, 3 kept" in preprocess(src).output
        assert pages_of(store) == pages
        assert bytes_of(store) == before
        assert picture.read_bytes() == whole

    def test_a_file_changed_under_its_size_and_time_is_found_by_deep_alone(
        self, preprocess, old_dataset
    ):
        src = old_dataset()
        preprocess(src)
        label = next(src.rglob("label/2/*.nii.gz"))
        before = label.stat()
        content = bytearray(label.read_bytes())
        content[4] ^= 1  # of the time in a gzip file's header: the voxels stay
        label.write_bytes(content)
        os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert "0 prepared now, 3 kept" in preprocess(src).output
        assert "1 prepared now, 2 kept" in preprocess(src, "--deep").output

    def test_a_case_of_a_newer_format_is_prepared_again(self, preprocess, write_dataset, store):
        src = write_dataset()
        preprocess(src)
        metadata = store / "2.zarr" / "zarr.json"
        newer = metadata.read_text().replace(
            f'"format_version": {FORMAT_VERSION}', f'"format_version": {FORMAT_VERSION + 1}'
        )
        assert newer != metadata.read_text()
        metadata.write_text(newer)
        assert "1 prepared now, 2 kept" in preprocess(src).output


class TestPolicies:
    """A changed policy concerns the cases that break its rule, and no others."""

    @pytest.fixture
    def doubted(self, old_dataset, write_case):
        """A data set whose case 2 has a liver of 20 ml."""
        src = old_dataset()
        write_case("2", seed=1, label=small_liver())
        settle(src)
        return src

    @pytest.fixture
    def padded(self, old_dataset, write_case):
        """A data set whose case 2 is padded with -3024."""
        src = old_dataset()
        write_case("2", ct=padded_hu())
        settle(src)
        return src

    def test_from_warn_to_skip_leaves_the_case_out(self, preprocess, doubted, store):
        preprocess(doubted, changes={"rules.liver_volume": "warn"})
        state = state_of(store)
        ended = preprocess(doubted, changes={"rules.liver_volume": "skip"})
        assert "2 cases in" in ended.output
        assert problems_of(store) == [("skipped", "liver_volume", "2")]
        assert CaseStore(store).case_ids == ["1", "3"]
        assert cases_written(store, state) == []

    @pytest.mark.parametrize("is_settled", [True, False])
    def test_a_case_under_a_policy_changed_back_to_warn_is_there_without_being_prepared_again(
        self, preprocess, doubted, store, is_settled
    ):
        if not is_settled:
            for path in doubted.rglob("*.nii.gz"):
                path.touch()
        preprocess(doubted, changes={"rules.liver_volume": "warn"})
        before, state = bytes_of(store), state_of(store)
        for policy in ("skip", "skip", "warn"):
            ended = preprocess(doubted, changes={"rules.liver_volume": policy})
        assert "0 prepared now, 3 kept" in ended.output
        assert cases_written(store, state) == []
        assert bytes_of(store) == before

    @pytest.mark.parametrize("policy", ["warn", "skip"])
    def test_from_fix_to_warn_or_skip_and_back_no_case_is_written_again(
        self, preprocess, padded, store, policy
    ):
        whole = {"preprocess.crop": "none", "preprocess.grid": "keep"}
        preprocess(padded, changes={**whole, "rules.padding": "fix"})
        before, state = bytes_of(store), state_of(store)
        assert CaseStore(store).image("2").min() == -1000
        preprocess(padded, changes={**whole, "rules.padding": policy})
        kept = CaseStore(store)
        assert kept.case_ids == (["1", "2", "3"] if policy == "warn" else ["1", "3"])
        if policy == "warn":
            assert kept.image("2").min() == -1000
        assert cases_written(store, state) == []
        preprocess(padded, changes={**whole, "rules.padding": "fix"})
        assert bytes_of(store) == before

    @pytest.mark.parametrize("policy", ["warn", "fix"])
    def test_a_case_skipped_before_is_prepared_when_its_policy_allows_it(
        self, preprocess, padded, store, policy
    ):
        preprocess(padded, changes={"rules.padding": "skip"})
        assert problems_of(store) == [("skipped", "padding", "2")]
        ended = preprocess(padded, changes={"rules.padding": policy})
        assert "1 prepared now, 2 kept" in ended.output
        severity = {"warn": "warning", "fix": "fixed"}[policy]
        assert problems_of(store) == [(severity, "padding", "2")]

    def test_a_policy_of_a_rule_that_no_case_breaks_changes_nothing(
        self, preprocess, doubted, store
    ):
        preprocess(doubted)
        state = state_of(store)
        changes = {"rules.padding": "error", "rules.finite": "fix", "rules.same_ct": "error"}
        assert "0 prepared now, 3 kept" in preprocess(doubted, changes=changes).output
        assert state_of(store) == state

    def test_error_ends_with_2_and_the_findings_and_without_a_manifest(
        self, preprocess, doubted, store
    ):
        ended = preprocess(doubted, changes={"rules.liver_volume": "error"})
        assert ended.exit_code == 2
        assert "1 findings under rules whose policy is error" in ended.output
        assert "19.8 ml" in ended.output
        assert "Traceback" not in ended.output
        assert problems_of(store) == [("error", "liver_volume", "2")]
        assert not (store / "manifest.json").exists()

    def test_after_an_error_the_other_cases_are_kept(self, preprocess, doubted, store):
        preprocess(doubted, changes={"rules.liver_volume": "error"})
        ended = preprocess(doubted, changes={"rules.liver_volume": "warn"})
        assert "1 prepared now, 2 kept" in ended.output
        assert CaseStore(store).case_ids == ["1", "2", "3"]

    def test_an_error_takes_the_manifest_of_a_finished_store_away(self, preprocess, doubted, store):
        preprocess(doubted)
        before, state = bytes_of(store), state_of(store)
        assert preprocess(doubted, changes={"rules.liver_volume": "error"}).exit_code == 2
        assert not (store / "manifest.json").exists()
        assert "0 prepared now, 3 kept" in preprocess(doubted).output
        assert cases_written(store, state) == []
        assert bytes_of(store) == before

    def test_an_error_in_the_data_set_itself_counts_as_well(self, preprocess, write_dataset, store):
        src = write_dataset()
        shutil.rmtree(src / "label/2")
        ended = preprocess(src, changes={"rules.label_missing": "error"})
        assert ended.exit_code == 2
        assert problems_of(store)[0][:2] == ("error", "label_missing")
        assert not (store / "manifest.json").exists()


class TestCheckOnly:
    def test_check_only_writes_the_two_pages_and_no_store(self, preprocess, write_dataset, store):
        src = write_dataset()
        cut_short(src / "image/2/2.nii.gz")
        ended = preprocess(src, "--check-only")
        assert ended.exit_code == 0
        assert "2 cases can be prepared; nothing was stored" in ended.output
        assert not store.exists()
        assert problems_of(store) == [("skipped", "truncated", "2")]
        assert b"data:image/jpeg" in pages_of(store)[1]

    def test_check_only_finds_what_a_run_finds(
        self, preprocess, write_dataset, write_case, tmp_path
    ):
        src = write_dataset(["1"])
        write_case("2", label=small_liver())
        write_case("3", ct=padded_hu())
        changes = {"preprocess.crop": "slices", "preprocess.slices": [0, 3]}
        preprocess(src, "--check-only", out="checked/cases", changes=changes)
        preprocess(src, out="stored/cases", changes=changes)
        assert pages_of(tmp_path / "checked/cases")[0] == pages_of(tmp_path / "stored/cases")[0]

    def test_check_only_ends_with_2_for_an_error(self, preprocess, write_dataset, store):
        src = write_dataset(["1"], label=small_liver())
        ended = preprocess(src, "--check-only", changes={"rules.liver_volume": "error"})
        assert ended.exit_code == 2
        assert problems_of(store) == [("error", "liver_volume", "1")]
        assert not store.exists()

    @pytest.mark.parametrize("policy", ["warn", "error"])
    def test_a_store_that_is_there_stays_as_it_is(
        self, preprocess, old_dataset, write_case, store, policy
    ):
        src = old_dataset()
        preprocess(src)
        before, state = bytes_of(store), state_of(store)
        write_case("2", label=small_liver())
        cut_short(src / "image/3/3.nii.gz")
        changes = {"preprocess.margin_mm": 30, "rules.liver_volume": policy}
        ended = preprocess(src, "--check-only", "--prune", changes=changes)
        assert ended.exit_code == (0 if policy == "warn" else 2)
        assert bytes_of(store) == before
        assert state_of(store) == state
        assert CaseStore(store).case_ids == ["1", "2", "3"]

    def test_check_only_takes_nothing_from_later_runs(
        self, preprocess, old_dataset, write_case, store
    ):
        src = old_dataset()
        write_case("2", ct=padded_hu())
        settle(src)
        preprocess(src)
        state, pages = state_of(store), pages_of(store)
        preprocess(src, "--check-only", changes={"rules.padding": "warn"})
        assert "0 prepared now, 3 kept" in preprocess(src).output
        assert cases_written(store, state) == []
        assert pages_of(store) == pages


class TestTheSameCt:
    """The very same voxels under two patients would be on both sides of the split."""

    @pytest.fixture(params=["as it is", "mha", "flipped", "turned", "int32"])
    def doubled(self, request, write_case, write_dataset):
        """A data set whose case 2 has the CT of case 1, written in another way."""
        src = write_dataset(["1"])
        twin = {
            "as it is": {},
            "mha": {"ct_name": "{id}/{id}.mha", "label_name": "{id}/{id}.mha"},
            "flipped": {},
            "turned": {},
            "int32": {"dtype": np.int32},
        }[request.param]
        files = write_case("2", **twin)
        orientation = {"flipped": "RPI", "turned": "SRA"}.get(request.param)
        if orientation:
            for path in (files.ct, files.label):
                image = sitk.ReadImage(str(path))
                sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))
        write_case("3", seed=3)
        settle(src)
        return src

    def test_the_second_case_with_the_same_ct_is_skipped(self, preprocess, doubled, store):
        ended = preprocess(doubled)
        assert CaseStore(store).case_ids == ["1", "3"]
        assert problems_of(store) == [("skipped", "same_ct", "2")]
        assert "holds the very voxels of case 1" in ended.output

    def test_two_cases_of_one_patient_with_the_same_ct_both_stay(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset(["P1_a"])
        write_case("P1_b")
        preprocess(src, changes={"data.patient_id": r"^(P\d+)_"})
        assert CaseStore(store).case_ids == ["P1_a", "P1_b"]
        assert problems_of(store) == []

    def test_a_case_left_out_by_another_rule_takes_none_with_it(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset(["1"], label=small_liver())
        write_case("2")
        preprocess(src, changes={"rules.same_ct": "warn"})
        preprocess(src, changes={"rules.liver_volume": "skip"})  # case 1 is there, but left out
        assert CaseStore(store).case_ids == ["2"]

    def test_a_rerun_prepares_the_second_no_more(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset(["1"])
        write_case("2")
        settle(src)
        preprocess(src)
        state = state_of(store)
        assert "0 prepared now, 1 kept" in preprocess(src).output
        assert state_of(store) == state
        assert problems_of(store) == [("skipped", "same_ct", "2")]

    def test_a_case_that_is_left_out_takes_none_with_it(
        self, preprocess, write_dataset, write_case, store
    ):
        src = write_dataset(["1"], label=np.zeros(CASE_SHAPE, np.uint8))
        write_case("2")
        preprocess(src)
        assert CaseStore(store).case_ids == ["2"]


class TestCasesThatAreGone:
    @pytest.fixture
    def src_without_2(self, preprocess, old_dataset):
        """A prepared folder from which case 2 was then taken."""
        src = old_dataset()
        preprocess(src)
        for folder in ("image", "label"):
            shutil.rmtree(src / folder / "2")
        return src

    def test_cases_that_are_gone_leave_the_manifest_and_stay_on_the_disk(
        self, preprocess, src_without_2, store
    ):
        preprocess(src_without_2)
        assert CaseStore(store).case_ids == ["1", "3"]
        assert (store / "2.zarr").is_dir()

    def test_cases_that_were_gone_and_come_back_are_kept(
        self, preprocess, src_without_2, write_case, store
    ):
        preprocess(src_without_2)
        write_case("2", seed=1)
        assert "0 prepared now, 3 kept" in preprocess(src_without_2).output

    def test_prune_deletes_cases_that_are_gone_from_the_disk(
        self, preprocess, src_without_2, store
    ):
        preprocess(src_without_2, "--prune")
        names = sorted(path.name for path in store.iterdir())
        assert names == ["1.zarr", "3.zarr", "manifest.json"]

    @pytest.mark.parametrize("was_unlisted", [False, True])
    def test_prune_takes_a_damaged_one_too(self, preprocess, src_without_2, store, was_unlisted):
        if was_unlisted:
            preprocess(src_without_2)
        (store / "2.zarr" / "zarr.json").write_text("{")
        preprocess(src_without_2, "--prune")
        assert not (store / "2.zarr").exists()

    def test_prune_keeps_a_case_that_is_only_left_out_for_now(
        self, preprocess, write_dataset, store
    ):
        src = write_dataset()
        preprocess(src)
        (src / "label" / "2" / "2.nii.gz").write_bytes(b"")
        preprocess(src, "--prune")
        assert (store / "2.zarr").is_dir()

    def test_prune_leaves_files_that_are_not_ours(self, preprocess, src_without_2, store):
        (store / "notes.txt").write_text("mine")
        (store / "mine.h5").write_bytes(b"mine")
        (store / "mine.zarr").mkdir()
        (store / "mine.zarr/zarr.json").write_text("{}")
        preprocess(src_without_2, "--prune")
        names = sorted(path.name for path in store.iterdir())
        assert names == ["1.zarr", "3.zarr", "manifest.json", "mine.h5", "mine.zarr", "notes.txt"]

    def test_prune_also_takes_the_other_format(self, preprocess, write_dataset, store):
        src = write_dataset(["1"])
        preprocess(src)
        preprocess(src, changes={"preprocess.format": "hdf5"})
        assert sorted(path.name for path in store.iterdir()) == ["1.h5", "1.zarr", "manifest.json"]
        preprocess(src, "--prune", changes={"preprocess.format": "hdf5"})
        assert sorted(path.name for path in store.iterdir()) == ["1.h5", "manifest.json"]

    def test_a_run_that_ends_with_an_error_prunes_nothing(
        self, preprocess, src_without_2, store, write_case
    ):
        write_case("1", label=small_liver())
        ended = preprocess(src_without_2, "--prune", changes={"rules.liver_volume": "error"})
        assert ended.exit_code == 2
        assert (store / "2.zarr").is_dir()


def test_what_a_killed_run_left_is_gone_after_the_next(preprocess, write_dataset, store):
    (store / f"{PARTIAL}2.zarr" / "image").mkdir(parents=True)
    (store / f"{PARTIAL}2.zarr" / "image" / "zarr.json").write_text("{}")
    (store / f"{PARTIAL}9.h5").write_bytes(b"half")
    (store.parent / STATE / "cases" / f"{PARTIAL}1").mkdir(parents=True)
    assert preprocess(write_dataset()).exit_code == 0
    assert not list(store.parent.rglob(f"{PARTIAL}*"))
