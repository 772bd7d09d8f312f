"""Files that were made to do harm, or that do it by accident: what is opened, and what is not."""

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from PIL import Image

from cache.errors import SourceError
from cache.grid import Grid
from pipeline import predict as predict_command
from pipeline import preprocess as preprocess_command
from pipeline import score as score_command
from stages.preprocess.layouts.texts import read_json
from stages.preprocess.place import on_the_ct
from stages.preprocess.reading.dicom_start import is_dicom
from stages.preprocess.reading.png import png_files, read_png_stack
from stages.preprocess.reading.read import SourceVolume, read_ct, read_label
from stages.preprocess.reading.regular import require_regular
from test_read import counted, refusal
from tiny import brightness_network

needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
META = (
    "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 4 4.5 5\nDimSize = 7 6 5\n"
    "ElementType = MET_UCHAR\nElementDataFile = {}\n"
)
NRRD = (
    "NRRD0004\ntype: uchar\ndimension: 3\nspace: LPS\nsizes: 7 6 5\nencoding: raw\nendian: little\n"
    "space directions: (4,0,0) (0,4.5,0) (0,0,5)\nspace origin: (0,0,9)\ndata file: {}\n\n"
)


def without_end(path):
    """A pipe in which nobody ever writes, or a device that never ends."""
    if path.name.startswith("pipe"):
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    return path


@needs_pipes
class TestOnlyRegularFiles:
    NAMES = ("pipe", "device", "pipe.nii.gz", "device.nii.gz", "pipe.mha", "device.nrrd")

    @pytest.mark.parametrize("name", NAMES)
    def test_what_is_no_regular_file_is_refused_unopened(self, tmp_path, name):
        path = without_end(tmp_path / name)
        kind = "named pipe" if name.startswith("pipe") else "device"
        assert refusal(path).fact == f"is a {kind}, not a file"
        with pytest.raises(SourceError, match="not a file"):
            read_label(path, None)

    @pytest.mark.parametrize("name", ["pipe", "device"])
    def test_a_pipe_or_a_device_is_neither_dicom_nor_a_text(self, tmp_path, name):
        path = without_end(tmp_path / name)
        assert not is_dicom(path)
        with pytest.raises(SourceError, match="not a file"):
            read_json(path)

    def test_a_pipe_among_the_images_of_a_label_is_refused(self, tmp_path):
        grid = Grid((1, 6, 7), (1.0, 1.0, 1.0))
        without_end(tmp_path / "pipe.png")
        with pytest.raises(SourceError, match="is a named pipe"):
            read_png_stack(tmp_path, grid)

    def test_a_name_that_no_file_can_have_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="cannot be opened"):
            require_regular(tmp_path / "a\0b")

    def test_a_link_to_a_regular_file_is_one(self, write_volume, tmp_path):
        (tmp_path / "link.nii.gz").symlink_to(write_volume(array=counted()))
        assert read_ct(tmp_path / "link.nii.gz").array.shape == (5, 6, 7)

    @pytest.mark.parametrize("side", ["image", "label"])
    @pytest.mark.parametrize("name", ["pipe.nii.gz", "device.nii.gz", "pipe.mha"])
    def test_preprocessing_names_it_and_prepares_the_others(
        self, write_dataset, run_command, params_file, tmp_path, side, name
    ):
        src = write_dataset(("1", "2"))
        for one in ("image", "label"):
            (src / one / "3").mkdir()
        ending = name.partition(".")[2]
        without_end(src / name).rename(src / side / "3" / f"3.{ending}")
        other = "label" if side == "image" else "image"
        sitk.WriteImage(sitk.Image(5, 4, 3, sitk.sitkInt16), str(src / other / "3" / "3.nii.gz"))
        flags = ("--src", src, "--out", tmp_path / "cases", "--workers", 1)
        ended = run_command(preprocess_command.main, *flags, "--params", params_file())
        assert ended.exit_code == 0, ended.output
        problems = json.loads((tmp_path / "problems.json").read_text())["problems"]
        assert any(one["case_id"] == "3" and "not a file" in one["fact"] for one in problems)
        assert "2 cases in" in ended.output

    def test_prediction_names_it_and_predicts_the_others(self, predict, write_ct, tmp_path):
        write_ct("cts/1.nii.gz")
        without_end(tmp_path / "cts" / "pipe.nii.gz")
        without_end(tmp_path / "cts" / "device.nrrd")
        ended = predict()
        assert ended.exit_code == 2
        assert ended.output.count("not a file") == 2
        assert (tmp_path / "masks" / "1.nii.gz").is_file()


