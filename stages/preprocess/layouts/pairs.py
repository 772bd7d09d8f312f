"""Cases whose files a list or dataset.json names one by one."""

import os
from collections.abc import Iterable
from pathlib import Path, PureWindowsPath

from stages.preprocess.layouts.layout import Claim
from stages.preprocess.layouts.names import forms_of
from stages.preprocess.problems import Finding

FIX = "correct the path or put the file there, or list the case under data.exclude"


def named_path(folder: Path, text: str) -> Path:
    """A path as somebody wrote it, relative to a folder or absolute, perhaps on Windows."""
    path = folder / text
    if os.name != "nt" and "\\" in text and not _is_there(path):
        path = folder / PureWindowsPath(text).as_posix()
    # a list written on Windows may name a file that a Mac wrote
    path = next((form for form in forms_of(path) if _is_there(form)), path)
    # without "./" and "..", as the tree names the same file
    return Path(os.path.normpath(path))


def claim_of(cts: Iterable[Path], labels: Iterable[Path], *, named_in: str) -> Claim:
    """The claim of files that are named somewhere: those that are not there become findings.

    Args:
        cts: the paths named as CT.
        labels: the paths named as label.
        named_in: where they are named, as in "cases.csv, line 3".
    """
    cts, labels = list(cts), list(labels)
    missing = [("ct_missing", path) for path in cts if not _is_there(path)]
    missing += [("label_missing", path) for path in labels if not _is_there(path)]
    findings = [
        Finding(rule, path, f"is not there; {named_in} names it", FIX) for rule, path in missing
    ]
    return Claim(
        tuple(path for path in cts if _is_there(path)),
        tuple(path for path in labels if _is_there(path)),
        findings=tuple(findings),
    )


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that is too long for a file's name, or has a zero in it
        return False
