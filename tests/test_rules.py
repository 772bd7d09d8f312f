"""The rules, one by one: up to where each passes, and what it says beyond."""

import ast
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from cache.grid import Grid
from stages.preprocess.policy import OTHER_FILES, RulesParams
from stages.preprocess.problems import Finding, Problem
from stages.preprocess.reading.stated import Stated
from stages.preprocess.rules import (
    ct,
    dataset,
    geometry,
    header,
    label,
    liver,
    organs,
    scale,
    series,
)

FILE = Path("src/case.nii.gz")
STAGE = Path(__file__).parent.parent / "stages" / "preprocess"
PACKAGE = STAGE / "rules"
# those of names and of what lies where, which are judged before any file is read
OF_THE_SCAN = {
    "ct_missing",
    "label_missing",
    "one_file_per_case",
    "safe_id",
    "patient_id",
    "unknown_exclusion",
    "case_count",
    "data_inside",
}
READING = ("read.py", "intact.py", "itk.py", "sniff.py", "dicom.py")
BY_READING = (*(f"reading/{name}" for name in READING), "crop.py")


def grid(shape_zyx=(50, 400, 500), spacing_zyx_mm=(5.0, 0.8, 0.7), **more):
    return Grid(shape_zyx, spacing_zyx_mm, **{"origin_xyz_mm": (-11.0, 7.0, 23.0), **more})


def hu_range_of(values):
    return ct.HuRange.of(np.array(values, np.int16).reshape(1, 1, -1))


def padded(share, *, value=-3024, size=10_000, rest=(-1000, 50)):
    """A CT of which this share is padding, the rest these values in turn."""
    volume = np.resize(np.array(rest, np.int16), size)
    volume[: round(share * size)] = value
    return volume.reshape(10, 20, -1)


