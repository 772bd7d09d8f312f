"""Finding the cases, and a reason for every file that is none."""

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import RTStructureSetStorage
from ruamel.yaml import YAML

from cache.errors import SourceError
from stages.preprocess.digests import source_files
from stages.preprocess.layouts.volumes import stem
from stages.preprocess.policy import RulesParams
from stages.preprocess.reading.text_header import data_files
from stages.preprocess.scan import scan as scan_under_rules
from test_dicom_series import object_of
from tiny import unlistable_below

PARAMS = Path(__file__).parent.parent / "params.yaml"
RULES = RulesParams(**YAML(typ="safe").load(PARAMS.read_text(encoding="utf-8"))["rules"])
DICOM = bytes(128) + b"DICM"
# how people lay out one case below image/ and label/
LAYOUTS = ("{id}/{id}.nii.gz", "{id}.nii.gz/{id}.nii.gz", "{id}.nii.gz", "{id}/scan.nii.gz")


def scan(src, exclude=(), *, layout="image-label", patient_id=None, rules=RULES):
    return scan_under_rules(src, layout=layout, exclude=exclude, patient_id=patient_id, rules=rules)


@pytest.fixture
def touch(tmp_path):
    """Write a file of some bytes below ``src``; what is in it does not matter to the scan."""

    def write(path, content=b"..."):
        target = tmp_path / "src" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return target

    return write


def by_path(result, src):
    """Severity and rule of every problem, by its path below ``src``."""
    return {
        os.path.relpath(problem.path, src).replace(os.sep, "/"): (problem.severity, problem.rule)
        for problem in result.problems
    }


def unexplained(result, src):
    """The files below ``src`` that neither a case nor a problem names, or a folder above them."""
    volumes = [path for case in result.cases for path in (case.ct, case.label)]
    volumes += [beside for path in volumes if path.is_file() for beside in data_files(path)]
    named = {*volumes, *(Path(problem.path) for problem in result.problems)}
    files = (path for path in src.rglob("*") if not path.is_dir())
    return [path for path in files if named.isdisjoint({path, *path.parents})]


class TestImageAndLabel:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_case_is_found_however_its_folder_is_named(self, touch, tmp_path, layout):
        ct = touch("image/" + layout.format(id="7"))
        label = touch("label/" + layout.format(id="7"))
        result = scan(tmp_path / "src")
        (case,) = result.cases
        assert (case.case_id, case.patient_id) == ("7", "7")
        assert (case.ct, case.label) == (ct, label)
        assert result.problems == []

    @pytest.mark.parametrize("case_id", ["7", "patient.7", "1.2.840.113619"])
    def test_files_without_an_extension_are_found_by_their_content(
        self, write_volume, tmp_path, case_id
    ):
        ct = write_volume(f"src/image/{case_id}/{case_id}", format=".nii.gz")
        label = write_volume(f"src/label/{case_id}/{case_id}", format=".nii.gz")
        result = scan(tmp_path / "src")
        (case,) = result.cases
        assert (case.case_id, case.ct, case.label) == (case_id, ct, label)
        assert result.problems == []

    @pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd", ".seg.nrrd", ".NII.GZ"])
    def test_a_label_may_have_another_extension_than_its_ct(self, touch, tmp_path, ending):
        touch("image/a/a.nii.gz")
        label = touch(f"label/a/a{ending}")
        (case,) = scan(tmp_path / "src").cases
        assert (case.case_id, case.label) == ("a", label)

    def test_a_ct_and_its_label_may_be_laid_out_differently(self, touch, tmp_path):
        ct, label = touch("image/3.nii.gz/3.nii.gz"), touch("label/3.nii")
        (case,) = scan(tmp_path / "src").cases
        assert (case.ct, case.label) == (ct, label)

    def test_a_header_with_its_data_beside_it_is_one_volume(self, write_volume, tmp_path):
        write_volume("src/image/5/5.mhd")
        write_volume("src/label/5.nhdr")
        result = scan(tmp_path / "src")
        (case,) = result.cases
        assert (case.ct.name, case.label.name) == ("5.mhd", "5.nhdr")
        assert result.problems == []  # the .raw files belong to the case too

    def test_of_several_volumes_in_a_folder_the_one_named_like_it_is_taken(self, touch, tmp_path):
        touch("image/1/other.nii.gz")
        ct, _ = touch("image/1/1.nii.gz"), touch("label/1/1.nii.gz")
        result = scan(tmp_path / "src")
        (case,) = result.cases
        assert case.ct == ct
        assert by_path(result, tmp_path / "src") == {
            "image/1/other.nii.gz": ("ignored", "not_a_case")
        }

    def test_cases_come_sorted_by_id(self, touch, tmp_path):
        for case_id in ("b", "10", "9", "a"):
            touch(f"image/{case_id}.nii.gz")
            touch(f"label/{case_id}.nii.gz")
        ids = [case.case_id for case in scan(tmp_path / "src").cases]
        assert ids == ["10", "9", "a", "b"]


