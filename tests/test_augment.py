"""Samples are cut from volumes that go on for ever: air, in which something lies."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.case import AIR_HU
from cache.grid import Box
from stages.train.augment import intensity
from stages.train.augment.apply import network_input
from stages.train.augment.draw import Draw, inverse_matrix
from stages.train.augment.spatial import sampling_points
from stages.train.augment.warp import Bend, Warp
from stages.train.intensity import to_network_input
from stages.train.sample import Batch, Sample
from test_augment_draw import ALL_ON, SPACING_ZYX_MM, drawn

WINDOW = (-160.0, 240.0)
BOX = Box((10, 8, 6), (34, 40, 46))  # 24, 32, 40 voxels; centre 21.5, 23.5, 25.5
CHANGED = Draw(contrast=0.8, gamma_inverted=1.3, gamma=0.7)
SPATIAL = ("flip", "rotation", "scaling", "shift", "elastic")


def cut(array, box, fill):
    """A box of an array, with ``fill`` wherever it leaves it."""
    out = np.full(box.shape_zyx, fill, array.dtype)
    inside = box.clipped(array.shape)
    target = [slice(a - o, b - o) for a, b, o in zip(
        inside.start_zyx, inside.stop_zyx, box.start_zyx, strict=True)]  # fmt: skip
    out[tuple(target)] = array[inside.slices]
    return torch.from_numpy(out)


def batch_of(volume, mask, draws, box=BOX):
    """Samples of one box, one for each draw."""
    samples = [Sample("case", box, one) for one in draws]
    boxes = [sample.source.box for sample in samples]
    return Batch(samples, [cut(volume, b, AIR_HU) for b in boxes], [cut(mask, b, 0) for b in boxes])


def block(*slices, shape=(44, 48, 52)):
    """A block of 500 HU in air, and its mask."""
    mask = np.zeros(shape, np.uint8)
    mask[slices] = 1
    return np.where(mask, 500, AIR_HU).astype(np.int16), mask


def shown(scene, one, hu_window=None, box=BOX):
    """What is shown of one sample: volume float32 and mask uint8, both (D, H, W)."""
    volumes, masks = network_input(batch_of(*scene, [one], box), hu_window)
    return volumes[0, 0].numpy(), masks[0].numpy()


def centre(array):
    return np.argwhere(array).mean(axis=0)


@pytest.fixture(scope="module")
def noisy():
    """Voxels of a body, 0/1 of a liver; no symmetry anywhere."""
    random = np.random.default_rng(61)
    volume = random.integers(-300, 400, (44, 48, 52)).astype(np.int16)
    return volume, (random.random(volume.shape) < 0.3).astype(np.uint8)


@pytest.fixture
def patch():
    """A network's input of 24, 26, 28 voxels: smooth, within [-1, 1], its mean not 0."""
    ramp = np.linspace(0, 5, 24)[:, None, None] + np.linspace(0, 3, 26)[:, None] + np.arange(28) / 7
    return torch.from_numpy(np.sin(ramp).astype(np.float32) * 0.7 + 0.2)


@pytest.mark.parametrize("kinds", [*[(kind,) for kind in SPATIAL], SPATIAL])
@pytest.mark.parametrize("seed", [1, 2])
def test_volume_and_mask_stay_together(kinds, seed):
    scene = block(slice(16, 25), slice(18, 31), slice(15, 34))
    volume, mask = shown(scene, drawn({kind: ALL_ON[kind] for kind in kinds}, seed))
    bright = volume > -250
    assert np.abs(centre(bright) - centre(mask)).max() < 0.5
    assert bright.sum() == pytest.approx(mask.sum(), rel=0.1)


def test_a_turn_about_z_takes_x_to_y_in_millimetres():
    # 3 mm, 1.5 mm, 1 mm; nine voxels up x from the centre are six voxels up y afterwards
    box = Box((10, 8, 6), (33, 39, 45))  # centre 21, 23, 25
    turn = Draw(Warp(matrix=inverse_matrix((90.0, 0.0, 0.0), 1.0, SPACING_ZYX_MM)))
    volume, mask = shown(block(slice(20, 23), slice(22, 25), slice(32, 37)), turn, box=box)
    there = [21 - 10, 23 - 8 + 6, 25 - 6]
    assert centre(mask) == pytest.approx(there, abs=0.01)
    assert volume[tuple(there)] == pytest.approx(500, abs=0.1)


