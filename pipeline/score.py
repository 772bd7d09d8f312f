"""``python -m pipeline.score``: score masks of any origin against labels."""

import math
from pathlib import Path

import click

from cache.errors import SourceError
from pipeline.command import PathType, command, say
from stages.evaluate.summary import summarise
from stages.evaluate.tables import case_lines, mean_line
from stages.score.run import Masks, Scored, run

Values = tuple[int, ...] | None


def _values(_context: click.Context, _option: click.Parameter, text: str) -> Values:
    """Label values as somebody lists them; None for any above 0."""
    if text == "any":
        return None
    try:
        values = tuple(int(word) for word in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is neither any nor a list such as 1 or 1,2") from None
    if min(values) < 1:
        raise click.BadParameter(f"{min(values)} is background; values start at 1")
    return values


def _length(_context: click.Context, _option: click.Parameter, value: float) -> float:
    if not 0 < value < math.inf:
        raise click.BadParameter(f"{value} is not a length above 0 mm")
    return value


@command
@click.option("--predictions", type=PathType, required=True, help="Folder of masks, one a case.")
@click.option("--labels", type=PathType, required=True, help="Folder of labels, named alike.")
@click.option("--out", type=PathType, required=True, help="Folder for cases.csv and metrics.json.")
@click.option(
    "--tolerance-mm",
    type=float,
    callback=_length,
    default=2.0,
    show_default=True,
    help="Of surface Dice.",
)
@click.option(
    "--prediction-values",
    callback=_values,
    default="any",
    show_default=True,
    help="What is liver in the predictions: any value above 0 (but 255 beside others), or a list "
    "such as 1,2.",
)
@click.option(
    "--label-values",
    callback=_values,
    default="any",
    show_default=True,
    help="The same in the labels.",
)
def main(
    predictions: Path,
    labels: Path,
    out: Path,
    tolerance_mm: float,
    prediction_values: Values,
    label_values: Values,
) -> None:
    """Score masks of any origin, another tool's for instance, as pipeline.evaluate scores a model.

    A prediction belongs to the label of the same name, whatever their endings. Masks are compared
    on their own grid, which must be the label's; nothing is resampled.
    """
    masks = Masks(predictions, labels, prediction_values, label_values)
    scored = run(masks, out, tolerance_mm=tolerance_mm)
    if scored.scores:
        for line in case_lines(scored.scores):
            say(line)
        say(mean_line(summarise(scored.scores)))
        say(f"scores: {out / 'cases.csv'}")
    for doubt in scored.doubts:
        say(f"{doubt.path}: {doubt.fact}; fix: name the values that are liver", err=True)
    _end_badly(scored, labels)


def _end_badly(scored: Scored, labels: Path) -> None:
    """End with what kept masks from being scored, if anything did."""
    for fault in scored.faults:
        say(f"{fault.where}: {fault.fact}; fix: {fault.fix}", err=True)
    if scored.faults:
        fact = f"{len(scored.scores)} of its {scored.labels} labels are scored"
        raise SourceError(labels, fact, "mend what is named above")


if __name__ == "__main__":
    main()
