"""``pipeline.export``: a bundle that was seen to compute what the model does, or no bundle."""

import importlib.util
import json
import shutil
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from cache.errors import ModelError, ParamsError, StoreError
from cache.manifest import Manifest, write_manifest
from cache.reader import CaseStore
from exported import SPLIT, export, network, write_model
from pipeline.export import main
from project import all_files
from stages.evaluate.window import liver_probability
from stages.export.bundle import read_bundle
from stages.export.card import DASH
from stages.export.cases import training_cases
from stages.export.form import FORMS
from stages.export.graph import write_onnx
from stages.export.parity import compared
from stages.export.program import OnHu, open_program
from stages.export.sample import Sample, sample_of
from stages.train.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from tiny import PREPROCESS, names, one_thread, write_balls

CPU = torch.device("cpu")
FILES = ["README.md", "example.py", "model.onnx", "parity.json", "preparation.json"]
METRICS = {
    "cases": 7,
    "dice": {"mean": 0.95625, "median": 0.96, "undefined": 0},
    "hd95_mm": {"mean": None, "median": None, "undefined": 7},
}


@pytest.fixture(autouse=True)
def single_thread():
    with one_thread():
        yield


@pytest.fixture(scope="module")
def models(cases, tmp_path_factory):
    """A model of the store's very data, and its bundle; no test changes them."""
    folder = tmp_path_factory.mktemp("models")
    digest = CaseStore(cases).manifest.digest
    with one_thread():
        export(write_model(folder / "best.pt", data_digest=digest), folder / "bundle", cases=cases)
    return folder


