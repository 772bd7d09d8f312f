"""The first bytes by which files are known."""

import zlib

GZIP_MAGIC = b"\x1f\x8b"
NIFTI_HEADER_BYTES = 352  # of NIfTI-1; it has its magic word at 344
NIFTI_WORDS = (b"n+1\0", b"ni1\0")
NIFTI_2_WORD = b"n+2\0\r\n\x1a\n"  # at 4


def is_nifti(head: bytes) -> bool:
    """Whether a file begins as NIfTI does, of either version and not compressed."""
    return head[344:348] in NIFTI_WORDS or head[4:12] == NIFTI_2_WORD


def inflated(start: bytes, count: int) -> bytes:
    """The first bytes of what a gzip stream holds; empty if it is none or is damaged.

    The gzip module would inflate a whole buffer for them, which takes 5 ms a time.

    Args:
        start: the first bytes of the stream; a few more than are wanted, for they may hardly be
            compressed.
        count: bytes wanted.
    """
    try:
        return zlib.decompressobj(wbits=31).decompress(start, count)
    except zlib.error:
        return b""
