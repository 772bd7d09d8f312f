"""The limit of stage one: SimpleITK reads every CT and label, and nothing else happens.

    python benchmarks/peers/plain_read.py SOURCES.json WORKERS

SOURCES.json lists objects with "image" and "label". The processes are spawned, as stage one's
are; each reads the two files of a case and drops them.
"""

import json
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import SimpleITK as sitk  # noqa: N813 - the name everyone uses


def read(pair: dict[str, str]) -> int:
    """Read a CT and its label; gives their voxels, so that a read cannot be left out."""
    return sum(sitk.ReadImage(pair[kind]).GetNumberOfPixels() for kind in ("image", "label"))


def main(sources: Path, workers: int) -> None:
    """Read all of them with as many processes."""
    pairs = json.loads(sources.read_text(encoding="utf-8"))
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        voxels = list(pool.map(read, pairs))
    if min(voxels) == 0:
        raise SystemExit("a file without voxels")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