class TestReasons:
    @pytest.fixture
    def src(self, touch, tmp_path):
        """A folder with one case that is fine."""
        touch("image/1/1.nii.gz")
        touch("label/1/1.nii.gz")
        return tmp_path / "src"

    def test_a_folder_of_nothing_but_cases_has_no_problems(self, src):
        result = scan(src)
        assert (len(result.cases), result.problems) == (1, [])

    @pytest.mark.parametrize("path", ["README.txt", "image/1/notes.md", "notes/1.nii.gz"])
    def test_a_file_that_is_no_volume_is_ignored_by_name(self, src, touch, path):
        touch(path)
        result = scan(src)
        assert [case.case_id for case in result.cases] == ["1"]
        assert by_path(result, src) == {path: ("ignored", "not_a_case")}

    @pytest.mark.parametrize(
        "path",
        [
            "image/Thumbs.db",
            "image/1/desktop.ini",
            "label/.DS_Store",
            "label/1/._1.nii.gz",
            "image/.ipynb_checkpoints",
            "__MACOSX",
        ],
    )
    def test_what_the_system_leaves_behind_is_ignored_by_name(self, src, touch, path):
        is_folder = path.endswith(("checkpoints", "MACOSX"))
        touch(f"{path}/1.nii.gz" if is_folder else path)
        assert by_path(scan(src), src) == {path: ("ignored", "hidden")}

    def test_a_ct_without_a_label_is_skipped(self, src, touch):
        touch("image/2/2.nii.gz")
        assert by_path(scan(src), src) == {"image/2/2.nii.gz": ("skipped", "label_missing")}

    def test_a_label_without_a_ct_is_skipped(self, src, touch):
        touch("label/2/2.nii.gz")
        assert by_path(scan(src), src) == {"label/2/2.nii.gz": ("skipped", "ct_missing")}

    def test_two_files_for_one_id_are_both_named(self, src, touch):
        touch("image/2/2.nii.gz")
        touch("image/2.nii.gz")
        touch("label/2/2.nii.gz")
        result = scan(src)
        assert by_path(result, src) == {
            "image/2/2.nii.gz": ("skipped", "one_file_per_case"),
            "image/2.nii.gz": ("ignored", "case_left_out"),
            "label/2/2.nii.gz": ("ignored", "case_left_out"),
        }
        (skipped,) = (problem for problem in result.problems if problem.severity == "skipped")
        assert "2 CTs claim to be this case: image/2/2.nii.gz, image/2.nii.gz" in skipped.fact

    def test_a_folder_without_a_volume_is_skipped_by_its_own_name(self, src, touch):
        touch("image/2.nii.gz/notes.txt")
        touch("label/2.nii.gz")
        assert by_path(scan(src), src) == {
            "image/2.nii.gz": ("skipped", "one_file_per_case"),
            "label/2.nii.gz": ("ignored", "case_left_out"),
        }

    @pytest.mark.parametrize(
        "case_id", ["a;b", "a ", "a.", "_.", "CON", "com1", "nul.1", "lpt¹", "é" * 101]
    )
    def test_an_id_that_is_no_file_name_everywhere_is_skipped(self, src, touch, case_id):
        touch(f"image/{case_id}.nii.gz")
        touch(f"label/{case_id}.nii.gz")
        path = f"image/{case_id}.nii.gz"
        assert by_path(scan(src), src)[path] == ("skipped", "safe_id")

    def test_an_id_that_is_too_long_is_skipped_in_a_few_words(self, src, touch):
        lines = ["ct,label,case_id", f"image/1/1.nii.gz,label/1/1.nii.gz,{'9' * 5000}"]
        touch("cases.csv", "\n".join(lines).encode())
        (problem,) = (p for p in scan(src, layout="list").problems if p.severity == "skipped")
        assert problem.rule == "safe_id"
        assert "it has 5000 bytes, and 200 are possible" in problem.fact
        assert len(problem.fact) < 200

    @pytest.mark.parametrize("case_id", ["console", "com10", "a b", "é" * 100, "1.2.840", "a-(1)"])
    def test_an_id_that_is_a_file_name_everywhere_is_kept(self, src, touch, case_id):
        touch(f"image/{case_id}.nii.gz")
        touch(f"label/{case_id}.nii.gz")
        assert case_id in [case.case_id for case in scan(src).cases]

    @pytest.mark.parametrize("pair", [("Ab", "aB"), ("\u00e9", "e\u0301")])
    def test_of_two_ids_that_are_one_file_name_elsewhere_the_second_is_skipped(
        self, src, touch, pair
    ):
        for case_id in pair:
            touch(f"image/{case_id}.nii.gz")
            touch(f"label/{case_id}.nii.gz")
        if len(list((src / "image").iterdir())) < 3:
            pytest.skip("this file system takes both for one")
        result = scan(src)
        skipped = [problem for problem in result.problems if problem.severity == "skipped"]
        assert [problem.rule for problem in skipped] == ["one_file_per_case"]
        assert len(result.cases) == 2

    def test_an_excluded_case_is_left_out_with_both_its_files(self, src, touch):
        touch("image/2/2.nii.gz")
        touch("label/2/2.nii.gz")
        result = scan(src, ["2"])
        assert [case.case_id for case in result.cases] == ["1"]
        assert by_path(result, src) == {
            "image/2/2.nii.gz": ("ignored", "excluded"),
            "label/2/2.nii.gz": ("ignored", "case_left_out"),
        }

    def test_all_that_lies_in_the_folder_of_a_case_is_left_out_with_it(self, src, touch):
        for path in ("image/2/2.nii.gz", "label/2.nii.gz", "image/2/deep/er/notes.txt"):
            touch(path)
        by = by_path(scan(src, ["2"]), src)
        assert by["image/2/deep/er/notes.txt"] == ("ignored", "case_left_out")

    def test_excluding_a_faulty_case_silences_its_fault(self, src, touch):
        for name in ("a", "b"):
            touch(f"image/2/{name}.nii.gz")
            touch(f"label/2/{name}.nii.gz")
        severities = {problem.severity for problem in scan(src, ["2"]).problems}
        assert severities == {"ignored"}

    def test_excluding_an_id_that_no_case_has_is_doubted(self, src):
        (problem,) = scan(src, ["3"]).problems
        assert (problem.severity, problem.case_id) == ("warning", "3")

    def test_an_lfs_pointer_without_an_extension_is_a_case_for_the_reader_to_refuse(
        self, src, touch
    ):
        touch("image/2/2", b"version https://git-lfs.github.com/spec/v1\n")
        touch("label/2/2", b"version https://git-lfs.github.com/spec/v1\n")
        assert [case.case_id for case in scan(src).cases] == ["1", "2"]


