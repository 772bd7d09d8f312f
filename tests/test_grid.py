"""The nouns of space: boxes, grids, and turning arrays to LPS and back."""

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from hypothesis import given
from hypothesis import strategies as st

from cache.grid import Box, Grid
from cache.orientation import from_lps, lps_grid, to_lps

ORIENTATIONS = [
    "".join(letters) for axes in permutations(("LR", "PA", "SI")) for letters in product(*axes)
]
shapes_zyx = st.tuples(*[st.integers(1, 30)] * 3)
spacings_zyx_mm = st.tuples(*[st.floats(0.1, 10)] * 3)
origins_xyz_mm = st.tuples(*[st.floats(-500, 500)] * 3)
starts_zyx = st.tuples(*[st.integers(-40, 40)] * 3)
boxes = st.builds(
    lambda start, shape: Box(start, tuple(np.add(start, shape).tolist())), starts_zyx, shapes_zyx
)


def rotation(angles):
    """The direction cosines of a rotation by three small angles, row by row."""
    euler = sitk.Euler3DTransform()
    euler.SetRotation(*angles)
    return euler.GetMatrix()


directions = st.tuples(*[st.floats(-0.6, 0.6)] * 3).map(rotation)
grids = st.builds(Grid, shapes_zyx, spacings_zyx_mm, origins_xyz_mm, directions)


def last_corner(grid):
    """The world point of the outer corner farthest along all three axes."""
    return grid.point_xyz_mm(np.subtract(grid.shape_zyx, 0.5))


class TestBox:
    def test_the_shape_of_a_box_is_stop_minus_start(self):
        assert Box((1, -2, 3), (4, 3, 10)).shape_zyx == (3, 5, 7)

    def test_the_slices_of_a_box_cut_it_out_of_an_array(self):
        array = np.arange(5 * 6 * 7).reshape(5, 6, 7)
        cut = array[Box((1, 2, 3), (3, 6, 5)).slices]
        np.testing.assert_array_equal(cut, array[1:3, 2:6, 3:5])

    def test_an_odd_box_is_centred_on_its_voxel(self):
        assert Box.centred((10, 20, 30), (3, 5, 7)) == Box((9, 18, 27), (12, 23, 34))

    def test_an_even_box_has_one_voxel_more_before_its_centre(self):
        assert Box.centred((10, 20, 30), (4, 2, 6)) == Box((8, 19, 27), (12, 21, 33))

    def test_growing_a_box_moves_both_its_sides(self):
        assert Box((5, 5, 5), (6, 7, 8)).grown((1, 2, 3)) == Box((4, 3, 2), (7, 9, 11))

    @given(boxes, shapes_zyx)
    def test_clipping_keeps_exactly_the_voxels_inside(self, box, shape):
        def voxels(any_box):
            ranges = zip(any_box.start_zyx, any_box.stop_zyx, strict=True)
            return [set(range(a, b)) for a, b in ranges]

        clipped = box.clipped(shape)
        inside = [a & set(range(side)) for a, side in zip(voxels(box), shape, strict=True)]
        assert voxels(clipped) == inside

    @given(boxes, shapes_zyx)
    def test_a_clipped_box_is_a_valid_index_even_if_it_is_empty(self, box, shape):
        clipped = box.clipped(shape)
        assert np.zeros(shape, bool)[clipped.slices].shape == clipped.shape_zyx
        assert (np.array(clipped.start_zyx) >= 0).all()
        assert (np.array(clipped.stop_zyx) <= shape).all()


