"""What SimpleITK's readers say: kept from the terminal, and turned into a rule's fact."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from stages.machine import is_shortage
from stages.preprocess.rules.ct import EXPORT_AGAIN

# what the readers say, and the rule it is about; only rules without which nothing can be prepared
RULE_OF_REASON = {
    r"expected \d+ bytes but received \d+": "truncated",
    r"(?i)spacing": "spacing_positive",
}
PERMISSIVE = "ITK_NIFTI_SFORM_PERMISSIVE"  # read by ITK whenever it opens a file


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep the readers from writing to the terminal; the rules say it better."""
    is_on = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(is_on)


@contextmanager
def straightened_sform(is_wanted: bool) -> Iterator[None]:
    """Let the reader straighten axes of a NIfTI file's sform that are not quite at right angles.

    It takes the nearest ones that are, and otherwise refuses the file. Not to be wanted where there
    is a qform, for it would no longer take that instead.
    """
    before = os.environ.get(PERMISSIVE)
    os.environ[PERMISSIVE] = "ON" if is_wanted else "OFF"
    try:
        yield
    finally:
        if before is None:
            del os.environ[PERMISSIVE]
        else:
            os.environ[PERMISSIVE] = before


def refusal(path: Path, error: RuntimeError) -> SourceError:
    """SimpleITK's last line, which is the one that says why, under the rule it is about.

    Raises:
        MemoryError: the machine is at fault, and not the file.
    """
    if is_shortage(error):
        raise MemoryError(str(error).strip().splitlines()[-1]) from error
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1] if lines else "no reason given"
    if reason.endswith("No such file or directory"):  # of MetaImage's reader, whatever it met
        reason = "the reader gives no reason"
    rules = [rule for words, rule in RULE_OF_REASON.items() if re.search(words, reason)]
    rule = rules[-1] if rules else "readable"
    return SourceError(path, f"cannot be read: {reason}", EXPORT_AGAIN, rule=rule)
