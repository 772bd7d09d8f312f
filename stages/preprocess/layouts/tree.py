"""A folder tree of which every folder is listed at most once."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# what systems and programs leave behind; names that begin with a dot are hidden as well
HIDDEN = {
    "__macosx",
    "thumbs.db",
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "@eadir",
    "lost+found",
}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name belongs to the system, not to the data set."""
    return name.startswith(".") or name.lower() in HIDDEN


@dataclass(frozen=True)
class Listing:
    """What lies in one folder, each list sorted by name.

    Attributes:
        folders: subfolders, links to folders among them.
        files: all else: files, links that lead nowhere or back to where they lie.
        hidden: files and folders that belong to the system, not to the data set.
        links: all that are links, in whichever of the lists they stand.
        fault: why the folder could not be listed; the lists are empty then.
    """

    folders: list[Path]
    files: list[Path]
    hidden: list[Path]
    links: list[Path] = field(default_factory=list)
    fault: OSError | None = None


class Tree:
    """The files below a folder, listed when asked for and remembered: large shares are slow."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, Listing] = {}

    def listing(self, folder: Path) -> Listing:
        """What lies in a folder; nothing if it cannot be listed or is no folder."""
        if folder not in self._listings:
            self._listings[folder] = self._list(folder)
        return self._listings[folder]

    def folders(self, folder: Path) -> list[Path]:
        """The subfolders of a folder that are not hidden, sorted by name."""
        return self.listing(folder).folders

    def files(self, folder: Path) -> list[Path]:
        """The files in a folder that are not hidden, sorted by name."""
        return self.listing(folder).files

    def child(self, folder: Path, name: str) -> Path | None:
        """The subfolder of this name, upper and lower case alike; None if there is none."""
        for each in self.folders(folder):
            if each.name.lower() == name.lower():
                return each
        return None

    def walk(self, folder: Path) -> Iterator[Path]:
        """A folder and all that are not hidden below it, each before its subfolders."""
        yield folder
        for each in self.folders(folder):
            yield from self.walk(each)

    def files_below(self, folder: Path) -> Iterator[Path]:
        """All files below a folder that neither are hidden nor lie in a hidden folder."""
        for each in self.walk(folder):
            yield from self.files(each)

    def _list(self, folder: Path) -> Listing:
        try:
            with os.scandir(folder) as entries:
                by_name = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            return Listing([], [], [], fault=error)
        listing = Listing([], [], [])
        for entry in by_name:
            path = folder / entry.name
            if _is_link(entry):
                listing.links.append(path)
            if is_hidden(entry.name):
                listing.hidden.append(path)
            elif _is_folder(entry) and not (_is_link(entry) and self._leads_back(path)):
                listing.folders.append(path)
            else:
                listing.files.append(path)
        return listing

    def _leads_back(self, link: Path) -> bool:
        """Whether a link leads to a folder it lies in, so that following it would never end."""
        target = link.resolve()
        above = (each for each in link.parents if each == self.root or self.root in each.parents)
        return any(each.resolve().is_relative_to(target) for each in above)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _is_link(entry: os.DirEntry[str]) -> bool:
    # a junction is Windows' link between folders; Python 3.11 cannot tell one, later ones can
    return entry.is_symlink() or bool(getattr(entry, "is_junction", bool)())
