"""3D-IRCADb: a folder per case, with a DICOM series of the CT and one of every organ's mask."""

from collections.abc import Iterator
from pathlib import Path

from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case, with_files
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.problems import Problem

CT, MASKS, LIVER = "PATIENT_DICOM", "MASKS_DICOM", "liver"
EXAMPLE = f"<id>/{CT} with <id>/{MASKS}/{LIVER}, unpacked"


def _sign(tree: Tree) -> str | None:
    for case in tree.folders(tree.root):
        if tree.child(case, CT) and tree.child(case, MASKS):
            return f"{case.name} holds {CT} and {MASKS}"
    return None


def _find(tree: Tree) -> Found:
    cases = [
        case for case in tree.folders(tree.root) if tree.child(case, CT) or tree.child(case, MASKS)
    ]
    claims = gathered((case.name, _claim(tree, case)) for case in cases)
    return Found(claims, [problem for case in cases for problem in _others(tree, case)])


def _claim(tree: Tree, case: Path) -> Claim:
    ct, masks = _inner(tree, tree.child(case, CT)), _inner(tree, tree.child(case, MASKS))
    liver = _inner(tree, tree.child(masks, LIVER) if masks else None)
    return with_files(
        tree,
        Claim(
            cts=(ct,) if ct else (),
            labels=(liver,) if liver else (),
            folders=(case,),
            names={LIVER: ()},
        ),
    )


def _others(tree: Tree, case: Path) -> Iterator[Problem]:
    """The folders of a case that are neither its CT nor its liver."""
    masks = tree.child(case, MASKS)
    for folder in tree.folders(case):
        if folder.name.upper() not in (CT, MASKS):
            yield no_case(folder, "is neither the CT nor a mask")
    inner = _inner(tree, masks)
    for folder in tree.folders(inner) if inner else []:
        if folder.name.lower() != LIVER:
            yield no_case(folder, "is the mask of another structure")


def _inner(tree: Tree, folder: Path | None) -> Path | None:
    """A folder, or the one of the same name in it, as unpacking into a folder makes it."""
    inner = tree.child(folder, folder.name) if folder else None
    return _inner(tree, inner) if inner else folder


LAYOUT = Layout("ircadb", EXAMPLE, _sign, _find)
