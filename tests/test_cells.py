"""Cells of CSV files: none of them is a formula, and all of them can be read back."""

import csv
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cache.cells import cell_of, text_of
from stages.evaluate.tables import write_cases_csv
from stages.preprocess.layouts.list_file import _csv_rows
from stages.train.watch.curves import write_curves
from test_summary import scores_of

CALL = '=HYPERLINK("http://x";"look")'


@pytest.mark.parametrize("text", [CALL, "+cmd|'/C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_text_that_would_be_a_formula_gets_an_apostrophe_in_front(text):
    assert cell_of(text) == f"'{text}"


@pytest.mark.parametrize("text", ["-12.5", "+3", "-1e5", "-3,25", "case-1", "1=2", "", "'quoted'"])
def test_numbers_and_other_texts_stay_as_they_are(text):
    assert cell_of(text) == text
    assert text_of(text) == text


@given(st.text(alphabet="'=+-@\t\r\n1.,eEa "))
@example("'=1")
@example("''-a")
def test_every_text_is_read_back_as_it_was(text):
    assert text_of(cell_of(text)) == text


@given(st.text(alphabet="'=+-@\t\r\n1a"))
def test_no_cell_begins_as_a_formula_unless_it_is_a_number(text):
    cell = cell_of(text)
    assert cell[:1] not in tuple("=@\t\r\n")
    if cell[:1] in tuple("+-"):
        assert math.isfinite(float(cell))


def test_the_table_of_scores_holds_no_formula_and_its_negative_numbers_stay(tmp_path):
    case = scores_of(CALL, volume_error_ml=-12.5)
    write_cases_csv(tmp_path / "cases.csv", [case])
    with (tmp_path / "cases.csv").open(newline="", encoding="utf-8") as file:
        [row] = csv.DictReader(file)
    assert row["case_id"] == f"'{CALL}"
    assert row["volume_error_ml"] == "-12.5000"


def test_the_table_of_validation_cases_holds_no_formula(tmp_path):
    rows = [{"epoch": 1, "case": "=1+1", "dice": 0.5, "iou": 0.25}]
    write_curves(tmp_path, [], rows, picture=False)
    table = (tmp_path / "plots" / "validation_cases.csv").read_text(encoding="utf-8")
    assert table.splitlines()[1] == "1,'=1+1,0.5,0.25"


def test_a_list_of_cases_is_read_without_the_apostrophes(tmp_path):
    (tmp_path / "cases.csv").write_text("case_id,ct,label\n'-1-a,'=a.nii,b.nii\n", encoding="utf-8")
    [row] = _csv_rows(tmp_path / "cases.csv")
    assert (row.cells["case_id"], row.cells["ct"]) == ("-1-a", "=a.nii")
