"""Whatever the order of a file's axes, the same patient gives the same prepared case."""

import itertools

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from hypothesis import given, settings
from hypothesis import strategies as st

from cache.manifest import Manifest, write_manifest
from cache.orientation import lps_grid
from cache.reader import CaseStore
from stages.evaluate.overlap import overlap
from stages.evaluate.restore import restore_mask
from stages.preprocess.case import work
from stages.preprocess.files import CaseFiles
from stages.preprocess.outcome import Job
from stages.preprocess.params import PreprocessParams

ARRAYS = ("image", "mask", "foreground_zyx")
KEEP = {
    "format": "hdf5",
    "liver_values": "any",
    "crop": "none",
    "slices": None,
    "margin_mm": 0,
    "grid": "keep",
    "shape_zyx": None,
    "spacing_zyx_mm": None,
}
ENDINGS = (".nii", ".nii.gz", ".mha", ".nrrd")

# an order of the axes, and which of them are reversed
turns = st.tuples(
    st.permutations([0, 1, 2]), st.tuples(st.booleans(), st.booleans(), st.booleans())
)
shapes_zyx = st.tuples(st.integers(8, 15), st.integers(8, 15), st.integers(8, 15))
spacings_xyz_mm = st.tuples(*(st.sampled_from([4.0, 5.5, 7.25, 10.0]) for _ in range(3)))
tilts_rad = st.tuples(*(st.sampled_from([0.0, 0.0, 0.1, -0.3]) for _ in range(3)))
crops = st.sampled_from(["none", "body", "label"])
grids = st.sampled_from(
    [
        {"grid": "keep"},
        {"grid": "shape", "shape_zyx": (9, None, 20)},
        {"grid": "spacing", "spacing_zyx_mm": (None, 6.0, 9.5)},
    ]
)
endings = st.sampled_from(ENDINGS)


@st.composite
def patients(draw):
    """A CT and its label as SimpleITK images: a body in air, a liver in it, perhaps tilted."""
    shape = draw(shapes_zyx)
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    body = tuple(slice(1, side - 2) for side in shape)
    liver = tuple(slice(2, side // 2 + 1) for side in shape)
    volume = np.full(shape, -1000, np.int16)
    volume[body] = rng.integers(-40, 41, volume[body].shape)
    volume[liver] += 100
    label = np.zeros(shape, np.uint8)
    label[liver] = 1
    label[2, 2, 2:4] = 0
    spacing, tilt = draw(spacings_xyz_mm), draw(tilts_rad)
    return _image(volume, spacing, tilt), _image(label, spacing, tilt)


def _image(array, spacing_xyz_mm, tilt_rad):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing_xyz_mm)
    image.SetOrigin((-33.0, 12.5, 140.0))
    image.SetDirection(sitk.Euler3DTransform((0, 0, 0), *tilt_rad).GetMatrix())
    return image


def turned(image, turn):
    """The same patient with the file's axes in another order, some of them reversed."""
    order, flips = turn
    return sitk.Flip(sitk.PermuteAxes(image, list(order)), list(flips))


@pytest.fixture(scope="module")
def prepare(rules, tmp_path_factory):
    """Prepare a pair of images, written to files of some ending; gives info, arrays, digest."""
    numbers = itertools.count()

    def run(ct, label, *, ending=".nii", **params):
        folder = tmp_path_factory.mktemp("case") / str(next(numbers))
        files = CaseFiles("1", "1", folder / f"ct{ending}", folder / f"label{ending}", None, folder)
        folder.mkdir()
        sitk.WriteImage(ct, str(files.ct))
        sitk.WriteImage(label, str(files.label))
        out = folder / "cases"
        chosen = PreprocessParams.model_validate({**KEEP, **params})
        outcome = work(Job(files, out, folder / "pictures", chosen, rules(), None, False))
        assert outcome.entry is not None, outcome.problems
        write_manifest(out, Manifest({"1": outcome.entry}, {}))
        return CaseStore(out)

    return run


def require_same_case(ours, theirs):
    """The same stored arrays bit for bit, box and digest; the same grid but for rounding."""
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(ours, name)("1"), getattr(theirs, name)("1"))
    info, other = ours.info("1"), theirs.info("1")
    assert info.box == other.box
    assert info.ct_digest == other.ct_digest
    assert info.liver_ml == pytest.approx(other.liver_ml, rel=1e-6)
    require_same_grid(info.prepared_grid, other.prepared_grid)


