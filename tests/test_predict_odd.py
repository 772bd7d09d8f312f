"""What is odd about one CT, or short on the machine, stops no other CT of a folder."""

import errno
import json
import os
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
import torch

from cache.errors import DataError, SourceError
from pipeline.predict import end_badly, main
from stages.machine import is_shortage, naming_shortage, shortage
from stages.predict.find import find_tasks
from stages.predict.journal import NAME
from stages.predict.model import Ensemble, Model
from stages.predict.one import Choices, Predictor, predict_one
from stages.predict.run import left_behind, run
from stages.preprocess.params import PreprocessParams
from stages.preprocess.reading.itk import refusal
from tiny import PREPROCESS, brightness_network, names, python

SHAPE_ZYX = (17, 18, 19)
ODD_HU = 777  # of the CT at which a network of these tests stumbles
CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="paths have other limits elsewhere")


@pytest.fixture
def write_ct(write_volume):
    """Write a CT of a body in air, with a bright block of so many HU."""

    def write(name, *, hu=200):
        volume = np.full(SHAPE_ZYX, -1000, np.int16)
        volume[1:16, 2:16, 2:17] = -100
        volume[4:9, 5:12, 6:14] = hu
        return write_volume(name, volume, spacing_xyz_mm=(4.0, 4.5, 5.0))

    return write


@pytest.fixture
def folder(write_ct, tmp_path):
    """Three CTs; a network that looks for it knows the second one."""
    for name, hu in (("1", 200), ("2", ODD_HU), ("3", 200)):
        write_ct(f"cts/{name}.nii.gz", hu=hu)
    return tmp_path / "cts"


