"""What a process may take of the machine it runs on."""

import os
import sys

import psutil
import pytest

from stages.machine import free_memory_bytes, processors

MB = 1_000_000
PATH = "slurm/job_7"


def v2_memory(limit, used, inactive_file=0):
    """The files of a cgroup v2 that tell of memory."""
    stat = f"anon 5\ninactive_file {inactive_file}\nactive_file 7\n"
    return {"memory.max": limit, "memory.current": used, "memory.stat": stat}


def v1_memory(limit, used, inactive_file=0):
    """The files of a cgroup v1 that tell of memory; only total_ counts what is below it."""
    stat = f"cache 5\ninactive_file 1\ntotal_inactive_file {inactive_file}\n"
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used, "memory.stat": stat}


@pytest.fixture
def cgroups(tmp_path):
    """Write control groups, ``{folder: {file: text}}``; gives what both functions are called with.

    ``own`` is what the process reads about itself, under cgroup v2 by default.
    """

    def write(folders, own=f"0::/{PATH}\n"):
        root, own_file = tmp_path / "cgroup", tmp_path / "self"
        root.mkdir()
        for folder, files in folders.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for name, text in files.items():
                (root / folder / name).write_text(f"{text}\n")
        if own is not None:
            own_file.write_text(own)
        return root, own_file

    return write


@pytest.fixture
def allowed():
    """Processors this process may run on, so that no expected number asks for more."""
    if not hasattr(psutil.Process, "cpu_affinity"):
        return os.cpu_count()
    return len(psutil.Process().cpu_affinity())


class TestFreeMemory:
    def test_free_memory_is_some_of_the_machines(self):
        assert 0 < free_memory_bytes() < psutil.virtual_memory().total

    def test_free_memory_without_control_groups_is_the_machines(self, tmp_path):
        free = free_memory_bytes(tmp_path / "none", tmp_path / "nothing")
        assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)

    def test_a_limit_leaves_what_is_not_used(self, cgroups):
        assert free_memory_bytes(*cgroups({PATH: v2_memory(500 * MB, 200 * MB)})) == 300 * MB

    def test_page_cache_that_can_be_given_back_is_free(self, cgroups):
        group = v2_memory(500 * MB, 490 * MB, inactive_file=400 * MB)
        assert free_memory_bytes(*cgroups({PATH: group})) == 410 * MB

    def test_no_limit_is_the_machines(self, cgroups):
        free = free_memory_bytes(*cgroups({PATH: v2_memory("max", 200 * MB)}))
        assert free == pytest.approx(psutil.virtual_memory().available, rel=0.2)

    def test_the_tightest_group_above_binds(self, cgroups):
        groups = {
            PATH: v2_memory("max", 1),
            "slurm": v2_memory(70 * MB, 20 * MB),
            "": v2_memory(900 * MB, 30 * MB),
        }
        assert free_memory_bytes(*cgroups(groups)) == 50 * MB

    def test_a_path_from_outside_the_container_leads_to_the_mount(self, cgroups):
        groups = {"": v2_memory(90 * MB, 20 * MB)}
        assert free_memory_bytes(*cgroups(groups, own="0::/docker/ab12\n")) == 70 * MB

    def test_a_path_that_leads_out_of_the_mount_is_not_followed(self, cgroups, tmp_path):
        root, own = cgroups({"": v2_memory(90 * MB, 20 * MB)}, own="0::/../other\n")
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "memory.max").write_text("5")
        (tmp_path / "other" / "memory.current").write_text("1")
        assert free_memory_bytes(root, own) == 70 * MB

    def test_a_process_without_a_list_of_its_groups_has_the_mounts(self, cgroups):
        assert free_memory_bytes(*cgroups({"": v2_memory(90 * MB, 20 * MB)}, own=None)) == 70 * MB

    def test_a_control_group_above_its_limit_has_no_free_memory(self, cgroups):
        assert free_memory_bytes(*cgroups({PATH: v2_memory(100, 300)})) == 0

    def test_cgroup_v1_has_a_folder_per_controller(self, cgroups):
        groups = {f"memory/{PATH}": v1_memory(500 * MB, 200 * MB, inactive_file=30 * MB)}
        own = f"9:cpu,cpuacct:/elsewhere\n4:memory:/{PATH}\n0::/\n"
        assert free_memory_bytes(*cgroups(groups, own)) == 330 * MB

    def test_v2_beside_v1_counts_too(self, cgroups):
        groups = {f"unified/{PATH}": v2_memory(80 * MB, 20 * MB), "memory": v1_memory(2**63, 5)}
        assert free_memory_bytes(*cgroups(groups)) == 60 * MB


class TestProcessors:
    def test_processors_without_a_quota_are_those_the_process_may_run_on(self, cgroups, allowed):
        assert processors(*cgroups({PATH: {"cpu.max": "max 100000"}})) == allowed

    def test_a_quota_below_one_is_one(self, cgroups):
        assert processors(*cgroups({PATH: {"cpu.max": "20000 100000"}})) == 1

    def test_half_a_processor_counts_as_one(self, cgroups, allowed):
        assert processors(*cgroups({PATH: {"cpu.max": "150000 100000"}})) == min(2, allowed)

    def test_the_tightest_quota_above_binds(self, cgroups):
        groups = {PATH: {"cpu.max": "max 100000"}, "slurm": {"cpu.max": "100000 100000"}}
        assert processors(*cgroups(groups)) == 1

    def test_cgroup_v1_says_quota_and_period_in_two_files(self, cgroups):
        files = {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "50000"}
        own = f"9:cpuacct,cpu:/{PATH}\n"
        assert processors(*cgroups({f"cpu/{PATH}": files}, own)) == 1

    def test_no_quota_is_minus_one_in_cgroup_v1(self, cgroups, allowed):
        files = {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "50000"}
        assert processors(*cgroups({"cpu": files}, "9:cpu:/\n")) == allowed

    @pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a thread choose")
    def test_a_process_kept_to_one_processor_has_one(self, cgroups):
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(before)})
        try:
            assert processors(*cgroups({})) == 1
        finally:
            os.sched_setaffinity(0, before)
