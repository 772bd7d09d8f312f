"""Making sure that a file is whole and unchanged: SimpleITK believes damaged ones.

It fills a NIfTI file that ends early up with zeros, and looks at no checksum of compressed ones.
"""

import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.errors import SourceError
from stages.preprocess.reading.magic import GZIP_MAGIC
from stages.preprocess.reading.nifti import VOXEL_BYTES, nifti_header
from stages.preprocess.reading.sniff import TEXTS, extension_by_content
from stages.preprocess.reading.text_header import data_files, text_header
from stages.preprocess.rules.ct import EXPORT_AGAIN

PADDING = 1 << 16  # bytes allowed after the voxels of a NIfTI file
BLOCK = 1 << 24  # bytes inflated at once
MOST_INFLATED = 1100  # bytes of each compressed one: zlib makes 1032 of one at most
YES = "true"


def require_whole_file(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a file that ends early, by its header and its size.

    Where only the voxels themselves could tell, as of compressed NRRD, what it promises has to be
    possible at all: its reader would ask for the memory first.

    Raises:
        SourceError: states the bytes that are there and that should be.
    """
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    # not by the reader's keys: converted from NIfTI, another format may still have them
    header = nifti_header(path)
    if header is not None:
        needed = header.voxels_at + voxels * VOXEL_BYTES.get(header.data_type, 1)
        _require_bytes(path, _content_bytes(path, needed), needed)
        return
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    voxel_bytes = voxels * int(bits[1]) // 8 if bits else voxels
    held = sum(file.stat().st_size for file in (path, *data_files(path)))
    if voxel_bytes > held * MOST_INFLATED:
        fact = f"promises {voxel_bytes:,} bytes of voxels, which {held:,} bytes cannot hold"
        raise SourceError(path, fact, EXPORT_AGAIN, rule="truncated")
    _require_whole_metaimage(path, voxel_bytes)


def _require_whole_metaimage(path: Path, voxel_bytes: int) -> None:
    """MetaImage's reader notices, but says that there is no such file."""
    header = text_header(path) if extension_by_content(path) == ".mha" else None
    if header is None or header.fields["ElementDataFile"].upper() != "LOCAL":
        return
    fields = header.fields
    is_compressed = fields.get("CompressedData", "").lower() == YES
    if is_compressed and "CompressedDataSize" not in fields:
        return
    if fields.get("BinaryData", "").lower() != YES:
        return
    content = int(fields["CompressedDataSize"]) if is_compressed else voxel_bytes
    needed = header.rest_at + content
    _require_bytes(path, path.stat().st_size, needed)


def _require_bytes(path: Path, found: int, needed: int) -> None:
    if found < needed:
        fact = f"ends early: {found:,} of {needed:,} bytes are there"
        raise SourceError(path, fact, EXPORT_AGAIN, rule="truncated")


def require_checksum(path: Path, voxels: NDArray[Any]) -> bool:
    """Refuse a compressed file that is not what was compressed, by the checksum at its end.

    Args:
        path: any file SimpleITK reads; one without compression has no checksum and passes.
        voxels: what SimpleITK made of it. Where they are just the bytes that were compressed,
            their checksum is taken instead of inflating again: 0.02 s instead of 0.17 s for a CT of
            512·512·78.

    Returns:
        Whether the voxels are known to be the very bytes that were compressed.

    Raises:
        SourceError: the content does not match its checksum.
    """
    content = _compressed_part(path)
    try:
        if content and _matches(content, np.ascontiguousarray(voxels).data):
            return True
        for _ in _blocks(content):
            pass
    except zlib.error as error:
        fact = f"is damaged: {error}"
        raise SourceError(path, fact, EXPORT_AGAIN, rule="checksum") from error
    return False


def _compressed_part(path: Path) -> bytes:
    """The gzip or zlib stream of a file or of the data file beside it; empty if it has none."""
    header = text_header(path) if extension_by_content(path) in TEXTS else None
    beside = data_files(path)
    is_zlib = header is not None and header.fields.get("CompressedData", "").lower() == YES
    for file in (*beside, path):
        with file.open("rb") as start:
            magic = start.read(len(GZIP_MAGIC))
        if magic == GZIP_MAGIC or (is_zlib and file in beside):
            return file.read_bytes()
    if header is None or beside:
        return b""
    with path.open("rb") as whole:
        whole.seek(header.rest_at)
        content = whole.read()
    return content if content.startswith(GZIP_MAGIC) or is_zlib else b""


def _matches(content: bytes, voxels: memoryview) -> bool:
    """Whether these voxels, after a header if there is one, have the checksum of a stream."""
    if not content.startswith(GZIP_MAGIC):
        return zlib.adler32(voxels) == int.from_bytes(content[-4:], "big")
    checksum, size = (int.from_bytes(content[at:][:4], "little") for at in (-8, -4))
    head_bytes = (size - voxels.nbytes) % (1 << 32)
    if head_bytes > PADDING:
        return False
    head = (
        zlib.decompressobj(wbits=31).decompress(content[: 2 * PADDING], head_bytes)
        if head_bytes
        else b""
    )
    return zlib.crc32(voxels, zlib.crc32(head)) == checksum


def _blocks(content: bytes) -> Iterator[int]:
    """Inflate and forget: the sizes of the blocks of one compressed stream after the other.

    Several gzip members may be in a row. What follows the last and is none is not part of
    it: tapes and downloads leave something there.

    Raises:
        zlib.error: a stream is damaged or ends early.
    """
    while content:
        inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
        block = inflater.decompress(content, BLOCK)
        yield len(block)
        while block and not inflater.eof:
            block = inflater.decompress(inflater.unconsumed_tail, BLOCK)
            yield len(block)
        if not inflater.eof:
            raise zlib.error("the compressed data ends early")
        rest = inflater.unused_data.lstrip(b"\0")
        content = rest if rest.startswith(GZIP_MAGIC) else b""


def _content_bytes(path: Path, needed: int) -> int:
    """Bytes a file holds, after inflating if it is gzip; inflated only if its trailer disagrees."""
    with path.open("rb") as file:
        if file.read(2) != GZIP_MAGIC:
            return path.stat().st_size
        file.seek(-4, 2)
        trailer = int.from_bytes(file.read(4), "little")
    # the trailer states the size modulo 4 GiB
    if trailer >= needed % (1 << 32) and trailer - needed % (1 << 32) < PADDING:
        return needed
    return _inflated_bytes(path)


def _inflated_bytes(path: Path) -> int:
    """Count by inflating all: several gzip members in a row state only the last one's size."""
    count = 0
    try:
        for size in _blocks(path.read_bytes()):
            count += size
    except zlib.error:
        return count
    return count
