"""Reading one file: axes, types, and every way in which a file can be broken."""

import gzip
import os
import shutil
import struct
import sys

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from cache.grid import Grid
from cache.orientation import to_lps
from stages.preprocess.reading.links import link_places, linked, takes_links
from stages.preprocess.reading.read import SourceVolume, as_hu, read_ct, read_label
from stages.preprocess.reading.text_header import data_files, declared_data_files

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


def rewrite(path, target, change):
    """Change a plain NIfTI file's bytes and pack them as another file; gives that."""
    content = bytearray(path.read_bytes())
    change(content)
    target.write_bytes(gzip.compress(bytes(content)) if target.suffix == ".gz" else content)
    return target


def write_nifti(path, array, *, order="<", spacing_xyz_mm=(0.7, 0.8, 2.5), sform=None):
    """Write NIfTI-1 byte by byte, int16 (Z, Y, X): what no library would write can be read too.

    Source: nifti1.h of the NIfTI data format working group.
    """
    header = bytearray(352)
    pack = lambda form, at, *values: struct.pack_into(order + form, header, at, *values)  # noqa: E731
    pack("i", 0, 348)
    pack("8h", 40, 3, *array.shape[::-1], 1, 1, 1, 1)
    pack("hh", 70, 4, 16)  # int16
    pack("8f", 76, 1.0, *spacing_xyz_mm, 0, 0, 0, 0)
    pack("f", 108, 352.0)  # where the voxels begin
    header[123] = 2  # mm
    pack("h", 252, 1)  # a qform, without rotation
    pack("3f", 268, 11.0, -7.0, 23.0)  # RAS
    if sform is not None:
        pack("h", 254, 1)
        pack("12f", 280, *np.ravel(sform))
    header[344:348] = b"n+1\0"
    path.write_bytes(bytes(header) + array.astype(f"{order}i2").tobytes())
    return path


def put_header_text(path, before, after):
    """Replace text in the header of a file."""
    content = path.read_bytes()
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, after))
    return path


def rules_of(volume):
    """The rules a tiny volume breaks, apart from being tiny."""
    return [finding.rule for finding in volume.findings if finding.rule != "spacing_plausible"]


def refusal(path):
    """Why a file cannot be read as a CT."""
    with pytest.raises(SourceError) as caught:
        read_ct(path)
    return caught.value


def hu_of(array):
    """An array as int16 HU, as if a file had held it."""
    array = np.asarray(array).reshape(1, 1, -1)
    return as_hu(SourceVolume("ct.nii", array, Grid(array.shape, (1.0, 1.0, 1.0)), "LPS")).ravel()


class TestGeometry:
    def test_reading_turns_xyz_into_zyx(self, write_volume):
        source = read_ct(write_volume(size_xyz=(7, 6, 5), spacing_xyz_mm=(0.7, 0.8, 2.5)))
        assert source.array.shape == source.grid.shape_zyx == (5, 6, 7)
        assert source.grid.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))

    def test_origin_and_direction_stay_in_x_y_z(self, write_volume):
        turned = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)
        path = write_volume(origin_xyz_mm=(-11.0, 7.0, 23.0), direction=turned)
        source = read_ct(path)
        assert source.grid.origin_xyz_mm == pytest.approx((-11.0, 7.0, 23.0))
        assert source.grid.direction == pytest.approx(turned)

    @pytest.mark.parametrize("orientation", ["LPS", "RAS", "LPI", "PSL"])
    def test_the_orientation_says_where_the_axes_point(self, write_volume, orientation):
        of = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation
        assert read_ct(write_volume(direction=of(orientation))).orientation == orientation

    def test_flipped_axes_are_turned_to_lps(self, write_volume):
        flipped = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
        source = read_ct(write_volume(array=counted(), direction=flipped))
        np.testing.assert_array_equal(source.array, counted()[::-1, :, ::-1])

    def test_permuted_axes_are_turned_to_lps_and_the_grid_stays_the_files(self, write_volume):
        of = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation
        source = read_ct(write_volume(array=counted(), direction=of("PSL")))
        # the file's x, y, z point to P, S, L; so its z is LPS's x, its x LPS's y, its y LPS's z
        np.testing.assert_array_equal(source.array, counted().transpose(1, 2, 0))
        assert source.grid.shape_zyx == (5, 6, 7)

    @pytest.mark.parametrize("orientation", ["LPS", "RAS", "PSL", "IAR"])
    def test_voxels_lie_in_one_piece_however_they_were_turned(self, write_volume, orientation):
        of = sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation
        source = read_ct(write_volume(array=counted(), direction=of(orientation)))
        assert source.array.flags.c_contiguous
        assert source.array.flags.writeable
        np.testing.assert_array_equal(source.array, to_lps(counted(), orientation))

    @pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int32, np.float32, np.float64])
    @pytest.mark.parametrize("content", FORMATS)
    def test_voxels_keep_the_files_type(self, write_volume, dtype, content):
        source = read_ct(write_volume(f"ct{content}", counted(dtype=dtype)))
        np.testing.assert_array_equal(source.array, counted(dtype=dtype))
        assert source.array.dtype == dtype

    @pytest.mark.parametrize("content", FORMATS)
    def test_a_series_of_one_volume_is_three_dimensional(self, tmp_path, content):
        path = tmp_path / f"ct{content}"
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(counted())]), str(path))
        source = read_ct(path)
        np.testing.assert_array_equal(source.array, counted())
        assert source.grid.shape_zyx == (5, 6, 7)

    @pytest.mark.parametrize("content", [".mha", ".nrrd"])  # NIfTI's library drops it by itself
    def test_a_dimension_of_one_that_was_dropped_is_told(self, tmp_path, content):
        path = tmp_path / f"ct{content}"
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(counted())]), str(path))
        (found,) = [one for one in read_ct(path).findings if one.rule == "three_dimensional"]
        assert found.fixable


