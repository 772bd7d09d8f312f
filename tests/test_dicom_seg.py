"""A DICOM segmentation of a series: the mask's voxels at its slices, nothing of the patient."""

import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from pydicom import dcmread

from cache.errors import SourceError
from pipeline.predict import main
from stages.predict.dicom_seg import write_seg
from stages.predict.slices import source_slices
from test_dicom import NAMES, PATIENT, SECRETS, SERIES_UID, SHAPE_ZYX, positions, write_slice
from tiny import brightness_network, names

pytest.importorskip("highdicom", reason="DICOM segmentations need highdicom")

STUDY = {
    "FrameOfReferenceUID": "1.2.826.0.1.3680043.10.1234.9",
    "AccessionNumber": "ACC-815",
    "StudyID": "ST-9",
    "StudyDate": "20190401",
    "StudyTime": "101112",
    "ReferringPhysicianName": "House^Gregory",
    "InstitutionName": "St. Elsewhere",
    "InstitutionAddress": "Boston",
    "StationName": "CT-3",
    "DeviceSerialNumber": "SN-4242",
    "PatientAge": "065Y",
    "PatientWeight": "80",
    "OtherPatientIDs": "HOSP-0001",
    "StudyDescription": "Abdomen of Roe",
    "SeriesDescription": "venous, Roe",
    "OperatorsName": "Nurse^Jackie",
}
# the UIDs tell the series, and a viewer needs them; all else that names somebody must stay out
NAMING = [*(secret for secret in SECRETS if not secret[0].isdigit() or "." not in secret)]
NAMING += ["ACC-815", "ST-9", "20190401", "101112", "House", "Elsewhere", "Boston", "CT-3"]
NAMING += ["SN-4242", "065Y", "HOSP-0001", "Abdomen of", "venous", "Jackie"]


@pytest.fixture
def write_series(tmp_path):
    """Write five slices with a bright block, feet first, under names in no order."""

    def write(folder="series", *, step_xyz_mm=(0.0, 0.0, 2.5), **tags):
        hu = np.full(SHAPE_ZYX, -1000, np.int16)
        hu[1:4, 1:5, 1:6] = 200
        hu[2, 1, 1] = -1000  # no symmetry in any direction
        hu[3, 4, 5] = -1000
        places = positions(len(hu), step_xyz_mm)
        for name, image, place in zip(NAMES, hu, places, strict=True):
            write_slice(tmp_path / folder / name, image, place, **{**STUDY, **tags})
        return tmp_path / folder

    return write


@pytest.fixture
def mask():
    """A mask of five slices, each another and the first and last ones empty."""
    made = (np.random.default_rng(3).random(SHAPE_ZYX) < 0.4).astype(np.uint8)
    made[[0, 4]] = 0
    return made


@pytest.fixture
def write(tmp_path):
    def run(folder, mask):
        path = tmp_path / "mask.dcm"
        how = {"spacing_mm": 2.5, "version": "0.1.0", "model": "0123456789ab"}
        write_seg(path, mask, source_slices(folder)[0], **how)
        return path

    return run


def frames_of(path):
    """The frames of a segmentation by the instance each refers to, read without highdicom."""
    data = dcmread(path)
    pixels = np.atleast_3d(data.pixel_array).reshape(-1, data.Rows, data.Columns)
    frames = {}
    for frame, groups in zip(pixels, data.PerFrameFunctionalGroupsSequence, strict=True):
        (source,) = groups.DerivationImageSequence[0].SourceImageSequence
        frames[source.ReferencedSOPInstanceUID] = frame
    return frames


def by_position(folder):
    """The slices of a series from the feet upwards."""
    return sorted(
        (dcmread(path) for path in folder.iterdir()),
        key=lambda one: float(one.ImagePositionPatient[2]),
    )


