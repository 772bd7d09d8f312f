"""A case held against all rules: what is told, what is mended, what stays out, what is liver."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from cache.grid import Grid
from conftest import BODY, CASE_SHAPE_ZYX, CASE_SPACING_XYZ_MM, LIVER, body_hu, liver_label
from stages.image_file import PHANTOM, write_image
from stages.phantom.make import make_phantom
from stages.phantom.write import write_phantom
from stages.preprocess.files import CaseFiles
from stages.preprocess.inspect import ct_to_predict, inspect_case
from stages.preprocess.ledger import Ledger, finding_of
from stages.preprocess.place import on_the_ct
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import Finding
from stages.preprocess.reading.read import read_ct, read_label

# of all other values, which the CT has outside the liver, -30 to 30 HU
ORGAN = (slice(4, 10), slice(11, 14), slice(5, 13))


@pytest.fixture
def inspect(rules):
    """Inspect a case under some policies; gives what passed, and severity by rule."""

    def run(files, liver_values="any", **policies):
        ledger = Ledger(files.case_id, rules(**policies))
        inspected = inspect_case(files, liver_values, ledger)
        return inspected, {problem.rule: problem.severity for problem in ledger.problems}

    return run


@pytest.fixture
def facts_of(rules):
    """What is found about a case: fact by rule."""

    def run(files, liver_values="any", **policies):
        ledger = Ledger(files.case_id, rules(**policies))
        inspect_case(files, liver_values, ledger)
        return {finding.rule: finding.fact for finding in ledger.findings}

    return run


def with_nan():
    ct = body_hu().astype(np.float32)
    ct[0, 0, :3] = np.nan
    return ct


def with_padding():
    ct = body_hu()
    ct[:, :2] = -3024
    return ct


def stored_by_a_scanner():
    """The case's CT with some bone, as HU + 1024 in uint16."""
    stored = body_hu() + 1024
    stored[6, 12, 8:11] = 1024 + 700
    return stored.astype(np.uint16)


def picture_of(hu):
    """A CT as an 8-bit picture of the window -160 to 240 HU."""
    return np.rint(np.clip((hu + 160) * (255 / 400), 0, 255)).astype(np.uint8)


def organs():
    """The liver as 6, an organ beside it as 1, in uint8."""
    label = 6 * liver_label()
    label[ORGAN] = 1
    return label


def named(files, names):
    return CaseFiles(files.case_id, files.patient_id, files.ct, files.label, names, files.root)


def rewrite_label(files, label, **how):
    """Write the label anew, on a grid of its own."""
    image = sitk.GetImageFromArray(label)
    image.SetSpacing(how.get("spacing_xyz_mm", CASE_SPACING_XYZ_MM))
    image.SetOrigin(how.get("origin_xyz_mm", (-11.0, 7.0, 23.0)))
    if "orientation" in how:  # turns the array and its geometry alike
        image = sitk.DICOMOrient(image, how["orientation"])
    sitk.WriteImage(image, str(files.label))
    return files


def turned_by(angle):
    """The direction of axes turned around the body's length, radians."""
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return (cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0)


class TestSound:
    def test_nothing_is_found_about_a_sound_case(self, write_case, inspect):
        inspected, severities = inspect(write_case())
        assert severities == {}
        np.testing.assert_array_equal(inspected.hu, body_hu())
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_the_mask_is_bytes_and_the_ct_int16(self, write_case, inspect):
        inspected, _ = inspect(write_case(label=liver_label().astype(np.float32) * 3))
        assert (inspected.hu.dtype, inspected.mask.dtype) == (np.int16, np.uint8)
        assert inspected.mask.max() == 1

    def test_the_volume_of_the_liver_is_that_of_its_voxels(self, write_case, inspect):
        inspected, _ = inspect(write_case())
        # 6·7·8 voxels less 3, of 9·10·11 mm
        assert inspected.liver_ml == pytest.approx(333 * 0.99)

    def test_a_sound_ct_and_its_label_are_both_turned_to_lps(self, write_case, inspect):
        flipped = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
        inspected, severities = inspect(write_case(direction=flipped))
        assert severities == {}
        np.testing.assert_array_equal(inspected.hu, body_hu()[:, ::-1, ::-1])
        np.testing.assert_array_equal(inspected.mask, liver_label()[:, ::-1, ::-1])


