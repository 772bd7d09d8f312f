"""Data sets as they are given out: each is recognised, and all its files are accounted for."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import SourceError
from stages.preprocess.layouts.detect import LAYOUTS, NAMES, choose
from test_scan import DICOM, by_path, scan, unexplained

LABELS = {"background": 0, "liver": 1, "whole": [1, 2]}
LIVER = {"liver": ()}


@dataclass(frozen=True)
class Example:
    """A data set of two cases, as files below its folder, and what is to be found in it."""

    layout: str
    files: dict[str, bytes | str]
    cases: dict[str, tuple[str, str]]  # CT and label by id
    names: dict | None = None
    ignored: set[str] = field(default_factory=set)


def bare(*paths):
    return dict.fromkeys(paths, b"...")


def series(*folders):
    return {f"{folder}/{number}.dcm": DICOM for folder in folders for number in (1, 2)}


EXAMPLES = {
    "csv": Example(
        "list",
        {
            "cases.csv": "ct,label,case_id\nscans/a.nii,masks/a.mha,1\nscans/b.nii,masks/b.mha,\n",
            **bare("scans/a.nii", "scans/b.nii", "masks/a.mha", "masks/b.mha", "scans/c.nii"),
        },
        {"1": ("scans/a.nii", "masks/a.mha"), "b": ("scans/b.nii", "masks/b.mha")},
        ignored={"cases.csv", "scans/c.nii"},
    ),
    "json": Example(
        "list",
        {
            "cases.json": json.dumps(
                [
                    {"ct": "x/ct", "label": "x/l.nii", "case_id": 7},
                    {"ct": "./y.nii", "label": "l.nii"},
                ]
            ),
            **series("x/ct"),
            **bare("x/l.nii", "y.nii", "l.nii"),
        },
        {"7": ("x/ct", "x/l.nii"), "y": ("y.nii", "l.nii")},
        ignored={"cases.json"},
    ),
    "nnunet": Example(
        "nnunet",
        {
            "dataset.json": json.dumps({"labels": LABELS, "file_ending": ".nii.gz"}),
            **bare("imagesTr/liver_0_0000.nii.gz", "imagesTr/liver_1_0000.nii.gz"),
            **bare("labelsTr/liver_0.nii.gz", "labelsTr/liver_1.nii.gz"),
            **bare("imagesTs/liver_2_0000.nii.gz", "labelsTs/liver_2.nii.gz"),
        },
        {
            "liver_0": ("imagesTr/liver_0_0000.nii.gz", "labelsTr/liver_0.nii.gz"),
            "liver_1": ("imagesTr/liver_1_0000.nii.gz", "labelsTr/liver_1.nii.gz"),
        },
        {"liver": (1,), "whole": (1, 2)},
        {"dataset.json", "imagesTs", "labelsTs"},
    ),
    "nnunet without dataset.json": Example(
        "nnunet",
        bare("imagesTr/a_0000.mha", "labelsTr/a.mha", "imagesTr/b_0000.nrrd", "labelsTr/b.nrrd"),
        {
            "a": ("imagesTr/a_0000.mha", "labelsTr/a.mha"),
            "b": ("imagesTr/b_0000.nrrd", "labelsTr/b.nrrd"),
        },
    ),
    "nnunet with a dataset map": Example(
        "nnunet",
        {
            "dataset.json": json.dumps(
                {
                    "labels": LABELS,
                    "dataset": {
                        "a": {"images": ["raw/x.nii"], "label": "raw/y.nii"},
                        "b": {"images": ["./z.nii"], "label": "w.nii"},
                    },
                }
            ),
            **bare("raw/x.nii", "raw/y.nii", "z.nii", "w.nii", "raw/other.nii"),
        },
        {"a": ("raw/x.nii", "raw/y.nii"), "b": ("z.nii", "w.nii")},
        {"liver": (1,), "whole": (1, 2)},
        {"dataset.json", "raw/other.nii"},
    ),
    "nnunet version 1": Example(
        "nnunet",
        {
            "dataset.json": json.dumps(
                {
                    "labels": {"0": "background", "1": "liver"},
                    "training": [{"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
                }
            ),
            **bare("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
            **bare("imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"),
        },
        {
            "a": ("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"),
            "b": ("imagesTr/b_0000.nii.gz", "labelsTr/b.nii.gz"),
        },
        {"liver": (1,)},
        {"dataset.json"},
    ),
    "msd": Example(
        "msd",
        {
            "dataset.json": json.dumps(
                {
                    "labels": {"0": "background", "1": "liver", "2": "cancer"},
                    "training": [
                        {"image": f"./imagesTr/{each}", "label": f"./labelsTr/{each}"}
                        for each in ("liver_0000.nii.gz", "liver_1.nii.gz")
                    ],
                    "test": ["./imagesTs/liver_2.nii.gz"],
                }
            ),
            **bare("imagesTr/liver_0000.nii.gz", "imagesTr/liver_1.nii.gz"),
            **bare("labelsTr/liver_0000.nii.gz", "labelsTr/liver_1.nii.gz"),
            **bare("imagesTr/._liver_1.nii.gz", "imagesTr/liver_9.nii.gz"),
            **bare("imagesTs/liver_2.nii.gz"),
        },
        {
            "liver_0000": ("imagesTr/liver_0000.nii.gz", "labelsTr/liver_0000.nii.gz"),
            "liver_1": ("imagesTr/liver_1.nii.gz", "labelsTr/liver_1.nii.gz"),
        },
        {"liver": (1,), "cancer": (2,)},
        {"dataset.json", "imagesTs", "imagesTr/._liver_1.nii.gz", "imagesTr/liver_9.nii.gz"},
    ),
    "msd without dataset.json": Example(
        "msd",
        bare("imagesTr/a.nii", "labelsTr/a.nii", "imagesTr/b.nii", "labelsTr/b.nii"),
        {"a": ("imagesTr/a.nii", "labelsTr/a.nii"), "b": ("imagesTr/b.nii", "labelsTr/b.nii")},
    ),
    "chaos": Example(
        "chaos",
        {
            **series("CT/1/DICOM_anon", "CT/10/DICOM_anon", "MR/1/T1DUAL/DICOM_anon/InPhase"),
            **bare("CT/1/Ground/0.png", "CT/1/Ground/1.png", "CT/10/Ground/0.png"),
            **bare("MR/1/T1DUAL/Ground/0.png"),
        },
        {
            "1": ("CT/1/DICOM_anon", "CT/1/Ground"),
            "10": ("CT/10/DICOM_anon", "CT/10/Ground"),
        },
        LIVER,
        {"MR"},
    ),
    "chaos as it is unpacked": Example(
        "chaos",
        {
            **series("Train_Sets/CT/1/DICOM_anon", "Train_Sets/CT/2/DICOM_anon"),
            **bare("Train_Sets/CT/1/Ground/0.png", "Train_Sets/CT/2/Ground/0.png"),
            **series("Train_Sets/MR/3/T2SPIR/DICOM_anon", "Test_Sets/CT/4/DICOM_anon"),
        },
        {
            "1": ("Train_Sets/CT/1/DICOM_anon", "Train_Sets/CT/1/Ground"),
            "2": ("Train_Sets/CT/2/DICOM_anon", "Train_Sets/CT/2/Ground"),
        },
        LIVER,
        {"Train_Sets/MR", "Test_Sets"},
    ),
    "chaos, its cases alone": Example(
        "chaos",
        {**series("1/DICOM_anon", "2/DICOM_anon"), **bare("1/Ground/0.png", "2/Ground/0.png")},
        {"1": ("1/DICOM_anon", "1/Ground"), "2": ("2/DICOM_anon", "2/Ground")},
        LIVER,
    ),
    "ircadb": Example(
        "ircadb",
        {
            **series("3Dircadb1.1/PATIENT_DICOM", "3Dircadb1.1/MASKS_DICOM/liver"),
            **series("3Dircadb1.1/MASKS_DICOM/bone", "3Dircadb1.1/LABELLED_DICOM"),
            **series("3Dircadb1.2/PATIENT_DICOM/PATIENT_DICOM"),
            **series("3Dircadb1.2/MASKS_DICOM/MASKS_DICOM/liver"),
            **series("3Dircadb1.2/MASKS_DICOM/MASKS_DICOM/skin"),
            **bare("3Dircadb1.2/MESHES_VTK/MESHES_VTK/liver.vtk", "3Dircadb1.2/PATIENT_DICOM.zip"),
        },
        {
            "3Dircadb1.1": ("3Dircadb1.1/PATIENT_DICOM", "3Dircadb1.1/MASKS_DICOM/liver"),
            "3Dircadb1.2": (
                "3Dircadb1.2/PATIENT_DICOM/PATIENT_DICOM",
                "3Dircadb1.2/MASKS_DICOM/MASKS_DICOM/liver",
            ),
        },
        LIVER,
        {
            "3Dircadb1.1/MASKS_DICOM/bone",
            "3Dircadb1.1/LABELLED_DICOM",
            "3Dircadb1.2/MASKS_DICOM/MASKS_DICOM/skin",
            "3Dircadb1.2/MESHES_VTK",
            "3Dircadb1.2/PATIENT_DICOM.zip",
        },
    ),
    "totalsegmentator": Example(
        "totalsegmentator",
        bare(
            "meta.csv",
            *("s0000/ct.nii.gz", "s0000/segmentations/liver.nii.gz"),
            *("s0001/ct.nii.gz", "s0001/segmentations/liver.nii.gz"),
            *("s0001/segmentations/spleen.nii.gz", "s0001/segmentations/aorta.nii.gz"),
        ),
        {
            "s0000": ("s0000/ct.nii.gz", "s0000/segmentations/liver.nii.gz"),
            "s0001": ("s0001/ct.nii.gz", "s0001/segmentations/liver.nii.gz"),
        },
        LIVER,
        {"meta.csv", "s0001/segmentations"},
    ),
    "lits": Example(
        "lits",
        bare(
            *("Training Batch 1/volume-0.nii", "Training Batch 1/segmentation-0.nii"),
            *("Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii"),
            "test-volume-0.nii",
        ),
        {
            "0": ("Training Batch 1/volume-0.nii", "Training Batch 1/segmentation-0.nii"),
            "28": ("Training Batch 2/volume-28.nii", "Training Batch 2/segmentation-28.nii"),
        },
        ignored={"test-volume-0.nii"},
    ),
    "lits on Kaggle": Example(
        "lits",
        bare(
            *("volume_pt1/volume-0.nii", "segmentations/segmentation-0.nii"),
            *("volume_pt2/volume-11.nii.gz", "segmentations/segmentation-11.mha"),
        ),
        {
            "0": ("volume_pt1/volume-0.nii", "segmentations/segmentation-0.nii"),
            "11": ("volume_pt2/volume-11.nii.gz", "segmentations/segmentation-11.mha"),
        },
    ),
    "image-label": Example(
        "image-label",
        {**series("image/a"), **bare("label/a.nii.gz", "image/b.nii", "label/b.mha", "README.md")},
        {"a": ("image/a", "label/a.nii.gz"), "b": ("image/b.nii", "label/b.mha")},
        ignored={"README.md"},
    ),
    "folders as in FLARE": Example(
        "folders",
        bare(
            *("images/FL_Tr_0001_0000.nii.gz", "images/FL_Tr_0002_0000.nii.gz"),
            *("labels/FL_Tr_0001.nii.gz", "labels/FL_Tr_0002.nii.gz", "readme.txt"),
        ),
        {
            "FL_Tr_0001": ("images/FL_Tr_0001_0000.nii.gz", "labels/FL_Tr_0001.nii.gz"),
            "FL_Tr_0002": ("images/FL_Tr_0002_0000.nii.gz", "labels/FL_Tr_0002.nii.gz"),
        },
        ignored={"readme.txt"},
    ),
    "folders as in BTCV": Example(
        "folders",
        bare(
            *("RawData/Training/img/img0001.nii.gz", "RawData/Training/label/label0001.nii.gz"),
            *("RawData/Training/img/img0002.nii.gz", "RawData/Training/label/label0002.nii.gz"),
            "RawData/Testing/img/img0061.nii.gz",
        ),
        {
            number: (
                f"RawData/Training/img/img{number}.nii.gz",
                f"RawData/Training/label/label{number}.nii.gz",
            )
            for number in ("0001", "0002")
        },
        ignored={"RawData/Testing/img/img0061.nii.gz"},
    ),
    "folders as in KiTS": Example(
        "folders",
        bare(
            *("data/case_00000/imaging.nii.gz", "data/case_00000/segmentation.nii.gz"),
            *("data/case_00001/imaging.nii.gz", "data/case_00001/segmentation.nii.gz"),
            "data/kits.json",
        ),
        {
            case: (f"data/{case}/imaging.nii.gz", f"data/{case}/segmentation.nii.gz")
            for case in ("case_00000", "case_00001")
        },
        ignored={"data/kits.json"},
    ),
    "folders of a hospital": Example(
        "folders",
        {
            **series("P001/DICOM", "P002/DICOM/S1"),
            **bare("P001/liver.nrrd", "P002/liver.nrrd", "P002/spleen.nrrd"),
        },
        {"P001": ("P001/DICOM", "P001/liver.nrrd"), "P002": ("P002/DICOM", "P002/liver.nrrd")},
        ignored={"P002/spleen.nrrd"},
    ),
}


def lay_out(src, files):
    """Write files below a folder; one whose place is taken by another file is left out."""
    for path, content in files.items():
        target = src / path
        if target.is_dir() or any(parent.is_file() for parent in target.parents):
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
    return src


def remove(path):
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.fixture(scope="module", params=EXAMPLES.values(), ids=EXAMPLES.keys())
def example(request):
    return request.param


@pytest.fixture
def src(tmp_path, example):
    """The example's folder."""
    return lay_out(tmp_path / "src", example.files)


