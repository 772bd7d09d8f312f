"""Images of a DICOM folder, grouped into what may be one stack each."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.errors import SourceError
from stages.preprocess.reading.dicom_file import EXPORT, frames_of, read_header
from stages.preprocess.reading.dicom_kind import (
    class_of,
    holds_several,
    is_converted,
    is_localizer,
    words_of,
)
from stages.preprocess.reading.stack import COMPARED_TAGS, STACK_TAGS

# nothing of the patient is read; the rest is what slices are compared by
TAGS = ["SeriesInstanceUID", *STACK_TAGS]
CLOSE = 0.01  # between cosines of one direction, after rounding
PARALLEL = 0.9  # cosine of the angle between slices of one volume, at least
LONGEST_TEXT = 64  # as DICOM has it for a description


@dataclass(frozen=True)
class Group:
    """Images that may be one stack: of one series, size, kind and direction.

    Attributes:
        key: what they share; the first is their modality, the second their series.
        images: files and their headers.
    """

    key: tuple[Any, ...]
    images: list[tuple[Path, Any]]

    @property
    def head(self) -> Any:
        """The header of the first."""
        return self.images[0][1]

    @property
    def count(self) -> int:
        """Slices: files, or the frames in them."""
        return sum(frames_of(header) for _, header in self.images)

    @property
    def preference(self) -> tuple[bool, bool]:
        """Whether it was scanned rather than computed from a scan, and is across the body."""
        normal = normal_of(self.head)
        is_axial = normal is None or abs(normal[2]) > PARALLEL
        return "DERIVED" not in words_of(self.head, "ImageType"), bool(is_axial)

    @property
    def described(self) -> str:
        """Number, modality, description and kernel, none of which is a patient's."""
        text, kernel = (
            _plain(self.head, tag) for tag in ("SeriesDescription", "ConvolutionKernel")
        )
        parts = [f"number {self.head.get('SeriesNumber')}", self.key[0] or "unknown"]
        parts += [f'"{text}"'] if text else []
        parts += [f"kernel {kernel}"] if kernel else []
        return ", ".join(parts)


def _plain(header: Any, tag: str) -> str:
    """A free text on one line, without anything a terminal would obey."""
    words = " ".join(words_of(header, tag)).split()
    return "".join(filter(str.isprintable, " ".join(words)))[:LONGEST_TEXT]


def header_of(path: Path) -> Any:
    """The tags of one file by which it is grouped and compared.

    Raises:
        SourceError: it is damaged, or a tag that is needed cannot be understood.
    """
    header = read_header(path, TAGS, COMPARED_TAGS)
    try:  # text becomes numbers here, or cannot
        hash(_key(header)), frames_of(header), _cosines(header)
    except (TypeError, ValueError) as error:
        raise SourceError(path, f"its DICOM header cannot be read ({error})", EXPORT) from error
    return header


def _key(header: Any) -> tuple[Any, ...]:
    """What all slices of one stack share but their direction.

    Localizers often carry the series' own UID, and an anonymiser may have emptied it.
    """
    uid = str(header.get("SeriesInstanceUID") or "")
    return (
        str(header.get("Modality") or ""),
        uid or f"number {header.get('SeriesNumber')}",
        class_of(header),
        is_localizer(header),
        holds_several(header),
        is_converted(header),
        header.get("Rows"),
        header.get("Columns"),
    )


def groups_of(images: Iterable[tuple[Path, Any]]) -> Iterator[Group]:
    """Images that may be one stack: of one key, and of one direction."""
    by_key: dict[tuple[Any, ...], list[tuple[Path, Any]]] = defaultdict(list)
    for path, header in images:
        by_key[_key(header)].append((path, header))
    for key, alike in by_key.items():
        parts: list[list[tuple[Path, Any]]] = []
        for image in alike:
            home = next((part for part in parts if _point_alike(part[0][1], image[1])), None)
            if home is None:
                parts.append([image])
            else:
                home.append(image)
        yield from (Group((*key, *_cosines(part[0][1])), part) for part in parts)


def _cosines(header: Any) -> tuple[float, ...]:
    angles = header.get("ImageOrientationPatient") or []
    return tuple(round(float(cosine), 2) + 0.0 for cosine in angles)


def _point_alike(first: Any, second: Any) -> bool:
    ours, theirs = (
        [float(cosine) for cosine in header.get("ImageOrientationPatient") or []]
        for header in (first, second)
    )
    return len(ours) == len(theirs) and bool(np.allclose(ours, theirs, rtol=0, atol=CLOSE))


def normal_of(header: Any) -> NDArray[np.float64] | None:
    """The unit vector out of an image; None if it does not state its direction."""
    angles = [float(cosine) for cosine in header.get("ImageOrientationPatient") or []]
    return np.cross(angles[:3], angles[3:]) if len(angles) == 6 else None
