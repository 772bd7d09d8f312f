"""Any folders of CTs and labels, in which names say what belongs together."""

from collections.abc import Iterator
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts.layout import Found, Layout
from stages.preprocess.layouts.pairing import beside, case_folders, two_folders
from stages.preprocess.layouts.pairing.group import Group
from stages.preprocess.layouts.tree import Tree

EXAMPLE = (
    "images/<id>_0000.nii.gz with masks/<id>_mask.nii.gz, or <id>/CT.nii.gz with "
    "<id>/liver.nii.gz, or <id>.nii.gz with <id>_seg.nii.gz, also one or two folders down"
)
WAYS = (two_folders.find, case_folders.find, beside.find)
DEPTH = 2  # folders between the data set and its cases, or its folders of CTs and labels
SHOWN = 6  # places in a message


def groups(tree: Tree) -> list[Group]:
    """Every place in which CTs and labels belong together; below one, no other is looked for.

    Places in which no case is without doubt count only where there are no others.

    Raises:
        SourceError: two folders hold a CT, or a label, of one case.
    """
    return list(_below(tree, tree.root, sure=True)) or list(_below(tree, tree.root, sure=False))


def _below(tree: Tree, folder: Path, *, sure: bool, depth: int = DEPTH) -> Iterator[Group]:
    found = [group for way in WAYS if (group := way(tree, folder)) and (group.pair or not sure)]
    yield from found
    if depth and not found:
        for each in tree.folders(folder):
            yield from _below(tree, each, sure=sure, depth=depth - 1)


def _only(tree: Tree) -> Group | None:
    """The one place there is.

    Raises:
        SourceError: there are several; names them.
    """
    found = groups(tree)
    if len(found) > 1:
        places = ", ".join(_place(group, found) for group in found[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        fact = f"holds CTs and labels in {len(found)} places: {places}{more}"
        raise SourceError(tree.root, fact, "use one of them as --src, or write a list of all cases")
    return found[0] if found else None


def _place(group: Group, found: list[Group]) -> str:
    """Where a group is, and how, if another is there in another way."""
    is_alone = [one.where for one in found].count(group.where) == 1
    return str(group.where) if is_alone else f"{group.where} ({group.how})"


def _sign(tree: Tree) -> str | None:
    group = _only(tree)
    if group is None:
        return None
    if group.pair is None:
        return f"{group.how}, but of no case it is clear which"
    ct, label = (path.relative_to(tree.root).as_posix() for path in group.pair)
    return f"{group.how}, as {ct} with {label}"


def _find(tree: Tree) -> Found:
    group = _only(tree)
    return Found(group.claims, group.ignored) if group else Found({})


LAYOUT = Layout("folders", EXAMPLE, _sign, _find)
