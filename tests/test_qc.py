"""The picture of a case, and the page that shows all of them: true to the patient, safe to open."""

import base64
import io
import re
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from stages.preprocess.picture import LONGEST_SIDE, case_picture, liver_slice
from stages.preprocess.problems import Problem
from stages.preprocess.qc import IN_PAGE_BYTES, Card, write_qc

SHAPE_ZYX = (6, 40, 50)
SPACING_ZYX_MM = (5.0, 2.0, 2.0)
INSIDE = 5  # pictures that fit into the page, of the size that tests make
OF_SOURCE = ("source_shape_zyx", "source_spacing_zyx_mm")
EVIL = '<script>alert("1")</script>'


@pytest.fixture
def draw():
    """Draw a picture of soft tissue with a liver, by default a block; gives an RGB array."""

    def draw_case(liver=(3, slice(10, 20), slice(5, 30)), *, spacing=SPACING_ZYX_MM, volume=None):
        volume = np.full(SHAPE_ZYX, 40, np.int16) if volume is None else volume
        mask = np.zeros(volume.shape, np.uint8)
        if liver is not None:
            mask[liver] = 1
        jpeg = case_picture(volume, mask, spacing)
        with Image.open(io.BytesIO(jpeg)) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            return np.asarray(image).astype(int)

    return draw_case


@pytest.fixture
def page(tmp_path):
    """Write the page and give its text."""

    def write(cards=(), problems=()):
        write_qc(tmp_path / "qc.html", cards, list(problems))
        return (tmp_path / "qc.html").read_text(encoding="utf-8")

    return write


def card(case_id="1", *, patient_id=None, picture=b"jpeg", source=None):
    """A card of a case, or without a picture of one that was left out."""
    facts = (1234.5, (10, 20, 30), (5.0, 0.75, 0.7)) if picture else (None, None, None)
    known = {} if source is None else dict(zip(OF_SOURCE, source, strict=True))
    return Card(case_id, patient_id or case_id, picture, *facts, **known)


def problem(case_id="1", *, severity="skipped", rule="truncated", fact="ends early", path="ct.nii"):
    return Problem(severity, rule, case_id, path, fact, "export it again")


def coloured(picture):
    """The pixels of the outline; all others are grey."""
    return np.ptp(picture, axis=-1) > 110


def cards_of(html):
    """The cards of a page, each as its markup."""
    return re.findall("<article.*?</article>", html, re.DOTALL)


def text_of(html):
    """What is to be read of some markup, blanks and line breaks alike."""
    return " ".join(re.sub("<[^>]+>", " ", html).split())


