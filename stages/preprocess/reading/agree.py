"""In what the slices of one DICOM series disagree, and whether they are of several scans."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from stages.preprocess.reading.dicom_kind import words_of
from stages.preprocess.reading.stack import SCAN_TAGS, TIME_TAGS, Slice

SAME = 2e-4  # of a direction or a spacing: a tenth of a voxel over 512 of them
BESIDE = 0.25  # of a pixel, that a slice may be beside the line of the others
LEAST_NUMBERED = 3  # slices of each stack, from which the numbers tell it
LONG_PAUSE_S = 5.0  # between two phases: far more than between neighbouring slices of one


def disagreements(slices: Sequence[Slice]) -> list[str]:
    """In what slices of one series differ that changes their voxels or their places.

    A slope or an intercept of each slice's own is none: readers apply them one by one.
    """
    found = [_rescale_missing(slices, tag) for tag in ("RescaleSlope", "RescaleIntercept")]
    found += [
        _several_texts(slices, "RescaleType", "rescale types", absent="HU"),
        _several_texts(slices, "PhotometricInterpretation", "photometric interpretations"),
        _spacings(slices),
        _directions(slices),
        _frames_of_reference(slices),
        _beside_the_line(slices),
    ]
    return [fact for fact in found if fact is not None]


def interleaved(slices: Sequence[Slice]) -> str | None:
    """How several scans or phases alternate along the body; None if they do not.

    Scans that are one behind the other are one volume; a value of its own for every slice says
    nothing.

    Args:
        slices: in ascending order of their places.
    """
    for tag, name in SCAN_TAGS.items():
        values = [_text(one.header, tag) for one in slices]
        stated = [value for value in values if value]
        if _alternate(stated):
            return f"slices of {len(set(stated))} {name}s alternate along the body"
    for tag in TIME_TAGS:
        pause_s = _pause_between_alternating(slices, tag)
        if pause_s is not None:
            return f"slices of two times, {pause_s:.0f} s apart ({tag}), alternate along the body"
    return _numbered_in_turns(slices)


def _text(header: Any, tag: str) -> str:
    """A value as a text in which numbers are equal that are so to rounding."""
    words = words_of(header, tag)
    try:
        return "\\".join(_rounded(float(word)) for word in words)
    except (ValueError, OverflowError):
        return "\\".join(word.strip() for word in words)


def _rounded(number: float) -> str:
    whole = round(number)
    is_whole = abs(number - whole) < 1e-3 * max(1.0, abs(number))
    return str(whole) if is_whole else f"{number:.3g}"


def _rescale_missing(slices: Sequence[Slice], tag: str) -> str | None:
    missing = sum(one.stored(tag) is None for one in slices)
    if missing in (0, len(slices)):
        return None
    return f"{missing} of {len(slices)} slices state no {tag}"


def _several_texts(slices: Sequence[Slice], tag: str, name: str, *, absent: str = "") -> str | None:
    texts = {_text(one.header, tag).upper() or absent for one in slices} - {""}
    return f"{name} {' and '.join(sorted(texts))}" if len(texts) > 1 else None


def _spacings(slices: Sequence[Slice]) -> str | None:
    spacings = np.array([one.spacing_yx_mm for one in slices])
    low, high = spacings.min(axis=0), spacings.max(axis=0)
    if (high <= low * (1 + SAME)).all():
        return None
    axis = int(np.argmax(high / low))
    return f"pixel spacings of {low[axis]:.4f} to {high[axis]:.4f} mm"


def _directions(slices: Sequence[Slice]) -> str | None:
    directions = np.array([one.directions for one in slices])
    apart = float(np.ptp(directions, axis=0).max())
    return f"directions that differ by {np.degrees(apart):.2f} degrees" if apart > SAME else None


def _frames_of_reference(slices: Sequence[Slice]) -> str | None:
    frames = {_text(one.header, "FrameOfReferenceUID") for one in slices} - {""}
    # an anonymiser may have given every file its own
    return f"{len(frames)} frames of reference" if 1 < len(frames) < len(slices) else None


def _beside_the_line(slices: Sequence[Slice]) -> str | None:
    """Slices stand on the line from the first to the last, tilted or not."""
    origins = np.array([one.origin_xyz_mm for one in slices])
    at = np.array([one.position_mm for one in slices])
    if len(slices) < 3 or at[-1] == at[0]:
        return None
    share = (at - at[0]) / (at[-1] - at[0])
    expected = origins[0] + share[:, None] * (origins[-1] - origins[0])
    beside = np.linalg.norm(origins - expected, axis=1)
    if beside.max() <= BESIDE * min(slices[0].spacing_yx_mm):
        return None
    return f"slices that are up to {beside.max():.2f} mm beside the line of the others"


def _alternate(values: Sequence[str]) -> bool:
    groups = len(set(values))
    runs = 1 + sum(one != other for one, other in pairwise(values))
    return 1 < groups < len(values) and runs > groups


def _numbered_in_turns(slices: Sequence[Slice]) -> str | None:
    """Whether the slices' numbers count two or three stacks in turns, as in 1, 41, 2, 42."""
    texts = [_text(one.header, "InstanceNumber") for one in slices]
    if not all(text.lstrip("-").isdigit() for text in texts):
        return None
    numbers = np.array([int(text) for text in texts])
    for count in (2, 3):
        steps = {int(step) for first in range(count) for step in np.diff(numbers[first::count])}
        if len(numbers) >= LEAST_NUMBERED * count and steps in ({1}, {-1}):
            return f"slices of {count} stacks, each numbered by itself, alternate along the body"
    return None


def _pause_between_alternating(slices: Sequence[Slice], tag: str) -> float | None:
    """The longest pause between slices in time, if those before and after it alternate."""
    times = [_seconds(_text_of_time(one.header, tag)) for one in slices]
    stated = [time for time in times if time is not None]
    in_order = sorted(stated)
    pauses = [later - earlier for earlier, later in pairwise(in_order)]
    if len(stated) < 4 or max(pauses) < LONG_PAUSE_S:
        return None
    last_before = in_order[int(np.argmax(pauses))]
    is_later = [time > last_before for time in stated]
    fewer = min(sum(is_later), len(stated) - sum(is_later))
    runs = 1 + sum(one != other for one, other in pairwise(is_later))
    # reconstructions that overtake each other change places now and then, phases all along
    return max(pauses) if fewer >= 2 and runs - 2 >= max(1, fewer // 2) else None


def _text_of_time(header: Any, tag: str) -> str:
    """The time of day; of a date with a time, what stands behind the date."""
    text = "".join(words_of(header, tag)[:1]).strip()
    return text[8:].partition("+")[0] if tag.endswith("DateTime") else text


def _seconds(text: str) -> float | None:
    """A time of day, HHMMSS.frac; None if it is not one."""
    if not text:
        return None
    try:
        hours, minutes, seconds = (float(part or 0) for part in (text[:2], text[2:4], text[4:]))
    except ValueError:
        return None
    return hours * 3600 + minutes * 60 + seconds
