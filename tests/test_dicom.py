"""Folders of DICOM slices and of PNG images: which belong together, their order, what is refused.

The slices are real files, with a patient's name, id, birth date and UIDs in them.
"""

import contextlib

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from cache.errors import SourceError
from cache.grid import Grid
from stages.preprocess.inspect import ct_to_predict
from stages.preprocess.reading.dicom import choose_series
from stages.preprocess.reading.png import png_files
from stages.preprocess.reading.read import as_hu, read_ct, read_label

ROOT_UID = "1.2.826.0.1.3680043.10.1234"
SERIES_UID = f"{ROOT_UID}.77"
PATIENT = {"PatientName": "Roe^Mallory", "PatientID": "HOSP-4711", "PatientBirthDate": "19540321"}
SECRETS = ("Roe", "Mallory", "HOSP-4711", "19540321", ROOT_UID)
SHAPE_ZYX = (5, 6, 7)
FIRST_XYZ_MM = (-11.0, 7.0, 23.0)
SPACING_XYZ_MM = (0.7, 0.8, 2.5)
NAMES = ("e", "IM10", "b", "IM9", "a")  # of the slices from the feet upwards: in no order
CT_GRID = Grid(SHAPE_ZYX, SPACING_XYZ_MM[::-1], FIRST_XYZ_MM)


def counted(shape_zyx=SHAPE_ZYX):
    """HU as (Z, Y, X) int16, -1000 and upwards, each voxel with a value of its own."""
    return np.arange(np.prod(shape_zyx), dtype=np.int16).reshape(shape_zyx) * 3 - 1000


def positions(count=5, step_xyz_mm=(0.0, 0.0, 2.5)):
    return [np.add(FIRST_XYZ_MM, np.multiply(step_xyz_mm, index)) for index in range(count)]


