"""``python -m pipeline.export``: turn a trained model into a bundle for deployment."""

from pathlib import Path

import click

from pipeline.command import PathType, command, place_option, say
from pipeline.version import code_version
from stages.export.form import FORMS
from stages.export.parity import Parity
from stages.export.run import Places, run
from stages.machine import naming_shortage


@command
@place_option("model", "models/best.pt", "The model.")
@click.option(
    "--to",
    type=click.Choice(list(FORMS)),
    default="onnx",
    show_default=True,
    help="ONNX, which pipeline.predict runs, or torch's exported program.",
)
@place_option("out", "bundle", "Folder to write; an earlier bundle there is replaced.")
@place_option("cases", "data/cases", "The store; the graph is compared on one of its cases.")
@click.option("--metrics", type=PathType, help="metrics.json of this model, for the model card.")
def main(model: Path, to: str, out: Path, cases: Path, metrics: Path | None) -> None:
    """Turn a trained model into a bundle for deployment.

    The bundle is a folder with the graph, the preparation's parameters, a model card, and how far
    the graph is from the trained network. A graph that computes something else is not written.
    Not for clinical use.
    """
    with naming_shortage(model):
        parity = run(Places(model, cases, metrics, out), FORMS[to], code=code_version())
    size_bytes = sum(path.stat().st_size for path in out.iterdir())
    say(f"bundle: {out} ({size_bytes / 1e6:.1f} MB)")
    say(_told(parity))


def _told(parity: Parity) -> str:
    differences = (parity.probability, *(one.probability for one in parity.random))
    dice = "no liver in either mask" if parity.dice is None else f"Dice {parity.dice:.6f}"
    return (
        f"compared with the trained network on {parity.origin}: {dice};"
        f" largest difference of a probability {max(differences):.2g}"
    )


if __name__ == "__main__":
    main()
