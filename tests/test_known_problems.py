"""The list of stage one's problems as the report has it."""

import json
from contextlib import suppress
from pathlib import Path

import pytest

from cache.errors import StoreError
from stages.evaluate.known_problems import SEVERITIES, SHOWN, read_problems
from stages.preprocess.problems import SCHEMA_VERSION, Problem, write_problems
from stages.preprocess.problems import SEVERITIES as WRITTEN


@pytest.fixture
def listed(tmp_path):
    """Write problems as stage one does, and read them as the report does."""

    def write(*problems):
        path = tmp_path / "data" / "problems.json"
        write_problems(path, problems, {})
        return read_problems(path)

    return write


def problem(severity="skipped", case_id="7", path="image/7/7.nii", **fields):
    usual = {"rule": "readable", "fact": "is not an image", "fix": "see"}
    return Problem(severity, case_id=case_id, path=path, **(usual | fields))


def test_both_stages_know_the_same_severities():
    assert set(SEVERITIES) == set(WRITTEN.values())
    assert SCHEMA_VERSION == 1


def test_no_flipped_bit_in_the_list_is_another_list(listed, tmp_path):
    known = listed(problem(), problem("warning", case_id="8"))
    path = tmp_path / "data" / "problems.json"
    whole = path.read_bytes()
    for offset in range(0, len(whole), 3):
        content = bytearray(whole)
        content[offset] ^= 1 << offset % 8
        path.write_bytes(content)
        with suppress(StoreError):
            assert read_problems(path) == known, offset


def test_a_list_of_before_there_were_digests_is_read(listed, tmp_path):
    known, path = listed(problem()), tmp_path / "data" / "problems.json"
    fields = json.loads(path.read_text(encoding="utf-8"))
    del fields["sha256"]
    path.write_text(json.dumps(fields), encoding="utf-8")
    assert read_problems(path) == known


def test_problems_are_counted_by_what_followed_and_rule_the_worst_first(listed):
    known = listed(
        problem("ignored", rule="hidden"),
        problem("ignored", rule="hidden", case_id="8"),
        problem("ignored", rule="not_a_case"),
        problem("error", rule="lfs_pointer"),
    )
    assert known.counts == [
        ("error", "lfs_pointer", 1),
        ("ignored", "hidden", 2),
        ("ignored", "not_a_case", 1),
    ]
    assert known.shown[0].rule == "lfs_pointer"


def test_of_many_problems_the_worst_are_shown_and_the_others_counted(listed):
    many = [problem("ignored", case_id=f"{index:03}") for index in range(SHOWN + 4)]
    known = listed(*many, problem("warning", case_id="z"))
    assert len(known.shown) == SHOWN
    assert known.shown[0].severity == "warning"
    assert known.more == 5


def test_no_problems_are_no_missing_list(listed, tmp_path):
    assert listed().counts == []
    assert read_problems(tmp_path / "nowhere.json") is None


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("image/7/7.nii", "image/7/7.nii"),
        ("/home/ada/scans/image/7/7.nii", "…/image/7/7.nii"),
        (r"C:\Users\ada\scans\image\7\7.nii", r"…\image\7\7.nii"),
        (r"\\server\share\ada\scans\image\7.nii", r"…\scans\image\7.nii"),
        ("/scans/7.nii", "/scans/7.nii"),
    ],
)
def test_of_an_absolute_path_the_last_parts_are_shown(listed, path, shown):
    [one] = listed(problem(path=path)).shown
    assert one.path == shown


def test_a_path_within_the_fact_is_shortened_too(listed):
    path = "/home/ada/scans/image/7/7.nii"
    [one] = listed(problem(path=path, fact="is /home/ada/scans/label/7/7.nii")).shown
    assert one.fact == "is …/label/7/7.nii"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"schema_version": 2}', '{"schema_version": 1, "problems": [{"rule": "x"}]}'],
)
def test_a_list_that_cannot_be_read_is_refused_by_name(tmp_path, text):
    path = Path(tmp_path, "problems.json")
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StoreError, match="list of problems") as caught:
        read_problems(path)
    assert "problems.json" in str(caught.value)


def test_an_unknown_severity_is_refused(listed, tmp_path):
    path = tmp_path / "problems.json"
    fields = dict.fromkeys(("severity", "rule", "case_id", "path", "fact", "fix"), "x")
    path.write_text(json.dumps({"schema_version": 1, "problems": [fields]}), encoding="utf-8")
    with pytest.raises(StoreError):
        read_problems(path)
