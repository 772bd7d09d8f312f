"""``PatchDataset`` in a plain DataLoader: the same samples under fork, spawn and no workers."""

import copy
import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from cache.errors import ParamsError, StoreError
from cache.reader import CaseStore
from stages.train.augment.params import AugmentationParams, Flip
from stages.train.intensity import to_network_input
from stages.train.loader.dataset import PatchDataset
from stages.train.plan import Plan
from tiny import REPO, write_balls

PATCH_ZYX = (16, 18, 20)
WINDOW = (-160, 240)
TURNS = AugmentationParams.model_validate(
    {
        **dict.fromkeys(AugmentationParams.model_fields),
        "rotation": {"probability": 1, "degrees": 30},
        "noise": {"probability": 1, "sd": (0.1, 0.2)},
    }
)
FLIP_X = Flip(probability_zyx=(0, 0, 1))
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def root(request, tmp_path_factory):
    """A store of either format; no test changes it."""
    return write_balls(tmp_path_factory.mktemp("store") / "cases", count=3, format=request.param)


def make_dataset(root, *, hu_window=None, **plan):
    fields = {"patch_zyx": PATCH_ZYX, "patches_per_case": 2, "seed": 7, **plan}
    store = CaseStore(root)
    return PatchDataset(store, Plan.of_store(store, **fields), hu_window=hu_window)


def by_hand(root, epoch=0):
    """The plan's samples, read one after the other."""
    store = CaseStore(root)
    plan = Plan.of_store(store, patch_zyx=PATCH_ZYX, patches_per_case=2, seed=7)
    samples = [plan.sample(epoch, index) for index in range(len(plan))]
    return [(sample.case_id, *store.read(sample.source)) for sample in samples]


def loaded(dataset, **how):
    """All items a DataLoader gives, in batches of two."""
    return [
        (case_id, volume.numpy()[0], mask.numpy())
        for batch in DataLoader(dataset, batch_size=2, **how)
        for case_id, volume, mask in zip(
            batch["case_id"], batch["volume"], batch["mask"], strict=True
        )
    ]


def assert_equal(ones, others):
    assert [case_id for case_id, *_ in ones] == [case_id for case_id, *_ in others]
    for (_, *arrays), (_, *theirs) in zip(ones, others, strict=True):
        assert all(np.array_equal(one, other) for one, other in zip(arrays, theirs, strict=True))


def test_an_item_is_int16_hu_with_a_channel_and_a_uint8_mask_without(root):
    item = make_dataset(root)[0]
    assert (item["volume"].dtype, item["volume"].shape) == (torch.int16, (1, *PATCH_ZYX))
    assert (item["mask"].dtype, item["mask"].shape) == (torch.uint8, PATCH_ZYX)


def test_a_patch_dataset_without_workers_gives_the_plans_samples(root):
    assert_equal(loaded(make_dataset(root)), by_hand(root))


@needs_fork
def test_forked_workers_give_the_same_also_after_the_parent_has_read(root):
    expected = by_hand(root)  # TensorStore has been used in this process from here on
    how = {"num_workers": 2, "multiprocessing_context": "fork", "timeout": 60}
    assert_equal(loaded(make_dataset(root), **how), expected)


def heard(dataset, method):
    """The volumes of epochs 0 and 1 from one worker that goes on running."""
    loader = DataLoader(
        dataset, num_workers=1, multiprocessing_context=method, persistent_workers=True, timeout=60
    )
    epochs = []
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        epochs.append(torch.cat([batch["volume"] for batch in loader])[:, 0].numpy())
    return epochs


@pytest.mark.slow
def test_spawned_workers_give_the_same_and_hear_of_the_next_epoch(root):
    expected = [np.stack([volume for _, volume, _ in by_hand(root, epoch)]) for epoch in (0, 1)]
    assert np.array_equal(heard(make_dataset(root), "spawn"), expected)


@needs_fork
@pytest.mark.parametrize("copied", [lambda one: one, copy.deepcopy], ids=["made", "copied"])
def test_forked_workers_of_a_data_set_or_its_copy_hear_of_the_next_epoch(root, copied):
    dataset = copied(make_dataset(root))
    expected = [np.stack([volume for _, volume, _ in by_hand(root, epoch)]) for epoch in (0, 1)]
    assert np.array_equal(heard(dataset, "fork"), expected)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_any_number_of_workers_gives_the_same_in_any_way_of_starting_them(root, method, workers):
    if method == "fork" and not hasattr(os, "fork"):
        pytest.skip("this system cannot fork")
    how = {"num_workers": workers, "multiprocessing_context": method, "timeout": 60}
    assert_equal(loaded(make_dataset(root), **how), by_hand(root))


