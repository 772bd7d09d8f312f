"""Which DICOM folders of a hospital's share are predicted, and what is said of the others."""

import pytest
from pydicom.uid import MediaStorageDirectoryStorage, RTStructureSetStorage

from cache.errors import SourceError
from stages.predict.find import find_tasks
from test_dicom import ROOT_UID, SERIES_UID, counted, positions, series_writer, write_slice
from test_dicom_series import CAPTURE, LOCALIZER, OTHER, object_of, without_preamble

THIRD = {"SeriesInstanceUID": f"{SERIES_UID}.2", "SeriesNumber": 12}


@pytest.fixture
def write_series(tmp_path):
    """Write a series into a folder below ``hospital``; gives the folder."""
    write = series_writer(tmp_path)
    return lambda folder, *args, **how: write(*args, folder=f"hospital/{folder}", **how)


@pytest.fixture
def search(tmp_path):
    """Search ``hospital``; gives names of CTs, and what is said of others by their names."""

    def run():
        found = find_tasks(tmp_path / "hospital", tmp_path / "masks")
        root = tmp_path / "hospital"
        notes = {place.relative_to(root).as_posix(): what for place, what in found.notes}
        return [task.name for task in found.tasks], notes

    return run


@pytest.fixture
def two_patients(write_series):
    write_series("p1/ct")
    write_series("p2/ct", **OTHER)


def test_a_converted_ct_is_predicted_and_a_folder_of_screenshots_is_not(write_series, search):
    write_series("ct", **CAPTURE)
    write_series("shots", **CAPTURE, without=("ImagePositionPatient",))
    tasks, notes = search()
    assert tasks == ["ct"]
    assert notes == {"shots": "holds no CT (5 files: a Secondary Capture Image Storage)"}


@pytest.mark.parametrize("name", ["DIRFILE", "DICOMDIR", "index.dcm"])
def test_an_index_above_the_series_is_known_by_its_class_not_its_name(
    two_patients, search, tmp_path, name
):
    object_of(tmp_path / "hospital" / name, MediaStorageDirectoryStorage, "")
    assert search() == (["p1/ct", "p2/ct"], {})


@pytest.mark.parametrize("tags", [THIRD, {**THIRD, "ImageType": LOCALIZER}])
def test_a_stray_image_above_several_series_is_none_of_them_and_told(
    two_patients, write_series, search, tags
):
    write_series(".", counted()[:1], names=("stray",), **tags)
    tasks, notes = search()
    assert tasks == ["p1/ct", "p2/ct"]
    (what,) = notes.values()
    assert "1 CT slice beside the folders" in what or "1 file: a localizer" in what


def test_a_series_above_the_folder_of_another_is_predicted_as_well(write_series, search):
    write_series("p1")
    write_series("p1/earlier", **OTHER)
    assert search() == (["p1", "p1/earlier"], {})


def test_the_named_folder_may_be_a_series_above_others(write_series, search):
    write_series(".")
    write_series("earlier", **OTHER)
    assert search()[0] == ["hospital", "earlier"]


def test_a_series_whose_slices_lie_in_folders_below_is_one_ct(write_series, search):
    write_series("p1", names=("1", "2", "more/3", "more/4", "more/5"))
    write_series("p2", **OTHER)
    assert search() == (["p1", "p2"], {})


def test_a_series_parted_over_folders_is_one_ct_and_not_a_part_in_each(write_series, search):
    write_series("p1/ct", names=("0/1", "0/2", "1/3", "1/4", "1/5"))
    write_series("p2/ct", **OTHER)
    assert search() == (["p1/ct", "p2/ct"], {})


@pytest.mark.parametrize(
    "tags",
    [
        OTHER,
        {},  # at the very same places
        {"StudyInstanceUID": f"{ROOT_UID}.6"},
        {"places": positions(15)[10:]},
        {"RescaleType": "US", "places": positions(10)[5:]},
    ],
)
def test_series_in_folders_that_do_not_continue_each_other_are_two(write_series, search, tags):
    write_series("p1/0")
    write_series("p1/1", **tags)
    assert search() == (["p1/0", "p1/1"], {})


def test_a_series_without_preamble_is_found(write_series, search):
    for path in write_series("p1").iterdir():
        without_preamble(path)
    write_series("p2")
    assert search() == (["p1", "p2"], {})


def test_objects_that_are_no_ct_are_told_and_not_predicted(two_patients, search, tmp_path):
    object_of(tmp_path / "hospital" / "p1" / "rt" / "RS", RTStructureSetStorage, "RTSTRUCT")
    tasks, notes = search()
    assert tasks == ["p1/ct", "p2/ct"]
    assert notes == {
        "p1/rt": "holds no CT (1 file: a radiotherapy structure set (RTSTRUCT))",
    }


def test_a_folder_of_mr_images_that_is_named_is_refused_by_name(tmp_path, write_series):
    folder = write_series("mr", Modality="MR")
    tasks = find_tasks(folder, tmp_path / "mask.nii.gz").tasks
    assert [task.path for task in tasks] == [folder]


def test_a_file_of_several_frames_is_a_ct_whose_reading_says_what_is_wrong(
    two_patients, search, tmp_path
):
    frames = counted()[:3].reshape(-1, 7)
    path = tmp_path / "hospital" / "p3" / "all.dcm"
    write_slice(path, frames, positions()[0], Rows=6, NumberOfFrames=3)
    assert search() == (["p1/ct", "p2/ct", "p3"], {})


def test_volumes_beside_the_slices_of_a_ct_are_not_taken_for_cts(write_series, search, tmp_path):
    folder = write_series("p1")
    (folder / "masks").mkdir()
    (folder / "masks" / "liver.nii.gz").write_bytes(b"")
    write_series("p2")
    assert search()[0] == ["p1", "p2"]


def test_a_damaged_slice_makes_its_folder_a_ct_that_reading_refuses(write_series, search):
    folder = write_series("p1", counted()[:1], names=("a",))
    (folder / "a").write_bytes((folder / "a").read_bytes()[:-40])
    write_series("p2")
    assert search()[0] == ["p1", "p2"]


def test_a_folder_without_any_ct_is_refused(write_series, search, tmp_path):
    object_of(tmp_path / "hospital" / "rt" / "RS", RTStructureSetStorage, "RTSTRUCT")
    with pytest.raises(SourceError, match="holds no CT"):
        search()
