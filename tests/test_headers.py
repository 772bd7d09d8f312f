"""What a file's header says: read rightly, or refused by what is wrong in it, never guessed."""

import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from stages.preprocess.files import CaseFiles
from stages.preprocess.reading.read import read_ct, read_label
from stages.preprocess.workers.estimate import need_of
from test_estimate import KEPT, SPACED
from test_read import counted, put_header_text, refusal, rewrite, rules_of, write_nifti

PLACE = {"spacing_xyz_mm": (0.5, 0.75, 2.5), "origin_xyz_mm": (-11.0, 7.0, 23.0)}
LINES = {".mha": b"ElementSpacing", ".nrrd": b"kinds"}  # each format's line to put others before
COMMENTS = {
    ".mha": (
        b"Untersucher_M\xfcller = J\xf6rg",
        b"Comment = a\0b",
        b"\0\0\0\0",
        b"Comment = ",
        b"",
    ),
    ".nrrd": (b"Untersucher:=M\xfcller", b"# a\0b", b"content: \0", b"content: ", b"junk"),
}
NOBODYS = [(ending, line) for ending, lines in COMMENTS.items() for line in lines]


@pytest.fixture
def write_with_line(write_volume):
    """Write a small CT with a further line in its header, long if it ends in a blank."""

    def write(ending, line, *, compress=False):
        path = write_volume(f"ct{ending}", counted(), compress=compress, **PLACE)
        line += b"x" * 70_000 * line.endswith(b" ") if ending == ".nrrd" else b""
        line += b"x" * 20_000 * line.endswith(b" ") if ending == ".mha" else b""
        return put_header_text(path, LINES[ending], line + b"\n" + LINES[ending])

    return write


def require_right(source, array=None):
    """The volume of ``write_with_line``, as it was written."""
    np.testing.assert_array_equal(source.array, counted() if array is None else array)
    assert source.grid.spacing_zyx_mm == pytest.approx((2.5, 0.75, 0.5))
    assert source.grid.origin_xyz_mm == pytest.approx((-11.0, 7.0, 23.0))


class TestTextsNobodyNeeds:
    @pytest.mark.parametrize("compress", [False, True])
    @pytest.mark.parametrize(("ending", "line"), NOBODYS)
    def test_a_line_that_nobody_needs_never_stops_a_file(
        self, write_with_line, ending, line, compress
    ):
        require_right(read_ct(write_with_line(ending, line, compress=compress)))

    @pytest.mark.parametrize("name", ["ct.mhd", "ct.nhdr"])
    def test_a_header_beside_its_data_may_hold_any_text_too(self, write_volume, name):
        path = write_volume(name, counted(), **PLACE)
        key, line = (b"DimSize", b"M = \xfc\n") if name == "ct.mhd" else (b"kinds", b"M:=\xfc\n")
        require_right(read_ct(put_header_text(path, key, line + key)))

    def test_a_name_of_a_structure_that_is_latin_1_is_read(self, tmp_path):
        image = sitk.GetImageFromArray(np.ones((5, 6, 7), np.uint8))
        image.SetMetaData("Segment0_Name", "Xberlauf")
        sitk.WriteImage(image, str(tmp_path / "a.seg.nrrd"))
        path = put_header_text(tmp_path / "a.seg.nrrd", b"Xberlauf", b"\xdcberlauf")
        assert read_label(path, None).names == {"Überlauf": (1,)}

    @pytest.mark.parametrize("place", [148, 228, 328])  # descrip, aux_file, intent_name
    @pytest.mark.parametrize("text", [b"J\xf6rg", b"\xff\xfe\0\xff", b"x" * 16])
    def test_a_text_of_nifti_may_be_anything(self, tmp_path, place, text):
        def change(content):
            content[place : place + len(text)] = text

        path = rewrite(write_nifti(tmp_path / "a.nii", counted()), tmp_path / "ct.nii.gz", change)
        assert rules_of(read_ct(path)) == []

    @pytest.mark.parametrize("line", [b"CenterOfRotation = \0 0", b"AnatomicalOrientation = \xff"])
    def test_a_damaged_line_that_only_a_reader_looks_at_is_passed_over(self, write_volume, line):
        path = write_volume("ct.mha", counted(), **PLACE)
        key = line.split(b" ")[0]
        whole = next(one for one in path.read_bytes().split(b"\n") if one.startswith(key))
        require_right(read_ct(put_header_text(path, whole, line)))