class TestFolders:
    def test_a_folder_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="there is no such folder") as caught:
            scan(tmp_path / "elsewhere")
        assert caught.value.where == tmp_path / "elsewhere"

    @pytest.mark.parametrize("missing", ["image", "label"])
    def test_one_of_the_two_folders_alone_is_refused(self, touch, tmp_path, missing):
        (there,) = {"image", "label"} - {missing}
        touch(f"{there}/1.nii.gz")
        with pytest.raises(SourceError, match=f"holds {there}/, which is not the") as caught:
            scan(tmp_path / "src")
        assert "image/<id>/<id>.nii.gz" in caught.value.fix

    @pytest.mark.parametrize("empty", ["image", "label"])
    def test_an_empty_folder_is_refused_by_name(self, tmp_path, empty):
        for name in ("image", "label"):
            (tmp_path / "src" / name).mkdir(parents=True)
            if name != empty:
                (tmp_path / "src" / name / "1.nii.gz").write_bytes(b"")
        with pytest.raises(SourceError, match="empty") as caught:
            scan(tmp_path / "src")
        assert caught.value.where == tmp_path / "src" / empty

    def test_a_file_in_place_of_the_folder_is_refused(self, touch):
        with pytest.raises(SourceError, match="is a file, but no list of cases"):
            scan(touch("a.nii.gz"))


