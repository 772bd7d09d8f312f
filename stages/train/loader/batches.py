"""Batches read ahead by background threads while the network computes."""

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event

import torch

from cache.errors import ParamsError
from stages.train.loader.buffers import Buffer
from stages.train.loader.fill import Filled, Filler, Source
from stages.train.loader.lazy import LazyCases
from stages.train.loader.meter import Meter
from stages.train.plan import Plan
from stages.train.ranks import Ranks
from stages.train.sample import Batch, Sample

THREADS = 2
THREAD_NAME = "liver3d-batches"
AHEAD = 3  # batches; few enough for large patches
ONE_RANK = Ranks()


class Loader:
    """The batches of a plan, on the device that trains.

    Attributes:
        meter: what the batches of the last epoch cost, or of the one that is running.

    Example:
        >>> loader = Loader(CaseStore("data/cases"), plan, batch_size=2, device=device)
        >>> for batch in loader.epoch(0):
        ...     volume, mask = network_input(batch, hu_window=(-160, 240))
    """

    def __init__(
        self,
        source: Source,
        plan: Plan,
        *,
        batch_size: int,
        device: torch.device,
        threads: int = THREADS,
        ranks: Ranks = ONE_RANK,
        batches: int | None = None,
    ) -> None:
        """Say what is to be read; nothing is opened before the first batch is asked for.

        Args:
            source: a store, or its cases in host memory or on the device.
            plan: which patch is read when.
            batch_size: patches of a batch, of all ranks together; the last one may be smaller.
            device: where batches go.
            threads: that read ahead; 0 reads in the caller's, when a batch is asked for.
            ranks: of the processes that train together; this one takes its share of every batch.
            batches: of an epoch; None for those of the plan's.

        Raises:
            ParamsError: there are more ranks than patches in a batch or in an epoch.
        """
        if ranks.count > batch_size:
            fact = f"is {batch_size}, fewer than the {ranks.count} processes that share a batch"
            raise ParamsError("train.batch_size", fact, "raise it, or start fewer processes")
        self.meter = Meter()
        self._plan = plan
        self._batch_size = batch_size
        self._device = device
        self._threads = threads
        self._ranks = ranks
        self._batches = batches
        self._source = source
        self._is_running = False
        self._filler = Filler(source, device)
        # those being filled or waiting, and the one that the caller has
        self._buffers = [Buffer(is_pinned=device.type == "cuda") for _ in range(AHEAD + 1)]
        if len(self) == 0:
            fact = f"gives an epoch of {len(plan)} patches, fewer than the {ranks.count} processes"
            raise ParamsError("train.patches_per_case", fact, "raise it, or start fewer processes")

    def __len__(self) -> int:
        """Batches in an epoch, the same for all ranks: a rest too small for all is left out."""
        if self._batches is not None:
            return self._batches
        whole, rest = divmod(len(self._plan), self._batch_size)
        return whole + (rest >= self._ranks.count)

    def epoch(self, epoch: int, first: int = 0) -> Generator[Batch, None, None]:
        """The batches of an epoch in the plan's order.

        Args:
            epoch: which, from 0.
            first: number of the batch to begin with, from 0; those before it are not read.

        A batch is valid until the next one is asked for. A fault while reading reaches the
        caller; closing the iterator early, or dropping it, ends the threads.

        Raises:
            StoreError: a case is damaged.
            RuntimeError: the epoch before is neither read to its end nor closed.
        """
        if self._is_running:  # the two would write to the same buffers
            raise RuntimeError("close the epoch before this one first")
        self._is_running = True
        self.meter.start()
        numbers = range(first, len(self))
        reading = (self._ahead if self._threads else self._on_demand)(epoch, numbers)
        try:
            while (filled := self._next(reading)) is not None:
                yield filled.batch
        finally:
            reading.close()
            self.meter.stop()
            self._is_running = False

    def _next(self, reading: Iterator[Filled]) -> Filled | None:
        """The next batch, its voxels on the device."""
        with self.meter.waiting():
            filled = next(reading, None)
            if filled is None:
                return None
            if filled.copied is not None:
                self._receive(filled)
        self.meter.delivered(filled.batch)
        return filled

    def _receive(self, filled: Filled) -> None:
        """Wait until a copy has arrived, and tell the allocator who is going to use it."""
        assert filled.copied is not None
        began, ended = filled.copied
        ended.synchronize()
        self.meter.copied(began, ended)
        for tensor in (*filled.batch.volumes, *filled.batch.masks):
            tensor.record_stream(torch.cuda.current_stream(self._device))

    def _on_demand(self, epoch: int, numbers: range) -> Generator[Filled, None, None]:
        for number in numbers:
            if isinstance(self._source, LazyCases):
                self._source.fill(Event(), most=1)
            yield self._fill(epoch, number)

    def _ahead(self, epoch: int, numbers: range) -> Generator[Filled, None, None]:
        # threads, not processes: TensorStore must not be forked, and all copying frees the GIL
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix=THREAD_NAME)
        pending: deque[Future[Filled]] = deque()
        try:
            with self._filling() as filling:
                for number in numbers:
                    pending.append(pool.submit(self._fill, epoch, number))
                    if len(pending) > AHEAD:
                        yield pending.popleft().result()
                    _raise_fault(filling)
                while pending:
                    yield pending.popleft().result()
                    _raise_fault(filling)
        finally:
            pool.shutdown(cancel_futures=True)

    @contextmanager
    def _filling(self) -> Iterator[Future[None]]:
        """Meanwhile, a thread brings the training set to where it is to lie."""
        if not isinstance(self._source, LazyCases) or self._source.missing == 0:
            nothing: Future[None] = Future()
            nothing.set_result(None)
            yield nothing
            return
        stop = Event()
        with ThreadPoolExecutor(1, thread_name_prefix=THREAD_NAME) as pool:
            try:
                yield pool.submit(_fill, self._source, stop, pool)
            finally:
                stop.set()

    def _fill(self, epoch: int, number: int) -> Filled:
        # by number: the batch that had this buffer before is done with, since batches are handed
        # out in order and only AHEAD of them are read before the caller comes back
        buffer = self._buffers[number % len(self._buffers)]
        samples = self._samples(epoch, number)
        try:
            return self._filler.fill(samples, buffer)
        except Exception as error:
            error.add_note(f"while reading {', '.join(sample.case_id for sample in samples)}")
            raise

    def _samples(self, epoch: int, number: int) -> Sequence[Sample]:
        """The samples of a batch that are for this rank; all ranks' boxes have one shape."""
        start = number * self._batch_size
        stop = start + self._batch_size
        if self._batches is None:  # else the plan goes on for as long as it is asked
            stop = min(stop, len(self._plan))
        return self._ranks.share(self._plan.samples(epoch, range(start, stop)))


def _fill(source: LazyCases, stop: Event, pool: ThreadPoolExecutor) -> None:
    while source.missing and not stop.is_set():
        source.fill(stop, most=1)
        # refused once the interpreter ends, which else would wait until every case is there
        pool.submit(int)


def _raise_fault(filling: "Future[None]") -> None:
    """Raise what stopped the thread that fills, if anything did."""
    if filling.done():
        filling.result()
