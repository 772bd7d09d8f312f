"""Labels that hold a volume for each structure."""

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from stages.preprocess.inspect import inspect_case
from stages.preprocess.ledger import Ledger
from stages.preprocess.reading.read import read_ct, read_label
from test_read import refusal

FORMATS = ("label.nii.gz", "label.nrrd", "label.mha")


def label_map(shape=(5, 6, 7)):
    """Two structures beside each other, and a background."""
    label = np.zeros(shape, np.uint8)
    label[1:4, 1:4, 1:5], label[1:4, 4:, 1:5] = 1, 2
    return label


def one_hot(label, count=3, *, first=0):
    """A volume of 0 and 1 for each value, (values, Z, Y, X)."""
    return np.stack([label == value for value in range(first, count)]).astype(np.uint8)


@pytest.fixture
def write_channels(tmp_path):
    """Write volumes, (channels, Z, Y, X), along a fourth dimension or into each voxel."""

    def write(name, channels, *, inside=False, direction=None):
        volumes = [sitk.GetImageFromArray(channel) for channel in channels]
        for volume in volumes:
            volume.SetSpacing((0.5, 0.75, 2.5))
            volume.SetOrigin((-11, 7, 23))
            if direction:
                volume.SetDirection(direction)
        image = sitk.Compose(volumes) if inside else sitk.JoinSeries(volumes)
        sitk.WriteImage(image, str(tmp_path / name), "gz" in name)
        return tmp_path / name

    return write


class TestOneHot:
    @pytest.mark.parametrize("inside", [False, True])
    @pytest.mark.parametrize("name", FORMATS)
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_a_one_hot_label_is_read_as_one_label_map(self, write_channels, name, inside, dtype):
        path = write_channels(name, one_hot(label_map()).astype(dtype), inside=inside)
        source = read_label(path, None)
        np.testing.assert_array_equal(source.array, label_map())
        assert source.grid.spacing_zyx_mm == pytest.approx((2.5, 0.75, 0.5))
        assert source.grid.origin_xyz_mm == pytest.approx((-11, 7, 23))
        (found,) = [one for one in source.findings if one.rule == "three_dimensional"]
        assert found.fixable
        assert found.fact == (
            "is one-hot: its 3 volumes are read as the values 0 (background) to 2"
        )

    def test_without_a_volume_of_the_background_the_first_has_the_value_1(self, write_channels):
        source = read_label(write_channels(FORMATS[0], one_hot(label_map(), first=1)), None)
        np.testing.assert_array_equal(source.array, label_map())
        assert "the values 1 to 2" in source.findings[0].fact

    def test_a_one_hot_label_is_turned_to_lps_as_any_label(self, write_channels):
        flipped = (-1, 0, 0, 0, -1, 0, 0, 0, 1)
        path = write_channels(FORMATS[0], one_hot(label_map()), direction=flipped)
        np.testing.assert_array_equal(read_label(path, None).array, label_map()[:, ::-1, ::-1])

    @pytest.mark.parametrize("inside", [False, True])
    @pytest.mark.parametrize("change", ["overlap", "other value", "fraction", "empty"])
    def test_what_is_not_one_hot_is_refused_as_several_volumes(
        self, write_channels, inside, change
    ):
        channels = one_hot(label_map()).astype(np.float32)
        if change == "overlap":
            channels[:, 2, 2, 2] = 1
        elif change == "empty":
            channels[:] = 0
        else:
            channels[1, 2, 2, 2] = 2 if change == "other value" else 0.5
        path = write_channels(FORMATS[0], channels, inside=inside)
        with pytest.raises(SourceError) as caught:
            read_label(path, None)
        assert caught.value.rule == ("plain_numbers" if inside else "three_dimensional")

    def test_complex_numbers_are_no_channels(self, tmp_path):
        image = sitk.Image((7, 6, 5), sitk.sitkComplexFloat32)
        sitk.WriteImage(image, str(tmp_path / "label.nii.gz"))
        with pytest.raises(SourceError, match="several numbers per voxel"):
            read_label(tmp_path / "label.nii.gz", None)

    def test_a_ct_is_never_one_hot(self, write_channels):
        assert refusal(write_channels(FORMATS[0], one_hot(label_map()))).rule == "three_dimensional"

    def test_a_case_with_a_one_hot_label_is_prepared_as_with_its_label_map(
        self, write_case, rules, write_channels, tmp_path
    ):
        files = write_case()
        label = sitk.ReadImage(str(files.label))
        channels = one_hot(sitk.GetArrayFromImage(label) > 0, 2)
        volumes = [sitk.GetImageFromArray(channel) for channel in channels]
        for volume in volumes:
            volume.CopyInformation(label)
        plain = inspect_case(files, [1], Ledger("1", rules()))
        sitk.WriteImage(sitk.JoinSeries(volumes), str(files.label))
        ledger = Ledger("1", rules())
        found = inspect_case(files, [1], ledger)
        np.testing.assert_array_equal(found.mask, plain.mask)
        assert [one.severity for one in ledger.problems] == ["fixed"]
        assert read_ct(files.ct).array.ndim == 3


class TestLayers:
    SEGMENTS = (("liver", 1, 0), ("spleen", 2, 0), ("tumour", 1, 1))

    def with_segments(self, image, path):
        for number, fields in enumerate(self.SEGMENTS):
            for key, value in zip(("Name", "LabelValue", "Layer"), fields, strict=True):
                image.SetMetaData(f"Segment{number}_{key}", str(value))
        sitk.WriteImage(image, str(path))
        return path

    def layers(self):
        first, second = label_map(), np.zeros((5, 6, 7), np.uint8)
        second[2, 2:4, 2:6] = 1
        return np.stack([first, second])

    @pytest.mark.parametrize("inside", [False, True])
    @pytest.mark.parametrize("name", ["a.seg.nrrd", "a.nrrd", "a"])
    def test_layers_of_slicer_are_read_whatever_the_file_is_called(self, tmp_path, name, inside):
        volumes = [sitk.GetImageFromArray(layer) for layer in self.layers()]
        image = sitk.Compose(volumes) if inside else sitk.JoinSeries(volumes)
        path = self.with_segments(image, tmp_path / "written.nrrd").rename(tmp_path / name)
        source = read_label(path, None)
        np.testing.assert_array_equal(np.moveaxis(source.array, -1, 0), self.layers())
        assert source.names == {"liver": (1,), "spleen": (2,), "tumour": (1,)}
        assert source.layers == {"liver": (0,), "spleen": (0,), "tumour": (1,)}
