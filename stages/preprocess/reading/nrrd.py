"""The header of an NRRD file, whose reader ends the process at whatever is wrong in it.

Source: the definition of NRRD, teem.sourceforge.net/nrrd/format.html.
"""

import math
import os
import re

from stages.preprocess.reading.header_text import (
    PLAIN,
    TextHeader,
    needed,
    number,
    require,
    require_no_damaged_names,
    require_numbers,
    require_place,
    text_of,
    whole_numbers,
    wrong,
)

FIELD = re.compile(rb"[ \t]*([A-Za-z][A-Za-z \t]*?)[ \t]*:(?!=)[ \t]*(.*)", re.DOTALL)
LONG_LINE = 4096  # bytes; a name of a structure is far shorter
DATA = "datafile"
MOST_DIMENSIONS = 16
VECTOR = re.compile(r"\(([^()]*)\)|none", re.IGNORECASE)  # which is '' where it is none
SPACES = {
    "right-anterior-superior": 3,
    "ras": 3,
    "left-anterior-superior": 3,
    "las": 3,
    "left-posterior-superior": 3,
    "lps": 3,
    "right-anterior-superior-time": 4,
    "rast": 4,
    "left-anterior-superior-time": 4,
    "last": 4,
    "left-posterior-superior-time": 4,
    "lpst": 4,
    "scanner-xyz": 3,
    "scanner-xyz-time": 4,
    "3d-right-handed": 3,
    "3d-left-handed": 3,
    "3d-right-handed-time": 4,
    "3d-left-handed-time": 4,
}
TYPES = re.compile(
    r"signed char|int8(_t)?|uchar|unsigned char|uint8(_t)?|(signed )?short( int)?|int16(_t)?"
    r"|ushort|unsigned short( int)?|uint16(_t)?|(signed )?int|int32(_t)?|uint|unsigned int"
    r"|uint32(_t)?|longlong|(signed )?long long( int)?|int64(_t)?|ulonglong"
    r"|unsigned long long( int)?|uint64(_t)?|float|double"
)
ONE_BYTE = re.compile(r"signed char|u?int8(_t)?|uchar|unsigned char")
ENCODINGS = ("raw", "txt", "text", "ascii", "hex", "gz", "gzip")
TEXTS = ("txt", "text", "ascii", "hex")
# how many values a voxel has along an axis of this kind; 0 is any number
KINDS = {
    **dict.fromkeys(("domain", "space", "time", "list", "point", "vector"), 0),
    **dict.fromkeys(("covariant-vector", "normal", "none", "???"), 0),
    **dict.fromkeys(("stub", "scalar"), 1),
    **dict.fromkeys(("complex", "2-vector"), 2),
    **dict.fromkeys(("3-color", "rgb-color", "hsv-color", "xyz-color", "3-vector"), 3),
    **dict.fromkeys(("3-gradient", "3-normal"), 3),
    **dict.fromkeys(("4-color", "rgba-color", "4-vector", "quaternion"), 4),
}
CENTERS = ("cell", "node", "none", "???")
FIRST = ("type", "dimension", "space", "spacedimension", "sizes")
NEEDED = {
    "type": "type",
    "dimension": "dimension",
    "space": "space",
    "spacedimension": "space dimension",
    "sizes": "sizes",
    "spacedirections": "space directions",
    "spacings": "spacings",
    "axismins": "axis mins",
    "axismaxs": "axis maxs",
    "centers": "centers",
    "kinds": "kinds",
    "endian": "endian",
    "encoding": "encoding",
    "spaceorigin": "space origin",
    "lineskip": "line skip",
    "byteskip": "byte skip",
    DATA: "data file",
}
PLAIN_FIELD = re.compile(rf"({'|'.join(NEEDED.values())}|datafile|DataFile): [^ ]".encode())
UNITS = ("spaceunits", "units")
SYNONYMS = {"centerings": "centers"}
UNNEEDED = (
    *("content", "number", "blocksize", "min", "max", "oldmin", "oldmax", "sampleunits", "labels"),
    *("thicknesses", "measurementframe", "spacedimension"),
)
# of each group one is enough; a reader has a default for them, and the first are in any header
PLACE = 3
DEFAULTED = (
    ("spacedirections", "spacings"),
    ("spaceorigin", "axismins", "spacings"),
    ("space", "spacedimension", "spacings"),
    *(("kinds",), ("lineskip",), ("byteskip",), ("spaceunits", "units"), (DATA,)),
)


def nrrd_header(text: bytes) -> TextHeader:
    """What a header says.

    Args:
        text: the start of the file to the end of the header's last line, its carriage returns line
            feeds.

    Raises:
        ValueError: it lacks what a reader needs, or states something that cannot be.
    """
    lines, pairs, unknown, end = _lines(text)
    fields = needed(((name, value) for name, value in lines if name in NEEDED), DATA)
    units = {name: text_of(value) for name, value in lines if name in UNITS}
    _require_sound(fields)
    stated = [*fields, *units]
    require_no_damaged_names(stated, unknown, DEFAULTED)
    require_place(stated, unknown, DEFAULTED[:PLACE])
    ordered = [name for name in FIRST if name in fields]
    is_plain = (
        not unknown
        and not units
        and len(lines) == len(fields)
        and [*fields][: len(ordered)] == ordered
        and re.match(rb"NRRD000[1-5]\s*\n", text) is not None
        and PLAIN.fullmatch(text[:end]) is not None
        and all(map(_is_plain, text[:end].split(b"\n")[1:]))
    )
    return TextHeader(fields, units, pairs, end, is_plain, _clean(fields))


