"""One case, from its files to the store: what a worker does."""

from dataclasses import replace

from cache.backend import Pool
from cache.case import CaseInfo, Mask, Volume
from cache.errors import SourceError, StoreError
from cache.files import replacing
from cache.formats import backend_of, backends
from cache.grid import Grid
from cache.manifest import entry_of
from cache.writer import write_case
from stages.preprocess.digests import (
    Known,
    absolute,
    changed,
    hash_files,
    quiet,
    source_files,
    stamp_of,
)
from stages.preprocess.inspect import Inspected, Ledger, finding_of, inspect_case
from stages.preprocess.kept import (
    digests_by_role,
    finding_to_dict,
    kept,
    picture_name,
    stored_digests,
)
from stages.preprocess.outcome import Facts, Job, Outcome
from stages.preprocess.picture import case_picture
from stages.preprocess.prepare import (
    Cut,
    case_key,
    cut_case,
    prepare_case,
    target_grid,
    voxel_digest,
)
from stages.preprocess.problems import Finding, Problem
from stages.preprocess.rules.label import liver_cropped_away

AGAIN = "check the disk and the memory, then run it again; finished cases are kept"


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


def _kept_or_prepared(job: Job) -> Outcome:
    sources = hash_files([*source_files(job.files.ct), *source_files(job.files.label)])
    digests = digests_by_role(job.files, {name: known.sha256 for name, known in sources.items()})
    key = case_key(job.files, job.params, digests)
    outcome = kept(job, key)
    stored = None if outcome is None else stored_digests(job)
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
        picture_name(key, check_only=job.check_only),
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
        findings=[finding_to_dict(finding, job) for finding in ledger.findings],
    )


def _left_out(
    job: Job, findings: list[Finding], learned: dict[str, Known] | None = None
) -> Outcome:
    problems = [
        Problem.of(finding, job.files.case_id, job.rules.policy(finding.rule))
        for finding in findings
    ]
    return Outcome(job.files, problems, learned=learned or {})


def _picture_of_stored(job: Job, key: str) -> None:
    """Make the picture of a case that is in the store, if it is not there any more."""
    name = picture_name(key)
    if (job.pictures / name).is_file() or job.entry is None:
        return
    arrays = backend_of(job.path).open(job.path, Pool(0))
    volume, mask = arrays.read("image"), arrays.read("mask")
    arrays.close()
    grid = Grid(job.entry.shape_zyx, job.entry.spacing_zyx_mm)
    _write_picture(job, name, volume, mask, grid)


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
