"""Batches read ahead by a thread: the plan's patches, in order, from either format."""

import threading

import h5py
import numpy as np
import pytest
import torch

from cache.errors import StoreError
from cache.reader import CaseStore
from stages.train.batches import batches
from stages.train.plan import Plan
from tiny import SHAPE_ZYX, write_balls

CASES = 5
PATCH_ZYX = (16, 18, 20)
THREADS = "liver3d-batches"


@pytest.fixture(params=["zarr", "hdf5"])
def root(request, tmp_path):
    return write_balls(tmp_path / "cases", count=CASES, format=request.param)


@pytest.fixture
def store(root):
    return CaseStore(root)


def make_plan(store, *, patch_zyx=PATCH_ZYX):
    shapes = {case_id: store.manifest.cases[case_id].shape_zyx for case_id in store.case_ids}
    return Plan(shapes, store.foreground_zyx, patch_zyx, 2, 0.5, 42)


def epoch_of(store, *, epoch=0, batch_size=2, **plan):
    return list(batches(store, make_plan(store, **plan), epoch=epoch, batch_size=batch_size))


def our_threads():
    return [one.name for one in threading.enumerate() if one.name.startswith(THREADS)]


def spoil_image(root, case_id):
    """Flip some bits in the middle of a stored volume, whatever the format."""
    path = root / f"{case_id}.zarr" / "image" / "c" / "0" / "0" / "0"  # the shard
    if path.is_file():
        place = path.stat().st_size // 2
    else:
        path = root / f"{case_id}.h5"
        with h5py.File(path) as file:
            chunk = file["image"].id.get_chunk_info(0)
            place = chunk.byte_offset + chunk.size // 2
    with path.open("rb+") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 255]))


def test_the_batches_of_an_epoch_are_the_plans_patches_in_order(store):
    plan = make_plan(store)
    patches = [plan.patch(3, index) for index in range(len(plan))]
    read = epoch_of(store, epoch=3)
    assert [case_id for batch in read for case_id in batch.case_ids] == [
        patch.case_id for patch in patches
    ]
    volumes = [volume for batch in read for volume in batch.volume[:, 0].numpy()]
    masks = [mask for batch in read for mask in batch.mask.numpy()]
    for patch, volume, mask in zip(patches, volumes, masks, strict=True):
        assert np.array_equal(volume, store.image(patch.case_id)[patch.box.slices])
        assert np.array_equal(mask, store.mask(patch.case_id)[patch.box.slices])


def test_a_batch_is_int16_hu_with_a_channel_and_a_uint8_mask_without(store):
    batch = epoch_of(store)[0]
    assert batch.volume.shape == (2, 1, *PATCH_ZYX)
    assert batch.volume.dtype == torch.int16
    assert batch.mask.shape == (2, *PATCH_ZYX)
    assert batch.mask.dtype == torch.uint8


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (99, [10])]
)
def test_only_the_last_batch_may_be_smaller(store, batch_size, sizes):
    assert [len(batch.case_ids) for batch in epoch_of(store, batch_size=batch_size)] == sizes


def test_whole_volumes_of_unequal_shape_are_padded_with_air_to_one(tmp_path):
    shapes = [(20, 24, 28), (18, 30, 17)]
    store = CaseStore(write_balls(tmp_path / "cases", count=2, shapes_zyx=shapes))
    (batch,) = epoch_of(store, batch_size=4, patch_zyx=None)
    assert batch.volume.shape == (4, 1, 20, 30, 28)
    for case_id, volume, mask in zip(batch.case_ids, batch.volume, batch.mask, strict=True):
        z, y, x = store.image(case_id).shape
        assert np.array_equal(volume[0, :z, :y, :x], store.image(case_id))
        assert volume[0, z:].eq(-1000).all()
        assert volume[0, :, y:].eq(-1000).all()
        assert volume[0, :, :, x:].eq(-1000).all()
        assert mask.sum() == store.mask(case_id).sum()


def test_a_damaged_chunk_reaches_the_caller_and_names_the_case(root):
    spoil_image(root, "case-3")
    with pytest.raises(StoreError, match="case case-3 is damaged: its image cannot be read"):
        epoch_of(CaseStore(root), patch_zyx=SHAPE_ZYX)


def test_a_missing_case_reaches_the_caller_and_names_the_case(root):
    (path,) = root.glob("case-2.*")
    path.rename(root / "elsewhere")
    with pytest.raises(StoreError, match="case case-2 is damaged"):
        epoch_of(CaseStore(root))


def test_an_epoch_read_to_its_end_leaves_no_thread(store):
    epoch_of(store)
    assert our_threads() == []


def test_an_epoch_closed_early_leaves_no_thread(store):
    reading = batches(store, make_plan(store), epoch=0, batch_size=1)
    next(reading)
    assert len(our_threads()) == 1
    reading.close()
    assert our_threads() == []


def test_a_fault_leaves_no_thread(root):
    spoil_image(root, "case-3")
    with pytest.raises(StoreError):
        epoch_of(CaseStore(root), patch_zyx=SHAPE_ZYX)
    assert our_threads() == []


def test_nothing_is_read_before_the_first_batch_is_asked_for(tmp_path):
    store = CaseStore(tmp_path / "nowhere")
    plan = Plan({"case": (20, 20, 20)}, store.foreground_zyx, PATCH_ZYX, 1, 0.5, 42)
    reading = batches(store, plan, epoch=0, batch_size=1)
    with pytest.raises(StoreError, match="there is no prepared data here"):
        next(reading)
