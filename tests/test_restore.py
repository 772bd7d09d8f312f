"""From the prepared grid back to the CT's own, and into a file with the CT's geometry."""

import itertools
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import DataError
from cache.grid import IDENTITY, Box, Grid
from cache.orientation import lps_grid, to_lps
from stages.evaluate.export import beside, write_mask, write_probability
from stages.evaluate.overlap import overlap
from stages.evaluate.restore import Place, inside_box, restore, restore_mask
from stages.image_file import ENDINGS
from stages.preprocess.params import PreprocessParams
from stages.preprocess.prepare import prepare_volume
from stages.preprocess.reading.read import as_hu, read_ct
from stages.resize import resize_mask
from tiny import PREPROCESS, ball, names

NOISE = np.random.default_rng(0).integers(0, 2, (20, 40, 60), np.uint8)
posix = pytest.mark.skipif(sys.platform != "linux", reason="names and limits of Linux")
ORIENTATIONS = [
    "".join(letters)
    for axes in itertools.permutations(["LR", "PA", "SI"])
    for letters in itertools.product(*axes)
]


@contextmanager
def largest_file(size_bytes):
    """Let no file grow larger, as on a disk that is full then."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


# turned about the body's long axis by 0.3 rad, as a slanted gantry or an MR slice would be
TURNED = (0.955336, -0.295520, 0.0, 0.295520, 0.955336, 0.0, 0.0, 0.0, 1.0)


def direction_of(orientation):
    """The direction cosines of an orientation such as "RAS", row by row."""
    return sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(orientation)


def read_with(path):
    """Size, spacing, origin and direction as SimpleITK reports them of a file."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection()


class TestRestoreMask:
    @pytest.fixture(params=ORIENTATIONS)
    def source(self, request, write_volume):
        """A CT read from a file so oriented, and where in the file's order its liver lies."""
        hu = np.full((14, 18, 20), -1000, np.int16)
        hu[1:13, 2:15, 3:18] = 0
        hu[4:10, 4:11, 5:13] = 110
        hu[4, 4, 5:8] = 0
        path = write_volume(
            "ct.nii.gz",
            hu,
            spacing_xyz_mm=(3.0, 4.0, 5.0),
            direction=direction_of(request.param),
        )
        return read_ct(path), hu == 110

    @pytest.mark.parametrize("crop", ["none", "body"])
    def test_restoring_a_mask_undoes_preparing_where_the_grid_is_kept(self, source, crop):
        ct, liver = source
        params = PreprocessParams.model_validate({**PREPROCESS, "crop": crop, "grid": "keep"})
        prepared = prepare_volume(ct, as_hu(ct), params)
        turned = lps_grid(ct.grid, ct.orientation)
        assert (prepared.box == Box.whole(turned.shape_zyx)) == (crop == "none")
        mask = restore_mask(
            (prepared.volume > 50).astype(np.float32),
            box=prepared.box,
            source_grid=ct.grid,
            orientation=ct.orientation,
        )
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, liver)

    def test_outside_the_box_is_background_and_inside_is_what_was_predicted(self):
        grid = Grid((5, 6, 7), (3.0, 2.0, 1.0), direction=direction_of("RAS"))
        box = Box((1, 2, 3), (3, 4, 7))
        mask = restore_mask(
            np.ones(box.shape_zyx, np.float32), box=box, source_grid=grid, orientation="RAS"
        )
        # R and A turn x and y round: x 3 to 6 becomes 3 to 0, y 2 to 3 becomes 3 to 2
        expected = np.zeros((5, 6, 7), np.uint8)
        expected[1:3, 2:4, 0:4] = 1
        assert np.array_equal(mask, expected)

    def test_a_probability_of_one_half_is_background(self):
        grid = Grid((1, 1, 3), (1.0, 1.0, 1.0))
        probability = np.array([[[0.4999, 0.5, 0.5001]]], np.float32)
        mask = restore_mask(
            probability, box=Box.whole((1, 1, 3)), source_grid=grid, orientation="LPS"
        )
        assert mask.tolist() == [[[0, 0, 1]]]

    def test_the_probability_is_interpolated_before_it_is_cut_at_one_half(self):
        # centres of the two voxels lie at 2 and 6 mm; one half is reached at 4.8 mm
        grid = Grid((1, 1, 8), (1.0, 1.0, 1.0))
        probability = np.array([[[0.15, 0.65]]], np.float32)
        mask = restore_mask(
            probability, box=Box.whole((1, 1, 8)), source_grid=grid, orientation="LPS"
        )
        assert mask.tolist() == [[[0, 0, 0, 0, 0, 1, 1, 1]]]

    @pytest.mark.parametrize(
        ("shape", "spacing_mm", "prepared_shape", "least_dice"),
        [
            # a thin-sliced CT cut to the body, brought to 1.5 mm
            ((150, 240, 240), (1.0, 0.8, 0.8), (100, 128, 128), 0.99),
            # as the notebook does it: 96 x 96 in the plane, slices kept
            ((40, 512, 512), (5.0, 0.75, 0.75), (40, 96, 96), 0.97),
        ],
        ids=["1.5 mm", "96 x 96"],
    )
    def test_a_ball_of_a_livers_size_comes_back_nearly_whole(
        self, shape, spacing_mm, prepared_shape, least_dice
    ):
        grid = Grid(shape, spacing_mm)
        # 65 mm: 1150 ml; measured in mm so that the ball is round in the patient
        centre = [0.48 * side * mm for side, mm in zip(shape, spacing_mm, strict=True)]
        axes = [np.arange(side) * mm for side, mm in zip(shape, spacing_mm, strict=True)]
        z, y, x = (axis - middle for axis, middle in zip(axes, centre, strict=True))
        truth = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 <= 65.0**2
        prepared = resize_mask(truth.astype(np.uint8), prepared_shape)
        mask = restore_mask(
            prepared.astype(np.float32),
            box=Box.whole(shape),
            source_grid=grid,
            orientation="LPS",
        )
        assert overlap(mask, truth).dice >= least_dice