class TestGrid:
    def test_extent_is_shape_times_spacing(self):
        assert Grid((5, 6, 7), (2.5, 0.5, 0.25)).extent_zyx_mm == (12.5, 3.0, 1.75)

    def test_a_voxel_of_ten_mm_a_side_is_one_millilitre(self):
        assert Grid((2, 3, 4), (10.0, 10.0, 10.0)).voxel_ml == 1.0

    def test_a_point_follows_axes_in_x_y_z_order(self):
        grid = Grid((5, 6, 7), (2.5, 0.5, 0.25), (100.0, 200.0, 300.0))
        assert grid.point_xyz_mm((1, 2, 4)) == (101.0, 201.0, 302.5)

    @given(grids, st.tuples(*[st.integers(-50, 50)] * 3))
    def test_a_point_is_where_itk_puts_it(self, grid, index_zyx):
        image = sitk.Image(grid.shape_zyx[::-1], sitk.sitkUInt8)
        image.SetSpacing(grid.spacing_zyx_mm[::-1])
        image.SetOrigin(grid.origin_xyz_mm)
        image.SetDirection(grid.direction)
        expected = image.TransformIndexToPhysicalPoint(index_zyx[::-1])
        assert grid.point_xyz_mm(index_zyx) == pytest.approx(expected, abs=1e-6)

    @given(grids, boxes, st.tuples(*[st.integers(0, 20)] * 3))
    def test_cropping_leaves_every_voxel_where_it_is(self, grid, box, index):
        in_source = np.add(index, box.start_zyx)
        cropped = grid.cropped(box)
        assert cropped.shape_zyx == box.shape_zyx
        assert cropped.point_xyz_mm(index) == pytest.approx(grid.point_xyz_mm(in_source), abs=1e-6)

    @given(grids, shapes_zyx)
    def test_resizing_keeps_the_physical_extent(self, grid, shape):
        assert grid.resized(shape).extent_zyx_mm == pytest.approx(grid.extent_zyx_mm)

    @given(grids, shapes_zyx)
    def test_resizing_keeps_the_outer_corners_where_they_are(self, grid, shape):
        after = grid.resized(shape)
        first = (-0.5, -0.5, -0.5)
        assert after.point_xyz_mm(first) == pytest.approx(grid.point_xyz_mm(first), abs=1e-6)
        assert last_corner(after) == pytest.approx(last_corner(grid), abs=1e-6)

    def test_halving_the_slices_puts_the_first_between_two_old_ones(self):
        after = Grid((4, 1, 1), (3.0, 1.0, 1.0)).resized((2, 1, 1))
        assert after == Grid((2, 1, 1), (6.0, 1.0, 1.0), (0.0, 0.0, 1.5))

    @given(grids)
    def test_a_grid_comes_back_from_json_as_it_was(self, grid):
        assert Grid.from_dict(grid.to_dict()) == grid


class TestOrientation:
    def test_there_are_48_orientations_of_three_axes(self):
        assert len(set(ORIENTATIONS)) == 48

    def test_lps_stays_as_it_is(self):
        array = np.arange(24).reshape(2, 3, 4)
        np.testing.assert_array_equal(to_lps(array, "LPS"), array)

    def test_the_slices_of_a_scan_from_head_to_feet_are_reversed(self):
        array = np.arange(24).reshape(2, 3, 4)
        np.testing.assert_array_equal(to_lps(array, "LPI"), array[::-1])

    def test_a_sagittal_scan_becomes_axial(self):
        # its x axis runs to the back, y to the head, z to the left
        sagittal = np.arange(24).reshape(2, 3, 4)
        assert to_lps(sagittal, "PSL").shape == (3, 4, 2)
        assert to_lps(sagittal, "PSL")[2, 3, 1] == sagittal[1, 2, 3]

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_going_to_lps_and_back_changes_nothing(self, orientation):
        array = np.arange(3 * 4 * 5).reshape(3, 4, 5)
        np.testing.assert_array_equal(from_lps(to_lps(array, orientation), orientation), array)

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_turning_to_lps_is_what_simpleitk_does_to_array_and_grid(self, orientation):
        grid, image = tilted(orientation)
        turned = sitk.DICOMOrient(image, "LPS")
        ours = lps_grid(grid, orientation)
        voxels = to_lps(sitk.GetArrayFromImage(image), orientation)
        np.testing.assert_array_equal(voxels, sitk.GetArrayFromImage(turned))
        assert ours.shape_zyx == turned.GetSize()[::-1]
        assert ours.spacing_zyx_mm == pytest.approx(turned.GetSpacing()[::-1])
        assert ours.origin_xyz_mm == pytest.approx(turned.GetOrigin())
        assert ours.direction == pytest.approx(turned.GetDirection())


def tilted(orientation):
    """A grid of this orientation, tilted by a few degrees, and an ITK image of counted voxels."""
    exact = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(orientation)
    tilt = np.reshape(rotation((0.1, -0.05, 0.07)), (3, 3))
    direction = tuple((tilt @ np.reshape(exact, (3, 3))).ravel())
    grid = Grid((3, 4, 5), (2.5, 0.8, 0.7), (-11.0, 7.0, 23.0), direction)
    image = sitk.GetImageFromArray(np.arange(60, dtype=np.int16).reshape(3, 4, 5))
    image.SetSpacing(grid.spacing_zyx_mm[::-1])
    image.SetOrigin(grid.origin_xyz_mm)
    image.SetDirection(direction)
    return grid, image
