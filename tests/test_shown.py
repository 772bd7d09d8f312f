"""A file's name may hold anything, and forges no line on a terminal."""

import logging
from contextlib import nullcontext

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tqdm.contrib.logging import logging_redirect_tqdm

from cache.errors import DataError
from cache.shown import shown, shown_lines
from pipeline.command import command
from pipeline.predict import main as predict
from pipeline.preprocess import main as preprocess
from pipeline.score import main as score

FORGED = "a\n28 cases in data\x1b[2J\r\x9b1m\u202eb\u2028c"


@given(st.text(st.characters(exclude_categories=[])))
def test_a_name_is_one_line_of_what_can_be_printed(name):
    assert shown(name).isprintable()
    assert shown(shown(name)) == shown(name)


@pytest.mark.parametrize("name", ["Müller_1", "D:\\Scans\\患者 7", "a·b…c", "x.nii.gz"])
def test_a_plain_name_is_shown_as_it_is(name):
    assert shown(name) == name


def test_a_message_keeps_its_indented_lines_and_no_others():
    assert shown_lines("x:\n  one\n  two\x1b\nthree") == "x:\n  one\n  two\\x1b\\nthree"


def test_a_fault_with_a_name_that_forges_lines_begins_no_line_of_its_own():
    lines = str(DataError(FORGED, f"has {FORGED}", f"rename {FORGED}")).split("\n")
    assert len(lines) == 2
    assert lines[1].startswith("  fix: rename a\\n28 cases")


@pytest.mark.parametrize("with_bar", [False, True])
def test_a_log_line_with_a_name_that_forges_lines_stays_one(run_command, monkeypatch, with_bar):
    @command
    def main():
        with logging_redirect_tqdm() if with_bar else nullcontext():
            logging.getLogger("x").warning("read %s", FORGED)

    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a process of its own
    assert run_command(main).output == f"read {shown(FORGED)}\n"


def lines_of(ended):
    """The lines of an output, none of which holds what only a forger writes."""
    assert not [c for c in ended.output if not c.isprintable() and c != "\n"]
    return ended.output.split("\n")


@pytest.fixture
def forged(write_dataset, tmp_path):
    """A data set with one good case and one of a name that forges lines."""
    try:
        (tmp_path / FORGED).touch()
    except OSError:
        pytest.skip("no file can have such a name here")
    return write_dataset(["1", FORGED], ct_name="{id}.nii.gz", label_name="{id}.nii.gz")


def test_no_name_of_a_data_set_forges_a_line_of_preprocess(
    forged, run_command, params_file, tmp_path
):
    flags = ("--src", forged, "--out", tmp_path / "cases", "--workers", 1, "--check-only")
    lines = lines_of(run_command(preprocess, *flags, "--params", params_file()))
    assert [line for line in lines if line.startswith("28 cases")] == []
    assert any("a\\n28 cases in data\\x1b[2J" in line for line in lines)


def test_no_name_forges_a_line_of_prediction(tmp_path, write_model, run_command):
    ct = tmp_path / "cts" / f"{FORGED}.nii.gz"
    ct.parent.mkdir()
    try:
        ct.write_bytes(b"...")
    except OSError:
        pytest.skip("no file can have such a name here")
    flags = ("--model", write_model(), "--ct", ct.parent, "--out", tmp_path / "masks")
    lines = lines_of(run_command(predict, *flags, "--device", "cpu"))
    assert [line for line in lines if line.startswith("28 cases")] == []


def test_no_name_forges_a_line_of_scores(forged, run_command, tmp_path):
    label = forged / "label"
    (label / f"{FORGED}.nii.gz").rename(label / f"x{FORGED}.nii.gz")
    flags = ("--predictions", forged / "image", "--labels", label, "--out", tmp_path / "scores")
    lines = lines_of(run_command(score, *flags))
    assert [line for line in lines if line.startswith("28 cases")] == []


def test_an_id_of_thousands_of_digits_leaves_out_its_case_alone(
    write_dataset, run_command, params_file, tmp_path
):
    src, long = write_dataset(["1", "2"]), "9" * 5000
    rows = [f"image/{n}/{n}.nii.gz,label/{n}/{n}.nii.gz,{i}" for n, i in ((1, "a"), (2, long))]
    (src / "cases.csv").write_text("\n".join(["ct,label,case_id", *rows]))
    flags = ("--src", src, "--out", tmp_path / "cases", "--workers", 1)
    ended = run_command(preprocess, *flags, "--params", params_file())
    assert ended.exit_code == 0
    assert "1 cases in " in ended.output
    assert max(map(len, ended.output.split("\n"))) < 400