class TestHeaders:
    @pytest.mark.parametrize("bad", [0.0, -0.8, float("nan"), float("inf")])
    @pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_a_spacing_no_scan_has_is_refused_in_nifti(self, write_volume, name, bad, axis):
        def change(content):
            struct.pack_into("<f", content, 80 + 4 * axis, bad)  # pixdim[1:4]

        plain = write_volume("plain.nii", counted())
        error = refusal(rewrite(plain, plain.with_name(name), change))
        assert error.rule == "spacing_positive"
        assert f"{bad:.4g}" in error.fact

    @pytest.mark.parametrize("bad", [b"0", b"-0.8", b"nan"])
    def test_a_spacing_no_scan_has_is_refused_in_metaimage(self, write_volume, bad):
        path = write_volume("ct.mha", counted(), spacing_xyz_mm=(0.5, 0.75, 2.5))
        put_header_text(
            path, b"ElementSpacing = 0.5 0.75 2.5", b"ElementSpacing = 0.5 %s 2.5" % bad
        )
        assert refusal(path).rule == "spacing_positive"

    def test_a_spacing_of_zero_is_refused_in_nrrd(self, write_volume):
        path = write_volume("ct.nrrd", counted(), spacing_xyz_mm=(0.5, 0.75, 2.5))
        put_header_text(path, b"(0,0.75,0)", b"(0,0,0)")
        assert refusal(path).rule == "spacing_positive"

    @pytest.mark.parametrize("bad", [b"0", b"-0.75", b"nan"])
    def test_a_spacing_no_scan_has_is_refused_in_nrrd_without_directions(self, write_volume, bad):
        path = write_volume("ct.nrrd", counted(), spacing_xyz_mm=(0.5, 0.75, 2.5))
        put_header_text(path, b"space: left-posterior-superior\n", b"")
        put_header_text(path, b"space origin: (-11,7,23)\n", b"")
        spacings = b"spacings: 0.5 %s 2.5" % bad
        put_header_text(path, b"space directions: (0.5,0,0) (0,0.75,0) (0,0,2.5)", spacings)
        assert refusal(path).rule == "spacing_positive"

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_either_order_of_bytes_is_read(self, tmp_path, order):
        source = read_ct(write_nifti(tmp_path / "ct.nii", counted(), order=order))
        np.testing.assert_array_equal(source.array, to_lps(counted(), source.orientation))
        assert source.grid.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))
        assert rules_of(source) == []

    @pytest.mark.parametrize("order", ["<", ">"])
    def test_the_spacing_is_looked_at_in_either_order_of_bytes(self, tmp_path, order):
        path = tmp_path / "ct.nii"
        write_nifti(path, counted(), order=order, spacing_xyz_mm=(0.7, -0.8, 2.5))
        assert "0.7·-0.8·2.5 mm" in refusal(path).fact

    @pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz"])
    def test_the_second_version_of_nifti_is_refused_with_what_to_do(self, tmp_path, name):
        head = struct.pack("<i8s", 540, b"n+2\0\r\n\x1a\n") + bytes(600)
        (tmp_path / name).write_bytes(gzip.compress(head) if name.endswith(".gz") else head)
        error = refusal(tmp_path / name)
        assert (error.rule, error.fact[:18]) == ("readable", "is a NIfTI-2 file,")
        assert "NIfTI-1" in error.fix

    def test_big_endian_metaimage_is_read(self, write_volume):
        path = write_volume("ct.mha", counted())
        head, mark, voxels = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
        head = head.replace(b"ByteOrderMSB = False", b"ByteOrderMSB = True")
        path.write_bytes(head + mark + np.frombuffer(voxels, "<i2").astype(">i2").tobytes())
        np.testing.assert_array_equal(read_ct(path).array, counted())

    def test_a_sheared_sform_breaks_the_direction(self, tmp_path):
        # RAS; the last slice lies 4 · 2 mm further to the right than the first
        sheared = [[0.7, 0, 2.0, 11.0], [0, 0.8, 0, -7.0], [0, 0, 2.5, 23.0]]
        source = read_ct(write_nifti(tmp_path / "ct.nii", counted(), sform=sheared))
        assert "direction" in rules_of(source)

    def test_of_two_places_the_one_of_the_sform_is_read(self, tmp_path):
        moved = [[0.7, 0, 0, 51.0], [0, 0.8, 0, -7.0], [0, 0, 2.5, 23.0]]
        source = read_ct(write_nifti(tmp_path / "ct.nii", counted(), sform=moved))
        assert source.grid.origin_xyz_mm == pytest.approx((-51.0, 7.0, 23.0))
        assert rules_of(source) == []

    def test_an_sform_with_another_spacing_breaks_the_direction(self, tmp_path):
        wider = [[0.7, 0, 0, 11.0], [0, 0.8, 0, -7.0], [0, 0, 5.0, 23.0]]
        source = read_ct(write_nifti(tmp_path / "ct.nii", counted(), sform=wider))
        (found,) = [one for one in source.findings if one.rule == "direction"]
        assert "a corner is 10.0 mm apart" in found.fact  # 4 slices of 2.5 mm more

    def test_an_sform_that_agrees_with_the_qform_passes(self, tmp_path):
        same = [[0.7, 0, 0, 11.0], [0, 0.8, 0, -7.0], [0, 0, 2.5, 23.0]]
        assert rules_of(read_ct(write_nifti(tmp_path / "ct.nii", counted(), sform=same))) == []

    def test_axes_that_are_not_at_right_angles_break_the_direction(self, write_volume):
        path = write_volume("ct.nrrd", counted(), spacing_xyz_mm=(0.5, 0.75, 2.5))
        put_header_text(path, b"(0,0.75,0)", b"(0.2,0.75,0)")
        assert rules_of(read_ct(path)) == ["direction"]

    def test_the_identity_as_geometry_is_told_of_a_ct(self, write_volume):
        lost = {"spacing_xyz_mm": (1, 1, 1), "origin_xyz_mm": (0, 0, 0)}
        assert rules_of(read_ct(write_volume(**lost))) == ["identity_affine"]
        assert rules_of(read_label(write_volume(**lost), None)) == []

    @pytest.mark.parametrize("content", FORMATS)
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_what_is_no_number_is_not_taken_for_zero(self, write_volume, content, dtype):
        array = counted(dtype=dtype)
        array[1, 2, 3:6] = [np.nan, np.inf, -np.inf]
        flipped = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)
        source = read_ct(write_volume(f"ct{content}", array, direction=flipped))
        np.testing.assert_array_equal(source.array, array[:, ::-1, ::-1])

    def test_what_is_no_number_stays_so_when_it_is_scaled(self, write_volume):
        def scale(content):
            struct.pack_into("<ff", content, 112, 2.0, -1024.0)  # scl_slope, scl_inter

        array = counted(dtype=np.float32)
        array[1, 2, 3] = np.nan
        plain = write_volume("ct.nii", array)
        source = read_ct(rewrite(plain, plain.with_name("scaled.nii.gz"), scale))
        np.testing.assert_array_equal(source.array, array * 2 - 1024)

    def test_an_implausible_spacing_is_told(self, write_volume):
        found = read_ct(write_volume(spacing_xyz_mm=(0.7, 0.8, 25.0))).findings
        assert [finding.rule for finding in found] == ["spacing_plausible"]