def _is_plain(line: bytes) -> bool:
    if len(line) > LONG_LINE:
        return False
    return not FIELD.fullmatch(line) or bool(PLAIN_FIELD.match(line))


def _lines(text: bytes) -> tuple[list[tuple[str, bytes]], dict[str, str], list[str], int]:
    """The fields, the pairs, the names of other lines, and the byte behind all."""
    fields: list[tuple[str, bytes]] = []
    pairs, unknown = {}, []
    at = text.find(b"\n") + 1
    for line in text[at:].split(b"\n"):
        at = min(at + len(line) + 1, len(text))
        found = FIELD.fullmatch(line)
        name = found[1].lower().replace(b" ", b"").decode() if found else ""
        name = SYNONYMS.get(name, name)
        if found and name in (*NEEDED, *UNITS):
            fields.append((name, found[2].strip()))
            if name == DATA and found[2].upper().startswith(b"LIST"):
                break
        elif not found and b":=" in line:
            key, _, value = line.partition(b":=")
            pairs[text_of(key)] = _unescaped(text_of(value.strip()))
        elif line and not line.startswith(b"#") and name not in UNNEEDED:
            unknown.append(name or text_of(line))
    return fields, pairs, unknown, at


def _unescaped(value: str) -> str:
    return re.sub(r"\\([\\n])", lambda found: "\n" if found[1] == "n" else "\\", value)


def _clean(fields: dict[str, str]) -> bytes:
    ordered = {name: fields[name] for name in FIRST if name in fields}
    data = {DATA: fields[DATA]} if DATA in fields else {}
    others = {name: value for name, value in fields.items() if name not in (*ordered, *data)}
    lines = {**ordered, **others, **data}
    text = "".join(f"{NEEDED[name]}: {value}\n" for name, value in lines.items())
    is_list = fields.get(DATA, "").upper().startswith("LIST")
    return b"NRRD0005\n" + os.fsencode(text) + (b"" if is_list else b"\n")


def _require_sound(fields: dict[str, str]) -> None:
    require(fields, ("type", "dimension", "sizes", "encoding"))
    (dimensions,) = whole_numbers(fields, "dimension", 1, least=1)
    if dimensions > MOST_DIMENSIONS:
        raise wrong(fields, "dimension")
    sizes = whole_numbers(fields, "sizes", dimensions, least=1)
    _require_words(fields, sizes)
    for name in ("spacings", "axismins", "axismaxs"):
        if name in fields:
            require_numbers(fields, name, dimensions)
    for name, least in (("lineskip", 0), ("byteskip", -1)):
        if name in fields:
            whole_numbers(fields, name, 1, least=least)
    _require_space(fields, dimensions)


def _require_words(fields: dict[str, str], sizes: list[int]) -> None:
    """Types and kinds by the names there are."""
    kind, encoding = fields["type"].lower(), fields["encoding"].lower()
    if not TYPES.fullmatch(kind):
        raise wrong(fields, "type")
    if encoding not in ENCODINGS:
        raise wrong(fields, "encoding")
    if fields.get("endian", "little").lower() not in ("little", "big"):
        raise wrong(fields, "endian")
    if "endian" not in fields and encoding not in TEXTS and not ONE_BYTE.fullmatch(kind):
        raise ValueError("it has no endian")
    words = fields["kinds"].lower().split() if "kinds" in fields else ["none"] * len(sizes)
    counts = [KINDS.get(word, -1) for word in words]
    if len(words) != len(sizes) or any(
        count not in (0, size) for count, size in zip(counts, sizes, strict=True)
    ):
        raise wrong(fields, "kinds")
    words = fields["centers"].lower().split() if "centers" in fields else ["none"] * len(sizes)
    if len(words) != len(sizes) or not set(words) <= set(CENTERS):
        raise wrong(fields, "centers")


def _require_space(fields: dict[str, str], dimensions: int) -> None:
    """Directions and origin as vectors of the space, which has to be there."""
    space = SPACES.get(fields["space"].lower()) if "space" in fields else None
    if "space" in fields and space is None:
        raise wrong(fields, "space")
    if "spacedimension" in fields:
        (space,) = whole_numbers(fields, "spacedimension", 1, least=1)
        if space > MOST_DIMENSIONS or "space" in fields:
            raise wrong(fields, "spacedimension")
    for name, count in (("spacedirections", dimensions), ("spaceorigin", 1)):
        if name not in fields:
            continue
        if space is None or "spacings" in fields or "axismins" in fields:
            raise ValueError(f"its {name} is there without a space, or beside spacings")
        vectors = VECTOR.findall(fields[name])
        if len(vectors) != count or VECTOR.sub("", fields[name]).strip():
            raise wrong(fields, name)
        _require_vectors(fields, name, space)


def _require_vectors(fields: dict[str, str], name: str, space: int) -> None:
    for found in VECTOR.finditer(fields[name]):
        if found[1] is None and name == "spacedirections":
            continue
        words = (found[1] or "").split(",")
        values = [number(fields, name, word.strip()) for word in words]
        if len(values) != space or not (
            all(map(math.isfinite, values)) or all(map(math.isnan, values))
        ):
            raise wrong(fields, name)