class TestEveryLayout:
    def test_every_layout_is_recognised_as_itself_and_as_no_other(self, src, example):
        layout, reason = choose(src, "auto")
        assert layout.name == example.layout
        assert reason.startswith(f"{example.layout}: ")
        assert "would fit too" not in reason

    @pytest.mark.parametrize("forced", [False, True])
    def test_the_cases_of_every_layout_are_found(self, src, example, forced):
        result = scan(src, layout=example.layout if forced else "auto")
        found = {case.case_id: (case.ct, case.label) for case in result.cases}
        assert found == {key: (src / ct, src / label) for key, (ct, label) in example.cases.items()}
        assert result.layout == example.layout

    def test_the_cases_of_every_layout_have_names_patients_and_a_root(self, src, example):
        for case in scan(src, layout="auto").cases:
            assert case.names == example.names
            assert case.patient_id == case.case_id
            assert case.root == src

    def test_all_other_files_are_ignored_by_name(self, src, example):
        result = scan(src, layout="auto")
        assert by_path(result, src).keys() == example.ignored
        assert {problem.severity for problem in result.problems} <= {"ignored"}
        assert unexplained(result, src) == []

    def test_a_case_without_its_label_is_skipped(self, src, example):
        case_id, (_, label) = next(iter(example.cases.items()))
        remove(src / label)
        result = scan(src, layout=example.layout)
        skipped = {(p.rule, p.case_id) for p in result.problems if p.severity == "skipped"}
        assert skipped == {("label_missing", case_id)}
        assert len(result.cases) == 1
        assert unexplained(result, src) == []

    def test_a_case_without_its_ct_is_skipped(self, src, example):
        case_id, (ct, _) = next(iter(example.cases.items()))
        remove(src / ct)
        result = scan(src, layout=example.layout)
        skipped = {(p.rule, p.case_id) for p in result.problems if p.severity == "skipped"}
        assert skipped == {("ct_missing", case_id)}
        assert len(result.cases) == 1
        assert unexplained(result, src) == []

    def test_an_excluded_case_is_left_out_with_all_its_files(self, src, example):
        case_id, (ct, label) = next(iter(example.cases.items()))
        result = scan(src, [case_id], layout="auto")
        assert case_id not in [case.case_id for case in result.cases]
        severities = by_path(result, src)
        assert severities[ct] == ("ignored", "excluded")
        assert severities[label] == ("ignored", "case_left_out")
        assert unexplained(result, src) == []

    def test_a_data_set_one_folder_further_down_is_named_as_the_one_to_use(
        self, src, tmp_path, example
    ):
        if example.layout in ("lits", "folders"):
            pytest.skip("is found at any depth, or at several")
        (tmp_path / "notes").mkdir()
        with pytest.raises(SourceError) as caught:
            scan(tmp_path, layout="auto")
        assert caught.value.fix == f"use {src} as --src"

    @settings(max_examples=15)
    @given(data=st.data())
    def test_every_file_is_a_cases_or_explained(self, tmp_path_factory, example, data):
        src = lay_out(tmp_path_factory.mktemp("src"), example.files)
        folders = sorted({str(parent) for path in example.files for parent in Path(path).parents})
        names = [*(Path(path).name for path in example.files), "x", "x.nii.gz", ".x", "x;y.mha"]
        places = st.builds(
            lambda folder, deep, name: f"{folder}{deep}/{name}",
            st.sampled_from(folders),
            st.sampled_from(["", "/deep", "/.hidden", "/__MACOSX/deep"]),
            st.sampled_from(sorted(names)),
        )
        extra = data.draw(st.dictionaries(places, st.sampled_from([b"", DICOM]), max_size=4))
        lay_out(src, {path: text for path, text in extra.items() if not (src / path).exists()})
        exclude = data.draw(st.sets(st.sampled_from(sorted(example.cases)), max_size=1))
        result = scan(src, exclude, layout=example.layout)
        assert unexplained(result, src) == []
        assert exclude.isdisjoint(case.case_id for case in result.cases)


