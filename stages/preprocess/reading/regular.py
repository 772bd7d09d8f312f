"""Only regular files are opened: reading a pipe waits for ever, and some devices never end."""

import stat
from pathlib import Path

from cache.errors import SourceError

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
MEND = "put the file itself there, or a link to it"


def require_regular(path: Path) -> None:
    """Refuse what is not a regular file, nor a link to one, before it is opened.

    Raises:
        SourceError: it is something else, or not there at all.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # a name with a NUL in it
        raise SourceError(path, f"cannot be opened ({error})", "check that it is there") from error
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in KINDS if is_kind(mode)), "of another kind")
        raise SourceError(path, f"is {kind}, not a file", MEND)


def start_of(path: Path, count: int) -> bytes:
    """The first bytes of a regular file.

    Raises:
        SourceError: it is none, or cannot be opened.
    """
    require_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise SourceError(path, f"cannot be opened ({error})", "check that it is there") from error
