"""CHAOS: a folder per case, with the CT as DICOM and the liver as a PNG image per slice."""

from collections.abc import Iterator
from pathlib import Path

from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case, with_files
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.problems import Problem

CT, LABEL = "DICOM_anon", "Ground"
EXAMPLE = f"<id>/{CT} with <id>/{LABEL}/*.png, also below CT or Train_Sets/CT"
MR = ("T1DUAL", "T2SPIR")
TEST = "Test_Sets"


def _sign(tree: Tree) -> str | None:
    for case in _cases(tree):
        if tree.child(case, CT) and tree.child(case, LABEL):
            return f"{case.relative_to(tree.root).as_posix()} holds {CT} and {LABEL}"
    return None


def _find(tree: Tree) -> Found:
    claims = gathered((case.name, _claim(tree, case)) for case in _cases(tree))
    return Found(claims, list(_others(tree)))


def _above(tree: Tree) -> Iterator[Path]:
    """The folders that may hold cases: the data set, its CT, its training set, that one's CT."""
    train = tree.child(tree.root, "Train_Sets")
    for folder in (tree.root, train):
        if folder:
            yield folder
            ct = tree.child(folder, "CT")
            if ct:
                yield ct


def _cases(tree: Tree) -> Iterator[Path]:
    for above in _above(tree):
        for case in tree.folders(above):
            if tree.child(case, CT) or tree.child(case, LABEL):
                yield case


def _claim(tree: Tree, case: Path) -> Claim:
    ct, label = tree.child(case, CT), tree.child(case, LABEL)
    claim = Claim(
        cts=(ct,) if ct else (),
        labels=(label,) if label else (),
        folders=(case,),
        names={"liver": ()},
    )
    return with_files(tree, claim)


def _others(tree: Tree) -> Iterator[Problem]:
    """The folders of MR and of test cases."""
    test = tree.child(tree.root, TEST)
    if test:
        yield no_case(test, "holds test cases, which have no labels")
    for above in _above(tree):
        for folder in tree.folders(above):
            if _is_mr(tree, folder):
                yield no_case(folder, "is MR, not CT")


def _is_mr(tree: Tree, folder: Path) -> bool:
    return any(tree.child(each, name) for each in (folder, *tree.folders(folder)) for name in MR)


LAYOUT = Layout("chaos", EXAMPLE, _sign, _find)