class TestChoosing:
    def test_every_layout_has_an_example_here_and_a_word(self):
        words = {example.layout for example in EXAMPLES.values()}
        assert {"auto", *words} == {"auto", *(layout.name for layout in LAYOUTS)} == set(NAMES)

    def test_what_else_would_fit_is_said(self, tmp_path):
        lay_out(tmp_path, bare("image/volume-1.nii", "label/segmentation-1.nii"))
        layout, reason = choose(tmp_path, "auto")
        assert layout.name == "lits"
        assert "image-label would fit too; data.layout forces one" in reason
        assert choose(tmp_path, "image-label")[0].name == "image-label"

    def test_a_forced_layout_that_does_not_fit_is_refused_with_its_example(self, tmp_path):
        lay_out(tmp_path, EXAMPLES["lits"].files)
        with pytest.raises(SourceError, match="not the layout nnunet") as caught:
            choose(tmp_path, "nnunet")
        assert "imagesTr/<id>_0000.nii.gz" in caught.value.fix
        assert "this one would fit lits" in caught.value.fix

    def test_an_unknown_layout_is_refused_with_what_lies_there_and_all_examples(self, tmp_path):
        lay_out(tmp_path, bare("left/1.nii", "right/1.nii"))
        with pytest.raises(SourceError, match="holds left/, right/") as caught:
            choose(tmp_path, "auto")
        assert all(f"{each.name}: {each.example}" in caught.value.fix for each in LAYOUTS)

    def test_two_data_sets_in_one_folder_are_not_chosen_between(self, tmp_path):
        for folder in ("a", "b"):
            lay_out(tmp_path / folder, bare("image/1.nii", "label/1.nii"))
        with pytest.raises(SourceError) as caught:
            choose(tmp_path, "auto")
        assert "as --src" not in caught.value.fix

    def test_an_empty_folder_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="the folder is empty"):
            choose(tmp_path, "auto")

    def test_a_broken_dataset_json_is_refused_with_its_line(self, tmp_path):
        lay_out(tmp_path, {**EXAMPLES["nnunet"].files, "dataset.json": '{"labels":\n {,}}'})
        with pytest.raises(SourceError, match="line 2") as caught:
            scan(tmp_path, layout="auto")
        assert caught.value.where == tmp_path / "dataset.json"


