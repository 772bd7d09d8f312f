"""Finding the cases, and a reason for every file that is none."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import SourceError
from stages.preprocess.scan import scan, stem

# how people lay out one case below image/ and label/
LAYOUTS = ("{id}/{id}.nii.gz", "{id}.nii.gz/{id}.nii.gz", "{id}.nii.gz", "{id}/scan.nii.gz")


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
    """The files below ``src`` that are neither of a case nor named by a problem."""
    used = {str(path) for case in result.cases for path in (case.ct, case.label)}
    named = {problem.path for problem in result.problems}
    return [path for path in src.rglob("*") if path.is_file() and str(path) not in used | named]


class TestLayouts:
    @pytest.mark.parametrize("layout", LAYOUTS)
    def test_a_case_is_found_however_its_folder_is_named(self, touch, tmp_path, layout):
        ct = touch("image/" + layout.format(id="7"))
        label = touch("label/" + layout.format(id="7"))
        result = scan(tmp_path / "src", [])
        (case,) = result.cases
        assert (case.case_id, case.patient_id) == ("7", "7")
        assert (case.ct, case.label) == (ct, label)
        assert result.problems == []

    @pytest.mark.parametrize("case_id", ["7", "patient.7", "1.2.840.113619"])
    def test_files_without_an_extension_are_found_by_their_content(
        self, write_case, tmp_path, case_id
    ):
        files = write_case(case_id, ct_name="{id}/{id}", label_name="{id}/{id}", format=".nii.gz")
        result = scan(tmp_path / "src", [])
        assert result.cases == [files]
        assert result.problems == []

    @pytest.mark.parametrize("ending", [".nii", ".mha", ".nrrd", ".seg.nrrd", ".NII.GZ"])
    def test_a_label_may_have_another_extension_than_its_ct(self, touch, tmp_path, ending):
        touch("image/a/a.nii.gz")
        label = touch(f"label/a/a{ending}")
        (case,) = scan(tmp_path / "src", []).cases
        assert (case.case_id, case.label) == ("a", label)

    def test_a_ct_and_its_label_may_be_laid_out_differently(self, touch, tmp_path):
        ct, label = touch("image/3.nii.gz/3.nii.gz"), touch("label/3.nii")
        (case,) = scan(tmp_path / "src", []).cases
        assert (case.ct, case.label) == (ct, label)

    def test_a_header_with_its_data_beside_it_is_one_volume(self, write_case, tmp_path):
        write_case("5", ct_name="{id}/{id}.mhd", label_name="{id}.nhdr")
        result = scan(tmp_path / "src", [])
        (case,) = result.cases
        assert (case.ct.name, case.label.name) == ("5.mhd", "5.nhdr")
        assert result.problems == []  # the .raw files belong to the case too

    def test_of_several_volumes_in_a_folder_the_one_named_like_it_is_taken(self, touch, tmp_path):
        touch("image/1/other.nii.gz")
        ct, _ = touch("image/1/1.nii.gz"), touch("label/1/1.nii.gz")
        result = scan(tmp_path / "src", [])
        (case,) = result.cases
        assert case.ct == ct
        assert by_path(result, tmp_path / "src") == {
            "image/1/other.nii.gz": ("ignored", "not-a-volume")
        }

    def test_cases_come_sorted_by_id(self, touch, tmp_path):
        for case_id in ("b", "10", "9", "a"):
            touch(f"image/{case_id}.nii.gz")
            touch(f"label/{case_id}.nii.gz")
        ids = [case.case_id for case in scan(tmp_path / "src", []).cases]
        assert ids == ["10", "9", "a", "b"]


class TestReasons:
    @pytest.fixture
    def src(self, touch, tmp_path):
        """A folder with one case that is fine."""
        touch("image/1/1.nii.gz")
        touch("label/1/1.nii.gz")
        return tmp_path / "src"

    def test_a_folder_of_nothing_but_cases_has_no_problems(self, src):
        result = scan(src, [])
        assert (len(result.cases), result.problems) == (1, [])

    @pytest.mark.parametrize(
        "path",
        [
            "README.txt",
            "image/Thumbs.db",
            "image/1/desktop.ini",
            "label/.DS_Store",
            "label/1/._1.nii.gz",
            "image/.ipynb_checkpoints/1.nii.gz",
            "notes/1.nii.gz",
        ],
    )
    def test_a_file_that_is_no_volume_is_ignored_by_name(self, src, touch, path):
        touch(path)
        result = scan(src, [])
        assert [case.case_id for case in result.cases] == ["1"]
        assert by_path(result, src) == {path: ("ignored", "not-a-volume")}

    def test_a_ct_without_a_label_is_skipped(self, src, touch):
        touch("image/2/2.nii.gz")
        assert by_path(scan(src, []), src) == {"image/2/2.nii.gz": ("skipped", "label-missing")}

    def test_a_label_without_a_ct_is_skipped(self, src, touch):
        touch("label/2/2.nii.gz")
        assert by_path(scan(src, []), src) == {"label/2/2.nii.gz": ("skipped", "ct-missing")}

    def test_two_files_for_one_id_are_both_named(self, src, touch):
        touch("image/2/2.nii.gz")
        touch("image/2.nii.gz")
        touch("label/2/2.nii.gz")
        result = scan(src, [])
        assert by_path(result, src) == {
            "image/2/2.nii.gz": ("skipped", "one-file-per-case"),
            "image/2.nii.gz": ("ignored", "case-left-out"),
            "label/2/2.nii.gz": ("ignored", "case-left-out"),
        }
        (skipped,) = (problem for problem in result.problems if problem.severity == "skipped")
        assert "2 volumes claim to be this case: 2/2.nii.gz, 2.nii.gz" in skipped.fact

    def test_a_folder_without_a_volume_is_skipped_by_its_own_name(self, src, touch):
        touch("image/2.nii.gz/slice-1.dcm")
        touch("label/2.nii.gz")
        assert by_path(scan(src, []), src) == {
            "image/2.nii.gz": ("skipped", "one-file-per-case"),
            "image/2.nii.gz/slice-1.dcm": ("ignored", "case-left-out"),
            "label/2.nii.gz": ("ignored", "case-left-out"),
        }

    def test_an_id_that_is_no_file_name_everywhere_is_skipped(self, src, touch):
        touch("image/a;b.nii.gz")
        touch("label/a;b.nii.gz")
        assert by_path(scan(src, []), src)["image/a;b.nii.gz"] == ("skipped", "safe-id")

    def test_an_excluded_case_is_left_out_with_both_its_files(self, src, touch):
        touch("image/2/2.nii.gz")
        touch("label/2/2.nii.gz")
        result = scan(src, ["2"])
        assert [case.case_id for case in result.cases] == ["1"]
        assert by_path(result, src) == {
            "image/2/2.nii.gz": ("ignored", "excluded"),
            "label/2/2.nii.gz": ("ignored", "case-left-out"),
        }

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
        assert [case.case_id for case in scan(src, []).cases] == ["1", "2"]


class TestFolders:
    @pytest.mark.parametrize("missing", [".", "image", "label"])
    def test_a_missing_folder_is_refused_by_name(self, tmp_path, missing):
        for name in {"image", "label"} - {missing}:
            (tmp_path / "src" / name).mkdir(parents=True)
            (tmp_path / "src" / name / "1.nii.gz").write_bytes(b"")
        src = tmp_path / "elsewhere" if missing == "." else tmp_path / "src"
        with pytest.raises(SourceError, match="there is no such folder") as caught:
            scan(src, [])
        assert caught.value.where == (src if missing == "." else src / missing)
        assert "image/<id>/<id>.nii.gz" in caught.value.fix

    @pytest.mark.parametrize("empty", ["image", "label"])
    def test_an_empty_folder_is_refused_by_name(self, tmp_path, empty):
        for name in ("image", "label"):
            (tmp_path / "src" / name).mkdir(parents=True)
            if name != empty:
                (tmp_path / "src" / name / "1.nii.gz").write_bytes(b"")
        with pytest.raises(SourceError, match="empty") as caught:
            scan(tmp_path / "src", [])
        assert caught.value.where == tmp_path / "src" / empty

    def test_a_file_in_place_of_the_folder_is_refused(self, touch):
        with pytest.raises(SourceError, match="there is no such folder"):
            scan(touch("a.nii.gz"), [])


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
