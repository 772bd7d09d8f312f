"""Bringing arrays to another shape over the same extent."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import interpolate

from stages.resize import resize_mask, resize_planes, resize_slice, resize_volume

shapes_zyx = st.tuples(*[st.integers(1, 12)] * 3)
SHAPES_YX = [(17, 13), (50, 61), (20, 96), (23, 31), (1, 40)]  # from (23, 31): both, grow, mixed


def noise_hu(*shape, seed=0):
    """Random HU over the whole range of a CT: no smoothness that would forgive a shift."""
    rng = np.random.default_rng((seed, 30))
    return rng.integers(-1024, 3072, shape).astype(np.int16)


def resized(volume, shape_zyx):
    """A volume on another shape, from its slices."""
    return np.array(list(resize_planes(volume, len(volume), shape_zyx)))


def torch_resized(planes, shape_yx):
    """What torch's antialiased bilinear makes of a stack of planes."""
    stack = torch.from_numpy(np.asarray(planes, np.float32))[None]
    resized = interpolate(stack, tuple(shape_yx), mode="bilinear", antialias=True)
    return resized[0].numpy()


@pytest.mark.parametrize("shape_yx", SHAPES_YX)
def test_a_slice_equals_torch_antialiased_bilinear_within_1_hu(shape_yx):
    plane = noise_hu(23, 31)
    difference = resize_slice(plane, shape_yx) - torch_resized(plane[None], shape_yx)[0]
    assert np.abs(difference).max() < 1


@pytest.mark.parametrize("depth", [1, 5, 9, 10, 21, 40])
def test_the_depth_equals_torch_antialiased_bilinear_within_1_hu(depth):
    volume = noise_hu(10, 6, 7)
    # the slices as rows: torch has this antialiasing in two dimensions alone
    expected = torch_resized(volume.transpose(1, 0, 2), (depth, 7)).transpose(1, 0, 2)
    assert np.abs(resized(volume, (depth, 6, 7)) - expected).max() < 1


@pytest.mark.parametrize("shape_zyx", [(4, 9, 6), (21, 15, 40), (4, 30, 40), (25, 6, 8)])
def test_a_volume_equals_torch_in_plane_and_then_in_depth(shape_zyx):
    volume = noise_hu(10, 14, 18)
    in_plane = torch_resized(volume, shape_zyx[1:])
    in_depth = torch_resized(in_plane.transpose(1, 0, 2), (shape_zyx[0], shape_zyx[2]))
    found = resized(volume, shape_zyx)
    assert found.shape == shape_zyx
    assert np.abs(found - in_depth.transpose(1, 0, 2)).max() < 1


def test_halving_averages_and_does_not_pick():
    checkerboard = np.indices((8, 8)).sum(axis=0) % 2 * 1000
    inner = resize_slice(checkerboard, (4, 4))[1:-1, 1:-1]
    np.testing.assert_allclose(inner, 500, atol=0.01)


def test_doubling_a_ramp_is_linear_between_the_old_centres():
    ramp = np.array([[0.0, 100.0, 200.0]])
    # centres at a quarter and three quarters; the ends repeat the outermost value
    np.testing.assert_allclose(resize_slice(ramp, (1, 6)), [[0, 25, 75, 125, 175, 200]], atol=0.01)


@given(shapes_zyx, shapes_zyx, st.integers(-1024, 3071))
def test_a_constant_stays_constant(old, new, hu):
    found = resized(np.full(old, hu, np.int16), new)
    assert found.shape == new
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, hu, atol=0.01)


@given(shapes_zyx, shapes_zyx, st.integers(0, 99))
def test_no_value_goes_beyond_the_old_ones(old, new, seed):
    volume = noise_hu(*old, seed=seed)
    found = resized(volume, new)
    assert found.min() >= volume.min() - 0.01
    assert found.max() <= volume.max() + 0.01


@given(shapes_zyx, st.integers(0, 99))
def test_the_same_shape_changes_nothing(shape, seed):
    volume = noise_hu(*shape, seed=seed)
    np.testing.assert_array_equal(resized(volume, shape), volume)


@given(shapes_zyx, shapes_zyx, st.integers(0, 2), st.integers(0, 99))
def test_flipping_before_equals_flipping_after(old, new, axis, seed):
    volume = noise_hu(*old, seed=seed)
    before = resized(np.flip(volume, axis), new)
    # half a sum of weights is rounded to float32 in another order
    np.testing.assert_allclose(before, np.flip(resized(volume, new), axis), atol=0.02)


@given(shapes_zyx, shapes_zyx, st.integers(0, 99))
def test_a_volume_is_its_resized_slices_rounded(old, new, seed):
    volume = noise_hu(*old, seed=seed)
    np.testing.assert_array_equal(resize_volume(volume, new), np.rint(resized(volume, new)))


@given(shapes_zyx, shapes_zyx)
def test_slices_are_asked_for_in_order_and_no_sooner_than_they_are_needed(old, new):
    asked = []

    def slices():
        for number in range(old[0]):
            asked.append(number)
            yield np.zeros(old[1:], np.float32)

    scale = old[0] / new[0]
    for number, _ in enumerate(resize_planes(slices(), old[0], new)):
        # the triangle around a new slice's centre ends so far before the next old slice's
        assert len(asked) <= (number + 0.5) * scale + max(scale, 1) + 1
    assert asked == list(range(old[0]))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ([0, 1], 4, [0, 0, 1, 1]),  # shares 0, 1/4, 3/4, 1
        ([1, 0, 1], 6, [1, 1, 0, 0, 1, 1]),
        ([0, 0, 0, 0, 1, 1], 3, [0, 0, 1]),  # the middle one's weights 1 3 3 1: one part of eight
        ([0, 0, 0, 1, 1, 1], 3, [0, 1, 1]),  # exactly half counts
        ([0, 1, 0, 0, 0, 0], 3, [0, 0, 0]),  # weights 3 3 1: three parts of seven
        ([1, 0, 1, 0, 0, 0], 3, [1, 0, 0]),  # four of seven, three of eight
        ([1, 0, 1], 1, [1]),  # weights 2 3 2: four parts of seven
        ([0, 1, 0], 1, [0]),
    ],
)
def test_a_voxel_is_liver_where_at_least_half_of_it_was(old, new, expected):
    for axis in range(3):
        mask = np.array(old, np.uint8).reshape(np.roll((len(old), 1, 1), axis))
        shape = tuple(np.roll((new, 1, 1), axis).tolist())
        np.testing.assert_array_equal(resize_mask(mask, shape).ravel(), expected)


@given(shapes_zyx, shapes_zyx, st.integers(0, 99))
def test_a_resized_mask_has_no_value_but_0_and_1(old, new, seed):
    mask = (np.random.default_rng(seed).random(old) < 0.5).astype(np.uint8)
    resized = resize_mask(mask, new)
    assert resized.shape == new
    assert resized.dtype == np.uint8
    assert set(np.unique(resized)) <= set(np.unique(mask))


@given(shapes_zyx, st.integers(0, 99))
def test_a_mask_on_its_own_shape_stays_as_it_is(shape, seed):
    mask = (np.random.default_rng(seed).random(shape) < 0.5).astype(np.uint8)
    np.testing.assert_array_equal(resize_mask(mask, shape), mask)
