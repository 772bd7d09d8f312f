"""The report holds all it shows, runs nothing people typed, and its pictures are true."""

import base64
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from stages.evaluate.background import Background, Folded, StageTime
from stages.evaluate.distributions import distributions_picture
from stages.evaluate.known_problems import KnownProblem, of_problems
from stages.evaluate.pictures import PREDICTION_COLOUR, TRUTH_COLOUR, Picture, case_picture
from stages.evaluate.report import IN_PAGE_BYTES, Report, write_report
from stages.evaluate.scores import CaseScores
from stages.evaluate.shown import duration, number, signed
from stages.evaluate.slice_error import SliceError, largest_error
from stages.evaluate.summary import summarise
from stages.evaluate.tiles import tiles

INSIDE = 5  # pictures that fit into a report, of the size that tests make
MINUS, DASH = "\N{MINUS SIGN}", "\N{EN DASH}"


class Page(HTMLParser):
    """A report as its reader has it: rows of the tables by id, addresses, and all text."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.addresses, self.tags, self.text = [], [], [], ""
        self.in_cell, self.of_cases, self.all = False, range(0), []
        self.feed(html)
        self.text = " ".join(self.text.split())
        self.all = [[" ".join(cell.split()) for cell in row] for row in self.cells]
        self.rows = self.all[self.of_cases.start : self.of_cases.stop]  # of the cases' scores

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if ("id", "cases") in attrs:
            self.of_cases = range(len(self.cells), -1)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")
            self.in_cell = True

    def handle_endtag(self, tag):
        self.in_cell = self.in_cell and tag not in ("td", "th")
        if tag == "table" and self.of_cases.stop < 0:
            self.of_cases = range(self.of_cases.start, len(self.cells))

    def handle_data(self, data):
        self.text += data
        if self.in_cell:
            self.cells[-1][-1] += data


@pytest.fixture
def write_page(tmp_path):
    """Write a report of some cases, and read it back."""

    def write(*cases, pictures=(), **background):
        path = tmp_path / "reports" / "report.html"
        report = Report(
            background_of(**background), cases, cases, summarise(cases), b"spread", pictures, 2.0
        )
        write_report(path, report)
        return Page(path.read_text(encoding="utf-8"))

    return write


def background_of(**known):
    """What is known of a model of which little is known."""
    nothing = {"facts": [], "folded": [], "curves": b"curves", "problems": None, "times": []}
    return Background(**(nothing | known))


def problem(severity="skipped", **fields):
    usual = {"rule": "readable", "case_id": "7", "path": "image/7.nii", "fact": "no", "fix": "see"}
    return KnownProblem(severity, **(usual | fields))


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
        assert row[3:7] == ["0.912", "0.700", "4.0", "1.50"]
        assert row[7:] == ["0.800", "0.850", "0.950", "1,500", "1,450", f"{MINUS}50", "+3.5"]

    def test_the_worst_case_comes_first(self, write_page):
        page = write_page(scores_of("good", dice=0.99), scores_of("bad", dice=0.2))
        assert [row[0] for row in page.rows[1:]] == ["bad", "good"]

    def test_nan_is_a_dash_and_infinity_its_sign(self, write_page):
        row = write_page(scores_of(dice=math.nan, hd95_mm=math.inf)).rows[1]
        assert row[3] == DASH
        assert row[5] == "∞"

    def test_what_people_typed_is_shown_not_run(self, write_page):
        typed = "<script>alert(1)</script>"
        case = scores_of(typed, "test")
        page = write_page(
            case,
            facts=[("<i>", "<b>")],
            folded=[Folded("<u>", ["<em>"], [["<q>"]])],
            problems=of_problems([problem(case_id=typed, path="<s>", fact="<a>", fix="<del>")]),
            times=[StageTime("<ins>", 1.0, "<var>")],
            pictures=[(case, Picture(b"png", None))],
        )
        assert page.rows[1][0] == typed
        assert page.tags.count("script") == 1  # the one that sorts the table
        assert not {"i", "b", "u", "em", "q", "s", "a", "del", "ins", "var"} & set(page.tags)

    def test_pictures_are_inside_the_file(self, write_page):
        good, bad = scores_of("good", dice=0.99), scores_of("bad", dice=0.2)
        pictures = [(good, Picture(b"of good", None)), (bad, Picture(b"of bad", None))]
        page = write_page(good, bad, pictures=pictures)
        prefix = "data:image/png;base64,"
        assert all(address.startswith(prefix) for address in page.addresses)
        embedded = [base64.b64decode(address.removeprefix(prefix)) for address in page.addresses]
        assert embedded == [b"spread", b"curves", b"of bad", b"of good"]

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

    def test_the_report_says_that_it_is_not_for_clinical_use(self, write_page):
        assert "Not for clinical use" in write_page(scores_of()).text

    def test_a_report_can_be_written_without_a_case(self, write_page):
        assert len(write_page().rows) == 1

    def test_a_problem_is_told_with_its_file_and_what_to_do(self, write_page):
        problems = of_problems([problem(), problem("warning", rule="liver_volume")])
        page = write_page(scores_of(), problems=problems)
        assert ["skipped", "readable", "1"] in page.all
        assert ["skipped", "readable", "7", "image/7.nii", "no", "see"] in page.all

    def test_a_missing_list_of_problems_does_not_pass_for_an_empty_one(self, write_page):
        assert "problems.json, was not there" in write_page(scores_of(), problems=None).text

    def test_a_time_nobody_recorded_is_said_to_be_unknown(self, write_page):
        times = [StageTime("Preparation", None), StageTime("Training", 75.0, "2 epochs")]
        page = write_page(scores_of(), times=times)
        assert ["Preparation", "not recorded", ""] in page.all
        assert ["Training", "1 min 15 s", "2 epochs"] in page.all

    def test_the_slice_with_the_largest_error_is_told_in_numbers(self, write_page):
        case = scores_of()
        page = write_page(case, pictures=[(case, Picture(b"png", SliceError(12, 3.14, 0.26)))])
        assert "largest error in slice 12: 3.1 cm² missed, 0.3 cm² too much" in page.text

    def test_a_case_without_an_error_is_said_to_have_none(self, write_page):
        case = scores_of()
        page = write_page(case, pictures=[(case, Picture(b"png", None))])
        assert "no error on the prepared grid" in page.text


class TestLargeReport:
    """A report of so many cases that not all of their pictures are in it."""

    @pytest.fixture
    def shown(self):
        cases = [scores_of(f"c{at:03}", dice=at / 1000) for at in range(INSIDE + 2)]
        return [(case, Picture(png_of(width=at + 1), None)) for at, case in enumerate(cases)]

    @pytest.fixture
    def large(self, write_page, shown):
        return write_page(*(case for case, _ in shown), pictures=shown)

    def test_the_worst_cases_pictures_are_in_the_file_and_the_others_beside_it(
        self, large, shown, tmp_path
    ):
        addresses = large.addresses[2:]  # after distributions and curves
        assert all(one.startswith("data:image/png;base64,") for one in addresses[:INSIDE])
        beside = [(tmp_path / "reports" / one).read_bytes() for one in addresses[INSIDE:]]
        assert beside == [picture.png for _, picture in shown[INSIDE:]]

    def test_a_picture_that_is_loaded_late_has_its_place_before(self, large, tmp_path):
        html = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
        found = re.findall(r'loading="lazy" decoding="async" width="(\d+)" height="(\d+)"', html)
        assert found == [(f"{INSIDE + 1}", "7"), (f"{INSIDE + 2}", "7")]

    def test_a_large_report_loads_pictures_from_its_own_folder_and_nothing_else(
        self, large, tmp_path
    ):
        html = (tmp_path / "reports" / "report.html").read_text(encoding="utf-8")
        assert "default-src 'none'; img-src data: 'self' file:; " in html
        assert all(re.match(r"data:image/png|report_files/\w+\.png$", a) for a in large.addresses)

    def test_a_large_report_says_which_folder_belongs_to_it(self, large, write_page):
        words = "all others in the folder report_files beside it"
        assert words in large.text
        assert words not in write_page(scores_of()).text

    def test_a_smaller_report_leaves_no_pictures_of_the_larger_one(
        self, large, write_page, tmp_path
    ):
        write_page(scores_of())
        assert list((tmp_path / "reports" / "report_files").iterdir()) == []


def png_of(*, width):
    """A PNG 7 pixels high, of which as many as ``INSIDE`` fit into a report."""
    buffer = io.BytesIO()
    Image.new("L", (width, 7)).save(buffer, "PNG")
    return buffer.getvalue().ljust(IN_PAGE_BYTES // INSIDE, b".")


class TestTiles:
    def test_a_tile_has_the_summarys_figures_rounded(self):
        summary = summarise([scores_of("a", dice=0.9), scores_of("b", dice=0.95)])
        dice = tiles(summary)[0]
        assert (dice.name, dice.mean, dice.median, dice.undefined) == ("Dice", "0.925", "0.925", 0)
        assert dice.interval == DASH
        assert dice.no_interval == "2 patients with a value, fewer than 10"
        assert dice.sd == "0.035"

    def test_a_tile_of_ten_patients_has_their_interval(self):
        dice = tiles(summarise([scores_of(f"p{index}", dice=0.9) for index in range(10)]))[0]
        assert (dice.interval, dice.no_interval) == ("0.900 to 0.900", "")

    def test_a_page_of_few_patients_says_why_it_has_no_interval(self, write_page):
        assert (
            "no 95 % interval: 1 patient with a value, fewer than 10"
            in write_page(scores_of()).text
        )

    def test_what_one_case_cannot_tell_is_a_dash(self):
        dice = tiles(summarise([scores_of()]))[0]
        assert (dice.interval, dice.sd) == (DASH, DASH)

    def test_without_a_finite_value_the_mean_is_a_dash(self):
        distance = tiles(summarise([scores_of(hd95_mm=math.inf)]))[2]
        assert (distance.name, distance.mean, distance.undefined) == ("HD95", DASH, 1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "not recorded"),
        (0.04, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599.4, "59 min 59 s"),
        (3599.6, "1 h 0 min"),
        (12_240.0, "3 h 24 min"),
    ],
)
def test_a_time_is_told_as_people_say_it(seconds, text):
    assert duration(seconds) == text


class TestDistributions:
    @pytest.mark.parametrize("count", [0, 1, 2, 100])
    def test_any_number_of_cases_can_be_drawn(self, count):
        cases = [scores_of(f"c{index}", dice=1 - index / 200) for index in range(count)]
        picture = Image.open(io.BytesIO(distributions_picture(cases, cases)))
        assert picture.size == (1920, 592)

    def test_cases_without_a_value_are_told_and_not_drawn(self):
        none = scores_of("n", dice=math.nan, surface_dice=math.nan, hd95_mm=math.nan)
        infinite = scores_of("i", dice=0.0, surface_dice=0.0, hd95_mm=math.inf)
        some = [scores_of("a"), scores_of("b")]
        without = distributions_picture(some, some)
        assert distributions_picture([*some, none, infinite], some) != without

    def test_a_case_that_counts_is_filled_and_a_seen_one_is_hollow(self):
        case = scores_of()
        filled, hollow = (blue(distributions_picture([case], counted)) for counted in ([case], []))
        assert filled > 1.5 * hollow > 0


def blue(png):
    """How many pixels have the colour of the dots, as it is on white."""
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return np.count_nonzero((picture[..., 2] - picture[..., 0] > 100).ravel())


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
        drawn = case_picture(
            np.full(self.shape, -1000, np.int16) if volume is None else volume,
            empty if truth is None else truth,
            empty if prediction is None else prediction,
            spacing_zyx_mm=self.spacing,
            hu_window=None,
        )
        return np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB")).astype(int)

    def block(self):
        mask = np.zeros(self.shape, np.uint8)
        mask[2:8, 4:12, 3:7] = 1  # 8 mm on both sides of an axial slice
        return mask

    def test_the_outlines_of_truth_and_prediction_are_both_drawn(self):
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
        assert columns.mean() > 0.7 * width * 3 / 14

    def test_the_head_is_up_in_the_coronal_slice(self):
        volume = np.full(self.shape, -1000, np.int16)
        volume[9] = 240  # above the axial slices that are drawn
        rows, columns = np.nonzero(self.draw(volume=volume).min(axis=2) > 250)
        height, width = self.draw().shape[:2]
        assert rows.mean() < 0.3 * height
        assert columns.min() > width * 9 / 14

    def test_missed_and_wrongly_found_liver_are_tinted_where_most_differs(self):
        truth, prediction = self.block(), self.block()
        truth[3, 4:12, 1:3] = 1  # missed, on the patient's right
        prediction[3, 14:18, 3:7] = 1  # too much, at the back
        volume = np.full(self.shape, -1000, np.int16)
        last = last_panel(self.draw(volume=volume, truth=truth, prediction=prediction))
        missed, extra = (
            np.nonzero(coloured(last, dimmed(colour)))
            for colour in (TRUTH_COLOUR, PREDICTION_COLOUR)
        )
        height, width = last.shape[:2]
        # 8 of 20 rows from the fourth, and 4 from the fourteenth, below a title of 8 %
        assert np.ptp(missed[0]) == pytest.approx(0.92 * height * 8 / 20, rel=0.05)
        assert missed[1].mean() < width * 0.25
        assert extra[0].mean() == pytest.approx(height * (0.08 + 0.92 * 0.8), rel=0.05)

    def test_where_nothing_differs_nothing_is_tinted(self):
        last = last_panel(self.draw(truth=self.block(), prediction=self.block()))
        for colour in (TRUTH_COLOUR, PREDICTION_COLOUR):
            assert not coloured(last, dimmed(colour)).any()


class TestLargestError:
    def test_the_slice_with_the_most_differing_voxels_is_found(self):
        truth, prediction = np.zeros((2, 3, 5, 7), bool)
        truth[1, 0, :2] = True
        prediction[2, 1:3, :4] = True
        prediction[2, 4, 6] = truth[2, 4, 6] = True  # agreed
        truth[2, 3, 3] = True
        error = largest_error(truth, prediction, (2.5, 2.0, 5.0))
        assert (error.index, error.missed_cm2) == (2, pytest.approx(0.1))
        assert error.extra_cm2 == pytest.approx(0.8)

    def test_equal_masks_have_no_slice_with_an_error(self):
        mask = np.ones((3, 5, 7), bool)
        assert largest_error(mask, mask, (1.0, 2.0, 3.0)) is None


def dimmed(colour):
    """A tint on black."""
    return "#" + "".join(f"{round(int(colour[at : at + 2], 16) * 0.75):02x}" for at in (1, 3, 5))


def coloured(picture, colour):
    """The pixels of a colour, give or take what a smooth edge mixes in."""
    rgb = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return np.abs(picture - rgb).max(axis=2) < 12


def first_panel(picture):
    """The first of three axial panels 20 mm wide, a coronal one 2/3 as wide, and an axial one."""
    return picture[:, : picture.shape[1] * 3 // 14]


def last_panel(picture):
    """The axial one with the largest error."""
    return picture[:, picture.shape[1] * 11 // 14 + 2 :]
