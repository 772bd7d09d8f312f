"""Data sets of no published layout: names say what belongs together, and doubt is never guessed."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import SegmentationStorage

from cache.errors import SourceError
from stages.preprocess.layouts.detect import choose
from stages.preprocess.layouts.pairing.match import matched
from stages.preprocess.layouts.pairing.words import case_name, role
from test_dicom import write_slice
from test_layouts import bare, lay_out, series
from test_scan import scan


@pytest.fixture
def found(tmp_path):
    """The cases in a folder with these files and series: CT and label by id."""

    def of(*paths, dicom=()):
        lay_out(tmp_path, {**bare(*paths), **series(*dicom)})
        cases = scan(tmp_path, layout="auto").cases
        return {
            case.case_id: tuple(path.relative_to(tmp_path).as_posix() for path in pair)
            for case in cases
            for pair in [(case.ct, case.label)]
        }

    return of


@pytest.fixture
def refused(tmp_path):
    """The message for which a folder with these files is refused."""

    def of(*paths, dicom=()):
        lay_out(tmp_path, {**bare(*paths), **series(*dicom)})
        with pytest.raises(SourceError) as caught:
            scan(tmp_path, layout="auto")
        return str(caught.value).replace(str(tmp_path), ".")

    return of


class TestWords:
    @pytest.mark.parametrize(
        "name",
        [
            *("image", "images", "img", "ct", "CT", "scans", "volumes", "imagesTr", "CT_scans"),
            *("ImagePart1", "AbdomenCT-1K-ImagePart2", "DICOM", "liver_ct"),
        ],
    )
    def test_names_of_folders_of_cts_are_known(self, name):
        assert role(name) == "ct"

    @pytest.mark.parametrize(
        "name",
        [
            *(
                "label",
                "labels",
                "mask",
                "Masks",
                "seg",
                "segs",
                "segmentation",
                "gt",
                "GT",
                "liver",
            ),
            *("annotations", "labelsTr", "GroundTruth", "ground_truth", "LiverMask", "CT_seg"),
            "liver_tumor_seg",
        ],
    )
    def test_names_of_folders_of_labels_are_known(self, name):
        assert role(name) == "label"

    @pytest.mark.parametrize("name", ["spleen", "masks_spleen", "tumor_seg", "kidneys-label"])
    def test_a_name_of_labels_of_another_structure(self, name):
        assert role(name) == "other"

    @pytest.mark.parametrize("name", ["P001", "data", "7", "Abdomen", "maskara", "cta2", "RawData"])
    def test_a_name_that_says_neither(self, name):
        assert role(name) is None

    @pytest.mark.parametrize(
        ("name", "case"),
        [
            ("img0001", "0001"),
            ("7_mask", "7"),
            ("FL_Tr_0001-label", "FL_Tr_0001"),
            ("case_7.liver_seg", "case_7"),
            ("CT_P001", "P001"),
            ("ct", "ct"),
            ("Müller_1_seg", "Müller_1"),
            ("LiverMask_1", "1"),
            ("Case_00001", "Case_00001"),
        ],
    )
    def test_a_case_is_what_is_left_of_a_name(self, name, case):
        assert case_name(name) == case


class TestTwoFolders:
    @pytest.mark.parametrize("cts", ["images", "img", "CT", "scans", "Volumes"])
    @pytest.mark.parametrize("labels", ["labels", "Masks", "segmentations", "gt", "annotations"])
    def test_any_pair_of_folders_is_a_data_set(self, found, cts, labels):
        assert found(f"{cts}/1.nii", f"{labels}/1.mha") == {
            "1": (f"{cts}/1.nii", f"{labels}/1.mha")
        }

    @pytest.mark.parametrize(
        ("ct", "label", "case_id"),
        [
            ("7", "7_mask", "7"),
            ("7", "7-seg", "7"),
            ("FL_Tr_0001_0000", "FL_Tr_0001", "FL_Tr_0001"),
            ("Case_00001_0000", "Case_00001", "Case_00001"),
            ("case_0000", "case_0000", "case_0000"),
            ("img0001", "label0001", "0001"),
            ("P1_ct", "P1_liver", "P1"),
            ("case_7", "seg-07", "case_7"),
            ("patient 12", "annotator_012", "patient 12"),
            ("liver_7", "liver_7", "liver_7"),
            ("Case7", "case7", "case7"),
            ("Scan 0 (2019)", "Scan 0 (2019)-label", "Scan 0 (2019)"),
            ("CT_P001", "CT_P001_seg", "CT_P001"),
            ("img 0 (2019)", "label 0 (2019)", "0 (2019)"),
        ],
    )
    def test_names_belong_together_but_for_what_everybody_adds(self, found, ct, label, case_id):
        pair = (f"images/{ct}.nii.gz", f"masks/{label}.nii.gz")
        assert found(*pair) == {case_id: pair}

    def test_a_ct_without_a_label_is_called_as_those_with_one_are(self, tmp_path):
        pair = ("images/Scan 0 (2019).nii", "masks/Scan 0 (2019)-label.nii")
        lay_out(tmp_path, bare(*pair, "images/Scan 1 (2019).nii"))
        problems = scan(tmp_path, layout="auto").problems
        assert [(one.case_id, one.rule) for one in problems] == [("Scan 1 (2019)", "label_missing")]

    def test_cts_may_lie_in_several_folders(self, found):
        one = ("CT-ImagePart1/Case_1_0000.nii.gz", "Mask/Case_1.nii.gz")
        two = ("CT-ImagePart2/Case_2_0000.nii.gz", "Mask/Case_2.nii.gz")
        assert found(*one, *two) == {"Case_1": one, "Case_2": two}

    def test_cts_may_be_folders_with_dicom_files(self, found):
        assert found("masks/P1.nii", "masks/P2.nii", dicom=["scans/P1", "scans/P2/S1"]) == {
            "P1": ("scans/P1", "masks/P1.nii"),
            "P2": ("scans/P2", "masks/P2.nii"),
        }

    def test_of_several_folders_of_labels_the_livers_is_taken(self, found, tmp_path):
        masks = [f"masks_{organ}/1.nii" for organ in ("liver", "spleen", "liver_tumor")]
        assert found("images/1.nii", *masks) == {"1": ("images/1.nii", "masks_liver/1.nii")}
        facts = [problem.fact for problem in scan(tmp_path, layout="auto").problems]
        assert facts == ["holds labels of other structures"] * 2

    def test_a_case_in_two_folders_of_labels_is_refused_by_both(self, refused):
        message = refused("images/1.nii", "labels/1.nii", "labels_new/1.nii", "labels/2.nii")
        assert "./labels/1.nii, ./labels_new/1.nii" in message

    def test_a_ct_in_two_phases_is_refused_by_both(self, refused):
        message = refused("CT_arterial/1.nii", "CT_portal/1.nii", "mask/1.nii")
        assert "./CT_arterial/1.nii, ./CT_portal/1.nii" in message

    def test_labels_of_another_structure_are_never_taken_for_the_livers(self, refused):
        assert "not a known layout" in refused("images/1.nii", "masks_spleen/1.nii")

    @pytest.mark.parametrize(
        "label", ["labels/1_spleen.nii", "labels/spleen-01.nii", "labels/1/spleen.nii"]
    )
    def test_no_number_makes_a_label_of_another_structure_the_livers(self, refused, label):
        assert "not a known layout" in refused("images/1.nii", label)

    def test_a_word_for_a_structure_that_ct_and_label_share_is_part_of_the_id(self, found):
        pair = ("images/tumor_case_1.nii", "labels/tumor_case_1.nii")
        assert found(*pair) == {"tumor_case_1": pair}

    def test_of_several_labels_in_a_folder_of_a_case_the_livers_is_taken(self, found):
        labels = [f"labels/1/{name}.nii" for name in ("liver", "spleen", "liver_tumor", "x")]
        assert found("images/1.nii", *labels) == {"1": ("images/1.nii", "labels/1/liver.nii")}

    def test_a_channel_that_fits_two_labels_leaves_out_its_case_alone(self, found, tmp_path):
        pair = ("images/b_0000.nii", "labels/b.nii")
        assert found("images/a_0000.nii", "labels/a.nii", "labels/a_0000.nii", *pair) == {"b": pair}
        doubts = [p.fact for p in scan(tmp_path, layout="auto").problems if p.severity == "skipped"]
        assert "may belong to the label a_0000 as well as to a" in doubts

    def test_numbers_decide_only_where_each_side_has_one_way_to_write_them(self, refused):
        message = refused("scans/patient7.nii", "scans/case8.nii", "masks/x7.nii", "masks/x8.nii")
        assert "not a known layout" in message

    def test_numbers_of_two_other_sets_are_not_put_together(self, refused):
        files = [f"scans/a{n}.nii" for n in (1, 2, 3)] + [f"masks/b{n}.nii" for n in (3, 4)]
        assert "not a known layout" in refused(*files)

    def test_cases_set_apart_for_testing_are_left_alone(self, found, tmp_path):
        pair = ("a/b/imagesTr/w_1.nii", "a/b/labelsTr/w_1.nii")
        others = ("a/b/imagesVal/w_2.nii", "a/b/labelsVal/w_2.nii", "a/b/imagesTs/w_3.nii")
        assert found(*pair, *others) == {"w_1": pair}
        ignored = {problem.path for problem in scan(tmp_path, layout="auto").problems}
        assert ignored == {str((tmp_path / other).parent) for other in others}

    def test_training_and_testing_are_not_mixed_but_named(self, refused):
        files = [
            f"{part}/{side}/{n}.nii"
            for n, part in enumerate(("train", "test"))
            for side in ("images", "labels")
        ]
        assert "in 2 places: ./test, ./train" in refused(*files)

    def test_the_line_that_explains_shows_a_pair(self, tmp_path):
        lay_out(tmp_path, bare("images/1_0000.nii", "masks/1_mask.nii"))
        _, reason = choose(tmp_path, "auto")
        assert reason.endswith("as images/1_0000.nii with masks/1_mask.nii")


class TestCaseFolders:
    @pytest.mark.parametrize(
        ("ct", "label"),
        [
            ("imaging.nii.gz", "segmentation.nii.gz"),
            ("CT.nii.gz", "liver.nii.gz"),
            ("P1.nii.gz", "P1_liver.nii.gz"),
            ("scan.mha", "mask.nrrd"),
            ("x7.nii", "x7_seg.nii"),
            ("P1.nrrd", "P1.seg.nrrd"),
            ("CT/a.nii", "Segmentation/b.nii"),
        ],
    )
    def test_a_case_may_be_a_folder(self, found, ct, label):
        assert found(f"P1/{ct}", f"P1/{label}") == {"P1": (f"P1/{ct}", f"P1/{label}")}

    def test_a_ct_may_be_the_folder_itself_with_its_dicom_files(self, found):
        assert found("P1/liver.nrrd", dicom=["P1"]) == {"P1": ("P1", "P1/liver.nrrd")}

    def test_ct_and_label_may_be_dicom_both(self, found):
        assert found(dicom=["P1/CT", "P1/liver"]) == {"P1": ("P1/CT", "P1/liver")}

    @pytest.mark.parametrize("slices", ["CT", "."])
    def test_a_dicom_object_is_the_label_it_is_called_as(self, found, tmp_path, slices):
        """Reading it says by its class what it is, and that it is not read as a volume."""
        segmentation = tmp_path / "P1" / "liver.dcm"
        segmentation.parent.mkdir()
        write_slice(segmentation, np.zeros((3, 4)), (0, 0, 0), SOPClassUID=SegmentationStorage)
        folder = str(Path("P1", slices).as_posix())
        assert found(dicom=[folder]) == {"P1": (folder, "P1/liver.dcm")}

    def test_what_is_called_a_ct_goes_before_other_series(self, found):
        assert found("P1/liver.nii", dicom=["P1/CT", "P1/T1"]) == {"P1": ("P1/CT", "P1/liver.nii")}

    def test_of_many_structures_the_liver_is_the_label(self, found):
        organs = [f"P1/{organ}.nii" for organ in ("liver", "spleen", "liver_tumor", "aorta")]
        assert found("P1/ct.nii", *organs) == {"P1": ("P1/ct.nii", "P1/liver.nii")}

    @pytest.mark.parametrize(
        ("files", "dicom"),
        [
            (["P1/liver.nii"], ["P1/a", "P1/b"]),
            (["P1/ct.nii", "P1/ct2.nii", "P1/liver.nii"], []),
            (["P1/ct.nii", "P1/seg_a.nii", "P1/seg_b.nii"], []),
            (["P1/liver.nii"], ["P1", "P1/a"]),
        ],
    )
    def test_a_case_of_several_cts_or_labels_is_left_out_by_all_their_names(
        self, found, tmp_path, files, dicom
    ):
        assert found(*files, dicom=dicom) == {}
        result = scan(tmp_path, layout="auto")
        (problem,) = (p for p in result.problems if p.severity == "skipped")
        assert re.search("2 (CTs|labels) claim to be this case", problem.fact)
        assert "but of no case it is clear which" in result.reason

    def test_another_structure_in_a_folder_of_labels_is_not_the_livers(self, refused):
        assert "not a known layout" in refused("P1/CT/a.nii", "P1/Segmentation/spleen.nii")

    @pytest.mark.parametrize("other", ["spleen", "abc", "MR", "T2"])
    def test_what_nobody_calls_a_ct_is_not_taken_for_one(self, refused, other):
        assert "not a known layout" in refused(f"P1/{other}.nii", "P1/liver.nii")

    def test_cases_below_several_folders_are_named_and_not_mixed(self, refused):
        files = [f"{who}/2019/{what}.nii" for who in ("A", "B") for what in ("ct", "liver")]
        assert "in 2 places: ./A, ./B" in refused(*files)


class TestBeside:
    def test_ct_and_label_may_lie_beside_each_other(self, found):
        files = ("1.nii", "1_mask.nii", "2_CT.nii", "2-liver-seg.nii")
        assert found(*(f"all/{file}" for file in files)) == {
            "1": ("all/1.nii", "all/1_mask.nii"),
            "2": ("all/2_CT.nii", "all/2-liver-seg.nii"),
        }

    @pytest.mark.parametrize(
        ("ct", "label", "case_id"),
        [
            ("liver-orig001.mhd", "liver-seg001.mhd", "001"),
            ("volume-0.nii", "labels-0.nii", "0"),
            ("a.nrrd", "a.seg.nrrd", "a"),
        ],
    )
    def test_names_beside_each_other_as_published_sets_have_them(self, found, ct, label, case_id):
        assert found(ct, label) == {case_id: (ct, label)}

    def test_pairs_in_two_ways_in_one_folder_are_refused_by_both(self, refused):
        message = refused("1.nii", "1_mask.nii", "P2/ct.nii", "P2/liver.nii")
        assert "in 2 places: . (each folder holds a CT and a label), . (CTs and labels" in message

    def test_a_label_of_another_structure_is_not_the_livers(self, refused):
        assert "not a known layout" in refused("1.nii", "1_spleen.nii", "1_tumor_mask.nii")


NAMES = st.lists(
    st.sampled_from(
        [
            *("img", "label", "ct", "mask", "seg", "liver", "case", "a", "A", "b", "Tr", "é"),
            *("1", "01", "2", "12", "0000", "0001", "_", "_", "-", "."),
        ]
    ),
    min_size=1,
    max_size=5,
).map("".join)


def meaning(name):
    """A name without the words and marks that say no case, told in another way than the code's."""
    bare_name = re.sub(r"_0000$", "", name).lower()
    return re.sub(r"img|label|ct|mask|seg|liver|[_.\-]", "", bare_name)


