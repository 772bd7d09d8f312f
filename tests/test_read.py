"""Reading one file: axes, types, and every way in which a file can be broken."""

import gzip
import shutil

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from cache.grid import Grid
from stages.preprocess.read import SourceVolume, as_hu, binarize, file_digest, read_source

FORMATS = (".nii", ".nii.gz", ".mha", ".nrrd")
ODD = (
    "complex.nii.gz",
    "empty.nii.gz",
    "empty-liver/liver.nii.gz",
    "empty-liver/series/CT000081.dcm",
    "example4d.nii.gz",
    "gzip_named_nii.nii",
    "lfs_pointers/images/liver_0.nii.gz",
    "lfs_pointers/labels/liver_1.nii.gz",
    "low_res.nii.gz",
    "minimal.nii.gz",
    "raw_nifti_named_gz.nii.gz",
    "shear.nii.gz",
    "truncated.mha",
    "truncated_example_ct_sm.nii.gz",
    "truncated_seg.nrrd",
)


def counted(shape=(5, 6, 7), dtype=np.int16):
    """An array in which every voxel has a value of its own."""
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def noise(shape=(40, 60, 70)):
    """A volume large enough that zlib has more than one block to inflate."""
    return np.random.default_rng(31).integers(-1000, 1000, shape).astype(np.int16)


def smooth():
    """A volume that compresses well, so that a flipped bit can go unnoticed while inflating."""
    z, y, x = np.indices((40, 60, 70))
    return (1000 * np.sin(z / 5) * np.cos(y / 7 + x / 9)).astype(np.int16)


def write_members(path):
    """Pack a file as two gzip members in a row, each with half of it."""
    content = path.read_bytes()
    half = len(content) // 2
    packed = path.with_name("members.nii.gz")
    packed.write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    return packed


def hu_of(array):
    """An array as int16 HU, as if a file had held it."""
    array = np.asarray(array).reshape(1, 1, -1)
    return as_hu(SourceVolume("ct.nii", array, Grid(array.shape, (1.0, 1.0, 1.0)), "LPS")).ravel()


class TestGeometry:
    def test_reading_turns_xyz_into_zyx(self, write_volume):
        source = read_source(write_volume(size_xyz=(7, 6, 5), spacing_xyz_mm=(0.7, 0.8, 2.5)))
        assert source.array.shape == source.grid.shape_zyx == (5, 6, 7)
        assert source.grid.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))

    def test_origin_and_direction_stay_in_x_y_z(self, write_volume):
        turned = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        path = write_volume(origin_xyz_mm=(-11.0, 7.0, 23.0), direction=turned)
        source = read_source(path)
        assert source.grid.origin_xyz_mm == pytest.approx((-11.0, 7.0, 23.0))
        assert source.grid.direction == pytest.approx(turned)

    @pytest.mark.parametrize("orientation", ["LPS", "RAS", "LPI", "PSL"])
    def test_the_orientation_says_where_the_axes_point(self, write_volume, orientation):
        of = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation
        assert read_source(write_volume(direction=of(orientation))).orientation == orientation

    def test_voxels_keep_the_files_order_and_type(self, write_volume):
        flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
        source = read_source(write_volume(array=counted(dtype=np.int32), direction=flipped))
        np.testing.assert_array_equal(source.array, counted())
        assert source.array.dtype == np.int32

    def test_a_series_of_one_volume_is_three_dimensional(self, tmp_path):
        image = sitk.JoinSeries([sitk.GetImageFromArray(counted())])
        sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        assert read_source(tmp_path / "ct.nii.gz").grid.shape_zyx == (5, 6, 7)


class TestNames:
    @pytest.mark.parametrize("name", ["1", "1.2.840", "scan.ct", "ct.nii", "ct.mha", "größe ct"])
    @pytest.mark.parametrize("content", FORMATS)
    def test_a_file_is_what_it_holds_not_what_it_is_called(self, write_volume, name, content):
        path = write_volume(name, counted(), format=content)
        np.testing.assert_array_equal(read_source(path).array, counted())

    def test_plain_nifti_named_gz_is_read(self, write_volume):
        path = write_volume("ct.nii.gz", counted(), format=".nii")
        np.testing.assert_array_equal(read_source(path).array, counted())

    @pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
    @pytest.mark.parametrize("compress", [False, True])
    def test_a_header_with_its_data_beside_it_is_read(self, write_volume, name, compress):
        path = write_volume(name, counted(), compress=compress)
        np.testing.assert_array_equal(read_source(path).array, counted())

    def test_a_file_that_is_gone_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="cannot be opened"):
            read_source(tmp_path / "gone.nii.gz")

    def test_reading_leaves_no_links_behind(self, write_volume, tmp_path):
        read_source(write_volume("sub/1", counted(), format=".nii.gz"))
        assert [path.name for path in tmp_path.rglob("*")] == ["sub", "1"]


