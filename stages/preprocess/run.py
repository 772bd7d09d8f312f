"""Stage one: every case under --src into the store, or into problems.json."""

import logging
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from cache.case import CaseInfo
from cache.errors import DataError, SourceError, StoreError
from cache.files import remove, remove_partials
from cache.formats import backends
from cache.manifest import NAME as MANIFEST
from cache.manifest import Entry, Manifest, entry_of, write_manifest
from cache.writer import read_info, stored_cases, write_case
from stages.preprocess.params import PreprocessParams
from stages.preprocess.prepare import case_key, prepare_case
from stages.preprocess.problems import Problem, write_problems
from stages.preprocess.scan import CaseFiles, scan

LOG = logging.getLogger(__name__)
MOST_WORKERS = 61  # what Windows can wait for at once


@dataclass(frozen=True)
class Job:
    """What a worker needs to prepare one case."""

    files: CaseFiles
    out: Path
    params: PreprocessParams


@dataclass(frozen=True)
class Outcome:
    """What became of one case: an entry of the manifest, or problems, or an entry with doubts."""

    entry: Entry | None
    problems: list[Problem]
    was_there: bool = False


@dataclass(frozen=True)
class Summary:
    """What a run did."""

    manifest: Manifest
    problems: list[Problem]
    kept: int  # cases that were already there, unchanged


def run(
    src: Path, out: Path, params: PreprocessParams, *, exclude: list[str], workers: int, prune: bool
) -> Summary:
    """Prepare every case under a folder; write the manifest last.

    Cases that lie in the store with the same key are kept. Faults of single cases are collected
    in ``problems.json`` beside ``out``; they never stop the others.

    Args:
        src: folder with ``image`` and ``label``.
        out: the store.
        params: the ``preprocess`` section.
        exclude: ids of cases to leave out.
        workers: processes at a time.
        prune: also delete stored cases that are no longer in ``src``.

    Raises:
        SourceError: the folder cannot be used, or no case is left.
        StoreError: the store cannot be written to.
    """
    found = scan(src, exclude)
    _make_folder(out)
    remove_partials(out)
    # without a manifest nobody trains on a store that is being changed
    remove(out / MANIFEST)
    jobs = [Job(files, out, params) for files in found.cases]
    outcomes = list(tqdm(_outcomes(jobs, workers), "preprocess", len(jobs), disable=None))
    problems = found.problems + [problem for one in outcomes for problem in one.problems]
    problems.sort(key=lambda problem: (problem.case_id, problem.path, problem.rule))
    write_problems(out.parent / "problems.json", problems)
    entries = {one.entry.case_id: one.entry for one in outcomes if one.entry is not None}
    if not entries:
        raise _nothing_left(src, out, problems)
    manifest = Manifest(entries, params.model_dump(mode="json"))
    if prune:
        _prune(out, manifest)
    write_manifest(out, manifest)
    return Summary(manifest, problems, sum(one.was_there for one in outcomes))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(out, f"cannot be made ({error})", "give another --out") from error


def prepare_into_store(job: Job) -> Outcome:
    """Prepare one case and write it, unless it is already there. Runs in a worker."""
    case_id, backend = job.files.case_id, backends()[job.params.format]
    try:
        key, digests = case_key(job.files, job.params)
        path = job.out / f"{case_id}{backend.suffix}"
        info = _stored(path, key)
        was_there = info is not None
        if info is None:
            case = prepare_case(job.files, job.params, key=key, digests=digests)
            path, info = write_case(job.out, case, backend), case.info
    except SourceError as error:
        return Outcome(None, [Problem.skipped("source", case_id, error)])
    except (OSError, MemoryError) as error:
        return Outcome(None, [_unreadable(job.files, error)])
    return Outcome(entry_of(info, path.name), _doubts(job.files, info), was_there)


def _stored(path: Path, key: str) -> CaseInfo | None:
    """The case at this path if it was made from the same sources in the same way."""
    try:
        info = read_info(path)
    except StoreError:
        return None
    return info if info.key == key else None


def _outcomes(jobs: list[Job], workers: int) -> Iterator[Outcome]:
    """Every job's outcome, as they end.

    A killed worker breaks its pool; what was lost is tried again by half as many, in the end each
    in a process of its own, so that a case too large for the memory stops no other.
    """
    workers = min(workers, len(jobs), MOST_WORKERS)
    if workers <= 1:
        yield from map(prepare_into_store, jobs)
        return
    while jobs and workers > 1:
        jobs = yield from _together(jobs, workers)
        workers //= 2
        if jobs:
            LOG.warning("a worker was killed; %d cases go on with %d", len(jobs), workers)
    yield from map(_alone, jobs)


def _together(jobs: list[Job], workers: int) -> Generator[Outcome, None, list[Job]]:
    """The outcomes of jobs done by a pool; returns the jobs lost when a worker was killed."""
    futures: dict[Future[Outcome], Job] = {}
    lost = []
    pool = _pool(workers)
    try:
        for job in jobs:
            try:
                futures[pool.submit(prepare_into_store, job)] = job
            except BrokenProcessPool:
                lost.append(job)
        for future in as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                lost.append(futures[future])
    finally:
        # after a full disk or Ctrl-C, cases not yet begun are not begun any more
        pool.shutdown(cancel_futures=True)
    return lost


def _alone(job: Job) -> Outcome:
    """Prepare a case whose pool was killed in a process of its own, so that only it can fail."""
    try:
        with _pool(1) as pool:
            return pool.submit(prepare_into_store, job).result()
    except BrokenProcessPool:
        fact = "the process that prepared it was killed, probably for want of memory"
        error = DataError(job.files.ct, fact, "run with --workers 1, or on a larger machine")
        return Outcome(None, [Problem.skipped("killed", job.files.case_id, error)])


def _pool(workers: int) -> ProcessPoolExecutor:
    # spawned on every system: forked children of a process with threads may hang
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def _doubts(files: CaseFiles, info: CaseInfo) -> list[Problem]:
    return [
        Problem("warning", doubt["rule"], info.case_id, str(files.ct), doubt["fact"], doubt["fix"])
        for doubt in info.warnings
    ]


def _unreadable(files: CaseFiles, error: Exception) -> Problem:
    fact = f"could not be prepared: {error or type(error).__name__}"
    fix = "check the disk and the memory, then run it again; finished cases are kept"
    return Problem("skipped", "machine", files.case_id, str(files.ct), fact, fix)


def _nothing_left(src: Path, out: Path, problems: list[Problem]) -> SourceError:
    skipped = [problem for problem in problems if problem.severity == "skipped"]
    reasons = "".join(f"\n  {problem.path}: {problem.fact}" for problem in skipped[:10])
    fact = f"no case can be used, {len(skipped)} are skipped:{reasons}"
    return SourceError(src, fact, f"mend what {out.parent / 'problems.json'} names")


def _prune(out: Path, manifest: Manifest) -> None:
    listed = {entry.file for entry in manifest.cases.values()}
    for path in stored_cases(out):
        if path.name not in listed:
            remove(path)
