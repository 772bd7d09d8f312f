"""From a CT and its label to the arrays of the store."""

from dataclasses import replace
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
import torch
from torch.nn.functional import interpolate

from cache.case import PreparedCase
from cache.errors import SourceError
from cache.grid import Box, Grid
from cache.manifest import Manifest, write_manifest
from cache.reader import CaseStore
from conftest import LIVER
from stages.preprocess.case import work
from stages.preprocess.crop import body_box, label_box, slices_box
from stages.preprocess.outcome import Job
from stages.preprocess.params import PreprocessParams
from stages.preprocess.prepare import (
    FOREGROUND_VOXELS,
    case_key,
    prepare_volume,
    sample_foreground,
    voxel_digest,
)
from stages.preprocess.reading.read import read_ct

ARRAYS = ("image", "mask", "source_mask", "foreground_zyx")
KEEP = PreprocessParams(
    format="hdf5",
    liver_values="any",
    crop="none",
    slices=None,
    margin_mm=0,
    grid="keep",
    shape_zyx=None,
    spacing_zyx_mm=None,
)
CASE_SHAPE = (14, 18, 20)  # of the case that write_case writes, spacing 11, 10, 9 mm
ORIENTATIONS = ["".join(o) for axes in permutations(("LR", "PA", "SI")) for o in product(*axes)]
CT = Path("ct.nii.gz")


def with_params(**changes):
    """Parameters that keep a case as it is, but for these."""
    return PreprocessParams(**{**KEEP.model_dump(), **changes})


@pytest.fixture
def prepared(rules, tmp_path):
    """Prepare a case into a store; gives it as it is read there."""

    def prepare(files, **changes):
        params, out = with_params(**changes), tmp_path / f"cases-{files.case_id}"
        outcome = work(Job(files, out, tmp_path / "pictures", params, rules(), None, False))
        assert outcome.entry is not None, outcome.problems
        write_manifest(out, Manifest({files.case_id: outcome.entry}, {}))
        store = CaseStore(out)
        arrays = (getattr(store, name)(files.case_id) for name in ARRAYS)
        return PreparedCase(store.info(files.case_id), *arrays)

    return prepare


