"""DICOM files without preamble, for a reader that wants one.

SimpleITK reads bare files whose data are little endian, and no others.
"""

import io
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PREAMBLE = bytes(128) + b"DICM"
META_FIRST = b"\x02\x00"  # the file meta without the preamble before it
BIG_ENDIAN_FIRST = b"\x00\x08"  # neither, and big endian


@contextmanager
def with_preambles(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The files of a series, with temporary copies in place of those that SimpleITK refuses."""
    starts = {path: _lacking(path) for path in files}
    if not any(starts.values()):
        yield list(files)
        return
    with tempfile.TemporaryDirectory(prefix=".liver3d-", ignore_cleanup_errors=True) as folder:
        yield [
            _copied(path, starts[path], Path(folder) / f"{number:06}.dcm") if starts[path] else path
            for number, path in enumerate(files)
        ]


def _lacking(path: Path) -> bytes:
    """What has to stand before a file's content; nothing for most."""
    with path.open("rb") as file:
        start = file.read(len(PREAMBLE))
    if start.endswith(b"DICM"):
        return b""
    if start.startswith(META_FIRST):
        return PREAMBLE
    return PREAMBLE + _big_endian_meta() if start.startswith(BIG_ENDIAN_FIRST) else b""


def _big_endian_meta() -> bytes:
    from pydicom.dataset import FileMetaDataset
    from pydicom.filewriter import write_file_meta_info
    from pydicom.uid import CTImageStorage, ExplicitVRBigEndian

    meta = FileMetaDataset()
    # the object states its own class, which goes before this one
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, "1.2"
    meta.TransferSyntaxUID = ExplicitVRBigEndian
    written = io.BytesIO()
    write_file_meta_info(written, meta)
    return written.getvalue()


def _copied(path: Path, start: bytes, copy: Path) -> Path:
    copy.write_bytes(start + path.read_bytes())
    return copy
