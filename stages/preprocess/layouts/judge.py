"""The rules about names and files, which every case has to keep before it is read."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from stages.preprocess.layouts.layout import Claim
from stages.preprocess.layouts.names import composed
from stages.preprocess.problems import Finding
from stages.preprocess.rules.inside import data_inside, home_of

# begins with a letter or digit; ends with neither dot nor blank, which Windows drops
SAFE_ID = re.compile(r"\w([\w .+=@()-]*[\w+=@()-])?")
DEVICES = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE)
ID_BYTES = 200  # a file's name has at most 255, and the store appends to it
ID_SHOWN = 60  # letters of an id in a message
OR_EXCLUDE = "or list the case under data.exclude"


def findings(src: Path, case_id: str, claim: Claim, taken: dict[str, str]) -> list[Finding]:
    """Why a case cannot be prepared; nothing if it can.

    Args:
        src: the data set's folder, or its list.
        case_id: the case's id.
        claim: its files.
        taken: ids of cases that are prepared, by what ``folded`` makes of them.
    """
    wrong = [*claim.findings, *_miscounted(src, claim)]
    if wrong:
        return wrong
    return [*_unsafe(case_id, claim, taken), *_data_outside(src, claim)]


def folded(case_id: str) -> str:
    """What two ids have in common that are one file's name on Windows or macOS."""
    return composed(case_id).casefold()


def patient_of(case_id: str, claim: Claim, pattern: str | None) -> str | None:
    """The patient: as the data set says, else as the expression finds it in the id, else None."""
    # one person in two Unicode forms would be on both sides of the split
    if claim.patient_id is not None or pattern is None:
        return composed(claim.patient_id or case_id)
    match = re.search(composed(pattern), composed(case_id))
    if match is None:
        return None
    return (match[1] if match.re.groups else match[0]) or None


def without_patient(case_id: str, claim: Claim, pattern: str | None) -> Finding:
    """The finding of a case in whose id the expression finds no patient."""
    fact = f"data.patient_id {pattern!r} finds no patient in the id {case_id!r}"
    fix = f"correct the expression, name patients in a list of cases, {OR_EXCLUDE}"
    return Finding("patient_id", claim.cts[0], fact, fix)


def root_of(src: Path, claim: Claim) -> Path:
    """The folder all of a case's data must lie in: the data set's.

    For a list that names files elsewhere, the one they have in common.
    """
    homes = [_home(src, path) for path in (*claim.cts, *claim.labels)]
    try:
        return homes[0] if len(set(homes)) == 1 else Path(os.path.commonpath(homes))
    except ValueError:  # on different drives
        return homes[0]


def _miscounted(src: Path, claim: Claim) -> Iterator[Finding]:
    """Each of CT and label must be there once, unless the layout has already said more."""
    known = {finding.rule for finding in claim.findings}
    for kind, paths in (("CTs", claim.cts), ("labels", claim.labels)):
        if len(paths) > 1 and "one_file_per_case" not in known:
            names = ", ".join(_relative(src, path) for path in paths[:4])
            fact = f"{len(paths)} {kind} claim to be this case: {names}"
            fix = f"keep one CT and one label per case, {OR_EXCLUDE}"
            yield Finding("one_file_per_case", paths[0], fact, fix)
    if not claim.cts and claim.labels and not known:
        fact, fix = "is a label without a CT", f"add the CT, {OR_EXCLUDE}"
        yield Finding("ct_missing", claim.labels[0], fact, fix)
    if not claim.labels and claim.cts and not known:
        fact, fix = "is a CT without a label", f"add the label, {OR_EXCLUDE}"
        yield Finding("label_missing", claim.cts[0], fact, fix)
    if not claim.cts and not claim.labels and not known:
        fact, fix = "holds neither CT nor label", f"add both, {OR_EXCLUDE}"
        yield Finding("ct_missing", claim.folders[0], fact, fix)


def _unsafe(case_id: str, claim: Claim, taken: dict[str, str]) -> Iterator[Finding]:
    """The id becomes a file's name, which has to be possible everywhere."""
    # macOS writes some letters as two characters, of which the second is none by itself
    name = composed(case_id)
    plain = SAFE_ID.fullmatch(name) and not DEVICES.fullmatch(name)
    size = len(case_id.encode("utf-8", "surrogatepass"))  # a name need not be text
    if not plain or size > ID_BYTES:
        long = f": it has {size} bytes, and {ID_BYTES} are possible" if size > ID_BYTES else ""
        fact = f"the id {_in_short(case_id)} cannot be a file's name everywhere{long}"
        fix = f"rename it to letters, digits, _ and -, {OR_EXCLUDE}"
        yield Finding("safe_id", claim.cts[0], fact, fix)
    elif folded(case_id) in taken:
        other = taken[folded(case_id)]
        fact = f"the id {case_id!r} is the same file's name as {other!r} on Windows and macOS"
        yield Finding("one_file_per_case", claim.cts[0], fact, f"rename one, {OR_EXCLUDE}")


def _in_short(case_id: str) -> str:
    return repr(case_id if len(case_id) <= ID_SHOWN else f"{case_id[: ID_SHOWN - 1]}…")


def _data_outside(src: Path, claim: Claim) -> Iterator[Finding]:
    found = (data_inside(header, _home(src, header)) for header in (*claim.cts, *claim.labels))
    yield from (finding for finding in found if finding is not None)


def _home(src: Path, path: Path) -> Path:
    """The data set's folder, or that of a file which a list names elsewhere."""
    return home_of(path, src if src.is_dir() else src.parent)


def _relative(src: Path, path: Path) -> str:
    return path.relative_to(src).as_posix() if path.is_relative_to(src) else str(path)