class TestNames:
    @pytest.mark.parametrize("name", ["1", "1.2.840", "scan.ct", "ct.nii", "ct.mha", "größe ct"])
    @pytest.mark.parametrize("content", FORMATS)
    def test_a_file_is_what_it_holds_not_what_it_is_called(self, write_volume, name, content):
        path = write_volume(name, counted(), format=content)
        np.testing.assert_array_equal(read_ct(path).array, counted())

    @pytest.mark.parametrize(
        ("name", "content"), [("ct.nii", ".nii.gz"), ("ct.nii.gz", ".nii"), ("ct.mha", ".nrrd")]
    )
    def test_a_wrong_ending_is_told_and_can_be_ignored(self, write_volume, name, content):
        source = read_ct(write_volume(name, counted(), format=content))
        np.testing.assert_array_equal(source.array, counted())
        (found,) = [one for one in source.findings if one.rule == "extension"]
        assert found.fixable
        assert content in found.fact

    @pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.mha", "ct.nrrd", "ct.mhd", "1.2"])
    def test_an_ending_that_fits_or_is_none_is_not_told(self, write_volume, name):
        format_ = {"format": ".nii.gz"} if name == "1.2" else {}
        assert rules_of(read_ct(write_volume(name, counted(), **format_))) == []

    @pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
    @pytest.mark.parametrize("compress", [False, True])
    def test_a_header_with_its_data_beside_it_is_read(self, write_volume, name, compress):
        path = write_volume(name, counted(), compress=compress)
        np.testing.assert_array_equal(read_ct(path).array, counted())

    def test_a_nifti_beside_a_nrrd_of_the_same_name_is_not_taken_for_it(self, write_volume):
        ct = write_volume("ct.nrrd", np.full((5, 6, 7), -1000, np.int16))
        write_volume("ct.nrrd.nii.gz", np.ones((5, 6, 7), np.uint8))
        assert (read_ct(ct).array == -1000).all()

    @pytest.mark.parametrize("name", ["ct.nrrd", "ct.mha"])
    def test_what_was_converted_from_nifti_is_read(self, write_volume, tmp_path, name):
        source = write_volume("ct.nii", np.full((15, 16, 17), -1000, np.int16))
        image = sitk.ReadImage(str(source))
        sitk.WriteImage(image, str(tmp_path / name), useCompression=True)
        assert read_ct(tmp_path / name).array.shape == (15, 16, 17)

    @pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is text")
    def test_a_name_that_is_no_text_is_read(self, write_volume, tmp_path):
        ct = write_volume("ct.nii.gz", np.full((5, 6, 7), -1000, np.int16))
        ct = ct.rename(tmp_path / os.fsdecode(b"\xff.nii.gz"))
        assert read_ct(ct).array.shape == (5, 6, 7)

    def test_a_file_that_is_gone_is_refused(self, tmp_path):
        with pytest.raises(SourceError, match="cannot be opened"):
            read_ct(tmp_path / "gone.nii.gz")

    def test_reading_leaves_no_links_behind(self, write_volume, tmp_path):
        read_ct(write_volume("sub/1", counted(), format=".nii.gz"))
        assert [path.name for path in tmp_path.rglob("*")] == ["sub", "1"]