@pytest.fixture
def predict(run_command, write_model, tmp_path, monkeypatch):
    """Run the command with a model that finds what is bright, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    model = write_model(brightness_network(), preprocess={"grid": "keep"})

    def run(*args, ct="cts", out="masks"):
        return run_command(
            main, "--model", model, "--ct", ct, "--out", out, "--device", "cpu", *args
        )

    return run


def predictor(stumble):
    """Of a network that finds what is bright, and does what it is given at the odd CT."""

    def network(hu):
        if hu.max() == ODD_HU:
            stumble()
        return torch.cat([torch.zeros_like(hu), hu - 100], dim=1)

    preprocess = PreprocessParams.model_validate({**PREPROCESS, "grid": "keep"})
    model = Model(
        network=network,
        preprocess=preprocess,
        window_zyx=None,
        smallest_side=16,
        digest="d" * 64,
        name="model",
    )
    return Predictor(Ensemble([model], CPU), Choices(), "0")


def outcomes(folder, stumble):
    """What becomes of each CT, by its name."""
    out = folder.parent / "masks"
    tasks = find_tasks(folder, out).tasks
    return {one.task.name: one for one in run(tasks, out, predictor(stumble))}


def journal(out):
    return json.loads((out / NAME).read_text(encoding="utf-8"))["predictions"]


def look_up():
    return {}["SUV^Patient"]


def allocate():
    return torch.empty(10**15)


def fail_to_read():
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def fill_the_disk():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestABug:
    def test_a_bug_in_one_ct_stops_no_other_and_keeps_its_traceback(self, folder, tmp_path):
        found = outcomes(folder, look_up)
        assert names(tmp_path / "masks") == ["1.nii.gz", "3.nii.gz", NAME]
        assert found["2.nii.gz"].fault.fact == "met a bug of liver3d: KeyError"
        assert "Traceback" in found["2.nii.gz"].bug
        assert "look_up" in found["2.nii.gz"].bug
        assert not found["3.nii.gz"].bug

    def test_the_journal_remembers_a_bug_without_the_words_of_its_exception(self, folder, tmp_path):
        outcomes(folder, look_up)
        told = journal(tmp_path / "masks")["2.nii.gz"]["fault"]
        assert told.startswith("met a bug of liver3d: KeyError; ")
        assert "Patient" not in (tmp_path / "masks" / NAME).read_text(encoding="utf-8")

    def test_a_rerun_after_a_bug_leaves_the_finished_cts_and_tries_the_odd_one(self, folder):
        outcomes(folder, look_up)
        again = outcomes(folder, lambda: None)
        assert [one.is_old for one in again.values()] == [True, False, True]
        assert again["2.nii.gz"].fault is None

    def test_the_command_ends_with_the_traceback_of_a_bug(self, tmp_path):
        with pytest.raises(RuntimeError, match=r"2\.nii\.gz:\nTraceback"):
            end_badly(["2.nii.gz:\nTraceback …"], 1, tmp_path, 3)


class TestShortages:
    def test_a_ct_for_which_torch_has_too_little_memory_is_named_and_the_others_go_on(self, folder):
        found = outcomes(folder, allocate)
        fault = found["2.nii.gz"].fault
        assert fault.where == folder / "2.nii.gz"
        assert fault.fact.startswith("does not fit into memory (DefaultCPUAllocator: ")
        assert fault.fix == "close other programs, or use a machine with more memory"
        assert not found["2.nii.gz"].bug
        assert found["3.nii.gz"].fault is None

    @pytest.mark.parametrize(
        "said",
        [
            "[enforce fail at alloc_cpu.cpp:116] data. DefaultCPUAllocator: not enough memory:"
            " you tried to allocate 8000000000 bytes.",
            "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 10 GiB",
            "CUDA error: out of memory",
            "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
            "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while"
            " running Conv node. Name:'up4' Status Message: std::bad_alloc",
            "bfc_arena.cc:360 void* onnxruntime::BFCArena::AllocateRawInternal(size_t) Failed to"
            " allocate memory for requested buffer of size 480000000000",
            "itkImportImageContainer.hxx:179:\nFailed to allocate memory for image.",
        ],
    )
    def test_what_libraries_say_of_too_little_memory_is_known(self, said):
        assert is_shortage(RuntimeError(said))
        assert "\n" not in shortage("ct", RuntimeError(said)).fact

    @pytest.mark.parametrize(
        "error",
        [
            RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
            SourceError("ct", "is called 'out of memory'", "-"),
            FileNotFoundError(errno.ENOENT, "out of memory"),
        ],
    )
    def test_errors_that_name_no_memory_are_not_called_a_shortage(self, error):
        assert not is_shortage(error)
        with pytest.raises(type(error)), naming_shortage("ct"):
            raise error

    def test_simpleitk_and_numpy_are_understood_as_they_speak_today(self):
        for allocate in (
            lambda: sitk.Image([60000, 60000, 60000], sitk.sitkUInt8),
            lambda: np.empty(10**16),
        ):
            with pytest.raises(DataError, match="does not fit"), naming_shortage("ct"):
                allocate()

    def test_a_file_is_not_blamed_for_the_memory_it_does_not_fit_into(self, tmp_path):
        error = RuntimeError("sitk::ERROR: Exception thrown:\nstd::bad_alloc")
        with pytest.raises(MemoryError, match="bad_alloc"):
            refusal(tmp_path / "ct.nii.gz", error)


class TestDisks:
    def test_a_ct_that_its_disk_cannot_read_stops_no_other(self, folder):
        found = outcomes(folder, fail_to_read)
        fault = found["2.nii.gz"].fault
        assert fault.fact.startswith(f"cannot be read ({os.strerror(errno.EIO)})")
        assert not found["2.nii.gz"].bug
        assert found["3.nii.gz"].fault is None

    def test_a_full_disk_ends_the_folder_at_once(self, folder, tmp_path):
        with pytest.raises(DataError, match=os.strerror(errno.ENOSPC)):
            outcomes(folder, fill_the_disk)
        assert set(journal(tmp_path / "masks")) == {"1.nii.gz"}

    def test_one_ct_alone_that_cannot_be_read_is_named(self, folder, tmp_path):
        [task] = find_tasks(folder / "2.nii.gz", tmp_path / "mask.nii.gz").tasks
        with pytest.raises(DataError, match="cannot be read"):
            predict_one(task, predictor(fail_to_read))


class TestCtsThatLeft:
    def test_masks_whose_ct_is_gone_are_named_and_stay(self, folder, predict, tmp_path):
        assert predict().exit_code == 0
        (folder / "2.nii.gz").rename(tmp_path / "2.nii.gz")
        ended = predict()
        assert ended.exit_code == 0
        assert "left by earlier runs, of CTs that are not below cts: 2.nii.gz; " in ended.output
        assert (tmp_path / "masks" / "2.nii.gz").is_file()

    def test_a_mask_that_somebody_took_away_is_not_named(self, folder, predict, tmp_path):
        predict()
        (folder / "2.nii.gz").unlink()
        (tmp_path / "masks" / "2.nii.gz").unlink()
        assert left_behind(find_tasks(folder, tmp_path / "masks").tasks, tmp_path / "masks") == []

    def test_without_earlier_runs_nothing_is_said(self, folder, predict):
        assert "left by earlier runs" not in predict().output


class TestTheSearch:
    @pytest.fixture
    def unlistable(self, folder):
        """A folder whose path is longer than the system takes, beside three CTs."""
        deep = os.open(folder, os.O_RDONLY)
        for _ in range(20):
            os.mkdir("d" * 250, dir_fd=deep)
            above, deep = deep, os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
            os.close(above)
        os.close(deep)
        return folder

    @linux
    def test_a_folder_that_cannot_be_listed_is_reported_and_the_others_are_predicted(
        self, unlistable, predict, tmp_path
    ):
        ended = predict()
        assert ended.exit_code == 2
        assert "Traceback" not in ended.output
        assert f"cannot be listed ({os.strerror(errno.ENAMETOOLONG)})" in ended.output
        assert "error: cts: 1 of its folders could not be searched for CTs\n" in ended.output
        assert names(tmp_path / "masks") == ["1.nii.gz", "2.nii.gz", "3.nii.gz", NAME]

    @linux
    def test_a_folder_of_which_nothing_can_be_listed_is_refused_for_that(self, unlistable):
        for path in unlistable.glob("*.nii.gz"):
            path.unlink()
        with pytest.raises(SourceError, match="cannot be listed"):
            find_tasks(unlistable, unlistable.parent / "masks")

    @pytest.mark.parametrize("out", ["masks", "mask.nii.gz", "mask.txt"])
    def test_a_ct_that_is_not_there_is_named_whatever_out_is_called(self, tmp_path, out):
        with pytest.raises(SourceError) as caught:
            find_tasks(tmp_path / "ct.nii.gz", tmp_path / out)
        assert caught.value.where == tmp_path / "ct.nii.gz"
        assert caught.value.fact == "there is no such file or folder"


@linux
@pytest.mark.slow
def test_a_ct_too_large_for_the_memory_there_is_has_one_line_and_the_others_a_mask(
    write_ct, write_volume, write_model, tmp_path
):
    write_ct("cts/1.nii.gz")
    write_volume("cts/2.nrrd", size_xyz=(300, 290, 310), hu=40)
    write_ct("cts/3.nii.gz")
    write_model(brightness_network(), preprocess={"grid": "keep"})
    script = (
        "import psutil, resource, torch; from pipeline.predict import main\n"
        "torch.set_num_threads(1)\n"
        "most = psutil.Process().memory_info().vms + 1_500_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))\n"
        "main(['--model', 'best.pt', '--ct', 'cts', '--out', 'masks', '--device', 'cpu',"
        " '--any-values'])\n"  # one of them is the same everywhere
    )
    ended = python("-c", script, cwd=tmp_path)
    assert ended.returncode == 2
    [line] = [line for line in ended.stderr.splitlines() if "2.nrrd" in line]
    assert line.startswith("2/3 2.nrrd: not predicted: cts/2.nrrd: does not fit into memory (")
    assert names(tmp_path / "masks") == ["1.nii.gz", "3.nii.gz", NAME]
