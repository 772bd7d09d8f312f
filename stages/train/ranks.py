"""Which of several processes this one is, when they train one model together."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

import torch.distributed
from torch import Tensor

from cache.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """One process among those that train together.

    Attributes:
        rank: its number among all.
        count: of all.
        local_rank: its number among those of its machine.
        local_count: of those.
    """

    rank: int = 0
    count: int = 1
    local_rank: int = 0
    local_count: int = 1

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """The part of this process; the parts of all are disjoint and together all there is."""
        return items[self.rank :: self.count]

    def most_of(self, items: int) -> int:
        """The largest part that any process has of so many items."""
        return -(-items // self.count)


def current_ranks() -> Ranks:
    """What torch.distributed and torchrun say of this process; alone without them."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return Ranks()
    rank, count = torch.distributed.get_rank(), torch.distributed.get_world_size()
    # torchrun tells what lies on which machine; without it all are taken to be on one
    local_rank = int(os.environ.get("LOCAL_RANK", rank))
    return Ranks(rank, count, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", count)))


def agreed(value: T, ranks: Ranks) -> T:
    """The value that the first process of this machine has; all wait until each has come here.

    Args:
        value: anything that can be pickled.
        ranks: this process' place; with a single one the value is its own.
    """
    return gathered(value, ranks)[0]


def gathered(value: T, ranks: Ranks) -> list[T]:
    """The values of all processes of this machine, the first one's first; all wait for all."""
    first = ranks.rank - ranks.local_rank  # torchrun numbers a machine's ranks in a row
    return everyones(value, ranks)[first : first + ranks.local_count]


def everyones(value: T, ranks: Ranks) -> list[T]:
    """The values of all processes of all machines; all wait for all."""
    if ranks.count == 1:
        return [value]
    values = [value] * ranks.count
    torch.distributed.all_gather_object(values, value)
    return values


def of_first(make: Callable[[], T], ranks: Ranks) -> T:
    """What the first process of all makes, for all: it alone looks at its disk.

    Raises:
        DataError: the first process met it; all raise the same.
    """
    made: list[T | DataError | None] = [None]
    if ranks.rank == 0:
        try:
            made = [make()]
        except DataError as error:
            made = [error]
    if ranks.count > 1:
        torch.distributed.broadcast_object_list(made)
    if isinstance(made[0], DataError):
        raise made[0]
    return cast(T, made[0])


def summed(vector: Tensor, ranks: Ranks) -> Tensor:
    """The sum of all processes' vectors, float64 on the same device; no gradient goes through."""
    total = vector.detach().double()
    if ranks.count > 1:
        torch.distributed.all_reduce(total)
    return total