class TestNothingIsGuessed:
    @settings(max_examples=400)
    @given(st.lists(NAMES, max_size=6, unique=True), st.lists(NAMES, max_size=6, unique=True))
    def test_scrambled_names_are_put_together_by_what_they_have_in_common_alone(self, cts, labels):
        cases = matched(cts, labels)
        assert sorted(at for case in cases for at in case.cts) == list(range(len(cts)))
        assert sorted(at for case in cases for at in case.labels) == list(range(len(labels)))
        pairs = [(cts[case.cts[0]], labels[case.labels[0]]) for case in cases if case.is_pair]
        for ct, label in pairs:
            numbers = [re.findall(r"\d+", re.sub("_0000$", "", name))[-1:] for name in (ct, label)]
            by_number = [int(one) for found in numbers for one in found]
            assert meaning(ct) == meaning(label) or by_number[0] == by_number[1], (ct, label)

    @settings(max_examples=200)
    @given(
        st.sets(st.integers(0, 30), min_size=1, max_size=6),
        st.sampled_from(["{}", "img{:04}", "case_{}", "P{:03}_0000", "x_{}_ct"]),
        st.sampled_from(["{}", "label{:04}", "seg-{:02}", "P{:03}", "x_{}_mask"]),
        st.randoms(),
    )
    def test_a_case_is_never_given_the_label_of_another(self, numbers, ct, label, random):
        mixed = [sorted(numbers), sorted(numbers)]
        for side in mixed:
            random.shuffle(side)
        cases = matched([ct.format(n) for n in mixed[0]], [label.format(n) for n in mixed[1]])
        for case in cases:
            if case.is_pair:
                assert mixed[0][case.cts[0]] == mixed[1][case.labels[0]]
