"""How long preparing took is noted beside the store, for the report, and changes nothing else."""

import pytest

from cache.state import state_folder
from pipeline.facts import preparation_time
from pipeline.preprocess import main
from stages.preprocess.times import noted_time


@pytest.fixture
def preprocess(run_command, params_file, tmp_path):
    """Run the command in this process, into the store whose folder is given back."""

    def run(src, *flags):
        out = tmp_path / "data" / "cases"
        places = ("--src", src, "--out", out, "--params", params_file(), "--workers", 1)
        ended = run_command(main, *places, *flags)
        assert ended.exit_code == 0, ended.output
        return out

    return run


def test_the_time_of_a_run_is_noted_with_what_it_did(preprocess, write_dataset):
    out = preprocess(write_dataset())
    noted = noted_time(out)
    assert (noted.prepared, noted.kept) == (3, 0)
    assert 0 < noted.seconds < 60
    told = preparation_time(out)
    assert (told.seconds, told.note) == (noted.seconds, "3 cases prepared")


def test_a_run_that_finds_everything_there_leaves_the_note_of_the_one_before(
    preprocess, write_dataset
):
    src = write_dataset()
    before = noted_time(preprocess(src))
    assert noted_time(preprocess(src)) == before


def test_a_run_that_adds_a_case_tells_how_many_were_there(preprocess, write_dataset):
    out = preprocess(write_dataset(("1", "2")))
    preprocess(write_dataset(("1", "2", "3")))
    assert preparation_time(out).note == "1 case prepared; 2 were there already"


def test_a_note_with_another_digit_than_was_written_is_none(preprocess, write_dataset):
    out = preprocess(write_dataset())
    path = state_folder(out) / "times.json"
    path.write_text(path.read_text().replace('"prepared": 3', '"prepared": 7'))
    assert noted_time(out) is None


def test_a_mere_check_notes_nothing(preprocess, write_dataset):
    assert noted_time(preprocess(write_dataset(), "--check-only")) is None


def test_a_damaged_note_is_none(preprocess, write_dataset):
    out = preprocess(write_dataset(("1",)))
    (state_folder(out) / "times.json").write_text('{"seconds": ', encoding="utf-8")
    assert noted_time(out) is None


def test_no_clock_stands_in_the_store_or_in_what_is_beside_it(preprocess, write_dataset):
    out = preprocess(write_dataset(("1",)))
    text = (out.parent / "problems.json").read_text() + (out / "manifest.json").read_text()
    assert "seconds" not in text