class TestPolicies:
    def test_nan_becomes_air_where_it_is_fixed(self, write_case, inspect):
        inspected, severities = inspect(write_case(ct=with_nan()), finite="fix")
        assert severities == {"finite": "fixed"}
        np.testing.assert_array_equal(inspected.hu[0, 0, :3], -1000)

    @pytest.mark.parametrize(("policy", "severity"), [("skip", "skipped"), ("error", "error")])
    def test_nan_keeps_a_case_out_otherwise(self, write_case, inspect, policy, severity):
        inspected, severities = inspect(write_case(ct=with_nan()), finite=policy)
        assert inspected is None
        assert severities == {"finite": severity}

    def test_infinite_voxels_cannot_be_fixed(self, write_case, inspect):
        ct = with_nan()
        ct[0, 0, 5] = np.inf
        inspected, severities = inspect(write_case(ct=ct), finite="fix")
        assert inspected is None
        assert severities == {"finite": "skipped"}

    def test_padding_becomes_air_where_it_is_fixed(self, write_case, inspect):
        inspected, severities = inspect(write_case(ct=with_padding()), padding="fix")
        assert severities == {"padding": "fixed"}
        np.testing.assert_array_equal(inspected.hu[:, :2], -1000)
        np.testing.assert_array_equal(inspected.hu[:, 2:], body_hu()[:, 2:])

    @pytest.mark.parametrize("policy", ["warn", "fix"])
    def test_a_case_with_padding_is_prepared_as_prediction_would_whatever_the_policy(
        self, write_case, inspect, policy
    ):
        files = write_case(ct=with_padding())
        inspected, severities = inspect(files, padding=policy)
        assert severities == {"padding": "warning" if policy == "warn" else "fixed"}
        np.testing.assert_array_equal(inspected.hu, ct_to_predict(files.ct)[1])

    @pytest.mark.parametrize(("policy", "severity"), [("skip", "skipped"), ("error", "error")])
    def test_padding_keeps_a_case_out_where_it_should(self, write_case, inspect, policy, severity):
        inspected, severities = inspect(write_case(ct=with_padding()), padding=policy)
        assert (inspected, severities) == (None, {"padding": severity})

    def test_an_8_bit_picture_of_a_ct_is_left_out_unless_it_is_asked_for(self, write_case, inspect):
        files = write_case(ct=picture_of(body_hu().astype(float)))
        assert inspect(files) == (None, {"not_hu": "skipped"})
        inspected, severities = inspect(files, not_hu="warn")
        assert severities == {"not_hu": "warning"}
        np.testing.assert_array_equal(inspected.hu, picture_of(body_hu().astype(float)))

    def test_a_label_over_what_is_no_liver_is_left_out_unless_it_is_asked_for(
        self, write_case, inspect
    ):
        lung = body_hu()
        lung[LIVER] = -850
        files = write_case(ct=lung)
        assert inspect(files) == (None, {"liver_hu": "skipped"})
        assert inspect(files, liver_hu="warn")[0] is not None

    def test_fractions_in_a_label_are_rounded_where_they_are_fixed(self, write_case, inspect):
        fractions = liver_label().astype(np.float32)
        fractions[LIVER] = np.where(fractions[LIVER] > 0, 0.75, 0.25)
        inspected, severities = inspect(write_case(label=fractions), label_integers="fix")
        assert severities == {"label_integers": "fixed"}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_fractions_in_a_label_keep_a_case_out_otherwise(self, write_case, inspect):
        files = write_case(label=liver_label() * np.float32(0.75))
        assert inspect(files, label_integers="skip") == (None, {"label_integers": "skipped"})

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_a_label_that_holds_no_numbers_is_left_out(self, write_case, inspect, bad):
        label = liver_label().astype(np.float32)
        label[0, 0, 0] = bad
        assert inspect(write_case(label=label)) == (None, {"label_integers": "skipped"})

    @pytest.mark.parametrize("policy", ["warn", "skip", "error"])
    def test_a_doubt_lets_pass_only_where_it_warns(self, write_case, inspect, policy):
        small = np.zeros(CASE_SHAPE_ZYX, np.uint8)
        small[5, 5, 6:10] = 1  # 4 ml
        inspected, severities = inspect(write_case(label=small), liver_volume=policy)
        assert list(severities) == ["liver_volume"]
        assert (inspected is not None) == (policy == "warn")

    def test_a_wrong_ending_is_told_and_the_case_prepared(self, write_case, inspect):
        files = write_case(ct_name="{id}/{id}.nii", format=".nii.gz")
        inspected, severities = inspect(files)
        assert severities == {"extension": "fixed"}
        assert inspected is not None

    def test_a_wrong_ending_keeps_a_case_out_where_it_should(self, write_case, inspect):
        files = write_case(ct_name="{id}/{id}.nii", format=".nii.gz")
        assert inspect(files, extension="skip") == (None, {"extension": "skipped"})

    def test_the_faults_of_both_files_are_told_in_one_pass(self, write_case, inspect):
        files = write_case(ct=with_nan(), label=np.zeros(CASE_SHAPE_ZYX, np.uint8))
        inspected, severities = inspect(files)
        assert inspected is None
        assert severities == {"finite": "skipped", "liver_empty": "skipped"}

    def test_a_label_is_looked_at_though_its_ct_cannot_be_read(self, write_case, inspect):
        files = write_case(label=np.zeros(CASE_SHAPE_ZYX, np.uint8))
        files.ct.write_bytes(files.ct.read_bytes()[:-200])
        inspected, severities = inspect(files)
        assert inspected is None
        assert severities == {"truncated": "skipped", "liver_empty": "skipped"}

    def test_a_ct_is_looked_at_though_its_label_cannot_be_read(self, write_case, inspect):
        files = write_case(ct=with_padding())
        files.label.write_bytes(b"hello")
        inspected, severities = inspect(files)
        assert inspected is None
        assert severities == {"readable": "skipped", "padding": "fixed"}

    def test_a_fault_met_while_reading_is_the_finding_of_its_rule(self, tmp_path):
        error = SourceError(tmp_path, "fact", "fix", rule="checksum")
        assert finding_of(error) == Finding("checksum", tmp_path, "fact", "fix", stops=True)

    def test_a_ledger_goes_on_after_a_step_that_fails(self, rules, tmp_path):
        def step():
            raise SourceError(tmp_path, "fact", "fix", rule="checksum")

        ledger = Ledger("1", rules(checksum="error"))
        assert ledger.attempt(step) is None
        assert ledger.attempt(lambda: 7) == 7
        assert [problem.severity for problem in ledger.problems] == ["error"]
        assert ledger.is_out