class TestDamagedTexts:
    """NRRD's reader ends the process at most of these."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b"dimension: 3", b"dimension: 99999999"),
            (b"dimension: 3", b"dimension: 4"),
            (b"sizes: 7 6 5", b"sizes: 7 6"),
            (b"sizes: 7 6 5", b"sizes: 7 -6 5"),
            (b"type: short", b"type: shirt"),
            (b"encoding: raw", b"encoding: raX"),
            (b"endian: little", b"endian: middle"),
            (b"endian: little\n", b""),
            (b"left-posterior-superior", b"left-posterior"),
            (b"(0,0.75,0)", b"(0,0.75)"),
            (b"(0,0.75,0)", b"(0,0.75,0"),
            (b"(0,0.75,0)", b"(0,1e999,0)"),
            (b"space origin: (-11,7,23)", b"space origin: (-11,7)"),
            (b"kinds: domain domain domain", b"kinds: domain domain"),
            (b"kinds: domain domain domain", b"kinds: RGB-color domain domain"),
            (b"kinds", b"sizes: 7 6 4\nkinds"),
        ],
    )
    def test_a_damaged_line_of_nrrd_is_refused_by_name(self, write_volume, before, after):
        path = write_volume("ct.nrrd", counted(), compress=False, **PLACE)
        error = refusal(put_header_text(path, before, after))
        assert error.rule == "readable"
        assert error.fact.startswith("has a damaged header: it")

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            (b"NDims = 3", b"NDims = 99999999"),
            (b"NDims = 3", b"NDims = 11"),
            (b"NDims = 3", b"NDims = three"),
            (b"DimSize = 7 6 5", b"DimSize = 7 6"),
            (b"DimSize = 7 6 5", b"DimSize = 7 6 0"),
            (b"ElementSpacing = 0.5 0.75 2.5\n", b""),
            (b"ElementSpacing = 0.5 0.75 2.5", b"ElementSpacing = 0.5 0.75"),
            (b"Offset = -11 7 23", b"Offset = -11 7 \xff3"),
            (b"Offset = -11 7 23", b"Offset = -11 7 23\nOffset = -11 7 24"),
        ],
    )
    def test_a_damaged_line_of_metaimage_is_refused_by_name(self, write_volume, before, after):
        path = write_volume("ct.mha", counted(), compress=False, **PLACE)
        error = refusal(put_header_text(path, before, after))
        assert error.fact.startswith("has a damaged header: it")

    @pytest.mark.parametrize(
        ("name", "before", "after"),
        [
            ("ct.mha", b"Offset", b"Offsat"),
            ("ct.mha", b"Offset", b"\xcfffset"),
            ("ct.mha", b"Offset", b"Of"),
            ("ct.mha", b"TransformMatrix", b"TransformMatriz"),
            ("ct.mha", b"BinaryDataByteOrderMSB", b"BinaryDataByteOrdeqMSB"),
            ("ct.mha", b"Offset = -11 7 23", b"\0" * 17),
            ("ct.nrrd", b"space origin", b"spaxe origin"),
            ("ct.nrrd", b"space origin: (-11,7,23)", b"\0" * 24),
            ("ct.nrrd", b"space directions", b"space directyons"),
            ("ct.nrrd", b"space directions", b"spac\xb8\xee\xbb\xafrections"),
            ("ct.nrrd", b"space origin: ", b"space origi"),
        ],
    )
    def test_a_damaged_name_never_gives_way_to_a_default(self, write_volume, name, before, after):
        path = write_volume(name, counted(), compress=False, **PLACE)
        assert "damaged header: it has" in refusal(put_header_text(path, before, after)).fact

    def test_a_spacing_behind_a_long_comment_is_looked_at(self, write_volume):
        path = write_volume("ct.mha", counted(), **PLACE)
        long = b"Comment = " + b"x" * 5000 + b"\nElementSpacing = 0.5 -0.75 2.5"
        path = put_header_text(path, b"ElementSpacing = 0.5 0.75 2.5", long)
        assert refusal(path).rule == "spacing_positive"

    @pytest.mark.parametrize("length", [4096 - 16 - back for back in range(-3, 26)])
    def test_a_line_may_end_wherever_a_block_of_reading_does(self, write_volume, length):
        path = write_volume("ct.mha", counted(), **PLACE)
        end = path.read_bytes().index(b"ElementDataFile") + len(b"Comment = \n")
        line = b"Comment = " + b"x" * (length - end) + b"\nElementDataFile"
        require_right(read_ct(put_header_text(path, b"ElementDataFile", line)))

    @pytest.mark.parametrize("name", ["ct.mha", "ct.nrrd"])
    def test_a_header_that_promises_what_no_file_of_its_size_can_hold_is_refused(
        self, write_volume, name
    ):
        path = write_volume(name, np.zeros((5, 6, 7), np.int16), compress=True, **PLACE)
        path = put_header_text(path, b"7 6 5", b"70000 60000 50000")
        error = refusal(path)
        assert error.rule == "truncated"
        assert "promises 420,000,000,000,000 bytes" in error.fact

    def test_metaimage_that_says_it_is_not_compressed_is_not_read_as_if_it_were_whole(
        self, write_volume
    ):
        path = write_volume("ct.mha", counted((9, 9, 9)), compress=True, **PLACE)
        path = put_header_text(path, b"CompressedData = True", b"CompressedData = False")
        assert refusal(path).rule == "truncated"


class TestNifti:
    def damaged(self, tmp_path, at, form, *values, name="ct.nii.gz"):
        def change(content):
            struct.pack_into(form, content, at, *values)

        return rewrite(write_nifti(tmp_path / "plain.nii", counted()), tmp_path / name, change)

    @pytest.mark.parametrize("name", ["ct.nii", "ct.nii.gz", "ct.hdr", "ct"])
    def test_a_damaged_magic_word_is_refused_and_not_read_at_the_origin(self, tmp_path, name):
        path = self.damaged(tmp_path, 344, "4s", b"n-1\0", name=name)
        assert "no magic word" in refusal(path).fact
        with pytest.raises(SourceError, match="no magic word"):
            read_label(path, None)

    def test_analyze_is_refused_under_either_of_its_names(self, tmp_path):
        content = write_nifti(tmp_path / "plain.nii", counted()).read_bytes()
        (tmp_path / "ct.hdr").write_bytes(content[:344] + bytes(4))
        (tmp_path / "ct.img").write_bytes(content[352:])
        assert "ANALYZE" in refusal(tmp_path / "ct.hdr").fact
        assert "ANALYZE" in refusal(tmp_path / "ct.img").fact

    def test_a_header_of_another_length_is_refused(self, tmp_path):
        error = refusal(self.damaged(tmp_path, 0, "<i", 349))
        assert error.fact == "has a damaged header: its length is given as 349, not 348"

    @pytest.mark.parametrize(("at", "side"), [(46, 0), (46, -5), (40, 0), (40, 9)])
    def test_sides_that_cannot_be_are_refused(self, tmp_path, at, side):
        assert "its dimensions are" in refusal(self.damaged(tmp_path, at, "<h", side)).fact

    def test_bits_that_contradict_the_data_type_hide_no_end_that_is_missing(self, tmp_path):
        path = self.damaged(tmp_path, 72, "<h", 8, name="ct.nii")  # bitpix; it is int16
        np.testing.assert_array_equal(np.sort(read_ct(path).array.ravel()), counted().ravel())
        path.write_bytes(path.read_bytes()[:-100])
        assert refusal(path).fact == "ends early: 672 of 772 bytes are there"

    def test_floats_that_end_amid_a_number_are_refused(self, write_volume):
        path = write_volume("ct.nii", counted(dtype=np.float32))
        content = bytearray(path.read_bytes()[:-2])
        struct.pack_into("<h", content, 72, 8)
        path.write_bytes(content)
        assert refusal(path).rule == "truncated"

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_an_origin_that_is_no_number_is_refused(self, tmp_path, value):
        error = refusal(self.damaged(tmp_path, 268, "<f", value))  # qoffset_x
        assert (error.rule, "(qform) that is not a number" in error.fact) == ("readable", True)

    def test_an_sform_alone_with_an_origin_that_is_no_number_is_refused(self, tmp_path):
        sform = [[0.7, 0, 0, np.nan], [0, 0.8, 0, -7], [0, 0, 2.5, 23]]
        path = write_nifti(tmp_path / "ct.nii", counted(), sform=sform)
        content = bytearray(path.read_bytes())
        struct.pack_into("<h", content, 252, 0)  # no qform
        path.write_bytes(content)
        assert refusal(path).fact == "has the origin (x, y, z) nan·7·23 mm"

    @pytest.mark.parametrize("rest", [b"\r\n", b"rubbish" * 9000, b"\0" * 512 + b"x"])
    def test_bytes_behind_a_whole_gzip_stream_are_no_fault(self, tmp_path, rest):
        path = self.damaged(tmp_path, 148, "4s", b"text")
        path.write_bytes(path.read_bytes() + rest)
        assert rules_of(read_ct(path)) == []

    def test_a_second_gzip_member_that_is_damaged_is_still_refused(self, tmp_path):
        path = self.damaged(tmp_path, 148, "4s", b"text")
        path.write_bytes(path.read_bytes() + gzip.compress(bytes(5000))[:-9])
        assert refusal(path).rule == "checksum"


class TestUnits:
    @pytest.mark.parametrize(("code", "factor", "unit"), [(1, 1e-3, "m"), (3, 1e3, "um")])
    @pytest.mark.parametrize("with_sform", [False, True])
    def test_nifti_in_metres_or_microns_is_read_in_mm(
        self, tmp_path, code, factor, unit, with_sform
    ):
        sform = np.multiply([[0.7, 0, 0, 11], [0, 0.8, 0, -7], [0, 0, 2.5, 23]], factor)
        spacing = tuple(np.multiply((0.7, 0.8, 2.5), factor))
        path = tmp_path / "ct.nii"
        write_nifti(path, counted(), spacing_xyz_mm=spacing, sform=sform if with_sform else None)
        content = bytearray(path.read_bytes())
        content[123] = code
        struct.pack_into("<3f", content, 268, *np.multiply((11.0, -7.0, 23.0), factor))
        path.write_bytes(content)
        source = read_ct(path)
        assert source.grid.spacing_zyx_mm == pytest.approx((2.5, 0.8, 0.7))
        assert source.grid.origin_xyz_mm == pytest.approx((-11.0, 7.0, 23.0))
        (found,) = [one for one in source.findings if one.rule != "spacing_plausible"]
        assert (found.rule, found.fixable) == ("length_unit", True)
        assert found.fact == f"gives its lengths in {unit}"

    def in_units(self, write_volume, units, *, name="ct.nrrd"):
        path = write_volume(
            name, counted(), spacing_xyz_mm=(500, 750, 2500), origin_xyz_mm=(-11000, 7000, 23000)
        )
        key = LINES[path.suffix]
        return put_header_text(path, key, units + b"\n" + key)

    @pytest.mark.parametrize(
        ("name", "units"),
        [
            ("ct.nrrd", 'space units: "um" "um" "um"'),
            ("ct.nrrd", 'space units: "microns" "microns" "microns"'),
            ("ct.nrrd", 'space units: "µm" "µm" "µm"'),
            ("ct.nrrd", 'space units: "Micrometers" "" "micrometers"'),
            ("ct.mha", "DistanceUnits = um"),
        ],
    )
    def test_a_text_header_in_microns_is_read_in_mm(self, write_volume, name, units):
        source = read_ct(self.in_units(write_volume, units.encode(), name=name))
        require_right(source)
        assert rules_of(source) == ["length_unit"]

    @pytest.mark.parametrize(("unit", "factor"), [("cm", 10), ("m", 1000)])
    def test_a_metaimage_in_other_units_is_read_in_mm(self, write_volume, unit, factor):
        path = write_volume(
            "ct.mha",
            counted(),
            spacing_xyz_mm=np.divide((0.5, 0.75, 2.5), factor),
            origin_xyz_mm=np.divide((-11.0, 7.0, 23.0), factor),
        )
        line = f"DistanceUnits = {unit}\nDimSize".encode()
        require_right(read_ct(put_header_text(path, b"DimSize", line)))

    @pytest.mark.parametrize("units", ['"mm" "mm" "mm"', '"" "" ""', '"???" "???" "???"'])
    def test_mm_and_no_unit_at_all_are_taken_as_they_are(self, write_volume, units):
        path = write_volume("ct.nrrd", counted(), **PLACE)
        source = read_ct(put_header_text(path, b"kinds", f"space units: {units}\nkinds".encode()))
        require_right(source)
        assert rules_of(source) == []

    def test_spacings_of_nrrd_have_their_units_in_a_field_of_their_own(self, write_volume):
        path = write_volume("ct.nrrd", counted(), spacing_xyz_mm=(500, 750, 2500))
        put_header_text(path, b"space: left-posterior-superior\n", b"")
        put_header_text(path, b"space origin: (-11,7,23)\n", b"")
        spacings = b'spacings: 500 750 2500\nunits: "um" "um" "um"'
        put_header_text(path, b"space directions: (500,0,0) (0,750,0) (0,0,2500)", spacings)
        assert read_ct(path).grid.spacing_zyx_mm == pytest.approx((2.5, 0.75, 0.5))

    @pytest.mark.parametrize("units", ['"um" "um" "mm"', '"furlong" "furlong" "furlong"'])
    def test_units_that_differ_or_are_unknown_are_refused_with_their_names(
        self, write_volume, units
    ):
        error = refusal(self.in_units(write_volume, f"space units: {units}".encode()))
        assert error.rule == "length_unit"
        assert units.split('"')[1] in error.fact

    def test_the_need_of_a_case_is_judged_in_mm_too(self, write_volume, tmp_path):
        path = self.in_units(write_volume, b'space units: "um" "um" "um"')
        same = write_volume("mm.nrrd", counted(), **PLACE)
        ours, theirs = (
            need_of(CaseFiles("1", "1", one, one, None, tmp_path), SPACED) for one in (path, same)
        )
        assert ours == theirs


class TestAxes:
    STRAIGHT = np.diag([-0.7, -0.8, 2.5])

    def write(self, tmp_path, *, off=0.0, qform=0, columns=None):
        """Write a CT, its sform so far off right angles; with a qform code or none."""
        matrix = self.STRAIGHT.copy() if columns is None else np.array(columns)
        matrix[1, 2] += off * 2.5
        sform = np.column_stack([matrix, [11.0, -7.0, 23.0]])
        path = write_nifti(tmp_path / "ct.nii", counted(), sform=sform)
        content = bytearray(path.read_bytes())
        struct.pack_into("<h", content, 252, qform)
        path.write_bytes(content)
        return path

    def found(self, path, rule):
        return [one for one in read_ct(path).findings if one.rule == rule]

    def test_an_sform_a_hair_off_right_angles_is_read_and_told(self, tmp_path):
        path = self.write(tmp_path, off=5e-4)
        (found,) = self.found(path, "right_angles")
        assert found.fixable
        assert "0.0005 off right angles" in found.fact
        grid = read_ct(path).grid
        matrix = np.reshape(grid.direction, (3, 3))
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
        assert grid.origin_xyz_mm == pytest.approx((-11.0, 7.0, 23.0))
        assert self.found(path, "direction") == []

    def test_an_sform_at_right_angles_is_not_told(self, tmp_path):
        assert rules_of(read_ct(self.write(tmp_path))) == []

    def test_a_sheared_sform_without_a_qform_is_read_with_a_doubt(self, tmp_path):
        (found,) = self.found(self.write(tmp_path, off=1.0), "direction")
        assert found.fact.startswith("its sform is sheared: a corner is")

    def test_the_qform_is_taken_where_the_sform_is_sheared(self, tmp_path):
        path = self.write(tmp_path, off=1.0, qform=1)
        (found,) = self.found(path, "direction")
        assert found.fact.startswith("its sform is sheared")
        assert read_ct(path).grid.direction == pytest.approx((-1, 0, 0, 0, -1, 0, 0, 0, 1))

    def test_a_sform_of_another_spacing_is_named_for_that(self, tmp_path):
        path = self.write(tmp_path, columns=np.diag([-0.7, -0.8, 5.0]))
        (found,) = self.found(path, "direction")
        assert "its sform has the spacing 0.7·0.8·5 mm, its pixdim 0.7·0.8·2.5 mm" in found.fact

    def test_a_sform_without_numbers_is_named_for_that(self, tmp_path):
        path = self.write(tmp_path, off=float("nan"), qform=1)
        (found,) = self.found(path, "direction")
        assert "its sform holds values that are not numbers" in found.fact

    def test_axes_that_span_no_space_are_refused_under_a_rule_that_cannot_be_a_warning(
        self, tmp_path
    ):
        flat = [[-0.7, -0.7, 0], [0, 0, 0], [0, 0, 2.5]]
        assert refusal(self.write(tmp_path, columns=flat)).rule == "readable"

    def test_judging_a_case_writes_no_warning_of_the_reader_to_the_terminal(self, tmp_path, capfd):
        path = self.write(tmp_path, off=1.0)
        need_of(CaseFiles("1", "1", path, path, None, tmp_path), KEPT)
        read_ct(path)
        assert capfd.readouterr() == ("", "")