class TestCaseCount:
    """Whether dataset.json announces as many training cases as there are: here two."""

    @pytest.fixture(params=["nnunet", "msd"])
    def counted(self, tmp_path, request):
        """The problems of that rule, when dataset.json announces so many."""

        def of(announced, **how):
            files = EXAMPLES[request.param].files
            fields = {**json.loads(files["dataset.json"]), "numTraining": announced}
            lay_out(tmp_path, {**files, "dataset.json": json.dumps(fields)})
            problems = scan(tmp_path, layout="auto", **how).problems
            return [problem for problem in problems if problem.rule == "case_count"]

        return of

    def test_another_count_of_cases_than_announced_is_reported_of_the_data_set_and_of_no_case(
        self, counted, tmp_path
    ):
        (found,) = counted(3)
        assert (found.severity, found.case_id) == ("warning", "")
        assert found.path == str(tmp_path / "dataset.json")
        assert found.fact == "dataset.json announces 3 training cases, 2 are there"

    def test_the_policy_may_make_a_wrong_count_of_cases_an_error(self, counted, rules):
        (found,) = counted(1, rules=rules(case_count="error"))
        assert found.severity == "error"

    @pytest.mark.parametrize("announced", [2, None, "many"])
    def test_the_announced_count_of_cases_or_none_is_not_reported(self, counted, announced):
        assert counted(announced) == []