class TestCasePicture:
    def test_the_outline_is_the_border_of_the_mask(self, draw):
        # 50 voxels are 224 pixels, so one voxel is 4.48: rows 10 to 20 begin at 45 and end at 90
        outline = coloured(draw())
        rows, columns = np.nonzero(outline.any(axis=1))[0], np.nonzero(outline.any(axis=0))[0]
        assert (rows.min(), rows.max()) == pytest.approx((45, 89), abs=2)
        assert (columns.min(), columns.max()) == pytest.approx((22, 134), abs=2)
        assert not outline[52:82, 30:126].any()

    def test_a_mask_up_to_the_rim_of_the_picture_is_outlined_there_too(self, draw):
        outline = coloured(draw((3, slice(None), slice(None))))
        assert outline[0].all()
        assert outline[:, -1].all()
        assert not outline[4:-4, 4:-4].any()

    def test_a_liver_smaller_than_a_pixel_still_shows(self, draw):
        volume = np.zeros((3, 900, 900), np.int16)
        assert coloured(draw((1, 450, 450), volume=volume)).any()

    def test_pixels_are_as_wide_as_high_whatever_the_spacing(self, draw):
        # 40 rows of 3 mm are 120 mm, 50 columns of 1 mm are 50 mm
        assert draw(spacing=(5.0, 3.0, 1.0)).shape[:2] == (LONGEST_SIDE, round(224 * 50 / 120))

    @pytest.mark.parametrize(
        ("shape_yx", "pixels_yx"), [((1, 800), (1, LONGEST_SIDE)), ((800, 1), (LONGEST_SIDE, 1))]
    )
    def test_a_strip_thinner_than_a_pixel_is_drawn(self, draw, shape_yx, pixels_yx):
        volume = np.zeros((2, *shape_yx), np.int16)
        assert draw(None, volume=volume).shape[:2] == pixels_yx

    def test_an_empty_mask_gives_the_middle_slice_without_outline(self, draw):
        volume = np.full(SHAPE_ZYX, -160, np.int16)
        volume[3] = 240
        picture = draw(None, volume=volume)
        assert picture.min() == 255

    def test_the_window_is_soft_tissue(self, draw):
        volume = np.full(SHAPE_ZYX, -1000, np.int16)
        volume[:, :, 25:] = 40  # the middle of -160 to 240
        volume[:, :20] = 3000
        picture = draw(None, volume=volume)
        assert picture[50, 50] == pytest.approx(255, abs=2)
        assert picture[170, 50] == pytest.approx(0, abs=2)
        assert picture[170, 170] == pytest.approx(128, abs=2)

    def test_the_patients_left_is_on_the_right_and_the_front_above(self, draw):
        volume = np.full(SHAPE_ZYX, -160, np.int16)
        volume[:, :20, 25:] = 240  # small y is anterior, large x is left in LPS
        picture = draw(None, volume=volume)
        assert picture[40, 180] == pytest.approx(255, abs=2)
        assert picture[40, 40].max() < 5
        assert picture[140, 180].max() < 5

    def test_the_same_arrays_give_the_same_bytes(self):
        rng = np.random.default_rng(20)
        volume = rng.integers(-200, 300, SHAPE_ZYX).astype(np.int16)
        mask = (rng.random(SHAPE_ZYX) < 0.3).astype(np.uint8)
        first = case_picture(volume, mask, SPACING_ZYX_MM)
        assert first == case_picture(volume.copy(), mask.copy(), SPACING_ZYX_MM)

    def test_a_view_of_a_larger_array_is_drawn_like_its_copy(self):
        rng = np.random.default_rng(21)
        volume = rng.integers(-200, 300, (9, 60, 70)).astype(np.int16)[2:8, 5:45, 9:59]
        mask = (rng.random((9, 60, 70)) < 0.3).astype(np.uint8)[2:8, 5:45, 9:59]
        first = case_picture(volume, mask, SPACING_ZYX_MM)
        assert first == case_picture(volume.copy(), mask.copy(), SPACING_ZYX_MM)


@pytest.mark.parametrize(
    ("voxels_of_slices", "slice_shown"),
    [([0, 1, 0, 0], 1), ([1, 0, 0, 8], 3), ([4, 4, 0, 0], 0), ([0, 3, 1, 3], 2), ([0] * 4, 2)],
)
def test_the_slice_shown_holds_the_median_of_the_livers_voxels(voxels_of_slices, slice_shown):
    mask = np.zeros((4, 3, 3), np.uint8)
    for plane, count in zip(mask, voxels_of_slices, strict=True):
        plane.flat[:count] = 1
    assert liver_slice(mask) == slice_shown


