"""Making sure that a file is whole and unchanged: SimpleITK believes damaged ones.

It fills a NIfTI file that ends early up with zeros, and looks at no checksum of compressed ones.
"""

import gzip
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses
from numpy.typing import NDArray

from cache.errors import SourceError
from stages.preprocess.reading.sniff import (
    GZIP_MAGIC,
    NIFTI,
    data_files,
    extension_by_content,
)
from stages.preprocess.rules.ct import EXPORT_AGAIN

METAIMAGE_HEADER = 1 << 16  # bytes, far more than any has
PADDING = 1 << 16  # bytes allowed after the voxels of a NIfTI file
HEADER_END = {".nrrd": b"\n\n", ".mha": b"ElementDataFile = LOCAL\n"}


def require_whole_file(path: Path, reader: sitk.ImageFileReader) -> None:
    """Refuse a NIfTI or MetaImage file that ends early, by its header and its size.

    Raises:
        SourceError: states the bytes that are there and that should be.
    """
    # not by the header's keys alone: converted from NIfTI, another format may still have them
    keys = reader.GetMetaDataKeys() if extension_by_content(path) in NIFTI else ()
    if "vox_offset" not in keys or "bitpix" not in keys:
        _require_whole_metaimage(path, reader)  # NRRD's reader notices by itself
        return
    voxel_bytes = int(reader.GetMetaData("bitpix")) // 8
    voxels = int(np.prod(np.array(reader.GetSize(), dtype=np.int64)))
    needed = int(float(reader.GetMetaData("vox_offset"))) + voxels * voxel_bytes
    found = _content_bytes(path, needed)
    if found < needed:
        fact = f"ends early: {found:,} of {needed:,} bytes are there"
        raise SourceError(path, fact, EXPORT_AGAIN, rule="truncated")


def _require_whole_metaimage(path: Path, reader: sitk.ImageFileReader) -> None:
    """MetaImage's reader notices, but says that there is no such file."""
    if extension_by_content(path) != ".mha":
        return
    with path.open("rb") as file:
        head, end, _ = file.read(METAIMAGE_HEADER).partition(b"LOCAL\n")
    stated = re.search(rb"CompressedDataSize\s*=\s*(\d+)", head)
    bits = re.search(r"(\d+)-bit", sitk.GetPixelIDValueAsString(reader.GetPixelID()))
    if not end or (b"CompressedData = True" in head and not stated) or not bits:
        return
    voxels = math.prod(reader.GetSize()) * reader.GetNumberOfComponents()
    content = int(stated[1]) if stated else voxels * int(bits[1]) // 8
    found, needed = path.stat().st_size, len(head) + len(end) + content
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
        _inflate(content)
    except zlib.error as error:
        fact = f"is damaged: {error}"
        raise SourceError(path, fact, EXPORT_AGAIN, rule="checksum") from error
    return False


def _compressed_part(path: Path) -> bytes:
    """The gzip or zlib stream of a file or of the data file beside it; empty if it has none."""
    for file in (*data_files(path), path):
        with file.open("rb") as start:
            magic = start.read(len(GZIP_MAGIC))
        if magic == GZIP_MAGIC or file.suffix.lower() == ".zraw":
            return file.read_bytes()
    end = HEADER_END.get(extension_by_content(path) or "")
    if end is None:
        return b""
    header, _, content = path.read_bytes().partition(end)
    compressed = content.startswith(GZIP_MAGIC) or b"CompressedData = True" in header
    return content if compressed else b""


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


def _inflate(content: bytes) -> None:
    """Inflate and forget. Raises zlib.error where the stream is damaged or ends early."""
    while content.strip(b"\0"):
        inflater = zlib.decompressobj(wbits=47)  # gzip or zlib, whichever it is
        block = inflater.decompress(content, 1 << 24)
        while block and not inflater.eof:
            block = inflater.decompress(inflater.unconsumed_tail, 1 << 24)
        if not inflater.eof:
            raise zlib.error("the compressed data ends early")
        content = inflater.unused_data  # several gzip members may stand in a row


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
        with gzip.open(path) as file:
            # small blocks: of the one that fails, nothing is counted
            while block := file.read(1 << 14):
                count += len(block)
    except (EOFError, OSError, zlib.error):
        return count
    return count
