"""A label or a CT that lost its geometry in an array: laid over by index, or left out."""

from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from scipy.ndimage import binary_erosion

from cache.grid import Grid
from conftest import CASE_SHAPE_ZYX, CASE_SPACING_XYZ_MM, body_hu, liver_label
from stages.preprocess.fit import fits_better
from stages.preprocess.inspect import inspect_case
from stages.preprocess.ledger import Ledger
from stages.preprocess.reading.read import as_hu, read_ct, read_label
from stages.preprocess.rules.geometry import lost_side
from stages.preprocess.shift import fits_elsewhere

KINDS = ("image", "label")
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)  # how ITK has the identity of NIfTI
ORIGIN = (-11.0, 7.0, 23.0)
LENGTHS = {"spacing_xyz_mm": CASE_SPACING_XYZ_MM}
# a slice higher, for the body of the fixtures has its liver in the middle slices
HIGHER_CT, HIGHER_LABEL = np.roll(body_hu(), 1, 0), np.roll(liver_label(), 1, 0)


def rewrite(path, array, *, spacing_xyz_mm=(1.0, 1.0, 1.0), origin_xyz_mm=(0.0, 0.0, 0.0), **how):
    """Write an array as a file, by default as ``GetImageFromArray`` and a writer leave it."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz_mm)
    image.SetOrigin(origin_xyz_mm)
    image.SetDirection(how.get("direction", (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    sitk.WriteImage(image, str(path))


@pytest.fixture
def inspect(rules):
    """Inspect a case under some policies; gives what passed, and the problems by rule."""

    def run(files, **policies):
        ledger = Ledger(files.case_id, rules(**policies))
        inspected = inspect_case(files, "any", ledger)
        return inspected, {problem.rule: problem for problem in ledger.problems}

    return run


def severities(problems):
    return {rule: problem.severity for rule, problem in problems.items()}


class TestLostLabel:
    @pytest.mark.parametrize("direction", [(1, 0, 0, 0, 1, 0, 0, 0, 1), RAS])
    @pytest.mark.parametrize("ct", [{}, {"direction": RAS}, {"origin_xyz_mm": (0.0, 0.0, 0.0)}])
    def test_a_label_without_geometry_is_laid_over_its_ct_voxel_by_voxel(
        self, write_case, inspect, ct, direction
    ):
        files = write_case(**ct)
        rewrite(files.label, liver_label(), direction=direction)
        inspected, problems = inspect(files)
        assert severities(problems) == {"geometry_lost": "fixed"}
        assert problems["geometry_lost"].path == str(files.label)
        order = slice(None, None, -1 if "direction" in ct else 1)
        np.testing.assert_array_equal(inspected.mask, liver_label()[:, order, order])
        assert inspected.ct.grid.spacing_zyx_mm == CASE_SPACING_XYZ_MM[::-1]

    def test_a_label_with_its_spacing_but_without_its_place_is_laid_by_index(
        self, write_case, inspect
    ):
        files = write_case()
        rewrite(files.label, liver_label(), **LENGTHS)
        inspected, problems = inspect(files)
        assert severities(problems) == {"geometry_lost": "fixed"}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    @pytest.mark.parametrize("axes", [0, 1, 2, (0, 2), (0, 1, 2)])
    def test_a_mirrored_array_without_geometry_is_left_out(self, write_case, inspect, axes):
        files = write_case(ct=HIGHER_CT)
        rewrite(files.label, np.flip(HIGHER_LABEL, axes).copy())
        inspected, problems = inspect(files)
        assert inspected is None
        assert severities(problems)["geometry_lost"] == "skipped"

    def test_a_transposed_array_without_geometry_is_left_out(self, write_case, inspect):
        square = np.s_[:, :, :18]
        files = write_case(ct=body_hu()[square])
        rewrite(files.label, np.ascontiguousarray(liver_label()[square].transpose(0, 2, 1)))
        inspected, problems = inspect(files)
        assert inspected is None
        assert "would fit better x and y swapped" in problems["geometry_lost"].fact

    def test_a_label_that_fits_no_liver_by_index_is_left_out_with_its_median(
        self, write_case, inspect
    ):
        files = write_case()
        label = np.zeros(CASE_SHAPE_ZYX, np.uint8)
        label[:, :2] = 1  # all of it in air
        rewrite(files.label, label)
        inspected, problems = inspect(files)
        assert inspected is None
        assert "half of the liver would be below -1000 HU" in problems["geometry_lost"].fact

    def test_a_label_of_another_size_without_geometry_is_left_out_with_both_sizes(
        self, write_case, inspect
    ):
        files = write_case(origin_xyz_mm=(-11.0, -7.0, 0.0))  # the two share some space
        rewrite(files.label, liver_label()[2:])
        inspected, problems = inspect(files)
        assert inspected is None
        assert severities(problems) == {"geometry_lost": "skipped"}
        assert "the CT has 20·18·14 voxels (x·y·z), the label 20·18·12" in (
            problems["geometry_lost"].fact
        )

    def test_a_label_resampled_to_1_mm_over_the_very_space_of_its_ct_is_brought_by_geometry(
        self, write_case, inspect
    ):
        files = write_case(origin_xyz_mm=(0.0, 0.0, 0.0))
        fine = liver_label()
        for axis, factor in enumerate(CASE_SPACING_XYZ_MM[::-1]):
            fine = np.repeat(fine, int(factor), axis)
        rewrite(files.label, fine)
        inspected, problems = inspect(files)
        assert severities(problems) == {"label_grid": "fixed"}
        assert inspected.mask.sum() == pytest.approx(liver_label().sum(), rel=0.25)

    @pytest.mark.parametrize(("policy", "severity"), [("skip", "skipped"), ("error", "error")])
    def test_a_lost_geometry_keeps_a_case_out_where_it_should(
        self, write_case, inspect, policy, severity
    ):
        files = write_case()
        rewrite(files.label, liver_label())
        inspected, problems = inspect(files, geometry_lost=policy)
        assert inspected is None
        assert severities(problems) == {"geometry_lost": severity}


class TestTurned:
    @pytest.mark.parametrize(
        ("axes", "how"), [(0, "along z"), (1, "along y"), (2, "along x"), ((0, 2), "along z, x")]
    )
    def test_a_mirrored_label_with_its_cts_header_is_left_out_though_its_hu_may_be_a_livers(
        self, write_case, inspect, axes, how
    ):
        files = write_case(ct=HIGHER_CT, label=np.flip(HIGHER_LABEL, axes).copy())
        inspected, problems = inspect(files)
        assert inspected is None
        assert severities(problems) == {"liver_turned": "skipped"}
        assert f"far better mirrored {how}:" in problems["liver_turned"].fact
        assert inspect(files, liver_turned="warn")[0] is not None

    def test_a_liver_in_its_place_fits_in_no_other_order(self):
        assert fits_better(HIGHER_CT, HIGHER_LABEL, 1.0) == ""

    def test_an_empty_mask_fits_nowhere_better(self):
        assert fits_better(HIGHER_CT, np.zeros_like(HIGHER_LABEL), 1.0) == ""

    def test_a_mask_that_fits_nowhere_is_not_told_to_be_turned(self):
        noise = np.random.default_rng(0)
        flat = noise.integers(0, 60, CASE_SHAPE_ZYX).astype(np.int16)
        assert fits_better(flat, HIGHER_LABEL, 1.0) == ""

    def test_the_fit_of_a_large_liver_is_that_of_every_other_voxel(self):
        ct, label = HIGHER_CT, HIGHER_LABEL
        for axis in range(3):
            ct, label = np.repeat(ct, 14, axis), np.repeat(label, 14, axis)
        assert fits_better(ct, label, 1.0) == ""
        assert fits_better(ct, np.flip(label, 1).copy(), 1.5) == "mirrored along y"

    @pytest.mark.realct
    @pytest.mark.parametrize("case_id", ["lits-64", "slab-20", "torso-3mm"])
    def test_a_real_liver_fits_and_a_mirrored_one_is_found_out(self, realct, case_id):
        [path], [label] = ((realct / "LiverDataset" / kind / case_id).iterdir() for kind in KINDS)
        ct = read_ct(path)
        hu = as_hu(ct)
        liver = (read_label(label, ct.grid).array > 0).astype(np.uint8)
        assert fits_better(hu, liver, 1.0) == ""
        for axis in range(3):
            assert fits_better(hu, np.flip(liver, axis).copy(), 1.5)


class TestMoved:
    """A label whose origin was lost, over the CT it belongs to."""

    @staticmethod
    def scene():
        """A CT of a wide body with a liver of no symmetry in it, and its label."""
        z, y, x = np.mgrid[:26, :40, :47]
        body = ((y - 20) / 18) ** 2 + ((x - 23) / 21) ** 2 < 1
        liver = ((z - 13) / 7) ** 2 + ((y - 18) / 8) ** 2 + ((x - 15) / 10) ** 2 < 1
        liver &= x + y + 2 * z > 50
        noise = np.random.default_rng(5).normal(0, 15, z.shape)
        ct = np.where(body, np.where(liver, 110, 0), -1000) + noise
        return ct.astype(np.int16), liver.astype(np.uint8)

    @pytest.mark.parametrize(
        ("by", "how"),
        [((4, 0, 0), "-4 along z"), ((-3, 5, -6), "3 along z, -5 along y, 6 along x")],
    )
    def test_a_label_that_was_moved_is_found_out_with_the_way_back(self, by, how):
        ct, label = self.scene()
        moved = np.roll(label, by, (0, 1, 2))
        assert fits_elsewhere(ct, moved, 1.5) == f"moved by {how} (voxels)"

    def test_a_liver_in_its_place_fits_nowhere_else(self):
        assert fits_elsewhere(*self.scene(), 1.0) == ""

    def test_an_empty_mask_fits_nowhere_else(self):
        ct, label = self.scene()
        assert fits_elsewhere(ct, np.zeros_like(label), 1.0) == ""

    def test_a_cropped_label_with_the_origin_of_its_ct_is_left_out(self, write_case, inspect):
        ct, label = self.scene()
        files = write_case(ct=ct, label=label)
        own = sitk.ReadImage(str(files.label))
        rewrite(
            files.label, label[3:], spacing_xyz_mm=own.GetSpacing(), origin_xyz_mm=own.GetOrigin()
        )
        inspected, problems = inspect(files)
        assert inspected is None
        assert problems["liver_turned"].severity == "skipped"
        assert "far better moved by 3 along z (voxels):" in problems["liver_turned"].fact

    @pytest.mark.realct
    @pytest.mark.parametrize(
        ("case_id", "by"), [("abdomen-ce", (0, 30, 0)), ("slab-20", (0, 0, 40)), ("lits-64", None)]
    )
    def test_a_real_liver_lies_where_it_is_and_a_moved_one_does_not(self, realct, case_id, by):
        [path], [label] = ((realct / "LiverDataset" / kind / case_id).iterdir() for kind in KINDS)
        ct = read_ct(path)
        hu = as_hu(ct)
        liver = (read_label(label, ct.grid).array > 0).astype(np.uint8)
        assert fits_elsewhere(hu, liver, 1.0) == ""
        assert by is None or fits_elsewhere(hu, np.roll(liver, by, (0, 1, 2)), 1.5)

    @pytest.mark.realct
    def test_a_real_liver_that_was_drawn_too_small_is_in_its_place(self, realct):
        [path], [label] = (
            (realct / "LiverDataset" / kind / "torso-3mm").iterdir() for kind in KINDS
        )
        ct = read_ct(path)
        liver = read_label(label, ct.grid).array > 0
        assert fits_elsewhere(as_hu(ct), binary_erosion(liver).astype(np.uint8), 1.5) == ""


class TestLostCt:
    def test_a_ct_without_geometry_takes_that_of_its_label(self, write_case, inspect):
        files = write_case(direction=RAS)
        rewrite(files.ct, body_hu())
        inspected, problems = inspect(files)
        assert severities(problems) == {"geometry_lost": "fixed"}
        assert problems["geometry_lost"].path == str(files.ct)
        assert (
            "it takes the grid of the other file voxel by voxel" in problems["geometry_lost"].fact
        )
        assert inspected.ct.grid.spacing_zyx_mm == CASE_SPACING_XYZ_MM[::-1]
        assert inspected.ct.orientation == "RAS"
        np.testing.assert_array_equal(inspected.hu, body_hu()[:, ::-1, ::-1])
        np.testing.assert_array_equal(inspected.mask, liver_label()[:, ::-1, ::-1])
        # 6·7·8 voxels less 3, of 9·10·11 mm
        assert inspected.liver_ml == pytest.approx(333 * 0.99)

    def test_a_ct_with_its_spacing_but_without_its_place_keeps_its_grid(self, write_case, inspect):
        files = write_case()
        rewrite(files.ct, body_hu(), **LENGTHS)
        inspected, problems = inspect(files)
        assert severities(problems) == {"geometry_lost": "fixed"}
        assert inspected.ct.grid.origin_xyz_mm == (0.0, 0.0, 0.0)
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_a_mirrored_ct_without_geometry_is_left_out(self, write_case, inspect):
        files = write_case(label=HIGHER_LABEL)
        rewrite(files.ct, HIGHER_CT[::-1])
        inspected, problems = inspect(files)
        assert inspected is None
        assert "would fit better mirrored along z" in problems["geometry_lost"].fact


class TestAxesInAnyOrder:
    @pytest.mark.parametrize("orientation", ["LPS", "RAS", "PIR", "SLA", "ASL"])
    @pytest.mark.parametrize("lost", ["ct", "label"])
    def test_a_file_saved_without_its_geometry_gives_the_same_case(
        self, write_case, inspect, orientation, lost
    ):
        files = write_case(ct=HIGHER_CT, label=HIGHER_LABEL)
        for path in (files.ct, files.label):
            sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), orientation), str(path))
        whole, problems = inspect(files)
        assert problems == {}
        path = getattr(files, lost)
        rewrite(path, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        inspected, problems = inspect(files)
        assert severities(problems) == {"geometry_lost": "fixed"}
        np.testing.assert_array_equal(inspected.hu, whole.hu)
        np.testing.assert_array_equal(inspected.mask, whole.mask)
        assert inspected.ct.grid == whole.ct.grid
        assert inspected.ct.orientation == whole.ct.orientation


class TestBothLost:
    def test_lengths_that_nobody_knows_keep_a_case_out(self, write_case, inspect):
        files = write_case()
        rewrite(files.ct, body_hu())
        rewrite(files.label, liver_label())
        inspected, problems = inspect(files)
        assert inspected is None
        assert severities(problems)["identity_affine"] == "skipped"

    def test_two_conventions_of_the_identity_are_laid_over_by_index(self, write_case, inspect):
        files = write_case()
        rewrite(files.ct, body_hu())
        rewrite(files.label, liver_label(), direction=RAS)
        inspected, problems = inspect(files, identity_affine="warn", spacing_plausible="warn")
        assert severities(problems) == {
            "geometry_lost": "fixed",
            "identity_affine": "warning",
            "spacing_plausible": "warning",
            "liver_volume": "warning",
        }
        np.testing.assert_array_equal(inspected.mask, liver_label())


class TestWhichSide:
    CT = Grid((5, 6, 7), (2.5, 0.8, 0.7), ORIGIN)
    DEFAULT = Grid((5, 6, 7), (1.0, 1.0, 1.0))

    def test_two_geometries_of_their_own_are_both_believed(self):
        assert lost_side(self.CT, replace(self.CT, origin_xyz_mm=(1.0, 2.0, 3.0))) is None

    def test_what_has_defaults_alone_has_lost_it(self):
        assert lost_side(self.CT, self.DEFAULT) == "label"
        assert lost_side(self.DEFAULT, self.CT) == "ct"

    def test_two_files_in_one_frame_with_other_spacings_are_both_believed(self):
        ct = replace(self.CT, origin_xyz_mm=(0.0, 0.0, 0.0))
        other = Grid((6, 7, 8), (2.0, 0.7, 0.6))
        assert lost_side(ct, other) is None

    def test_a_turned_grid_at_zero_is_a_place(self):
        turned = (0.6, -0.8, 0.0, 0.8, 0.6, 0.0, 0.0, 0.0, 1.0)
        assert lost_side(self.CT, replace(self.DEFAULT, direction=turned)) is None
