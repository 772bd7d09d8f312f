"""An error of the disk ends a command with 2, the file, what the system says, and what to do."""

import errno
import os
import sys

import pytest
from click.testing import CliRunner

from cache.files import named, replacing
from pipeline.command import command
from pipeline.configure import main as configure
from stages.evaluate.finished import KeptPicture
from stages.export.bundle import read_bundle
from stages.export.foreign import require_whole
from stages.predict.journal import digest_of
from stages.train.checkpoints.sealed import read_sealed
from tiny import small_disk


def ended(error):
    """How a command ends that meets this error."""

    def fail():
        raise error

    return CliRunner().invoke(command(fail), [])


@pytest.mark.parametrize(
    ("code", "fix"),
    [
        (errno.EIO, "check the disk"),
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.ESTALE, "check the disk, or the network"),
        (errno.EACCES, "allow it there"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENOENT, "check that it is there"),
        (errno.EBUSY, "close what has it open"),
    ],
)
def test_an_error_of_a_named_file_says_the_file_what_happened_and_what_to_do(code, fix):
    found = ended(OSError(code, os.strerror(code), "data/cases/1.h5"))
    assert found.exit_code == 2
    assert found.output.startswith(f"error: data/cases/1.h5: {os.strerror(code)}\n  fix: ")
    assert fix in found.output


def test_a_failing_disk_is_named_as_such_where_no_file_is():
    found = ended(OSError(errno.EIO, "Input/output error"))
    assert (found.exit_code, found.output.splitlines()[0]) == (
        2,
        "error: the disk: Input/output error",
    )


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EBADF, "Bad file descriptor", "1.h5"),
        OSError("a library's own words"),
        OSError(errno.ECONNREFUSED, "Connection refused"),
    ],
)
def test_what_no_disk_is_to_blame_for_keeps_its_traceback(error):
    found = ended(error)
    assert found.exit_code == 1
    assert found.exception is error


def test_a_write_that_fails_names_the_file_and_not_its_temporary_name(tmp_path):
    path = tmp_path / "table.csv"
    with pytest.raises(OSError, match="full") as caught, replacing(path):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.filename == str(path)
    with pytest.raises(FileNotFoundError) as caught, replacing(path) as partial:
        partial.read_bytes()
    assert caught.value.filename == str(path)


def test_a_read_that_fails_names_the_file(tmp_path):
    with pytest.raises(OSError, match="broken") as caught, named(tmp_path / "1.json"):
        raise OSError(errno.EIO, "broken")
    assert caught.value.filename == str(tmp_path / "1.json")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a file that opens and cannot be read")
@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("best.pt", read_sealed),
        ("picture.png", lambda path: KeptPicture(path, None).png),
        ("preparation.json", lambda path: read_bundle(path.parent)),
        ("model.onnx", require_whole),
        ("predictions.json", digest_of),
    ],
)
def test_a_model_or_picture_that_opens_and_cannot_be_read_is_named(tmp_path, name, read):
    path = tmp_path / name
    path.symlink_to("/proc/self/mem")  # its first page is nobody's
    with pytest.raises(OSError, match="Input/output error") as caught:
        read(path)
    assert caught.value.filename == str(path)


def test_a_parameter_file_on_a_full_disk_is_named_and_stays_as_it_was(tmp_path, params_file):
    with small_disk(tmp_path / "disk", kilobytes=64) as disk:
        before = params_file().read_bytes()
        (disk / "params.yaml").write_bytes(before)
        free = os.statvfs(disk)
        (disk / "others").write_bytes(b"x" * (free.f_bavail * free.f_bsize - 4096))
        words = ["--preset", "liver", "--params", str(disk / "params.yaml")]
        found = CliRunner().invoke(configure, words)
        assert found.exit_code == 2, found.output
        assert "params.yaml" in found.output
        assert "No space left on device" in found.output
        assert (disk / "params.yaml").read_bytes() == before