class TestDicom:
    """image/<id>/ and label/<id>/ may be DICOM series instead of files."""

    @pytest.mark.parametrize("below", ["1.dcm", "IM0001", "ST0/SE0/CT.1.2.840.1", "a/b/1.IMA"])
    def test_a_folder_with_dicom_files_is_the_ct(self, touch, tmp_path, below):
        touch(f"image/7/{below}", DICOM)
        label = touch("label/7.nii.gz")
        result = scan(tmp_path / "src")
        (case,) = result.cases
        assert (case.ct, case.label) == (tmp_path / "src" / "image" / "7", label)
        assert result.problems == []

    def test_a_label_may_be_dicom_too(self, touch, tmp_path):
        touch("image/7.nii.gz")
        touch("label/7/seg.dcm", DICOM)
        (case,) = scan(tmp_path / "src").cases
        assert case.label == tmp_path / "src" / "label" / "7"

    @pytest.mark.parametrize("name", ["7.nii.gz", "other.nrrd"])
    def test_a_series_with_a_volume_beside_it_is_skipped(self, touch, tmp_path, name):
        touch("image/7/1.dcm", DICOM)
        touch(f"image/7/{name}")
        touch("label/7.nii.gz")
        result = scan(tmp_path / "src")
        assert result.cases == []
        assert by_path(result, tmp_path / "src")["image/7"] == ("skipped", "one_file_per_case")

    def test_notes_beside_the_slices_do_not_hide_them(self, touch, tmp_path):
        for number in range(20):
            touch(f"image/7/a{number}.txt")
        touch("image/7/slice.dcm", DICOM)
        touch("label/7.nii.gz")
        assert len(scan(tmp_path / "src").cases) == 1

    def test_a_slice_without_a_folder_is_ignored_with_advice(self, touch, tmp_path):
        touch("image/7.dcm", DICOM)
        touch("label/7.nii.gz")
        problems = {problem.rule: problem.fact for problem in scan(tmp_path / "src").problems}
        assert "put a series into a folder" in problems["not_a_case"]

    @pytest.mark.parametrize("side", ["image", "label"])
    def test_a_file_that_is_all_of_a_dicom_object_is_the_volume_of_its_case(
        self, touch, tmp_path, side
    ):
        other = "label" if side == "image" else "image"
        touch(f"{other}/7.nii.gz")
        touch("image/8.nii.gz")
        touch("label/8.nii.gz")
        object_of(tmp_path / "src" / side / "7.dcm", RTStructureSetStorage, "RTSTRUCT")
        case = next(case for case in scan(tmp_path / "src").cases if case.case_id == "7")
        # reading it says what it is, where the case would only lack a label
        assert tmp_path / "src" / side / "7.dcm" in (case.ct, case.label)


class TestPatients:
    @pytest.fixture
    def patients(self, touch, tmp_path):
        """Scan a folder of two cases; gives the patient of each, and the problems."""
        for case_id in ("p1-early", "late"):
            touch(f"image/{case_id}.nii.gz")
            touch(f"label/{case_id}.nii.gz")

        def found(expression, rule="skip"):
            rules = RULES.model_copy(update={"patient_id": rule})
            result = scan(tmp_path / "src", patient_id=expression, rules=rules)
            patients = {case.case_id: case.patient_id for case in result.cases}
            return patients, [(one.severity, one.rule, one.case_id) for one in result.problems]

        return found

    def test_without_an_expression_every_case_is_its_own_patient(self, patients):
        assert patients(None) == ({"late": "late", "p1-early": "p1-early"}, [])

    @pytest.mark.parametrize("expression", [r"p\d", r"^(p\d)-"])
    def test_the_patient_is_the_first_group_or_the_whole_match(self, patients, expression):
        assert patients(expression)[0]["p1-early"] == "p1"

    @pytest.mark.parametrize("expression", [r"p\d", r"^(p\d)-", r"\d*$", "(x)?"])
    def test_a_case_without_a_patient_is_skipped_where_the_rule_says_so(self, patients, expression):
        found, problems = patients(expression, rule="skip")
        assert "late" not in found
        assert ("skipped", "patient_id", "late") in problems

    def test_a_case_without_a_patient_may_be_its_own(self, patients):
        found, problems = patients(r"p\d", rule="warn")
        assert found == {"late": "late", "p1-early": "p1"}
        assert problems == [("warning", "patient_id", "late")]


