"""One way of loading patches, measured in a process of its own; prints a line of JSON.

    python -m benchmarks.loading host --cases data/cases

benchmarks/loader.py runs it once per row and round.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import count, islice
from pathlib import Path
from threading import Thread
from typing import Any

import click
import numpy as np
import torch
from torch.utils.data import DataLoader

from benchmarks.memory import forget_peak, status_bytes
from cache.grid import Triple, triple
from cache.reader import CaseStore
from stages.train.loader.batches import Loader
from stages.train.loader.dataset import PatchDataset
from stages.train.loader.lazy import LazyCases
from stages.train.loader.residency import Residency, open_source
from stages.train.plan import Plan

BATCH = 2
WARM_UP = 8  # batches, after every case has arrived
CPU = torch.device("cpu")
Batches = Iterator[Any]


def endless(loader: Loader) -> Batches:
    """Epoch after epoch."""
    for epoch in count():
        yield from loader.epoch(epoch)


def ours(store: CaseStore, plan: Plan, kind: Any, budget_bytes: int) -> Batches:
    """Our loader."""
    source = open_source(store, plan, Residency(kind, budget_bytes, ""), device=CPU)
    batches = endless(Loader(source, plan, batch_size=BATCH, device=CPU))
    yield next(batches)
    while isinstance(source, LazyCases) and source.missing:
        next(batches)
    yield from batches


def plain(store: CaseStore, plan: Plan, workers: int) -> Batches:
    """A DataLoader of torch over our data set."""
    dataset = PatchDataset(store, plan)
    how: dict[str, Any] = {"multiprocessing_context": "spawn"} if workers else {}
    loader = DataLoader(dataset, BATCH, num_workers=workers, persistent_workers=workers > 0, **how)
    for epoch in count():
        dataset.set_epoch(epoch)
        yield from loader


def limit(store: CaseStore, plan: Plan, threads: int) -> Batches:
    """Copying the plan's patches from arrays in memory into a buffer, and nothing else."""
    arrays = {one: (store.image(one), store.mask(one)) for one in plan.shapes_zyx}
    samples = [plan.sample(0, index) for index in range(min(len(plan), 400))]
    patch = samples[0].box.shape_zyx
    buffers = [(np.empty(patch, np.int16), np.empty(patch, np.uint8)) for _ in range(BATCH)]

    def copy(sample: Any, buffer: tuple[Any, Any]) -> None:
        for out, array in zip(buffer, arrays[sample.case_id], strict=True):
            np.copyto(out, array[sample.box.slices])

    for number in count():
        pair = [samples[(number * BATCH + index) % len(samples)] for index in range(BATCH)]
        if threads == 1:
            for sample, buffer in zip(pair, buffers, strict=True):
                copy(sample, buffer)
        else:
            working = [Thread(target=copy, args=both) for both in zip(pair, buffers, strict=True)]
            for thread in working:
                thread.start()
            for thread in working:
                thread.join()
        yield buffers


@click.command()
@click.argument("kind")
@click.option("--cases", type=click.Path(path_type=Path), required=True)
@click.option("--patch-zyx", nargs=3, type=int, default=(96, 128, 128))
@click.option("--seconds", default=4.0, help="How long to read.")
@click.option("--budget-mb", default=100, help="Of decoded chunks, for disk.")
def main(kind: str, cases: Path, patch_zyx: Triple, seconds: float, budget_mb: int) -> None:
    """Read patches for a while; the first batch's time and the memory are told too."""
    store = CaseStore(cases, decoded_bytes=budget_mb << 20)
    forget_peak()
    before, began = status_bytes("VmRSS"), time.perf_counter()
    plan = Plan.of_store(store, patch_zyx=triple(patch_zyx), patches_per_case=50, seed=1)
    kinds: dict[str, Callable[[], Batches]] = {
        "limit": lambda: limit(store, plan, 1),
        "limit-2": lambda: limit(store, plan, 2),
        "dataloader-0": lambda: plain(store, plan, 0),
        "dataloader-2": lambda: plain(store, plan, 2),
        **{
            one: lambda: ours(store, plan, kind, budget_mb << 20)
            for one in ("disk", "host", "device")
        },
    }
    batches = kinds[kind]()
    next(batches)
    first_s = time.perf_counter() - began
    for _ in islice(batches, WARM_UP):
        pass
    number, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        next(batches)
        number += 1
    taken = time.perf_counter() - began
    said = {
        "patches_per_s": number * BATCH / taken,
        "first_batch_s": first_s,
        "memory_bytes": status_bytes("VmHWM") - before,
    }
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
