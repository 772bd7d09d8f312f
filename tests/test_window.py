"""The sliding window: the same as applying the network to the whole volume at once."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers.utils import sliding_window_inference

from cache.case import AIR_HU
from cache.errors import ModelError
from stages.evaluate.window import Windows, liver_of, liver_probability, probability_planes

CPU = torch.device("cpu")

sides = st.integers(1, 40)
shapes = st.tuples(sides, sides, sides)
windows = st.tuples(*[st.integers(16, 32)] * 3)
overlaps = st.sampled_from([0, 0.25, 0.5, 0.75])


def steep(hu):
    """Logits of a network that looks at each voxel alone: half at 40 HU, nearly sure 200 away."""
    x = (hu[:, 0] - 40) / 50
    return torch.stack([-x, x], dim=1)


def steep_probability(volume):
    """What ``steep`` gives as probability, in numpy: 1 / (1 + exp(-2x))."""
    return 1 / (1 + np.exp(-2 * (volume.astype(np.float64) - 40) / 50))


def predict(volume, network=steep, *, window_zyx=(16, 16, 16), overlap=0.5):
    return liver_probability(network, volume, window_zyx=window_zyx, overlap=overlap, device=CPU)


def random_volume(shape, *, low=-200, high=300):
    return np.random.default_rng(0).integers(low, high, shape).astype(np.int16)


class Recorder:
    """``steep``, remembering what it was shown."""

    def __init__(self):
        self.seen = []

    def __call__(self, hu):
        self.seen.append(hu.numpy().copy())
        return steep(hu)


@settings(deadline=None, max_examples=30)
@given(shapes, windows, overlaps)
def test_the_window_gives_what_the_whole_volume_gives(shape, window, overlap):
    volume = random_volume(shape)
    probability = predict(volume, window_zyx=window, overlap=overlap)
    assert np.allclose(probability, steep_probability(volume), atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(shapes, windows, overlaps)
def test_the_window_covers_every_voxel(shape, window, overlap):
    # each voxel has a value of its own (modulo 60000), so that those shown can be told
    volume = (np.arange(np.prod(shape)) % 60000 - 30000).astype(np.int16).reshape(shape)
    recorder = Recorder()
    predict(volume, recorder, window_zyx=window, overlap=overlap)
    assert set(volume.ravel().tolist()) <= set(np.concatenate(recorder.seen, None).tolist())


@settings(deadline=None, max_examples=30)
@given(shapes, st.none() | windows, overlaps)
def test_a_probability_is_a_float32_from_0_to_1_of_the_volumes_shape(shape, window, overlap):
    volume = random_volume(shape, low=-30000, high=30000)
    probability = predict(volume, window_zyx=window, overlap=overlap)
    assert probability.dtype == np.float32
    assert probability.shape == shape
    assert probability.min() >= 0
    assert probability.max() <= 1


def test_every_patch_has_the_windows_shape_and_is_hu_as_float32():
    recorder = Recorder()
    predict(random_volume((30, 17, 9)), recorder, window_zyx=(16, 18, 20))
    assert {patch.shape for patch in recorder.seen} == {(1, 1, 16, 18, 20)}
    assert {patch.dtype for patch in recorder.seen} == {np.dtype(np.float32)}


def test_what_is_thinner_than_the_window_is_padded_with_air():
    recorder = Recorder()
    volume = random_volume((5, 20, 20), low=100, high=200)
    predict(volume, recorder, window_zyx=(16, 16, 16))
    for patch in recorder.seen:
        assert patch.min() == -1000
        assert np.count_nonzero(patch == -1000) == 11 * 16 * 16
        assert patch[patch > -1000].min() >= 100


def test_what_fills_the_window_is_not_padded():
    recorder = Recorder()
    predict(random_volume((33, 20, 47), low=100, high=200), recorder, window_zyx=(16, 16, 16))
    assert min(patch.min() for patch in recorder.seen) >= 100


def test_without_a_window_the_network_sees_the_volume_once_and_whole():
    recorder = Recorder()
    volume = random_volume((33, 20, 47))
    probability = predict(volume, recorder, window_zyx=None)
    assert len(recorder.seen) == 1
    assert np.array_equal(recorder.seen[0][0, 0], volume)
    assert np.allclose(probability, steep_probability(volume), atol=1e-5)


def test_without_a_window_sides_below_16_voxels_are_padded_with_air():
    recorder = Recorder()
    volume = random_volume((33, 9, 15), low=100, high=200)
    probability = predict(volume, recorder, window_zyx=None)
    (seen,) = recorder.seen
    assert seen.shape == (1, 1, 33, 16, 16)
    assert np.count_nonzero(seen == -1000) == 33 * (16 * 16 - 9 * 15)
    assert np.allclose(probability, steep_probability(volume), atol=1e-5)


def test_the_volume_is_left_as_it_was():
    volume = random_volume((20, 20, 20))
    before = volume.copy()
    predict(volume)
    assert np.array_equal(volume, before)


def test_overlapping_patches_are_blended_and_the_middle_of_a_patch_counts_most():
    # the second of two patches, which share 8 slices, is sure of liver, the first of none
    patches = iter([-20.0, 20.0])

    def network(hu):
        liver = torch.full_like(hu[:, 0], next(patches))
        return torch.stack([torch.zeros_like(liver), liver], dim=1)

    line = predict(np.zeros((24, 16, 16), np.int16), network, overlap=0.5)[:, 8, 8]
    assert line[:8] == pytest.approx(np.zeros(8), abs=1e-6)
    assert line[16:] == pytest.approx(np.ones(8), abs=1e-6)
    assert (np.diff(line[7:17]) > 0).all()
    assert line[11] + line[12] == pytest.approx(1, abs=1e-6)


class Neighbours:
    """Logits of a network whose answer depends on what lies around a voxel, and on the border."""

    def __init__(self):
        torch.manual_seed(0)
        self.layer = torch.nn.Conv3d(1, 2, 3, padding=1)

    def __call__(self, hu):
        return self.layer(hu / 100)


@settings(max_examples=40)
@given(shapes, windows, overlaps)
def test_the_sliding_window_gives_what_monais_gives(shape, window, overlap):
    volume, network = random_volume(shape), Neighbours()
    with torch.inference_mode():
        expected = sliding_window_inference(
            torch.from_numpy(volume)[None, None].float(),
            roi_size=window,
            sw_batch_size=1,
            predictor=lambda patch: network(patch).softmax(dim=1)[:, 1:],
            overlap=overlap,
            mode="gaussian",
            cval=AIR_HU,
        )
    probability = predict(volume, network, window_zyx=window, overlap=overlap)
    np.testing.assert_allclose(probability, expected[0, 0].numpy(), atol=2e-6)


@given(shapes, windows, overlaps)
def test_the_number_of_windows_is_known_beforehand(shape, window, overlap):
    recorder = Recorder()
    predict(random_volume(shape), recorder, window_zyx=window, overlap=overlap)
    assert len(recorder.seen) == Windows.over(shape, window, overlap).count


def test_planes_come_as_soon_as_no_later_window_touches_them():
    recorder = Recorder()
    windows = Windows.over((40, 16, 16), (16, 16, 16), 0.5)  # they begin at 0, 8, 16 and 24
    volume = random_volume((40, 16, 16))
    planes = probability_planes(liver_of(recorder), volume, windows, device=CPU)
    shown = [len(recorder.seen) for _ in planes]
    assert shown == [1] * 8 + [2] * 8 + [3] * 8 + [4] * 16


def test_values_that_are_no_numbers_do_not_pass_for_background():
    def broken(patch):
        return torch.full((1, 2, *patch.shape[2:]), torch.nan)

    with pytest.raises(ModelError, match="not numbers"):
        predict(random_volume((16, 16, 16)), broken)


def test_prediction_records_nothing_for_a_gradient():
    weight = torch.ones(1, requires_grad=True)
    recorded = []

    def network(hu):
        logits = weight * steep(hu)
        recorded.append(logits.requires_grad)
        return logits

    predict(random_volume((16, 16, 16)), network)
    assert recorded == [False]
