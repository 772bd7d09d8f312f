"""What a file is by its content: names lie, and SimpleITK goes by names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cache.errors import SourceError
from cache.paths import is_plain as is_plain_path
from stages.preprocess.reading.links import linked
from stages.preprocess.reading.magic import GZIP_MAGIC, NIFTI_HEADER_BYTES, inflated, is_nifti
from stages.preprocess.reading.regular import start_of
from stages.preprocess.reading.text_header import (
    START_BYTES,
    data_below,
    is_metaimage,
    require_known_data,
    text_header,
)

# the longer ending first, where one ends like another
EXTENSIONS = (".nii.gz", ".nii", ".mha", ".mhd", ".seg.nrrd", ".nrrd", ".nhdr")
LFS_POINTER = b"version https://git-lfs"
TEXTS = (".mha", ".mhd", ".nrrd", ".nhdr")


def extension_by_content(path: Path) -> str | None:
    """The extension a file should have, or None if it is no volume we know.

    Raises:
        SourceError: it is a git-LFS pointer instead of the data, or no regular file.
    """
    if path.is_dir():
        fix = "name one file; turn a DICOM series into a NIfTI file first"
        raise SourceError(path, "is a folder, not a volume", fix)
    head = start_of(path, START_BYTES)
    if head.startswith(LFS_POINTER):
        fix = "fetch the data itself with: git lfs pull"
        raise SourceError(path, "is a git-LFS pointer, not the data", fix, rule="lfs_pointer")
    if head.startswith(GZIP_MAGIC):
        return ".nii.gz" if is_nifti(inflated(head, NIFTI_HEADER_BYTES)) else None
    if is_nifti(head):
        return ".nii"
    if head.startswith(b"NRRD"):
        return ".nhdr" if path.suffix.lower() == ".nhdr" else ".nrrd"
    if is_metaimage(path, head):
        return ".mhd" if path.suffix.lower() == ".mhd" else ".mha"
    return None


@contextmanager
def readable(path: Path) -> Iterator[Path]:
    """The path under which SimpleITK can open a file: its own, or a temporary link's.

    A link is made where the extension is missing or wrong, and where SimpleITK cannot open the
    path: on Windows one that is not ASCII, elsewhere one that is not text. Where the header has a
    line that SimpleITK may stumble over, it is a copy without that.

    Raises:
        SourceError: it is a git-LFS pointer, its header is damaged, or it names its data in a way
            that hides what is read.
    """
    extension = extension_by_content(path)
    require_known_data(path)
    header = text_header(path) if extension in TEXTS else None
    is_plain = header is None or header.is_plain
    fits = extension is None or path.name.lower().endswith(extension)
    if fits and is_plain and is_plain_path(path):
        yield path
        return
    name = f"volume{extension or path.suffix}"
    links = {**data_below(path), name: path} if is_plain else data_below(path)
    with linked(links, near=path) as folder:
        if header is not None and not is_plain:
            header.write_clean(path, folder / name)
        yield folder / name


@contextmanager
def readable_series(files: Sequence[Path]) -> Iterator[list[Path]]:
    """The paths under which SimpleITK can open the files of a series, in the same order."""
    if all(map(is_plain_path, files)):
        yield list(files)
        return
    links = {f"{number:06}.dcm": path for number, path in enumerate(files)}
    with linked(links, near=files[0]) as folder:
        yield [folder / name for name in links]