class TestDataFiles:
    @pytest.mark.parametrize(
        "header",
        [
            "ElementDataFile = {outside}",
            "ElementDataFile = ../../../outside.raw",
            "ElementDataFile = ../../../slice%03d.raw 1 9 1",
            "data file: {outside}",
        ],
    )
    def test_a_header_that_names_data_outside_the_data_set_is_skipped(
        self, touch, tmp_path, header
    ):
        outside = tmp_path / "outside.raw"
        outside.write_bytes(b"...")
        touch("image/1/1.mhd", header.format(outside=outside).encode())
        touch("label/1.nii.gz")
        result = scan(tmp_path / "src")
        assert by_path(result, tmp_path / "src")["image/1/1.mhd"] == ("skipped", "data_inside")
        assert not [problem for problem in result.problems if problem.path == str(outside)]

    def test_a_header_may_name_data_elsewhere_in_the_data_set(self, touch, tmp_path):
        touch("raw/1.raw")
        touch("image/1/1.mhd", b"ElementDataFile = ../../raw/1.raw")
        touch("label/1.nii.gz")
        result = scan(tmp_path / "src")
        assert (len(result.cases), result.problems) == (1, [])

    def test_a_header_that_cannot_be_read_is_a_case_for_the_reader_to_refuse(self, touch, tmp_path):
        touch("label/1.nii.gz")
        link(touch("image/1.mhd").parent / "2.mhd", "nowhere")
        touch("label/2.nii.gz")
        assert [case.case_id for case in scan(tmp_path / "src").cases] == ["1", "2"]


class TestFoldersThatCannotBeListed:
    @pytest.fixture
    def src(self, touch, tmp_path):
        """A folder with one case that is fine."""
        touch("image/1/1.nii.gz")
        touch("label/1/1.nii.gz")
        return tmp_path / "src"

    def test_the_search_goes_on_and_says_so(self, src):
        (src / "notes").mkdir()
        unlistable_below(src / "notes")
        result = scan(src)
        assert [case.case_id for case in result.cases] == ["1"]
        (problem,) = result.problems
        assert (problem.severity, problem.rule) == ("warning", "not_listed")
        assert f"cannot be listed ({os.strerror(errno.ENAMETOOLONG)})" in problem.fact

    @pytest.mark.skipif(sys.platform != "linux", reason="paths have other limits elsewhere")
    def test_the_folder_of_a_case_is_not_called_empty_for_it(self, tmp_path):
        src = tmp_path
        while len(str(src)) < 3950:  # 4096 are possible
            src /= "d" * min(200, 3950 - len(str(src)))
        for side in ("image", "label"):
            (src / side).mkdir(parents=True)
            (src / side / "1.nii.gz").write_bytes(b"...")
        image = os.open(src / "image", os.O_RDONLY)
        os.mkdir("c" * 190, dir_fd=image)
        os.close(image)
        result = scan(src)
        assert [case.case_id for case in result.cases] == ["1"]
        facts = [one.fact for one in result.problems if one.rule == "one_file_per_case"]
        assert facts == [f"cannot be listed ({os.strerror(errno.ENAMETOOLONG)})"]

    def test_a_series_is_never_read_without_the_slices_in_it(self, src, touch):
        touch("image/2/1.dcm", DICOM)
        touch("label/2.nii.gz")
        unlistable_below(src / "image" / "2")
        case = next(case for case in scan(src).cases if case.case_id == "2")
        with pytest.raises(SourceError, match="cannot be listed") as caught:
            source_files(case.ct)
        assert str(caught.value.where).startswith(str(src / "image" / "2"))


