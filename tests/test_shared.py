"""Memory that processes share: the same bytes for all, and nothing left behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from stages.train.loader.shared import SharedBlock
from tiny import python

pytestmark = pytest.mark.skipif(
    not SharedBlock.is_supported(), reason="this system cannot share memory without a name"
)
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
CREATE = """
import sys
from stages.train.loader.shared import SharedBlock
block = SharedBlock.create(1 << 20)
block.array(0, (3,), "int16")[:] = 1, 2, 3
print(block.ticket, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def creator():
    """Another process that has made a block, and its ticket."""
    process = subprocess.Popen(
        [sys.executable, "-c", CREATE],
        cwd=Path(__file__).parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def test_another_process_sees_the_same_bytes(creator):
    _, ticket = creator
    assert SharedBlock.attach(ticket).array(0, (3,), np.int16).tolist() == [1, 2, 3]


def test_what_one_writes_the_other_reads():
    block = SharedBlock.create(4096)
    read = f"""
from stages.train.loader.shared import SharedBlock
SharedBlock.attach({block.ticket!r}).array(64, (2, 3), "int16")[1, 2] = 77
"""
    ended = python("-c", read, cwd=Path.cwd())
    assert ended.returncode == 0, ended.stderr
    assert block.array(64, (2, 3), np.int16).tolist() == [[0, 0, 0], [0, 0, 77]]
    assert np.flatnonzero(block.array(0, (4096,), np.uint8)).tolist() == [74]  # 64 + 5 of 2 bytes


def test_a_killed_creator_leaves_the_bytes_to_those_who_have_them_and_no_file(creator):
    process, ticket = creator
    array = SharedBlock.attach(ticket).array(0, (3,), np.int16)
    process.kill()
    process.wait()
    assert array.tolist() == [1, 2, 3]
    assert list(Path("/dev/shm").glob("*liver3d*")) == []


def test_nobody_attaches_to_a_creator_that_is_gone(creator):
    process, ticket = creator
    process.kill()
    process.wait()
    with pytest.raises(OSError, match="the process that shares this memory is gone"):
        SharedBlock.attach(ticket)


@on_linux
def test_a_ticket_that_has_come_to_name_a_file_is_refused(tmp_path):
    with (tmp_path / "precious").open("wb") as file:
        file.write(b"1234")
        file.flush()
        with pytest.raises(OSError, match="is gone"):
            SharedBlock.attach(f"/proc/{os.getpid()}/fd/{file.fileno()}")


@on_linux
def test_a_block_takes_memory_only_where_it_is_written():
    block = SharedBlock.create(32 << 30)
    block.array(16 << 30, (10,), np.uint8)[:] = 1
    assert 0 < Path(block.ticket).stat().st_blocks * 512 <= 4 << 20  # a page may be 2 MB


def test_an_array_outlives_its_block():
    array = SharedBlock.create(4096).array(0, (5,), np.uint8)
    array[:] = 9
    assert array.tolist() == [9] * 5


@on_linux
def test_a_block_that_nobody_needs_any_more_is_given_back():
    before = psutil.Process().num_fds()
    for _ in range(5):
        block = SharedBlock.create(4096)
        SharedBlock.attach(block.ticket).array(0, (5,), np.uint8)
    del block
    assert psutil.Process().num_fds() == before