def require_same_grid(grid, other):
    """The same but for the rounding of a NIfTI header, which has 32 bits a number."""
    assert grid.shape_zyx == other.shape_zyx
    assert grid.spacing_zyx_mm == pytest.approx(other.spacing_zyx_mm, rel=1e-6)
    assert grid.origin_xyz_mm == pytest.approx(other.origin_xyz_mm, abs=1e-3)
    assert grid.direction == pytest.approx(other.direction, abs=1e-5)


class TestTurnedFiles:
    @settings(max_examples=24)
    @given(patient=patients(), turn=turns, crop=crops, grid=grids, ending=endings)
    def test_a_ct_and_label_that_are_both_turned_give_the_same_case(
        self, prepare, patient, turn, crop, grid, ending
    ):
        how = {"ending": ending, "crop": crop, "margin_mm": 3.0, **grid}
        straight = prepare(*patient, **how)
        require_same_case(prepare(*(turned(image, turn) for image in patient), **how), straight)

    @settings(max_examples=15)
    @given(patient=patients(), turn=turns, grid=grids)
    def test_a_label_in_another_order_than_its_ct_gives_the_same_case(
        self, prepare, patient, turn, grid
    ):
        ct, label = patient
        straight = prepare(ct, label, crop="body", **grid)
        other = prepare(ct, turned(label, turn), crop="body", **grid)
        require_same_case(other, straight)
        np.testing.assert_array_equal(other.source_mask("1"), sitk.GetArrayFromImage(label))

    @settings(max_examples=10)
    @given(patient=patients(), turn=turns)
    def test_every_voxel_stays_where_it_was_in_the_patient(self, prepare, patient, turn):
        ct = turned(patient[0], turn)
        store = prepare(ct, turned(patient[1], turn), crop="body")
        volume, grid = store.image("1"), store.info("1").prepared_grid
        for index in itertools.product(*((0, side - 1) for side in volume.shape)):
            # where ITK, which wrote the file, says that this point is
            there = ct.TransformPhysicalPointToIndex(grid.point_xyz_mm(index))
            assert ct[there] == volume[index]


class TestTheWayBack:
    @settings(max_examples=18)
    @given(patient=patients(), turn=turns, crop=crops)
    def test_a_kept_grid_brings_the_mask_back_bit_for_bit(self, prepare, patient, turn, crop):
        label = turned(patient[1], turn)
        store = prepare(turned(patient[0], turn), label, crop=crop)
        np.testing.assert_array_equal(_restored(store), sitk.GetArrayFromImage(label))

    @settings(max_examples=12)
    @given(patient=patients(), turn=turns)
    def test_a_finer_grid_brings_nearly_all_of_it_back(self, prepare, patient, turn):
        label = turned(patient[1], turn)
        finer = {"grid": "spacing", "spacing_zyx_mm": (2.0, 2.0, 2.0)}
        store = prepare(turned(patient[0], turn), label, crop="body", **finer)
        truth = sitk.GetArrayFromImage(label)
        assert overlap(_restored(store), truth > 0).dice > 0.97

    @settings(max_examples=15)
    @given(patient=patients(), turn=turns, crop=crops, grid=grids)
    def test_the_prepared_grid_covers_the_box_it_was_cut_from(
        self, prepare, patient, turn, crop, grid
    ):
        store = prepare(*(turned(image, turn) for image in patient), crop=crop, **grid)
        info = store.info("1")
        box = lps_grid(info.source_grid, info.orientation).cropped(info.box)
        require_same_grid(info.prepared_grid.resized(box.shape_zyx), box)


def _restored(store):
    info = store.info("1")
    return restore_mask(
        store.mask("1").astype(np.float32),
        box=info.box,
        source_grid=info.source_grid,
        orientation=info.orientation,
    )
