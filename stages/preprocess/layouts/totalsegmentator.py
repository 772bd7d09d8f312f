"""TotalSegmentator: a folder per case, with the CT and a mask for each of a hundred structures."""

from collections.abc import Iterator
from pathlib import Path

from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import has_extension, stem
from stages.preprocess.problems import Problem

CT, MASKS, LIVER = "ct", "segmentations", "liver"
EXAMPLE = f"<id>/{CT}.nii.gz with <id>/{MASKS}/{LIVER}.nii.gz"


def _sign(tree: Tree) -> str | None:
    for case in tree.folders(tree.root):
        cts = _named(tree, case, CT)
        if cts and tree.child(case, MASKS):
            return f"{case.name} holds {cts[0].name} and {MASKS}"
    return None


def _find(tree: Tree) -> Found:
    cases = [
        case
        for case in tree.folders(tree.root)
        if _named(tree, case, CT) or tree.child(case, MASKS)
    ]
    claims = gathered((case.name, _claim(tree, case)) for case in cases)
    ignored = [problem for case in cases for problem in _others(tree, case)]
    table = tree.root / "meta.csv"
    return Found(
        claims, [*ignored, no_case(table, "describes the cases")] if table.is_file() else ignored
    )


def _claim(tree: Tree, case: Path) -> Claim:
    masks = tree.child(case, MASKS)
    return Claim(
        cts=_named(tree, case, CT),
        labels=_named(tree, masks, LIVER) if masks else (),
        folders=(case,),
        names={LIVER: ()},
    )


def _named(tree: Tree, folder: Path, name: str) -> tuple[Path, ...]:
    """The volumes of this name in a folder."""
    return tuple(
        path for path in tree.files(folder) if has_extension(path) and stem(path.name) == name
    )


def _others(tree: Tree, case: Path) -> Iterator[Problem]:
    """One line for all other structures of a case; there are over a hundred."""
    masks = tree.child(case, MASKS)
    if masks:
        others = len(list(tree.files_below(masks))) - len(_named(tree, masks, LIVER))
        if others:
            yield no_case(masks, f"holds {others} files of other structures beside {LIVER}")


LAYOUT = Layout("totalsegmentator", EXAMPLE, _sign, _find)