class TestGrids:
    @pytest.mark.parametrize("orientation", ["LPS", "RAI", "PSR", "SLA"])
    def test_a_label_of_half_the_spacing_is_brought_onto_the_cts_grid(
        self, write_case, inspect, orientation
    ):
        fine = liver_label()
        for axis in range(3):
            fine = np.repeat(fine, 2, axis)
        half = np.divide(CASE_SPACING_XYZ_MM, 2)
        first = np.subtract((-11.0, 7.0, 23.0), half / 2)  # the outer corners stay
        files = rewrite_label(
            write_case(),
            fine,
            spacing_xyz_mm=half.tolist(),
            origin_xyz_mm=first.tolist(),
            orientation=orientation,
        )
        inspected, severities = inspect(files)
        assert severities == {"label_grid": "fixed"}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    @pytest.mark.parametrize("orientation", ["RPS", "PSL", "IAR"])
    def test_a_label_with_its_axes_in_another_order_is_brought_onto_the_cts_grid(
        self, write_case, inspect, orientation
    ):
        files = rewrite_label(write_case(), liver_label(), orientation=orientation)
        inspected, severities = inspect(files)
        assert severities == {"label_grid": "fixed"}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_a_label_is_brought_onto_the_grid_of_a_turned_ct(self, write_case, inspect):
        ras = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
        files = write_case(direction=ras)
        label = sitk.DICOMOrient(sitk.ReadImage(str(files.label)), "SPL")
        sitk.WriteImage(label, str(files.label))
        inspected, severities = inspect(files)
        assert severities == {"label_grid": "fixed"}
        np.testing.assert_array_equal(inspected.mask, liver_label()[:, ::-1, ::-1])

    @pytest.mark.parametrize("turn", [1e-7, -1e-7])
    def test_a_label_on_the_cts_grid_is_turned_as_the_ct_is(self, write_case, inspect, turn):
        # at 45 degrees the letters of the axes change, and a float's last digits decide
        names = {"ct_name": "{id}.nrrd", "label_name": "{id}.nrrd"}
        files = write_case(label=(body_hu() > 70).astype(np.uint8), **names)
        image = sitk.ReadImage(str(files.label))
        image.SetDirection(turned_by(np.pi / 4 + turn))
        sitk.WriteImage(image, str(files.label))
        ct = sitk.ReadImage(str(files.ct))
        ct.SetDirection(turned_by(np.pi / 4 - turn))
        sitk.WriteImage(ct, str(files.ct))
        inspected, severities = inspect(files)
        assert severities == {}
        np.testing.assert_array_equal(inspected.mask > 0, inspected.hu > 70)

    def test_axes_that_span_no_space_are_a_fault_of_the_label(self, write_case, rules):
        files = write_case()
        ct, label = read_ct(files.ct), read_label(files.label, None)
        flat = Grid((5, 6, 7), (2.5, 0.8, 0.7), direction=(1, 0, 0, 1, 0, 0, 0, 0, 1))
        with pytest.raises(SourceError) as caught:
            on_the_ct(ct, replace(label, grid=flat), liver_label())
        assert (caught.value.where, caught.value.rule) == (files.label, "label_grid")

    def test_a_grid_that_the_memory_cannot_hold_is_no_fault_of_the_label(self, write_case):
        files = write_case()
        ct, label = read_ct(files.ct), read_label(files.label, None)
        huge = Grid((60_000, 60_001, 60_002), (0.001, 0.001, 0.001))
        with pytest.raises(MemoryError):
            on_the_ct(replace(ct, grid=huge), label, liver_label())

    def test_another_grid_keeps_a_case_out_where_it_should(self, write_case, inspect):
        files = rewrite_label(write_case(), liver_label(), orientation="RPS")
        assert inspect(files, label_grid="skip") == (None, {"label_grid": "skipped"})

    def test_no_finding_has_a_files_name_in_it(self, write_case, facts_of):
        files = write_case("Roe-Mallory")
        facts = [
            *facts_of(rewrite_label(files, liver_label(), orientation="RPS")).values(),
            *facts_of(
                rewrite_label(files, liver_label(), origin_xyz_mm=(-11.0, 7.0, 144.0))
            ).values(),
            *facts_of(
                rewrite_label(files, liver_label(), origin_xyz_mm=(-11.0, 7.0, 2000.0))
            ).values(),
        ]
        assert len(facts) == 4
        assert not [fact for fact in facts if "Roe" in fact]

    def test_a_label_partly_outside_the_ct_is_told_with_its_share(self, write_case, facts_of):
        # two of the fourteen slices' worth higher: z 4 to 9 becomes 10 to 15, two of six outside
        label = np.zeros(CASE_SHAPE_ZYX, np.uint8)
        label[LIVER] = 1
        files = rewrite_label(write_case(), label, origin_xyz_mm=(-11.0, 7.0, 23.0 + 6 * 11.0))
        fact = facts_of(files)["label_outside"]
        # 6·7·8 voxels of 0.99 ml, of which a third is lost
        assert fact == "33% of its liver (110.9 ml) lie outside the CT"

    def test_a_label_partly_outside_is_prepared_where_that_only_warns(self, write_case, inspect):
        label = np.zeros(CASE_SHAPE_ZYX, np.uint8)
        label[LIVER] = 1
        files = rewrite_label(write_case(), label, origin_xyz_mm=(-11.0, 7.0, 23.0 + 6 * 11.0))
        inspected, severities = inspect(files, liver_hu="warn")  # a part of it lies over air
        assert severities["label_outside"] == "warning"
        assert inspected.mask.sum() == 4 * 7 * 8
        assert inspect(files, label_outside="skip")[0] is None

    def test_a_liver_wholly_outside_the_ct_breaks_overlap(self, write_case, inspect):
        files = rewrite_label(write_case(), liver_label(), origin_xyz_mm=(-11.0, 7.0, 23.0 + 121))
        inspected, severities = inspect(files)
        assert inspected is None
        assert severities == {"label_grid": "fixed", "overlap": "skipped"}

    def test_grids_that_share_no_space_break_overlap_alone(self, write_case, inspect):
        files = rewrite_label(write_case(), liver_label(), origin_xyz_mm=(-11.0, 7.0, 2000.0))
        assert inspect(files) == (None, {"overlap": "skipped"})