class TestDetached:
    """Headers that name the file with the voxels, whatever the header itself is called."""

    NRRD = "NRRD0004\ntype: short\ndimension: 3\nsizes: 7 6 5\nendian: little\nencoding: raw\n"
    META = (
        "ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = 1 1 1\n"
        "DimSize = 7 6 5\nElementType = MET_SHORT\n"
    )
    LIST = "LIST\n0.raw\n1.raw\n2.raw\n3.raw\n4.raw\n"

    @pytest.fixture
    def header(self, tmp_path):
        """Write a header beside its data, whole as all.raw and one file a slice."""
        for z, one in enumerate(counted()):
            (tmp_path / f"{z}.raw").write_bytes(one.tobytes())
        (tmp_path / "all.raw").write_bytes(counted().tobytes())

        def write(name, text):
            (tmp_path / name).write_bytes(text.encode())
            return tmp_path / name

        return write

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.nrrd", NRRD + "data file: all.raw\n\n"),
            ("a.nhdr", NRRD.replace("\n", "\r\n") + "DataFile: all.raw\r\n\r\n"),
            ("a.mha", META + "ElementDataFile = all.raw\n"),
            ("a.mhd", "Comment = ElementDataFile = LOCAL\n" + META + "ElementDataFile\n= all.raw"),
            ("a.nrrd", META + "ElementDataFile: all.raw\n"),
            ("1.2.840", NRRD + "data file: all.raw\n\n"),
            ("a", META + "ElementDataFile = all.raw\n"),
        ],
    )
    def test_the_data_is_known_and_read(self, header, tmp_path, name, text):
        path = header(name, text)
        assert data_files(path) == declared_data_files(path) == [tmp_path / "all.raw"]
        np.testing.assert_array_equal(read_label(path, None).array, counted())

    @pytest.mark.parametrize(
        ("name", "text"),
        [("a.nhdr", f"{NRRD}data file: {LIST}"), ("a.mha", f"{META}ElementDataFile = {LIST}")],
    )
    def test_every_file_of_a_list_is_known(self, header, tmp_path, name, text):
        path = header(name, text)
        assert data_files(path) == [tmp_path / f"{z}.raw" for z in range(5)]
        np.testing.assert_array_equal(read_label(path, None).array, counted())

    def test_data_elsewhere_is_declared_by_any_header(self, header, tmp_path):
        path = header("a.nrrd", self.NRRD + "data file: /elsewhere/x.raw\n\n")
        assert declared_data_files(path) == [tmp_path / "/elsewhere/x.raw"]
        path = header("a.mha", self.META + "ElementDataFile = ../out/x.raw\n")
        assert declared_data_files(path) == [tmp_path / "../out/x.raw"]

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("a.nhdr", NRRD + "data file: %d.raw 0 4 1 2\n\n"),
            ("a.mhd", META + "ElementDataFile = %d.raw 0 4 1\n"),
            ("a.mha", META + "ElementDataFile = all.raw %d 3\n"),  # would end the process
        ],
    )
    def test_a_pattern_for_the_names_of_data_is_refused(self, header, name, text):
        assert refusal(header(name, text)).rule == "data_inside"

    @pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
    def test_a_header_under_the_ending_of_nifti_is_refused(self, header, tmp_path, name):
        text = f"{self.META}ElementDataFile = {tmp_path / 'all.raw'}\n"
        assert refusal(header(name, text)).rule == "data_inside"

    def test_data_that_is_not_there_is_named(self, header):
        error = refusal(header("a.nrrd", self.NRRD + "data file: gone.raw\n\n"))
        assert error.fact == "names the data file 'gone.raw', which is not there"

    def test_a_file_with_its_voxels_in_it_declares_none(self, write_volume):
        for name in ("a.nrrd", "a.mha", "a.nii.gz"):
            assert declared_data_files(write_volume(name, counted())) == []

    def test_data_in_a_folder_below_is_read_under_a_wrong_ending(self, header, tmp_path):
        (tmp_path / "raw").mkdir()
        (tmp_path / "all.raw").rename(tmp_path / "raw" / "all.raw")
        path = header("a.mha", self.NRRD + "data file: raw/all.raw\n\n")
        np.testing.assert_array_equal(read_label(path, None).array, counted())

    @pytest.mark.parametrize("name", ["a.mha", "a"])
    def test_data_above_a_header_without_its_ending_is_refused(self, header, tmp_path, name):
        (tmp_path / "sub").mkdir()
        path = header(f"sub/{name}", self.NRRD + "data file: ../all.raw\n\n")
        assert "above its folder" in refusal(path).fact

    def test_a_metaimage_without_end_of_its_header_is_refused(self, header):
        comments = "Comment = long\n" * 100_000
        error = refusal(header("a.mha", f"{comments}{self.META}ElementDataFile = all.raw\n"))
        assert "no ElementDataFile" in error.fact

    def test_voxels_that_look_like_blank_lines_are_no_header(self, write_volume):
        blank = np.full((40, 60, 70), ord("\n"), np.uint8)
        assert declared_data_files(write_volume("a.mha", blank)) == []


