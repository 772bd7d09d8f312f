"""The cases an evaluation has finished: a killed one continues, unchanged ones are not done again.

Beside the reports, with all that can be made again: a line per case in ``evaluated.jsonl``, and
the pictures. A line is written after the case's mask and picture, and each of the three carries a
digest, so that what was cut short or damaged is not believed.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cache.case import Role
from cache.files import named, read_bytes, remove, write_text
from cache.manifest import Entry, entry_to_dict, sha256_of
from cache.sealed import sealed_line, unsealed_line
from cache.state import state_folder
from stages.evaluate.params import EvaluateParams
from stages.evaluate.scores import CaseScores
from stages.evaluate.slice_error import SliceError

MASK_ENDING = ".nii.gz"


@dataclass(frozen=True)
class Finished:
    """What became of one case.

    Attributes:
        key: SHA-256 over all that its results depend on.
        scores: its scores.
        mask_sha256: of the file of its mask.
        picture_sha256: of the file of its picture; empty if none was drawn.
        error: the slice with the largest error, of a case with a picture; None if nothing differs.
    """

    key: str
    scores: CaseScores
    mask_sha256: str
    picture_sha256: str = ""
    error: SliceError | None = None


@dataclass(frozen=True)
class KeptPicture:
    """A case's picture that is in a file, as the report shows it.

    Attributes:
        path: the PNG.
        error: the slice with the largest error; None if nothing differs.
    """

    path: Path
    error: SliceError | None

    @property
    def png(self) -> bytes:
        """The file's bytes, read when they are asked for."""
        return read_bytes(self.path)


def result_key(digest: str, entry: Entry, role: Role, params: EvaluateParams) -> str:
    """SHA-256 over all that a case's mask, scores and picture depend on.

    Args:
        digest: of the model, the device and the code.
        entry: what the store has of the case.
        role: what the case was to the model.
        params: the ``evaluate`` section; which cases are scored concerns none of them.
    """
    parts = [digest, entry_to_dict(entry), role, params.model_dump(exclude={"cases"})]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class FinishedCases:
    """The finished cases of one folder of reports, by case id.

    Attributes:
        masks: the folder of their masks.
    """

    def __init__(self, out: Path) -> None:
        self.masks = out / "predictions"
        self._folder = state_folder(out)
        self._path = self._folder / "evaluated.jsonl"
        self._known = _read(self._path)

    def mask(self, case_id: str) -> Path:
        """Where a case's mask is, or will be."""
        return self.masks / f"{case_id}{MASK_ENDING}"

    def picture(self, key: str) -> Path:
        """Where the picture of a result is, or will be."""
        return self._folder / "pictures" / f"{key}.png"

    def find(self, case_id: str, key: str, *, with_picture: bool) -> Finished | None:
        """A case's results, if they are of this key and its files are what they were."""
        known = self._known.get(case_id)
        if known is None or known.key != key:
            return None
        wanted = [(self.mask(case_id), known.mask_sha256)]
        if with_picture:
            wanted.append((self.picture(key), known.picture_sha256))
        return known if all(_has_digest(path, sha256) for path, sha256 in wanted) else None

    def add(self, finished: Finished) -> None:
        """Write down a case whose mask and picture are on the disk."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with named(self._path), self._path.open("a", encoding="utf-8", newline="\n") as file:
            # the line before may have been cut short, by a kill or a full disk
            file.write("\n" + sealed_line(asdict(finished)))

    def end(self, finished: Iterable[Finished]) -> None:
        """Keep these cases alone: the masks and pictures of others that were known are deleted."""
        kept = {one.scores.case_id: one for one in finished}
        write_text(self._path, "".join(sealed_line(asdict(one)) for one in kept.values()))
        for case_id in self._known.keys() - kept.keys():
            self.mask(case_id).unlink(missing_ok=True)
        shown = {self.picture(one.key).name for one in kept.values() if one.picture_sha256}
        for picture in (self._folder / "pictures").glob("*"):
            if picture.name not in shown:
                remove(picture)


def _has_digest(path: Path, sha256: str) -> bool:
    return path.is_file() and sha256_of(path) == sha256


def _read(path: Path) -> dict[str, Finished]:
    """The last line of each case; a line that is not whole leaves its case to be done again."""
    try:
        lines = read_bytes(path).splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        try:
            one = _finished(unsealed_line(line))
        except (ValueError, KeyError, TypeError):
            continue
        found[one.scores.case_id] = one
    return found


def _finished(fields: dict[str, Any]) -> Finished:
    error = fields["error"] and SliceError(**fields["error"])
    return replace(Finished(**fields), scores=CaseScores(**fields["scores"]), error=error)
