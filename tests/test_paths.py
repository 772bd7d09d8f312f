"""Files in folders whose names are not text, or not such that SimpleITK takes."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from cache.grid import Grid
from cache.paths import is_plain, plain_folder
from stages.image_file import write_image
from stages.preprocess.reading.read import read_label
from test_read import counted

linux = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is text")
GRID = Grid((5, 6, 7), (2.5, 0.75, 0.5), (-11.0, 7.0, 23.0))


@linux
class TestFoldersWithoutText:
    @pytest.fixture
    def odd(self, tmp_path):
        """A folder called in Latin-1."""
        folder = tmp_path / os.fsdecode(b"J\xf6rg")
        folder.mkdir()
        return folder

    @pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha"])
    def test_an_image_is_written_into_a_folder_whose_name_is_no_text(self, odd, ending):
        path = odd / f"mask{ending}"
        write_image(path, counted(), GRID)
        source = read_label(path, None)
        np.testing.assert_array_equal(source.array, counted())
        assert source.grid.spacing_zyx_mm == pytest.approx(GRID.spacing_zyx_mm)
        assert [one.name for one in odd.iterdir()] == [path.name]

    def test_an_image_in_a_folder_whose_name_is_not_text_is_replaced(self, odd):
        for array in (counted() * 0, counted()):
            write_image(odd / "mask.nii.gz", array, GRID)
        np.testing.assert_array_equal(read_label(odd / "mask.nii.gz", None).array, counted())

    def test_such_a_path_is_not_plain_and_the_folder_for_it_is(self, odd):
        assert not is_plain(odd)
        with plain_folder(odd / "mask.nii") as folder:
            assert is_plain(folder)
            (folder / "a").touch()
        assert not folder.exists()


def test_a_path_in_utf_8_is_plain_but_for_windows():
    assert is_plain(Path("größe/1.nii")) == (os.name != "nt")