class TestLinks:
    """Where links are made for paths that SimpleITK cannot open."""

    def test_windows_links_on_the_drive_of_the_data_first(self):
        assert link_places("D:/", "C:/Temp", is_windows=True) == ["D:/", "C:/Temp"]

    def test_windows_links_in_no_folder_that_is_not_ascii(self):
        assert link_places("D:/", "C:/Users/Jörg/Temp", is_windows=True) == ["D:/"]
        assert link_places("//höst/a/", "C:/Jörg/Temp", is_windows=True) == []

    def test_other_systems_link_in_their_folder_for_temporary_files(self):
        assert link_places("/", "/tmp/jörg", is_windows=False) == ["/tmp/jörg"]

    def test_a_folder_takes_links_and_is_left_empty(self, tmp_path):
        (tmp_path / "a").write_bytes(b"a")
        (tmp_path / "links").mkdir()
        assert takes_links(tmp_path / "links", tmp_path / "a")
        assert not list((tmp_path / "links").iterdir())

    def test_a_folder_that_takes_no_links_says_so(self, tmp_path):
        (tmp_path / "a").write_bytes(b"a")
        assert not takes_links(tmp_path / "gone", tmp_path / "a")

    def test_two_files_never_get_one_link(self, tmp_path):
        for name in ("a", "b"):
            (tmp_path / name).write_bytes(name.encode())
        with (
            pytest.raises(FileExistsError),
            linked({"1": tmp_path / "a", "./1": tmp_path / "b"}, near=tmp_path / "a"),
        ):
            pass
        assert (tmp_path / "a").read_bytes() == b"a"

    def test_linked_files_have_their_new_names_and_are_gone_afterwards(self, tmp_path):
        (tmp_path / "ä").write_bytes(b"a")
        with linked({"sub/1.dcm": tmp_path / "ä"}, near=tmp_path / "ä") as folder:
            assert (folder / "sub/1.dcm").read_bytes() == b"a"
        assert not folder.exists()
        assert (tmp_path / "ä").read_bytes() == b"a"


