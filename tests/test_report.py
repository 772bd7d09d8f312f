"""The report holds all it shows, runs nothing people typed, and its pictures are true."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from stages.evaluate.pictures import PREDICTION_COLOUR, TRUTH_COLOUR, case_picture
from stages.evaluate.report import Report, number, signed, write_report
from stages.evaluate.scores import CaseScores
from stages.evaluate.summary import summarise

MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Page(HTMLParser):
    """A report as its reader has it: rows of the table, addresses, and all text."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.addresses, self.tags, self.text = [], [], [], ""
        self.in_cell = False
        self.feed(html)
        self.rows = [[" ".join(cell.split()) for cell in row] for row in self.cells]

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.cells[-1][-1] += data


@pytest.fixture
def write_page(tmp_path):
    """Write a report of some cases, and read it back."""

    def write(*cases, facts=(), pictures=()):
        path = tmp_path / "reports" / "report.html"
        write_report(path, Report(facts, summarise(cases), cases, b"curves", pictures))
        return Page(path.read_text(encoding="utf-8"))

    return write


def scores_of(case_id="c1", role="test", **values):
    """Scores of a middling case, with what a test wants changed."""
    usual = {
        "dice": 0.9123,
        "iou": 0.8,
        "sensitivity": 0.85,
        "precision": 0.95,
        "hd95_mm": 4.04,
        "assd_mm": 1.5,
        "surface_dice": 0.7,
        "volume_ml": 1500.0,
        "reference_volume_ml": 1450.0,
        "volume_error_ml": 50.0,
        "volume_error_percent": 3.45,
    }
    return CaseScores(case_id=case_id, patient_id=f"p-{case_id}", role=role, **(usual | values))


class TestReport:
    def test_a_case_is_one_row_with_sensible_digits(self, write_page):
        row = write_page(scores_of(volume_error_ml=-50.0)).rows[1]
        assert row[:3] == ["c1", "p-c1", "test"]
        assert row[3:] == ["0.912", "0.800", "4.0", "1,500", "1,450", f"{MINUS}50", "+3.5"]

    def test_the_worst_case_comes_first(self, write_page):
        page = write_page(scores_of("good", dice=0.99), scores_of("bad", dice=0.2))
        assert [row[0] for row in page.rows[1:]] == ["bad", "good"]

    def test_nan_is_a_dash_and_infinity_its_sign(self, write_page):
        row = write_page(scores_of(dice=math.nan, hd95_mm=math.inf)).rows[1]
        assert row[3] == DASH
        assert row[5] == "∞"

    def test_ids_that_look_like_html_are_shown_not_run(self, write_page):
        case = scores_of("<script>alert(1)</script>")
        page = write_page(case, facts=[("<i>", "<b>")], pictures=[(case, b"png")])
        assert page.rows[1][0] == "<script>alert(1)</script>"
        assert page.tags.count("script") == 1  # the one that sorts the table
        assert not {"i", "b"} & set(page.tags)

    def test_pictures_are_inside_the_file(self, write_page):
        good, bad = scores_of("good", dice=0.99), scores_of("bad", dice=0.2)
        page = write_page(good, bad, pictures=[(good, b"of good"), (bad, b"of bad")])
        prefix = "data:image/png;base64,"
        assert all(address.startswith(prefix) for address in page.addresses)
        embedded = [base64.b64decode(address.removeprefix(prefix)) for address in page.addresses]
        assert embedded == [b"curves", b"of bad", b"of good"]

    def test_nothing_is_loaded_from_elsewhere(self, write_page, tmp_path):
        write_page(scores_of())
        html = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
        assert not re.search(r"https?://|url\(|@import|<link", html)
        assert "default-src 'none'" in html

    def test_cases_the_model_knows_are_marked(self, write_page):
        page = write_page(scores_of("a", "train"), scores_of("b", "validation"), scores_of("c"))
        roles = {row[0]: row[2] for row in page.rows[1:]}
        assert roles == {
            "a": "train seen in training",
            "b": "validation picked the model",
            "c": "test",
        }

    def test_cases_left_out_of_a_mean_are_counted_beside_it(self, write_page):
        page = write_page(scores_of("a"), scores_of("b", hd95_mm=math.inf))
        assert "without 1 case that has no finite value" in page.text

    def test_it_says_what_it_is_not_for(self, write_page):
        assert "Not for clinical use" in write_page(scores_of()).text

    def test_it_can_be_written_without_a_case(self, write_page):
        assert len(write_page().rows) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (2.0, "+2.0"), (-2.0, f"{MINUS}2.0")]
)
def test_a_sign_is_shown_unless_the_number_rounds_to_zero(value, text):
    assert signed(value, 1) == text