class TestPage:
    def test_a_card_counts_every_value_of_the_label_but_the_background(self, page):
        counted = [
            {"value": 0, "name": "", "voxels": 9, "ml": 1.0, "use": "background"},
            {"value": 1, "name": "liver", "voxels": 6789, "ml": 732.4, "use": "liver"},
            {"value": 5, "name": "", "voxels": 75, "ml": None, "use": "undeclared"},
        ]
        text = text_of(page([replace(card(), label_counts=counted)]))
        assert "1 liver: 6,789 voxels, 732 ml, liver" in text
        assert "5: 75 voxels, not declared, not liver" in text
        assert "0: 9 voxels" not in text

    def test_a_case_shows_its_picture_its_liver_and_its_grids(self, page):
        source = ((40, 50, 60), (2.5, 0.5, 0.4))
        html = page([card("torso", patient_id="Ada", picture=b"some jpeg", source=source)])
        assert "data:image/jpeg;base64,c29tZSBqcGVn" in html
        [only] = cards_of(html)
        assert text_of(only) == (
            "R L torso patient Ada liver 1,234 ml 60·50·40 → 30·20·10 0.4·0.5·2.5 → 0.7·0.75·5 mm"
        )

    def test_the_grid_of_a_case_whose_source_is_not_known_is_said_to_be_the_prepared_one(
        self, page
    ):
        [only] = cards_of(page([card("torso")]))
        assert "prepared 30·20·10 prepared 0.7·0.75·5 mm" in text_of(only)

    def test_qc_says_that_it_is_not_for_clinical_use(self, page):
        assert "Not for clinical use" in page()

    def test_a_case_that_was_left_out_has_a_card_with_the_reason(self, page):
        html = page([card("cut", picture=b"")], [problem("cut", fact="is empty")])
        [only] = cards_of(html)
        assert "<img" not in only
        assert text_of(only) == "left out is empty cut truncated"

    def test_a_case_that_only_a_problem_names_has_a_card_too(self, page):
        html = page([card("a")], [problem("b", rule="ct_missing", fact="has no CT")])
        assert text_of(cards_of(html)[0]) == "left out has no CT b ct_missing"

    def test_a_case_left_out_with_a_picture_says_so(self, page):
        html = page([card("a"), card("b")], [problem("b", rule="same_ct")])
        left_out, kept = cards_of(html)
        assert "left out" in left_out
        assert "left out" not in kept

    def test_a_case_that_is_only_doubted_is_not_left_out(self, page):
        html = page([card("a")], [problem("a", severity="warning")])
        assert "left out" not in cards_of(html)[0]

    def test_problems_stand_gravest_first(self, page):
        listed = [("a", "fixed"), ("b", "warning"), ("c", "skipped"), ("d", "error")]
        html = page(problems=[problem(case_id, severity=severity) for case_id, severity in listed])
        [table] = re.findall("<tbody>.*?</tbody>", html, re.DOTALL)
        assert re.findall(r'<a href="#case-\d">(\w)</a>', table) == ["d", "c", "b", "a"]

    def test_a_problem_leads_to_the_card_of_its_case(self, page):
        html = page([card("a"), card("b")], [problem("b")])
        assert '<a href="#case-1">b</a>' in html
        assert 'id="case-1"' in next(one for one in cards_of(html) if ">b<" in one)

    def test_cases_with_problems_come_first_and_9_before_10(self, page):
        html = page([card("10"), card("9"), card("12"), card("11")], [problem("11"), problem("12")])
        assert re.findall(r"<h3>(\w+)</h3>", html) == ["11", "12", "9", "10"]

    def test_ids_of_thousands_of_digits_are_put_in_order_too(self, page):
        long = ["9" * 4999, "1" + "0" * 4999, "1" + "0" * 4998 + "1"]
        html = page([card(case_id) for case_id in reversed(long)], [])
        assert re.findall(r"<h3>(\w+)</h3>", html) == long

    def test_cases_and_problems_are_counted(self, page):
        problems = [problem("a"), problem("a", rule="checksum")]
        problems += [problem("b", severity="warning"), problem("", severity="ignored")]
        html = page([card("a", picture=b""), card("b"), card("c")], problems)
        assert re.findall(r'class="name">([^<]+)</div><div class="value">(\d+)<', html) == [
            ("cases", "3"),
            ("prepared", "2"),
            ("errors", "0"),
            ("skipped", "2"),
            ("warnings", "1"),
            ("fixed", "0"),
            ("files ignored", "1"),
        ]

    def test_ignored_files_are_not_listed(self, page):
        assert "notes.txt" not in page(problems=[problem("", severity="ignored", path="notes.txt")])

    def test_nothing_a_data_set_says_becomes_markup(self, page):
        cards = [card(EVIL, patient_id=f"p{EVIL}"), card(f"b{EVIL}", picture=b"")]
        found = problem(f"b{EVIL}", rule=EVIL, fact=EVIL, path=f"{EVIL}/ct.nii")
        html = page(cards, [found])
        assert html.count("<script>") == 1  # the page's own
        assert "alert(&#34;1&#34;)" in html
        assert 'alert("' not in html

    def test_a_small_qc_page_asks_for_nothing_outside_itself(self, page):
        html = page([card()], [problem()])
        assert "default-src 'none'" in html
        assert not re.search(r"""(src|href)\s*=\s*["'](?!data:image/jpeg|#)""", html)
        assert not re.search(r"https?://|@import|url\(|fetch\(", html)

    def test_a_path_whose_bytes_are_no_text_is_written(self, page):
        assert "\\udcff.nii" in page(problems=[problem(path="ct\udcff.nii")])

    def test_a_data_set_without_cases_has_a_page(self, page):
        assert cards_of(page()) == []

    def test_a_problem_of_no_case_is_listed_and_has_no_card(self, page):
        html = page(problems=[problem("", severity="warning", path="data.exclude")])
        assert "data.exclude" in html
        assert cards_of(html) == []

    def test_the_same_cases_in_another_order_give_the_same_page(self, page):
        cards = [card("a"), card("b"), card("c", picture=b"")]
        problems = [problem("b"), problem("c"), problem("b", severity="warning")]
        assert page(cards, problems) == page(cards[::-1], problems[::-1])

    def test_of_a_page_of_a_thousand_cases_a_small_part_is_in_memory(self, tmp_path):
        cards = [card(f"case-{number}", picture=bytes(10_000)) for number in range(1000)]
        tracemalloc.start()
        try:
            write_qc(tmp_path / "qc.html", cards, [])
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        size = (tmp_path / "qc.html").stat().st_size
        assert size > 13_000_000
        assert peak_bytes < size / 4

    def test_a_page_that_fails_half_way_leaves_the_old_one_and_no_scrap(self, page, tmp_path):
        before = page([card("old")])
        with pytest.raises(TypeError):
            page([*(card(f"{number}") for number in range(99)), card("last", picture="no bytes")])
        assert (tmp_path / "qc.html").read_text(encoding="utf-8") == before
        assert {path.name for path in tmp_path.iterdir()} == {"qc.html", "qc_files"}
        assert list((tmp_path / "qc_files").iterdir()) == []


