"""Which layout a folder has."""

from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.layouts import (
    chaos,
    folders,
    image_label,
    ircadb,
    list_file,
    lits,
    msd,
    nnunet,
    totalsegmentator,
)
from stages.preprocess.layouts.layout import Layout
from stages.preprocess.layouts.tree import Tree

# in the order in which they are tried: a list says what is meant; names that only one program
# gives come before those that anybody might give
FIXED: tuple[Layout, ...] = (
    list_file.LAYOUT,
    nnunet.LAYOUT,
    msd.LAYOUT,
    chaos.LAYOUT,
    ircadb.LAYOUT,
    totalsegmentator.LAYOUT,
    lits.LAYOUT,
    image_label.LAYOUT,
)
# the last, which goes by what names mean, is tried where no other fits here or one folder down
LAYOUTS = (*FIXED, folders.LAYOUT)
AUTO = "auto"
NAMES = (AUTO, *(layout.name for layout in LAYOUTS))  # what data.layout may be
SHOWN = 6  # names of what lies in a folder, in a message


def choose(src: Path, layout: str) -> tuple[Layout, str]:
    """The layout of a data set, and in one line the fact by which it was recognised.

    Args:
        src: the data set's folder, or a list of cases.
        layout: one of ``NAMES``; ``auto`` takes the first that is recognised.

    Raises:
        SourceError: there is nothing, or nothing that is laid out so.
    """
    _require_data(src)
    tree = Tree(src)
    if layout != AUTO:
        return _forced(tree, next(each for each in LAYOUTS if each.name == layout))
    signs = _signs(tree) or _sign_of_folders(tree)
    if not signs:
        raise _unrecognised(tree)
    (first, sign), *others = signs
    also = ", ".join(each.name for each, _ in others)
    doubt = f" ({also} would fit too; data.layout forces one)" if also else ""
    return first, f"{first.name}: {sign}{doubt}"


def _require_data(src: Path) -> None:
    if not src.exists():
        raise SourceError(src, "there is no such folder", "give the folder that holds the cases")
    if src.is_file() and not list_file.LAYOUT.sign(Tree(src)):
        fix = "give the folder that holds the cases, or a list of cases that ends in .csv or .json"
        raise SourceError(src, "is a file, but no list of cases", fix)
    if src.is_dir() and (fault := Tree(src).listing(src).fault):
        raise SourceError(src, f"cannot be listed ({fault.strerror})", "let it be read")
    if src.is_dir() and not any(src.iterdir()):
        raise SourceError(src, "the folder is empty", f"lay the data out as\n{_examples()}")


def _forced(tree: Tree, layout: Layout) -> tuple[Layout, str]:
    sign = layout.sign(tree)
    if sign:
        return layout, f"{layout.name}: {sign} (data.layout asks for it)"
    others = ", ".join(each.name for each, _ in _signs(tree))
    advice = f"; this one would fit {others}" if others else ""
    fact = f"holds {_content(tree)}, which is not the layout {layout.name}"
    fix = f"lay it out as {layout.example}; or choose another data.layout, or auto{advice}"
    raise SourceError(tree.root, fact, fix)


def _signs(tree: Tree) -> list[tuple[Layout, str]]:
    """The fixed layouts that recognise a folder, and by what."""
    return [(each, sign) for each in FIXED if (sign := each.sign(tree))]


def _sign_of_folders(tree: Tree) -> list[tuple[Layout, str]]:
    """Whether names say what belongs together, where no fixed layout is one folder down."""
    sign = None if _fixed_below(tree) else folders.LAYOUT.sign(tree)
    return [(folders.LAYOUT, sign)] if sign else []


def _fixed_below(tree: Tree) -> list[Path]:
    return [folder for folder in tree.folders(tree.root) if _signs(Tree(folder))]


def _unrecognised(tree: Tree) -> SourceError:
    fact = f"holds {_content(tree)}, which is not a known layout"
    below = _fixed_below(tree)
    if len(below) == 1:
        return SourceError(tree.root, fact, f"use {below[0]} as --src")
    begun = "write a list of the cases, which python -m pipeline.configure --src begins"
    return SourceError(tree.root, fact, f"{begun}, or lay them out as\n{_examples()}")


def _content(tree: Tree) -> str:
    """A few names of what lies in a folder."""
    listing = tree.listing(tree.root)
    if listing.fault:
        return f"nothing that can be listed ({listing.fault})"
    names = [f"{folder.name}/" for folder in listing.folders]
    names += [file.name for file in listing.files]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) + more) or "hidden files alone"


def _examples() -> str:
    return "\n".join(f"    {layout.name}: {layout.example}" for layout in LAYOUTS)
