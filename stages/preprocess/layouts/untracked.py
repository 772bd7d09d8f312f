"""What DVC stops at, in a data set that can be prepared all the same."""

from collections.abc import Iterator
from pathlib import Path

from stages.preprocess.layouts.tree import Tree
from stages.preprocess.problems import Problem

RULE = "not_tracked"


def untracked(tree: Tree) -> Iterator[Problem]:
    """The links that lead nowhere, and the names that are not UTF-8: dvc repro ends at the first.

    It names an error of the system or a code of Python's, but neither the case nor what to do.
    """
    for folder in tree.walk(tree.root):
        listing = tree.listing(folder)
        for link in listing.links:
            if not _leads_somewhere(link):
                fact = "is a link that leads nowhere; dvc repro stops at it"
                yield _warning(link, fact, "mend or remove the link")
        for path in (*listing.folders, *listing.files, *listing.hidden):
            if not _is_text(path.name):
                fact = "has a name that is not UTF-8; dvc repro stops at it"
                yield _warning(path, fact, "rename it, for instance with convmv")


def _warning(path: Path, fact: str, fix: str) -> Problem:
    return Problem("warning", RULE, "", str(path), fact, fix)


def _leads_somewhere(link: Path) -> bool:
    try:
        return link.exists()
    except OSError:
        return False


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:  # bytes of another encoding, kept as surrogates
        return False
    return True
