"""``python -m pipeline.verify``: whether the store still holds what was written into it."""

from pathlib import Path

import click
from tqdm import tqdm

from cache.errors import StoreError
from cache.files import remove
from cache.manifest import Manifest, read_manifest
from cache.verify import Damage, unlisted, verify_store
from pipeline.command import PathType, command, params_option, place_option, say
from pipeline.params import Params, read_params
from pipeline.preprocess import end_badly, sources_of
from stages.machine import processors
from stages.preprocess.journal import only_writer, shortcuts_of
from stages.preprocess.params import preparation_of
from stages.preprocess.policy import RulesParams
from stages.preprocess.run import Manner, Sources, run, run_again
from stages.preprocess.tell import Summary

SHOWN = 20  # damages, or names of what is not listed


@command
@place_option("cases", "data/cases", "The store.")
@click.option("--deep", is_flag=True, help="Read every byte; else what was touched, and all sizes.")
@click.option("--repair", is_flag=True, help="Prepare what is damaged anew, from --src.")
@click.option("--src", type=PathType, help="The data set, for --repair; else data.src.")
@params_option
def main(cases: Path, deep: bool, repair: bool, src: Path | None, params_file: Path) -> None:
    """Look for files of the store that are damaged, lost or added.

    With --repair, damaged cases are prepared again with the parameters the store was made with,
    whatever stands in the parameter file since, and files that are not part of a case are deleted
    from its folder. Whole cases stay. Only where the manifest itself is damaged do the file's
    parameters count, and all of the data set is prepared.
    """
    damages = _verified(cases, deep)
    _tell(damages)
    if damages and not repair:
        fix = f"python -m pipeline.verify --cases {cases} --repair prepares it anew from the source"
        raise StoreError(cases, _count(damages), fix)
    for _ in range(2):  # what a damaged manifest, or a folder in a file's place, has hidden
        if damages:
            params = read_params(params_file)
            _repair(cases, damages, sources_of(params, src), params)
            damages = _verified(cases, deep)
            _tell(damages)
    if damages:
        fix = "the disk itself may be at fault: prepare the data on another one"
        raise StoreError(cases, f"{_count(damages)}, even after the repair", fix)
    _tell_whole(cases)


def _verified(cases: Path, deep: bool) -> list[Damage]:
    if not cases.is_dir():
        fix = "name the store with --cases, or make it with python -m pipeline.preprocess"
        raise StoreError(cases, "there is no such folder", fix)
    with tqdm(desc="verify", unit="case", leave=False, disable=None) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        # what preprocess remembers of the files; of a store that came from elsewhere, nothing
        known = None if deep else shortcuts_of(cases)
        return verify_store(cases, shortcuts=known, progress=show)


def _repair(cases: Path, damages: list[Damage], sources: Sources, params: Params) -> None:
    """Mend what is damaged, and say what was done. The data set is needed for damaged cases alone.

    Raises:
        SourceError: the data set cannot be used, or lacks a damaged case; no case was changed.
        StoreError: a case could not be prepared again, or another run is writing there.
        ParamsError: the store's parameters are unknown.
    """
    before = _listed(cases)
    if before is None:
        workers = max(2, processors())
        end_badly(run(sources, cases, params.preprocess, params.rules, Manner(workers)))
        say("prepared again: all cases, and the manifest")
        return
    _delete(cases, [damage.path for damage in damages if damage.is_foreign])
    damaged = frozenset(damage.case_id for damage in damages if not damage.is_foreign)
    if damaged:
        _prepare_again(cases, before, damaged, sources, params.rules)


def _delete(cases: Path, foreign: list[Path]) -> None:
    """Delete what somebody or some system left inside the cases."""
    if not foreign:
        return
    with only_writer(cases):
        for path in foreign:
            remove(path)
    say(f"deleted: {len(foreign)} files or folders that are not part of their case")


def _prepare_again(
    cases: Path, before: Manifest, damaged: frozenset[str], sources: Sources, rules: RulesParams
) -> None:
    """Prepare the damaged cases with the parameters of the store."""
    fix = "run python -m pipeline.preprocess again"
    preprocess = preparation_of(before.params, cases, made="was prepared", fix=fix)
    workers = max(2, processors())
    summary = run_again(sources, cases, preprocess, rules, only=damaged, workers=workers)
    end_badly(summary)
    made = read_manifest(cases).cases
    _require_made(cases, damaged - made.keys(), summary)
    say(f"prepared again: {', '.join(sorted(damaged))}")
    others = [
        case_id for case_id in sorted(damaged) if made[case_id].key != before.cases[case_id].key
    ]
    if others:
        say(
            f"warning: case {', '.join(others)} is not what the manifest listed: {sources.src} has "
            "other files of it, or liver3d has changed since"
        )


def _listed(cases: Path) -> Manifest | None:
    try:
        return read_manifest(cases)
    except StoreError:
        return None


def _require_made(cases: Path, missing: frozenset[str], summary: Summary) -> None:
    if missing:
        reasons = "".join(f"\n  {one.path}: {one.fact}" for one in summary.problems[:SHOWN])
        fact = f"case {', '.join(sorted(missing))} cannot be prepared again:{reasons}"
        raise StoreError(cases, fact, "mend these files, or name the right data set with --src")


def _tell(damages: list[Damage]) -> None:
    for damage in damages[:SHOWN]:
        say(f"  {damage.path}: {damage.fact}")
    if len(damages) > SHOWN:
        say(f"  … and {len(damages) - SHOWN} more")


def _count(damages: list[Damage]) -> str:
    damaged = {damage.case_id for damage in damages if damage.case_id}
    if not damaged:
        return "the manifest is missing or damaged"
    return f"{len(damages)} faults in {len(damaged)} cases: {', '.join(sorted(damaged)[:SHOWN])}"


def _tell_whole(cases: Path) -> None:
    files = [f for entry in read_manifest(cases).cases.values() for f in entry.files.values()]
    size = _size(sum(file.size_bytes for file in files))
    say(f"{len(read_manifest(cases).cases)} cases, {len(files)} files, {size}: whole")
    others = [path.name for path in unlisted(cases)]
    if others:
        more = ", …" if len(others) > SHOWN else ""
        say(f"not in the manifest, and left alone: {', '.join(others[:SHOWN])}{more}")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 5e7 else f"{size_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
