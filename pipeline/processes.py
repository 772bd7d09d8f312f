"""Being one of several processes that torchrun started: how they meet and end."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed
from torch.distributed.rendezvous import rendezvous

from stages.train.ranks import Ranks, current_ranks

FAILED = "liver3d/failed"  # in the store of the processes: how many of them did
# one may validate or save while the others wait; NCCL's own ten minutes can be too short for it
PATIENCE = timedelta(minutes=30)


@contextmanager
def together() -> Iterator[Callable[[torch.device], Ranks]]:
    """The processes that torchrun started, from their first line to their last.

    Of those that fail, only the first tells why. Else each would tell what all of them met, and
    what one alone met would be a lost connection to the others, told with a traceback.

    Yields:
        A function that connects this process, which computes on the given device, to the others
        and says which it is: GPUs talk by NCCL, CPUs by Gloo. Without torchrun it is one alone.

    Raises:
        SystemExit: with exit code 1, in place of what a process raised that failed after another.
    """
    if "WORLD_SIZE" not in os.environ:
        yield lambda _: Ranks()
        return
    store, rank, count = next(rendezvous("env://"))

    def join(device: torch.device) -> Ranks:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        torch.distributed.init_process_group(
            backend, store=store, rank=rank, world_size=count, timeout=PATIENCE
        )
        return current_ranks()

    try:
        yield join
    except Exception:
        # counted before the connection ends, of which the others will fail
        if store.add(FAILED, 1) > 1:
            sys.exit(1)
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
