"""Writing params.yaml from a preset, and the presets themselves."""

import csv
import os
import re
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from cache.errors import ParamsError
from pipeline.configure import PRESETS, main
from pipeline.params import read_params
from stages.preprocess.scan import scan
from test_layouts import bare, lay_out, series

PRESET_FILES = sorted(PRESETS.glob("*.yaml"))


@pytest.fixture
def configure(run_command, tmp_path):
    """Run the command on a parameter file in an empty folder; gives how it ended and the file."""
    target = tmp_path / "params.yaml"

    def run(*flags):
        return run_command(main, *flags, "--params", target), target

    return run


def values(path):
    """The parameters of a file, whatever its comments."""
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def comments(path):
    """All comments of a file in their order."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[2].strip() for line in lines if "#" in line]


class TestPresets:
    def test_there_are_presets(self):
        assert {"liver", "notebook"} <= {path.stem for path in PRESET_FILES}

    @pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
    def test_every_preset_is_a_complete_valid_file(self, path):
        read_params(path)

    def test_a_file_nested_too_deeply_is_refused_as_one(self, tmp_path):
        path = tmp_path / "params.yaml"
        path.write_text("seed: " + "[" * 3000)
        with pytest.raises(ParamsError, match="is nested too deeply"):
            read_params(path)

    def test_the_default_parameters_are_valid(self, repo):
        read_params(repo / "params.yaml")

    @pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
    def test_every_preset_is_for_ones_own_scans(self, path):
        data = read_params(path).data
        assert data.phantoms == []
        assert data.src == "D:/LiverDataset"

    @pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
    def test_every_preset_says_how_to_use_it(self, path):
        command = f"python -m pipeline.configure --preset {path.stem} --src D:/LiverDataset"
        assert any(command in comment for comment in comments(path))

    def test_the_notebooks_settings_are_the_notebooks(self):
        params = read_params(PRESETS / "notebook.yaml")
        preprocess, train = params.preprocess, params.train
        # [250:300], label > 0 is 1, Resize((96, 96)), raw HU
        assert (preprocess.crop, preprocess.slices) == ("slices", (250, 300))
        assert preprocess.liver_values == "any"
        assert (preprocess.grid, preprocess.shape_zyx) == ("shape", (None, 96, 96))
        assert train.hu_window is None
        # UNet3d(in_channels=1, n_classes=2, n_channels=24) with trilinear upsampling
        assert (train.n_channels, train.upsampling) == (24, "trilinear")
        # whole volumes in batches of two, each once an epoch; CrossEntropyLoss, Adam 1e-5, 100
        assert (train.patch_zyx, train.batch_size, train.patches_per_case) == (None, 2, 1)
        assert (train.loss, train.schedule) == ("cross_entropy", "constant")
        assert (train.lr, train.epochs) == (1e-5, 100)
        assert params.evaluate.scope == "box"

    def test_real_livers_are_prepared_by_body_and_spacing(self):
        preprocess = read_params(PRESETS / "liver.yaml").preprocess
        assert (preprocess.crop, preprocess.grid) == ("body", "spacing")


@pytest.fixture
def listed(configure, tmp_path, rules):
    """Configure for a folder with these files; gives what was said, the list and its cases."""

    def run(*paths, dicom=(), folder="scans"):
        src = lay_out(tmp_path / folder, {**bare(*paths), **series(*dicom)})
        ended, target = configure("--preset", "liver", "--src", src)
        assert ended.exit_code == 0
        path = Path(values(target)["data"]["src"])
        assert path == tmp_path / "cases.csv"
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["ct"], row["label"], row["case_id"]) for row in csv.DictReader(file)]
        found = scan(path, layout="auto", exclude=[], patient_id=None, rules=rules())
        return ended.output, rows, {case.case_id for case in found.cases}

    return run


class TestAListToComplete:
    def test_what_names_do_not_put_together_is_listed_for_completion(self, listed):
        said, rows, cases = listed("one/a.nii", "two/b_seg.nii", "one/c.nii", "two/c_seg.nii")
        assert rows == [
            ("scans/one/a.nii", "", ""),
            ("", "scans/two/b_seg.nii", ""),
            ("scans/one/c.nii", "scans/two/c_seg.nii", "c"),
        ]
        assert "which is not a known layout" in said
        assert "1 of 3 rows are whole; complete ct in 1 rows and label in 1 rows" in said
        assert cases == {"c"}

    def test_several_places_with_cases_are_listed_all(self, listed):
        files = [
            f"{part}/{side}/{part[0]}.nii" for part in ("train", "test") for side in ("img", "gt")
        ]
        said, rows, cases = listed(*files)
        assert "in 2 places" in said
        assert "2 of 2 rows are whole; delete rows that are not for training" in said
        assert [case_id for *_, case_id in rows] == ["test_t", "train_t"]
        assert cases == {"test_t", "train_t"}

    def test_a_case_in_two_folders_of_labels_is_left_to_be_chosen(self, listed):
        _, rows, cases = listed("images/1.nii", "labels/1.nii", "labels_new/1.nii")
        assert rows == [
            ("scans/images/1.nii", "", ""),
            ("", "scans/labels/1.nii", ""),
            ("", "scans/labels_new/1.nii", ""),
        ]
        assert cases == set()

    def test_dicom_folders_are_listed_and_other_organs_are_not(self, listed):
        _, rows, _ = listed("m/x_liver.nii", "m/x_spleen.nii", dicom=["s/1", "s/2"])
        assert rows == [
            ("scans/s/1", "", ""),
            ("scans/s/2", "", ""),
            ("", "scans/m/x_liver.nii", ""),
        ]

    def test_a_name_that_would_be_a_formula_or_part_a_cell_comes_through(self, listed):
        _, rows, cases = listed("a,b/x.nii", "a,b/y.nii", "b/x_seg.nii", folder="=1+1")
        assert cases == {"x"}
        assert ("'=1+1/a,b/y.nii", "", "") in rows

    def test_a_list_that_somebody_completed_stays_as_a_backup(self, listed, tmp_path):
        (tmp_path / "cases.csv").write_text("mine")
        said, _, _ = listed("one/a.nii", "two/b_seg.nii")
        assert (tmp_path / "cases.csv.bak").read_text() == "mine"
        assert f"is in {tmp_path / 'cases.csv.bak'}" in said

    def test_a_forced_layout_that_does_not_fit_is_not_kept_for_the_list(self, configure, tmp_path):
        src = lay_out(tmp_path / "scans", bare("one/a.nii", "two/b_seg.nii"))
        _, target = configure("--preset", "liver")
        target.write_text(
            target.read_text(encoding="utf-8").replace("layout: auto", "layout: lits"),
            encoding="utf-8",
        )
        configure("--src", src)
        assert values(target)["data"]["layout"] == "auto"

    def test_a_folder_without_volumes_makes_no_list(self, configure, tmp_path):
        src = lay_out(tmp_path / "scans", bare("notes.txt"))
        ended, target = configure("--preset", "liver", "--src", src)
        assert values(target)["data"]["src"] == src.as_posix()
        assert not (tmp_path / "cases.csv").exists()
        assert "note: " in ended.output

    def test_what_dvc_stops_at_is_named(self, configure, tmp_path):
        src = lay_out(tmp_path / "scans", bare("image/1.nii", "label/1.nii"))
        try:
            (src / "image" / "gone.nii").symlink_to("nowhere")
        except OSError:
            pytest.skip("links cannot be made here")
        ended, _ = configure("--preset", "liver", "--src", src)
        assert f"{src / 'image' / 'gone.nii'}: is a link that leads nowhere" in ended.output

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
    def test_a_folder_whose_name_is_not_utf_8_is_refused_by_name(self, configure, tmp_path):
        src = tmp_path / os.fsdecode(b"M\xfcller")
        src.mkdir()
        ended, target = configure("--preset", "liver", "--src", src)
        assert ended.exit_code == 2
        assert "M\\udcfcller: has a name that is not UTF-8" in ended.output
        assert not target.exists()


class TestConfigure:
    @pytest.mark.parametrize("path", PRESET_FILES, ids=lambda path: path.stem)
    def test_a_preset_is_written_with_its_comments(self, configure, path):
        ended, target = configure("--preset", path.stem)
        assert ended.exit_code == 0
        assert target.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")

    def test_a_source_folder_is_set_and_turns_phantoms_off(self, configure, repo, tmp_path):
        target = tmp_path / "params.yaml"
        target.write_bytes((repo / "params.yaml").read_bytes())
        before, said = values(target), comments(target)
        ended, _ = configure("--src", tmp_path)
        assert ended.exit_code == 0
        before["data"] |= {"src": tmp_path.as_posix(), "phantoms": []}
        assert values(target) == before
        assert comments(target) == said

    def test_numbers_are_written_as_they_were(self, configure):
        _, target = configure("--preset", "notebook", "--src", "D:/Other")
        text = target.read_text(encoding="utf-8")
        assert "lr: 0.00001 # learning rate\n" in text
        assert "shape_zyx: [null, 96, 96] # slices stay as they are\n" in text
        assert "split_file: null\n" in text
        assert re.search(r"src: D:/Other +# the scans", text)

    def test_configure_says_which_parameters_changed_and_from_what(self, configure):
        configure("--preset", "liver")
        ended, target = configure("--preset", "notebook", "--src", "D:/Other")
        assert f"{target}: " in ended.output
        assert "  data.src: D:/LiverDataset -> D:/Other\n" in ended.output
        assert "  preprocess.slices: null -> [250, 300]\n" in ended.output
        assert "  train.epochs: 200 -> 100\n" in ended.output
        assert "data.layout" not in ended.output

    def test_the_layout_of_the_folder_is_said_with_a_pair(self, configure, tmp_path):
        src = lay_out(tmp_path / "scans", bare("images/1_0000.nii", "masks/1_mask.nii"))
        ended, target = configure("--preset", "liver", "--src", src)
        assert "as images/1_0000.nii with masks/1_mask.nii" in ended.output
        assert values(target)["data"]["src"] == src.as_posix()

    def test_doing_it_twice_changes_nothing(self, configure):
        _, target = configure("--preset", "liver", "--src", "D:/Other")
        before = target.read_bytes()
        ended, _ = configure("--preset", "liver", "--src", "D:/Other")
        assert target.read_bytes() == before
        assert ": 0 of " in ended.output

    def test_a_folder_that_is_not_there_is_noted_and_written(self, configure, tmp_path):
        ended, target = configure("--preset", "liver", "--src", tmp_path / "nowhere")
        assert ended.exit_code == 0
        assert f"there is no {tmp_path / 'nowhere'}" in ended.output
        assert values(target)["data"]["src"].endswith("nowhere")

    def test_nothing_asked_for_is_a_usage_error(self, configure):
        ended, target = configure()
        assert ended.exit_code == 2
        assert "--preset" in ended.output
        assert not target.exists()

    def test_an_unknown_preset_is_refused_with_those_there_are(self, configure):
        ended, target = configure("--preset", "livre")
        assert ended.exit_code == 2
        assert "there are liver, notebook" in ended.output
        assert not target.exists()

    def test_a_broken_parameter_file_is_not_taken_as_a_start(self, configure, tmp_path):
        (tmp_path / "params.yaml").write_text("seed: 1\n")
        ended, target = configure("--src", tmp_path)
        assert ended.exit_code == 2
        assert "data is missing" in ended.output
        assert target.read_text() == "seed: 1\n"

    @pytest.mark.parametrize("text", ["seed: [", "", "- 1\n", "seed: 1\n", "seed: \xe9"])
    def test_a_broken_parameter_file_is_mended_by_a_preset(self, configure, tmp_path, text):
        (tmp_path / "params.yaml").write_text(text, encoding="latin-1")
        ended, target = configure("--preset", "liver")
        assert ended.exit_code == 0
        assert values(target) == values(PRESETS / "liver.yaml")
