"""Which patch is read when: sample i of epoch e is a pure function of (seed, epoch, i)."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.errors import StoreError
from cache.reader import CaseStore
from stages.train.plan import Plan
from tiny import write_balls

SHAPES_ZYX = {"a": (40, 50, 60), "b": (41, 33, 70), "c": (36, 64, 45), "d": (50, 40, 39)}
SPACING_ZYX_MM = (2.5, 0.8, 0.7)
PATCH_ZYX = (16, 20, 24)
PINNED = [("d", (30, 16, 14)), ("a", (0, 0, 0))]

sides = st.integers(1, 60)
shapes = st.tuples(sides, sides, sides)
patches = st.tuples(*[st.integers(16, 40)] * 3)
numbers = st.integers(0, 2**33)  # seeds and epochs


def corner_voxels(shape_zyx):
    """The eight corners of a volume: where a patch around a voxel has to move most."""
    z, y, x = (sorted({0, side - 1}) for side in shape_zyx)
    return np.stack(np.meshgrid(z, y, x, indexing="ij"), -1).reshape(-1, 3).astype(np.int32)


def make_plan(shapes_zyx=None, *, foreground_of=None, **changes):
    shapes_zyx = SHAPES_ZYX if shapes_zyx is None else shapes_zyx
    fields = {
        "spacings_zyx_mm": dict.fromkeys(shapes_zyx, SPACING_ZYX_MM),
        "patch_zyx": PATCH_ZYX,
        "patches_per_case": 3,
        "foreground_share": 0.5,
        "augmentation": None,
        "seed": 42,
        **changes,
    }
    read = foreground_of or (lambda case_id: corner_voxels(shapes_zyx[case_id]))
    return Plan(shapes_zyx=shapes_zyx, foreground_of=read, **fields)


def epoch_of(plan, epoch=0):
    return [plan.sample(epoch, index) for index in range(len(plan))]


def holds(box, voxel):
    return all(a <= v < b for a, v, b in zip(box.start_zyx, voxel, box.stop_zyx, strict=True))


def holds_a_corner(patch):
    return any(holds(patch.box, voxel) for voxel in corner_voxels(SHAPES_ZYX[patch.case_id]))


class TestPureFunction:
    @given(st.permutations(range(12)), numbers)
    def test_the_order_in_which_samples_are_asked_for_does_not_matter(self, order, epoch):
        plan = make_plan()
        asked = {index: plan.sample(epoch, index) for index in order}
        assert [asked[index] for index in range(12)] == epoch_of(make_plan(), epoch)

    @given(st.lists(st.integers(0, 11), min_size=1, max_size=5), numbers)
    def test_a_sample_is_the_same_alone_and_in_a_group(self, group, epoch):
        plan = make_plan()
        assert plan.samples(epoch, group) == [plan.sample(epoch, index) for index in group]

    def test_the_order_in_which_cases_were_listed_does_not_matter(self):
        backwards = dict(reversed(SHAPES_ZYX.items()))
        assert epoch_of(make_plan(backwards)) == epoch_of(make_plan())

    def test_the_samples_of_a_seed_never_change(self):
        # a plan that moves between versions would train another model from the same parameters
        first = [make_plan(seed=7).sample(1, index) for index in (0, 1)]
        assert [(patch.case_id, patch.box.start_zyx) for patch in first] == PINNED

    def test_the_samples_of_two_epochs_differ(self):
        plan = make_plan({"case": (200, 200, 200)}, foreground_share=0)
        assert plan.sample(0, 0) != plan.sample(1, 0)

    def test_the_order_of_the_cases_differs_between_epochs(self):
        plan = make_plan()
        orders = {tuple(patch.case_id for patch in epoch_of(plan, epoch)) for epoch in range(10)}
        assert len(orders) > 5

    @pytest.mark.parametrize(("seed", "index"), [(43, 0), (41, 2)])
    def test_a_seeds_samples_are_not_the_next_seeds_one_further(self, seed, index):
        one = {"case": (200, 200, 200)}
        ours = make_plan(one, foreground_share=0, seed=42)
        theirs = make_plan(one, foreground_share=0, seed=seed)
        assert ours.sample(0, 1) != theirs.sample(0, index)

    def test_an_epochs_samples_are_not_the_next_epochs_one_further(self):
        plan = make_plan({"case": (200, 200, 200)}, foreground_share=0)
        assert plan.sample(3, 1) != plan.sample(4, 0)


def test_a_case_that_is_not_in_the_store_is_refused_by_name(tmp_path):
    store = CaseStore(write_balls(tmp_path / "cases", count=2))
    with pytest.raises(StoreError, match="there is no case 'case-7'"):
        Plan.of_store(store, case_ids=["case-1", "case-7"], patch_zyx=PATCH_ZYX)


class TestCases:
    @given(st.integers(1, 9), st.integers(1, 4), numbers, numbers)
    def test_every_pass_over_the_cases_visits_each_once(self, cases, per_case, seed, epoch):
        names = [f"case-{n}" for n in range(cases)]
        plan = make_plan(dict.fromkeys(names, (40, 40, 40)), patches_per_case=per_case, seed=seed)
        visited = [patch.case_id for patch in epoch_of(plan, epoch)]
        passes = [visited[start : start + cases] for start in range(0, len(visited), cases)]
        assert [sorted(one) for one in passes] == [names] * per_case


class TestForeground:
    @given(st.integers(0, 100), st.integers(0, 60), st.integers(0, 200))
    def test_any_run_of_samples_has_its_share_to_within_one(self, percent, count, start):
        asked = []
        plan = make_plan(
            foreground_share=percent / 100,
            foreground_of=lambda case_id: asked.append(case_id) or corner_voxels((9, 9, 9)),
        )
        for index in range(start, start + count):
            plan.sample(0, index)
        assert abs(len(asked) - count * percent / 100) < 1

    @pytest.mark.parametrize(
        ("share", "expected"), [(0, 0), (0.25, 3), (1 / 3, 4), (0.5, 6), (0.75, 9), (1, 12)]
    )
    def test_an_epoch_has_exactly_its_share(self, share, expected):
        # of the places drawn from anywhere, one in 3000 has a corner: chance adds none here
        plan = make_plan(foreground_share=share)
        assert sum(map(holds_a_corner, epoch_of(plan, 2))) == expected

    @pytest.mark.parametrize(("batch_size", "share"), [(2, 0.5), (3, 0.5), (4, 0.33), (2, 0.25)])
    def test_each_of_1000_batches_has_its_share_rounded_down_or_up(self, batch_size, share):
        asked = []
        plan = make_plan(
            foreground_share=share,
            foreground_of=lambda case_id: asked.append(case_id) or corner_voxels((9, 9, 9)),
        )
        per_batch = []
        for batch in range(1000):
            plan.samples(0, range(batch * batch_size, (batch + 1) * batch_size))
            per_batch.append(len(asked))
            asked.clear()
        assert set(per_batch) <= {math.floor(batch_size * share), math.ceil(batch_size * share)}
        assert abs(sum(per_batch) - 1000 * batch_size * share) < 1

    @settings(max_examples=200)
    @given(shapes, patches, numbers)
    def test_a_foreground_patch_contains_a_liver_voxel(self, shape, patch_zyx, seed):
        voxels = corner_voxels(shape)
        for voxel in voxels:
            plan = make_plan(
                {"case": shape},
                foreground_of=lambda _, voxel=voxel: voxel[None],
                patch_zyx=patch_zyx,
                foreground_share=1,
                seed=seed,
            )
            assert holds(plan.sample(0, 0).box, voxel)

    def test_a_foreground_patch_is_centred_on_its_voxel_where_there_is_room(self):
        voxel = np.array([[20, 25, 31]], np.int32)
        plan = make_plan({"case": (40, 50, 60)}, foreground_of=lambda _: voxel, foreground_share=1)
        box = plan.sample(0, 0).box
        assert box.start_zyx == (12, 15, 19)
        assert box.stop_zyx == (28, 35, 43)

    def test_every_liver_voxel_can_be_the_centre(self):
        plan = make_plan({"case": (60, 60, 60)}, foreground_share=1)
        starts = {plan.sample(epoch, 0).box.start_zyx for epoch in range(60)}
        assert len(starts) == 8

    def test_a_case_without_liver_gives_patches_from_anywhere(self):
        empty = np.zeros((0, 3), np.int32)
        plan = make_plan(foreground_of=lambda _: empty, foreground_share=1)
        assert len({patch.box.start_zyx for patch in epoch_of(plan)}) == len(plan)


class TestPlaces:
    @settings(max_examples=300)
    @given(shapes, patches, st.sampled_from([0, 1]), numbers)
    def test_a_patch_lies_inside_or_is_centred_over_what_is_too_small(
        self, shape, patch_zyx, share, seed
    ):
        plan = make_plan({"case": shape}, patch_zyx=patch_zyx, foreground_share=share, seed=seed)
        box = plan.sample(0, 0).box
        assert box.shape_zyx == patch_zyx
        for start, stop, side in zip(box.start_zyx, box.stop_zyx, shape, strict=True):
            if stop - start <= side:
                assert start >= 0
                assert stop <= side
            else:
                before, after = -start, stop - side
                assert abs(before - after) <= 1

    def test_patches_reach_both_ends_of_a_volume(self):
        plan = make_plan({"case": (17, 21, 25)}, foreground_share=0)
        starts = {plan.sample(epoch, 0).box.start_zyx for epoch in range(100)}
        assert starts == {(z, y, x) for z in (0, 1) for y in (0, 1) for x in (0, 1)}


class TestWholeVolumes:
    @given(st.lists(shapes, min_size=1, max_size=5), numbers)
    def test_the_box_covers_the_volume_and_at_least_16_voxels(self, shapes_zyx, seed):
        plan = make_plan(dict(enumerate(shapes_zyx)), patch_zyx=None, seed=seed)
        for patch in epoch_of(plan):
            expected = tuple(max(16, side) for side in shapes_zyx[patch.case_id])
            assert patch.box.start_zyx == (0, 0, 0)
            assert patch.box.stop_zyx == expected

    @given(st.lists(shapes, min_size=1, max_size=5), st.data())
    def test_the_patches_of_a_batch_have_one_shape_that_covers_each(self, shapes_zyx, data):
        plan = make_plan(dict(enumerate(shapes_zyx)), patch_zyx=None)
        group = data.draw(st.lists(st.integers(0, len(plan) - 1), min_size=1, max_size=4))
        together = plan.samples(0, group)
        assert len({patch.box.shape_zyx for patch in together}) == 1
        for index, patch in zip(group, together, strict=True):
            alone = plan.sample(0, index)
            assert patch.case_id == alone.case_id
            assert patch.box.start_zyx == alone.box.start_zyx
            assert np.all(np.subtract(patch.box.stop_zyx, alone.box.stop_zyx) >= 0)

    def test_no_liver_voxels_are_read(self):
        def refuse(case_id):
            raise AssertionError(case_id)

        assert len(epoch_of(make_plan(patch_zyx=None, foreground_of=refuse))) == 12
