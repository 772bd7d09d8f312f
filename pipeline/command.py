"""What all commands share: their options, and how they end.

Exit 0: done. Exit 2: a fault of data or parameters, one readable message, no traceback.
Exit 1: a bug, with its traceback.
"""

import functools
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cache.errors import DataError

PathType = click.Path(path_type=Path)
params_option = click.option(
    "--params",
    "params_file",
    type=PathType,
    default=Path("params.yaml"),
    show_default=True,
    help="Parameter file.",
)
device_option = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda or cuda:1; auto takes a GPU if torch can use one.",
)


def place_option(name: str, default: str, text: str) -> Callable[[Any], Any]:
    """An option that names a file or folder."""
    return click.option(
        f"--{name}", type=PathType, default=Path(default), show_default=True, help=text
    )


def command(function: Callable[..., None]) -> click.Command:
    """Turn a function into a command that ends as all of ours do."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
        try:
            function(*args, **kwargs)
        except DataError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(2)

    return click.command(run)
