"""A folder of CTs and one of labels; in each, a file or a folder for every case."""

from collections.abc import Iterator
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case
from stages.preprocess.layouts.sides import volumes_of
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import is_dicom_object, stem
from stages.preprocess.problems import Finding
from stages.preprocess.reading.dicom_start import is_dicom
from stages.preprocess.reading.sniff import EXTENSIONS

EXAMPLE = (
    "image/<id>/<id>.nii.gz with label/<id>/<id>.nii.gz, or image/<id>.nii.gz with label/…, "
    "or image/<id>/ with DICOM files"
)
LONE_SLICE = "is a single DICOM file; put a series into a folder named like its case"


def _sign(tree: Tree) -> str | None:
    names = {folder.name for folder in tree.folders(tree.root)}
    return "image and label hold the cases" if {"image", "label"} <= names else None


def _find(tree: Tree) -> Found:
    """A file or folder per case; a folder may have the very name of the file in it."""
    image, label = tree.root / "image", tree.root / "label"
    cts, labels = _volumes(tree, image), _volumes(tree, label)
    folders = [folder for side in (image, label) for folder in tree.folders(side)]
    pieces = [
        *((case_id, Claim(cts=tuple(paths))) for case_id, paths in cts.items()),
        *((case_id, Claim(labels=tuple(paths))) for case_id, paths in labels.items()),
        *((stem(folder.name), Claim(folders=(folder,))) for folder in folders),
        *_without_volume(tree, image, cts),
        *_without_volume(tree, label, labels),
    ]
    files = [file for side in (image, label) for file in tree.files(side)]
    lone = [no_case(file, LONE_SLICE) for file in files if _is_lone_slice(file)]
    return Found(gathered(pieces), lone)


def _volumes(tree: Tree, side: Path) -> dict[str, list[Path]]:
    """The volumes below image/ or label/ by the id of their case; one each is right.

    Raises:
        SourceError: the folder is empty, or cannot be listed.
    """
    if fault := tree.listing(side).fault:
        raise SourceError(side, f"cannot be listed ({fault.strerror})", "let it be read")
    if not tree.folders(side) and not tree.files(side):
        raise SourceError(side, "the folder is empty", f"lay the data out as {EXAMPLE}")
    return volumes_of(tree, side)


def _without_volume(
    tree: Tree, side: Path, found: dict[str, list[Path]]
) -> Iterator[tuple[str, Claim]]:
    """The claims of cases that have a folder, but nothing in it or beside it."""
    for folder in tree.folders(side):
        case_id = stem(folder.name)
        if not found[case_id]:
            fact = f"holds no volume ({', '.join(EXTENSIONS)}) and no DICOM files"
            if fault := tree.listing(folder).fault:
                fact = f"cannot be listed ({fault.strerror})"
            fix = f"keep one file per case, named {case_id}, or list the case under data.exclude"
            finding = Finding("one_file_per_case", folder, fact, fix)
            yield case_id, Claim(findings=(finding,))


def _is_lone_slice(path: Path) -> bool:
    is_called_so = path.suffix.lower() in (".dcm", ".ima")
    return (is_called_so or is_dicom(path)) and not is_dicom_object(path)


LAYOUT = Layout("image-label", EXAMPLE, _sign, _find)