class TestLargePage:
    """A page of so many cases that not all of their pictures are in it."""

    @pytest.fixture
    def pictures(self):
        whole = IN_PAGE_BYTES // INSIDE
        return [bytes([at]) * whole for at in range(INSIDE + 2)]

    @pytest.fixture
    def large(self, page, pictures):
        """A page of two pictures more than fit into it."""
        return page(card(f"{at}", picture=picture) for at, picture in enumerate(pictures))

    def test_the_first_pictures_are_in_the_page_and_the_others_beside_it(
        self, large, pictures, tmp_path
    ):
        sources = re.findall(r'<img src="([^"]+)"', large)
        inside, beside = sources[:INSIDE], sources[INSIDE:]
        assert all(source.startswith("data:image/jpeg;base64,") for source in inside)
        assert [(tmp_path / source).read_bytes() for source in beside] == pictures[INSIDE:]
        assert len(list((tmp_path / "qc_files").iterdir())) == 2

    def test_only_pictures_beside_the_page_wait_until_they_are_on_the_screen(self, large):
        images = re.findall("<img [^>]+>", large)
        assert ["lazy" in image for image in images] == [False] * INSIDE + [True] * 2

    def test_a_large_qc_page_loads_pictures_from_its_own_folder_and_nothing_else(self, large):
        assert "default-src 'none'; img-src data: 'self' file:; " in large
        assert not re.search(r"""(src|href)\s*=\s*["'](?!data:image/jpeg|#|qc_files/\w)""", large)

    def test_a_large_qc_page_says_which_folder_belongs_to_it(self, large, page):
        words = "all others in the folder qc_files beside it"
        assert words in text_of(large)
        assert words not in text_of(page([card()]))

    def test_cases_with_problems_have_their_pictures_in_the_page(self, page, pictures):
        cards = [card(f"{at}", picture=picture) for at, picture in enumerate(pictures)]
        html = page(cards, [problem(cards[-1].case_id, severity="warning")])
        encoded = base64.b64encode(pictures[-1]).decode()
        assert f'src="data:image/jpeg;base64,{encoded}"' in html

    def test_pictures_of_earlier_pages_are_deleted_and_other_files_are_not(
        self, large, page, tmp_path
    ):
        (tmp_path / "qc_files" / "notes.txt").touch()
        page([card("a")])
        assert [path.name for path in (tmp_path / "qc_files").iterdir()] == ["notes.txt"]

    def test_a_picture_cut_short_by_a_kill_is_written_again(self, large, page, pictures, tmp_path):
        for path in (tmp_path / "qc_files").iterdir():
            path.write_bytes(path.read_bytes()[:3])
        page(card(f"{at}", picture=picture) for at, picture in enumerate(pictures))
        found = {path.read_bytes() for path in (tmp_path / "qc_files").iterdir()}
        assert found == set(pictures[INSIDE:])
