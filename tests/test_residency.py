"""Where the training set lies: what fits, what is said of it, and what is refused."""

import psutil
import pytest
import torch

from cache.errors import ParamsError
from stages.machine import free_memory_bytes
from stages.train.loader.host import block_bytes, decoded_bytes
from stages.train.loader.meter import Meter
from stages.train.loader.open import advice
from stages.train.loader.residency import Residency, Room, choose, find_room
from stages.train.ranks import Ranks

GB = 10**9


def room(*, host=20, device=None, step=1, ranks=1):
    return Room(step * GB, host * GB, None if device is None else device * GB, ranks)


class TestAuto:
    @pytest.mark.parametrize(
        ("needed", "host", "device", "kind"),
        [
            (10, 50, 16, "device"),
            (13, 50, 16, "host"),  # a step takes 1 of 16 GB, and a fifth of the rest stays free
            (13, 15, 16, "disk"),
            (13, 50, None, "host"),
            (13, 15, None, "disk"),
        ],
    )
    def test_auto_residency_takes_the_fastest_place_with_room(self, needed, host, device, kind):
        assert choose("auto", needed * GB, room(host=host, device=device)).kind == kind

    def test_on_the_cpu_a_training_step_takes_its_share_of_the_host(self):
        assert choose("auto", 7 * GB, room(host=10, step=1)).kind == "host"
        assert choose("auto", 7 * GB, room(host=10, step=2)).kind == "disk"

    def test_the_ranks_of_a_machine_hold_one_copy_in_host_memory(self):
        assert choose("auto", 10 * GB, room(host=20, device=4, ranks=8)).kind == "host"

    def test_the_ranks_of_a_machine_share_what_is_kept_of_a_disk(self):
        alone = choose("auto", 900 * GB, room(host=8, device=1))
        shared = choose("auto", 900 * GB, room(host=8, device=1, ranks=4))
        assert alone.budget_bytes == pytest.approx(1.6 * GB)
        assert shared.budget_bytes == pytest.approx(0.4 * GB)

    def test_no_more_is_kept_of_a_disk_than_there_is(self):
        assert choose("disk", 10**6, room()).budget_bytes == 10**6

    def test_residency_says_how_much_data_there_is_and_how_much_room(self):
        assert choose("auto", 3 * GB, room(host=11)).why == "3.0 GB decoded, room for 8.0 GB"
        said = choose("auto", 30 * GB, room(host=11)).why
        assert said == "30.0 GB decoded, room for 8.0 GB; at most 2.0 GB of it stay in memory"


class TestAskedFor:
    @pytest.mark.parametrize("kind", ["device", "host", "disk"])
    def test_a_place_with_room_is_taken(self, kind):
        assert choose(kind, GB, room(host=20, device=20)).kind == kind

    @pytest.mark.parametrize("kind", ["device", "host"])
    def test_a_place_without_room_is_refused_with_the_numbers(self, kind):
        with pytest.raises(ParamsError) as caught:
            choose(kind, 30 * GB, room(host=20, device=20))
        assert caught.value.where == "train.residency"
        assert f"is {kind}, but it does not go there: 30.0 GB decoded" in str(caught.value)
        assert "set it to auto" in str(caught.value)

    def test_without_a_gpu_the_device_is_the_memory_of_the_cpu(self):
        assert choose("device", GB, room(host=20)).kind == "device"
        with pytest.raises(ParamsError):
            choose("device", 30 * GB, room(host=20))


def test_the_room_of_a_cpu_is_the_machines_memory():
    found = find_room(GB, torch.device("cpu"), Ranks())
    assert found.device is None
    # what is free changes while others run, but not by more than half
    assert free_memory_bytes() / 2 < found.host < psutil.virtual_memory().total
    assert (found.step, found.ranks) == (GB, 1)


def test_a_decoded_case_takes_three_bytes_a_voxel():
    assert decoded_bytes({"a": (2, 3, 4), "b": (5, 5, 5)}) == 3 * (24 + 125)


def test_a_shared_block_has_room_for_every_case_and_its_flag():
    shapes = {"a": (2, 3, 5), "b": (5, 5, 5)}
    # flags, case a from byte 64 to 154, case b from byte 192
    assert block_bytes(shapes) == 192 + 375


class TestAdvice:
    def waited(self, share):
        meter = Meter()
        meter.start()
        meter.stop()
        meter.waited_s = share * meter._elapsed_s
        return meter

    def test_a_loader_that_keeps_up_gets_none(self):
        assert advice(self.waited(0.02), Residency("disk", 1, ""), epochs=9) is None

    def test_waiting_is_told_as_a_share_of_the_time(self):
        said = advice(self.waited(0.13), Residency("host", 1, ""), epochs=9)
        assert said.startswith("training waited for data 13% of the last epoch's time: ")

    def test_a_set_on_disk_is_told_of_memory(self):
        assert "takes memory where there is room" in advice(
            self.waited(0.5), Residency("disk", 1, ""), epochs=9
        )

    def test_a_first_epoch_is_excused(self):
        said = advice(self.waited(0.5), Residency("host", 1, ""), epochs=1)
        assert "later epochs will wait less" in said
