"""The training loop, in the order things happen."""

import math
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from stages.train.checkpoints.checkpoint import Checkpoint, Row
from stages.train.checkpoints.keep import Keeper
from stages.train.loader.batches import Loader
from stages.train.params import TrainParams
from stages.train.sample import Batch
from stages.train.step import Group, Learnt, News, NotFinite, Trainer, train_batch
from stages.train.stop import Stop, Stopped
from stages.train.tally import Tally
from stages.train.trouble import explained
from stages.train.validate import Score, Validation, mean_scores
from stages.train.watch.bar import Bar
from stages.train.watch.report import Reporter


@dataclass(frozen=True)
class Run:
    """What stays the same from the first step to the last.

    Attributes:
        trainer: the network and all that moves it.
        loader: the batches.
        validation: the cases to validate on.
        keeper: writes checkpoints.
        reporter: tells people and programs how it goes.
        stop: whether somebody asked to stop.
        trouble: where to keep a batch whose loss is not finite.
    """

    trainer: Trainer
    loader: Loader
    validation: Validation
    keeper: Keeper
    reporter: Reporter
    stop: Stop
    trouble: Path

    @property
    def params(self) -> TrainParams:
        """The ``train`` section."""
        return self.trainer.params


def train(run: Run, state: Checkpoint) -> Checkpoint:
    """Train from a state to the end.

    Returns:
        The state at the end; its weights are in the trainer, and saved.

    Raises:
        Stopped: somebody asked to stop; all of it is saved.
        ModelError: the loss or the gradient is not finite.
    """
    began = time.monotonic() - state.trained_s
    with _bar(run, state) as bar:
        while not is_finished(state, run.params):
            tally = Tally.of(state.tally)
            run.trainer.network.train()
            with closing(run.loader.epoch(state.epoch, _first_batch(run, state))) as batches:
                for number, batch in enumerate(batches, state.batch):
                    group = _group(run, state.epoch, number)
                    news = _news(run, began)
                    learnt = _learn(run, state, number, batch, group, news)
                    tally.add(learnt)
                    if not group.is_last:
                        continue
                    state = _after_step(state, number, tally, learnt)
                    bar.step(tally, run.loader.meter, left_s(state, run.params))
                    if learnt.news.is_asked_to_stop:
                        raise _stopped(run, state)
                    if run.keeper.is_due():
                        run.keeper.save(state)
                    if is_out_of_time(state, run.params):
                        break
            scores = run.validation.scores(run.trainer.model) if _is_due(state, run) else []
            if scores is None:
                raise _stopped(run, state)
            row = tally.row() | run.loader.meter.row() | {"train/lr": _rate(run)}
            state = _after_epoch(state, row, scores)
            run.keeper.keep(state)
            run.reporter.tell(state)
    run.reporter.end(state)
    return state


def is_finished(state: Checkpoint, params: TrainParams) -> bool:
    """Whether nothing is left to do: no epoch, no time, or no hope of a better Dice."""
    if state.epoch == params.epochs or (state.batch == 0 and is_out_of_time(state, params)):
        return True
    return is_out_of_patience(state, params)


def is_out_of_time(state: Checkpoint, params: TrainParams) -> bool:
    """Whether ``max_minutes`` have passed."""
    left = left_s(state, params)
    return left is not None and left <= 0


def left_s(state: Checkpoint, params: TrainParams) -> float | None:
    """Seconds until ``max_minutes`` have passed; None without that limit."""
    return None if params.max_minutes is None else 60 * params.max_minutes - state.trained_s


def is_out_of_patience(state: Checkpoint, params: TrainParams) -> bool:
    """Whether the last ``early_stopping`` validations brought nothing better."""
    if params.early_stopping is None:
        return False
    dice = [row["validation/dice"] for row in state.history if "validation/dice" in row]
    # a validation without any Dice is no better than one without any success
    known = [-1.0 if math.isnan(value) else value for value in dice]
    return len(known) - 1 - known.index(max(known)) >= params.early_stopping if known else False