class TestWhatDvcStopsAt:
    @pytest.fixture
    def src(self, touch, tmp_path):
        """A folder with one case that is fine."""
        touch("image/1/1.nii.gz")
        touch("label/1/1.nii.gz")
        return tmp_path / "src"

    def test_a_link_that_leads_nowhere_is_named(self, src):
        link(src / "image" / "gone.nii.gz", "nowhere")
        warnings = [one for one in scan(src).problems if one.rule == "not_tracked"]
        assert [(one.severity, one.path) for one in warnings] == [
            ("warning", str(src / "image" / "gone.nii.gz"))
        ]
        assert "dvc repro stops at it" in warnings[0].fact

    @pytest.mark.skipif(sys.platform != "linux", reason="names are text elsewhere")
    def test_a_name_that_is_not_utf_8_is_named_and_the_others_are_cases(self, src, touch):
        name = os.fsdecode(b"M\xfcller.nii.gz")
        for side in ("image", "label"):
            touch(f"{side}/x.nii.gz").rename(src / side / name)
        result = scan(src)
        named = [one.path for one in result.problems if one.rule == "not_tracked"]
        assert named == [str(src / side / name) for side in ("image", "label")]
        assert [case.case_id for case in result.cases] == ["1"]

    def test_links_that_lead_somewhere_are_not_named(self, src, tmp_path):
        (tmp_path / "2.nii.gz").write_bytes(b"...")
        for side in ("image", "label"):
            link(src / side / "2.nii.gz", tmp_path / "2.nii.gz")
        assert scan(src).problems == []


class TestLinks:
    def test_a_data_set_may_consist_of_links(self, touch, tmp_path):
        touch("image/1/1.mhd", b"ElementDataFile = 1.raw")
        touch("image/1/1.raw")
        touch("label/1/1.nii.gz")
        for side in ("image", "label"):
            (tmp_path / "linked" / side).mkdir(parents=True)
            link(tmp_path / "linked" / side / "1", tmp_path / "src" / side / "1")
        result = scan(tmp_path / "linked")
        (case,) = result.cases
        assert case.ct == tmp_path / "linked" / "image" / "1" / "1.mhd"
        assert result.problems == []

    def test_the_data_of_a_header_may_be_a_link_to_elsewhere(self, touch, tmp_path):
        header = touch("image/1.mhd", b"ElementDataFile = 1.raw")
        (tmp_path / "1.raw").write_bytes(b"...")
        link(header.with_name("1.raw"), tmp_path / "1.raw")
        touch("label/1.nii.gz")
        result = scan(tmp_path / "src")
        assert (len(result.cases), result.problems) == (1, [])

    @pytest.mark.parametrize("target", [".", "..", "../..", "image"])
    def test_a_link_back_is_followed_no_more_than_once(self, touch, tmp_path, target):
        ct = touch("image/1/1.nii.gz")
        touch("label/1/1.nii.gz")
        link(ct.parent / "again", (tmp_path / "src" / target).resolve())
        result = scan(tmp_path / "src")
        assert unexplained(result, tmp_path / "src") == []


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("links cannot be made here")


names = st.sampled_from(
    ["1", "2", "1.nii.gz", "2.nii", "a b.nrrd", "Thumbs.db", ".DS_Store", "notes.txt", "x;y.mha"]
)
paths = st.builds(
    lambda folder, between, name: Path(folder, *between, name),
    st.sampled_from(["image", "label", "other"]),
    st.lists(st.sampled_from(["1", "2", "1.nii.gz", "deep", ".hidden"]), max_size=2),
    names,
)
NIFTI = np.zeros(352, np.uint8)
NIFTI[344:348] = list(b"n+1\0")
contents = st.sampled_from([b"", b"...", NIFTI.tobytes(), b"version https://git-lfs"])


@settings(max_examples=150)
@given(files=st.dictionaries(paths, contents, max_size=12), exclude=st.sets(names, max_size=2))
def test_every_file_is_a_cases_or_explained(tmp_path_factory, files, exclude):
    src = tmp_path_factory.mktemp("src")
    for path, content in [(Path("image/9.nii"), b""), (Path("label/9.nii"), b""), *files.items()]:
        target = src / path
        blocked = target.is_dir() or any(parent.is_file() for parent in target.parents)
        if not blocked:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
    result = scan(src, exclude)
    assert unexplained(result, src) == []
    ids = [case.case_id for case in result.cases]
    assert sorted(set(ids)) == ids
    assert exclude.isdisjoint(ids)
    assert all(Path(p.path).exists() for p in result.problems if p.path != "data.exclude")


@pytest.mark.parametrize(
    ("name", "case_id"),
    [
        ("1.nii.gz", "1"),
        ("1.NII", "1"),
        ("liver.seg.nrrd", "liver"),
        ("a.b.mha", "a.b"),
        ("1", "1"),
        ("1.2.840", "1.2.840"),
        (".nii.gz", ".nii.gz"),
    ],
)
def test_the_id_is_the_name_without_a_volumes_extension(name, case_id):
    assert stem(name) == case_id
