"""Whether a file is DICOM, by its content.

By the word behind its preamble, or, as old archives and planning systems write it without both, by
its first data elements. Source: DICOM PS3.5 7.1 and PS3.10 7.1.
"""

import struct
from pathlib import Path

MAGIC_AT = 128
START_BYTES = 4096  # of a file, in which its file meta and first data elements are
LONG_VRS = (
    b"OB",
    b"OD",
    b"OF",
    b"OL",
    b"OV",
    b"OW",
    b"SQ",
    b"SV",
    b"UC",
    b"UN",
    b"UR",
    b"UT",
    b"UV",
)
VRS = (
    *LONG_VRS,
    *(b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT"),
    *(b"PN", b"SH", b"SL", b"SS", b"ST", b"TM", b"UI", b"UL", b"US"),
)
FILE_META = 0x0002  # always with explicit types
FIRST_GROUPS = (FILE_META, 0x0008)  # of a file without preamble: its file meta, or its data
TRIED_ELEMENTS = 3
UNDEFINED = 0xFFFFFFFF
MOST_VALUE_BYTES = 1 << 16  # of one of the first data elements, which are dates, names and UIDs


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, with the preamble of DICOM files or without."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            start = file.read(START_BYTES)
    except OSError:
        return False
    return start[MAGIC_AT:].startswith(b"DICM") or _begins_with_elements(start)


def _begins_with_elements(start: bytes) -> bool:
    if len(start) < 8:
        return False
    little, big = struct.unpack_from("<H", start)[0], struct.unpack_from(">H", start)[0]
    is_explicit = start[4:6] in VRS
    if little in FIRST_GROUPS and (is_explicit or little != FILE_META):
        return _holds_elements(start, "<", is_explicit=is_explicit)
    return big in FIRST_GROUPS and is_explicit and _holds_elements(start, ">", is_explicit=True)


def _holds_elements(start: bytes, order: str, *, is_explicit: bool) -> bool:
    """Whether a few data elements are in a row, their tags ascending and their lengths sane."""
    at, before = 0, (0, 0)
    for _ in range(TRIED_ELEMENTS):
        if at + 12 > len(start):
            return False
        group, element = struct.unpack_from(f"{order}HH", start, at)
        kind = start[at + 4 : at + 6]
        if (group, element) <= before or (is_explicit and kind not in VRS):
            return False
        if not is_explicit or kind in LONG_VRS:
            skipped = 12 if is_explicit else 8
            (length,) = struct.unpack_from(f"{order}I", start, at + skipped - 4)
        else:
            skipped, (length,) = 8, struct.unpack_from(f"{order}H", start, at + 6)
        if length == UNDEFINED:  # a sequence, with more elements in it
            return before > (0, 0)
        if length > MOST_VALUE_BYTES:
            return False
        if group == FILE_META:  # behind the file meta, elements may be written another way
            return True
        at, before = at + skipped + length, (group, element)
    return True