class TestLiver:
    def test_any_value_above_zero_is_liver(self, write_case, inspect):
        label = liver_label()
        label[5] *= 2
        inspected, _ = inspect(write_case(label=label))
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_a_number_alone_is_liver(self, write_case, inspect):
        inspected, severities = inspect(write_case(label=organs()), [6])
        assert severities == {}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_several_numbers_are_liver_together(self, write_case, inspect):
        label = liver_label() * 6
        label[5] = np.where(label[5], 7, 0)
        inspected, _ = inspect(write_case(label=label), [6, 7])
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_a_name_of_the_data_set_is_its_values(self, write_case, inspect):
        names = {"background": (0,), "spleen": (1,), "liver": (6,)}
        inspected, severities = inspect(named(write_case(label=organs()), names), ["liver"])
        assert severities == {}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_a_name_may_stand_for_several_values(self, write_case, inspect):
        label = liver_label()
        label[5] *= 2
        files = named(write_case(label=label), {"liver": (1, 2)})
        np.testing.assert_array_equal(inspect(files, ["liver"])[0].mask, liver_label())

    def test_a_name_without_values_is_every_value_above_zero(self, write_case, inspect):
        label = liver_label() * 63
        label[5] *= 3
        files = named(write_case(label=label), {"liver": ()})
        np.testing.assert_array_equal(inspect(files, ["liver"])[0].mask, liver_label())

    @pytest.mark.parametrize("names", [None, {"spleen": (1,)}])
    def test_a_name_that_is_not_there_keeps_the_case_out(self, write_case, inspect, names):
        files = named(write_case(label=organs()), names)
        assert inspect(files, ["liver"]) == (None, {"label_names": "skipped"})

    def test_many_organs_taken_for_liver_keep_a_case_out(self, write_case, facts_of):
        label = organs()
        label[0, 0, :3] = [2, 3, 4]
        files = write_case(label=label)
        fact = facts_of(files)["many_values"]
        assert fact == "has 5 values above 0 (1, 2, 3, 4, 6), all taken for liver"
        assert "many_values" not in facts_of(files, [6])

    def test_a_value_that_lies_apart_from_the_liver_keeps_a_case_out(self, write_case, facts_of):
        label = liver_label()
        label[7:10, 13:, 14:16] = 2  # a spleen
        files = write_case(label=label)
        fact = "has 2 values above 0 (1, 2), all taken for liver, of which 2 lies apart"
        assert facts_of(files)["many_values"].startswith(fact)
        assert "many_values" not in facts_of(files, [1])

    @pytest.mark.parametrize(
        "lesion",
        [
            (slice(5, 7), slice(6, 8), slice(6, 9)),  # inside
            (slice(4, 6), slice(4, 6), slice(9, 12)),  # at its border
        ],
    )
    def test_lesions_without_a_name_touch_the_liver_and_are_liver(
        self, write_case, inspect, lesion
    ):
        label = liver_label()
        label[lesion][label[lesion] > 0] = 2
        inspected, severities = inspect(write_case(label=label))
        assert "many_values" not in severities
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_a_few_voxels_of_another_value_are_a_slip_and_no_organ(self, write_case, facts_of):
        label = liver_label()
        label[8, 15, 14] = 2
        assert "many_values" not in facts_of(write_case(label=label))

    def test_an_organ_that_the_data_set_names_is_never_liver_and_told(self, write_case, facts_of):
        files = named(write_case(label=organs()), {"spleen": (1,), "liver": (6,)})
        fact = facts_of(files)["other_organs"]
        assert fact.startswith("names spleen (144 voxels), which is not taken for liver")

    def test_with_any_value_the_liver_is_what_no_name_gives_to_another_organ(
        self, write_case, inspect
    ):
        files = named(write_case(label=organs()), {"spleen": (1,), "liver": (6,)})
        inspected, severities = inspect(files)
        assert severities == {"other_organs": "warning"}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    @pytest.mark.parametrize("other", ["arota", "postcava", "RAG", "class_1"])
    def test_beside_a_name_of_the_liver_an_unknown_name_is_not_liver_and_told(
        self, write_case, inspect, facts_of, other
    ):
        files = named(write_case(label=organs()), {other: (1,), "liver": (6,)})
        inspected, severities = inspect(files)
        assert severities == {"other_organs": "warning"}
        np.testing.assert_array_equal(inspected.mask, liver_label())
        assert f"names {other} (144 voxels)" in facts_of(files)["other_organs"]

    @pytest.mark.parametrize("part", ["tumor", "Haemangioma", "GTV", "parenchyma", "FNH"])
    def test_beside_a_name_of_the_liver_what_lies_in_one_is_liver(self, write_case, inspect, part):
        files = named(write_case(label=organs()), {part: (1,), "liver": (6,)})
        inspected, severities = inspect(files)
        assert severities == {}
        assert inspected.mask.sum() == (organs() > 0).sum()

    def test_a_value_that_the_data_set_does_not_declare_is_told_and_never_liver(
        self, write_case, inspect
    ):
        files = named(write_case(label=organs()), {"background": (0,), "liver": (6,)})
        inspected, severities = inspect(files)
        assert severities == {"label_values": "warning"}
        np.testing.assert_array_equal(inspected.mask, liver_label())
        asked_for, _ = inspect(files, [1, 6])
        assert asked_for.mask.sum() == (organs() > 0).sum()

    def test_255_beside_other_values_is_told_and_never_liver_unless_asked_for(
        self, write_case, inspect
    ):
        label = liver_label()
        label[ORGAN] = 255
        inspected, severities = inspect(write_case(label=label))
        assert severities == {"label_values": "warning"}
        np.testing.assert_array_equal(inspected.mask, liver_label())
        asked_for, _ = inspect(write_case(label=label), [1, 255])
        assert asked_for.mask.sum() == (label > 0).sum()

    def test_255_is_liver_where_it_is_the_only_value(self, write_case, inspect):
        inspected, severities = inspect(write_case(label=255 * liver_label()))
        assert severities == {}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    @pytest.mark.parametrize("wanted", ["any", [1, 6], ["liver"], ["liver", "ignore"]])
    def test_voxels_to_ignore_keep_a_case_out_or_are_background_but_never_liver(
        self, write_case, inspect, wanted
    ):
        files = named(write_case(label=organs()), {"liver": (6,), "ignore": (1,)})
        assert inspect(files, wanted) == (None, {"ignore_label": "skipped"})
        inspected, severities = inspect(files, wanted, ignore_label="warn")
        assert severities == {"ignore_label": "warning"}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_an_ignore_label_that_does_not_occur_is_no_matter(self, write_case, inspect):
        files = named(write_case(label=organs()), {"spleen": (1,), "liver": (6,), "ignore": (2,)})
        assert inspect(files, ["liver"])[1] == {}

    def test_no_liver_among_the_values_wanted_is_told_with_those_there(self, write_case, facts_of):
        fact = facts_of(write_case(label=organs()), [9])["liver_empty"]
        assert fact == "has no liver: no value among 9 (its values: 0, 1, 6)"

    def test_a_label_over_another_organ_is_told_by_its_density(self, write_case, facts_of):
        lung = body_hu()
        lung[LIVER] = -850
        facts = facts_of(write_case(ct=lung))
        assert facts == {
            "liver_hu": "half of its voxels are below -850 HU; -30 to 300 HU are plausible"
        }

    @pytest.fixture
    def segmentation(self, write_case, tmp_path):
        """A case whose label is a segmentation in two layers, liver and tumour apart."""
        files = write_case()
        layers = np.zeros((*CASE_SHAPE_ZYX, 2), np.uint8)
        layers[..., 0] = liver_label()
        layers[..., 0][ORGAN] = 2
        layers[6, 6:8, 12:14, 1] = 1  # reaches one voxel beyond the liver
        image = sitk.GetImageFromArray(layers, isVector=True)
        image.SetSpacing(CASE_SPACING_XYZ_MM)
        image.SetOrigin((-11.0, 7.0, 23.0))
        segments = [("liver", "1", "0"), ("spleen", "2", "0"), ("tumour", "1", "1")]
        for number, fields in enumerate(segments):
            for key, value in zip(("Name", "LabelValue", "Layer"), fields, strict=True):
                image.SetMetaData(f"Segment{number}_{key}", value)
        path = tmp_path / "case.seg.nrrd"
        sitk.WriteImage(image, str(path))
        return CaseFiles("1", "1", files.ct, path, None, files.root)

    def test_a_structure_in_layers_is_chosen_by_its_name(self, segmentation, inspect):
        inspected, severities = inspect(segmentation, ["liver"])
        assert severities == {}
        np.testing.assert_array_equal(inspected.mask, liver_label())

    def test_structures_in_several_layers_are_joined(self, segmentation, inspect):
        expected = liver_label()
        expected[6, 6:8, 12:14] = 1
        inspected, _ = inspect(segmentation, ["liver", "tumour"])
        np.testing.assert_array_equal(inspected.mask, expected)

    def test_segments_of_one_name_are_joined(self, segmentation, inspect):
        image = sitk.ReadImage(str(segmentation.label))
        image.SetMetaData("Segment2_Name", "liver")
        sitk.WriteImage(image, str(segmentation.label))
        expected = liver_label()
        expected[6, 6:8, 12:14] = 1
        np.testing.assert_array_equal(inspect(segmentation, ["liver"])[0].mask, expected)

    def test_any_takes_all_structures_of_all_layers_but_other_organs(self, segmentation, inspect):
        expected = liver_label()
        expected[6, 6:8, 12:14] = 1
        inspected, severities = inspect(segmentation, "any")
        assert severities == {"other_organs": "warning"}
        np.testing.assert_array_equal(inspected.mask, expected)

    def test_a_number_is_looked_for_in_every_layer(self, segmentation, inspect):
        expected = np.zeros(CASE_SHAPE_ZYX, np.uint8)
        expected[ORGAN] = 1
        # mirrored, it would lie in the liver
        inspected, _ = inspect(segmentation, [2], liver_turned="warn")
        np.testing.assert_array_equal(inspected.mask, expected)

    def test_the_files_own_names_come_before_the_data_sets(self, segmentation, inspect):
        files = named(segmentation, {"liver": (2,)})
        np.testing.assert_array_equal(inspect(files, ["liver"])[0].mask, liver_label())


