"""The header of a MetaImage file. Source: MetaIO's documentation."""

import os
import re

from stages.preprocess.reading.header_text import (
    PLAIN,
    TextHeader,
    needed,
    require,
    require_no_damaged_names,
    require_numbers,
    require_place,
    text_of,
    whole_numbers,
    wrong,
)

LONG_LINE = 250  # bytes; its reader has room for so many in a name
NUMBER = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?", re.IGNORECASE)
LINE = re.compile(rb"^[ \t]*([^\s=:]+)\s*[=:][ \t]*([^\n]*)$", re.MULTILINE)
DATA_LINE = re.compile(rb"^[ \t]*ElementDataFile\s*[=:][^\n]*\n?", re.MULTILINE)
DATA = "ElementDataFile"
NAME = re.compile(r"[!-~]{1,80}")  # of a line; a damaged one often is none
MOST_DIMENSIONS = 10  # its reader has room for so many
WORDS = (
    "BinaryData",
    "BinaryDataByteOrderMSB",
    "ElementByteOrderMSB",
    "CompressedData",
    "ElementType",
)
NUMBERS = ("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset")
WHOLE = {"NDims": 1, "CompressedDataSize": 0, "HeaderSize": -1, "ElementNumberOfChannels": 1}
SPACINGS, ORIGINS = ("ElementSpacing", "ElementSize"), ("Offset", "Position", "Origin")
MATRICES = ("TransformMatrix", "Rotation", "Orientation")
NEEDED = (*WORDS, *NUMBERS, *WHOLE, *SPACINGS, *ORIGINS, *MATRICES, "DimSize", DATA)
# whose value may be anything, as far as the voxels and their place are concerned
USUAL = {
    "ObjectType": re.compile(rb"Image"),
    "ObjectSubType": re.compile(rb"[\w ]{,40}"),
    "CenterOfRotation": re.compile(rb"[\d+-.eE ]{,400}"),
    "AnatomicalOrientation": re.compile(rb"[A-Z]{,10}"),
    "Modality": re.compile(rb"MET_MOD_[A-Z]{2,8}"),
}
# of each group one is enough; a reader has a default for them, and the first are in any header
PLACE = 4
DEFAULTED = (
    SPACINGS,
    ORIGINS,
    MATRICES,
    ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
    ("CompressedData",),
    ("HeaderSize",),
    ("ElementNumberOfChannels",),
    ("DistanceUnits",),
)
UNITS = ("DistanceUnits",)


def metaimage_header(text: bytes) -> TextHeader:
    """What a header says.

    Args:
        text: the start of the file with all of the header, its carriage returns line feeds.

    Raises:
        ValueError: it lacks what a reader needs, or states something that cannot be.
    """
    found = DATA_LINE.search(text)
    if found is None:
        raise ValueError(f"it has no {DATA}")
    # Windows ends a line with two characters
    end = found.end() + (text[found.end() - 1 : found.end() + 1] == b"\n\n")
    lines = [(text_of(line[1]), line[2].strip()) for line in LINE.finditer(text[:end])]
    fields = needed(((name, value) for name, value in lines if name in NEEDED), DATA)
    _require_sound(fields)
    others = {name: text_of(value) for name, value in lines if name not in NEEDED}
    is_usual = all(USUAL[name].fullmatch(value) for name, value in lines if name in USUAL)
    units = {name: others.pop(name) for name in UNITS if name in others}
    names = [name for name, _ in lines]
    no_lines = [line for line in LINE.sub(b"", text[:end]).split(b"\n") if line.strip()]
    unknown = [name for name in others if name not in USUAL] + [*map(text_of, no_lines)]
    stated = [*fields, *units]
    require_no_damaged_names(stated, unknown, DEFAULTED)
    axes = int(fields["NDims"])
    damaged = [
        name
        for name in unknown
        if not NAME.fullmatch(name) or _count_numbers(others.get(name, "")) in (axes, axes**2)
    ]
    require_place(stated, damaged, DEFAULTED[:PLACE])
    is_plain = (
        is_usual
        and PLAIN.fullmatch(text[:end]) is not None
        and all(len(line) <= LONG_LINE for line in text[:end].split(b"\n"))
        and len(names) == len(set(names))
        and not no_lines
    )
    return TextHeader(fields, units, others, end, is_plain, _clean(fields))


def _count_numbers(value: str) -> int:
    """How many numbers a value is; 0 if it is something else."""
    words = value.split()
    return len(words) if all(NUMBER.fullmatch(word) for word in words) else 0


def _clean(fields: dict[str, str]) -> bytes:
    first = {"ObjectType": "Image", "NDims": fields["NDims"]}
    between = {name: value for name, value in fields.items() if name not in (*first, DATA)}
    lines = {**first, **between, DATA: fields[DATA]}
    return b"".join(os.fsencode(f"{name} = {value}\n") for name, value in lines.items())


def _require_sound(fields: dict[str, str]) -> None:
    require(fields, ("NDims", "DimSize", "ElementType", DATA))
    if not fields.keys() & set(SPACINGS):
        raise ValueError(f"it has no {SPACINGS[0]}")
    (dimensions,) = whole_numbers(fields, "NDims", 1, least=1)
    if dimensions > MOST_DIMENSIONS:
        raise wrong(fields, "NDims")
    whole_numbers(fields, "DimSize", dimensions, least=1)
    for name in fields:
        if name in WHOLE:
            whole_numbers(fields, name, 1, least=WHOLE[name])
        elif name in NUMBERS:
            require_numbers(fields, name, 1)
        elif name in (*SPACINGS, *ORIGINS):
            require_numbers(fields, name, dimensions)
        elif name in MATRICES:
            require_numbers(fields, name, dimensions**2)
