"""Real scans of five sources through the commands; they skip where the scans are not there."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.reader import CaseStore
from pipeline.evaluate import main as evaluate
from pipeline.predict import main as predict
from pipeline.preprocess import main as preprocess
from pipeline.train import main as train
from stages.evaluate.overlap import overlap
from stages.evaluate.restore import restore_mask
from stages.preprocess.read import as_hu, read_source

pytestmark = pytest.mark.realct
CASE_IDS = ["abdomen-ce", "lits-64", "slab-20", "slab-3", "torso-3mm"]
LIVER_ML = {
    "abdomen-ce": 1418,
    "lits-64": 13.6 + 0.5,  # liver and its lesions, 6375 voxels
    "slab-20": 699,
    "slab-3": 70,
    "torso-3mm": 1123,
}


@pytest.fixture
def prepare(realct, run_command, tmp_path):
    """Prepare the five cases with a parameter file; gives how it ended, store and problems."""

    def run(params):
        places = ("--src", realct / "LiverDataset", "--out", tmp_path / "cases")
        ended = run_command(preprocess, *places, "--params", params, "--workers", 2)
        problems = json.loads((tmp_path / "problems.json").read_text(encoding="utf-8"))["problems"]
        return ended, CaseStore(tmp_path / "cases"), problems

    return run


@pytest.mark.parametrize("preset", [None, "liver"])
def test_all_five_are_prepared_and_the_odd_ones_doubted(prepare, params_file, preset):
    ended, store, problems = prepare(params_file(preset=preset))
    assert ended.exit_code == 0, ended.output
    assert store.case_ids == CASE_IDS
    assert {(p["case_id"], p["rule"]) for p in problems} == {
        ("lits-64", "liver-volume"),  # its spacing is not its own
        ("slab-3", "liver-volume"),  # three slices of a liver
    }
    for case_id in CASE_IDS:
        info = store.info(case_id)
        assert info.liver_ml == pytest.approx(LIVER_ML[case_id], rel=0.01)
        # a liver has 40 to 190 HU, with or without contrast; fat, air or bone would be far off
        assert 40 < np.median(store.image(case_id)[store.mask(case_id) == 1]) < 190
        # what is left after cropping and resizing is still the whole liver
        kept = store.mask(case_id).sum() * info.prepared_grid.voxel_ml
        assert kept == pytest.approx(info.liver_ml, rel=0.1)


def test_slices_no_scan_has_explain_all_five_and_exit_2(prepare, params_file):
    ended, _, problems = prepare(params_file(preset="notebook"))
    assert ended.exit_code == 2
    assert "no case can be used, 5 are skipped" in ended.output
    assert "Traceback" not in ended.output
    assert [problem["case_id"] for problem in problems] == CASE_IDS
    assert "has 78 slices; crop: slices asks for [250, 300)" in problems[0]["fact"]


def test_the_notebook_with_slices_they_have_prepares_those_that_have_them(prepare, params_file):
    params = params_file({"preprocess.slices": [20, 70]}, preset="notebook")
    ended, store, problems = prepare(params)
    assert ended.exit_code == 0
    assert store.case_ids == ["abdomen-ce", "torso-3mm"]
    assert store.image("abdomen-ce").shape == (50, 96, 96)
    assert {p["case_id"] for p in problems if p["severity"] == "skipped"} == {
        "lits-64",
        "slab-20",
        "slab-3",
    }


def test_a_label_that_only_looks_like_the_cts_is_refused(
    realct, run_command, params_file, tmp_path
):
    # same size, another direction: laid over by index, the "liver" has -75 HU
    dicom, src = realct / "dicom", tmp_path / "src"
    ct = realct / "LiverDataset/image/slab-20/slab-20.nii.gz"
    label = dicom / "series-jpeg2000-multilabel.nii.gz"
    for folder, file in (("image", ct), ("label", label)):
        (src / folder).mkdir(parents=True)
        (src / folder / "1.nii.gz").write_bytes(file.read_bytes())
    params = params_file({"preprocess.liver_values": [5]})
    ended = run_command(preprocess, "--src", src, "--out", tmp_path / "cases", "--params", params)
    assert ended.exit_code == 2
    assert "is not on the grid of 1.nii.gz" in ended.output
    assert "direction (x, y, z) is" in ended.output


def test_a_flipped_ct_is_turned_as_simpleitk_turns_it(realct, prepare, params_file):
    others = [case_id for case_id in CASE_IDS if case_id != "torso-3mm"]
    kept = {"preprocess.crop": "none", "preprocess.grid": "keep"}
    _, store, _ = prepare(params_file({**kept, "data.exclude": others}))
    path = realct / "LiverDataset/image/torso-3mm/torso-3mm.nii.gz"
    assert store.info("torso-3mm").orientation == read_source(path).orientation != "LPS"
    turned = sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS"))
    np.testing.assert_array_equal(store.image("torso-3mm"), turned)


# in plane 96·96 as in the notebook; a fifth of the voxels along each side of a 512·512 slice
NOTEBOOK_GRID = {
    "preprocess.crop": "none",
    "preprocess.grid": "shape",
    "preprocess.shape_zyx": [None, 96, 96],
}


@pytest.mark.parametrize(("changes", "least_dice"), [({}, 0.99), (NOTEBOOK_GRID, 0.97)])
def test_the_perfect_mask_comes_back_to_the_source_grid(
    realct, prepare, params_file, changes, least_dice
):
    _, store, _ = prepare(params_file(changes, preset="liver"))
    for case_id in CASE_IDS:
        if case_id == "lits-64":  # at its false spacing a voxel of 1.5 mm holds twelve of its own
            continue
        info, truth = store.info(case_id), store.source_mask(case_id)
        restored = restore_mask(
            store.mask(case_id).astype(np.float32),
            box=info.box,
            source_grid=info.source_grid,
            orientation=info.orientation,
        )
        assert overlap(restored, truth).dice >= least_dice, case_id
        [path] = (realct / "LiverDataset/image" / case_id).iterdir()
        hu = as_hu(read_source(path))
        # the border's voxels differ, and they are partly fat; a shifted mask would be far off
        assert hu[restored == 1].mean() == pytest.approx(hu[truth == 1].mean(), abs=1.5)


@pytest.mark.slow
def test_a_short_training_puts_masks_on_the_liver(
    realct, prepare, params_file, run_command, tmp_path
):
    split = tmp_path / "split.json"
    roles = {"train": ["abdomen-ce", "slab-20"], "validation": ["slab-3"], "test": ["torso-3mm"]}
    split.write_text(json.dumps(roles), encoding="utf-8")
    params = params_file(
        {
            "data.exclude": ["lits-64"],
            "data.split_file": str(split),
            "preprocess.spacing_zyx_mm": [6.0, 6.0, 6.0],
            "train.patch_zyx": [24, 32, 48],
            "train.patches_per_case": 10,
            "train.epochs": 15,
            "train.validate_every": 15,
            "evaluate.cases": "all",
        }
    )
    prepare(params)
    places = ("--cases", tmp_path / "cases", "--params", params, "--device", "cpu")
    models = tmp_path / "models"
    run_command(train, *places, "--out", models, "--curves", tmp_path / "training")
    ended = run_command(evaluate, *places, "--models", models, "--out", tmp_path / "reports")
    assert ended.exit_code == 0, ended.output
    scores = dict(
        line.split(",", 1) for line in (tmp_path / "reports/cases.csv").read_text().splitlines()
    )
    assert set(scores) >= {"abdomen-ce", "slab-20", "slab-3", "torso-3mm"}
    mask = sitk.ReadImage(str(tmp_path / "reports/predictions/abdomen-ce.nii.gz"))
    [label_path] = (realct / "LiverDataset/label/abdomen-ce").iterdir()
    truth = sitk.GetArrayFromImage(sitk.ReadImage(str(label_path)))
    assert overlap((sitk.GetArrayFromImage(mask) > 0), (truth > 0)).dice > 0.8
    [ct] = (realct / "LiverDataset/image/torso-3mm").iterdir()
    out = tmp_path / "mask.nii.gz"
    ended = run_command(predict, "--model", models / "best.pt", "--ct", ct, "--out", out)
    assert ended.exit_code == 0, ended.output
    image, mask = sitk.ReadImage(str(ct)), sitk.ReadImage(str(out))
    assert mask.GetSize() == image.GetSize()
    assert mask.GetSpacing() == image.GetSpacing()
    assert mask.GetOrigin() == image.GetOrigin()
    assert mask.GetDirection() == image.GetDirection()
