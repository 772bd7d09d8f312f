"""Tasks done by the workers of a Dask cluster: many machines that see the same folders.

Start ``dask scheduler`` on one machine and ``dask worker ADDRESS --nworkers N --nthreads 1`` on
each, where nobody else can reach them (docs/data.md). All of them need liver3d installed, the
scheduler too, and must find the scans and the store under the paths the command is given: a network
drive mounted at the same place. How many cases a machine prepares at a time is its number of
workers; ``--memory-limit`` ends one that takes more, and only that.
"""

import logging
import pickle
import socket
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any

from cache.errors import ParamsError
from stages.preprocess.workers.door import FLAG, require_certificates, warn_if_open
from stages.preprocess.workers.tasks import J, Killed, R, Task

if TYPE_CHECKING:
    from distributed import Client

LOG = logging.getLogger(__name__)
IN_FLIGHT = 200  # tasks the scheduler knows at a time: enough for its workers, and little to hold
TIMEOUT_S = 10  # for a scheduler to answer


def run_on_cluster(
    work: Callable[[J], R], tasks: Iterable[Task[J]], *, address: str
) -> Iterator[R | Killed]:
    """Do the work for every task on a Dask cluster; give the results as they come.

    When a worker is lost, Dask gives its tasks to others. A task may so be done twice, even at the
    same time; work that writes must bear it. After four lost workers (``allowed-failures`` is 3)
    Dask gives a task up; since it blames all tasks a lost worker was given, not only the one that
    killed it, each of them is then tried once more, when no other is being done.

    When the iterator is closed, by ``close()`` or by an exception that ends its consumer, what
    has not begun is cancelled; what has begun ends by itself.

    Args:
        work: a function that can be imported by its name, as the workers have to.
        tasks: what to do. Their ``need_bytes`` are not looked at.
        address: of the scheduler, such as ``tcp://10.0.0.5:8786``.

    Yields:
        Each task's result, or that it killed its workers; Dask does not tell how they ended.

    Raises:
        ParamsError: distributed is not installed, no scheduler answers or it stops answering, a
            certificate is missing, or a machine of the cluster cannot import the work.
        Exception: raised by the work, as it is.
    """
    with _connected(address) as client:
        _require_import(client, work, address)
        lost: list[Task[J]] = []
        for task, result in _results(client, work, iter(tasks), IN_FLIGHT):
            if not isinstance(result, Killed):
                yield result
                continue
            lost.append(task)
            LOG.warning("%s: its workers were lost; it is tried again at the end", task.name)
        for _, result in _results(client, work, iter(lost), 1):
            yield result


def _results(
    client: "Client", work: Callable[[J], R], waiting: Iterator[Task[J]], most: int
) -> Iterator[tuple[Task[J], R | Killed]]:
    """Each task and its result, with so many tasks in flight at most."""
    from distributed import KilledWorker, as_completed

    def submitted(count: int) -> dict[Any, Task[J]]:
        return {client.submit(work, one.job, pure=False): one for one in islice(waiting, count)}

    tasks = submitted(most)
    ended = as_completed(list(tasks), loop=client.loop)
    for future in ended:
        task = tasks.pop(future)
        result: R | Killed
        try:
            result = future.result()
        except KilledWorker:
            result = Killed(task, None)
        future.release()  # else a worker would hold the result until the end
        more = submitted(1)
        tasks.update(more)
        ended.update(list(more))
        yield task, result


def _require_import(client: "Client", work: Callable[..., Any], address: str) -> None:
    """Refuse a cluster of which a machine cannot import the work.

    Dask itself would not say so: a worker that cannot read its task leaves the cluster.
    """
    pickled = pickle.dumps(work)
    try:
        client.run_on_scheduler(pickle.loads, pickled)
    except (ImportError, AttributeError) as error:
        raise _cannot_import("the scheduler", address, error) from error
    answers = client.run(pickle.loads, pickled, on_error="return")
    for worker, answer in answers.items():
        if isinstance(answer, Exception):
            raise _cannot_import("the worker", worker, answer) from answer
    if not answers:
        LOG.warning("the scheduler at %s has no workers yet; waiting for them", address)


def _cannot_import(who: str, where: str, error: Exception) -> ParamsError:
    fact = f"{who} at {where} cannot import what it is to do ({error})"
    return ParamsError(FLAG, fact, "install there the liver3d that is installed here")


@contextmanager
def _connected(address: str) -> Iterator["Client"]:
    """A client of the scheduler; closing it cancels what has not begun."""
    try:
        from distributed import Client
    except ImportError as error:
        fix = 'pip install "liver3d[cluster]"'
        raise ParamsError(FLAG, "needs dask.distributed, which is not installed", fix) from error
    require_certificates(address)
    _require_scheduler(address)
    with _quiet():
        try:
            client = Client(address, timeout=TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            raise _no_answer(address, error) from error
        warn_if_open(address, str(client.scheduler_info().get("address", address)))
        try:
            yield client
        except CancelledError as error:  # not by us: Dask cancels all when it lost the scheduler
            fact = f"the scheduler at {address} stopped answering"
            fix = "start it again and run the same command; finished cases are kept"
            raise ParamsError(FLAG, fact, fix) from error
        finally:
            client.close()


def _require_scheduler(address: str) -> None:
    """Refuse an address where nobody listens.

    Dask's client would find that out too, but only after TIMEOUT_S, and such a client may delay
    the end of Python and put a traceback there.
    """
    from distributed.comm.addressing import get_address_host_port

    try:
        socket.create_connection(get_address_host_port(address), TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        raise _no_answer(address, error) from error


def _no_answer(address: str, error: Exception) -> ParamsError:
    fix = "start one with 'dask scheduler' and give the address it prints"
    return ParamsError(FLAG, f"no Dask scheduler answers at {address} ({error})", fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep distributed from writing to stderr: what it has to say arrives as exceptions."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