class TestPerfectOracle:
    SPACING_XYZ_MM = (1.1, 1.3, 2.4)
    SHAPE_ZYX = (50, 96, 102)

    @pytest.fixture
    def truth(self):
        """A liver of 0.3 l, with a notch and off the middle, so that no turn of it looks alike."""
        z, y, x = (np.arange(side) for side in self.SHAPE_ZYX)
        z, y, x = (z - 26) * 2.4, (y - 44) * 1.3, (x - 52) * 1.1
        liver = (z[:, None, None] / 45) ** 2 + (y[:, None] / 37) ** 2 + (x / 42) ** 2 <= 1
        liver[:22, 40:60, :50] = False
        return liver

    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_what_is_prepared_at_1_5_mm_and_restored_is_the_liver(
        self, truth, write_volume, orientation
    ):
        hu = np.where(truth, np.int16(110), np.int16(-1000))
        direction = direction_of(orientation)
        path = write_volume("ct.nii", hu, spacing_xyz_mm=self.SPACING_XYZ_MM, direction=direction)
        fields = {**PREPROCESS, "spacing_zyx_mm": [1.5, 1.5, 1.5]}
        ct, params = read_ct(path), PreprocessParams.model_validate(fields)
        prepared = prepare_volume(ct, as_hu(ct), params)
        assert prepared.volume.shape != prepared.box.shape_zyx
        turned = to_lps(truth, ct.orientation)[prepared.box.slices].view(np.uint8)
        oracle = resize_mask(turned, prepared.volume.shape).astype(np.float32)
        mask = restore_mask(
            oracle, box=prepared.box, source_grid=ct.grid, orientation=ct.orientation
        )
        assert overlap(mask, truth).dice >= 0.99