FRESH_FORK = """
import sys
from torch.utils.data import DataLoader
from cache.reader import CaseStore
from stages.train.loader.dataset import PatchDataset
from stages.train.plan import Plan
store = CaseStore(sys.argv[1])
plan = Plan.of_store(store, patch_zyx=(16, 18, 20), patches_per_case=2, seed=7)
loader = DataLoader(
    PatchDataset(store, plan), batch_size=2, num_workers=2, multiprocessing_context="fork",
    timeout=60)
print(*[case_id for batch in loader for case_id in batch["case_id"]])
print(sum(int(batch["volume"].sum()) for batch in loader))
"""


@pytest.mark.slow
@needs_fork
def test_forked_workers_of_a_process_that_has_read_nothing_give_the_same(root):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    ended = subprocess.run(
        [sys.executable, "-c", FRESH_FORK, str(root)],
        capture_output=True, text=True, env=environment, check=False, timeout=120,
    )  # fmt: skip
    expected = by_hand(root)
    assert ended.stdout.splitlines() == [
        " ".join(case_id for case_id, *_ in expected),
        str(sum(int(volume.sum(dtype=np.int64)) for _, volume, _ in expected)),
    ]
    assert "more slowly" not in ended.stderr


def test_with_a_window_the_volume_is_what_the_network_gets(root):
    raw, windowed = make_dataset(root)[3], make_dataset(root, hu_window=WINDOW)[3]
    assert torch.equal(windowed["volume"], to_network_input(raw["volume"], WINDOW))
    assert torch.equal(windowed["mask"], raw["mask"])


def test_an_augmented_item_has_the_patchs_shape_and_is_the_same_twice(root):
    datasets = [make_dataset(root, hu_window=WINDOW, augmentation=TURNS) for _ in range(2)]
    ours, theirs = (dataset[1] for dataset in datasets)
    assert ours["volume"].shape == (1, *PATCH_ZYX)
    assert torch.equal(ours["volume"], theirs["volume"])
    assert not torch.equal(ours["volume"], make_dataset(root, hu_window=WINDOW)[1]["volume"])


def test_pickled_with_its_files_open_it_gives_the_same(root):
    dataset = make_dataset(root)
    expected = dataset[2]["volume"]  # files are open now, and stay behind
    assert torch.equal(pickle.loads(pickle.dumps(dataset))[2]["volume"], expected)


def test_the_data_set_opens_nothing_before_its_first_item(root, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(root, moved)
    dataset = make_dataset(moved)
    for path in (*moved.glob("case-*"), moved / "manifest.json"):
        path.rename(path.with_name(f"{path.name}.away"))
    copied = pickle.loads(pickle.dumps(dataset))
    for path in moved.glob("*.away"):
        path.rename(path.with_suffix(""))
    assert torch.equal(copied[0]["volume"], make_dataset(root)[0]["volume"])


def test_kinds_measured_in_the_window_are_refused_without_one(root):
    with pytest.raises(ParamsError, match="noise are measured in widths of the window"):
        make_dataset(root, augmentation=TURNS)


def test_moved_but_not_windowed_the_volume_is_float_hu(root):
    flips = TURNS.model_copy(update={"rotation": None, "noise": None, "flip": FLIP_X})
    raw, flipped = make_dataset(root)[1], make_dataset(root, augmentation=flips)[1]
    assert torch.equal(flipped["volume"], raw["volume"].float().flip(3))


def test_an_index_beyond_the_epoch_ends_a_plain_for_loop(root):
    assert len(list(make_dataset(root))) == 6


def test_a_damaged_case_is_named(tmp_path):
    root = write_balls(tmp_path / "cases", count=1)
    (shard,) = (root / "case-0.zarr" / "image" / "c").rglob("0/0/0")
    shard.unlink()
    with pytest.raises(StoreError, match="case case-0 is damaged: its image"):
        make_dataset(root)[0]


@needs_fork
def test_a_damaged_case_is_named_through_a_worker(tmp_path):
    root = write_balls(tmp_path / "cases", count=1, format="hdf5")
    path = root / "case-0.h5"
    path.write_bytes(path.read_bytes()[:-5000])
    how = {"num_workers": 1, "multiprocessing_context": "fork", "timeout": 60}
    with pytest.raises(StoreError, match="case case-0 is damaged"):
        loaded(make_dataset(root), **how)