def test_scaling_by_1_2_makes_a_ball_1_2_as_large_along_every_axis():
    axes = [(np.arange(n) - c) * mm for n, c, mm in zip(
        (44, 48, 52), (21.5, 23.5, 25.5), SPACING_ZYX_MM, strict=True)]  # fmt: skip
    ball = sum(np.meshgrid(*[a**2 for a in axes], indexing="ij")) <= 15**2  # millimetres
    scene = np.where(ball, 500, AIR_HU).astype(np.int16), ball.astype(np.uint8)
    larger = Draw(Warp(matrix=inverse_matrix((0.0, 0.0, 0.0), 1.2, SPACING_ZYX_MM)))
    before, after = (np.argwhere(shown(scene, one)[1]) for one in (Draw(), larger))
    assert after.std(axis=0) / before.std(axis=0) == pytest.approx(1.2, rel=0.04)
    assert after.mean(axis=0) == pytest.approx(before.mean(axis=0), abs=0.01)


def test_between_voxels_the_volume_follows_a_line():
    # a volume that rises evenly rises evenly when turned and magnified, by other steps
    z, y, x = np.indices((44, 48, 52))
    evenly = (7 * z + 11 * y + 13 * x).astype(np.int16), np.zeros((44, 48, 52), np.uint8)
    matrix = inverse_matrix((10.0, -5.0, 3.0), 1.25, SPACING_ZYX_MM)
    volume, _ = shown(evenly, Draw(Warp(matrix=matrix)))
    for axis in range(3):
        step = np.array([7, 11, 13]) @ np.array(matrix)[:, axis]
        assert np.diff(volume, axis=axis) == pytest.approx(step, abs=0.01)


@pytest.mark.parametrize("axes", [(0,), (1,), (2,), (0, 2), (0, 1, 2)])
def test_flipping_mirrors_every_voxel_and_changes_none(noisy, axes):
    flips = tuple(axis in axes for axis in range(3))
    plain, flipped = shown(noisy, None), shown(noisy, Draw(Warp(flips_zyx=flips)))
    for array, mirrored in zip(plain, flipped, strict=True):
        assert (np.flip(array, axes) == mirrored).all()


def test_a_flip_that_is_also_resampled_mirrors_the_same_way(noisy):
    almost = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0 + 1e-6))
    for flips in ((True, False, False), (False, True, True)):
        copied, copied_mask = shown(noisy, Draw(Warp(flips, shift_zyx=(1, 2, 3))))
        sampled, sampled_mask = shown(noisy, Draw(Warp(flips, almost, (1, 2, 3))))
        assert sampled == pytest.approx(copied, abs=0.1)
        assert (sampled_mask == copied_mask).all()


def test_shifting_moves_the_patient_by_whole_voxels(noisy):
    volume, _ = shown(noisy, Draw(Warp(shift_zyx=(1, -2, 3))))
    assert (volume == noisy[0][9:33, 10:42, 3:43]).all()


def test_a_bend_moves_every_voxel_by_the_coarse_points_around_it():
    bend = Bend(7, (2.0, 3.0, 4.0), (0.5, 1.0, 2.0))
    of_z, of_y, of_x = bend.weights((5, 6, 7))
    expected = np.einsum("ka,jb,ic,nabc->nkji", of_z, of_y, of_x, bend.points((5, 6, 7)))
    box, warp = Box((0, 0, 0), (5, 6, 7)), Warp(bend=bend)
    points = sampling_points(warp, box, torch.device("cpu")).numpy()[..., ::-1]
    source = warp.source_box(box)
    index = (points + 1) * np.array(source.shape_zyx) / 2 - 0.5 + source.start_zyx
    moved = np.moveaxis(index - np.moveaxis(np.indices((5, 6, 7)), 0, -1), -1, 0)
    assert moved == pytest.approx(expected, abs=1e-4)


def test_augmentation_with_no_draw_is_the_window_of_the_stacked_volumes(noisy):
    batch = batch_of(*noisy, [None, None])
    volumes, masks = network_input(batch, WINDOW)
    assert torch.equal(volumes, to_network_input(torch.stack(batch.volumes), WINDOW)[:, None])
    assert torch.equal(masks, torch.stack(batch.masks))


@pytest.mark.parametrize("hu_window", [WINDOW, None])
def test_drawing_nothing_equals_no_draw(noisy, hu_window):
    for one, other in zip(
        shown(noisy, Draw(), hu_window), shown(noisy, None, hu_window), strict=True
    ):
        assert (one == other).all()


