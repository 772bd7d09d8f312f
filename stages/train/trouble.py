"""A loss or a gradient that is not a number: what led to it is kept, to be looked into."""

from dataclasses import asdict
from pathlib import Path

from cache.errors import ModelError
from cache.files import replacing
from stages.network import NetworkSpec
from stages.train.augment.apply import network_input
from stages.train.checkpoints.checkpoint import cpu_state
from stages.train.checkpoints.sealed import read_sealed, reason_of, without_digest, write_sealed
from stages.train.losses import make_loss
from stages.train.networks import make_network
from stages.train.ranks import everyones
from stages.train.sample import Batch
from stages.train.step import NotFinite, Trainer

REPLAYED = "stages.train.trouble.replayed"


def explained(error: NotFinite, trainer: Trainer, batch: Batch, path: Path) -> ModelError:
    """Keep the batch and the weights that met it, and say in which cases to look.

    Args:
        error: what happened.
        trainer: its weights as they were before the step.
        batch: of this process.
        path: the file to write.
    """
    kept = f"{path} has the batch and the weights before it, and {REPLAYED} gives its loss again"
    try:
        _keep(trainer, batch, path)
    except (OSError, RuntimeError) as fault:  # torch's own writer raises the latter
        kept = f"{path} cannot be written ({reason_of(fault)}), so the batch is not kept"
    # all processes meet it, and the one that speaks may have none of the cases at fault
    everyone = everyones(batch.case_ids, trainer.ranks)
    cases = ", ".join(sorted({case_id for part in everyone for case_id in part}))
    return ModelError(
        "train.lr",
        f"{error} on a batch of {cases}; {kept}",
        "lower train.lr, set train.clip_norm or train.hu_window, or look at these cases",
    )


def _keep(trainer: Trainer, batch: Batch, path: Path) -> None:
    """Write the batch, and the weights that met it."""
    inputs, mask = network_input(batch, trainer.params.hu_window)
    with replacing(path) as partial:
        fields = {
            "spec": trainer.params.spec.model_dump(mode="json"),
            "loss": trainer.params.loss,
            "model": cpu_state(trainer.network),
            "inputs": inputs.cpu(),
            "mask": mask.cpu(),
            "samples": [
                {"case": one.case_id, "box": list(map(list, asdict(one.box).values()))}
                for one in batch.samples
            ],
        }
        write_sealed(partial, fields)


def replayed(path: Path) -> tuple[float, dict[str, float]]:
    """The loss of a batch that was kept, computed anew in fp32 on the CPU.

    Returns:
        The loss, and of each weight the largest absolute value of its gradient.

    Raises:
        ModelError: the file is missing or damaged.
        OSError: the disk refused it.
    """
    kept = without_digest(path, read_sealed(path))
    network = make_network(NetworkSpec.model_validate(kept["spec"]))
    network.load_state_dict(kept["model"])
    value = make_loss(kept["loss"])(network(kept["inputs"]), kept["mask"])
    value.backward()  # type: ignore[no-untyped-call]
    gradients = {
        name: float(weight.grad.abs().max())
        for name, weight in network.named_parameters()
        if weight.grad is not None
    }
    return value.item(), gradients