class TestPlaneByPlane:
    BOX, GRID = Box((1, 2, 3), (7, 8, 9)), Grid((9, 10, 11), (2.5, 0.8, 0.7))
    PLACE = Place(BOX, GRID, "RAS")

    @pytest.fixture
    def volume(self):
        return np.random.default_rng(0).random((4, 5, 8), np.float32)

    def test_planes_give_what_the_whole_gives(self, volume):
        whole = restore_mask(volume, box=self.BOX, source_grid=self.GRID, orientation="RAS")
        restored = restore(iter(volume), 4, self.PLACE)
        np.testing.assert_array_equal(restored.mask, whole)
        assert restored.probability is None
        assert 0 < whole.sum() < 6 * 6 * 6

    def test_the_mask_is_the_probability_cut_at_one_half(self, volume):
        restored = restore(iter(volume), 4, self.PLACE, with_probability=True)
        assert restored.probability.dtype == np.float32
        np.testing.assert_array_equal(restored.mask, restored.probability > 0.5)

    def test_outside_the_box_the_probability_is_zero(self, volume):
        probability = restore(iter(volume), 4, self.PLACE, with_probability=True).probability
        ones = np.ones(self.GRID.shape_zyx, np.uint8)
        inside = inside_box(ones, box=self.BOX, source_grid=self.GRID, orientation="RAS") == 1
        assert probability[~inside].max() == 0
        assert probability[inside].min() > 0

    def test_a_restored_mask_and_probability_lie_in_the_order_of_the_cts_file(self):
        sideways = Place(Box.whole((4, 5, 6)), Grid((5, 6, 4), (1.0, 1.0, 1.0)), "SLP")
        volume = np.random.default_rng(0).random((4, 5, 6), np.float32)
        restored = restore(iter(volume), 4, sideways, with_probability=True)
        assert restored.probability.flags.c_contiguous
        np.testing.assert_array_equal(restored.probability, volume.transpose(1, 2, 0))


class TestInsideBox:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_the_inside_of_a_box_is_just_what_restoring_can_reach(self, orientation):
        place = {
            "box": Box((1, 2, 3), (5, 4, 8)),
            "source_grid": Grid((8, 9, 10), (1.0, 1.0, 1.0)),
            "orientation": orientation,
        }
        kept = inside_box(np.ones((8, 9, 10), np.uint8), **place)
        assert kept.sum() == 4 * 2 * 5
        assert np.array_equal(kept, restore_mask(np.ones((4, 2, 5), np.float32), **place))

    def test_a_mask_cut_to_its_box_is_unchanged_inside(self):
        grid = Grid((6, 7, 8), (1.0, 1.0, 1.0))
        mask = ball((6, 7, 8), (3, 3, 3), 2).astype(np.uint8)
        box = Box((0, 3, 0), (6, 7, 8))
        kept = inside_box(mask, box=box, source_grid=grid, orientation="LPS")
        assert np.array_equal(kept[:, 3:], mask[:, 3:])
        assert not kept[:, :3].any()


