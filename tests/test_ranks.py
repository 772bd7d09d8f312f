"""Processes that train together: who they are, and one training set in memory for all."""

import json
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cache.reader import CaseStore
from stages.train.loader.shared import SharedBlock
from stages.train.plan import Plan
from stages.train.ranks import Ranks, agreed, current_ranks
from tiny import python, write_balls

TWO = """
import json, os, sys
from pathlib import Path
import torch
import torch.distributed as dist
from cache.reader import CaseStore
from stages.train.loader.batches import Loader
from stages.train.loader.residency import Residency, open_source
from stages.train.plan import Plan
from stages.train.ranks import agreed, current_ranks

rank, folder = int(sys.argv[1]), Path(sys.argv[2])
dist.init_process_group("gloo", init_method=(folder / "meeting").as_uri(), rank=rank, world_size=2)
ranks = current_ranks()
store = CaseStore(folder / "cases")
plan = Plan.of_store(store, patch_zyx=(16, 18, 20), patches_per_case=2, seed=3)
device = torch.device("cpu")
source = open_source(store, plan, Residency("host", 0, ""), device=device, ranks=ranks)
loader = Loader(source, plan, batch_size=2, device=device, ranks=ranks)
sums = [[one.case_id, int(volume.sum()), int(mask.sum())]
        for epoch in (0, 1) for batch in loader.epoch(epoch)
        for one, volume, mask in zip(batch.samples, batch.volumes, batch.masks)]
said = {"ranks": vars(ranks), "agreed": agreed(f"from {rank}", ranks),
        "nothing": agreed(rank or None, ranks), "sums": sums,
        "maps": sum("memfd:liver3d" in line for line in open("/proc/self/maps"))}
os.environ.update(LOCAL_RANK="0", LOCAL_WORLD_SIZE="1")  # as torchrun has it on two machines
said["apart"] = [vars(current_ranks()), agreed(f"from {rank}", current_ranks())]
(folder / f"{rank}.json").write_text(json.dumps(said))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two real processes tell that share a training set of three cases in host memory."""
    if not SharedBlock.is_supported() or sys.platform != "linux":
        pytest.skip("looks into /proc")
    folder = tmp_path_factory.mktemp("two")
    write_balls(folder / "cases", count=3)
    processes = [python("-c", TWO, rank, folder, cwd=folder, wait=False) for rank in (0, 1)]
    assert [process.wait(timeout=100) for process in processes] == [0, 0]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
def test_two_processes_know_their_places(two):
    _, said = two
    assert [Ranks(**one["ranks"]) for one in said] == [Ranks(0, 2, 0, 2), Ranks(1, 2, 1, 2)]


@pytest.mark.slow
def test_what_the_first_of_a_machine_says_holds_for_all(two):
    _, said = two
    assert [one["agreed"] for one in said] == ["from 0", "from 0"]
    assert [one["nothing"] for one in said] == [None, None]


@pytest.mark.slow
def test_on_two_machines_each_is_the_first_of_its_own(two):
    _, said = two
    assert [Ranks(**one["apart"][0]) for one in said] == [Ranks(0, 2, 0, 1), Ranks(1, 2, 0, 1)]
    assert [one["apart"][1] for one in said] == ["from 0", "from 1"]


@pytest.mark.slow
def test_the_batches_of_two_ranks_together_are_those_of_one_process(two):
    folder, said = two
    store = CaseStore(folder / "cases")
    plan = Plan.of_store(store, patch_zyx=(16, 18, 20), patches_per_case=2, seed=3)
    expected = []
    for epoch in (0, 1):
        for index in range(len(plan)):
            sample = plan.sample(epoch, index)
            volume, mask = store.read(sample.source)
            sums = int(volume.sum(dtype=np.int64)), int(mask.sum(dtype=np.int64))
            expected.append([sample.case_id, *sums])
    assert said[0]["sums"] == expected[0::2]
    assert said[1]["sums"] == expected[1::2]


@pytest.mark.slow
def test_the_ranks_of_a_machine_hold_the_training_set_in_one_memory_without_a_name(two):
    _, said = two
    assert [one["maps"] for one in said] == [1, 1]


@given(st.integers(0, 40), st.integers(1, 9))
def test_the_shares_of_all_ranks_are_disjoint_and_together_everything(items, count):
    shares = [Ranks(rank, count).share(range(items)) for rank in range(count)]
    assert sorted(index for share in shares for index in share) == list(range(items))


@given(st.integers(0, 40), st.integers(1, 9))
def test_no_ranks_share_is_larger_than_the_most_of_any(items, count):
    shares = [len(Ranks(rank, count).share(range(items))) for rank in range(count)]
    assert Ranks(0, count).most_of(items) == max(shares)


def test_a_single_process_is_the_first_of_one():
    assert current_ranks() == Ranks(0, 1, 0, 1)


def test_a_single_process_agrees_with_itself():
    assert agreed("mine", Ranks()) == "mine"