class TestCounts:
    @pytest.fixture
    def counts_of(self, rules):
        """Every value of a case's label as it goes to problems.json."""

        def run(files, liver_values="any"):
            ledger = Ledger(files.case_id, rules())
            inspect_case(files, liver_values, ledger)
            return ledger.label_counts

        return run

    def test_every_value_is_counted_in_voxels_and_millilitres(self, write_case, counts_of):
        files = named(write_case(label=organs()), {"liver": (6,)})
        counts = counts_of(files)
        assert [(one["value"], one["name"], one["use"]) for one in counts] == [
            (0, "", "background"),
            (1, "", "undeclared"),
            (6, "liver", "liver"),
        ]
        assert [one["voxels"] for one in counts] == [14 * 18 * 20 - 144 - 333, 144, 333]
        # of 9·10·11 mm
        assert counts[2]["ml"] == pytest.approx(333 * 0.99)

    def test_the_values_of_a_case_that_is_left_out_are_counted_too(self, write_case, counts_of):
        counts = counts_of(write_case(label=organs()), [9])
        assert [(one["value"], one["use"]) for one in counts] == [
            (0, "background"),
            (1, "other"),
            (6, "other"),
        ]

    def test_a_label_that_lost_its_geometry_is_counted_in_the_cts_millilitres(
        self, write_case, counts_of
    ):
        lost = {"spacing_xyz_mm": (1.0, 1.0, 1.0), "origin_xyz_mm": (0.0, 0.0, 0.0)}
        counts = counts_of(rewrite_label(write_case(), liver_label(), **lost))
        assert counts[1]["ml"] == pytest.approx(333 * 0.99)

    def test_lengths_that_nobody_knows_give_no_millilitres(self, write_case, counts_of):
        lost = {"spacing_xyz_mm": (1.0, 1.0, 1.0), "origin_xyz_mm": (0.0, 0.0, 0.0)}
        counts = counts_of(rewrite_label(write_case(), liver_label()[1:], **lost))
        assert [one["ml"] for one in counts] == [None, None]