class TestDamage:
    def test_a_nifti_that_ends_early_is_refused_with_its_bytes(self, write_volume):
        path = write_volume("ct.nii", counted())
        path.write_bytes(path.read_bytes()[:-100])
        # 352 bytes of header and 5 * 6 * 7 voxels of 2 bytes
        error = refusal(path)
        assert error.rule == "truncated"
        assert error.fact == "ends early: 672 of 772 bytes are there"

    @pytest.mark.parametrize("compress", [False, True])
    def test_a_metaimage_that_ends_early_is_refused_with_its_bytes(self, write_volume, compress):
        path = write_volume("ct.mha", noise(), compress=compress)
        whole = path.stat().st_size
        path.write_bytes(path.read_bytes()[:-1000])
        error = refusal(path)
        assert error.rule == "truncated"
        assert error.fact == f"ends early: {whole - 1000:,} of {whole:,} bytes are there"

    @pytest.mark.parametrize("compress", [False, True])
    def test_a_nrrd_that_ends_early_is_refused(self, write_volume, compress):
        path = write_volume("ct.nrrd", noise(), compress=compress)
        path.write_bytes(path.read_bytes()[:-1000])
        assert refusal(path).rule in ("truncated", "checksum", "readable")

    @pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
    def test_a_gzip_that_ends_early_is_refused_with_its_bytes(self, write_volume, kept):
        path = write_volume("ct.nii.gz", noise())
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * kept)])
        with pytest.raises(SourceError, match=r"ends early: [\d,]+ of 336,352 bytes are there"):
            read_ct(path)

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
            read_ct(path)

    def test_voxels_beside_a_header_that_end_early_are_refused(self, write_volume):
        path = write_volume("ct.mhd", noise())
        raw = path.with_suffix(".raw")
        raw.write_bytes(raw.read_bytes()[:-100])
        with pytest.raises(SourceError, match="cannot be read"):
            read_ct(path)

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
            read_ct(path)

    def test_gzip_in_several_members_is_whole(self, write_volume):
        path = write_members(write_volume("ct.nii", smooth()))
        np.testing.assert_array_equal(read_ct(path).array, smooth())

    @pytest.mark.parametrize("where", [0.2, 0.7])
    def test_a_flipped_bit_in_any_member_is_refused(self, write_volume, where):
        path = write_members(write_volume("ct.nii", smooth()))
        content = bytearray(path.read_bytes())
        content[int(len(content) * where)] ^= 4
        path.write_bytes(content)
        with pytest.raises(SourceError, match=r"is damaged|ends early|cannot be read"):
            read_ct(path)

    def test_gzip_whose_voxels_are_scaled_is_whole(self, write_volume):
        path = write_volume("ct.nii", counted(dtype=np.int16))
        content = bytearray(path.read_bytes())
        content[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()  # scl_slope, scl_inter
        target = path.with_name("scaled.nii.gz")
        target.write_bytes(gzip.compress(bytes(content)))
        np.testing.assert_array_equal(read_ct(target).array, counted(dtype=np.float64) * 2 - 1024)

    def wrong_crc(self, path):
        """Flip a bit of the checksum, which stands 8 bytes before a gzip file's end."""
        content = bytearray(path.read_bytes())
        content[-8] ^= 1
        path.write_bytes(content)
        return path

    def test_a_wrong_checksum_is_refused_by_its_rule(self, write_volume):
        assert refusal(self.wrong_crc(write_volume(array=smooth()))).rule == "checksum"

    def test_a_wrong_checksum_of_scaled_voxels_is_refused_too(self, write_volume):
        def scale(content):
            struct.pack_into("<ff", content, 112, 2.0, -1024.0)  # scl_slope, scl_inter

        plain = write_volume("ct.nii", smooth())
        path = rewrite(plain, plain.with_name("scaled.nii.gz"), scale)
        assert refusal(self.wrong_crc(path)).rule == "checksum"

    def test_a_wrong_checksum_of_a_series_of_one_volume_is_refused_too(self, tmp_path):
        path = tmp_path / "ct.nii.gz"
        sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(smooth())]), str(path))
        assert refusal(self.wrong_crc(path)).rule == "checksum"

    def test_a_flipped_bit_in_a_big_endian_file_is_refused(self, tmp_path):
        plain = write_nifti(tmp_path / "ct.nii", smooth(), order=">")
        path = rewrite(plain, tmp_path / "ct.nii.gz", lambda content: None)
        assert refusal(self.wrong_crc(path)).rule == "checksum"

    @pytest.mark.parametrize("content", [b"", b"\x1f\x8b", b"hello", b"\0" * 400, b"n" * 348])
    @pytest.mark.parametrize("name", ["ct.nii.gz", "ct.nii", "ct.mha", "ct.nrrd", "ct"])
    def test_a_file_of_rubbish_is_refused(self, tmp_path, content, name):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(SourceError) as caught:
            read_ct(tmp_path / name)
        assert caught.value.where == tmp_path / name
        assert "\n" not in caught.value.fact

    @pytest.mark.parametrize("start", [0.0, 348.0, -8.0, 352.5, 3e9, float("nan"), float("inf")])
    def test_voxels_that_begin_where_none_can_are_refused(self, tmp_path, start):
        plain = write_nifti(tmp_path / "plain.nii", counted())
        change = lambda content: struct.pack_into("<f", content, 108, start)  # noqa: E731
        error = refusal(rewrite(plain, tmp_path / "ct.nii.gz", change))
        assert (error.rule, "vox_offset" in error.fact) == ("readable", True)

    def test_voxels_may_begin_behind_extensions(self, tmp_path):
        plain = write_nifti(tmp_path / "plain.nii", counted())

        def change(content):
            struct.pack_into("<f", content, 108, 368.0)
            content[352:352] = bytes(16)

        source = read_ct(rewrite(plain, tmp_path / "ct.nii.gz", change))
        assert sorted(source.array.ravel()) == sorted(counted().ravel())

    def test_an_lfs_pointer_is_refused_with_the_command_that_fetches_the_data(self, tmp_path):
        text = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
        (tmp_path / "ct.nii.gz").write_text(text)
        error = refusal(tmp_path / "ct.nii.gz")
        assert error.rule == "lfs_pointer"
        assert "git lfs pull" in error.fix

    def test_four_dimensions_are_refused_with_their_sizes(self, tmp_path):
        volume = sitk.GetImageFromArray(counted())
        sitk.WriteImage(sitk.JoinSeries([volume, volume]), str(tmp_path / "ct.nii.gz"))
        error = refusal(tmp_path / "ct.nii.gz")
        assert error.rule == "three_dimensional"
        assert error.fact == "has 4 dimensions (7·6·5·2), not 3"

    def test_a_single_picture_is_refused(self, tmp_path):
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros((6, 7), np.int16)), str(tmp_path / "a.mha"))
        with pytest.raises(SourceError, match=r"2 dimensions \(7·6\), not 3"):
            read_ct(tmp_path / "a.mha")

    def test_complex_numbers_are_refused(self, tmp_path):
        image = sitk.Image((7, 6, 5), sitk.sitkComplexFloat32)
        sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
        with pytest.raises(SourceError, match=r"several numbers per voxel \(complex"):
            read_ct(tmp_path / "ct.nii.gz")

    def test_colours_are_refused(self, tmp_path):
        image = sitk.Image((7, 6, 5), sitk.sitkVectorUInt8, 3)
        sitk.WriteImage(image, str(tmp_path / "ct.nrrd"))
        with pytest.raises(SourceError, match=r"several numbers per voxel \(vector"):
            read_ct(tmp_path / "ct.nrrd")


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

    def test_a_ct_of_uint16_does_not_wrap(self):
        np.testing.assert_array_equal(hu_of(np.uint16([0, 1024, 65535])), [0, 1024, 32767])

    def test_nan_is_air_where_that_is_wanted(self):
        array = np.float32([1, np.nan, 3]).reshape(1, 1, -1)
        source = SourceVolume("ct.nii", array, Grid(array.shape, (1.0, 1.0, 1.0)), "LPS")
        np.testing.assert_array_equal(as_hu(source, fill_nan=True).ravel(), [1, -1000, 3])

    def test_a_ct_in_int16_is_not_copied(self):
        array = counted()
        source = SourceVolume("ct.nii", array, Grid(array.shape, (1.0, 1.0, 1.0)), "LPS")
        assert np.shares_memory(as_hu(source), array)