def test_every_frame_is_the_mask_of_the_slice_it_refers_to(write_series, write, mask):
    folder = write_series()
    frames = frames_of(write(folder, mask))
    slices = by_position(folder)
    assert set(frames) == {one.SOPInstanceUID for one in slices[1:4]}
    for one, expected in zip(slices[1:4], mask[1:4], strict=True):
        np.testing.assert_array_equal(frames[one.SOPInstanceUID], expected)


def test_a_tag_that_cannot_be_understood_is_named_before_any_work(write_series):
    folder = write_series(SliceThickness="7.25")
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes().replace(b"7.25", b"7,25"))
    with pytest.raises(SourceError, match="--dicom-seg"):
        source_slices(folder)


def test_slices_stacked_the_other_way_are_told_apart_too(write_series, write, mask):
    # the normal of these slices points to the feet
    folder = write_series(ImageOrientationPatient=[1, 0, 0, 0, -1, 0])
    frames = frames_of(write(folder, mask))
    for one, expected in zip(by_position(folder)[::-1][1:4], mask[1:4], strict=True):
        np.testing.assert_array_equal(frames[one.SOPInstanceUID], expected)


def test_highdicom_reads_back_what_was_written(write_series, write, mask):
    from highdicom.seg import segread

    folder = write_series()
    uids = [one.SOPInstanceUID for one in by_position(folder)]
    read = segread(write(folder, mask)).get_pixels_by_source_instance(
        uids, combine_segments=True, assert_missing_frames_are_empty=True
    )
    np.testing.assert_array_equal(read, mask)


def test_a_written_segmentation_lies_where_its_series_lies(write_series, write, mask):
    data = dcmread(write(write_series(), mask))
    (shared,) = data.SharedFunctionalGroupsSequence
    assert shared.PixelMeasuresSequence[0].PixelSpacing == [0.8, 0.7]
    assert shared.PixelMeasuresSequence[0].SliceThickness == 2.5
    assert shared.PlaneOrientationSequence[0].ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    heights = {
        float(groups.PlanePositionSequence[0].ImagePositionPatient[2])
        for groups in data.PerFrameFunctionalGroupsSequence
    }
    assert heights == {25.5, 28.0, 30.5}


def test_a_written_segmentation_belongs_to_the_study_and_is_a_series_of_its_own(
    write_series, write, mask
):
    data = dcmread(write(write_series(), mask))
    assert data.StudyInstanceUID == f"{SERIES_UID[:-3]}.5"
    assert data.FrameOfReferenceUID == STUDY["FrameOfReferenceUID"]
    assert data.SeriesInstanceUID != SERIES_UID
    (source,) = data.ReferencedSeriesSequence
    assert source.SeriesInstanceUID == SERIES_UID


def test_the_segment_of_a_written_segmentation_is_an_automatic_liver(write_series, write, mask):
    data = dcmread(write(write_series(), mask))
    (segment,) = data.SegmentSequence
    assert data.SegmentationType == "BINARY"
    assert segment.SegmentAlgorithmType == "AUTOMATIC"
    code = segment.SegmentedPropertyTypeCodeSequence[0]
    assert (code.CodeValue, code.CodingSchemeDesignator) == ("10200004", "SCT")
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmParameters == "model=0123456789ab"


def test_nothing_of_the_patient_is_in_it(write_series, write, mask):
    folder = write_series()
    held = (folder / "a").read_bytes()
    assert all(secret.encode() in held for secret in NAMING)
    written = write(folder, mask)
    content = written.read_bytes()
    assert [secret for secret in NAMING if secret.encode() in content] == []
    data = dcmread(written)
    for key in (*PATIENT, "PatientSex", "AccessionNumber", "StudyID", "StudyDate"):
        assert data[key].is_empty, key
    assert "InstitutionName" not in data


def test_nothing_is_said_while_it_is_written(write_series, write, mask, caplog, recwarn):
    caplog.set_level("INFO")
    write(write_series(), mask)
    assert caplog.text == ""
    assert [str(warning.message) for warning in recwarn] == []


