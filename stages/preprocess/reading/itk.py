"""What SimpleITK's readers say: kept from the terminal, and turned into a rule's fact."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from stages.machine import is_shortage
from stages.preprocess.rules.ct import EXPORT_AGAIN

# what the readers say, and the rule it is about
RULE_OF_REASON = {
    r"expected \d+ bytes but received \d+": "truncated",
    r"(?i)spacing": "spacing_positive",
    r"(?i)orthonormal": "direction",
}


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep the readers from writing to the terminal; the rules say it better."""
    is_on = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(is_on)


def refusal(path: Path, error: RuntimeError) -> SourceError:
    """SimpleITK's last line, which is the one that says why, under the rule it is about.

    Raises:
        MemoryError: the machine is at fault, and not the file.
    """
    if is_shortage(error):
        raise MemoryError(str(error).strip().splitlines()[-1]) from error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    rule = "readable"
    for words, meant in RULE_OF_REASON.items():
        if re.search(words, reason):
            rule = meant
    return SourceError(path, f"cannot be read: {reason}", EXPORT_AGAIN, rule=rule)