class TestDamage:
    def test_a_nifti_that_ends_early_is_refused_with_its_bytes(self, write_volume):
        path = write_volume("ct.nii", counted())
        path.write_bytes(path.read_bytes()[:-100])
        # 352 bytes of header and 5 * 6 * 7 voxels of 2 bytes
        with pytest.raises(SourceError, match="ends early: 672 of 772 bytes are there"):
            read_source(path)

    @pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
    def test_a_gzip_that_ends_early_is_refused_with_its_bytes(self, write_volume, kept):
        path = write_volume("ct.nii.gz", noise())
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(SourceError, match=r"ends early: [\d,]+ of 336,352 bytes are there"):
            read_source(path)

    @pytest.mark.parametrize("content", FORMATS)
    @pytest.mark.parametrize("compress", [False, True])
    @pytest.mark.parametrize("kept", [0.1, 0.6, 0.99])
    def test_a_file_of_any_format_that_ends_early_is_refused(
        self, write_volume, content, compress, kept
    ):
        path = write_volume(f"ct{content}", noise(), compress=compress)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(SourceError):
            read_source(path)

    def test_voxels_beside_a_header_that_end_early_are_refused(self, write_volume):
        path = write_volume("ct.mhd", noise())
        raw = path.with_suffix(".raw")
        raw.write_bytes(raw.read_bytes()[:-100])
        with pytest.raises(SourceError, match="cannot be read"):
            read_source(path)

    @pytest.mark.parametrize("name", ["ct.nii.gz", "ct.mha", "ct.nrrd", "ct.mhd", "ct.nhdr", "1"])
    @pytest.mark.parametrize("where", [0.4, 0.7, 0.95])
    def test_a_flipped_bit_in_a_compressed_file_is_refused(self, write_volume, name, where):
        ending = {"format": ".nii.gz"} if name == "1" else {}
        path = write_volume(name, smooth(), compress=True, **ending)
        beside = [path.with_suffix(".zraw"), path.with_name("ct.raw.gz")]
        file = next((one for one in beside if one.is_file()), path)
        content = bytearray(file.read_bytes())
        content[int(len(content) * where)] ^= 4
        file.write_bytes(content)
        with pytest.raises(SourceError, match=r"is damaged|cannot be read|ends early"):
            read_source(path)

    def test_gzip_in_several_members_is_whole(self, write_volume):
        path = write_members(write_volume("ct.nii", smooth()))
        np.testing.assert_array_equal(read_source(path).array, smooth())

    @pytest.mark.parametrize("where", [0.2, 0.7])
    def test_a_flipped_bit_in_any_member_is_refused(self, write_volume, where):
        path = write_members(write_volume("ct.nii", smooth()))
        content = bytearray(path.read_bytes())
        content[int(len(content) * where)] ^= 4
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"is damaged|ends early|cannot be read"):
            read_source(path)

    def test_gzip_whose_voxels_are_scaled_is_whole(self, write_volume):
        path = write_volume("ct.nii", counted(dtype=np.int16))
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()  # scl_slope, scl_inter
        target = path.with_name("scaled.nii.gz")
        target.write_bytes(gzip.compress(bytes(content)))
        np.testing.assert_array_equal(
            read_source(target).array, counted(dtype=np.float64) * 2 - 1024
        )

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"hello", b"\0" * 400, b"n" * 348])
    @pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.mha", "ct.nrrd", "ct"])
    def test_rubbish_is_refused(self, tmp_path, content, name):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError) as caught:
            read_source(tmp_path / name)
        assert caught.value.where == tmp_path / name
        assert "\n" not in caught.value.fact

    def test_an_lfs_pointer_is_refused_with_the_command_that_fetches_the_data(self, tmp_path):
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        (tmp_path / "ct.nii.gz").write_text(text)
        with pytest.raises(SourceError, match="git lfs pull"):
            read_source(tmp_path / "ct.nii.gz")

    def test_four_dimensions_are_refused_with_their_sizes(self, tmp_path):
        volume = sitk.GetImageFromArray(counted())
        sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(tmp_path / "ct.nii.gz"))
        with pytest.raises(SourceError, match=r"4 dimensions \(7·6·5·2\), not 3"):
            read_source(tmp_path / "ct.nii.gz")

    def test_a_single_picture_is_refused(self, tmp_path):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 7), np.int16)), str(tmp_path / "a.mha"))
        with pytest.raises(SourceError, match=r"2 dimensions \(7·6\), not 3"):
            read_source(tmp_path / "a.mha")

    def test_complex_numbers_are_refused(self, tmp_path):
        image = sitk.Image((7, 6, 5), sitk.sitkComplexFloat32)
        sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        with pytest.raises(SourceError, match=r"several numbers per voxel \(complex"):
            read_source(tmp_path / "ct.nii.gz")

    def test_colours_are_refused(self, tmp_path):
        image = sitk.Image((7, 6, 5), sitk.sitkVectorUInt8, 3)
        sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
        with pytest.raises(SourceError, match=r"several numbers per voxel \(vector"):
            read_source(tmp_path / "ct.nrrd")