class TestWriteMask:
    @pytest.fixture
    def mask(self):
        return ball((5, 6, 7), (1, 3, 4), 2).astype(np.uint8)

    @pytest.mark.parametrize("name", ["mask.nii.gz", "mask.nii", "mask.nrrd", "mask.mha"])
    @pytest.mark.parametrize("direction", [IDENTITY, direction_of("RAS"), TURNED])
    def test_the_file_has_the_grid_and_the_voxels(self, tmp_path, mask, name, direction):
        grid = Grid((5, 6, 7), (2.5, 0.8, 0.7), (-11.25, 7.1, 230.3), direction)
        write_mask(tmp_path / name, mask, grid)
        size, spacing, origin, cosines = read_with(tmp_path / name)
        assert size == (7, 6, 5)
        # NIfTI keeps these in single precision
        assert spacing == pytest.approx((0.7, 0.8, 2.5), rel=1e-6)
        assert origin == pytest.approx((-11.25, 7.1, 230.3), rel=1e-6)
        assert cosines == pytest.approx(direction, abs=1e-6)
        image = sitk.ReadImage(str(tmp_path / name))
        assert image.GetPixelIDTypeAsString() == "8-bit unsigned integer"
        assert np.array_equal(sitk.GetArrayFromImage(image), mask)

    def test_a_probability_is_written_likewise(self, tmp_path):
        path, grid = tmp_path / "p.nii.gz", Grid((5, 6, 7), (2.5, 0.8, 0.7), (-11.25, 7.5, 230.5))
        probability = np.random.default_rng(0).random((5, 6, 7), np.float32)
        write_probability(path, probability, grid)
        assert read_with(path)[2] == (-11.25, 7.5, 230.5)
        image = sitk.ReadImage(str(path))
        np.testing.assert_array_equal(sitk.GetArrayFromImage(image), probability)

    @pytest.mark.parametrize(
        ("mask", "words", "ending", "expected"),
        [
            ("a/m.nii.gz", "_probability", None, "a/m_probability.nii.gz"),
            ("a/m.nrrd", "_probability", None, "a/m_probability.nrrd"),
            ("a/m.v2.nii.gz", "", ".dcm", "a/m.v2.dcm"),
        ],
    )
    def test_what_lies_beside_a_mask_is_called_as_it(self, mask, words, ending, expected):
        assert beside(Path(mask), words, ending) == Path(expected)

    def test_an_older_mask_is_replaced(self, tmp_path, mask):
        path, grid = tmp_path / "mask.nii.gz", Grid((5, 6, 7), (2.5, 0.8, 0.7))
        write_mask(path, 1 - mask, grid)
        write_mask(path, mask, grid)
        assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), mask)
        assert names(tmp_path) == ["mask.nii.gz"]

    @pytest.mark.parametrize(
        "name",
        [
            "mask",
            "mask.xyz",
            "mask.png",  # would keep one slice
            "mask.tif",  # would lose origin and direction
            "mask.mhd",  # would leave its voxels in a second file
            "mask.dcm",  # would end the process
        ],
    )
    def test_another_ending_is_refused_and_leaves_nothing(self, tmp_path, mask, name):
        with pytest.raises(DataError, match=r"\.nii\.gz, \.nii, \.nrrd, \.mha") as caught:
            write_mask(tmp_path / "new" / name, mask, Grid((5, 6, 7), (2.5, 0.8, 0.7)))
        assert caught.value.where == tmp_path / "new" / name
        assert names(tmp_path) == []

    @posix
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_full_disk_leaves_no_half_of_a_mask(self, tmp_path, ending):
        with largest_file(2000), pytest.raises(DataError, match="cannot be written"):
            write_mask(tmp_path / f"mask{ending}", NOISE, Grid(NOISE.shape, (2.5, 0.8, 0.7)))
        assert names(tmp_path) == []

    @posix
    @pytest.mark.parametrize("ending", ENDINGS)
    def test_a_disk_that_is_full_just_before_the_end_leaves_no_mask(self, tmp_path, ending):
        path, grid = tmp_path / f"mask{ending}", Grid(NOISE.shape, (2.5, 0.8, 0.7))
        write_mask(path, NOISE, grid)
        size = path.stat().st_size
        path.unlink()
        for missing in (1, 300):
            with largest_file(size - missing), pytest.raises(DataError, match="cannot be written"):
                write_mask(path, NOISE, grid)
            assert names(tmp_path) == []
        with largest_file(size):
            write_mask(path, NOISE, grid)

    @posix
    def test_a_name_that_is_no_text_is_written(self, tmp_path, mask):
        path = tmp_path / os.fsdecode(b"\xff.nii.gz")
        write_mask(path, mask, Grid((5, 6, 7), (2.5, 0.8, 0.7)))
        assert path.is_file()

    def test_a_folder_that_cannot_be_made_is_refused(self, tmp_path, mask):
        (tmp_path / "file").write_text("not a folder")
        with pytest.raises(DataError, match="cannot be written: ") as caught:
            write_mask(tmp_path / "file" / "mask.nii", mask, Grid((5, 6, 7), (2.5, 0.8, 0.7)))
        assert caught.value.fact == "cannot be written: File exists"
        assert names(tmp_path) == ["file"]