@pytest.fixture(scope="module")
def other(cases, tmp_path_factory):
    """The bundle of a model of synthetic CTs, not validated, of other data, with scores given."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "metrics.json").write_text(json.dumps(METRICS))
    split = {"train": ["phantom-000", "phantom-001"], "validation": ["phantom-002"], "test": []}
    model = write_model(folder / "last.pt", split=split, epoch=3)
    with one_thread():
        export(model, folder / "bundle", cases=cases, metrics=folder / "metrics.json")
    return folder / "bundle"


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "best.pt")


@pytest.fixture
def command(run_command, tmp_path):
    return lambda *args: run_command(main, "--out", tmp_path / "bundle", *args)


def card(bundle):
    return " ".join((bundle / "README.md").read_text(encoding="utf-8").split())


def parity(bundle):
    return json.loads((bundle / "parity.json").read_text(encoding="utf-8"))


def other_weights(path, _, hu_window):
    """A writer that gets the weights wrong, all of them."""
    write_onnx(path, network(seed=1), hu_window)


def slightly_other_weights(path, of, hu_window):
    """A writer that gets a single weight wrong."""
    with torch.no_grad():
        of.out.conv.bias[1] += 0.02
    write_onnx(path, of, hu_window)


class TestCommand:
    def test_export_writes_the_bundle_and_says_how_near_it_is(
        self, command, model, cases, tmp_path
    ):
        ended = command("--model", model, "--cases", cases)
        assert ended.exit_code == 0, ended.output
        assert names(tmp_path / "bundle") == FILES
        assert f"bundle: {tmp_path / 'bundle'} (2.6 MB)" in ended.output
        assert "on a validation case: Dice 1.000000; largest difference" in ended.output

    def test_a_graph_of_other_weights_ends_with_2_and_leaves_nothing(
        self, command, model, cases, tmp_path, monkeypatch
    ):
        monkeypatch.setitem(FORMS, "onnx", replace(FORMS["onnx"], write=other_weights))
        ended = command("--model", model, "--cases", cases)
        assert ended.exit_code == 2
        assert "does not compute what the trained network does" in ended.output
        assert "on a validation case probabilities differ by 0." in ended.output
        assert "(at most 0.0001)" in ended.output
        assert names(tmp_path) == ["best.pt"]

    def test_a_missing_model_ends_with_2(self, command, tmp_path):
        ended = command("--model", tmp_path / "none.pt")
        assert ended.exit_code == 2
        assert f"{tmp_path / 'none.pt'}: there is no model here" in ended.output

    def test_an_unknown_form_is_refused(self, command, model):
        assert command("--model", model, "--to", "keras").exit_code == 2


class TestParity:
    def test_one_weight_that_is_off_fails_the_export_and_keeps_the_earlier_bundle(
        self, models, cases, tmp_path
    ):
        out = shutil.copytree(models / "bundle", tmp_path / "bundle")
        before = all_files(out)
        with pytest.raises(ModelError, match=r"logits of random 1·1·16·19·23 differ by 0\.02"):
            export(models / "best.pt", out, cases=cases, write=slightly_other_weights)
        assert all_files(out) == before
        assert names(tmp_path) == ["bundle"]

    def test_logits_that_are_no_numbers_fail_the_export(self, model, cases, tmp_path):
        def nowhere(_):
            return lambda hu: torch.full((len(hu), 2, *hu.shape[2:]), float("nan"))

        with pytest.raises(ModelError, match="gave values that are not numbers"):
            export(model, tmp_path / "bundle", cases=cases, open=nowhere)

    def test_masks_that_differ_are_told_by_their_dice(self):
        volume = np.zeros((16, 17, 18), np.int16)
        volume[:, :, 9:] = 100
        sure, less = (
            lambda hu, at=at: torch.cat([at - hu, hu - at], dim=1) for at in (50.0, -50.0)
        )
        found = compared(sure, less, Sample(volume, "halves"), window_zyx=None, smallest_side=16)
        # half the volume is liver, and then all of it: 2·1/(1+2)
        assert found.dice == pytest.approx(2 / 3)
        assert found.liver_voxels == volume.size // 2
        assert found.probability == pytest.approx(1)

    def test_the_comparison_records_what_was_tried_and_what_is_allowed(self, models):
        record = parity(models / "bundle")
        assert record["found"]["origin"] == "a validation case"
        assert record["found"]["probability"] < 1e-5
        assert record["allowed"]["probability"] == 1e-4
        assert [one["shape"] for one in record["found"]["random"]] == [
            [1, 1, 16, 19, 23],
            [2, 1, 21, 16, 18],
            [1, 1, 33, 18, 27],
        ]
        assert {"torch", "onnx", "onnxruntime"} == set(record["versions"])


class TestSample:
    def of(self, cases, tmp_path, **fields):
        return sample_of(cases, load_checkpoint(write_model(tmp_path / "some.pt", **fields)))

    @pytest.mark.parametrize(
        ("split", "origin"),
        [
            ({}, "a validation case"),
            ({"validation": []}, "a test case"),
            ({"validation": [], "test": []}, "a case of the store that neither"),
        ],
    )
    def test_a_validation_case_comes_before_a_test_case(self, cases, tmp_path, split, origin):
        sample = self.of(cases, tmp_path, split={**SPLIT, **split})
        assert sample.origin.startswith(origin)

    def test_the_sample_is_a_window_and_a_half_deep_and_lies_in_the_case_around_its_liver(
        self, cases, tmp_path
    ):
        sample = self.of(cases, tmp_path)
        store = CaseStore(cases)
        volume, liver = store.image("case-5"), store.mask("case-5")
        assert sample.volume.shape == (20, 16, 16)  # the case has 20 slices, 24 are wanted
        views = np.lib.stride_tricks.sliding_window_view(volume, (20, 16, 16))
        places = np.argwhere((views == sample.volume).all(axis=(3, 4, 5)))
        [[z, y, x]] = places.tolist()
        assert liver[z : z + 20, y : y + 16, x : x + 16].sum() >= 0.9 * liver.sum()

    def test_the_sample_of_a_model_without_a_window_is_the_whole_case(self, cases, tmp_path):
        sample = self.of(cases, tmp_path, train={"patch_zyx": None})
        np.testing.assert_array_equal(sample.volume, CaseStore(cases).image("case-5"))

    def test_the_sample_without_a_store_is_a_synthetic_ct_and_says_so(self, tmp_path):
        sample = self.of(tmp_path / "none", tmp_path)
        assert sample.origin == "a synthetic CT (there is no store)"
        assert sample.volume.dtype == np.int16
        assert sample.volume.shape == (24, 16, 16)
        assert 0 < np.median(sample.volume) < 250  # around the liver

    def test_a_store_prepared_otherwise_is_not_used(self, cases, tmp_path):
        sample = self.of(cases, tmp_path, preprocess={"margin_mm": 7.0})
        assert sample.origin == "a synthetic CT (the store is prepared otherwise)"

    def test_a_store_of_another_format_is_used(self, cases, tmp_path):
        sample = self.of(cases, tmp_path, preprocess={"format": "hdf5"})
        assert sample.origin == "a validation case"

    def test_an_empty_store_is_refused(self, tmp_path):
        write_manifest(tmp_path / "empty", Manifest({}, PREPROCESS))
        with pytest.raises(StoreError, match="holds no case"):
            self.of(tmp_path / "empty", tmp_path)


class TestPlace:
    def test_an_earlier_bundle_is_replaced_whole(self, models, model, cases, tmp_path):
        out = shutil.copytree(models / "bundle", tmp_path / "bundle")
        (out / "example.py").write_text("-")
        export(write_model(model, network(seed=3)), out, cases=cases)
        assert names(out) == FILES
        assert read_bundle(out).digest != read_bundle(models / "bundle").digest

    def test_a_folder_with_other_things_in_it_is_left_alone(self, model, tmp_path):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("all of it")
        with pytest.raises(ModelError, match="would be deleted"):
            export(model, tmp_path / "mine")
        assert names(tmp_path / "mine") == ["thesis.txt"]

    def test_a_bundle_with_other_things_in_it_is_left_alone(self, models, model, tmp_path):
        out = shutil.copytree(models / "bundle", tmp_path / "bundle")
        (out / "patients.csv").write_text("all of them")
        with pytest.raises(ModelError, match="would be deleted"):
            export(model, out)
        assert (out / "patients.csv").is_file()

    def test_a_model_whose_preparation_nobody_knows_is_refused(self, model, tmp_path):
        checkpoint = load_checkpoint(model)
        save_checkpoint(model, replace(checkpoint, preprocess={"crop": "what"}))
        with pytest.raises(ParamsError, match="parameters this liver3d does not know"):
            export(model, tmp_path / "bundle")

    def test_a_file_is_left_alone(self, model, tmp_path):
        with pytest.raises(ModelError, match="is a file"):
            export(model, model)
        assert load_checkpoint(model).epoch == 2

    def test_the_same_model_gives_the_same_graph(self, models, cases, tmp_path):
        export(models / "best.pt", tmp_path / "again", cases=cases)
        assert read_bundle(tmp_path / "again").digest == read_bundle(models / "bundle").digest


class TestCard:
    def test_the_model_card_has_its_fields_and_headings_and_says_not_for_clinical_use(self, models):
        text = (models / "bundle" / "README.md").read_text(encoding="utf-8")
        headings = [line[3:] for line in text.splitlines() if line.startswith("## ")]
        assert headings == [
            "Model details",
            "Intended use",
            "Training data",
            "Evaluation",
            "Parity with the trained network",
            "Limitations",
            "How to use",
        ]
        assert "**Not for clinical use.**" in text

    def test_the_model_card_counts_patients_and_cases_by_role_and_gives_ranges(self, models):
        text = card(models / "bundle")
        assert "| patients | 5 | 1 | 2 | | cases | 5 | 1 | 2 |" in text
        assert "5.00 to 5.00, 4.00 to 4.00, 3.00 to 3.00 mm between voxel centres" in text

    def test_a_store_that_changed_since_says_nothing_of_the_training(self, model, cases):
        checkpoint = load_checkpoint(model)
        digest = CaseStore(cases).manifest.digest
        assert training_cases(cases, checkpoint) is None
        assert training_cases(cases, replace(checkpoint, data_digest=digest)).counts["train"] == 5

    def test_the_model_card_without_the_training_data_counts_patients_alone(self, other):
        assert "| patients | 2 | 1 | 0 |" in card(other)
        assert "| cases |" not in card(other)
        assert "was not at hand" in card(other)

    def test_nothing_in_a_bundle_names_a_case_or_a_patient(self, models):
        for path, content in all_files(models / "bundle").items():
            assert b"case-" not in content, path

    def test_the_model_card_gives_the_validation_dice_of_the_exported_epoch(self, models):
        assert "mean Dice 0.8750, lowest 0.8750, of 1 cases" in card(models / "bundle")

    def test_the_model_card_of_weights_that_were_not_validated_gives_no_dice(self, other):
        assert "These weights have no validation Dice." in card(other)

    def test_the_model_card_without_metrics_claims_no_test_score(self, models):
        assert "No test scores were given" in card(models / "bundle")

    def test_metrics_are_quoted_as_given(self, other):
        text = card(other)
        assert "as they were given at export; nothing in them proves" in text
        assert "7 cases, on the CTs' own grids" in text
        assert f"| dice | 0.956 | 0.960 | {DASH} | {DASH} | {DASH} | 0 |" in text
        assert f"| hd95_mm |{5 * f' {DASH} |'} 7 |" in text

    def test_an_interval_of_few_cases_in_older_scores_is_left_out(self, model, tmp_path):
        dice = {"mean": 0.65, "median": 0.66, "ci95_low": 0.609, "ci95_high": 0.696}
        (tmp_path / "metrics.json").write_text(json.dumps({"cases": 3, "dice": dice}))
        export(model, tmp_path / "bundle", metrics=tmp_path / "metrics.json")
        assert "| dice | 0.650 | 0.660 |" in card(tmp_path / "bundle")
        assert "0.609" not in card(tmp_path / "bundle")

    @pytest.mark.parametrize("text", ["", "[1]", '{"cases": 3}'])
    def test_what_is_no_summary_of_scores_is_refused(self, model, tmp_path, text):
        (tmp_path / "metrics.json").write_text(text)
        with pytest.raises(ModelError, match=r"metrics\.json"):
            export(model, tmp_path / "bundle", metrics=tmp_path / "metrics.json")
        assert names(tmp_path) == ["best.pt", "metrics.json"]

    def test_a_model_of_synthetic_cts_says_so(self, other):
        assert "this model has never seen a human being" in card(other)

    def test_of_other_models_it_does_not(self, models):
        assert "synthetic" not in card(models / "bundle")

    def test_the_tables_and_blocks_of_the_model_card_are_whole(self, models):
        lines = (models / "bundle" / "README.md").read_text(encoding="utf-8").splitlines()
        assert not [line for line in lines if "{" in line or "None" in line]
        assert sum(line.startswith("```") for line in lines) % 2 == 0


@pytest.mark.parametrize("patch_zyx", [[17, 33, 18], None], ids=["window", "at once"])
def test_the_example_gives_what_predicting_gives(patch_zyx, cases, tmp_path):
    model = write_model(tmp_path / "best.pt", train={"patch_zyx": patch_zyx})
    export(model, tmp_path / "bundle", cases=cases)
    bundle = read_bundle(tmp_path / "bundle")
    volume = CaseStore(cases).image("case-1")[:, :15]
    window = patch_zyx and tuple(patch_zyx)
    where = {"window_zyx": window, "overlap": 0.5, "device": CPU}
    expected = liver_probability(bundle.network(CPU), volume, **where)
    spec = importlib.util.spec_from_file_location("example", tmp_path / "bundle" / "example.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    np.testing.assert_allclose(example.liver_probability(volume), expected, atol=1e-5)


@pytest.fixture(scope="module", params=["trilinear", "transposed"])
def program(request, cases, tmp_path_factory):
    """A network, and its bundle as torch's exported program."""
    folder = tmp_path_factory.mktemp("torch")
    made = network(upsampling=request.param)
    train = {"upsampling": request.param, "patch_zyx": [32, 33, 34]}
    model = write_model(folder / "best.pt", made, train=train)
    export(model, folder / "bundle", cases=cases, form=FORMS["torch"])
    return made, folder / "bundle"