class TestHeader:
    @pytest.mark.parametrize("name", ["a.nii.gz", "A.NII.GZ", "a", "a.ct", "1.2.840"])
    def test_an_ending_that_fits_or_claims_nothing_passes(self, name):
        assert header.extension(Path(name), ".nii.gz") is None

    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.nii", ".nii.gz"), ("a.nii.gz", ".nii"), ("a.mha", ".nrrd"), ("a.NRRD", ".nii")],
    )
    def test_an_ending_that_does_not_fit_is_told_and_can_be_ignored(self, name, content):
        found = header.extension(Path(name), content)
        assert found.fixable
        assert found.fact == f"is a {content} file by its content"

    def test_a_segmentation_in_nrrd_has_a_fitting_ending(self):
        assert header.extension(Path("liver.seg.nrrd"), ".nrrd") is None

    def test_content_nobody_knows_has_no_ending(self):
        assert header.extension(Path("a.nii"), None) is None

    def test_a_volume_of_three_dimensions_passes(self):
        assert header.three_dimensional(FILE, (7, 6, 5)) is None

    def test_further_dimensions_of_one_can_be_dropped(self):
        found = header.three_dimensional(FILE, (7, 6, 5, 1, 1))
        assert found.fixable
        assert found.fact == "has 5 dimensions (7·6·5·1·1), not 3"

    @pytest.mark.parametrize("size", [(7, 6), (7, 6, 5, 2), (7, 6, 5, 1, 3)])
    def test_fewer_or_several_volumes_cannot_be_mended(self, size):
        assert not header.three_dimensional(FILE, size).fixable

    def test_one_number_per_voxel_passes(self):
        assert header.plain_numbers(FILE, "16-bit signed integer", 1) is None

    @pytest.mark.parametrize(
        ("kind", "components"),
        [("vector of 8-bit unsigned integer", 3), ("complex of 32-bit float", 1), ("8-bit", 2)],
    )
    def test_several_numbers_per_voxel_break(self, kind, components):
        found = header.plain_numbers(FILE, kind, components)
        assert kind in found.fact
        assert not found.fixable

    def test_a_tiny_spacing_is_positive(self):
        assert header.spacing_positive(FILE, (1e-6, 0.8, 2.5)) is None

    @pytest.mark.parametrize("bad", [0.0, -0.7, float("nan"), float("inf")])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_spacing_that_is_no_length_breaks(self, bad, axis):
        spacing = [0.7, 0.8, 2.5]
        spacing[axis] = bad
        found = header.spacing_positive(FILE, spacing)
        assert f"{bad:.4g}" in found.fact
        assert not found.fixable

    def test_the_spacing_of_a_slice_has_two_axes(self):
        assert "(x, y) 0·0.8 mm" in header.spacing_positive(FILE, (0.0, 0.8)).fact

    @pytest.mark.parametrize("spacing", [(0.1, 0.8, 0.7), (20.0, 0.8, 0.7)])
    def test_spacings_at_the_limits_are_plausible(self, spacing):
        assert header.spacing_plausible(FILE, grid(spacing_zyx_mm=spacing)) is None

    @pytest.mark.parametrize("spacing", [(0.09, 0.8, 0.7), (20.1, 0.8, 0.7)])
    def test_spacings_beyond_the_limits_are_not_plausible(self, spacing):
        found = header.spacing_plausible(FILE, grid(spacing_zyx_mm=spacing))
        assert found.fact == (
            f"has the spacing (x, y, z) 0.7·0.8·{spacing[0]:.4g} mm; 0.1 to 20 mm are plausible"
        )

    @pytest.mark.parametrize("side_mm", [100, 1000])
    def test_a_field_of_view_at_the_limits_is_plausible(self, side_mm):
        view = grid((50, side_mm, side_mm), (1.0, 1.0, 1.0))
        assert header.spacing_plausible(FILE, view) is None

    @pytest.mark.parametrize("side_mm", [99, 1001])
    def test_a_field_of_view_beyond_is_not(self, side_mm):
        view = grid((50, side_mm, side_mm), (1.0, 1.0, 1.0))
        fact = header.spacing_plausible(FILE, view).fact
        # of 99·99·50 the second largest is 99; of 1001·1001·50 it is 1001
        assert f"covers (x, y, z) {side_mm}·{side_mm}·50 mm; 100 to 1000 mm" in fact

    def test_a_few_thin_slices_and_a_whole_body_are_plausible(self):
        assert header.spacing_plausible(FILE, grid((3, 400, 400), (1.0, 1.0, 1.0))) is None
        assert header.spacing_plausible(FILE, grid((1900, 400, 400), (1.0, 1.0, 1.0))) is None

    def test_right_angles_pass_however_turned(self):
        turned = (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
        assert header.direction(FILE, grid(direction=turned)) is None

    def test_a_direction_with_other_than_right_angles_breaks_its_rule(self):
        sheared = (1.0, 0.1, 0.0, 0.0, 0.995, 0.0, 0.0, 0.0, 1.0)
        found = header.direction(FILE, grid(direction=sheared))
        # rows (1, 0.1, 0) and (0, 0.995, 0) have the product 0.0995
        assert "not at right angles (the cosines are 0.100 off)" in found.fact
        assert not found.fixable

    def stated(self, **changes):
        """What a header says of ``grid()``, some entries of its sform in LPS mm changed."""
        matrix = np.array([[0.7, 0, 0, -11.0], [0, 0.8, 0, 7.0], [0, 0, 5.0, 23.0]])
        for place, value in changes.items():
            matrix["xyz".index(place[0]), "xyz1".index(place[1])] = value
        return Stated((0.7, 0.8, 5.0), matrix, has_qform=True)

    def test_an_sform_that_says_the_same_passes(self):
        assert header.direction(FILE, grid(), self.stated()) is None

    def test_an_sform_half_a_voxel_off_passes_and_one_further_off_breaks(self):
        # the finest spacing is 0.7 mm
        assert header.direction(FILE, grid(), self.stated(x1=-11.0 + 0.34)) is None
        found = header.direction(FILE, grid(), self.stated(x1=-11.0 + 0.36))
        assert "a corner is 0.4 mm apart" in found.fact

    def test_a_sheared_sform_breaks_the_rule_of_directions(self):
        # the last of 50 slices lies 49 · 0.5 = 24.5 mm sideways
        found = header.direction(FILE, grid(), self.stated(xz=0.5))
        assert found.fact == "its sform is sheared: a corner is 24.5 mm apart"

    @pytest.mark.parametrize(
        ("spacing", "origin"), [((1.0, 1.0, 1.0), (0.0, 0.0, -5.0)), ((1.0, 1.0, 0.9), (0, 0, 0))]
    )
    def test_a_geometry_that_is_not_the_identity_passes(self, spacing, origin):
        known = grid(spacing_zyx_mm=spacing, origin_xyz_mm=origin)
        assert header.identity_affine(FILE, known) is None

    def test_the_identity_is_a_lost_geometry(self):
        lost = grid(spacing_zyx_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0))
        assert header.identity_affine(FILE, lost).rule == "identity_affine"


