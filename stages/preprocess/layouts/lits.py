"""LiTS: volume-N and segmentation-N, in one folder or in several."""

import re
from collections.abc import Iterator
from pathlib import Path

from stages.preprocess.layouts.layout import Claim, Found, Layout, gathered, no_case
from stages.preprocess.layouts.tree import Tree
from stages.preprocess.layouts.volumes import has_extension, stem

EXAMPLE = "volume-<id>.nii with segmentation-<id>.nii, in any folders"
FILE = re.compile(r"(volume|segmentation)-(\d+)")
TEST = re.compile(r"test-volume-\d+")


def _sign(tree: Tree) -> str | None:
    seen: dict[str, str] = {}
    for path, kind, _ in _files(tree):
        seen.setdefault(kind, path.name)
        if len(seen) == 2:
            return f"holds {seen['volume']} and {seen['segmentation']}"
    return None


def _find(tree: Tree) -> Found:
    pieces = (
        (number, Claim(cts=(path,)) if kind == "volume" else Claim(labels=(path,)))
        for path, kind, number in _files(tree)
    )
    tests = (path for path in tree.files_below(tree.root) if TEST.fullmatch(stem(path.name)))
    fact = "is a test case, which has no label"
    return Found(gathered(pieces), [no_case(path, fact) for path in tests])


def _files(tree: Tree) -> Iterator[tuple[Path, str, str]]:
    """Path, ``volume`` or ``segmentation``, and number of every file that is called so."""
    for path in tree.files_below(tree.root):
        if has_extension(path) and (named := FILE.fullmatch(stem(path.name).lower())):
            yield path, named[1], named[2]


LAYOUT = Layout("lits", EXAMPLE, _sign, _find)