def test_a_missing_number_is_a_dash():
    assert number(None, 2) == DASH
    assert signed(math.nan, 2) == DASH


class TestCasePicture:
    shape, spacing = (10, 20, 10), (3.0, 1.0, 2.0)  # an axial slice is 20 mm on both sides

    def draw(self, *, volume=None, truth=None, prediction=None):
        empty = np.zeros(self.shape, np.uint8)
        png = case_picture(
            np.full(self.shape, -1000, np.int16) if volume is None else volume,
            empty if truth is None else truth,
            empty if prediction is None else prediction,
            spacing_zyx_mm=self.spacing,
            hu_window=None,
        )
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)

    def block(self):
        mask = np.zeros(self.shape, np.uint8)
        mask[2:8, 4:12, 3:7] = 1  # 8 mm on both sides of an axial slice
        return mask

    def test_both_outlines_are_drawn(self):
        picture = self.draw(truth=self.block(), prediction=np.roll(self.block(), 3, axis=1))
        assert coloured(picture, TRUTH_COLOUR).any()
        assert coloured(picture, PREDICTION_COLOUR).any()

    def test_a_prediction_without_a_truth_is_drawn(self):
        picture = self.draw(prediction=self.block().astype(bool))
        assert coloured(picture, PREDICTION_COLOUR).any()
        assert not coloured(picture, TRUTH_COLOUR).any()

    def test_empty_masks_leave_the_ct(self):
        assert not coloured(self.draw(), TRUTH_COLOUR).any()

    def test_millimetres_are_as_wide_as_high(self):
        first = first_panel(coloured(self.draw(truth=self.block()), TRUTH_COLOUR))
        rows, columns = np.flatnonzero(first.any(axis=1)), np.flatnonzero(first.any(axis=0))
        assert np.ptp(rows) == pytest.approx(np.ptp(columns), rel=0.03)

    def test_the_patients_left_is_on_the_right_and_the_back_is_below(self):
        volume = np.full(self.shape, -1000, np.int16)
        volume[:, 15:, 8:] = 240
        rows, columns = np.nonzero(first_panel(self.draw(volume=volume).min(axis=2) > 250))
        height, width = self.draw().shape[:2]
        assert rows.mean() > 0.7 * height
        assert columns.mean() > 0.7 * width * 3 / 11

    def test_the_head_is_up_in_the_coronal_slice(self):
        volume = np.full(self.shape, -1000, np.int16)
        volume[9] = 240  # above the axial slices that are drawn
        rows, columns = np.nonzero(self.draw(volume=volume).min(axis=2) > 250)
        height, width = self.draw().shape[:2]
        assert rows.mean() < 0.3 * height
        assert columns.min() > width * 9 / 11


def coloured(picture, colour):
    """The pixels of a colour, give or take what a smooth edge mixes in."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return np.abs(picture - rgb).max(axis=2) < 12


def first_panel(picture):
    """The first of three axial panels 20 mm wide and a coronal one as high and 2/3 as wide."""
    return picture[:, : picture.shape[1] * 3 // 11]
