"""``python -m pipeline.verify``: whether the store still holds what was written into it."""

from pathlib import Path

import click
from pydantic import ValidationError
from tqdm import tqdm

from cache.errors import SourceError, StoreError
from cache.files import remove
from cache.manifest import Manifest, read_manifest, write_manifest
from cache.verify import Damage, unlisted, verify_store
from pipeline.command import PathType, command, params_option, place_option
from pipeline.params import Params, read_params
from pipeline.preprocess import sources_of
from stages.machine import processors
from stages.preprocess.journal import shortcuts_of
from stages.preprocess.params import PreprocessParams
from stages.preprocess.run import Sources, run

SHOWN = 20  # damages, or names of what is not listed


@command
@place_option("cases", "data/cases", "The store.")
@click.option("--deep", is_flag=True, help="Read every byte; else what was touched, and all sizes.")
@click.option("--repair", is_flag=True, help="Prepare what is damaged anew, from --src.")
@click.option("--src", type=PathType, help="The data set, for --repair; else data.src.")
@params_option
def main(cases: Path, deep: bool, repair: bool, src: Path | None, params_file: Path) -> None:
    """Look for files of the store that are damaged, lost or added.

    With --repair, damaged cases are removed and prepared again with the parameters the store was
    made with, whatever stands in the parameter file since. Whole cases stay. Only where the
    manifest itself is damaged do the file's parameters count, and every case is prepared again.
    """
    damages = _verified(cases, deep)
    _tell(damages)
    if damages and not repair:
        fix = f"python -m pipeline.verify --cases {cases} --repair prepares it anew from the source"
        raise StoreError(cases, _count(damages), fix)
    if damages:
        params = read_params(params_file)
        _repair(cases, damages, sources_of(params, src), params)
        left = _verified(cases, deep)
        _tell(left)
        if left:
            fix = "the disk itself may be at fault: prepare the data on another one"
            raise StoreError(cases, f"{_count(left)}, even after the repair", fix)
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
        known = shortcuts_of(cases)
        return verify_store(cases, deep=deep, shortcuts=known, progress=show)


def _repair(cases: Path, damages: list[Damage], sources: Sources, params: Params) -> None:
    """Remove the damaged cases, prepare them again, and say which they were.

    Raises:
        SourceError: the data set cannot be used. If it is not there, nothing was removed.
        StoreError: a case could not be prepared again, or the store's parameters are unknown.
    """
    if not sources.src.exists():  # on a disk that is not mounted, perhaps
        raise SourceError(sources.src, "there is no such folder", "name the data set with --src")
    before = _listed(cases)
    preprocess = params.preprocess if before is None else _preparation(cases, before)
    damaged = {damage.case_id for damage in damages if damage.case_id}
    entries = {} if before is None else before.cases
    for case_id in damaged:
        remove(cases / entries[case_id].file)
    run(sources, cases, preprocess, params.rules, workers=max(2, processors()))
    made = read_manifest(cases)
    # whole cases that are not in this data set, or not any more, are none of the repair's business
    whole = {case_id: entry for case_id, entry in entries.items() if case_id not in damaged}
    write_manifest(cases, Manifest({**whole, **made.cases}, made.params))
    _require_made(cases, damaged - made.cases.keys(), sources.src)
    click.echo(f"prepared anew: {', '.join(sorted(damaged)) or 'all cases, and the manifest'}")


def _listed(cases: Path) -> Manifest | None:
    try:
        return read_manifest(cases)
    except StoreError:
        return None


def _preparation(cases: Path, manifest: Manifest) -> PreprocessParams:
    """The parameters the store was prepared with."""
    try:
        return PreprocessParams.model_validate(manifest.params)
    except ValidationError as error:
        names = ", ".join(str(fault["loc"][0]) for fault in error.errors() if fault["loc"])
        fact = f"was prepared with parameters this liver3d does not know: {names}"
        raise StoreError(cases, fact, "run python -m pipeline.preprocess again") from error


def _require_made(cases: Path, missing: set[str], src: Path) -> None:
    if missing:
        fact = f"cannot be prepared again from {src}: case {', '.join(sorted(missing))}"
        fix = f"{cases.parent / 'problems.json'} says why, or name the right data set with --src"
        raise StoreError(cases, fact, fix)


def _tell(damages: list[Damage]) -> None:
    for damage in damages[:SHOWN]:
        click.echo(f"  {damage.path}: {damage.fact}")
    if len(damages) > SHOWN:
        click.echo(f"  … and {len(damages) - SHOWN} more")


def _count(damages: list[Damage]) -> str:
    damaged = {damage.case_id for damage in damages if damage.case_id}
    if not damaged:
        return "the manifest is missing or damaged"
    return f"{len(damages)} faults in {len(damaged)} cases: {', '.join(sorted(damaged)[:SHOWN])}"


def _tell_whole(cases: Path) -> None:
    files = [f for entry in read_manifest(cases).cases.values() for f in entry.files.values()]
    size = _size(sum(file.size_bytes for file in files))
    click.echo(f"{len(read_manifest(cases).cases)} cases, {len(files)} files, {size}: whole")
    others = [path.name for path in unlisted(cases)]
    if others:
        more = ", …" if len(others) > SHOWN else ""
        click.echo(f"not in the manifest, and left alone: {', '.join(others[:SHOWN])}{more}")


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.1f} GB" if size_bytes >= 5e7 else f"{size_bytes / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