def write_slice(path, hu, position_xyz_mm, *, syntax=ExplicitVRLittleEndian, without=(), **tags):
    """Write one slice, (Y, X) HU, stored less the intercept: 1024 higher, as scanners do."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.{sum(path.name.encode())}"
    meta.TransferSyntaxUID = syntax
    data = Dataset()
    data.file_meta = meta
    fields = {
        **PATIENT,
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "StudyInstanceUID": f"{ROOT_UID}.5",
        "SeriesInstanceUID": SERIES_UID,
        "SeriesNumber": 3,
        "Modality": "CT",
        "ImagePositionPatient": [round(float(mm), 4) for mm in position_xyz_mm],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [SPACING_XYZ_MM[1], SPACING_XYZ_MM[0]],  # rows apart, columns apart
        "Rows": hu.shape[0],
        "Columns": hu.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        **tags,
    }
    fields["PixelData"] = (hu - fields["RescaleIntercept"]).astype("<i2").tobytes()
    for name, value in fields.items():
        if name not in without:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)


def series_writer(tmp_path):
    """Writes a series into a folder and gives the folder. By default five slices, feet first."""

    def write(hu=None, places=None, *, folder="series", names=NAMES, **tags):
        hu = counted() if hu is None else hu
        places = positions(len(hu)) if places is None else places
        for name, image, place in zip(names, hu, places, strict=True):
            write_slice(tmp_path / folder / name, image, place, **tags)
        return tmp_path / folder

    return write


@pytest.fixture
def write_series(tmp_path):
    """Write a series into a folder; gives the folder."""
    return series_writer(tmp_path)


@pytest.fixture
def write_pictures(tmp_path):
    """Write a label as PNG images, head first, into a folder; gives the folder."""

    def write(images, *, names="{}.png"):
        (tmp_path / "Ground").mkdir()
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / "Ground" / names.format(number))
        return tmp_path / "Ground"

    return write


def rules_of(volume):
    return [finding.rule for finding in volume.findings if finding.rule != "spacing_plausible"]


def finding(volume, rule):
    (found,) = [one for one in volume.findings if one.rule == rule]
    return found


def refusal(read, *args):
    with pytest.raises(SourceError) as caught:
        read(*args)
    return caught.value


def replace_bytes(path, before, after):
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))


class TestOneSeries:
    def test_voxels_are_hounsfield_units_after_slope_and_intercept(self, write_series):
        volume = read_ct(write_series())
        np.testing.assert_array_equal(as_hu(volume), counted())

    def test_the_rescale_slope_of_a_series_is_applied_too(self, write_series):
        # stored 24, 27, … times 2 minus 1024
        volume = read_ct(write_series(RescaleSlope=2))
        np.testing.assert_array_equal(as_hu(volume), (counted() + 1024) * 2 - 1024)

    def test_slices_stand_by_position_whatever_their_names(self, write_series):
        one = as_hu(read_ct(write_series(names=NAMES, folder="one")))
        other = as_hu(read_ct(write_series(names=NAMES[::-1], folder="other")))
        np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(one[0], counted()[0])

    def test_the_grid_is_that_of_the_headers(self, write_series):
        volume = read_ct(write_series())
        assert volume.grid.shape_zyx == (5, 6, 7)
        assert volume.grid.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))
        assert volume.grid.origin_xyz_mm == pytest.approx(FIRST_XYZ_MM)
        assert volume.orientation == "LPS"
        assert rules_of(volume) == []

    def test_a_coronal_series_is_turned(self, write_series):
        # rows run to the left, columns to the feet, slices to the back
        coronal = {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}
        volume = read_ct(write_series(places=positions(step_xyz_mm=(0, 2.5, 0)), **coronal))
        assert volume.orientation == "LIP"
        # stacked from front to back: (slice, column downwards, row) is (y, z reversed, x)
        np.testing.assert_array_equal(as_hu(volume), counted().transpose(1, 0, 2)[::-1])

    @pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
    def test_a_series_in_another_transfer_syntax_is_read(self, write_series, syntax):
        volume = read_ct(write_series(syntax=syntax))
        np.testing.assert_array_equal(as_hu(volume), counted())

    def test_slices_may_lie_in_folders_below(self, write_series):
        names = ("a/1", "a/2", "b/1", "b/2", "3")
        np.testing.assert_array_equal(as_hu(read_ct(write_series(names=names))), counted())

    def test_a_label_has_its_values(self, write_series):
        label = np.zeros(SHAPE_ZYX, np.int16)
        label[1:3, 2:5, 3:6] = 255
        volume = read_label(write_series(label, RescaleIntercept=0, Modality="SEG"), None)
        np.testing.assert_array_equal(volume.array, label)
        assert volume.grid.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))


class TestWhatElseLiesThere:
    def test_of_two_series_the_one_with_more_slices_is_read(self, write_series):
        short = {"SeriesInstanceUID": f"{SERIES_UID}.1", "SeriesNumber": 9}
        write_series(counted()[:2] + 7, names=("y", "z"), **short)
        volume = read_ct(write_series())
        np.testing.assert_array_equal(as_hu(volume), counted())

    def test_the_other_series_is_told_by_number_and_count(self, write_series):
        short = {"SeriesInstanceUID": f"{SERIES_UID}.1", "SeriesNumber": 9}
        write_series(counted()[:2], names=("y", "z"), **short)
        fact = finding(read_ct(write_series()), "other_files").fact
        assert fact == "2 files: another series (number 9, CT)"

    def test_files_beside_a_series_are_counted_and_not_named(self, write_series):
        mr = {"SeriesInstanceUID": f"{SERIES_UID}.1", "SeriesNumber": 2, "Modality": "MR"}
        write_series(names="rstuv", **mr)
        fact = finding(read_ct(write_series()), "other_files").fact
        assert fact == "5 files: another series (number 2, MR)"

    def test_a_localizer_with_the_same_uid_is_left_aside(self, write_series):
        sagittal = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]}
        write_series(counted()[:1], names=("scout",), **sagittal)
        volume = read_ct(write_series())
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert finding(volume, "other_files").fact.startswith("1 file: another series")

    def test_images_of_another_size_with_the_same_uid_are_left_aside(self, write_series):
        write_series(counted((2, 9, 8)), names=("y", "z"))
        assert read_ct(write_series()).grid.shape_zyx == SHAPE_ZYX

    def test_files_that_are_no_dicom_are_told(self, write_series):
        folder = write_series()
        (folder / "readme.txt").write_text("hello")
        volume = read_ct(folder)
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert finding(volume, "other_files").fact == "1 file: no DICOM file"

    def test_a_table_of_contents_is_no_slice(self, write_series):
        folder = write_series()
        contents = Dataset()
        contents.file_meta = FileMetaDataset()
        contents.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        contents.file_meta.MediaStorageSOPInstanceUID = f"{ROOT_UID}.1"
        contents.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        contents.save_as(folder / "DICOMDIR", enforce_file_format=True)
        assert (
            finding(read_ct(folder), "other_files").fact == "1 file: a table of contents (DICOMDIR)"
        )

    def test_mr_alone_is_refused_as_a_ct(self, write_series):
        error = refusal(read_ct, write_series(Modality="MR"))
        assert error.fact == "holds no CT series; it has MR (5 files)"

    def test_mr_may_be_a_label(self, write_series):
        assert read_label(write_series(Modality="MR"), None).grid.shape_zyx == SHAPE_ZYX

    def test_a_folder_without_dicom_is_refused(self, tmp_path):
        (tmp_path / "notes.txt").write_text("hello")
        assert "it has no DICOM file" in refusal(read_ct, tmp_path).fact


class TestSlices:
    def test_a_missing_slice_is_found(self, write_series):
        there = [0, 1, 3, 4]
        places = [positions()[index] for index in there]
        volume = read_ct(write_series(counted()[there], places, names=NAMES[:4]))
        fact = finding(volume, "dicom_gaps").fact
        assert "2.500 mm apart, but 5.000 mm between 25.500 and 30.500 mm" in fact
        assert "1 of 3 distances differ" in fact

    def test_the_same_slice_twice_is_dropped(self, write_series):
        folder = write_series()
        write_slice(folder / "again", counted()[2], positions()[2])
        volume = read_ct(folder)
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert rules_of(volume) == ["dicom_repeats"]
        assert finding(volume, "dicom_repeats").fixable

    def test_another_slice_at_one_place_is_told_and_one_of_them_read(self, write_series):
        folder = write_series()
        write_slice(folder / "zz-phase-2", counted()[2] + 50, positions()[2])
        volume = read_ct(folder)
        np.testing.assert_array_equal(as_hu(volume), counted())
        repeats = finding(volume, "dicom_repeats")
        assert not repeats.fixable
        assert repeats.fact.startswith("1 slices lie where there is another one, with other voxels")

    def test_two_phases_in_one_folder_are_not_mixed_into_a_ct_to_predict(self, write_series):
        folder = write_series()
        write_slice(folder / "zz-phase-2", counted()[2] + 50, positions()[2])
        with pytest.raises(SourceError, match="with other voxels"):
            ct_to_predict(folder)

    def test_a_tilted_gantry_breaks_the_direction(self, write_series):
        # 1.443 = 2.5 tan 30 degrees
        places = positions(step_xyz_mm=(0.0, 1.4434, 2.5))
        volume = read_ct(write_series(places=places))
        assert "stacked at 30.0 degrees" in finding(volume, "direction").fact

    def test_one_slice_is_a_series(self, write_series):
        volume = read_ct(write_series(counted()[:1], names=("a",), SliceThickness=4))
        assert volume.grid.shape_zyx == (1, 6, 7)


class TestDamage:
    @pytest.mark.parametrize("missing", [1, 10, 60])
    def test_a_slice_cut_within_its_voxels_is_named_with_its_bytes(self, write_series, missing):
        folder = write_series()
        path = folder / "b"
        whole = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-missing])
        error = refusal(read_ct, folder)
        assert (error.rule, error.where) == ("truncated", path)
        assert error.fact == f"ends early: {whole - missing:,} of {whole:,} bytes are there"

    def test_a_slice_cut_within_its_header_is_named(self, write_series):
        folder = write_series()
        (folder / "a").write_bytes((folder / "a").read_bytes()[:400])
        error = refusal(read_ct, folder)
        assert (error.rule, error.where) == ("truncated", folder / "a")

    def test_several_frames_in_one_file_are_refused(self, tmp_path):
        frames = counted()[:3].reshape(-1, 7)
        write_slice(tmp_path / "ct", frames, FIRST_XYZ_MM, Rows=6, NumberOfFrames=3)
        assert "several frames" in refusal(read_ct, tmp_path).fact

    @pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient"])
    def test_a_slice_without_position_or_orientation_is_refused(self, write_series, tag):
        error = refusal(read_ct, write_series(without=(tag,)))
        assert "states no position and orientation" in error.fact

    @pytest.mark.parametrize("spacing", [[0, 0], [-0.8, 0.7], [0.8, 0]])
    def test_a_pixel_spacing_no_scan_has_is_refused(self, write_series, spacing):
        assert refusal(read_ct, write_series(PixelSpacing=spacing)).rule == "spacing_positive"

    def test_a_slice_without_pixel_spacing_is_refused(self, write_series):
        error = refusal(read_ct, write_series(without=("PixelSpacing",)))
        assert (error.rule, error.fact) == ("spacing_positive", "states no pixel spacing")

    @pytest.mark.parametrize(
        ("before", "after"),
        [(b"-11.0\\7.0\\23.0", b"-1x.0\\7.0\\23.0"), (b"1.0\\0.0\\0.0", b"1.x\\0.0\\0.0")],
    )
    def test_a_position_or_direction_that_is_no_number_is_refused(
        self, write_series, before, after
    ):
        folder = write_series()
        replace_bytes(folder / NAMES[0], before, after)
        assert refusal(read_ct, folder).where == folder / NAMES[0]

    def test_an_encoding_nobody_knows_is_refused(self, write_series):
        folder = write_series()
        for path in folder.iterdir():
            replace_bytes(path, b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.9.9.9\0")
        assert refusal(read_ct, folder).rule == "readable"

    def test_a_slice_with_a_damaged_type_of_value_is_refused(self, write_series):
        folder = write_series()
        replace_bytes(folder / "a", b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00\x00\x07")
        error = refusal(read_ct, folder)
        assert (error.rule, error.where) == ("readable", folder / "a")

    @pytest.mark.parametrize("damage", [lambda b: b[:-40], lambda b: b[:-60] + b"\xff" * 60])
    def test_a_damaged_deflated_slice_is_refused(self, write_series, damage):
        folder = write_series(syntax=DeflatedExplicitVRLittleEndian)
        (folder / "a").write_bytes(damage((folder / "a").read_bytes()))
        assert refusal(read_ct, folder).where == folder / "a"

    @pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom's, of what it finds
    def test_any_three_bytes_of_a_slice_may_be_damaged(self, write_series):
        folder = write_series(counted()[:1], names=("a",), SliceThickness=4)
        whole, rng = (folder / "a").read_bytes(), np.random.default_rng(7)
        for _ in range(150):
            damaged = bytearray(whole)
            for at in rng.integers(132, len(whole), 3):
                damaged[at] = rng.integers(256)
            (folder / "a").write_bytes(damaged)
            with contextlib.suppress(SourceError):
                choose_series(folder, is_ct=True)

    def test_a_label_in_colour_is_refused(self, write_series):
        wide = np.zeros((5, 6, 21), np.int16)  # three numbers a voxel
        colour = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "Columns": 7}
        folder = write_series(wide, RescaleIntercept=0, PlanarConfiguration=0, **colour)
        assert refusal(read_label, folder, None).rule == "plain_numbers"


class TestPrivacy:
    def told(self, folder):
        """All that reading says of a folder."""
        try:
            volume = read_ct(folder)
        except SourceError as error:
            return repr(error) + str(error)
        return repr([volume.findings, volume.names, volume.grid])

    def test_the_files_do_hold_the_patient(self, write_series):
        held = str(dcmread(write_series() / "a"))
        assert all(secret in held for secret in SECRETS)

    @pytest.mark.parametrize(
        "how",
        [
            {},
            {"Modality": "MR"},
            {"NumberOfFrames": 1, "places": positions(step_xyz_mm=(0, 1.5, 2.5))},
            {"places": [*positions()[:4], positions()[3]]},
            {"without": ("ImagePositionPatient",)},
            {"without": ("Rows",)},
            {"PixelSpacing": [0, 0]},
            {"BitsAllocated": 12},
        ],
        ids=["whole", "mr", "tilt", "repeat", "no-position", "no-rows", "no-spacing", "odd-bits"],
    )
    def test_nothing_of_the_patient_is_told(self, write_series, how):
        other = {"SeriesInstanceUID": f"{SERIES_UID}.1", "Modality": "PT"}
        write_series(counted()[:2], names=("y", "z"), **other)
        told = self.told(write_series(**how))
        assert "series" in told
        assert [secret for secret in SECRETS if secret in told] == []

    def test_a_cut_slice_tells_nothing_of_the_patient(self, write_series):
        folder = write_series()
        (folder / "a").write_bytes((folder / "a").read_bytes()[:-20])
        told = self.told(folder)
        assert "ends early" in told
        assert [secret for secret in SECRETS if secret in told] == []

    def test_an_odd_uid_is_not_quoted_in_warnings(self, write_series, recwarn, caplog):
        folder = write_series()
        for path in folder.iterdir():
            replace_bytes(path, SERIES_UID.encode(), SERIES_UID.replace("77", "7x").encode())
        recwarn.clear()
        caplog.clear()
        read_ct(folder)
        said = [str(warning.message) for warning in recwarn] + [caplog.text]
        assert [secret for secret in SECRETS if secret in "".join(said)] == []


class TestPictures:
    def label(self):
        """A label (Z, Y, X) uint8 of 0 and 255, another in every slice."""
        label = np.zeros(SHAPE_ZYX, np.uint8)
        for z in range(5):
            label[z, 1 : 2 + z, 2:4] = 255
        return label

    def test_images_run_from_head_to_feet(self, write_pictures):
        volume = read_label(write_pictures(self.label()[::-1]), CT_GRID)
        np.testing.assert_array_equal(volume.array, self.label())
        assert (volume.grid, volume.orientation) == (CT_GRID, "LPS")

    def test_images_of_a_label_run_from_head_to_feet_where_the_ct_begins_at_the_head_too(
        self, write_pictures
    ):
        downwards = (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)
        grid = Grid(SHAPE_ZYX, (2.5, 0.8, 0.7), FIRST_XYZ_MM, downwards)
        volume = read_label(write_pictures(self.label()[::-1]), grid)
        # turned to LPS: the feet come first, and rows run from front to back
        np.testing.assert_array_equal(volume.array, self.label()[:, ::-1])

    def test_image_two_of_a_label_comes_before_image_ten(self, tmp_path):
        for name in ("s10.png", "s2.png", "s1.png"):
            (tmp_path / name).touch()
        assert [path.name for path in png_files(tmp_path)] == ["s1.png", "s2.png", "s10.png"]

    def test_what_macos_leaves_beside_images_is_none(self, write_pictures):
        folder = write_pictures(self.label()[::-1])
        (folder / "._1.png").write_bytes(b"\0\5\x16\7")
        np.testing.assert_array_equal(read_label(folder, CT_GRID).array, self.label())

    def test_another_number_of_images_than_slices_is_refused(self, write_pictures):
        error = refusal(read_label, write_pictures(self.label()[:4]), CT_GRID)
        assert (error.rule, error.fact) == ("label_grid", "holds 4 images, but the CT has 5 slices")

    def test_an_image_of_another_size_is_refused_by_name(self, write_pictures):
        images = [*self.label()[:4], np.zeros((7, 6), np.uint8)]
        folder = write_pictures(images)
        error = refusal(read_label, folder, CT_GRID)
        assert (error.rule, error.where) == ("label_grid", folder / "4.png")
        assert error.fact == "has 6·7 pixels, the CT 7·6"

    def test_a_colour_image_is_refused(self, write_pictures):
        folder = write_pictures([*self.label()[:4], np.zeros((6, 7, 3), np.uint8)])
        error = refusal(read_label, folder, CT_GRID)
        assert (error.rule, error.where) == ("plain_numbers", folder / "4.png")

    def test_images_of_one_bit_are_zero_and_one(self, write_pictures):
        volume = read_label(write_pictures(self.label()[::-1] > 0), CT_GRID)
        np.testing.assert_array_equal(volume.array, self.label() // 255)
        assert volume.array.dtype == np.uint8

    def test_values_beyond_a_byte_do_not_wrap(self, write_pictures):
        volume = read_label(write_pictures(self.label()[::-1].astype(np.uint16) * 256), CT_GRID)
        assert volume.array.max() == 65280

    def test_a_damaged_image_is_refused(self, write_pictures):
        folder = write_pictures(self.label()[::-1])
        (folder / "2.png").write_bytes((folder / "2.png").read_bytes()[:50])
        assert refusal(read_label, folder, CT_GRID).where == folder / "2.png"

    def test_images_without_a_ct_are_refused(self, write_pictures):
        assert "no CT to lie on" in refusal(read_label, write_pictures(self.label()), None).fact

    def test_images_over_a_dicom_series_lie_where_its_slices_are(
        self, write_series, write_pictures
    ):
        ct = read_ct(write_series())
        label = read_label(write_pictures(self.label()[::-1]), ct.grid)
        assert label.grid == ct.grid
        np.testing.assert_array_equal(label.array, self.label())


@pytest.mark.realct
def test_a_real_series_is_read_at_its_place(realct):
    folder = realct / "odd" / "empty-liver" / "series"
    volume = read_ct(folder)
    heights = {float(dcmread(path).ImagePositionPatient[2]): path for path in folder.iterdir()}
    lowest = sitk.ReadImage(str(heights[min(heights)]))
    assert volume.grid.origin_xyz_mm[2] == pytest.approx(min(heights))
    np.testing.assert_array_equal(volume.array[0], sitk.GetArrayFromImage(lowest)[0])