class TestSeries:
    def test_a_series_with_even_slice_distances_passes(self):
        assert series.dicom_gaps(FILE, [23.0, 25.5, 28.0, 30.5]) is None

    @pytest.mark.parametrize("positions", [[5.0], [5.0, 9.0]])
    def test_one_or_two_slices_have_no_gap(self, positions):
        assert series.dicom_gaps(FILE, positions) is None

    def test_distances_may_differ_by_a_twentieth(self):
        assert series.dicom_gaps(FILE, [0.0, 10.0, 20.0, 30.49, 40.49]) is None
        assert series.dicom_gaps(FILE, [0.0, 10.0, 20.0, 30.51, 40.51]) is not None

    def test_a_gap_is_told_with_its_place(self):
        found = series.dicom_gaps(FILE, [0.0, 2.0, 4.0, 8.0, 10.0])
        assert found.fact == (
            "its slices are 2.000 mm apart, but 4.000 mm between 4.000 and 8.000 mm; "
            "1 of 4 distances differ"
        )
        assert not found.fixable

    def test_a_series_without_repeated_slices_passes(self):
        assert series.dicom_repeats(FILE, 0, is_same=True) is None

    @pytest.mark.parametrize("is_same", [True, False])
    def test_repeats_can_be_dropped_only_if_they_are_equal(self, is_same):
        found = series.dicom_repeats(FILE, 3, is_same=is_same)
        assert found.fixable == is_same
        assert "3 slices" in found.fact

    def test_slices_stacked_along_their_normal_pass(self):
        origins = np.array([[0.0, 0.0, 0.0], [0.0, 0.09, 10.0]])
        assert series.gantry_tilt(FILE, origins, np.array([0.0, 0.0, 1.0])) is None

    def test_slices_stacked_aslant_break_the_direction(self):
        origins = np.array([[0.0, 0.0, 0.0], [0.0, 0.11, 10.0]])
        found = series.gantry_tilt(FILE, origins, np.array([0.0, 0.0, 1.0]))
        assert (found.rule, found.fixable) == ("direction", False)
        assert "0.6 degrees" in found.fact  # arctan 0.011

    def test_one_slice_has_no_tilt(self):
        assert series.gantry_tilt(FILE, np.zeros((1, 3)), np.array([0.0, 0.0, 1.0])) is None


class TestVoxels:
    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.float32, np.float64])
    def test_numbers_are_finite(self, dtype):
        assert ct.finite(FILE, np.arange(30, dtype=dtype)) is None

    def test_numbers_whose_sum_is_too_large_are_finite(self):
        assert ct.finite(FILE, np.full(30, 1e308)) is None

    def test_a_few_nan_can_be_taken_for_air(self):
        found = ct.finite(FILE, np.float32([1, np.nan, 3, 4, np.nan]))
        assert found.fact == "2 voxels are NaN and 0 infinite, of 5"
        assert found.fixable

    def test_a_ct_of_which_half_is_nan_cannot_be_mended(self):
        assert not ct.finite(FILE, np.float32([1, np.nan])).fixable

    @pytest.mark.parametrize("bad", [np.inf, -np.inf])
    def test_infinite_voxels_cannot_be_mended(self, bad):
        found = ct.finite(FILE, np.float32([1, bad, 3, 4, np.nan]))
        assert found.fact == "1 voxels are NaN and 1 infinite, of 5"
        assert not found.fixable

    def test_the_range_of_hu_is_taken_without_padding(self):
        assert hu_range_of([-1024, 0, 3071]) == ct.HuRange(-1024, 3071, None, -1024)

    def test_padding_is_the_lowest_value_if_many_voxels_have_it(self):
        assert ct.HuRange.of(padded(0.001)) == ct.HuRange(-3024, 50, -3024, -1000)

    def test_a_few_voxels_far_below_air_are_no_padding(self):
        assert ct.HuRange.of(padded(0.0009)).padding is None

    def test_the_lowest_value_of_a_ct_is_no_padding(self):
        assert ct.HuRange.of(padded(0.5, value=-1500)).padding is None
        assert ct.HuRange.of(padded(0.5, value=-1501)).padding == -1501

    def test_a_ct_of_nothing_but_padding_has_a_range(self):
        assert ct.HuRange.of(padded(1.0)) == ct.HuRange(-3024, -3024, -3024, -3024)

    def test_padding_is_told_with_its_share_and_can_be_mended(self):
        volume = padded(0.25)
        found = ct.padding(FILE, volume, ct.HuRange.of(volume))
        assert found.fact == "25.0% of its voxels are -3024, which marks what was not scanned"
        assert found.fixable

    def test_a_ct_without_padding_passes_and_stays_the_very_array(self):
        volume = padded(0.0)
        values = ct.HuRange.of(volume)
        assert ct.padding(FILE, volume, values) is None
        assert ct.without_padding(volume, values) is volume

    def test_padding_becomes_air_and_all_else_stays(self):
        volume = padded(0.25)
        mended = ct.without_padding(volume, ct.HuRange.of(volume))
        np.testing.assert_array_equal(mended[volume == -3024], -1000)
        np.testing.assert_array_equal(mended[volume != -3024], volume[volume != -3024])
        assert mended.dtype == np.int16

    def test_values_at_the_limits_of_hounsfield_units_pass(self):
        assert ct.hu_limits(FILE, hu_range_of([-1500, 0, 30710])) is None

    @pytest.mark.parametrize("values", [(-1501, 30710), (-1500, 30711)])
    def test_hu_beyond_the_limits_break_their_rule(self, values):
        found = ct.hu_limits(FILE, ct.HuRange(*values, None, values[0]))
        assert f"values run from {values[0]} to {values[1]}" in found.fact
        assert not found.fixable

    def test_padding_does_not_count_as_beyond_the_limits(self):
        assert ct.hu_limits(FILE, ct.HuRange.of(padded(0.25))) is None

    def test_air_and_tissue_at_the_limits_pass(self):
        assert ct.hu_range(FILE, hu_range_of([-800, -300])) is None

    @pytest.mark.parametrize("values", [(-799, 400), (-1000, -301)])
    def test_a_ct_without_air_or_without_tissue_breaks(self, values):
        found = ct.hu_range(FILE, hu_range_of(values))
        assert f"values run from {values[0]} to {values[1]}" in found.fact
        assert "intercept, usually" not in found.fact
        assert not found.fixable

    def test_values_as_stored_by_a_scanner_hint_at_the_intercept(self):
        assert "rescale intercept, usually -1024" in ct.hu_range(FILE, hu_range_of([0, 1100])).fact

    def test_the_range_of_stored_values_leaves_out_padding(self):
        stored = padded(0.2, value=-2000, rest=(0, 1100))
        found = ct.hu_range(FILE, ct.HuRange.of(stored))
        assert "values run from 0 to 1100" in found.fact
        assert "rescale intercept" in found.fact


