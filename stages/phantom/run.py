"""The phantom stage: a folder of synthetic CTs and label maps, laid out as real data are."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from cache.grid import Triple
from stages.phantom.make import make_phantom
from stages.phantom.write import write_phantom

MOST_WORKERS = 61  # what Windows can wait for at once
WORTH_A_POOL = 30_000_000  # voxels: about five seconds of work; spawning the workers takes two


def run(out: Path, *, count: int, shape_zyx: Triple, seed: int) -> list[str]:
    """Write phantoms 0 to ``count - 1``; files already there are replaced, others left alone.

    Args:
        out: gets ``image/<id>/<id>.nii.gz`` (int16 HU) and ``label/<id>/<id>.nii.gz`` (uint8).
        count: how many; phantom i is the same for every count.
        shape_zyx: typical voxels along each axis.
        seed: of the whole set.

    Returns:
        The case ids.
    """
    case_ids = [case_id_of(index) for index in range(count)]
    write = partial(write_one, out, shape_zyx=shape_zyx, seed=seed)
    for _ in tqdm(
        _spread(write, count, voxels=math.prod(shape_zyx)),
        total=count,
        desc="phantom",
        disable=None,
    ):
        pass
    return case_ids


def case_id_of(index: int) -> str:
    """The id of the phantom with this number."""
    return f"phantom-{index:03d}"


def write_one(out: Path, index: int, *, shape_zyx: Triple, seed: int) -> None:
    """Make one phantom and write it."""
    phantom = make_phantom(seed, index, shape_zyx=shape_zyx)
    write_phantom(out, case_id_of(index), phantom=phantom)


def _spread(write: Callable[[int], None], count: int, *, voxels: int) -> Iterator[None]:
    """Write all phantoms, on all processors where that repays starting them."""
    workers = min(count, os.cpu_count() or 1, MOST_WORKERS)
    if workers == 1 or count * voxels < WORTH_A_POOL:
        yield from map(write, range(count))
        return
    # processes: SimpleITK and scipy.sparse hold the interpreter's lock
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(write, range(count))