@pytest.mark.slow
class TestTorch:
    """torch's exported program; tracing takes seconds."""

    def test_an_exported_program_takes_any_sides_from_32_and_gives_the_networks_logits(
        self, program
    ):
        made, bundle = program
        loaded = open_program(bundle / "model.pt2")
        for shape in ((1, 1, 32, 41, 37), (3, 1, 35, 32, 63)):
            hu = 500 * torch.randn(shape)
            with torch.inference_mode():
                torch.testing.assert_close(loaded(hu), OnHu(made, (-160, 240))(hu))

    def test_the_bundle_of_a_program_is_complete_and_its_card_shows_how_to_load_it(self, program):
        _, bundle = program
        assert names(bundle) == ["README.md", "model.pt2", "parity.json", "preparation.json"]
        assert 'torch.export.load("model.pt2")' in card(bundle)
        assert parity(bundle)["found"]["random"][0]["shape"] == [1, 1, 32, 35, 39]

    def test_nothing_in_an_exported_program_names_a_place_on_the_machine(self, program, repo):
        with zipfile.ZipFile(program[1] / "model.pt2") as archive:
            for name in archive.namelist():
                assert str(repo).encode() not in archive.read(name), name
                assert b"site-packages" not in archive.read(name), name

    def test_liver3d_does_not_run_it(self, program):
        with pytest.raises(ModelError, match="--to onnx"):
            read_bundle(program[1])


def test_a_model_of_windows_too_small_for_torch_is_refused(model, tmp_path):
    with pytest.raises(ParamsError, match="takes 32 voxels on every axis or more"):
        export(model, tmp_path / "bundle", form=FORMS["torch"])


def test_export_without_onnx_names_the_fix_and_leaves_nothing(model, cases, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ParamsError, match="onnx") as caught:
        export(model, tmp_path / "bundle", cases=cases)
    assert "pip install" in caught.value.fix
    assert names(tmp_path) == ["best.pt"]


def test_a_store_of_one_slice_thick_cases_serves_too(tmp_path):
    cases = write_balls(tmp_path / "thin", count=1, shapes_zyx=((3, 40, 38),))
    model = write_model(tmp_path / "best.pt", split={**SPLIT, "train": ["case-0"]})
    export(model, tmp_path / "bundle", cases=cases)
    assert parity(tmp_path / "bundle")["found"]["shape_zyx"] == [3, 16, 16]