def scan(*, shift=0, air=(-1010, -990), soft=(-90, 120), size=40_000):
    """A CT of half air and half soft tissue with a hundredth of bone, evenly spread values."""
    values = np.concatenate(
        [
            np.linspace(*air, size // 2),
            np.linspace(*soft, size // 2 - size // 100),
            np.linspace(300, 900, size // 100),
        ]
    )
    return (np.rint(values) + shift).astype(np.int16).reshape(20, 40, -1)


def not_hu(volume):
    return scale.not_hu(FILE, volume, ct.HuRange.of(volume))


class TestScale:
    def test_a_ct_in_hounsfield_units_passes(self):
        assert not_hu(scan()) is None

    def test_a_ct_cropped_to_soft_tissue_passes_where_it_has_fat(self):
        assert not_hu(scan(air=(-120, 40))) is None

    def test_a_ct_clipped_to_a_window_of_400_hu_passes(self):
        assert not_hu(np.clip(scan(), -160, 240)) is None

    def test_a_ct_shifted_by_1024_is_found_out_and_can_be_mended(self):
        found = not_hu(scan(shift=1024))
        assert found.fixable
        assert found.fact.startswith("values run from 14 to 1924, as of a CT whose rescale")

    def test_padding_beside_a_shifted_ct_does_not_hide_the_shift(self):
        volume = scan(shift=1024)
        volume[:2] = -2000
        values = ct.HuRange.of(volume)
        assert scale.not_hu(FILE, volume, values).fixable
        mended = scale.without_shift(volume, values)
        np.testing.assert_array_equal(mended[:2], -1000)
        np.testing.assert_array_equal(mended[2:], scan()[2:])

    def test_a_ct_shifted_by_1000_cannot_be_mended_for_its_air_is_at_zero(self):
        found = not_hu(np.maximum(scan(shift=1000), 0))
        assert not found.fixable
        assert "nothing is as dark as fat or air" in found.fact
        assert "rescale intercept, usually -1024, was left out" in found.fact

    def test_a_volume_without_the_soft_tissue_of_a_body_is_no_shifted_ct(self):
        # as an MR image has: intensities of all heights
        assert not not_hu(scan(shift=1024, soft=(-700, 900))).fixable

    def test_a_volume_without_bone_or_without_air_is_no_shifted_ct(self):
        assert not not_hu(np.minimum(scan(shift=1024), 1324)).fixable
        assert not not_hu(scan(shift=1024, air=(-90, 120))).fixable

    @pytest.mark.parametrize("low", [0, -128])
    def test_an_8_bit_picture_is_no_ct_whatever_its_lowest_value(self, low):
        picture = np.linspace(low, low + 255, 40_000).astype(np.int16).reshape(20, 40, -1)
        found = not_hu(picture)
        assert not found.fixable
        assert f"values run from {low} to {low + 255}" in found.fact

    def test_signed_values_that_wrapped_around_in_uint16_are_no_hu(self):
        wrapped = np.where(scan() < 0, 32767, scan()).astype(np.int16)
        assert not_hu(wrapped) is not None

    def test_nothing_but_air_is_no_ct(self):
        assert "nothing is denser than -300 HU" in not_hu(scan(soft=(-990, -900))[:10]).fact


class TestLabel:
    def test_names_that_are_there_pass(self):
        assert label.label_names(FILE, ["liver"], {"spleen": (1,), "liver": (6,)}) is None

    def test_no_names_wanted_pass_even_where_there_are_none(self):
        assert label.label_names(FILE, [], None) is None

    @pytest.mark.parametrize(
        ("names", "known"), [({"spleen": (1,), "kidney": (2,)}, "spleen, kidney"), (None, "none")]
    )
    def test_a_name_that_is_not_there_is_told_with_those_that_are(self, names, known):
        found = label.label_names(FILE, ["liver"], names)
        assert found.fact == f"has no structure named liver; the data set names {known}"
        assert not found.fixable

    @pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
    def test_a_label_of_whole_numbers_passes(self, dtype):
        assert label.label_integers(FILE, np.array([0, 1, 5], dtype)) is None

    def test_fractions_are_told_with_their_share_and_can_be_rounded(self):
        found = label.label_integers(FILE, np.float32([0, 0, 0.25, 1]))
        assert found.fact.startswith("25.00% of its values are no whole numbers")
        assert found.fixable

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_values_that_are_no_numbers_cannot_be_rounded(self, bad):
        found = label.label_integers(FILE, np.float32([0, 1, bad]))
        assert found.rule == "label_integers"
        assert not found.fixable

    def test_values_that_can_all_be_told_pass(self):
        assert label.label_values(FILE) is None

    @pytest.mark.parametrize(
        ("what", "fact"),
        [
            ({"negative": [-1]}, "has negative values (-1)"),
            (
                {"unseen": 1234},
                "has 255 (1,234 voxels) beside other values, which often means: not looked at; "
                "not taken for liver",
            ),
            (
                {"undeclared": {5: 75, 7: 1}},
                "has 5 (75 voxels), 7 (1 voxels), which the data set does not name: "
                "not taken for liver",
            ),
        ],
    )
    def test_values_that_say_no_liver_are_told_with_their_voxels(self, what, fact):
        found = label.label_values(FILE, **what)
        assert found.fact == fact
        assert not found.fixable

    def test_all_that_is_odd_about_values_stands_in_one_line(self):
        fact = label.label_values(FILE, negative=[-3], undeclared={5: 1}, unseen=1).fact
        assert fact.startswith("has negative values (-3); has 5 (1 voxels), which")
        assert "; has 255 (1 voxels)" in fact

    def test_three_values_can_all_be_a_liver_and_four_are_told(self):
        assert label.many_values(FILE, [1, 2, 3]) is None
        fact = label.many_values(FILE, [1, 2, 3, 4]).fact
        assert fact == "has 4 values above 0 (1, 2, 3, 4), all taken for liver"

    def test_a_list_of_many_values_is_cut_off(self):
        fact = label.many_values(FILE, range(1, 30)).fact
        assert "has 29 values above 0 (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, …)" in fact

    def test_other_organs_are_told_with_their_names_and_voxels(self):
        assert label.other_organs(FILE, {}) is None
        fact = label.other_organs(FILE, {"spleen": 1234, "left kidney": 5}).fact
        assert fact.startswith("names spleen (1,234 voxels), left kidney (5 voxels), which is not")

    def test_an_ignore_label_is_told_with_its_voxels_where_there_are_any(self):
        assert label.ignore_label(FILE, "", 0) is None
        fact = label.ignore_label(FILE, "2: ignore", 1234).fact
        assert fact.startswith("has 1,234 voxels of the data set's ignore label (2: ignore)")

    def test_one_voxel_is_a_liver(self):
        assert label.liver_empty(FILE, np.uint8([0, 1]), [0, 1], "any") is None

    @pytest.mark.parametrize(
        ("wanted", "said"),
        [("any", "above 0 is liver"), ([1, 6], "among 1, 6"), (["liver"], "among liver")],
    )
    def test_no_liver_is_told_with_the_values_that_are_there(self, wanted, said):
        found = label.liver_empty(FILE, np.zeros(4, np.uint8), [-1, 0], wanted)
        assert found.fact == f"has no liver: no value {said} (its values: -1, 0)"
        assert not found.fixable

    @pytest.mark.parametrize("millilitres", [100.0, 1500.0, 6000.0])
    def test_volumes_up_to_the_limits_pass(self, millilitres):
        assert label.liver_volume(FILE, millilitres) is None

    @pytest.mark.parametrize("millilitres", [99.9, 6000.1])
    def test_livers_of_volumes_beyond_the_limits_break_their_rule(self, millilitres):
        found = label.liver_volume(FILE, millilitres)
        assert found.fact == (
            f"the liver measures {millilitres:.1f} ml; 100 to 6000 ml are plausible"
        )
        assert not found.fixable


class TestLabelAndCt:
    def test_a_label_on_the_grid_of_its_ct_passes(self):
        assert geometry.label_grid(FILE, grid(), grid()) is None

    def test_another_size_is_told_in_x_y_z_and_can_be_mended(self):
        found = geometry.label_grid(FILE, grid(), grid((50, 400, 499)))
        assert found.fact == (
            "is not on the grid of the CT: "
            "size (x, y, z) is (499, 400, 50), the CT's is (500, 400, 50)"
        )
        assert found.fixable

    def test_a_shift_of_a_tenth_of_the_finest_voxel_passes(self):
        # a tenth of 0.7 mm
        near = grid(origin_xyz_mm=(-11.0, 7.0, 23.069))
        far = grid(origin_xyz_mm=(-11.0, 7.0, 23.071))
        assert geometry.label_grid(FILE, grid(), near) is None
        assert "origin (x, y, z) is (-11, 7, 23.071)" in geometry.label_grid(FILE, grid(), far).fact

    def test_a_spacing_counts_by_how_far_it_moves_the_last_corner(self):
        # 499 voxels: 0.0001 mm each moves the last by 0.0499 mm, 0.0002 mm by 0.0998 mm
        near = grid(spacing_zyx_mm=(5.0, 0.8, 0.7001))
        far = grid(spacing_zyx_mm=(5.0, 0.8, 0.7002))
        assert geometry.label_grid(FILE, grid(), near) is None
        fact = geometry.label_grid(FILE, grid(), far).fact
        assert "spacing (x, y, z) is (0.7002, 0.8, 5), the CT's is (0.7, 0.8, 5)" in fact

    def test_flipped_axes_are_another_grid(self):
        flipped = grid(direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))
        assert "direction" in geometry.label_grid(FILE, grid(), flipped).fact

    def boxes(self, gap_mm):
        """Two grids of 10·10·10 mm, one above the other with a gap between."""
        upper = grid((10, 10, 10), (1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 10.0 + gap_mm))
        return grid((10, 10, 10), (1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0)), upper

    def test_grids_that_share_a_little_space_overlap(self):
        assert geometry.overlap(FILE, *self.boxes(-0.1)) is None

    @pytest.mark.parametrize("gap_mm", [0.0, 0.1, 1000.0])
    def test_grids_that_only_touch_or_lie_apart_do_not(self, gap_mm):
        found = geometry.overlap(FILE, *self.boxes(gap_mm))
        assert found.fact == "is outside the CT: the two share no space"
        assert not found.fixable

    def test_grids_overlap_wherever_their_first_voxel_is(self):
        first = grid((10, 10, 10), (1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0))
        backwards = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)
        other = grid((10, 10, 10), (1.0, 1.0, 1.0), origin_xyz_mm=(9, 9, 9), direction=backwards)
        assert geometry.overlap(FILE, first, other) is None

    def test_no_liver_inside_the_ct_breaks_overlap_with_its_volume(self):
        found = label.overlap_of_liver(FILE, 333.25)
        assert (found.rule, found.fixable) == ("overlap", False)
        assert "(333.2 ml)" in found.fact

    @pytest.mark.parametrize("after_ml", [991.0, 1000.0, 1020.0])
    def test_a_hundredth_of_the_liver_may_lie_outside(self, after_ml):
        assert label.label_outside(FILE, 1000.0, after_ml) is None

    def test_more_of_it_is_told_with_its_share(self):
        found = label.label_outside(FILE, 1000.0, 989.0)
        assert found.fact == "1% of its liver (11.0 ml) lie outside the CT"
        assert not found.fixable

    def liver(self, hu):
        """A CT of air with a liver of this density, and its mask."""
        mask = np.zeros((6, 7, 8), np.uint8)
        mask[2:5, 2:6, 1:5] = 1
        return np.where(mask, hu, -1000).astype(np.int16), mask

    @pytest.mark.parametrize("hu", [-30, 60, 300])
    def test_densities_of_livers_pass(self, hu):
        assert label.liver_hu(FILE, *self.liver(hu)) is None

    @pytest.mark.parametrize("hu", [-31, 301])
    def test_livers_of_densities_beyond_the_limits_break_their_rule(self, hu):
        found = label.liver_hu(FILE, *self.liver(hu))
        assert f"below {hu} HU; -30 to 300 HU" in found.fact
        assert not found.fixable

    def test_the_median_counts_and_not_the_mean(self):
        volume, mask = self.liver(60)
        volume[2, 2:6, 1:5] = 3000  # a third of it
        assert label.median_hu(volume, mask) == 60

    def test_the_median_of_many_voxels_is_near_that_of_all(self):
        volume = np.random.default_rng(3).normal(60, 30, (70, 80, 90)).astype(np.int16)
        mask = np.ones(volume.shape, np.uint8)
        assert label.median_hu(volume, mask) == pytest.approx(60, abs=1)

    def test_a_mask_of_scattered_voxels_has_a_median(self):
        volume = np.full((150, 151, 152), 60, np.int16)
        mask = np.ones(volume.shape, np.uint8)
        mask[::2, ::2, ::2] = 0  # just those that would be looked at
        assert label.median_hu(volume, mask) == 60

    def test_an_empty_mask_has_no_median(self):
        assert np.isnan(label.median_hu(*self.liver(60)[:1], np.zeros((6, 7, 8), np.uint8)))

    def test_a_voxel_left_by_the_crop_is_enough(self):
        assert label.liver_cropped_away(FILE, np.uint8([[[0, 1]]])) is None
        assert label.liver_cropped_away(FILE, np.uint8([[[0, 0]]])).rule == "liver_cropped_away"


class TestWholeLiver:
    """What is asked of livers of 100 ml or more."""

    MASK = np.zeros((14, 20, 23), np.uint8)
    MASK[2:12, 3:16, 4:19] = 1
    HU = np.where(MASK, 110, -1000).astype(np.int16)
    HU[:, 0, 0] = 40  # a table

    def test_a_liver_of_soft_tissue_that_is_filled_passes(self):
        assert liver.strange_hu(FILE, self.HU, self.MASK) is None
        assert liver.label_filled(FILE, self.MASK) is None
        assert liver.liver_too_large(FILE, self.HU, self.MASK, 1900.0) is None

    def test_slices_with_liver_that_have_one_value_in_all_of_the_ct_are_lost(self):
        hu = self.HU.copy()
        hu[9:] = 0
        found = liver.strange_hu(FILE, hu, self.MASK)
        assert found.rule == "liver_hu"
        assert found.fact.startswith("3 of 10 slices with liver have one value in all of the CT")

    @pytest.mark.parametrize(("slices", "passes"), [(2, True), (3, False)])
    def test_more_than_a_fifth_of_a_liver_that_is_no_soft_tissue_is_told(self, slices, passes):
        hu = self.HU.copy()
        hu[2 : 2 + slices] += 1024
        found = liver.strange_hu(FILE, hu, self.MASK)
        assert (found is None) == passes

    @pytest.mark.parametrize(("axis", "name"), [(0, "axial"), (1, "coronal"), (2, "sagittal")])
    def test_slices_that_were_left_out_between_others_are_counted(self, axis, name):
        mask = np.moveaxis(self.MASK.copy(), axis, 0)
        mask[6], mask[8:10] = 0, 0
        found = liver.label_filled(FILE, np.moveaxis(mask, 0, axis))
        assert found.rule == "label_filled"
        assert found.fact.startswith(f"3 {name} slices between others with liver have none")

    def test_two_structures_beside_each_other_leave_no_slice_out(self):
        mask = np.zeros_like(self.MASK)
        mask[2:6, 3:9, 4:9], mask[8:12, 9:16, 10:19] = 1, 1
        assert liver.label_filled(FILE, mask) is None

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_speck_above_a_liver_is_no_slice_of_it(self, axis):
        mask = np.moveaxis(np.pad(self.MASK, 4), axis, 0)
        mask[1, 12:14, 12:14] = 1
        assert liver.label_filled(FILE, np.moveaxis(mask, 0, axis)) is None

    def test_an_outline_is_told(self):
        mask = np.zeros((14, 60, 63), np.uint8)
        mask[2:12, 3:56, 4:59] = 1
        assert liver.label_filled(FILE, mask) is None
        mask[2:12, 5:54, 6:57] = 0
        assert "is an outline" in liver.label_filled(FILE, mask).fact

    @pytest.mark.parametrize(("liver_ml", "passes"), [(6000.0, True), (6001.0, False)])
    def test_most_of_all_tissue_is_no_liver_beyond_six_litres(self, liver_ml, passes):
        assert (liver.liver_too_large(FILE, self.HU, self.MASK, liver_ml) is None) == passes

    def test_a_large_liver_in_a_larger_body_passes_up_to_fifteen_litres(self):
        body = np.full_like(self.HU, 0)
        assert liver.liver_too_large(FILE, body, self.MASK, 15_000.0) is None
        found = liver.liver_too_large(FILE, body, self.MASK, 15_001.0)
        assert found.fact == "the liver measures 15001 ml, which none ever did"


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            *("spleen", "Spleen", "left kidney", "kidney_tumour", "portal_vein_and_splenic_vein"),
            *("vertebrae_L1", "lung upper lobe", "gallbladder", "Milz", "rib_left_1", "body"),
            *("脾脏", "右肾", "селезёнка", "Baço", "milt", "Lien", "SPL", "background"),
        ],
    )
    def test_a_name_of_another_organ_is_no_part_of_a_liver(self, name):
        assert organs.is_other_organ(name)
        assert not organs.is_liver_part(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("liver", "Liver_1", "hepatic vessel", "liver tumour", "cancer", "Leber", "tumor"),
            *("portal vein", "liver_segment_4", "caudate lobe", "肝脏", "肝腫瘍", "печень"),
            *("Fígado", "lever", "Hepar", "karaciğer"),
        ],
    )
    def test_the_liver_and_what_is_in_it_is_no_other_organ(self, name):
        assert not organs.is_other_organ(name)
        assert organs.is_liver_part(name)

    @pytest.mark.parametrize("name", ["", "1", "mask", "class_7", "Segment_1", "organ", "rateau"])
    def test_a_name_that_says_nothing_is_neither(self, name):
        assert not organs.is_other_organ(name)

    @pytest.mark.parametrize("name", ["", "1", "mask", "class_7", "Segment_1", "organ", "Label 3"])
    def test_what_programs_call_a_structure_is_no_name(self, name):
        assert organs.is_nameless(name)
        assert not organs.is_nameless(f"liver {name}")

    @pytest.mark.parametrize(("name", "is_ignored"), [("ignore", 1), ("Ignore", 1), ("liver", 0)])
    def test_an_ignore_label_is_known_by_its_name(self, name, is_ignored):
        assert organs.is_ignored(name) == bool(is_ignored)


