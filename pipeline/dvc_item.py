"""Which item of a ``foreach`` DVC runs a stage for.

A command in dvc.yaml goes through a shell, so nothing from params.yaml may be in it: a folder
called ``a$(touch x)b`` would run what is in its name. DVC names the stage it runs, item and all, in
the environment, which no shell reads.
"""

import os
import re

import click

from cache.errors import ParamsError

NUMBER = re.compile("0|[1-9][0-9]{0,8}")
VARIABLE = "DVC_STAGE"  # DVC sets it for every command, as in "phantom@phantoms"


def item_of(stage: str) -> str:
    """What stands behind the @ in the name of the stage that DVC runs.

    Args:
        stage: the stage's name in dvc.yaml, without an item.

    Raises:
        UsageError: DVC does not run this stage, or runs it for no item.
    """
    # another folder than DVC's own stands before the name, parted by a colon
    name, at, item = os.environ.get(VARIABLE, "").partition(f"{stage}@")
    if not at or not item or (name and not name.endswith(":")):
        raise click.UsageError(f"--of-stage is for the stage {stage} in dvc.yaml, run by dvc repro")
    return item


def number_of(stage: str) -> int:
    """``item_of`` a stage whose items are whole numbers.

    Raises:
        ParamsError: the item is not one.
    """
    item = item_of(stage)
    if not NUMBER.fullmatch(item):
        fix = "name whole numbers in params.yaml, counted from 0"
        raise ParamsError(f"the stage {stage}", f"{item!r} is not a whole number", fix)
    return int(item)