class TestDatasetJson:
    @pytest.fixture
    def names(self, tmp_path):
        """The names of a data set with these labels."""

        def of(labels):
            text = json.dumps({"labels": labels})
            lay_out(tmp_path, {**EXAMPLES["nnunet"].files, "dataset.json": text})
            return scan(tmp_path, layout="auto").cases[0].names

        return of

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [
            ({"background": 0, "liver": 1}, {"liver": (1,)}),
            ({"liver": [1, 2], "lesion": 2}, {"liver": (1, 2), "lesion": (2,)}),
            ({"0": "background", "6": "liver"}, {"liver": (6,)}),
            ({"1": "liver", "2": "liver"}, {"liver": (1, 2)}),
            ({"background": "0", "liver": "1"}, {"liver": (1,)}),
        ],
    )
    def test_names_may_stand_on_either_side(self, names, labels, expected):
        assert names(labels) == expected

    @pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"labels": ' + "9" * 5000])
    def test_a_dataset_json_that_cannot_be_read_is_refused_as_a_damaged_file(self, tmp_path, text):
        lay_out(tmp_path, {**EXAMPLES["nnunet"].files, "dataset.json": text})
        with pytest.raises(SourceError, match="is not JSON: line 1") as caught:
            scan(tmp_path, layout="auto")
        assert caught.value.where == tmp_path / "dataset.json"

    def test_a_value_of_thousands_of_digits_is_refused_in_a_few_words(self, names):
        with pytest.raises(SourceError, match="labels has '9") as caught:
            names({"9" * 5000: "liver"})
        assert len(str(caught.value)) < 300

    @pytest.mark.parametrize("labels", [{"liver": None}, {"liver": []}, {"liver": True}, ["liver"]])
    def test_labels_without_values_are_refused(self, names, labels):
        with pytest.raises(SourceError, match="labels"):
            names(labels)

    def test_a_second_channel_is_refused_for_its_case_alone(self, tmp_path):
        lay_out(tmp_path, EXAMPLES["nnunet"].files | bare("imagesTr/liver_0_0001.nii.gz"))
        result = scan(tmp_path, layout="auto")
        assert [case.case_id for case in result.cases] == ["liver_1"]
        problems = by_path(result, tmp_path)
        assert problems["imagesTr/liver_0_0001.nii.gz"] == ("skipped", "one_file_per_case")

    @pytest.mark.parametrize("entry", ["x", {"image": "a.nii"}, {"image": 1, "label": 2}])
    def test_an_entry_of_training_without_its_files_is_refused(self, tmp_path, entry):
        lay_out(tmp_path, {"dataset.json": json.dumps({"training": [entry]})})
        with pytest.raises(SourceError, match="entry 1 of training"):
            scan(tmp_path, layout="auto")

    @pytest.mark.parametrize("entry", ["x", {"images": "a.nii", "label": "b"}, {"images": ["a"]}])
    def test_an_entry_of_dataset_without_its_files_is_refused(self, tmp_path, entry):
        lay_out(tmp_path, {"dataset.json": json.dumps({"dataset": {"7": entry}})})
        with pytest.raises(SourceError, match="dataset has '7'"):
            scan(tmp_path, layout="auto")