@pytest.fixture
def write_ct(write_volume):
    """Write a small CT with something bright in it."""

    def write(name):
        volume = np.full((17, 18, 19), -1000, np.int16)
        volume[1:16, 2:16, 2:17] = -100
        volume[4:9, 5:12, 6:14] = 200
        return write_volume(name, volume, spacing_xyz_mm=(4.0, 4.5, 5.0))

    return write


@pytest.fixture
def predict(run_command, write_model, tmp_path, monkeypatch):
    """Run the command in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    model = write_model(brightness_network(), preprocess={"grid": "keep"})

    def run(ct="cts", out="masks"):
        places = ("--model", model, "--ct", ct, "--out", out)
        return run_command(predict_command.main, *places, "--device", "cpu")

    return run


class TestDataOutside:
    """A header that names any file of the machine as its voxels."""

    def header(self, tmp_path, name, data):
        path = tmp_path / "cts" / name
        path.parent.mkdir(exist_ok=True)
        is_nrrd = name.endswith("nhdr")
        path.write_text((NRRD if is_nrrd else META).format(data))
        return path

    @pytest.mark.parametrize("name", ["a.mhd", "a.nhdr"])
    @pytest.mark.parametrize("is_absolute", [False, True])
    def test_prediction_refuses_data_outside_the_folder(self, predict, tmp_path, name, is_absolute):
        (tmp_path / "secret").write_bytes(bytes(range(210)))
        self.header(tmp_path, name, tmp_path / "secret" if is_absolute else "../secret")
        ended = predict()
        assert ended.exit_code == 2
        assert "names a data file outside" in ended.output
        assert not list(tmp_path.glob("masks/*.nii.gz"))

    def test_prediction_of_one_file_refuses_it_as_well(self, predict, tmp_path):
        (tmp_path / "secret").write_bytes(bytes(range(210)))
        path = self.header(tmp_path, "a.mhd", "../secret")
        ended = predict(path, "mask.nii.gz")
        assert (ended.exit_code, (tmp_path / "mask.nii.gz").exists()) == (2, False)

    def test_prediction_reads_data_below_the_folder_that_was_named(
        self, predict, write_ct, tmp_path
    ):
        write_ct("cts/a/1.mhd")
        (tmp_path / "cts" / "raw").mkdir()
        (tmp_path / "cts" / "a" / "1.raw").rename(tmp_path / "cts" / "raw" / "1.raw")
        path = tmp_path / "cts" / "a" / "1.mhd"
        path.write_text(path.read_text().replace("1.raw", "../raw/1.raw"))
        ended = predict()
        assert ended.exit_code == 0, ended.output

    def test_scoring_refuses_a_header_whose_data_lie_outside_too(
        self, run_command, write_volume, tmp_path
    ):
        (tmp_path / "secret").write_bytes(bytes([0, 1] * 105))
        (tmp_path / "predictions").mkdir()
        self.header(tmp_path, "1.mhd", "../secret").rename(tmp_path / "predictions" / "1.mhd")
        write_volume("labels/1.nii.gz", np.ones((5, 6, 7), np.uint8), spacing_xyz_mm=(4, 4.5, 5))
        flags = ("--predictions", tmp_path / "predictions", "--labels", tmp_path / "labels")
        ended = run_command(score_command.main, *flags, "--out", tmp_path / "scores")
        assert ended.exit_code == 2
        assert "names a data file outside" in ended.output


class TestImages:
    def test_an_image_larger_than_the_ct_is_refused_before_it_is_unfolded(self, tmp_path):
        Image.new("L", (6000, 6000)).save(tmp_path / "0.png")
        tracemalloc.start()
        with pytest.raises(SourceError, match="has 6000·6000 pixels, the CT 7·6"):
            read_png_stack(tmp_path, Grid((1, 6, 7), (1.0, 1.0, 1.0)))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5_000_000

    @pytest.mark.parametrize("names", [("²0.png", "1.png"), ("1.png", "٣.png", "10.png")])
    def test_digits_of_any_script_in_a_name_do_no_harm(self, tmp_path, names):
        for name in names:
            (tmp_path / name).touch()
        assert {path.name for path in png_files(tmp_path)} == set(names)


class TestMemory:
    def test_a_label_that_cannot_be_moved_for_want_of_memory_is_no_fault_of_the_label(self):
        huge = Grid((60_000, 60_000, 60_000), (1.0, 1.0, 1.0))
        ct = SourceVolume(Path("ct.nii"), counted(), huge, "LPS")
        label = SourceVolume(Path("label.nii"), counted(), Grid((5, 6, 7), (1.0, 1.0, 1.0)), "LPS")
        with pytest.raises(MemoryError):
            on_the_ct(ct, label, counted(dtype=np.uint8))
