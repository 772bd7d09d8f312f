"""The loader: the plan's batches, in order, wherever the training set lies and whoever reads."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from cache.errors import ParamsError, StoreError
from cache.reader import CaseStore
from stages.train.augment.params import AugmentationParams
from stages.train.loader.batches import AHEAD, Loader
from stages.train.loader.host import HostCases
from stages.train.loader.on_device import DeviceCases
from stages.train.loader.residency import Residency, open_source
from stages.train.plan import Plan
from stages.train.ranks import Ranks
from tiny import REPO, SHAPE_ZYX, write_balls

CASES = 5
PATCH_ZYX = (16, 18, 20)
THREADS = "liver3d-batches"
CPU = torch.device("cpu")
RESIDENCIES = ["disk", "host", "device"]
LAZY = {"host": HostCases, "device": DeviceCases}
TURNS = AugmentationParams.model_validate(
    {
        **dict.fromkeys(AugmentationParams.model_fields),
        "flip": {"probability_zyx": (0.5, 0.5, 0.5)},
        "rotation": {"probability": 0.7, "degrees": 30},
    }
)


@pytest.fixture(scope="module", params=["zarr", "hdf5"])
def kept_root(request, tmp_path_factory):
    """A store of either format; no test changes it."""
    root = tmp_path_factory.mktemp("store") / "cases"
    return write_balls(root, count=CASES, format=request.param)


@pytest.fixture(params=["zarr", "hdf5"])
def root(request, tmp_path):
    """A store of either format, to be spoiled."""
    return write_balls(tmp_path / "cases", count=CASES, format=request.param)


def make_plan(root, **changes):
    fields = {"patch_zyx": PATCH_ZYX, "patches_per_case": 2, "seed": 42, **changes}
    return Plan.of_store(CaseStore(root), **fields)


def make_loader(root, kind="disk", *, batch_size=2, threads=2, ranks=Ranks(), **plan):  # noqa: B008
    plan = make_plan(root, **plan)
    residency = Residency(kind, 1 << 20, "asked for by a test")
    source = open_source(CaseStore(root), plan, residency, device=CPU)
    return Loader(source, plan, batch_size=batch_size, device=CPU, threads=threads, ranks=ranks)


def copies(batches):
    """Case, box, volume and mask of every sample, copied while its batch is valid."""
    return [
        (sample, volume.numpy().copy(), mask.numpy().copy())
        for batch in batches
        for sample, volume, mask in zip(batch.samples, batch.volumes, batch.masks, strict=True)
    ]


def assert_equal(ones, others):
    assert len(ones) == len(others)
    for (sample, *arrays), (other, *their_arrays) in zip(ones, others, strict=True):
        assert (sample.case_id, sample.box) == (other.case_id, other.box)
        for array, theirs in zip(arrays, their_arrays, strict=True):
            assert np.array_equal(array, theirs)


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


@pytest.mark.parametrize("kind", RESIDENCIES)
class TestEveryResidency:
    def test_the_batches_of_an_epoch_are_the_plans_patches_in_order(self, kept_root, kind):
        store, plan = CaseStore(kept_root), make_plan(kept_root)
        read = copies(make_loader(kept_root, kind).epoch(3))
        assert [sample for sample, *_ in read] == [plan.sample(3, index) for index in range(10)]
        for sample, volume, mask in read:
            assert np.array_equal(volume, store.image(sample.case_id)[sample.box.slices])
            assert np.array_equal(mask, store.mask(sample.case_id)[sample.box.slices])

    def test_voxels_are_int16_hu_and_a_uint8_mask(self, kept_root, kind):
        batch = next(make_loader(kept_root, kind).epoch(0))
        assert {tuple(volume.shape) for volume in batch.volumes} == {PATCH_ZYX}
        assert {tuple(mask.shape) for mask in batch.masks} == {PATCH_ZYX}
        assert {volume.dtype for volume in batch.volumes} == {torch.int16}
        assert {mask.dtype for mask in batch.masks} == {torch.uint8}

    def test_what_lies_outside_a_case_is_air_and_no_liver(self, kept_root, kind):
        store = CaseStore(kept_root)
        loader = make_loader(kept_root, kind, patch_zyx=(16, 26, 40))  # cases are 20·24·28
        for sample, volume, mask in copies(loader.epoch(0)):
            whole = np.pad(store.image(sample.case_id), ((0, 0), (1, 1), (6, 6)),
                           constant_values=-1000)  # fmt: skip
            z = sample.box.start_zyx[0]
            assert np.array_equal(volume, whole[z : z + 16])
            assert mask.sum() == store.mask(sample.case_id)[z : z + 16].sum()

    def test_the_number_of_threads_changes_nothing(self, kept_root, kind):
        alone = copies(make_loader(kept_root, kind, threads=0).epoch(1))
        for threads in (1, 3):
            assert_equal(copies(make_loader(kept_root, kind, threads=threads).epoch(1)), alone)

    def test_two_ranks_together_read_what_one_process_reads(self, kept_root, kind):
        together = copies(make_loader(kept_root, kind, batch_size=4).epoch(1))
        shares = [
            iter(copies(make_loader(kept_root, kind, batch_size=4, ranks=Ranks(rank, 2)).epoch(1)))
            for rank in (0, 1)
        ]
        # the batches have 4, 4 and 2 samples, so the ranks simply take turns
        assert_equal([next(shares[index % 2]) for index in range(10)], together)

    def test_a_second_epoch_reads_the_same_wherever_the_set_lies(self, kept_root, kind):
        loader = make_loader(kept_root, kind)
        list(loader.epoch(0))
        assert_equal(copies(loader.epoch(1)), copies(make_loader(kept_root).epoch(1)))

    def test_a_turned_sample_brings_all_that_its_rotation_shows(self, kept_root, kind):
        turned = copies(make_loader(kept_root, kind, augmentation=TURNS).epoch(0))
        assert any(volume.shape != PATCH_ZYX for _, volume, _ in turned)
        for sample, volume, _ in turned:
            assert volume.shape == sample.source.box.shape_zyx
            read, _ = CaseStore(kept_root).read(sample.source)
            assert np.array_equal(volume, read)

    def test_a_damaged_case_reaches_the_caller_with_its_name_and_the_fix(self, root, kind):
        spoil_image(root, "case-3")
        with pytest.raises(StoreError, match="case case-3 is damaged: its image") as caught:
            list(make_loader(root, kind, patch_zyx=SHAPE_ZYX).epoch(0))
        assert "pipeline.verify" in str(caught.value)
        assert our_threads() == []

    def test_a_missing_case_reaches_the_caller_with_its_name(self, root, kind):
        (path,) = root.glob("case-2.*")
        path.rename(root / "elsewhere")
        with pytest.raises(StoreError, match="case case-2 is damaged"):
            list(make_loader(root, kind).epoch(0))

    def test_an_epoch_closed_early_leaves_no_thread(self, kept_root, kind):
        reading = make_loader(kept_root, kind, batch_size=1).epoch(0)
        next(reading)
        assert our_threads() != []
        reading.close()
        assert our_threads() == []

    def test_the_next_epoch_after_one_closed_early_is_whole(self, kept_root, kind):
        loader = make_loader(kept_root, kind)
        reading = loader.epoch(0)
        next(reading)
        reading.close()
        assert_equal(copies(loader.epoch(1)), copies(make_loader(kept_root).epoch(1)))


@pytest.mark.parametrize("kind", ["host", "device"])
class TestFilling:
    def open(self, root, kind, **plan):
        plan = make_plan(root, **plan)
        source = open_source(CaseStore(root), plan, Residency(kind, 0, ""), device=CPU)
        return source, Loader(source, plan, batch_size=2, device=CPU)

    def test_the_first_batch_does_not_wait_for_any_case_to_be_decoded(self, kept_root, kind):
        source, _ = self.open(kept_root, kind)
        plan = make_plan(kept_root)
        sample = plan.sample(0, 0)
        out = np.empty(PATCH_ZYX, np.int16), np.empty(PATCH_ZYX, np.uint8)
        source.read_all([sample.source], [out])
        assert source.missing == CASES
        assert np.array_equal(out[0], CaseStore(kept_root).read(sample.source)[0])

    def test_all_cases_arrive_while_batches_are_read(self, kept_root, kind):
        source, loader = self.open(kept_root, kind, patches_per_case=20)
        for _ in loader.epoch(0):
            time.sleep(0.01)
        assert source.missing == 0

    def test_what_has_arrived_is_read_from_the_disk_no_more(self, root, kind):
        # the plan would go on reading the liver voxels, which are few, from the store
        source, loader = self.open(root, kind, foreground_share=0.0)
        source.fill(threading.Event())
        expected = copies(make_loader(root, foreground_share=0.0).epoch(0))
        for path in root.glob("case-*"):
            path.rename(root / f"gone-{path.name}")
        assert_equal(copies(loader.epoch(0)), expected)

    def test_stopped_between_two_layers_it_goes_on_later(self, tmp_path, kind):
        root = write_balls(tmp_path / "cases", count=2, shapes_zyx=[(70, 20, 20)])
        source, _ = self.open(root, kind)
        stop = threading.Event()
        stop.set()
        source.fill(stop)
        assert source.missing == 2
        source.fill(threading.Event(), most=1)
        assert source.missing == 1
        source.fill(threading.Event())
        assert source.missing == 0

    def test_what_was_decoded_before_a_stop_is_not_decoded_again(self, tmp_path, kind):
        stop, slices = threading.Event(), []

        class Counting(CaseStore):
            def read(self, patch, out=None):
                slices.append(patch.box.shape_zyx[0])
                if sum(slices) == 64:
                    stop.set()
                return super().read(patch, out)

        shape = (100, 20, 20)
        store = Counting(write_balls(tmp_path / "cases", count=1, shapes_zyx=[shape]))
        more = [CPU] if kind == "device" else []
        source = LAZY[kind](store, {"case-0": shape}, *more)
        source.fill(stop)
        assert (source.missing, sum(slices)) == (1, 64)
        source.fill(threading.Event())
        assert (source.missing, sum(slices)) == (0, 100)
        plan = make_plan(store.root, patch_zyx=shape)
        (batch,) = Loader(source, plan, batch_size=2, device=CPU).epoch(0)
        assert np.array_equal(batch.volumes[0], store.image("case-0"))

    def test_a_fault_in_the_background_is_told_also_in_a_short_epoch(self, root, kind):
        class Elsewhere(LAZY[kind]):
            """Patches come from nowhere, and slowly: only filling reads the store."""

            def read_all(self, patches, outs):
                time.sleep(0.3)

        spoil_image(root, "case-0")
        more = [CPU] if kind == "device" else []
        source = Elsewhere(CaseStore(root), {"case-0": SHAPE_ZYX}, *more)
        plan = make_plan(root, case_ids=["case-0"], foreground_share=0.0)
        with pytest.raises(StoreError, match="case case-0 is damaged"):
            list(Loader(source, plan, batch_size=1, device=CPU).epoch(0))

    def test_a_case_nobody_has_asked_for_yet_stops_training_if_it_is_damaged(self, root, kind):
        spoil_image(root, "case-3")
        _, loader = self.open(root, kind, patches_per_case=200)
        with pytest.raises(StoreError, match="case case-3 is damaged"):
            list(loader.epoch(0))


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(1, [1] * 10), (3, [3, 3, 3, 1]), (5, [5, 5]), (99, [10])]
)
def test_only_the_last_batch_may_be_smaller(kept_root, batch_size, sizes):
    loader = make_loader(kept_root, batch_size=batch_size)
    assert len(loader) == len(sizes)
    assert [len(batch.samples) for batch in loader.epoch(0)] == sizes


def test_an_epoch_read_to_its_end_leaves_no_thread(kept_root):
    list(make_loader(kept_root).epoch(0))
    assert our_threads() == []


def test_dropping_an_epoch_leaves_no_thread(kept_root):
    reading = make_loader(kept_root, batch_size=1).epoch(0)
    next(reading)
    del reading
    assert our_threads() == []


def test_whole_volumes_of_unequal_shape_are_padded_to_one_of_a_batch(tmp_path):
    shapes = [(20, 24, 28), (18, 30, 17)]
    root = write_balls(tmp_path / "cases", count=2, shapes_zyx=shapes)
    (batch,) = make_loader(root, batch_size=4, patch_zyx=None).epoch(0)
    for case_id, volume, mask in zip(batch.case_ids, batch.volumes, batch.masks, strict=True):
        whole = CaseStore(root).image(case_id)
        z, y, x = whole.shape
        assert volume.shape == (20, 30, 28)
        assert np.array_equal(volume[:z, :y, :x], whole)
        assert volume[z:].eq(-1000).all()
        assert volume[:, y:].eq(-1000).all()
        assert volume[:, :, x:].eq(-1000).all()
        assert mask.sum() == CaseStore(root).mask(case_id).sum()


def test_nothing_is_read_before_the_first_batch_is_asked_for(root):
    loader = make_loader(root)
    (path,) = root.glob("case-2.*")
    path.rename(root / "elsewhere")
    reading = loader.epoch(0)
    with pytest.raises(StoreError, match="case case-2"):
        list(reading)


def test_only_a_bounded_number_of_batches_is_read_ahead(kept_root):
    asked = []

    class Counting(CaseStore):
        def read_all(self, patches, outs):
            asked.append(len(patches))
            super().read_all(patches, outs)

    plan = make_plan(kept_root, patches_per_case=20)
    reading = Loader(Counting(kept_root), plan, batch_size=1, device=CPU).epoch(0)
    next(reading)
    time.sleep(0.2)
    assert len(asked) == AHEAD + 1
    reading.close()


def test_batches_share_a_few_buffers(kept_root):
    loader = make_loader(kept_root, batch_size=1)
    places = {batch.volumes[0].data_ptr() for batch in loader.epoch(0)}
    assert len(places) == AHEAD + 1


def test_a_batch_stays_as_it_is_until_the_next_is_asked_for(kept_root):
    for batch in make_loader(kept_root, batch_size=1, patches_per_case=5).epoch(0):
        before = batch.volumes[0].clone()
        time.sleep(0.005)
        assert torch.equal(batch.volumes[0], before)


def test_more_ranks_than_patches_in_a_batch_are_refused(kept_root):
    with pytest.raises(ParamsError, match="fewer than the 3 processes"):
        make_loader(kept_root, batch_size=2, ranks=Ranks(0, 3))


def test_two_epochs_at_once_are_refused(kept_root):
    loader = make_loader(kept_root)
    first = loader.epoch(0)
    next(first)
    with pytest.raises(RuntimeError, match="close the epoch before"):
        next(loader.epoch(1))
    first.close()
    next(loader.epoch(1))


def test_a_rest_too_small_for_all_ranks_is_left_out_by_all(kept_root):
    plan = {"case_ids": ["case-0", "case-1", "case-2"], "patches_per_case": 3}
    for rank in (0, 1):
        loader = make_loader(kept_root, batch_size=2, ranks=Ranks(rank, 2), **plan)
        assert [len(batch.samples) for batch in loader.epoch(0)] == [1, 1, 1, 1]
    assert len(make_loader(kept_root, batch_size=2, **plan)) == 5


LEFT_OPEN = """
import sys, time
import torch
from cache.reader import CaseStore
from stages.train.loader.batches import Loader
from stages.train.loader.host import HostCases
from stages.train.plan import Plan

