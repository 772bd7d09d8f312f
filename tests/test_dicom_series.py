"""Which DICOM files make one CT: what is DICOM, what is a CT, what belongs together, what does not.

Of what is silently wrong when it is read, each kind is refused or told.
"""

import tracemalloc
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread, dcmwrite
from pydicom.config import disable_value_validation
from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    MRImageStorage,
    RTDoseStorage,
    RTStructureSetStorage,
    SecondaryCaptureImageStorage,
    SegmentationStorage,
)

from cache.errors import SourceError
from stages.preprocess.inspect import ct_to_predict
from stages.preprocess.reading.dicom_file import read_header
from stages.preprocess.reading.dicom_start import is_dicom
from stages.preprocess.reading.read import as_hu, read_ct, read_label
from stages.preprocess.rules.phases import phases_in_voxels
from test_dicom import (
    NAMES,
    ROOT_UID,
    SERIES_UID,
    counted,
    finding,
    positions,
    refusal,
    rules_of,
    series_writer,
    write_slice,
)

OTHER = {"SeriesInstanceUID": f"{SERIES_UID}.1", "SeriesNumber": 9}
ARTERIAL = {**OTHER, "SeriesDescription": "Abdomen arterial 5.0", "ConvolutionKernel": "B30f"}
CAPTURE = {"SOPClassUID": SecondaryCaptureImageStorage}
LOCALIZER = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
UNDEFINED_WORDS = {  # objects without a picture of a CT, and what they are called
    SegmentationStorage: "a DICOM segmentation (SEG)",
    RTStructureSetStorage: "a radiotherapy structure set (RTSTRUCT)",
    RTDoseStorage: "a radiotherapy dose (RTDOSE)",
}


def without_preamble(path, *, implicit=True, little=True, with_meta=False):
    """Write a DICOM file again as old archives do: no preamble, and mostly no file meta."""
    data = dcmread(path)
    meta, data.file_meta = data.file_meta, FileMetaDataset()
    if not little:
        data["PixelData"].value = np.frombuffer(data.PixelData, "<i2").astype(">i2").tobytes()
    dcmwrite(path, Dataset(data), implicit_vr=implicit, little_endian=little)
    if with_meta:
        content = path.read_bytes()
        with path.open("wb") as file:
            write_file_meta_info(file, meta)
            file.write(content)
    assert path.read_bytes()[128:132] != b"DICM"


def per_slice(write, folder, tags, hu=None, places=None):
    """Write five slices, each with what ``tags`` gives for its number; gives the folder."""
    hu = counted() if hu is None else hu
    for index, name in enumerate(NAMES):
        place = (places or positions())[index]
        write(folder / name, hu[index], place, **tags(index))
    return folder


@pytest.fixture
def write_series(tmp_path):
    """Write a series into a folder; gives the folder."""
    return series_writer(tmp_path)


@pytest.fixture
def traced_mb():
    """A block's peak memory, in MB; gives a function that tells it afterwards."""

    @contextmanager
    def traced():
        tracemalloc.start()
        try:
            yield lambda: tracemalloc.get_traced_memory()[1] / 1e6
        finally:
            tracemalloc.stop()

    return traced


@pytest.fixture
def slices(tmp_path):
    """Write five slices, each with tags of its own; gives the folder."""
    return lambda tags, **how: per_slice(write_slice, tmp_path / "series", tags, **how)