def steps_per_epoch(loader: Loader, params: TrainParams) -> int:
    """Steps of the optimizer in an epoch."""
    return math.ceil(len(loader) / params.accumulate)


def seed_generators(seed: int, epoch: int, batch: int, rank: int) -> None:
    """Let torch draw anew from a pure function of the batch's place, whatever was drawn before.

    Neither the network nor the augmentation draws from torch's own generators; a network with
    dropout would, and still give the same weights after a stop.
    """
    words = np.random.SeedSequence((seed, epoch, batch, rank)).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 32 | int(words[1]))


def _first_batch(run: Run, state: Checkpoint) -> int:
    """The batch to go on with; none is left where the time was over before the last stop."""
    is_over = state.batch > 0 and is_out_of_time(state, run.params)
    return len(run.loader) if is_over else state.batch


def _learn(
    run: Run, state: Checkpoint, number: int, batch: Batch, group: Group, news: News
) -> Learnt:
    seed_generators(state.seed, state.epoch, number, run.trainer.ranks.rank)
    try:
        return train_batch(run.trainer, batch, group, news)
    except NotFinite as error:
        raise explained(error, run.trainer, batch, run.trouble) from error


def _group(run: Run, epoch: int, number: int) -> Group:
    """The place of a batch among those of one step; the epoch's last group may be smaller."""
    size, count = run.params.accumulate, len(run.loader)
    first = number - number % size
    step = epoch * steps_per_epoch(run.loader, run.params) + number // size
    return Group(min(size, count - first), number + 1 in (first + size, count), step)


def _news(run: Run, began: float) -> News:
    """What this process adds for the others: the clock is the first one's."""
    is_first = run.trainer.ranks.rank == 0
    return News(time.monotonic() - began if is_first else 0.0, run.stop.is_asked)


def _after_step(state: Checkpoint, number: int, tally: Tally, learnt: Learnt) -> Checkpoint:
    seconds = learnt.news.elapsed_s
    return replace(state, batch=number + 1, tally=tally.saved(), trained_s=seconds)


def _after_epoch(state: Checkpoint, row: Row, scores: list[Score]) -> Checkpoint:
    epoch = state.epoch + 1
    row = {"epoch": float(epoch), "time/minutes": state.trained_s / 60, **row}
    if scores:
        row |= mean_scores(scores)
    dice = row.get("validation/dice", math.nan)
    best = state.best_dice
    if math.isfinite(dice) and (best is None or dice > best):
        best = dice
    return replace(
        state,
        epoch=epoch,
        batch=0,
        tally={},
        best_dice=best,
        history=[*state.history, row],
        validations=[
            *state.validations,
            *({"epoch": epoch, **score.saved()} for score in scores),
        ],
    )


def _is_due(state: Checkpoint, run: Run) -> bool:
    """Whether the epoch that ends is one to validate after; the last one always is."""
    is_last = state.epoch + 1 == run.params.epochs or is_out_of_time(state, run.params)
    return is_last or (state.epoch + 1) % run.params.validate_every == 0


def _bar(run: Run, state: Checkpoint) -> Bar:
    each = steps_per_epoch(run.loader, run.params)
    done = state.epoch * each + state.batch // run.params.accumulate
    steps = None if run.params.max_minutes else run.params.epochs * each
    return run.reporter.bar(steps, done, run.trainer.device)


def _rate(run: Run) -> float:
    """The learning rate of the last step."""
    return float(run.trainer.optimizer.param_groups[0]["lr"])


def _stopped(run: Run, state: Checkpoint) -> Stopped:
    run.keeper.save(state)
    name = run.stop.signal or "another process"
    return Stopped(
        f"stopped by {name} after epoch {state.epoch} and {state.batch} of {len(run.loader)}"
        " batches; the same command goes on from there"
    )