def test_a_sample_does_not_depend_on_its_batch(noisy):
    draws = [drawn(ALL_ON, seed) for seed in range(3)]
    together, masks = network_input(batch_of(*noisy, draws), WINDOW)
    reversed_, reversed_masks = network_input(batch_of(*noisy, draws[::-1]), WINDOW)
    assert torch.equal(reversed_.flip(0), together)
    assert torch.equal(reversed_masks.flip(0), masks)
    for index, one in enumerate(draws):
        alone, mask = network_input(batch_of(*noisy, [one]), WINDOW)
        assert torch.equal(alone[0], together[index])
        assert torch.equal(mask[0], masks[index])


def test_the_voxels_that_were_read_stay_as_they_are(noisy):
    batch = batch_of(*noisy, [drawn(ALL_ON), None])
    before = [tensor.clone() for tensor in (*batch.volumes, *batch.masks)]
    network_input(batch, WINDOW)
    assert all(map(torch.equal, before, (*batch.volumes, *batch.masks)))


def test_shapes_and_types_are_those_of_a_batch(noisy):
    volumes, masks = network_input(batch_of(*noisy, [drawn(ALL_ON), None]), WINDOW)
    assert (volumes.dtype, volumes.shape) == (torch.float32, (2, 1, 24, 32, 40))
    assert (masks.dtype, masks.shape) == (torch.uint8, (2, 24, 32, 40))


def test_a_mask_stays_0_and_1(noisy):
    draws = [drawn(ALL_ON, seed) for seed in range(4)]
    assert network_input(batch_of(*noisy, draws), WINDOW)[1].unique().tolist() == [0, 1]


def test_half_precision_around_it_changes_nothing(noisy):
    batch = batch_of(*noisy, [drawn(ALL_ON)])
    expected = network_input(batch, WINDOW)
    with torch.autocast("cpu", torch.bfloat16):
        volumes, masks = network_input(batch, WINDOW)
    assert torch.equal(volumes, expected[0])
    assert torch.equal(masks, expected[1])


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 14)] * 3), st.sampled_from(range(4)))
def test_nothing_beyond_the_source_box_is_ever_shown(seed, shape, kind_left_out):
    kinds = {kind: ALL_ON[kind] for kind in SPATIAL if kind != SPATIAL[kind_left_out + 1]}
    one = drawn({**kinds, "rotation": {"probability": 1.0, "degrees": 180}}, seed)
    sample = Sample("case", Box((0, 0, 0), shape), one)
    source = sample.source.box.shape_zyx
    # padding is 0: were it shown, a volume of ones would darken
    full = Batch([sample], [torch.full(source, 1000, dtype=torch.int16)], [torch.ones(source)])
    volumes, masks = network_input(full, None)
    assert volumes.numpy() == pytest.approx(1000, abs=0.01)
    assert masks.all()


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 14)] * 3))
def test_no_more_is_read_than_the_points_and_their_neighbours(seed, shape):
    one = drawn({kind: ALL_ON[kind] for kind in ("flip", "rotation", "scaling", "shift")}, seed)
    box = Box((0, 0, 0), shape)
    side = np.array(one.source_box(box).shape_zyx)
    points = sampling_points(one.warp, box, torch.device("cpu")).numpy()[..., ::-1]
    index = ((points + 1) * side / 2 - 0.5).reshape(-1, 3)
    assert (index.min(axis=0) <= 1.1).all()
    assert (index.max(axis=0) >= side - 2.1).all()


def test_noise_has_the_deviation_that_was_drawn(patch):
    before = patch.clone()
    intensity.add_noise(patch, 0.08, seed=5)
    noise = patch - before
    assert noise.std().item() == pytest.approx(0.08, rel=0.05)
    assert noise.mean().item() == pytest.approx(0, abs=0.005)


def test_noise_is_another_for_another_seed(patch):
    other = patch.clone()
    intensity.add_noise(patch, 0.08, seed=5)
    intensity.add_noise(other, 0.08, seed=6)
    assert not torch.equal(patch, other)


def test_blur_makes_a_point_a_gaussian_of_its_sigma():
    point = torch.zeros(25, 27, 29)
    point[12, 13, 14] = 1.0
    intensity.blur(point, 1.0)
    assert point.sum().item() == pytest.approx(1, abs=1e-5)
    for axis in range(3):
        profile = point.sum(dim=[other for other in range(3) if other != axis])
        places = torch.arange(len(profile)) - (12, 13, 14)[axis]
        assert (profile * places**2).sum().sqrt().item() == pytest.approx(1, rel=0.03)


