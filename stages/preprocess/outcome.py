"""What a worker is given for a case, and what it gives back."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cache.formats import backends
from cache.grid import Triple, TripleMm
from cache.manifest import Entry
from stages.preprocess.digests import Known
from stages.preprocess.files import CaseFiles
from stages.preprocess.params import PreprocessParams
from stages.preprocess.policy import RulesParams
from stages.preprocess.problems import LEFT_OUT, Problem


@dataclass(frozen=True)
class Job:
    """What a worker needs to prepare one case.

    Attributes:
        files: where the case lies.
        out: the store.
        pictures: folder for the pictures of qc.html.
        params: the ``preprocess`` section.
        rules: the ``rules`` section.
        entry: what the store is known to have of this case.
        check_only: hold it against the rules, and store nothing.
    """

    files: CaseFiles
    out: Path
    pictures: Path
    params: PreprocessParams
    rules: RulesParams
    entry: Entry | None
    check_only: bool

    @property
    def path(self) -> Path:
        """The case's file or folder in the store."""
        return self.out / f"{self.files.case_id}{backends()[self.params.format].suffix}"


@dataclass(frozen=True)
class Facts:
    """What qc.html and the rules about several cases need to know of a case that passed.

    Attributes:
        picture: name of its picture's file.
        liver_ml: volume of its liver.
        shape_zyx: of the prepared volume, voxels.
        spacing_zyx_mm: of the same.
        ct_digest: SHA-256 of the CT's voxels.
        source_shape_zyx: of the CT turned to LPS, voxels; None where an older store does not say.
        source_spacing_zyx_mm: of the same.
    """

    picture: str
    liver_ml: float
    shape_zyx: Triple
    spacing_zyx_mm: TripleMm
    ct_digest: str
    source_shape_zyx: Triple | None
    source_spacing_zyx_mm: TripleMm | None


@dataclass(frozen=True)
class Outcome:
    """What became of one case.

    Attributes:
        files: the case.
        problems: what was found.
        facts: None if it was left out.
        entry: its line of the manifest, if it is in the store.
        learned: digests of files that were read, by absolute path.
        was_there: it lay in the store already.
        bug: the traceback of an error that is not a fault of the data; empty if there was none.
        label_counts: every value of the label, as in ``CaseInfo``; empty if it was not read.
    """

    files: CaseFiles
    problems: list[Problem]
    facts: Facts | None = None
    entry: Entry | None = None
    learned: dict[str, Known] = field(default_factory=dict)
    was_there: bool = False
    bug: str = ""
    label_counts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def is_out(self) -> bool:
        """Whether a problem keeps the case out of the store."""
        return any(problem.severity in LEFT_OUT for problem in self.problems)