class TestDataSet:
    def test_one_patient_may_have_the_same_ct_twice(self):
        assert dataset.same_ct(FILE, "p1", ("case-1", "p1")) is None

    def test_two_patients_may_not_have_the_same_ct(self):
        found = dataset.same_ct(FILE, "p2", ("case-1", "p1"))
        assert found.fact == "holds the very voxels of case case-1, of another patient"
        assert not found.fixable


def rule_functions():
    """Names of all functions of the rules' modules."""
    modules = (header, series, ct, scale, label, liver, geometry, dataset)
    return {name for module in modules for name in vars(module) if not name.startswith("_")}


def quoted_by_readers():
    """All texts in the modules that read, which name a rule where they refuse a file."""
    trees = [ast.parse((STAGE / name).read_text(encoding="utf-8")) for name in BY_READING]
    constants = (
        node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant)
    )
    return {node.value for node in constants if isinstance(node.value, str)}


def found_by_rules():
    """Pairs of a rule's name and whether its finding can be fixable, wherever one is made."""
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Finding":
                yield node.args[0].value, any(word.arg == "fixable" for word in node.keywords)


class TestPolicies:
    FIELDS = tuple(RulesParams.model_fields)

    @pytest.mark.parametrize("rule", [rule for rule in FIELDS if rule not in OF_THE_SCAN])
    def test_every_rule_is_a_function_or_named_where_files_are_read(self, rule):
        assert rule in rule_functions() | quoted_by_readers()

    def test_every_finding_of_the_rules_has_a_policy(self):
        assert {rule for rule, _ in found_by_rules()} <= set(self.FIELDS)

    @pytest.mark.parametrize("rule", FIELDS)
    def test_fix_is_offered_just_where_something_can_be_mended(self, rule):
        offered = "fix" in get_args(RulesParams.model_fields[rule].annotation)
        can_be = any(fixable for name, fixable in found_by_rules() if name == rule)
        assert offered == can_be

    def test_what_cannot_be_mended_is_skipped_where_it_should_be(self, rules):
        policy = rules(padding="fix").policy("padding")
        assert Finding("padding", FILE, "fact", "fix", fixable=True).severity(policy) == "fixed"
        assert Finding("padding", FILE, "fact", "fix").severity(policy) == "skipped"

    @pytest.mark.parametrize(
        ("policy", "severity"),
        [("error", "error"), ("skip", "skipped"), ("warn", "warning"), ("fix", "fixed")],
    )
    def test_a_policy_decides_what_a_finding_becomes(self, policy, severity):
        problem = Problem.of(Finding("padding", FILE, "fact", "fix", fixable=True), "7", policy)
        assert problem == Problem(severity, "padding", "7", str(FILE), "fact", "fix")

    def test_files_that_belong_to_no_case_are_ignored(self, rules):
        assert rules().policy(OTHER_FILES) == "ignore"

    def test_a_rule_that_is_needed_cannot_be_waved_through(self, rules):
        with pytest.raises(ValueError, match="readable"):
            rules(readable="warn")
