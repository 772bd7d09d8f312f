import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.grid import Box
from stages.train.augment.draw import KINDS, Draw, draw, inverse_matrix
from stages.train.augment.params import AugmentationParams
from stages.train.augment.warp import Bend, Warp

SPACING_ZYX_MM = (3.0, 1.5, 1.0)
BOX = Box((4, -3, 10), (16, 15, 34))  # centre 9.5, 5.5, 21.5
ALL_ON = {
    "flip": {"probability_zyx": (0.5, 0.5, 0.5)},
    "rotation": {"probability": 1.0, "degrees": 30},
    "scaling": {"probability": 1.0, "factor": (0.7, 1.4)},
    "shift": {"probability": 1.0, "mm": 8},
    "elastic": {"probability": 1.0, "spacing_mm": 12, "sd_mm": 2},
    "noise": {"probability": 1.0, "sd": (0.01, 0.1)},
    "blur": {"probability": 1.0, "sigma_voxels": (0.5, 1)},
    "brightness": {"probability": 1.0, "factor": (0.75, 1.25)},
    "contrast": {"probability": 1.0, "factor": (0.75, 1.25)},
    "low_resolution": {"probability": 1.0, "factor": (0.5, 1)},
    "gamma": {"probability": 1.0, "probability_inverted": 1.0, "exponent": (0.7, 1.5)},
}


def params(**kinds):
    """The kinds given, all others off."""
    return AugmentationParams(**{**dict.fromkeys(KINDS), **kinds})


def drawn(kinds, seed=0):
    return draw(params(**kinds), np.random.default_rng((seed, 60)), SPACING_ZYX_MM)


