"""A temporary folder with links under plain names, for readers that cannot open a file's own."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cache.errors import SourceError


@contextmanager
def linked(targets: Mapping[str, Path], *, near: Path) -> Iterator[Path]:
    """A folder with links to files, which is gone afterwards.

    Args:
        targets: the file by the link's name, which may have folders in it but does not lead out.
        near: a file of theirs; on Windows links are made on its drive.

    Raises:
        SourceError: there is nowhere to put it.
    """
    folder = _make_folder(near.absolute())
    try:
        for name, target in targets.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            _link(target.resolve(), folder / name)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def link_places(drive_root: str, temp: str, *, is_windows: bool) -> list[str]:
    """The folders in which links may be made, the best first.

    Windows makes hard links on one drive only, and SimpleITK opens ASCII paths alone there.

    Args:
        drive_root: of the files to link, for instance ``D:/``.
        temp: the machine's folder for temporary files.
        is_windows: whether this is Windows; elsewhere any folder will do.
    """
    if not is_windows:
        return [temp]
    return [place for place in (drive_root, temp) if place.isascii()]


def takes_links(folder: Path, target: Path) -> bool:
    """Whether a hard link to a file can be made in a folder; nothing is left there."""
    link = folder / "link"
    try:
        os.link(target, link)
        link.unlink()
    except OSError:
        return False
    return True


def _make_folder(source: Path) -> Path:
    temp = tempfile.gettempdir()
    for place in link_places(source.anchor, temp, is_windows=os.name == "nt"):
        try:
            folder = Path(tempfile.mkdtemp(prefix=".liver3d-", dir=place))
        except OSError:  # the root of a drive may be closed to users
            continue
        if place == temp or takes_links(folder, source):
            return folder
        folder.rmdir()
    fact = "has a path that is not ASCII, and there is no folder to open it from"
    raise SourceError(source, fact, "set TEMP to an existing folder whose path is ASCII")


def _link(target: Path, link: Path) -> None:
    """Link, or copy where the file system or Windows forbids links."""
    for attempt in (os.symlink, os.link, shutil.copyfile):
        try:
            attempt(target, link)
        except FileExistsError:  # a copy would go through the link, into the file it leads to
            raise
        except OSError:
            if attempt is shutil.copyfile:
                raise
        else:
            return
