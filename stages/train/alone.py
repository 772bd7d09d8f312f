"""One training at a time in a folder of models."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cache.errors import ModelError
from cache.lock import only_writer
from stages.train.ranks import Ranks, of_first


@contextmanager
def only_training(models: Path, ranks: Ranks) -> Iterator[None]:
    """Keep other trainings away from a folder of models; the first process does so for all.

    Raises:
        ModelError: another training is writing there; all processes raise it.
    """
    fix = "wait until it is done, or give another --out"
    busy = ModelError(models, "another training is writing to this folder", fix)
    with ExitStack() as held:
        of_first(lambda: held.enter_context(only_writer(models, busy)), ranks)
        yield
