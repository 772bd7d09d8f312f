"""The series in a DICOM folder: which one is meant, and what else is there.

pydicom reads the headers, SimpleITK later the voxels.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cache.errors import SourceError
from stages.preprocess.layouts.tree import is_hidden
from stages.preprocess.policy import OTHER_FILES
from stages.preprocess.problems import Finding
from stages.preprocess.reading import stack
from stages.preprocess.reading.agree import disagreements, interleaved
from stages.preprocess.reading.below import files_below
from stages.preprocess.reading.dicom_kind import (
    CONVERT,
    UNKNOWN_CLASS,
    holds_several,
    is_converted,
    is_image,
    is_localizer,
    is_of_ct,
    name_of,
    several_frames,
)
from stages.preprocess.reading.dicom_start import is_dicom
from stages.preprocess.reading.group import PARALLEL, Group, groups_of, header_of, normal_of
from stages.preprocess.rules import series as rules

SLICE_ENDINGS = (".dcm", ".dicom", ".ima")
NO_DICOM = "no DICOM file"
NO_IMAGE = "holds no image"
STRAY = 0.1  # of the slices of a converted series: so few that a scanner wrote are not the CT
RIVAL = 0.5  # of the most slices: a series with so many may be meant as well
Numbers = Literal["alike", "whole", "fractions"]


@dataclass(frozen=True)
class Series:
    """The slices to read, in ascending order of their positions, and what was odd about them.

    Attributes:
        slices: files, none at the place of another.
        findings: gaps, repeats, tilt, what the slices disagree in, other series that may be meant,
            and the files of the folder that do not belong to it.
        numbers: ``alike`` if all slices are stored in one way, so that the first one's data type
            is that of all; else whether their HU are ``whole`` numbers or ``fractions``.
    """

    slices: list[Path]
    findings: list[Finding]
    numbers: Numbers = "alike"


def choose_series(folder: Path, *, is_ct: bool) -> Series:
    """The series of a folder that is meant; for a CT, of those that are CT.

    What a scanner wrote goes before what a program made of other files (Secondary Capture).
    It is the one with the most slices, unless others have half as many or more: of these, one
    with slices in the folder itself goes before those below it, one that was scanned before one
    that was computed, and one across the body before others. If that does not decide it, rule
    ``dicom_choice`` says so. Localizers are never meant.

    Args:
        folder: holds DICOM files, at any depth.
        is_ct: whether a CT is looked for; a label may be images of any modality.

    Raises:
        SourceError: no series can be used.
    """
    images, unused = _images(folder)
    groups = list(groups_of(images))
    wanted = _wanted(groups, is_ct=is_ct)
    if not wanted:
        raise _nothing_meant(folder, groups, unused, is_ct=is_ct)
    chosen, rivals = _chosen(folder, wanted)
    if holds_several(chosen.head):
        raise several_frames(*chosen.images[0])
    for group in groups:
        if group is not chosen:
            what = "a localizer" if is_localizer(group.head) else "another series"
            unused |= dict.fromkeys((path for path, _ in group.images), _told(what, group))
    slices = [stack.slice_of(*image) for image in chosen.images]
    kept, repeats = stack.without_repeats(slices)
    findings = [
        rules.dicom_choice(folder, _counted(chosen), [_counted(one) for one in rivals]),
        *_of_stack(
            folder, kept, repeats, [*_lost_parts(chosen, groups, kept), *_lookalikes(kept, unused)]
        ),
        *_other_files(folder, unused.values()),
    ]
    found = [finding for finding in findings if finding is not None]
    return Series([one.path for one in kept], found, _numbers(kept))


def _images(folder: Path) -> tuple[list[tuple[Path, Any]], dict[Path, str]]:
    """The images below a folder with their headers, and why each other file is none."""
    images, unused = [], {}
    for path in files_below(folder):
        if not is_dicom(path):
            unused[path] = NO_DICOM
            continue
        header = header_of(path)
        if not is_image(header):
            unused[path] = name_of(header)
        elif not header.get("Rows"):
            unused[path] = NO_IMAGE
        else:
            images.append((path, header))
    return images, unused


def _wanted(groups: Sequence[Group], *, is_ct: bool) -> list[Group]:
    """Those that may be meant: for a CT, what a scanner wrote goes before what was converted."""
    images = [group for group in groups if not is_localizer(group.head)]
    if not is_ct:
        return images
    of_ct = [group for group in images if is_of_ct(group.head)]
    most = max((group.count for group in of_ct), default=0)
    scanned = [
        group for group in of_ct if not is_converted(group.head) and group.count > STRAY * most
    ]
    return scanned or of_ct


def _chosen(folder: Path, wanted: Sequence[Group]) -> tuple[Group, list[Group]]:
    """The series that is meant, and others of which that may be said as well."""

    def preference(group: Group) -> tuple[bool, ...]:
        is_here = any(path.parent == folder for path, _ in group.images)
        return (is_here, *group.preference)

    most = max(group.count for group in wanted)
    many = [group for group in wanted if group.count >= RIVAL * most]
    best = max(map(preference, many))
    rivals = [group for group in many if preference(group) == best]
    chosen = max(rivals, key=lambda group: (group.count, repr(group.key)))
    return chosen, [group for group in rivals if group is not chosen]


def _counted(group: Group) -> str:
    return f"{group.described}, {group.count} slices"


def _told(what: str, group: Group) -> str:
    return f"{what} ({group.described})"


def _nothing_meant(
    folder: Path, groups: Sequence[Group], unused: Mapping[Path, str], *, is_ct: bool
) -> SourceError:
    found = Counter(reason for reason in unused.values() if reason != NO_DICOM)
    for group in groups:
        found[_kind(group, is_ct=is_ct)] += len(group.images)
    files = [f"{what} ({n} {'file' if n == 1 else 'files'})" for what, n in sorted(found.items())]
    what = "CT series" if is_ct else "images of a label"
    fact = f"holds no {what}; it has {', '.join(files) or NO_DICOM}"
    fix = "name the folder of the CT series" if is_ct else CONVERT
    return SourceError(folder, fact, fix)


def _kind(group: Group, *, is_ct: bool) -> str:
    """What a group is that is not meant."""
    modality = group.key[0]
    if is_localizer(group.head):
        return f"{modality or 'unknown'} localizers".strip()
    if is_ct and modality in ("CT", ""):
        return name_of(group.head)
    return modality or "unknown"


def _of_stack(
    folder: Path,
    kept: Sequence[stack.Slice],
    repeats: Sequence[tuple[stack.Slice, stack.Slice]],
    lost: Iterable[str],
) -> list[Finding | None]:
    origins = np.array([one.origin_xyz_mm for one in kept])
    is_same = all(stack.same_voxels(*two) for two in repeats)
    return [
        rules.dicom_repeats(folder, len(repeats), is_same=is_same),
        rules.dicom_mixed(folder, [*disagreements(kept), *lost]),
        rules.dicom_phases(folder, interleaved(kept)),
        rules.dicom_gaps(folder, [one.position_mm for one in kept]),
        rules.gantry_tilt(folder, origins, kept[0].normal),
    ]


def _lost_parts(
    chosen: Group, groups: Sequence[Group], kept: Sequence[stack.Slice]
) -> Iterator[str]:
    """Slices of the very same series, of another size or direction, beyond those that are read."""
    first, last = kept[0].position_mm, kept[-1].position_mm
    for group in groups:
        normal = normal_of(group.head)
        is_other = group is chosen or group.key[:6] != chosen.key[:6]
        if is_other or normal is None or abs(normal @ kept[0].normal) < PARALLEL:
            continue
        at = [stack.slice_of(*image).origin_xyz_mm @ kept[0].normal for image in group.images]
        beyond = sum(not first - 1 < position < last + 1 for position in at)
        if beyond:
            yield f"sizes or directions, so that {beyond} slices of the same series are not read"


def _lookalikes(kept: Sequence[stack.Slice], unused: Mapping[Path, str]) -> Iterator[str]:
    """Files that are called as the slices are but are nothing: they may be slices, damaged."""
    endings = {one.path.suffix.lower() for one in kept}
    usual = float(np.median([one.path.stat().st_size for one in kept]))
    alike = [path for path in unused if path.suffix.lower() in endings]
    count = sum(_may_be_damaged(path, unused[path], usual) for path in alike)
    if count:
        files = "1 file is" if count == 1 else f"{count} files are"
        yield f"{files} called like slices but not DICOM images (damaged, or cut off?)"


def _may_be_damaged(path: Path, reason: str, usual_bytes: float) -> bool:
    if is_hidden(path.name) or reason not in (NO_DICOM, NO_IMAGE, UNKNOWN_CLASS):
        return False
    is_called_so = path.suffix.lower() in SLICE_ENDINGS and reason == NO_DICOM
    return is_called_so or path.stat().st_size > usual_bytes / 2


def _numbers(kept: Sequence[stack.Slice]) -> Numbers:
    if stack.is_of_one_kind(kept):
        return "alike"
    return "fractions" if stack.has_fractions(kept) else "whole"


def _other_files(folder: Path, reasons: Iterable[str]) -> list[Finding]:
    """One finding per reason for files of the folder that are not read.

    It is stored, so it has no names: they may hold the patient's.
    """
    return [
        Finding(OTHER_FILES, folder, f"{count} {'file' if count == 1 else 'files'}: {reason}", "-")
        for reason, count in sorted(Counter(reasons).items())
    ]