def object_of(path, sop_class, modality, **tags):
    """Write an object that is not an image."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, f"{ROOT_UID}.8"
    meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
    data = Dataset()
    data.file_meta = meta
    data.SOPClassUID, data.SOPInstanceUID, data.Modality = sop_class, f"{ROOT_UID}.8", modality
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


class TestWithoutPreamble:
    @pytest.mark.parametrize("implicit", [True, False])
    def test_a_series_without_preamble_and_file_meta_is_read(self, write_series, implicit):
        folder = write_series()
        for path in folder.iterdir():
            without_preamble(path, implicit=implicit)
        volume = read_ct(folder)
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert rules_of(volume) == []

    def test_a_series_with_file_meta_but_without_preamble_is_read(self, write_series):
        folder = write_series()
        for path in folder.iterdir():
            without_preamble(path, implicit=False, with_meta=True)
        np.testing.assert_array_equal(as_hu(read_ct(folder)), counted())

    def test_a_series_of_which_some_slices_lack_the_preamble_is_read_whole(self, write_series):
        folder = write_series()
        for name in NAMES[3:]:
            without_preamble(folder / name)
        np.testing.assert_array_equal(as_hu(read_ct(folder)), counted())

    @pytest.mark.parametrize("left", [-30, 400, 250])  # within the voxels, the header, its start
    def test_a_bare_slice_that_ends_early_is_refused_by_name(self, write_series, left):
        folder = write_series()
        without_preamble(folder / "b")
        (folder / "b").write_bytes((folder / "b").read_bytes()[:left])
        error = refusal(read_ct, folder)
        assert (error.rule, error.where) == ("truncated", folder / "b")

    def test_a_bare_series_that_is_big_endian_is_read(self, write_series):
        folder = write_series()
        for path in folder.iterdir():
            without_preamble(path, implicit=False, little=False)
        np.testing.assert_array_equal(as_hu(read_ct(folder)), counted())

    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x08\x00",
            b"\x08\x00\x05\x00",
            np.arange(8, 3000, dtype="<u2").tobytes(),
            np.full(3000, 8, "<u2").tobytes(),
            b"\x08\x00\x05\x00" + b"\xff" * 600,
            b"\x02\x00\x00\x00" * 100,
            bytes(5000),
            b"# a note\n" * 50,
        ],
    )
    def test_other_content_is_not_taken_for_dicom(self, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        assert not is_dicom(tmp_path / "file")

    @given(st.binary(max_size=600))
    def test_no_content_makes_the_look_at_it_fail(self, tmp_path_factory, content):
        path = tmp_path_factory.getbasetemp() / "any"
        for start in (b"", b"\x08\x00\x05\x00", b"\x02\x00\x00\x00UL"):
            path.write_bytes(start + content)
            is_dicom(path)


class TestWhatIsACt:
    @pytest.mark.parametrize(("sop_class", "words"), UNDEFINED_WORDS.items())
    def test_an_object_that_is_no_image_is_refused_as_a_label_by_name(
        self, tmp_path, sop_class, words
    ):
        voxels = {"Rows": 6, "Columns": 7, "BitsAllocated": 8, "PixelData": bytes(42)}
        path = object_of(tmp_path / "label" / "liver.dcm", sop_class, "SEG", **voxels)
        for label in (path, path.parent):
            error = refusal(read_label, label, None)
            assert words in error.fact
            assert "convert it to a NIfTI file" in error.fix

    def test_an_object_that_is_no_image_is_refused_as_a_ct_by_name(self, tmp_path):
        path = object_of(tmp_path / "ct" / "1.dcm", RTStructureSetStorage, "RTSTRUCT")
        for ct in (path, path.parent):
            assert "a radiotherapy structure set (RTSTRUCT)" in refusal(read_ct, ct).fact

    def test_a_bare_rtstruct_is_refused_by_name(self, tmp_path):
        path = object_of(
            tmp_path / "RS", RTStructureSetStorage, "RTSTRUCT", StructureSetLabel="organs"
        )
        data = dcmread(path)
        data.file_meta = FileMetaDataset()
        data.InstanceCreationDate, data.Manufacturer = "20200101", "somebody"
        dcmwrite(path, Dataset(data), implicit_vr=True, little_endian=True)
        assert "(RTSTRUCT)" in refusal(read_label, path, None).fact

    def test_images_of_another_class_are_refused_as_a_ct_by_name(self, write_series):
        error = refusal(read_ct, write_series(SOPClassUID=MRImageStorage))
        assert error.fact == "holds no CT series; it has an MR Image Storage (5 files)"

    def test_an_enhanced_ct_is_refused_by_name_as_file_and_in_a_folder(self, tmp_path):
        path = tmp_path / "ct" / "1.dcm"
        frames = counted()[:3].reshape(-1, 7)
        enhanced = {"SOPClassUID": EnhancedCTImageStorage, "Rows": 6, "NumberOfFrames": 3}
        write_slice(path, frames, positions()[0], **enhanced)
        for ct in (path, path.parent):
            fact = refusal(read_ct, ct).fact
            assert "several frames in one file (an Enhanced CT Image Storage)" in fact

    @pytest.mark.parametrize("stray", [{}, {"ImageType": LOCALIZER}])
    def test_stray_slices_beside_a_file_of_many_frames_do_not_pass_for_the_ct(
        self, write_series, tmp_path, stray
    ):
        folder = write_series(counted()[:3], names=NAMES[:3], **{**OTHER, **stray})
        frames = np.tile(counted()[:3].reshape(-1, 7), (4, 1))
        write_slice(folder / "all", frames, positions()[0], Rows=6, NumberOfFrames=12)
        assert refusal(read_ct, folder).where == folder / "all"

    def test_a_single_slice_is_refused_as_a_file(self, write_series):
        error = refusal(read_ct, write_series() / "a")
        assert error.fact == "is one DICOM file (a CT Image Storage), not a series"

    def test_voxels_of_which_white_is_low_are_refused(self, write_series):
        error = refusal(read_ct, write_series(PhotometricInterpretation="MONOCHROME1"))
        assert "read inverted" in error.fact


class TestSecondaryCapture:
    """What conversion programs write of other files, and what people press a button for."""

    @pytest.mark.parametrize(
        "stated", [{}, {"ImageType": ["DERIVED", "SECONDARY"], "ConversionType": "WSD"}]
    )
    def test_a_converted_ct_is_read_if_its_slices_state_their_places(self, write_series, stated):
        volume = read_ct(write_series(**CAPTURE, **stated))
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert rules_of(volume) == []

    @pytest.mark.parametrize(
        "gone", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
    )
    def test_a_capture_without_a_place_is_no_ct(self, write_series, gone):
        error = refusal(read_ct, write_series(**CAPTURE, without=(gone,)))
        expected = "holds no CT series; it has a Secondary Capture Image Storage (5 files)"
        assert error.fact == expected

    @pytest.mark.parametrize("modality", ["OT", "SC", ""])
    def test_a_capture_of_no_stated_ct_is_no_ct(self, write_series, modality):
        error = refusal(read_ct, write_series(**CAPTURE, Modality=modality))
        assert "holds no CT series" in error.fact

    def test_a_coloured_capture_is_no_ct(self, tmp_path):
        for place, name in zip(positions(), NAMES, strict=True):
            rgb = np.zeros((6, 21), np.int16)
            colours = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "Columns": 7}
            write_slice(tmp_path / "ct" / name, rgb, place, **CAPTURE, **colours)
        assert "holds no CT series" in refusal(read_ct, tmp_path / "ct").fact

    def test_a_screenshot_of_the_same_series_is_told_and_left_out(self, write_series):
        shot = {**CAPTURE, "without": ("ImagePositionPatient", "ImageOrientationPatient")}
        write_series(counted()[:1], names="z", **shot)
        volume = read_ct(write_series(**CAPTURE))
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert rules_of(volume) == ["other_files"]

    def test_more_captures_than_slices_of_a_ct_do_not_pass_for_it(self, write_series):
        many = np.concatenate([counted()] * 4) + 9
        captures = {**OTHER, **CAPTURE}
        write_series(many, positions(20), names="fghijklmnopqrstuvwxy", **captures)
        volume = read_ct(write_series())
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert "20 files: another series" in finding(volume, "other_files").fact

    def test_a_stray_slice_of_a_scanner_does_not_pass_for_the_converted_ct(self, write_series):
        write_series(counted()[:1] + 9, names="z", **OTHER)
        many = np.concatenate([counted()] * 2)
        volume = read_ct(write_series(many, positions(10), names="fghijklmno", **CAPTURE))
        np.testing.assert_array_equal(as_hu(volume), many)

    @pytest.mark.parametrize("modality", ["CT", "OT", "SEG"])
    def test_captures_that_state_their_places_are_a_label(self, write_series, modality):
        mask = (counted() % 2).astype(np.int16)
        stated = {**CAPTURE, "Modality": modality, "RescaleIntercept": 0}
        volume = read_label(write_series(mask, **stated), None)
        np.testing.assert_array_equal(volume.array, mask)


class TestWhichSeries:
    def test_two_series_of_one_length_are_told_with_both_descriptions(self, write_series):
        write_series(counted() + 7, names="rstuv", **ARTERIAL)
        fact = finding(
            read_ct(write_series(SeriesDescription="Abdomen portal 5.0")), "dicom_choice"
        ).fact
        assert '(number 9, CT, "Abdomen arterial 5.0", kernel B30f, 5 slices)' in fact
        assert '(number 3, CT, "Abdomen portal 5.0", 5 slices)' in fact

    def test_a_doubtful_choice_is_told_when_it_is_predicted(self, write_series):
        write_series(counted() + 7, names="rstuv", **ARTERIAL)
        _, _, doubts = ct_to_predict(write_series())
        assert "dicom_choice" in [doubt.rule for doubt in doubts]

    def test_a_series_of_far_fewer_slices_is_no_doubt(self, write_series):
        write_series(counted()[:2] + 7, names="rs", **ARTERIAL)
        volume = read_ct(write_series())
        assert rules_of(volume) == ["other_files"]
        fact = finding(volume, "other_files").fact
        assert fact == '2 files: another series (number 9, CT, "Abdomen arterial 5.0", kernel B30f)'

    @pytest.mark.parametrize(
        "computed", [{"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, {"coronal": True}]
    )
    def test_what_was_scanned_goes_before_what_was_computed_from_it(self, write_series, computed):
        if computed.pop("coronal", False):
            computed["ImageOrientationPatient"] = [1, 0, 0, 0, 0, -1]
        places = positions(7, (0.0, 2.5, 2.5))
        write_series(counted((7, 6, 7)) + 7, places, names="rstuvwx", **{**OTHER, **computed})
        volume = read_ct(write_series(ImageType=["ORIGINAL", "PRIMARY", "AXIAL"]))
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert rules_of(volume) == ["other_files"]

    def test_a_localizer_of_more_images_than_the_ct_has_slices_is_no_ct(self, write_series):
        scouts = {**OTHER, "ImageType": LOCALIZER}
        write_series(counted((7, 6, 7)), positions(7), names="rstuvwx", **scouts)
        volume = read_ct(write_series())
        np.testing.assert_array_equal(as_hu(volume), counted())
        assert finding(volume, "other_files").fact == "7 files: a localizer (number 9, CT)"

    def test_localizers_alone_are_refused(self, write_series):
        error = refusal(read_ct, write_series(ImageType=LOCALIZER))
        assert error.fact == "holds no CT series; it has CT localizers (5 files)"

    def test_directions_that_differ_by_rounding_are_one_series(self, slices):
        tilts = [0.12499, 0.12501, 0.12499, 0.12501, 0.12499]  # rounded to 0.12 and 0.13
        cosine = np.sqrt(1 - 0.125**2)
        volume = read_ct(
            slices(lambda k: {"ImageOrientationPatient": [1, 0, 0, 0, cosine, tilts[k]]})
        )
        assert volume.grid.shape_zyx[0] == 5

    def test_slices_of_another_size_that_continue_the_series_are_told(self, write_series):
        write_series(counted((2, 9, 8)), positions(7)[5:], names=("y", "z"))
        fact = finding(read_ct(write_series()), "dicom_mixed").fact
        assert "2 slices of the same series are not read" in fact

    def test_a_description_cannot_forge_a_line_and_is_short(self, write_series):
        odd = {**ARTERIAL, "SeriesDescription": "a\x1b[2J b" + "c" * 200}
        write_series(counted() + 7, names="rstuv", **odd)
        fact = finding(read_ct(write_series()), "dicom_choice").fact
        assert fact.isprintable()
        assert len(fact) < 300


class TestSlicesThatDisagree:
    def test_a_slope_of_each_slices_own_is_applied(self, slices):
        slopes = [1, 0.5, 2, 0.25, 1.5]
        volume = read_ct(slices(lambda k: {"RescaleSlope": slopes[k]}))
        wanted = [(counted()[k] + 1024.0) * slopes[k] - 1024 for k in range(5)]
        np.testing.assert_array_equal(as_hu(volume), np.rint(wanted))
        assert rules_of(volume) == []

    def test_an_intercept_of_each_slices_own_is_applied(self, slices):
        intercepts = [0, -1024, -1000, 0, -1024.5]
        volume = read_ct(slices(lambda k: {"RescaleIntercept": intercepts[k]}, hu=counted() + 1024))
        # what is stored is less the intercept, and whole
        wanted = [
            (counted()[k] + 1024 - intercepts[k]).astype("<i2") + intercepts[k] for k in range(5)
        ]
        np.testing.assert_array_equal(as_hu(volume), np.rint(wanted))

    def test_the_data_type_is_not_that_of_the_first_slice_alone(self, slices):
        # the lowest slice is unsigned and has no negative HU, the others do
        unsigned = {"PixelRepresentation": 0, "RescaleIntercept": 0}
        hu = counted()
        hu[0] += 1000
        volume = read_ct(slices(lambda k: unsigned if k == 0 else {}, hu=hu))
        np.testing.assert_array_equal(as_hu(volume), hu)

    @pytest.mark.parametrize("tag", ["RescaleSlope", "RescaleIntercept"])
    def test_a_rescale_tag_that_some_slices_lack_is_told(self, slices, tag):
        volume = read_ct(slices(lambda k: {"without": (tag,)} if k in (1, 3) else {}))
        fact = finding(volume, "dicom_mixed").fact
        assert fact == f"its slices differ among themselves: 2 of 5 slices state no {tag}"

    @pytest.mark.parametrize(
        ("tag", "value", "words"),
        [
            ("RescaleType", "US", "rescale types HU and US"),
            ("PixelSpacing", [0.8, 0.75], "pixel spacings of 0.7000 to 0.7500 mm"),
            ("ImageOrientationPatient", [1, 0.001, 0, 0, 1, 0], "differ by 0.06 degrees"),
            ("ImagePositionPatient", [-1.0, 7.0, 28.0], "up to 10.00 mm beside the line"),
        ],
    )
    def test_what_changes_voxels_or_places_is_compared(self, slices, tag, value, words):
        folder = slices(lambda _: {})
        data = dcmread(folder / NAMES[2])
        setattr(data, tag, value)
        data.save_as(folder / NAMES[2])
        assert words in finding(read_ct(folder), "dicom_mixed").fact

    @pytest.mark.parametrize(
        ("tags", "words"),
        [
            ({"RescaleSlope": 0}, "a RescaleSlope of 0"),
            ({"ImagePositionPatient": ["nan", 7, 23]}, "a position or directions"),
            ({"ImageOrientationPatient": [0, 0, 0, 0, 0, 0]}, "a position or directions"),
            ({"ImageOrientationPatient": [1, 0, 0, 0.5, 0.8, 0]}, "a position or directions"),
            ({"ModalityLUTSequence": [Dataset()]}, "a table (Modality LUT)"),
        ],
    )
    def test_a_slice_that_cannot_be_is_refused_by_name(self, write_series, tags, words):
        folder = write_series()
        for path in folder.iterdir():
            data = dcmread(path)
            with disable_value_validation():
                for tag, value in tags.items():
                    setattr(data, tag, value)
                data.save_as(path)
        error = refusal(read_ct, folder)
        assert error.where.parent == folder
        assert words in error.fact

    def test_a_text_nobody_needs_stops_no_slice(self, write_series, recwarn, caplog):
        folder = write_series(
            SliceThickness=2, KVP=120, SeriesDescription="Abdomen", InstanceNumber=3
        )
        for path in folder.iterdir():
            content = path.read_bytes().replace(b"DS\x02\x002 ", b"DS\x02\x00mm")
            content = content.replace(b"DS\x04\x00120 ", b"DS\x04\x00a\xff\x00\x80")
            content = content.replace(b"IS\x02\x003 ", b"IS\x02\x00\xe9x")
            path.write_bytes(content.replace(b"Abdomen", b"Ab\xffo\x1b\x00n"))
        recwarn.clear()
        np.testing.assert_array_equal(as_hu(read_ct(folder)), counted())
        assert not recwarn
        assert not caplog.records

    @pytest.mark.parametrize(
        ("name", "content", "is_told"),
        [
            ("6.dcm", b"", True),  # cut off by a copy that was stopped
            ("6.dcm", b"\xff" * 900, True),
            ("._6.dcm", b"\0\5\x16\7", False),  # left behind by macOS
            ("notes.txt", b"\xff" * 900, False),
            ("VERSION", b"1.0", False),
        ],
    )
    def test_a_last_slice_that_is_damaged_beyond_recognition_is_told(
        self, write_series, name, content, is_told
    ):
        folder = write_series(names=[f"{number}.dcm" for number in range(5)])
        (folder / name).write_bytes(content)
        assert ("dicom_mixed" in rules_of(read_ct(folder))) == is_told

    def test_a_damaged_slice_without_an_ending_is_known_by_its_size(self, write_series):
        folder = write_series()
        (folder / NAMES[4]).write_bytes(b"\xff" * (folder / NAMES[0]).stat().st_size)
        fact = finding(read_ct(folder), "dicom_mixed").fact
        assert "1 file is called like slices but not DICOM images" in fact

    def test_a_damaged_slice_that_states_no_class_and_no_size_is_told(self, write_series):
        folder = write_series()
        content = (folder / NAMES[4]).read_bytes()
        content = content.replace(b"1.2.840.10008.5.1.4.1.1.2\0", b"1.2.840.10008.5.1.4.9.9.9\0")
        content = content.replace(b"\x28\x00\x10\x00US", b"\x28\x00\x0f\x00US")  # its rows
        (folder / NAMES[4]).write_bytes(content.replace(b"CS\x02\x00CT", b"CS\x02\x00C~"))
        assert "(damaged, or cut off?)" in finding(read_ct(folder), "dicom_mixed").fact

    def test_two_frames_of_reference_are_told_and_one_for_every_slice_is_not(self, slices):
        two = slices(lambda k: {"FrameOfReferenceUID": f"1.2.{k // 3}"})
        assert "2 frames of reference" in finding(read_ct(two), "dicom_mixed").fact
        every = slices(lambda k: {"FrameOfReferenceUID": f"1.2.{k}"})
        assert rules_of(read_ct(every)) == []

    def test_equal_pictures_with_another_intercept_are_other_voxels(self, write_series):
        folder = write_series()
        data = dcmread(folder / "a")
        data.RescaleIntercept = 0
        data.save_as(folder / "again")
        assert not finding(read_ct(folder), "dicom_repeats").fixable

    def test_slices_that_disagree_are_not_predicted(self, slices):
        folder = slices(lambda k: {"without": ("RescaleIntercept",)} if k == 1 else {})
        with pytest.raises(SourceError, match="state no RescaleIntercept"):
            ct_to_predict(folder)


class TestPhases:
    @pytest.mark.parametrize(
        ("tag", "values"),
        [
            ("AcquisitionNumber", [1, 2, 1, 2, 1]),
            ("AcquisitionNumber", [1, 1, 2, 1, 1]),
            ("TemporalPositionIdentifier", [2, 1, 2, 1, 2]),
            ("TriggerTime", [30, 60, 30, 60, 30]),
            ("KVP", [80, 140, 80, 140, 80]),
            ("ImageType", [["ORIGINAL"], ["DERIVED"], ["ORIGINAL"], ["DERIVED"], ["ORIGINAL"]]),
            ("ContentTime", ["101500", "101535", "101501", "101536.5", "101502"]),
            ("AcquisitionTime", ["101500", "101535", "101501", "101536.5", "101502"]),
            ("AcquisitionDateTime", [f"202001011015{s}.5+0100" for s in (10, 40, 11, 41, 12)]),
        ],
    )
    def test_phases_that_alternate_are_told_and_not_predicted(self, slices, tag, values):
        folder = slices(lambda k: {tag: values[k]})
        finding(read_ct(folder), "dicom_phases")
        with pytest.raises(SourceError, match="alternate"):
            ct_to_predict(folder)

    @pytest.mark.parametrize(
        ("numbers", "is_told"),
        [
            ([1, 41, 2, 42, 3, 43], True),
            ([1, 1, 2, 2, 3, 3], True),
            ([43, 3, 42, 2, 41, 1], True),
            ([1, 2, 3, 4, 5, 6], False),
            ([6, 5, 4, 3, 2, 1], False),
            ([1, 1, 1, 1, 1, 1], False),
            ([4, 1, 6, 3, 2, 5], False),
        ],
    )
    def test_the_slices_own_numbers_tell_two_stacks_apart(self, write_series, numbers, is_told):
        folder = write_series(counted((6, 6, 7)), positions(6), names="abcdef")
        for path, number in zip(sorted(folder.iterdir()), numbers, strict=True):
            data = dcmread(path)
            data.InstanceNumber = number
            data.save_as(path)
        assert rules_of(read_ct(folder)) == ["dicom_phases"] * is_told

    @pytest.mark.parametrize(
        ("tag", "values"),
        [
            ("AcquisitionNumber", [1, 1, 1, 2, 2]),  # one behind the other
            ("AcquisitionNumber", [4, 2, 5, 1, 3]),  # one for every slice
            ("AcquisitionNumber", [7, 7, 7, 7, 7]),
            ("AcquisitionNumber", [1, None, 1, None, 1]),
            ("SliceThickness", [2.5, 2.49999, 2.5, 2.50001, 2.5]),  # rounding
            ("ContentTime", ["101500", "101502", "101501", "101503", "101504"]),
            ("AcquisitionTime", ["101540", "101530", "101520", "101510", "101500"]),
        ],
    )
    def test_scans_one_behind_the_other_are_one_volume(self, slices, tag, values):
        volume = read_ct(slices(lambda k: {} if values[k] is None else {tag: values[k]}))
        assert rules_of(volume) == []
        np.testing.assert_array_equal(as_hu(volume), counted())


class TestPhasesInVoxels:
    """Where no tag tells the phases apart: more slices, and wider ones, than elsewhere here."""

    def scan(self, count=12, *, liver_hu=(110,), noise_hu=8.0, seed=3):
        """A body with a liver that grows and shrinks, (count, 40, 44); HU of it by turns."""
        z, y, x = np.indices((count, 40, 44)) - np.array([count / 2, 20, 22])[:, None, None, None]
        hu = np.where((y / 16) ** 2 + (x / 19) ** 2 < 1, 40.0, -1000.0)
        turns = np.resize(liver_hu, count)[:, None, None]
        is_liver = (z / count) ** 2 + ((y + 2) / 15) ** 2 + ((x + 4) / 14) ** 2 < 0.5
        hu = np.where(is_liver, turns, hu)
        noise = np.random.default_rng(seed).normal(0, noise_hu, hu.shape)
        return np.rint(hu + noise).astype(np.int16)

    def test_phases_that_alternate_are_told_and_not_predicted(self, write_series):
        hu = self.scan(liver_hu=(60, 110), noise_hu=4.0)
        folder = write_series(hu, positions(12), names="abcdefghijkl")
        assert "less like their neighbours" in finding(read_ct(folder), "dicom_phases").fact
        with pytest.raises(SourceError, match="two phases that alternate"):
            ct_to_predict(folder)

    @pytest.mark.parametrize("noise_hu", [0.0, 8.0, 60.0])
    @pytest.mark.parametrize("seed", range(4))
    def test_one_scan_is_none_however_noisy(self, noise_hu, seed):
        hu = self.scan(60, noise_hu=noise_hu, seed=seed)
        assert phases_in_voxels(Path("ct"), hu) is None

    def test_slices_that_are_all_alike_are_one_scan(self):
        assert phases_in_voxels(Path("ct"), np.zeros((20, 40, 44), np.int16)) is None

    def test_few_slices_or_voxels_tell_nothing(self):
        hu = self.scan(liver_hu=(-800, 800))
        assert phases_in_voxels(Path("ct"), hu) is not None
        assert phases_in_voxels(Path("ct"), hu[:5]) is None
        assert phases_in_voxels(Path("ct"), hu[:, 10:30, 10:30]) is None


class TestDeflated:
    def bomb(self, path, content):
        """A deflated file with a slice's header, whose content is another."""
        write_slice(path, counted()[0], positions()[0], syntax=DeflatedExplicitVRLittleEndian)
        data = dcmread(path)
        with path.open("wb") as file:
            file.write(bytes(128) + b"DICM")
            write_file_meta_info(file, data.file_meta)
            file.write(content)

    @pytest.mark.parametrize("at", [b"\x08\x00\x05\x00", b"\xe0\x7f\x10\x00"])
    def test_what_unfolds_to_far_more_than_it_says_is_refused_with_little_memory(
        self, tmp_path, at, traced_mb
    ):
        plain = tmp_path / "plain"
        write_slice(plain, counted()[0], positions()[0])
        content = plain.read_bytes()
        start = content[content.index(b"\x08\x00\x16\x00") :]
        deflater = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = deflater.compress(start if at[0] == 0xE0 else at + b"UN\0\0\0\0\0\x10")
        packed += b"".join(deflater.compress(bytes(1 << 20)) for _ in range(64)) + deflater.flush()
        self.bomb(tmp_path / "bomb", packed)
        with traced_mb() as peak:
            with pytest.raises(SourceError):
                read_header(tmp_path / "bomb", [])
            assert peak() < 24

    def test_a_slice_larger_than_any_scanner_makes_is_refused(self, write_series):
        folder = write_series()
        data = dcmread(folder / "a")
        data.Rows, data.Columns = 28_000, 28_000
        data.save_as(folder / "a")
        assert "28,000·28,000 pixels" in refusal(read_ct, folder).fact