class TestPhantoms:
    """They are known by what their headers say, in CT and label."""

    @pytest.fixture
    def small(self, write_case):
        """A case of 7 ml of liver in 32 mm of a patient, whose files carry these notes."""

        def write(ct_note, label_note, hu=None):
            files = write_case(spacing_xyz_mm=(2.5, 2.8, 3.0))
            volumes = ((body_hu() if hu is None else hu, ct_note), (liver_label(), label_note))
            for path, (voxels, note) in zip((files.ct, files.label), volumes, strict=True):
                write_image(path, voxels, Grid(CASE_SHAPE_ZYX, (3.0, 2.8, 2.5)), note=note)
            return files

        return write

    def test_sizes_of_a_phantom_are_not_held_against_a_patients(self, small, inspect):
        assert inspect(small(PHANTOM, PHANTOM))[1] == {}

    @pytest.mark.parametrize("notes", [("", ""), (PHANTOM, ""), ("", PHANTOM), ("made", "made")])
    def test_those_of_any_other_case_are(self, small, inspect, notes):
        found = {"spacing_plausible": "warning", "liver_volume": "warning"}
        assert inspect(small(*notes))[1] == found

    def test_a_phantom_whose_values_are_no_hu_is_left_out_as_any_ct(self, small, inspect):
        files = small(PHANTOM, PHANTOM, hu=picture_of(body_hu().astype(float)))
        assert inspect(files) == (None, {"not_hu": "skipped"})

    def test_the_files_of_a_phantom_say_what_they_are(self, tmp_path):
        phantom = make_phantom(0, 0, shape_zyx=(16, 16, 17))
        write_phantom(tmp_path, "p", phantom=phantom)
        assert read_ct(tmp_path / "image/p/p.nii.gz").is_synthetic
        assert read_label(tmp_path / "label/p/p.nii.gz", None).is_synthetic