class TestLists:
    @pytest.fixture
    def listed(self, tmp_path):
        """Scan a list of this content, beside two CTs and two labels."""

        def found(content, name="cases.csv", **how):
            src = tmp_path / "src"
            lay_out(src, {name: content, **bare("a.nii", "b.nii", "x/a.nii", "x/b.nii")})
            return scan(src, layout="auto", **how)

        return found

    @pytest.mark.parametrize("mark", [",", ";", "\t"])
    @pytest.mark.parametrize("start", ["", "\ufeff", "\n"])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_a_table_is_read_as_programs_write_it(self, listed, mark, start, end):
        rows = [["CT", "Label", "patient_id"], ["a.nii", "x/a.nii", "p"], ["b.nii", "x/b.nii", ""]]
        result = listed(start + end.join(mark.join(row) for row in rows) + end)
        assert {case.case_id: case.patient_id for case in result.cases} == {"a": "p", "b": "b"}

    def test_a_list_may_be_given_itself_and_name_files_anywhere(self, tmp_path):
        lay_out(tmp_path, bare("far/a.nii", "off/b.nii"))
        files = tmp_path / "far" / "a.nii", tmp_path / "off" / "b.nii"
        row = dict(zip(("ct", "label"), map(str, files), strict=True))
        lay_out(tmp_path, {"list/mine.json": json.dumps([row])})
        result = scan(tmp_path / "list" / "mine.json", layout="auto")
        (case,) = result.cases
        assert (case.ct, case.label) == files
        assert case.root == tmp_path

    def test_a_backslash_parts_folders_on_every_system(self, listed):
        assert len(listed("ct,label\na.nii,x\\a.nii\n").cases) == 1

    def test_an_id_that_is_no_text_is_skipped_and_nothing_else(self, listed):
        rows = [{"ct": f"{name}.nii", "label": f"x/{name}.nii", "case_id": name} for name in "ab"]
        content = json.dumps(rows).replace('"case_id": "b"', '"case_id": "\\ud800"')
        result = listed(content, "cases.json")
        assert [case.case_id for case in result.cases] == ["a"]
        assert [p.rule for p in result.problems if p.severity == "skipped"] == ["safe_id"]

    def test_the_patient_in_a_list_wins_over_the_expression(self, listed):
        result = listed("ct,label,patient_id\na.nii,x/a.nii,p\n", patient_id="(a)")
        assert [case.patient_id for case in result.cases] == ["p"]

    def test_a_file_that_is_not_there_is_named_with_its_line(self, listed, tmp_path):
        result = listed("ct,label\na.nii,gone.nii\n")
        (problem,) = (p for p in result.problems if p.severity == "skipped")
        assert (problem.rule, problem.path) == ("label_missing", str(tmp_path / "src" / "gone.nii"))
        assert "cases.csv, line 2, names it" in problem.fact

    def test_an_empty_cell_is_a_missing_file(self, listed):
        result = listed("ct,label\na.nii,\n,x/b.nii\n")
        rules = {(problem.rule, problem.case_id) for problem in result.problems if problem.case_id}
        assert {("label_missing", "a"), ("ct_missing", "b")} <= rules

    @pytest.mark.parametrize(
        "content",
        [
            "ct,label,case_id\na.nii,x/a.nii,a\nb.nii,x/b.nii,a\n",
            "ct,label,case_id\na.nii,x/a.nii,é\nb.nii,x/b.nii,e\u0301\n",
            "ct,label,case_id\na.nii,x/a.nii,a\nb.nii,x/b.nii,A\n",
            "ct,label\na.nii,x/a.nii\na.nii,x/b.nii\n",
        ],
    )
    def test_two_rows_of_one_id_are_refused_by_their_lines(self, listed, tmp_path, content):
        with pytest.raises(SourceError, match=r"2 rows are case .*: line 2, line 3") as caught:
            listed(content)
        assert caught.value.where == tmp_path / "src" / "cases.csv"

    def test_rows_without_an_id_have_that_of_what_differs_in_their_paths(self, tmp_path):
        """13 rows such as P001/CT.nii.gz were one case, which was skipped."""
        cases = [f"P{number:03d}" for number in range(1, 14)]
        rows = [f"{case}/CT.nii.gz,{case}/liver.nii.gz" for case in cases]
        volumes = bare(*(file for row in rows for file in row.split(",")))
        lay_out(tmp_path, {"cases.csv": "\n".join(["ct,label", *rows]), **volumes})
        result = scan(tmp_path, layout="auto")
        assert [case.case_id for case in result.cases] == cases
        assert {case.case_id: case.ct for case in result.cases}["P007"].parent.name == "P007"

    @pytest.mark.parametrize(
        ("cts", "ids"),
        [
            (["scans/a/ct.nii", "scans/b/ct.nii"], ["a", "b"]),
            (["a/ct.nii", "b/ct.nii.gz", "c/scan.mha"], ["a", "b", "c"]),
            (["a/1/ct.nii", "a/2/ct.nii", "b/1/ct.nii"], ["a_1", "a_2", "b_1"]),
            (["s/a/1/ct.nii", "s/b/1/ct.nii"], ["a", "b"]),
            (["a.nii", "x/a.nii", "b.nii"], ["a", "b", "x_a"]),
            (["a/ct.nii", "A/ct.nii", "b/x.nii"], None),
        ],
    )
    def test_ids_are_the_shortest_that_tell_all_paths_apart(self, tmp_path, cts, ids):
        rows = [f"{ct},m/{number}.nii" for number, ct in enumerate(cts)]
        volumes = bare(*(file for row in rows for file in row.split(",")))
        lay_out(tmp_path, {"cases.csv": "\n".join(["ct,label", *rows]), **volumes})
        if ids is None:
            with pytest.raises(SourceError, match="2 rows are case"):
                scan(tmp_path, layout="auto")
        else:
            assert [case.case_id for case in scan(tmp_path, layout="auto").cases] == ids

    def test_the_cases_of_dataset_json_are_told_apart_by_their_folders_too(self, tmp_path):
        entries = [{"image": f"{case}/ct.nii", "label": f"{case}/m.nii"} for case in "ab"]
        files = [file for entry in entries for file in entry.values()]
        lay_out(tmp_path, {"dataset.json": json.dumps({"training": entries}), **bare(*files)})
        assert [case.case_id for case in scan(tmp_path, layout="auto").cases] == ["a", "b"]

    @settings(max_examples=60)
    @given(
        st.lists(
            st.tuples(
                st.lists(st.sampled_from(["a", "b", "A", "a_b", "c"]), min_size=1, max_size=3),
                st.sampled_from(["", "", "a", "b"]),
            ),
            min_size=1,
            max_size=5,
        )
    )
    def test_every_row_is_a_case_of_its_own_or_the_list_is_refused(self, tmp_path_factory, rows):
        src = tmp_path_factory.mktemp("src")
        lines = [f"{'/'.join(parts)}.nii,l{at}.nii,{id_}" for at, (parts, id_) in enumerate(rows)]
        lay_out(src, {"cases.csv": "\n".join(["ct,label,case_id", *lines])})
        lay_out(src, bare(*(file for line in lines for file in line.split(",")[:2])))
        try:
            result = scan(src, layout="auto")
        except SourceError:
            return
        assert len(result.cases) == len(rows)

    @pytest.mark.parametrize(
        ("content", "fact"),
        [
            ("", "lists no cases"),
            ("ct,label\n", "lists no cases"),
            ("ct,mask\na.nii,b.nii\n", "line 1 lacks 'label'"),
            ("ct,label,case\na,b,c\n", "line 1 has unknown 'case'"),
            ("ct,label,ct\na,b,c\n", "line 1 repeats 'ct'"),
            ("ct,label,case_id\n,,7\n", "line 2 names no CT and no label"),
            ("ct,label\na,b,c\n", "line 2 has 3 cells, but there are 2 columns"),
            ('ct,label\n"a"b,c\n', "line 2"),
            (b"ct,label\n\xff,b\n", "is not UTF-8 text"),
        ],
    )
    def test_a_faulty_table_is_refused_with_its_line(self, listed, tmp_path, content, fact):
        with pytest.raises(SourceError, match=fact) as caught:
            listed(content)
        assert caught.value.where == tmp_path / "src" / "cases.csv"

    @pytest.mark.parametrize(
        ("content", "fact"),
        [
            ("[", "is not JSON: line 1"),
            ("{}", "is a JSON dict, not a list"),
            ("[]", "lists no cases"),
            ("[1]", "entry 1 is not an object"),
            ('[{"ct": "a.nii"}]', "entry 1 lacks 'label'"),
            ('[{"ct": "a.nii", "label": ["b"]}]', "entry 1 has .* which is not text"),
            ("[" * 100_000, "is not JSON: .*nested too deeply"),
            ('[{"ct": ' + "[" * 900 + "]" * 900 + ', "label": "b"}]', "which is not text"),
            ('[{"ct": ' + "9" * 5000 + ', "label": "b"}]', "is not JSON: .*too many digits"),
        ],
    )
    def test_a_faulty_json_list_is_refused_with_its_entry(self, listed, content, fact):
        with pytest.raises(SourceError, match=fact):
            listed(content, "cases.json")


