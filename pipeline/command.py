"""What all commands share: their options, and how they end.

Exit 0: done. Exit 2: a fault of data or parameters, one readable message, no traceback.
Exit 1: a bug, with its traceback. Exit 130: Ctrl-C; what is finished is kept. Exit 75 (sysexits.h:
try again later): training was asked to stop and has saved all of it.
"""

import functools
import io
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from cache.errors import DataError
from cache.shown import shown, shown_lines
from pipeline.faults import fix_of, is_of_the_machine

STOPPED = 75
INTERRUPTED = 130  # 128 and the number of SIGINT, as shells have it
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
        _log_to_terminal()
        _accept_any_name()
        try:
            function(*args, **kwargs)
        except DataError as error:
            _end(str(error))
        except KeyboardInterrupt:  # click would say "Aborted!", and end as after a bug
            click.echo("stopped; run it again to go on", err=True)
            sys.exit(INTERRUPTED)
        except OSError as error:
            if not is_of_the_machine(error):
                raise
            _end(f"{shown(error.filename or 'the disk')}: {error.strerror}\n  fix: {fix_of(error)}")

    return click.command(run)


def say(text: str, *, err: bool = False) -> None:
    """Print one line; whatever a name in it holds, it stays one."""
    click.echo(shown(text), err=err)


def _end(message: str) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(2)


class _Shown:
    """A formatter of log lines, the names in them as a terminal may show them.

    It is not a filter of a handler: a progress bar puts a handler of its own in place, with the
    formatter of the old one.
    """

    def format(self, record: logging.LogRecord) -> str:
        if record.exc_info:  # a traceback has lines of its own
            return logging.Formatter("%(message)s").format(record)
        return shown_lines(record.getMessage())


def _log_to_terminal() -> None:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        if type(handler) is logging.StreamHandler:  # and none that somebody else put there
            handler.setFormatter(cast(logging.Formatter, _Shown()))


def _accept_any_name() -> None:
    """Print a case id that the console's code page lacks with question marks, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
