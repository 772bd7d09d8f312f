"""One case, from its files to the store: what a worker does."""

import traceback
from contextlib import suppress
from dataclasses import replace

from cache.backend import Pool
from cache.case import CaseInfo, Mask, Volume
from cache.errors import SourceError, StoreError
from cache.formats import backend_of, backends
from cache.grid import Grid
from cache.manifest import Entry, entry_of
from cache.orientation import lps_grid
from cache.writer import write_case
from stages.machine import is_shortage
from stages.preprocess.digests import Known, Origin, absolute, quiet, stamp_of
from stages.preprocess.inspect import Inspected, inspect_case
from stages.preprocess.kept import (
    finding_to_dict,
    kept,
    picture_name,
    stored_digests,
)
from stages.preprocess.ledger import Ledger, finding_of
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
from stages.preprocess.problems import Problem
from stages.preprocess.rules.label import liver_cropped_away
from stages.preprocess.stored_picture import read_picture, write_picture

AGAIN = "check the disk and the memory, then run it again; finished cases are kept"
FIXES = {
    "machine": AGAIN,
    "bug": "report it with the traceback, and list the case under data.exclude until it is mended",
}


def work(job: Job) -> Outcome:
    """Prepare one case and write it, unless it is already there.

    Faults of the sources and of reading them become problems. A bug that one case brings to light
    stops no other: it is in the outcome, for the command to end with.

    Raises:
        StoreError: the store cannot be written to, which concerns all cases.
    """
    try:
        return _kept_or_prepared(job)
    except SourceError as error:
        ledger = Ledger(job.files.case_id, job.rules, [finding_of(error)])
        return Outcome(job.files, ledger.problems)
    except StoreError:
        raise
    except (OSError, MemoryError) as error:
        return _failed(job, "machine", f"could not be prepared: {error or type(error).__name__}")
    except Exception as error:
        if is_shortage(error):  # of a library without a MemoryError of its own
            return _failed(job, "machine", f"could not be prepared: {error}")
        outcome = _failed(job, "bug", f"met a bug of liver3d: {type(error).__name__}: {error}")
        return replace(outcome, bug=traceback.format_exc())


def _failed(job: Job, rule: str, fact: str) -> Outcome:
    case_id = job.files.case_id
    problem = Problem("skipped", rule, case_id, str(job.files.ct), fact, FIXES[rule])
    return Outcome(job.files, [problem])


def _kept_or_prepared(job: Job) -> Outcome:
    origin = Origin.of(job.files)
    key = case_key(job.files, job.params, origin.digests(job.files))
    outcome = kept(job, key)
    stored = None if outcome is None else stored_digests(job)
    if outcome is not None and stored is not None:
        _picture_of_stored(job, key)
        return replace(outcome, learned=quiet(origin.known) | stored)
    ledger = Ledger(job.files.case_id, job.rules)
    inspected = inspect_case(job.files, job.params.liver_values, ledger)
    for path in origin.changed(job.files):
        raise SourceError(path, "was changed while it was read", "run it again")
    cut = None if inspected is None else ledger.attempt(lambda: cut_case(inspected, job.params))
    if inspected is not None and cut is not None and inspected.mask.any():
        ledger.note(liver_cropped_away(job.files.label, cut[1]))
    if inspected is None or cut is None or ledger.is_out:
        left_out = Outcome(job.files, ledger.problems, learned=quiet(origin.known))
        return replace(left_out, label_counts=ledger.label_counts)
    info = _info(job, ledger, inspected, cut[0], key=key, digests=origin.digests(job.files))
    outcome = _checked(job, cut, info) if job.check_only else _stored(job, inspected, cut, info)
    learned = quiet(origin.known) | outcome.learned
    counts = ledger.label_counts
    return replace(outcome, problems=ledger.problems, learned=learned, label_counts=counts)


def _checked(job: Job, cut: tuple[Cut, Mask], info: CaseInfo) -> Outcome:
    """The outcome of a case that is only held against the rules."""
    facts = _facts(info, check_only=True)
    _write_picture(job, facts.picture, cut[0].volume, cut[1], cut[0].grid)
    return Outcome(job.files, [], facts)


def _stored(job: Job, inspected: Inspected, cut: tuple[Cut, Mask], info: CaseInfo) -> Outcome:
    """Bring a case that passed to its grid, and write it."""
    case = prepare_case(inspected, *cut, info)
    path = write_case(job.out, case, backends()[job.params.format])
    facts = _facts(info, check_only=False)
    _write_picture(job, facts.picture, case.volume, case.mask, info.prepared_grid)
    entry = entry_of(info, job.out, path)
    return Outcome(job.files, [], facts, entry, _learned(job, entry))


def _learned(job: Job, entry: Entry) -> dict[str, Known]:
    """The digests of what was just written, to spare reading it again."""
    learned = {}
    for name, stored in entry.files.items():
        with suppress(FileNotFoundError):  # a cluster did the case twice, and replaces it just now
            stamp = stamp_of((job.out / name).stat())
            learned[absolute(job.out / name)] = Known(stamp, stored.sha256)
    return learned


def _facts(info: CaseInfo, *, check_only: bool) -> Facts:
    grid, source = info.prepared_grid, lps_grid(info.source_grid, info.orientation)
    return Facts(
        picture_name(info.key, check_only=check_only),
        info.liver_ml,
        grid.shape_zyx,
        grid.spacing_zyx_mm,
        info.ct_digest,
        source.shape_zyx,
        source.spacing_zyx_mm,
    )


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
        label_counts=ledger.label_counts,
    )


def _picture_of_stored(job: Job, key: str) -> None:
    """Make the picture of a case that is in the store, if it is lost or damaged."""
    name = picture_name(key)
    if job.entry is None or read_picture(job.pictures / name) is not None:
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
    write_picture(job.pictures / name, picture, fix=AGAIN)