def test_without_liver_every_slice_is_there_and_empty(write_series, write, mask):
    folder = write_series()
    frames = frames_of(write(folder, mask * 0))
    assert set(frames) == {one.SOPInstanceUID for one in by_position(folder)}
    assert not any(frame.any() for frame in frames.values())


def test_what_was_taken_out_is_made_up_and_said(write_series, tmp_path, mask):
    # as anonymisers leave it; the header of the file itself still names the instance
    gone = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
    folder = write_series(without=gone)
    slices, doubts = source_slices(folder)
    assert [doubt for doubt in doubts if "made-up" in doubt] == doubts != []
    path = tmp_path / "mask.dcm"
    write_seg(path, mask, slices, spacing_mm=2.5, version="0", model="0")
    data = dcmread(path)
    assert data.StudyInstanceUID.is_valid
    assert data.FrameOfReferenceUID == STUDY["FrameOfReferenceUID"]
    stated = {dcmread(each).file_meta.MediaStorageSOPInstanceUID for each in folder.iterdir()}
    assert set(frames_of(path)) < stated


def test_a_slice_that_cannot_be_referred_to_is_named(write_series):
    folder = write_series(without=("FrameOfReferenceUID",))
    with pytest.raises(SourceError) as caught:
        source_slices(folder)
    assert "states no FrameOfReferenceUID" in caught.value.fact
    assert caught.value.where.parent == folder
    assert "leave out --dicom-seg" in caught.value.fix


def test_images_of_another_class_than_a_cts_are_refused_by_name(write_series):
    folder = write_series(SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    with pytest.raises(SourceError) as caught:
        source_slices(folder)
    assert "an MR Image Storage" in caught.value.fact
    assert caught.value.where == folder


class TestCommand:
    @pytest.fixture
    def predict(self, run_command, write_model, tmp_path):
        model = write_model(brightness_network(), preprocess={"grid": "keep", "crop": "none"})

        def run(ct, out="out/mask.nii.gz"):
            places = ("--ct", ct, "--out", tmp_path / out, "--dicom-seg", "--device", "cpu")
            return run_command(main, "--model", model, *places)

        return run

    def test_the_segmentation_lies_beside_the_mask_and_is_the_mask(
        self, write_series, predict, tmp_path
    ):
        folder = write_series()
        ended = predict(folder)
        assert ended.exit_code == 0, ended.output
        assert names(tmp_path / "out") == ["mask.dcm", "mask.nii.gz"]
        frames = frames_of(tmp_path / "out" / "mask.dcm")
        nifti = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / "mask.nii.gz")))
        assert nifti.sum(axis=(1, 2)).tolist() == [0, 20, 19, 19, 0]
        for one, expected in zip(by_position(folder)[1:4], nifti[1:4], strict=True):
            np.testing.assert_array_equal(frames[one.SOPInstanceUID], expected)

    def test_a_folder_of_series_has_one_beside_each_mask(self, write_series, predict, tmp_path):
        for name in ("cts/a", "cts/b"):
            write_series(name)
        ended = predict(tmp_path / "cts", out="masks")
        assert ended.exit_code == 0, ended.output
        assert {"a.dcm", "a.nii.gz", "b.dcm", "b.nii.gz"} <= set(names(tmp_path / "masks"))

    def test_a_file_that_is_no_series_is_refused_before_any_work(
        self, write_volume, run_command, tmp_path
    ):
        places = ("--model", "none.pt", "--ct", write_volume(), "--out", tmp_path / "mask.nii.gz")
        ended = run_command(main, *places, "--dicom-seg")
        assert ended.exit_code == 2
        assert "error: --dicom-seg: " in ended.output
        assert "ct.nii.gz is no DICOM series" in ended.output

    def test_without_highdicom_it_says_how_to_install_it(
        self, write_series, predict, tmp_path, monkeypatch
    ):
        folder = write_series()
        monkeypatch.setitem(sys.modules, "highdicom", None)  # as if it were not installed
        ended = predict(folder)
        assert ended.exit_code == 2
        assert "fix: python -m pip install" in ended.output
        assert not (tmp_path / "out").exists()
