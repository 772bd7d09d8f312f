"""One run at a time writes to a folder, also where the file system has no locks."""

import errno
import json
import logging
import os
import platform
import subprocess
import sys

import psutil
import pytest

from cache.errors import ModelError
from cache.lock import MARK, only_writer
from cache.state import state_folder

fcntl = pytest.importorskip("fcntl")  # without which there are other locks, on Windows
BUSY = ModelError("models", "another run is writing there", "wait")


@pytest.fixture
def folder(tmp_path):
    """A folder that runs write to."""
    return tmp_path / "models"


@pytest.fixture
def without_locks(monkeypatch, request):
    """Let the system refuse every lock, as NFS without its daemon and some of FUSE do."""
    code = getattr(request, "param", errno.ENOLCK)

    def refuse(_file, _operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", refuse)


def write_mark(folder, *, machine=None, process=None, began=None):
    """Leave a mark as another run does; gives its path."""
    process = process or os.getpid()
    fields = {
        "machine": machine or platform.node(),
        "process": process,
        "began": psutil.Process().create_time() if began is None else began,
    }
    state_folder(folder).mkdir(parents=True)
    mark = state_folder(folder) / MARK
    mark.write_text(json.dumps(fields))
    return mark


def ended_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_second_writer_of_a_folder_is_refused_until_the_first_is_done(folder):
    with only_writer(folder, BUSY), pytest.raises(ModelError, match="another run"):
        only_writer(folder, BUSY).__enter__()
    with only_writer(folder, BUSY):
        pass


@pytest.mark.parametrize(
    "without_locks", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], indirect=True
)
@pytest.mark.filterwarnings("ignore:flock not supported")
def test_without_locks_of_the_system_a_second_writer_is_refused_too(folder, without_locks):
    with only_writer(folder, BUSY), pytest.raises(ModelError, match="another run"):
        only_writer(folder, BUSY).__enter__()
    with only_writer(folder, BUSY):
        pass


@pytest.mark.usefixtures("without_locks")
class TestMark:
    def test_a_file_that_stands_in_for_a_lock_is_warned_of_and_removed_at_the_end(
        self, folder, caplog
    ):
        with caplog.at_level(logging.WARNING), only_writer(folder, BUSY):
            assert (state_folder(folder) / MARK).is_file()
        assert "cannot be locked" in caplog.text
        assert not (state_folder(folder) / MARK).exists()

    def test_a_mark_of_a_process_that_was_killed_is_passed_over(self, folder):
        write_mark(folder, process=ended_process())
        with only_writer(folder, BUSY):
            pass

    def test_a_mark_of_a_process_whose_number_another_one_has_now_is_passed_over(self, folder):
        write_mark(folder, began=psutil.Process().create_time() - 3600)
        with only_writer(folder, BUSY):
            pass

    def test_a_mark_of_another_machine_is_refused_and_says_which_file_to_delete(self, folder):
        mark = write_mark(folder, machine="node-7")
        with pytest.raises(ModelError, match="node-7") as refused:
            only_writer(folder, BUSY).__enter__()
        assert f"delete {mark}" in refused.value.fix
        assert mark.is_file()

    def test_half_a_mark_is_refused_and_says_which_file_to_delete(self, folder):
        mark = write_mark(folder)
        mark.write_text('{"mach')
        with pytest.raises(ModelError, match="delete"):
            only_writer(folder, BUSY).__enter__()

    def test_a_mark_that_another_run_made_meanwhile_is_left_at_the_end(self, folder):
        mark = state_folder(folder) / MARK
        with only_writer(folder, BUSY):
            mark.write_text("another's")
        assert mark.read_text() == "another's"


def test_a_disk_that_fails_is_not_taken_for_one_without_locks(folder, monkeypatch):
    def fail(_file, _operation):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", fail)
    with pytest.raises(OSError, match="Input/output"):
        only_writer(folder, BUSY).__enter__()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_nothing_can_be_written_beside_the_folder_a_warning_must_do(folder, caplog):
    folder.mkdir()
    folder.parent.chmod(0o500)
    with caplog.at_level(logging.WARNING), only_writer(folder, BUSY):
        assert "let no other run write" in caplog.text
    folder.parent.chmod(0o700)