class Slow(CaseStore):
    def read(self, patch, out=None):
        time.sleep(2)
        return super().read(patch, out)

store = Slow(sys.argv[1])
plan = Plan.of_store(store, patch_zyx=(16, 18, 20), patches_per_case=9)
source = HostCases(store, plan.shapes_zyx)
reading = Loader(source, plan, batch_size=2, device=torch.device("cpu")).epoch(0)
next(reading)
"""


@pytest.mark.slow
def test_a_script_that_leaves_an_epoch_open_ends_before_all_is_decoded(kept_root):
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "-c", LEFT_OPEN, str(kept_root)]
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert time.perf_counter() - began < 2 * CASES  # seconds, that decoding alone would take


def test_a_fault_that_is_nobodys_data_tells_which_cases_were_read(kept_root):
    class Broken(CaseStore):
        def read_all(self, patches, outs):
            raise ZeroDivisionError

    plan = make_plan(kept_root)
    with pytest.raises(ZeroDivisionError) as caught:
        list(Loader(Broken(kept_root), plan, batch_size=2, device=CPU).epoch(0))
    assert caught.value.__notes__[0].startswith("while reading case-")


KILLED = """
import sys
import torch
from cache.reader import CaseStore
from stages.train.loader.batches import Loader
from stages.train.loader.residency import Residency, open_source
from stages.train.plan import Plan
store = CaseStore(sys.argv[1])
plan = Plan.of_store(store, patch_zyx=(16, 18, 20), patches_per_case=1000)
cpu = torch.device("cpu")
source = open_source(store, plan, Residency("host", 0, ""), device=cpu)
for number, batch in enumerate(Loader(source, plan, batch_size=2, device=cpu).epoch(0)):
    if number == 5:
        print("reading", flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_no_file_behind(kept_root, tmp_path):
    def there():
        # other programs' semaphores come and go beside ours
        shared = {path.name for path in Path("/dev/shm").glob("*") if path.name[:4] != "sem."}
        return sorted(kept_root.rglob("*")), list(tmp_path.iterdir()), shared

    before = there()
    environment = {**os.environ, "PYTHONPATH": str(REPO), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", KILLED, str(kept_root)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline().strip() == b"reading"
        process.kill()
    assert there() == before


@pytest.mark.parametrize("threads", [0, 2])
class TestPartOfAnEpoch:
    """Ten patches, in batches of three: the last one of the plan has a single patch."""

    def load(self, root, threads, *, batches=None, ranks=Ranks()):  # noqa: B008
        plan, store = make_plan(root), CaseStore(root)
        return Loader(
            store, plan, batch_size=3, device=CPU, threads=threads, ranks=ranks, batches=batches
        )

    @pytest.mark.parametrize("first", range(5))
    def test_an_epoch_from_a_batch_on_is_the_rest_of_the_epoch(self, kept_root, threads, first):
        loader = self.load(kept_root, threads)
        whole = copies(loader.epoch(2))
        assert_equal(copies(loader.epoch(2, first=first)), whole[3 * first :])

    def test_batches_before_the_first_of_a_part_of_an_epoch_are_not_read(self, kept_root, threads):
        loader = self.load(kept_root, threads)
        list(loader.epoch(2, first=2))
        assert loader.meter.samples == 4

    def test_fewer_batches_than_the_plans_are_its_first(self, kept_root, threads):
        whole = copies(self.load(kept_root, threads).epoch(1))
        loader = self.load(kept_root, threads, batches=2)
        assert len(loader) == 2
        assert_equal(copies(loader.epoch(1)), whole[:6])

    def test_with_more_batches_the_plan_goes_on_and_all_are_full(self, kept_root, threads):
        plan = make_plan(kept_root)
        loader = self.load(kept_root, threads, batches=6)
        assert len(loader) == 6
        batches = [copies([batch]) for batch in loader.epoch(1)]
        assert [len(batch) for batch in batches] == [3] * 6
        read = [sample for batch in batches for sample, *_ in batch]
        assert read == [plan.sample(1, index) for index in range(18)]

    def test_more_batches_begin_in_their_midst_too(self, kept_root, threads):
        loader = self.load(kept_root, threads, batches=6)
        whole = copies(loader.epoch(1))
        assert_equal(copies(loader.epoch(1, first=4)), whole[12:])

    def test_two_ranks_share_every_one_of_them(self, kept_root, threads):
        together = copies(self.load(kept_root, threads, batches=5).epoch(1, first=3))
        shares = [
            copies(self.load(kept_root, threads, batches=5, ranks=Ranks(rank, 2)).epoch(1, 3))
            for rank in (0, 1)
        ]
        # of three patches the first rank has two
        ours, theirs = shares
        assert_equal([ours[0], theirs[0], ours[1], ours[2], theirs[1], ours[3]], together)


class TestMeter:
    def test_the_meter_counts_samples_and_their_stored_bytes(self, kept_root):
        loader = make_loader(kept_root)
        list(loader.epoch(0))
        assert loader.meter.samples == 10
        assert loader.meter.bytes == 10 * 16 * 18 * 20 * 3

    def test_the_meter_counts_one_epoch_at_a_time(self, kept_root):
        loader = make_loader(kept_root)
        list(loader.epoch(0))
        list(loader.epoch(1))
        assert loader.meter.samples == 10

    def test_what_comes_after_an_epoch_does_not_count(self, kept_root):
        loader = make_loader(kept_root)
        list(loader.epoch(0))
        row = loader.meter.row()
        time.sleep(0.05)
        assert loader.meter.row() == row

    def test_training_that_is_slower_than_the_loader_does_not_wait(self, kept_root):
        loader = make_loader(kept_root, "host", batch_size=1)
        list(loader.epoch(0))
        for _ in loader.epoch(1):
            time.sleep(0.02)
        row = loader.meter.row()
        assert row["loader/waiting"] < 0.2
        assert row["loader/computing"] == 1 - row["loader/waiting"]
        assert row["loader/samples_per_s"] < 50

    def test_training_that_is_faster_than_the_loader_waits(self, kept_root):
        class Slow(CaseStore):
            def read_all(self, patches, outs):
                time.sleep(0.05)
                super().read_all(patches, outs)

        loader = Loader(Slow(kept_root), make_plan(kept_root), batch_size=2, device=CPU)
        list(loader.epoch(0))
        assert loader.meter.row()["loader/waiting"] > 0.8