def test_blur_lowers_the_variance_and_keeps_the_mean(patch):
    before = (patch + torch.randn(patch.shape, generator=torch.Generator().manual_seed(1))).clone()
    after = before.clone()
    intensity.blur(after, 0.7)
    assert after.var() < 0.6 * before.var()
    assert after.mean().item() == pytest.approx(before.mean().item(), abs=0.01)


def test_blur_leaves_a_volume_of_one_value_as_it_is():
    flat = torch.full((3, 4, 5), -1.0)  # smaller than the kernel
    intensity.blur(flat, 2.0)
    assert flat.numpy() == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize("factor", [0.75, 1.25])
def test_contrast_stretches_about_the_mean_within_the_old_range(patch, factor):
    before = patch.clone()
    intensity.change_contrast(patch, factor)
    expected = (before.mean() + factor * (before - before.mean())).clamp(before.min(), before.max())
    assert patch.numpy() == pytest.approx(expected.numpy(), abs=1e-5)


def test_brightness_multiplies():
    volume = torch.tensor([[[-1.0, 0.0, 0.5]]])
    intensity.change_intensities(volume, Draw(brightness=1.2))
    assert volume.flatten().tolist() == pytest.approx([-1.2, 0.0, 0.6])


def test_low_resolution_shows_every_second_voxel_and_lines_between():
    volume = torch.arange(8.0).repeat(4, 4, 1)
    intensity.lower_resolution(volume, 0.5)
    # 1, 3, 5, 7 are kept, each for two voxels; in between a quarter and three quarters of two
    assert volume[0, 0].tolist() == pytest.approx([1.0, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.0])


def test_low_resolution_keeps_the_mean_roughly(patch):
    before = patch.mean().item()
    intensity.lower_resolution(patch, 0.6)
    assert patch.mean().item() == pytest.approx(before, abs=0.03)


@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_keeps_mean_and_deviation(patch, exponent):
    before = patch.clone()
    intensity.change_gamma(patch, exponent)
    assert (patch - before).abs().max() > 0.02
    assert patch.mean().item() == pytest.approx(before.mean().item(), abs=1e-4)
    assert patch.std().item() == pytest.approx(before.std().item(), rel=1e-3)


def test_gamma_is_a_power_of_the_volume_scaled_to_0_and_1():
    volume = torch.tensor([[[0.0, 1.0, 2.0, 4.0]]])
    intensity.change_gamma(volume, 2.0)
    steps = volume.diff().flatten()  # of 0, 1/16, 4/16, 16/16, stretched
    assert (steps / steps[0]).tolist() == pytest.approx([1, 3, 12], rel=1e-4)


def test_inverted_gamma_stretches_the_other_end():
    volume = torch.tensor([[[0.0, 2.0, 3.0, 4.0]]])
    intensity.change_intensities(volume, Draw(gamma_inverted=2.0))
    steps = volume.diff().flatten()  # seen from 4 downwards: 0, 1/16, 4/16, 16/16
    assert (steps / steps[2]).tolist() == pytest.approx([12, 3, 1], rel=1e-4)


def test_gamma_and_contrast_leave_a_volume_of_one_value_as_it_is():
    flat = torch.full((3, 4, 5), -1.0)
    intensity.change_intensities(flat, Draw(contrast=1.2, gamma_inverted=0.8, gamma=1.4))
    assert flat.numpy() == pytest.approx(-1, abs=1e-6)


def test_intensities_change_the_volume_and_not_the_mask(noisy):
    kinds = {kind: section for kind, section in ALL_ON.items() if kind not in SPATIAL}
    plain, plain_mask = shown(noisy, None, WINDOW)
    volume, mask = shown(noisy, drawn(kinds), WINDOW)
    assert (mask == plain_mask).all()
    assert np.abs(volume - plain).mean() > 0.05


def test_the_number_of_threads_changes_no_bit():
    box = Box.whole((48, 96, 128))
    volume = np.random.default_rng(0).integers(-200, 300, box.shape_zyx).astype(np.int16)
    batch = batch_of(volume, np.zeros(box.shape_zyx, np.uint8), [CHANGED], box)
    before, seen = torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seen.append(network_input(batch, WINDOW)[0])
    torch.set_num_threads(before)
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
