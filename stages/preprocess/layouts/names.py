"""When two names are one: macOS writes an ü as two characters, Windows and Linux as one."""

import unicodedata
from pathlib import Path


def composed(name: str) -> str:
    """A name in the form in which an accent is part of its letter (NFC)."""
    return unicodedata.normalize("NFC", name)


def forms_of(path: Path) -> list[Path]:
    """A path as it is written, then in the two forms in which a disk may have it."""
    texts = [str(path), *(unicodedata.normalize(form, str(path)) for form in ("NFC", "NFD"))]
    return [Path(text) for text in dict.fromkeys(texts)]