class TestSegmentations:
    """Files of 3D Slicer, which name their segments in the header."""

    def write(self, path, array, segments, *, is_vector=False):
        """Write a .seg.nrrd; ``segments`` are (name, value, layer)."""
        image = sitk.GetImageFromArray(array, isVector=is_vector)
        image.SetSpacing((0.7, 0.8, 2.5))
        for number, fields in enumerate(segments):
            for key, value in zip(("Name", "LabelValue", "Layer"), fields, strict=True):
                image.SetMetaData(f"Segment{number}_{key}", str(value))
        sitk.WriteImage(image, str(path))
        return path

    def one_layer(self, tmp_path):
        label = np.zeros((5, 6, 7), np.uint8)
        label[1:3, 2:5, 3:6], label[3:, :2, :3] = 4, 7
        path = tmp_path / "a.seg.nrrd"
        return label, self.write(path, label, [("spleen", 7, 0), ("liver", 4, 0)])

    def layers(self, tmp_path):
        """A liver with a tumour inside it and a spleen, each reaching into the next."""
        layers = np.zeros((5, 6, 7, 2), np.uint8)
        layers[1:4, 1:5, 1:5, 0] = 1  # liver
        layers[4, 4:, 5:, 0] = 2  # spleen
        layers[2, 2:4, 2:6, 1] = 1  # tumour, one voxel beyond the liver
        path = tmp_path / "b.seg.nrrd"
        segments = [("liver", 1, 0), ("spleen", 2, 0), ("tumour", 1, 1)]
        return layers, self.write(path, layers, segments, is_vector=True)

    def test_one_layer_is_a_label_map_with_names(self, tmp_path):
        label, path = self.one_layer(tmp_path)
        source = read_label(path, None)
        np.testing.assert_array_equal(source.array, label)
        assert source.names == {"spleen": (7,), "liver": (4,)}
        assert rules_of(source) == []

    def test_overlapping_layers_stay_apart(self, tmp_path):
        layers, path = self.layers(tmp_path)
        source = read_label(path, None)
        np.testing.assert_array_equal(source.array, layers)
        assert source.grid.shape_zyx == (5, 6, 7)
        assert source.names == {"liver": (1,), "spleen": (2,), "tumour": (1,)}
        assert source.layers == {"liver": (0,), "spleen": (0,), "tumour": (1,)}

    def test_layers_are_turned_to_lps_one_by_one(self, tmp_path):
        layers = np.random.default_rng(5).integers(0, 2, (5, 6, 7, 2)).astype(np.uint8)
        image = sitk.GetImageFromArray(layers, isVector=True)
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
        image.SetMetaData("Segment0_Name", "liver")
        sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        source = read_label(tmp_path / "a.seg.nrrd", None)
        np.testing.assert_array_equal(source.array, layers[:, ::-1, ::-1])

    def test_a_segment_without_value_and_layer_is_1_in_the_first(self, tmp_path):
        image = sitk.GetImageFromArray(np.ones((5, 6, 7), np.uint8))
        image.SetMetaData("Segment0_Name", "liver")
        sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        source = read_label(tmp_path / "a.seg.nrrd", None)
        assert (source.names, source.layers) == ({"liver": (1,)}, {"liver": (0,)})

    def test_segments_are_found_whatever_their_numbers_and_a_nameless_one_by_its_id(self, tmp_path):
        image = sitk.GetImageFromArray(np.ones((5, 6, 7), np.uint8))
        image.SetMetaData("Segment1_Name", "liver")
        image.SetMetaData("Segment4_ID", "spleen")
        image.SetMetaData("Segment4_LabelValue", "2")
        sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        assert read_label(tmp_path / "a.seg.nrrd", None).names == {"liver": (1,), "spleen": (2,)}

    def test_segments_of_one_name_are_one_structure(self, tmp_path):
        layers, _ = self.layers(tmp_path)
        segments = [("liver", 1, 0), ("spleen", 2, 0), ("liver", 1, 1)]
        path = self.write(tmp_path / "a.seg.nrrd", layers, segments, is_vector=True)
        source = read_label(path, None)
        assert source.names == {"liver": (1, 1), "spleen": (2,)}
        assert source.layers == {"liver": (0, 1), "spleen": (0,)}

    @pytest.mark.parametrize(
        ("segment", "fact"),
        [
            (("liver", "1.0", "0"), "its Segment0_LabelValue is '1.0', no whole number"),
            (("liver", "1", ""), "its Segment0_Layer is '', no whole number"),
            (("liver", "1", "1"), "its segment 0 is in layer 1 of 1"),
            (("liver", "1", "-1"), "its segment 0 is in layer -1 of 1"),
        ],
    )
    def test_a_segment_that_cannot_be_is_refused(self, tmp_path, segment, fact):
        label = np.ones((5, 6, 7), np.uint8)
        path = self.write(tmp_path / "a.seg.nrrd", label, [segment])
        with pytest.raises(SourceError) as caught:
            read_label(path, None)
        assert caught.value.fact == fact

    def test_a_segmentation_in_layers_is_no_ct(self, tmp_path):
        _, path = self.layers(tmp_path)
        error = refusal(path)
        assert (error.rule, error.fact) == ("plain_numbers", "is a segmentation, not a CT")

    def test_layers_without_names_are_several_numbers_per_voxel(self, tmp_path):
        path = self.write(tmp_path / "a.nrrd", np.zeros((5, 6, 7, 2), np.uint8), [], is_vector=True)
        with pytest.raises(SourceError, match="several numbers per voxel"):
            read_label(path, None)


@pytest.mark.realct
@pytest.mark.parametrize("name", ODD)
def test_an_odd_file_is_a_volume_or_a_readable_refusal(realct, name):
    path = realct / "odd" / name
    try:
        source = read_ct(path)
    except SourceError as error:
        refusal = error
    else:
        refusal = None
        assert source.array.shape == source.grid.shape_zyx
    refused = {
        "complex.nii.gz": "several numbers per voxel",
        "empty.nii.gz": "",
        "empty-liver/series/CT000081.dcm": "is one DICOM file",
        "example4d.nii.gz": "4 dimensions",
        "lfs_pointers/images/liver_0.nii.gz": "git-LFS pointer",
        "lfs_pointers/labels/liver_1.nii.gz": "git-LFS pointer",
        "truncated.mha": "ends early",
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
        read_ct(path)