def file_array(path):
    """The voxels of a file in its own order, (Z, Y, X)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def ball(shape_zyx, centre_zyx, radii_zyx):
    """A mask of the voxels inside an ellipsoid."""
    axes = np.ogrid[tuple(slice(side) for side in shape_zyx)]
    terms = zip(axes, centre_zyx, radii_zyx, strict=True)
    return sum(((axis - c) / r) ** 2 for axis, c, r in terms) <= 1


class TestKeptAsItIs:
    def test_an_lps_case_without_crop_and_grid_is_stored_unchanged(self, prepared, write_case):
        files = write_case()
        case = prepared(files)
        np.testing.assert_array_equal(case.volume, file_array(files.ct))
        np.testing.assert_array_equal(case.mask, file_array(files.label))
        np.testing.assert_array_equal(case.source_mask, case.mask)
        assert (case.volume.dtype, case.mask.dtype) == (np.int16, np.uint8)

    def test_what_is_needed_to_go_back_is_recorded(self, prepared, write_case):
        info = prepared(write_case("7")).info
        grid = Grid(CASE_SHAPE, (11.0, 10.0, 9.0), (-11.0, 7.0, 23.0))
        assert (info.case_id, info.patient_id, info.orientation) == ("7", "7", "LPS")
        assert info.source_grid == info.prepared_grid == grid
        assert info.box == Box((0, 0, 0), CASE_SHAPE)

    def test_the_livers_volume_is_counted_on_the_source_grid(self, prepared, write_case):
        # 6 * 7 * 8 voxels less a notch of 3, of 0.99 ml each
        case = prepared(write_case(), grid="spacing", spacing_zyx_mm=(40, 40, 40))
        assert case.info.liver_ml == pytest.approx(333 * 0.99)

    def test_nothing_is_doubted_about_a_plausible_case(self, prepared, write_case):
        assert prepared(write_case()).info.findings == []


class TestOrientation:
    @pytest.mark.parametrize("orientation", ORIENTATIONS)
    def test_a_turned_copy_gives_the_same_prepared_case(self, prepared, write_case, orientation):
        params = {"crop": "body", "margin_mm": 4.0, "grid": "shape", "shape_zyx": (9, None, 15)}
        straight, turned = write_case("straight"), write_case("turned")
        for path in (turned.ct, turned.label):
            image = sitk.ReadImage(str(path))
            sitk.WriteImage(sitk.DICOMOrient(image, orientation), str(path))
        ours, expected = prepared(turned, **params), prepared(straight, **params)
        assert ours.info.orientation == orientation
        np.testing.assert_array_equal(ours.volume, expected.volume)
        np.testing.assert_array_equal(ours.mask, expected.mask)
        np.testing.assert_array_equal(ours.foreground_zyx, expected.foreground_zyx)
        assert ours.info.box == expected.info.box
        grid, same = ours.info.prepared_grid, expected.info.prepared_grid
        assert grid.shape_zyx == same.shape_zyx
        assert grid.spacing_zyx_mm == pytest.approx(same.spacing_zyx_mm)
        assert grid.origin_xyz_mm == pytest.approx(same.origin_xyz_mm)
        assert grid.direction == pytest.approx(same.direction)

    def test_the_source_mask_stays_in_the_files_own_order(self, prepared, write_case):
        files = write_case(direction=(-1, 0, 0, 0, 1, 0, 0, 0, -1))
        case = prepared(files)
        np.testing.assert_array_equal(case.source_mask, file_array(files.label))
        np.testing.assert_array_equal(case.mask, case.source_mask[::-1, :, ::-1])


class TestSlices:
    @pytest.mark.parametrize("z", [1, -1])
    def test_slices_count_in_the_files_own_order(self, prepared, write_case, z):
        files = write_case(direction=(1, 0, 0, 0, 1, 0, 0, 0, z))
        case = prepared(files, crop="slices", slices=(5, 9))
        np.testing.assert_array_equal(case.volume, file_array(files.ct)[5:9][::z])

    def test_slices_of_a_sagittal_file_are_sagittal(self, prepared, write_case):
        of = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation
        files = write_case(direction=of("PSL"))
        case = prepared(files, crop="slices", slices=(5, 9))
        # the file's x, y, z are the patient's y, z, x
        expected = file_array(files.ct)[5:9].transpose(1, 2, 0)
        np.testing.assert_array_equal(case.volume, expected)

    def test_the_last_slice_may_be_asked_for(self, prepared, write_case):
        assert prepared(write_case(), crop="slices", slices=(4, 14)).volume.shape == (10, 18, 20)

    def test_a_ct_with_too_few_slices_is_refused_with_both_counts(self):
        with pytest.raises(SourceError, match=r"has 14 slices.*asks for \[4, 15\)") as caught:
            slices_box(CT, (14, 18, 20), "LPS", range(4, 15))
        assert caught.value.rule == "slices_there"
        assert caught.value.where == CT

    @pytest.mark.parametrize(
        ("orientation", "box"),
        [
            ("LPS", Box((2, 0, 0), (5, 20, 30))),
            ("LPI", Box((5, 0, 0), (8, 20, 30))),
            ("PSL", Box((0, 0, 2), (10, 20, 5))),
            ("SLA", Box((0, 15, 0), (10, 18, 30))),
        ],
    )
    def test_the_box_of_slices_2_to_4(self, orientation, box):
        assert slices_box(CT, (10, 20, 30), orientation, range(2, 5)) == box


class TestBodyCrop:
    SPACING = (2.0, 1.0, 1.5)

    def scan_on_a_table(self):
        """A body of 60·120·135 mm in air, lying on a table, and a cable that is no body."""
        volume = np.full((40, 160, 120), -1000, np.int16)
        volume[:, 129:135, 2:118] = 100  # the table, 6 mm thick
        volume[3:8, 10:14, 10:14] = 200  # a cable
        volume[ball(volume.shape, (20, 70, 60), (15, 60, 45))] = 40
        return volume

    def test_table_and_air_are_outside(self):
        box = body_box(CT, self.scan_on_a_table(), self.SPACING, 0)
        # the body is [5, 36), [10, 131), [15, 106); a coarse voxel has 2, 4 and 3 of these
        assert (np.subtract((5, 10, 15), box.start_zyx) < (2, 4, 3)).all()
        # of a table 6 mm thick, what the body lies on may be taken for body
        assert (np.subtract(box.stop_zyx, (36, 131, 106)) < (2, 4 + 6, 3)).all()

    def test_the_whole_body_is_inside_without_any_margin(self):
        volume = self.scan_on_a_table()
        body = ball(volume.shape, (20, 70, 60), (15, 60, 45))
        outside = body.copy()
        outside[body_box(CT, volume, self.SPACING, 0).slices] = False
        # the opening rounds off the very tips, narrower than 12 mm
        assert outside.sum() < 0.001 * body.sum()

    @pytest.mark.parametrize("shift", range(4))
    def test_no_side_loses_body_to_the_coarse_grid(self, shift):
        volume = np.full((30, 60, 60), -1000, np.int16)
        volume[5 + shift : 21 + shift, 11 + shift : 43 + shift, 9 + shift : 41 + shift] = 0
        box = body_box(CT, volume, (1.0, 1.0, 1.0), 0)
        start, stop = np.array([5, 11, 9]) + shift, np.array([21, 43, 41]) + shift
        assert (np.array(box.start_zyx) <= start).all()
        assert (np.array(box.stop_zyx) >= stop).all()
        # and at most one coarse voxel is too many
        assert (np.array(box.start_zyx) > start - 4).all()
        assert (np.array(box.stop_zyx) < stop + 4).all()

    def test_the_margin_is_in_mm_and_ends_at_the_edge(self):
        volume = self.scan_on_a_table()
        tight = body_box(CT, volume, self.SPACING, 0)
        wide = body_box(CT, volume, self.SPACING, 3.0)
        assert wide == tight.grown((2, 3, 2))
        everything = body_box(CT, volume, self.SPACING, 1000.0)
        assert everything == Box.whole(volume.shape)

    def test_lungs_belong_to_the_body_around_them(self):
        volume = self.scan_on_a_table()
        tight = body_box(CT, volume, self.SPACING, 0)
        volume[ball(volume.shape, (20, 70, 60), (10, 40, 30))] = -850
        assert body_box(CT, volume, self.SPACING, 0) == tight

    def test_a_scan_of_one_thin_strip_of_body_is_kept(self):
        volume = np.full((1, 20, 20), -1000, np.int16)
        volume[0, 4, 3:17] = 0
        box = body_box(CT, volume, (5.0, 5.0, 5.0), 0)
        assert box == Box((0, 4, 3), (1, 5, 17))

    def test_a_ct_of_nothing_but_air_is_refused(self):
        with pytest.raises(SourceError, match="no voxel is denser than -300 HU") as caught:
            body_box(CT, np.full((4, 5, 6), -1000, np.int16), (5.0, 5.0, 5.0), 0)
        assert caught.value.rule == "body_found"

    def test_the_prepared_case_is_the_box(self, prepared, write_case):
        files = write_case()
        case = prepared(files, crop="body", margin_mm=9.5)
        # the body is [1, 13), [2, 15), [3, 18); the margin one voxel of 11 and 10, two of 9 mm
        assert case.info.box == Box((0, 1, 1), (14, 16, 20))
        whole = file_array(files.ct)
        np.testing.assert_array_equal(case.volume, whole[0:14, 1:16, 1:20])
        assert case.info.prepared_grid.origin_xyz_mm == pytest.approx((-2.0, 17.0, 23.0))


class TestLabelCrop:
    def test_the_box_is_the_livers_with_a_margin_in_mm(self):
        mask = np.zeros((30, 40, 50), np.uint8)
        mask[10:15, 20:28, 3:9] = 1
        box = label_box(mask, (5.0, 1.0, 2.0), 4.0)
        assert box == Box((9, 16, 1), (16, 32, 11))

    def test_a_crop_around_the_label_ends_at_the_edge_of_the_ct(self):
        mask = np.ones((4, 5, 6), np.uint8)
        assert label_box(mask, (1.0, 1.0, 1.0), 100.0) == Box((0, 0, 0), (4, 5, 6))

    def test_a_crop_around_the_label_takes_the_body_where_there_is_no_label(self, write_case):
        ct = read_ct(write_case().ct)
        label, body = (with_params(crop=crop, margin_mm=1.0) for crop in ("label", "body"))
        boxes = [prepare_volume(ct, ct.array, params).box for params in (label, body)]
        assert boxes[0] == boxes[1]


class TestGrid:
    def test_a_shape_is_taken_and_null_keeps_an_axis(self, prepared, write_case):
        case = prepared(write_case(), grid="shape", shape_zyx=(None, 9, 40))
        grid = case.info.prepared_grid
        assert case.volume.shape == case.mask.shape == grid.shape_zyx == (14, 9, 40)
        assert grid.spacing_zyx_mm == pytest.approx((11.0, 20.0, 4.5))

    def test_a_spacing_is_met_by_whole_voxels_over_the_same_extent(self, prepared, write_case):
        case = prepared(write_case(), grid="spacing", spacing_zyx_mm=(20.0, None, 7.0))
        grid = case.info.prepared_grid
        # 14 * 11 / 20 = 7.7 and 20 * 9 / 7 = 25.7
        assert grid.shape_zyx == case.volume.shape == (8, 18, 26)
        assert grid.extent_zyx_mm == pytest.approx((154.0, 180.0, 180.0))

    def test_a_spacing_wider_than_the_case_leaves_one_voxel(self, prepared, write_case):
        case = prepared(write_case(), grid="spacing", spacing_zyx_mm=(None, 9999.0, None))
        assert case.volume.shape == (14, 1, 20)

    @pytest.mark.parametrize("spacing_mm", [1e6, 1e150])
    def test_a_spacing_that_would_make_too_many_voxels_is_refused(self, write_case, spacing_mm):
        ct = read_ct(write_case().ct)
        ct = replace(ct, grid=replace(ct.grid, spacing_zyx_mm=(spacing_mm,) * 3))
        params = with_params(grid="spacing", spacing_zyx_mm=(1.0, 1.0, 1.0))
        with pytest.raises(SourceError, match="mm it would become one of") as caught:
            prepare_volume(ct, ct.array, params)
        assert caught.value.rule == "spacing_positive"

    def test_a_mask_stays_zero_or_one(self, prepared, write_case):
        case = prepared(write_case(), grid="shape", shape_zyx=(9, 31, 17))
        assert set(np.unique(case.mask)) == {0, 1}

    def test_image_and_mask_stay_on_each_other(self, prepared, write_case):
        case = prepared(write_case(), grid="shape", shape_zyx=(28, 36, 40))
        inside, outside = case.volume[case.mask == 1], case.volume[case.mask == 0]
        assert inside.mean() > 90  # the liver has 110 HU, the body around it 0
        assert (outside[outside > -300] < 60).mean() > 0.95


class TestBinarize:
    @pytest.mark.parametrize(
        ("liver_values", "voxels"), [("any", 333), ([1], 300), ([2], 33), ([1, 2], 333)]
    )
    def test_lesions_are_liver_if_they_are_listed(self, prepared, write_case, liver_values, voxels):
        label = np.zeros(CASE_SHAPE, np.uint8)
        label[LIVER] = np.repeat([1, 2, 0], [300, 33, 3]).reshape(label[LIVER].shape)
        case = prepared(write_case(label=label), liver_values=liver_values)
        assert case.source_mask.sum() == voxels


class TestFindings:
    def test_a_body_cropped_to_its_inside_still_counts_as_a_ct(self, prepared, write_case):
        # the box of the liver holds no air, but the CT does
        assert prepared(write_case(), crop="label").info.findings == []

    def test_a_crop_without_liver_is_told_and_prepared(self, prepared, write_case):
        case = prepared(write_case(), crop="slices", slices=(0, 3))
        (found,) = case.info.findings
        assert (found["rule"], found["role"]) == ("liver_cropped_away", "label")
        assert case.foreground_zyx.shape == (0, 3)
        assert case.info.liver_ml == pytest.approx(333 * 0.99)


class TestForeground:
    def test_every_voxel_of_a_small_liver_is_stored_in_array_order(self):
        mask = np.zeros((5, 6, 7), np.uint8)
        mask[1, 2, 3] = mask[4, 0, 6] = mask[0, 5, 0] = 1
        foreground = sample_foreground(mask)
        np.testing.assert_array_equal(foreground, [[0, 5, 0], [1, 2, 3], [4, 0, 6]])
        assert foreground.dtype == np.int32

    def test_the_foreground_of_a_large_liver_is_an_even_sample_without_doubles(self):
        mask = np.zeros((40, 40, 40), np.uint8)
        mask[4:36, 4:36, 4:36] = 1
        foreground = sample_foreground(mask)
        assert foreground.shape == (FOREGROUND_VOXELS, 3)
        assert len(np.unique(foreground, axis=0)) == FOREGROUND_VOXELS
        assert mask[tuple(foreground.T)].all()
        # the mean of 4..35 is 19.5, a mean of 4096 draws is within 4 * 9.2 / 64
        np.testing.assert_allclose(foreground.mean(axis=0), 19.5, atol=0.6)

    def test_the_same_mask_gives_the_same_sample(self):
        mask = np.ones((30, 31, 32), np.uint8)
        np.testing.assert_array_equal(sample_foreground(mask), sample_foreground(mask))


class TestKey:
    DIGESTS = {"ct": "a" * 64, "label": "b" * 64}  # noqa: RUF012 - nobody changes it

    def test_a_case_key_changes_with_either_file_the_case_and_every_parameter(self, write_case):
        files = write_case()
        keys = {
            case_key(files, KEEP, self.DIGESTS),
            case_key(files, KEEP, {**self.DIGESTS, "ct": "c" * 64}),
            case_key(files, KEEP, {**self.DIGESTS, "label": "c" * 64}),
            case_key(files, KEEP, {"ct": "b" * 64, "label": "a" * 64}),
            case_key(files, with_params(margin_mm=1), self.DIGESTS),
            case_key(files, with_params(format="zarr"), self.DIGESTS),
            case_key(replace(files, case_id="2"), KEEP, self.DIGESTS),
            case_key(replace(files, patient_id="2"), KEEP, self.DIGESTS),
            case_key(replace(files, names={"liver": (1,)}), KEEP, self.DIGESTS),
        }
        assert len(keys) == 9

    def test_a_case_key_does_not_change_when_the_files_move(self, write_case):
        here, there = write_case(folder="here"), write_case(folder="there/deep")
        assert case_key(here, KEEP, self.DIGESTS) == case_key(there, KEEP, self.DIGESTS)


class TestVoxelDigest:
    VOLUME = np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7)

    def test_equal_voxels_have_the_same_digest_whatever_their_order_in_memory(self):
        turned = np.asfortranarray(self.VOLUME)
        flipped = self.VOLUME[::-1].copy()[::-1]
        assert voxel_digest(self.VOLUME) == voxel_digest(turned) == voxel_digest(flipped)

    def test_one_other_voxel_or_another_shape_gives_another_digest(self):
        other = self.VOLUME.copy()
        other[4, 5, 6] += 1
        digests = {
            voxel_digest(self.VOLUME),
            voxel_digest(other),
            voxel_digest(self.VOLUME.reshape(5, 7, 6)),
            voxel_digest(self.VOLUME[::-1]),
        }
        assert len(digests) == 4


class TestNotebook:
    """What the widely copied script did, beside what is done here."""

    SLICES = (3, 11)

    @pytest.fixture
    def files(self, write_case):
        """A CT with structure in every voxel, and a label of liver and lesion."""
        rng = np.random.default_rng(40)
        volume = rng.integers(-1000, 1000, (16, 128, 120)).astype(np.int16)
        label = np.zeros((16, 128, 120), np.uint8)
        label[2:14, 30:100, 20:90] = 1
        label[5:9, 50:60, 40:50] = 2
        volume[label > 0] = rng.integers(0, 200, np.count_nonzero(label))
        return write_case(ct=volume, label=label, spacing_xyz_mm=(1.5, 1.4, 5.0))

    @pytest.fixture
    def ours(self, prepared, files):
        """The case as presets/notebook.yaml prepares it, but for the numbers of its slices."""
        shape = {"grid": "shape", "shape_zyx": (None, 96, 96)}
        return prepared(files, crop="slices", slices=self.SLICES, **shape)

    def notebook(self, path):
        """Read, cut slices, Resize((96, 96)): torchvision's is torch's antialiased bilinear."""
        first, last = self.SLICES
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(path), sitk.sitkInt16))[first:last]
        if path.parts[-3] == "label":
            array[array > 0] = 1
        tensor = torch.from_numpy(array.astype(np.float32))[None]
        return interpolate(tensor, (96, 96), mode="bilinear", antialias=True)[0].numpy()

    def test_the_volume_equals_its_volume_to_the_rounding(self, files, ours):
        theirs = self.notebook(files.ct)
        assert ours.volume.shape == theirs.shape == (8, 96, 96)
        # half a HU from rounding, the rest from Pillow
        assert np.abs(ours.volume - theirs).max() < 0.52

    def test_the_notebooks_bilinear_label_is_not_a_mask_and_ours_is(self, files, ours):
        theirs = self.notebook(files.label)
        between = (theirs > 0) & (theirs < 1)
        assert between.sum() > 500  # as class numbers these become 0: the liver shrinks
        assert set(np.unique(ours.mask)) == {0, 1}
        shrunk = theirs.astype(np.int64)
        assert shrunk.sum() < ours.mask.sum()
        np.testing.assert_array_equal(ours.mask[~between], theirs[~between])

    def test_our_mask_keeps_the_livers_volume(self, files, ours):
        source = (file_array(files.label)[3:11] > 0).sum() * ours.info.source_grid.voxel_ml
        kept = ours.mask.sum() * ours.info.prepared_grid.voxel_ml
        assert kept == pytest.approx(source, rel=0.03)
