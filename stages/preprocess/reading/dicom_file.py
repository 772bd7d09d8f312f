"""One DICOM file: what its header says, and whether all of it is there."""

import io
import logging
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cache.errors import SourceError
from stages.preprocess.reading.dicom_start import START_BYTES

EXPORT = "export one series with one file per slice, or turn it into a NIfTI file"
MOST_HEADER_BYTES = 1 << 22  # of a deflated file, which are inflated to find its header
SLACK_BYTES = 1 << 22  # a deflated file may hold besides its header and voxels
MOST_PIXELS = 1 << 26  # of a slice: 8192 by 8192, and CTs have 512 to 2048 a side
DEFLATED = "1.2.840.10008.1.2.1.99"
SOP_CLASS = "MediaStorageSOPClassUID"
# what is needed to judge a file, beside what a caller asks for
OWN_TAGS = [
    "SOPClassUID",
    "Modality",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
    "NumberOfFrames",
]


def read_header(path: Path, tags: Sequence[str], optional: Sequence[str] = ()) -> Any:
    """The tags of one file as a pydicom data set, after making sure that all its bytes are there.

    Of a deflated file no more is inflated at a time than a few MB, whatever it unfolds to.

    Args:
        path: a DICOM file.
        tags: keywords; those of OWN_TAGS are read as well.
        optional: keywords of more; one whose value cannot be understood counts as absent.

    Raises:
        SourceError: it is damaged, ends within its header or its voxels, or holds far more than
            its header says.
    """
    needed = [*OWN_TAGS, *tags]
    try:
        with _quietly():
            header, header_bytes, found = _parsed(path, [*needed, *optional])
            for tag in needed:
                header.get(tag)  # text becomes numbers here, or cannot
            header.file_meta.get(SOP_CLASS)
            _drop_odd(header, optional)
            _require_all_bytes(path, header, header_bytes, found)
    except (SourceError, MemoryError):
        raise
    # of damaged bytes, pydicom raises what they happen to lead to: a dozen types, some its own
    except Exception as error:
        raise SourceError(path, f"its DICOM header cannot be read ({error})", EXPORT) from error
    return header


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep pydicom from the terminal: it would quote odd values, UIDs among them."""
    from pydicom.config import disable_value_validation

    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), disable_value_validation():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _drop_odd(header: Any, tags: Sequence[str]) -> None:
    from pydicom.tag import Tag

    for tag in tags:
        try:
            header.get(tag)
        except Exception:
            header.pop(Tag(tag), None)


def frames_of(header: Any) -> int:
    """How many images a file holds, going by its header."""
    return int(header.get("NumberOfFrames") or 1)


def _parsed(path: Path, tags: list[str]) -> tuple[Any, int, int]:
    """A file's tags, and the bytes before its voxels and in all, as they are once inflated."""
    import pydicom  # 0.15 s to import, and most data sets are not DICOM

    with path.open("rb") as file:
        is_deflated = DEFLATED.encode() in file.read(START_BYTES)
        file.seek(0)
        if is_deflated and (meta := _file_meta(file)).get("TransferSyntaxUID") == DEFLATED:
            return _of_deflated(path, file, meta, tags)
        file.seek(0)
        header = pydicom.dcmread(
            file, stop_before_pixels=True, specific_tags=list(tags), force=True
        )
        return header, file.tell(), path.stat().st_size


def _file_meta(file: Any) -> Any:
    """The data elements before a file's data set, which are never deflated."""
    from pydicom.filereader import read_dataset, read_preamble

    read_preamble(file, force=True)
    return read_dataset(file, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2)


def _of_deflated(path: Path, file: Any, meta: Any, tags: list[str]) -> tuple[Any, int, int]:
    from pydicom.filereader import read_dataset
    from pydicom.tag import Tag

    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    start = inflater.decompress(file.read(), MOST_HEADER_BYTES)
    content = io.BytesIO(start)
    wanted: Any = [Tag(tag) for tag in (*tags, "SpecificCharacterSet")]
    at_voxels = []

    def stop(tag: int, _vr: str | None, _length: int) -> bool:
        at_voxels.append(tag >= 0x7FE00008)
        return at_voxels[-1]

    header = read_dataset(content, False, True, stop_when=stop, specific_tags=wanted)
    header.file_meta = meta
    _require_sane_size(path, header)
    most = content.tell() + _voxel_bytes(header) + SLACK_BYTES
    found = len(start)
    while not inflater.eof and (more := inflater.decompress(inflater.unconsumed_tail, 1 << 20)):
        found += len(more)
        if found > most:
            fact = f"unfolds to more than the {most:,} bytes that its header speaks of"
            raise SourceError(path, fact, EXPORT)
    if not inflater.eof:
        fact = f"ends early: its deflated content breaks off after {found:,} bytes"
        raise SourceError(path, fact, EXPORT, rule="truncated")
    return header, content.tell(), found


def _voxel_bytes(header: Any) -> int:
    rows, columns = (int(header.get(tag) or 0) for tag in ("Rows", "Columns"))
    voxels = frames_of(header) * rows * columns * int(header.get("SamplesPerPixel") or 1)
    return voxels * int(header.get("BitsAllocated") or 16) // 8


def _require_sane_size(path: Path, header: Any) -> None:
    """Refuse what no scanner makes; a few MB of compressed zeros may unfold to gigabytes."""
    rows, columns = (int(header.get(tag) or 0) for tag in ("Rows", "Columns"))
    if rows * columns > MOST_PIXELS:
        fact = f"states a slice of {columns:,}·{rows:,} pixels, more than any CT has"
        raise SourceError(path, fact, EXPORT)


def _require_all_bytes(path: Path, header: Any, header_bytes: int, found: int) -> None:
    """Refuse a file that ends within its header, or within voxels that are not compressed."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    classes = (header.file_meta.get(SOP_CLASS), header.get("SOPClassUID"))
    is_image = any("Image Storage" in getattr(uid, "name", "") for uid in classes)
    if not header.get("Rows") and (is_image or header.get("Modality") == "CT"):
        fact = f"ends early: {found:,} bytes hold no whole header"
        raise SourceError(path, fact, EXPORT, rule="truncated")
    if not header.get("Rows"):
        return
    _require_sane_size(path, header)
    syntax = header.file_meta.get("TransferSyntaxUID")
    plain = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DEFLATED, None)
    if syntax not in plain:
        return  # a decoder notices by itself
    tag_bytes = 8 if syntax in (ImplicitVRLittleEndian, None) else 12
    needed = header_bytes + tag_bytes + _voxel_bytes(header)
    if found < needed:
        fact = f"ends early: {found:,} of {needed:,} bytes are there"
        raise SourceError(path, fact, EXPORT, rule="truncated")