class TestHounsfieldUnits:
    def test_int16_is_taken_as_it_is(self):
        np.testing.assert_array_equal(
            hu_of(np.int16([-3024, -1000, 0, 32767])), [-3024, -1000, 0, 32767]
        )

    def test_fractions_are_rounded_and_not_cut_off(self):
        hu = hu_of(np.float32([-1000.6, -0.6, 0.4, 99.7]))
        np.testing.assert_array_equal(hu, [-1001, -1, 0, 100])
        assert hu.dtype == np.int16

    @pytest.mark.parametrize("dtype", [np.int32, np.int64, np.float32, np.float64])
    def test_what_int16_cannot_hold_is_clipped_and_does_not_wrap(self, dtype):
        hu = hu_of(np.array([-40000, 40000, 65536, 7], dtype))
        np.testing.assert_array_equal(hu, [-32768, 32767, 32767, 7])

    def test_uint16_does_not_wrap(self):
        np.testing.assert_array_equal(hu_of(np.uint16([0, 1024, 65535])), [0, 1024, 32767])

    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    def test_what_is_no_number_is_refused_with_its_count(self, bad):
        with pytest.raises(SourceError, match="2 voxels are NaN or infinite"):
            hu_of(np.array([1.0, bad, 3.0, bad]))


class TestBinarizing:
    LABEL_MAP = np.array([0, 1, 2, 5, 255, -1])

    def test_any_takes_all_values_above_zero(self):
        np.testing.assert_array_equal(binarize(self.LABEL_MAP, None), [0, 1, 1, 1, 1, 0])

    def test_a_list_takes_the_listed_values_alone(self):
        np.testing.assert_array_equal(binarize(self.LABEL_MAP, [2, 255]), [0, 0, 1, 0, 1, 0])

    @pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.float32, np.float64])
    def test_the_mask_is_uint8_whatever_the_labels_type(self, dtype):
        mask = binarize(np.array([0, 1, 2], dtype), [2])
        np.testing.assert_array_equal(mask, [0, 0, 1])
        assert mask.dtype == np.uint8


class TestDigest:
    def test_it_is_the_sha256_of_the_bytes(self, tmp_path):
        (tmp_path / "a").write_bytes(b"abc")
        # the test vector of FIPS 180-2, appendix B.1
        expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        assert file_digest(tmp_path / "a") == expected

    @pytest.mark.parametrize(("name", "data"), [("ct.mhd", "ct.raw"), ("ct.nhdr", "ct.raw")])
    def test_the_data_beside_a_header_counts(self, write_volume, name, data):
        path = write_volume(name, counted())
        before = file_digest(path)
        raw = path.with_name(data)
        raw.write_bytes(raw.read_bytes()[::-1])
        assert file_digest(path) != before


@pytest.mark.realct
@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_a_volume_or_a_readable_refusal(realct, name):
    path = realct / "odd" / name
    try:
        source = read_source(path)
    except SourceError as error:
        refusal = error
    else:
        refusal = None
        assert source.array.shape == source.grid.shape_zyx
    refused = {
        "complex.nii.gz": "several numbers per voxel",
        "empty.nii.gz": "",
        "example4d.nii.gz": "4 dimensions",
        "lfs_pointers/images/liver_0.nii.gz": "git-LFS pointer",
        "lfs_pointers/labels/liver_1.nii.gz": "git-LFS pointer",
        "truncated.mha": "cannot be read",
        "truncated_example_ct_sm.nii.gz": "ends early",
        "truncated_seg.nrrd": "cannot be read",
    }
    assert (refusal is not None) == (name in refused)
    if refusal is not None:
        assert refused[name] in refusal.fact
        assert refusal.where == path


@pytest.mark.realct
def test_the_odd_files_are_all_of_them(realct):
    odd = realct / "odd"
    files = {path.relative_to(odd).as_posix() for path in odd.rglob("*") if path.is_file()}
    left_out = ("empty-liver/series/", "lfs_pointers/")
    assert {name for name in files if not name.startswith(left_out)} <= set(ODD)


@pytest.mark.realct
def test_a_real_ct_with_a_flipped_bit_is_refused(realct, tmp_path):
    path = shutil.copy(realct / "LiverDataset/image/slab-20/slab-20.nii.gz", tmp_path / "ct.nii.gz")
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"is damaged|ends early"):
        read_source(path)