def parts(one):
    """What was drawn, by the kind it belongs to; the seed only counts where there is noise."""
    return {
        "flip": one.warp.flips_zyx,
        "rotation": one.warp.matrix,
        "shift": one.warp.shift_zyx,
        "elastic": one.warp.bend,
        "noise": (one.noise_sd, one.noise_seed),
        "blur": one.blur_sigma,
        "brightness": one.brightness,
        "contrast": one.contrast,
        "low_resolution": one.low_resolution,
        "gamma": (one.gamma_inverted, one.gamma),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_that_moves_no_voxel_is_one_that_changes_their_values(kind):
    certain = {**ALL_ON[kind], **({"probability_zyx": (1, 1, 1)} if kind == "flip" else {})}
    moves = drawn({kind: certain}).warp != Warp()
    assert params(**{kind: certain}).intensity_names == ([] if moves else [kind])


def with_probability(value):
    """All kinds at one probability."""
    return {
        name: {
            key: (value,) * 3 if key == "probability_zyx" else value if "probab" in key else old
            for key, old in section.items()
        }
        for name, section in ALL_ON.items()
    }


@pytest.mark.parametrize("off", [kind for kind in ALL_ON if kind != "scaling"])
def test_turning_one_kind_off_leaves_what_the_others_draw(off):
    kinds = {**with_probability(0.5), "scaling": None}
    changed = 0
    for seed in range(30):
        before, after = parts(drawn(kinds, seed)), parts(drawn({**kinds, off: None}, seed))
        changed += after.pop(off) != before.pop(off)
        assert after == before
    assert changed > 5


def test_turning_scaling_off_leaves_the_angles():
    both = np.array(drawn(ALL_ON).warp.matrix)
    turned = np.array(drawn({**ALL_ON, "scaling": None}).warp.matrix)
    assert both / both[0, 0] == pytest.approx(turned / turned[0, 0])


def test_inverting_never_leaves_the_exponents_of_the_others():
    gamma = {**ALL_ON["gamma"], "probability": 0.5, "probability_inverted": 0.5}
    never = {**gamma, "probability_inverted": 0.0}
    for seed in range(30):
        assert drawn({"gamma": never}, seed).gamma == drawn({"gamma": gamma}, seed).gamma


def test_the_same_generator_gives_the_same_draw():
    assert drawn(ALL_ON, seed=3) == drawn(ALL_ON, seed=3)


def test_another_sample_gets_another_draw():
    assert drawn(ALL_ON, seed=3) != drawn(ALL_ON, seed=4)


def test_a_draw_survives_pickling():
    one = drawn(ALL_ON)
    assert pickle.loads(pickle.dumps(one)) == one


def test_augmentation_that_is_off_draws_nothing():
    assert drawn({}) == Draw()


def test_augmentation_of_probability_0_is_never_drawn():
    assert {drawn(with_probability(0.0), seed) for seed in range(50)} == {Draw()}


def test_augmentation_of_probability_1_is_always_drawn():
    for seed in range(50):
        one = drawn(with_probability(1.0), seed)
        assert one.warp.flips_zyx == (True, True, True)
        assert None not in (one.warp.matrix, one.warp.bend, *vars(one).values())


def test_a_probability_is_how_often_a_kind_is_drawn():
    blur = {"blur": {"probability": 0.3, "sigma_voxels": (0.5, 1)}}
    share = np.mean([drawn(blur, seed).blur_sigma is not None for seed in range(1000)])
    assert share == pytest.approx(0.3, abs=0.05)


def test_values_lie_within_their_ranges():
    for seed in range(50):
        one = drawn(ALL_ON, seed)
        assert 0.01 <= one.noise_sd <= 0.1
        assert 0.5 <= one.blur_sigma <= 1
        assert 0.75 <= min(one.brightness, one.contrast) <= max(one.brightness, one.contrast)
        assert max(one.brightness, one.contrast) <= 1.25
        assert 0.5 <= one.low_resolution <= 1
        assert min(one.gamma, one.gamma_inverted) >= 0.7
        assert max(one.gamma, one.gamma_inverted) <= 1.5


def test_factors_lie_below_and_above_1_equally_often():
    factors = [drawn(ALL_ON, seed).gamma for seed in range(1000)]  # of 0.7 to 1.5
    assert np.mean(np.array(factors) < 1) == pytest.approx(0.5, abs=0.05)


def test_a_shift_is_in_millimetres_and_whole_voxels():
    shifts = np.array(
        [drawn({"shift": ALL_ON["shift"]}, seed).warp.shift_zyx for seed in range(300)]
    )
    assert shifts.dtype.kind == "i"
    assert np.abs(shifts).max(axis=0).tolist() == [3, 5, 8]  # 8 mm at 3, 1.5 and 1 mm


def test_turning_by_nothing_and_scaling_by_1_is_no_resampling():
    assert inverse_matrix((0.0, 0.0, 0.0), 1.0, SPACING_ZYX_MM) is None


def test_a_turn_by_90_degrees_swaps_axes_in_millimetres():
    # x is turned towards y: what is seen one voxel up y, 1.5 mm, was 1.5 voxels of 1 mm up x
    matrix = np.array(inverse_matrix((90.0, 0.0, 0.0), 1.0, SPACING_ZYX_MM))
    assert matrix @ [0, 1, 0] == pytest.approx([0, 0, 1.5])


def test_scaling_by_2_shows_what_is_half_as_far_from_the_centre():
    matrix = np.array(inverse_matrix((0.0, 0.0, 0.0), 2.0, SPACING_ZYX_MM))
    assert matrix @ [4, 2, 6] == pytest.approx([2, 1, 3])


def test_what_is_only_flipped_is_read_where_it_is_shown():
    assert Draw(Warp(flips_zyx=(True, False, True))).source_box(BOX) == BOX


def test_what_is_shifted_is_read_as_far_the_other_way():
    shifted = Draw(Warp(shift_zyx=(1, -2, 3))).source_box(BOX)
    assert shifted == Box((3, -1, 7), (15, 17, 31))


def test_what_is_shrunk_is_read_from_a_larger_box():
    half = Warp(matrix=inverse_matrix((0.0, 0.0, 0.0), 0.5, SPACING_ZYX_MM))
    # 12 voxels reach 5.5 to either side of 9.5, at half the size 11: from -1.5 to 20.5; likewise
    # 17 and 23 on the other axes; the box holds both neighbours of every point
    assert Draw(half).source_box(BOX) == Box((-2, -12, -2), (22, 24, 46))


@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 40)] * 3))
def test_no_point_of_the_coarse_grid_moves_further_than_three_deviations(seed, shape):
    bend = Bend(seed, (4.0, 8.0, 12.0), (0.5, 1.0, 2.0))
    furthest = np.abs(bend.points(shape)).max(axis=(1, 2, 3))
    assert (furthest <= [1.5, 3.0, 6.0]).all()


@given(st.integers(0, 2**32), st.tuples(*[st.integers(1, 40)] * 3))
def test_a_voxel_moves_as_the_coarse_points_around_it(seed, shape):
    bend = Bend(seed, (4.0, 8.0, 12.0), (0.5, 1.0, 2.0))
    counts = bend.points(shape).shape[1:]
    for weights, side, count in zip(bend.weights(shape), shape, counts, strict=True):
        assert weights.shape == (side, count)
        assert (weights >= 0).all()
        assert weights.sum(axis=1) == pytest.approx(1, abs=1e-6)