class TestPredicting:
    def test_a_sound_ct_is_taken_as_it_is(self, write_case):
        source, hu, doubts = ct_to_predict(write_case().ct)
        np.testing.assert_array_equal(hu, body_hu())
        assert source.orientation == "LPS"
        assert doubts == []

    def test_padding_and_nan_become_air(self, write_case):
        ct = with_padding().astype(np.float32)
        ct[0, 5, :3] = np.nan
        _, hu, _ = ct_to_predict(write_case(ct=ct).ct)
        np.testing.assert_array_equal(hu[:, :2], -1000)
        np.testing.assert_array_equal(hu[0, 5, :3], -1000)

    def test_a_ct_with_infinite_voxels_is_refused(self, write_case):
        ct = with_nan()
        ct[0, 0, 5] = np.inf
        with pytest.raises(SourceError) as caught:
            ct_to_predict(write_case(ct=ct).ct)
        assert caught.value.rule == "finite"

    def test_a_ct_without_air_is_doubted(self, write_case):
        cropped = np.maximum(body_hu(), -500)
        cropped[0, 0, 0] = 300
        _, _, doubts = ct_to_predict(write_case(ct=cropped).ct)
        assert [doubt.rule for doubt in doubts] == ["hu_range"]

    def test_values_that_are_no_hounsfield_units_are_doubted_and_stay(self, write_case):
        stored = np.zeros(CASE_SHAPE_ZYX, np.int16)
        stored[BODY] = 1064
        _, hu, doubts = ct_to_predict(write_case(ct=stored).ct)
        assert [doubt.rule for doubt in doubts] == ["not_hu"]
        np.testing.assert_array_equal(hu, stored)

    def test_a_ct_whose_intercept_was_lost_is_mended_as_for_training(self, write_case, inspect):
        files = write_case(ct=stored_by_a_scanner())
        inspected, severities = inspect(files)
        assert severities == {"not_hu": "fixed"}
        _, hu, doubts = ct_to_predict(files.ct)
        assert [doubt.rule for doubt in doubts] == ["not_hu"]
        np.testing.assert_array_equal(hu, inspected.hu)
        np.testing.assert_array_equal(hu, stored_by_a_scanner().astype(int) - 1024)

    @pytest.mark.parametrize("lenient", ["fix", "warn"])
    @pytest.mark.parametrize("shift", [0, 1024])
    def test_no_policy_makes_a_prepared_ct_another_than_prediction_sees(
        self, write_case, inspect, rules, lenient, shift
    ):
        ct = (stored_by_a_scanner().astype(np.float32) - 1024) + shift
        ct[:, :2] = -2000
        if not shift:
            ct[0, 5, :3] = np.nan
        allowed = {name: get_args(one.annotation) for name, one in RulesParams.model_fields.items()}
        order = [lenient, "fix", "warn", "skip"]
        policies = {
            name: next(one for one in order if one in choices) for name, choices in allowed.items()
        }
        files = write_case(ct=ct)
        inspected, _ = inspect(files, **policies)
        np.testing.assert_array_equal(inspected.hu, ct_to_predict(files.ct)[1])

    def test_a_shifted_ct_is_mended_also_where_that_is_only_warned_of(self, write_case, inspect):
        inspected, severities = inspect(write_case(ct=stored_by_a_scanner()), not_hu="warn")
        assert severities == {"not_hu": "warning"}
        np.testing.assert_array_equal(inspected.hu, stored_by_a_scanner().astype(int) - 1024)

    def test_an_odd_header_is_doubted(self, write_case):
        _, _, doubts = ct_to_predict(write_case(spacing_xyz_mm=(9.0, 10.0, 21.0)).ct)
        assert [doubt.rule for doubt in doubts] == ["spacing_plausible"]

    def test_a_file_that_cannot_be_read_is_refused(self, tmp_path):
        (tmp_path / "ct.nii.gz").write_bytes(b"hello")
        with pytest.raises(SourceError, match="cannot be read"):
            ct_to_predict(tmp_path / "ct.nii.gz")