def test_the_same_number_twice_is_one_case_too_many(tmp_path):
    lay_out(tmp_path, EXAMPLES["lits"].files | bare("copy/volume-0.nii.gz"))
    result = scan(tmp_path, layout="auto")
    assert [case.case_id for case in result.cases] == ["28"]
    (problem,) = (p for p in result.problems if p.severity == "skipped")
    assert problem.rule == "one_file_per_case"


class TestUnicodeForms:
    """macOS writes an ü as two characters (NFD), Windows and Linux as one (NFC)."""

    NFC, NFD = "M\u00fcller_1", "Mu\u0308ller_1"

    @pytest.mark.parametrize(
        ("ct", "label"),
        [
            ("image/{nfd}.nii", "label/{nfc}.nii"),
            ("image/{nfc}/{nfd}.nii", "label/{nfd}/{nfc}.nii"),
            ("imagesTr/{nfd}_0000.nii", "labelsTr/{nfc}.nii"),
            ("imagesTr/{nfd}.nii", "labelsTr/{nfc}.nii"),
        ],
    )
    def test_a_ct_and_a_label_in_two_forms_are_one_case(self, tmp_path, ct, label):
        names = {"nfc": self.NFC, "nfd": self.NFD}
        lay_out(tmp_path, bare(ct.format(**names), label.format(**names)))
        result = scan(tmp_path, layout="auto")
        assert [case.case_id for case in result.cases] == [self.NFC]
        assert result.problems == []

    def test_an_exclusion_may_be_written_in_the_other_form(self, tmp_path):
        lay_out(tmp_path, bare(f"image/{self.NFD}.nii", f"label/{self.NFD}.nii"))
        result = scan(tmp_path, [self.NFC])
        assert result.cases == []
        assert {problem.rule for problem in result.problems} == {"excluded", "case_left_out"}

    def test_a_patient_in_two_forms_is_one(self, tmp_path):
        rows = [f"{at}.nii,m{at}.nii,{name}" for at, name in enumerate((self.NFC, self.NFD))]
        lay_out(tmp_path, {"cases.csv": "\n".join(["ct,label,patient_id", *rows])})
        lay_out(tmp_path, bare("0.nii", "1.nii", "m0.nii", "m1.nii"))
        patients = {case.patient_id for case in scan(tmp_path, layout="auto").cases}
        assert patients == {self.NFC}

    def test_a_list_may_name_a_file_in_the_other_form(self, tmp_path):
        text = f"ct,label\n{self.NFC}.nii,{self.NFD}.mha\n"
        lay_out(tmp_path, {"cases.csv": text, **bare(f"{self.NFD}.nii", f"{self.NFC}.mha")})
        assert [case.case_id for case in scan(tmp_path, layout="auto").cases] == [self.NFC]

    def test_two_cts_of_one_name_in_two_forms_are_both_named(self, tmp_path):
        lay_out(tmp_path, bare(f"image/{self.NFD}.nii", f"image/{self.NFC}.nii"))
        if len(list((tmp_path / "image").iterdir())) < 2:
            pytest.skip("this file system takes both for one")
        lay_out(tmp_path, bare(f"label/{self.NFC}.nii"))
        result = scan(tmp_path, layout="auto")
        (problem,) = (p for p in result.problems if p.severity == "skipped")
        assert "2 CTs claim to be this case" in problem.fact


@pytest.mark.parametrize("name", ["chaos", "ircadb"])
def test_a_series_that_was_not_unpacked_is_a_missing_ct(tmp_path, name):
    example = EXAMPLES[name]
    lay_out(tmp_path, example.files)
    case_id, (ct, _) = next(iter(example.cases.items()))
    for file in (tmp_path / ct).iterdir():
        file.unlink()
    result = scan(tmp_path, layout="auto")
    (problem,) = (p for p in result.problems if p.severity == "skipped")
    assert (problem.rule, problem.case_id) == ("ct_missing", case_id)
    assert problem.path == str(tmp_path / ct)
