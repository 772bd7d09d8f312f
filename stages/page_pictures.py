"""Pictures of an HTML page: the first ones inside the file, all others in a folder beside it.

A page of a few cases is one file that can be sent to somebody. One of thousands would be too
large to open, so it loads what is on the screen, from its folder and from nowhere else.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path

from cache.files import named, remove

NAME = re.compile(r"[0-9a-f]{32}\.(png|jpeg)")  # of our files; others in the folder are not ours


class PagePictures:
    """The pictures of one page, in the order in which it shows them.

    Args:
        page: the HTML file.
        kind: of the pictures, ``png`` or ``jpeg``.
        inside: how many of them are to be in the file itself.
    """

    def __init__(self, page: Path, kind: str, inside: int) -> None:
        self.folder = page.with_name(f"{page.stem}_files")
        self._kind, self._inside = kind, inside
        self._count = 0
        self._names: set[str] = set()
        # there for a small page too: DVC asks for all that a stage is said to write
        self.folder.mkdir(parents=True, exist_ok=True)

    def address(self, picture: bytes) -> str:
        """What the next picture's ``src`` is; one that is beside the page is written there."""
        self._count += 1
        if self._count <= self._inside:
            encoded = base64.b64encode(picture).decode("ascii")
            return f"data:image/{self._kind};base64,{encoded}"
        # the name is the content's, so a page that is there already keeps its pictures
        name = f"{hashlib.sha256(picture).hexdigest()[:32]}.{self._kind}"
        self._names.add(name)
        _write_unless_there(self.folder / name, picture)
        return f"{self.folder.name}/{name}"

    def end(self) -> None:
        """Delete the pictures that the page has no more; to be called once it is written."""
        for file in self.folder.iterdir():
            if NAME.fullmatch(file.name) and file.name not in self._names:
                remove(file)


def count_inside(sizes_bytes: Iterable[int], limit_bytes: int) -> int:
    """How many of the first pictures of a page are to be in it.

    Args:
        sizes_bytes: of the pictures, in the order of the page.
        limit_bytes: of all that are inside, before they become text, which is a third more.
    """
    return sum(total <= limit_bytes for total in accumulate(sizes_bytes))


def png_size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG in pixels: the fields that follow its signature and IHDR."""
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


def _write_unless_there(path: Path, picture: bytes) -> None:
    """Write a file that no page refers to yet; if it is cut short by a kill, the next run sees."""
    with named(path):
        if not (path.is_file() and path.read_bytes() == picture):
            path.write_bytes(picture)
