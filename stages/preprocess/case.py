"""One case, from its files to the store: what a worker does."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cache.backend import Pool
from cache.case import CaseInfo, Mask, Volume
from cache.errors import SourceError, StoreError
from cache.files import replacing
from cache.formats import backend_of, backends
from cache.grid import Grid, Triple, TripleMm
from cache.manifest import Entry, case_files, entry_of
from cache.writer import write_case
from stages.preprocess.digests import (
    Known,
    Shortcuts,
    absolute,
    changed,
    combined,
    hash_files,
    quiet,
    source_files,
    stamp_of,
)
from stages.preprocess.files import CaseFiles
from stages.preprocess.inspect import Inspected, Ledger, finding_of, inspect_case
from stages.preprocess.params import PreprocessParams
from stages.preprocess.picture import case_picture
from stages.preprocess.policy import RulesParams
from stages.preprocess.prepare import (
    Cut,
    case_key,
    cut_case,
    prepare_case,
    target_grid,
    voxel_digest,
)
from stages.preprocess.problems import LEFT_OUT, Finding, Problem
from stages.preprocess.rules.label import liver_cropped_away

AGAIN = "check the disk and the memory, then run it again; finished cases are kept"


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
    """

    picture: str
    liver_ml: float
    shape_zyx: Triple
    spacing_zyx_mm: TripleMm
    ct_digest: str


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
    """

    files: CaseFiles
    problems: list[Problem]
    facts: Facts | None = None
    entry: Entry | None = None
    learned: dict[str, Known] = field(default_factory=dict)
    was_there: bool = False

    @property
    def is_out(self) -> bool:
        """Whether a problem keeps the case out of the store."""
        return any(problem.severity in LEFT_OUT for problem in self.problems)


def work(job: Job) -> Outcome:
    """Prepare one case and write it, unless it is already there.

    Faults of the sources and of reading them become problems.

    Raises:
        StoreError: the store cannot be written to, which concerns all cases.
    """
    try:
        return _kept_or_prepared(job)
    except SourceError as error:
        return _left_out(job, [finding_of(error)])
    except (OSError, MemoryError) as error:
        path, fact = str(job.files.ct), f"could not be prepared: {error or type(error).__name__}"
        return Outcome(
            job.files, [Problem("skipped", "machine", job.files.case_id, path, fact, AGAIN)]
        )


def kept(job: Job, key: str) -> Outcome | None:
    """The outcome of a case whose entry has this key, if it need not be prepared anew.

    A policy may have changed since it was stored: it may now leave the case out, or ask for it to
    be mended, or not to be.
    """
    entry = job.entry
    if entry is None or entry.key != key or entry.file != job.path.name:
        return None
    for found in entry.findings:
        is_to_fix = found["fixable"] and job.rules.policy(found["rule"]) == "fix"
        if found["fixed"] != is_to_fix:
            return None
    problems = [_problem(found, job) for found in entry.findings]
    facts = Facts(
        _picture_name(key), entry.liver_ml, entry.shape_zyx, entry.spacing_zyx_mm, entry.ct_digest
    )
    return Outcome(job.files, problems, facts, entry, was_there=True)


def quickly_kept(job: Job, shortcuts: Shortcuts) -> Outcome | None:
    """The outcome of a case that is there and whole by all the shortcuts know; None if in doubt."""
    if job.entry is None:
        return None
    try:
        sources = {
            absolute(path): shortcuts.digest(path)
            for source in (job.files.ct, job.files.label)
            for path in source_files(source)
        }
    except OSError:  # gone since the scan: reading it in earnest will say so
        return None
    known = {name: digest for name, digest in sources.items() if digest is not None}
    if len(known) < len(sources):
        return None
    outcome = kept(job, case_key(job.files, job.params, _by_role(job.files, known)))
    if outcome is None or not (job.pictures / _picture_name(job.entry.key)).is_file():
        return None
    is_whole = all(
        shortcuts.digest(job.out / name) == stored.sha256
        for name, stored in job.entry.files.items()
    )
    return outcome if is_whole else None


def _kept_or_prepared(job: Job) -> Outcome:
    sources = hash_files([*source_files(job.files.ct), *source_files(job.files.label)])
    digests = _by_role(job.files, {name: known.sha256 for name, known in sources.items()})
    key = case_key(job.files, job.params, digests)
    outcome = kept(job, key)
    stored = None if outcome is None else _stored_digests(job)
    if outcome is not None and stored is not None:
        _picture_of_stored(job, key)
        return replace(outcome, learned=quiet(sources) | stored)
    ledger = Ledger(job.files.case_id, job.rules)
    inspected = inspect_case(job.files, job.params.liver_values, ledger)
    for path in changed(sources):
        raise SourceError(path, "was changed while it was read", "run it again")
    cut = None if inspected is None else ledger.attempt(lambda: cut_case(inspected, job.params))
    if inspected is None or cut is None:
        return _left_out(job, ledger.findings, quiet(sources))
    return _prepared(job, ledger, inspected, *cut, key=key, digests=digests, sources=sources)


def _prepared(
    job: Job,
    ledger: Ledger,
    inspected: Inspected,
    cut: Cut,
    cut_mask: Mask,
    *,
    key: str,
    digests: dict[str, str],
    sources: dict[str, Known],
) -> Outcome:
    """Bring a case that passed to its grid, and write it unless it is only checked."""
    ledger.note(liver_cropped_away(job.files.label, cut_mask))
    if ledger.is_out:
        return _left_out(job, ledger.findings, quiet(sources))
    info = _info(job, ledger, inspected, cut, key=key, digests=digests)
    facts = Facts(
        _picture_name(key, check_only=job.check_only),
        info.liver_ml,
        info.prepared_grid.shape_zyx,
        info.prepared_grid.spacing_zyx_mm,
        info.ct_digest,
    )
    if job.check_only:
        _write_picture(job, facts.picture, cut.volume, cut_mask, cut.grid)
        return Outcome(job.files, ledger.problems, facts, learned=quiet(sources))
    case = prepare_case(inspected, cut, cut_mask, info)
    path = write_case(job.out, case, backends()[job.params.format])
    _write_picture(job, facts.picture, case.volume, case.mask, info.prepared_grid)
    entry = entry_of(info, job.out, path)
    stored = {
        absolute(job.out / name): Known(stamp_of((job.out / name).stat()), one.sha256)
        for name, one in entry.files.items()
    }
    return Outcome(job.files, ledger.problems, facts, entry, quiet(sources) | stored)


def _info(
    job: Job, ledger: Ledger, inspected: Inspected, cut: Cut, *, key: str, digests: dict[str, str]
) -> CaseInfo:
    ct = inspected.ct
    return CaseInfo(
        case_id=job.files.case_id,
        patient_id=job.files.patient_id,
        key=key,
        source_grid=ct.grid,
        orientation=ct.orientation,
        box=cut.box,
        prepared_grid=target_grid(cut.grid, job.params),
        liver_ml=inspected.liver_ml,
        source_digests=digests,
        ct_digest=voxel_digest(inspected.hu),
        params=job.params.model_dump(mode="json"),
        findings=[_to_dict(finding, job) for finding in ledger.findings],
    )


def _left_out(
    job: Job, findings: list[Finding], learned: dict[str, Known] | None = None
) -> Outcome:
    problems = [
        Problem.of(finding, job.files.case_id, job.rules.policy(finding.rule))
        for finding in findings
    ]
    return Outcome(job.files, problems, learned=learned or {})


def _to_dict(finding: Finding, job: Job) -> dict[str, Any]:
    """A finding as it is stored: without a path, for the data set may be moved."""
    is_label = finding.path.is_relative_to(job.files.label)
    return {
        "rule": finding.rule,
        "role": "label" if is_label else "ct",
        "fact": finding.fact,
        "fix": finding.fix,
        "fixable": finding.fixable,
        "fixed": finding.fixable and job.rules.policy(finding.rule) == "fix",
    }


def _problem(found: dict[str, Any], job: Job) -> Problem:
    path = job.files.label if found["role"] == "label" else job.files.ct
    finding = Finding(found["rule"], path, found["fact"], found["fix"], found["fixable"])
    return Problem.of(finding, job.files.case_id, job.rules.policy(finding.rule))


def _by_role(files: CaseFiles, digests: dict[str, str]) -> dict[str, str]:
    """One digest for the CT and one for the label, from those of all their files."""
    by_role = {}
    for role, path in (("ct", files.ct), ("label", files.label)):
        names = [absolute(file) for file in source_files(path)]
        by_role[role] = combined(path, {name: digests[name] for name in names})
    return by_role


def _stored_digests(job: Job) -> dict[str, Known] | None:
    """The digests of a case's files in the store; None unless they are those of its entry."""
    if job.entry is None:
        return None
    found = hash_files(case_files(job.path))
    wanted = {absolute(job.out / name): one.sha256 for name, one in job.entry.files.items()}
    return found if {name: one.sha256 for name, one in found.items()} == wanted else None


def _picture_of_stored(job: Job, key: str) -> None:
    """Make the picture of a case that is in the store, if it is not there any more."""
    name = _picture_name(key)
    if (job.pictures / name).is_file() or job.entry is None:
        return
    arrays = backend_of(job.path).open(job.path, Pool(0))
    volume, mask = arrays.read("image"), arrays.read("mask")
    arrays.close()
    grid = Grid(job.entry.shape_zyx, job.entry.spacing_zyx_mm)
    _write_picture(job, name, volume, mask, grid)


def _picture_name(key: str, *, check_only: bool = False) -> str:
    """The file name of a case's picture; one made while checking is of the case unresized."""
    return f"{key}-checked.jpg" if check_only else f"{key}.jpg"


def _write_picture(job: Job, name: str, volume: Volume, mask: Mask, grid: Grid) -> None:
    """Write a case's picture.

    Raises:
        StoreError: the disk refused it; it would refuse those of other cases too.
    """
    picture = case_picture(volume, mask, grid.spacing_zyx_mm)
    path = job.pictures / name
    try:
        with replacing(path) as partial:
            partial.write_bytes(picture)
    except OSError as error:
        raise StoreError(path, f"cannot be written ({error})", AGAIN) from error
