"""The libraries of the ``export`` extra, imported when they are needed and not before."""

from importlib import import_module
from typing import Any

from cache.errors import ParamsError


def required(name: str) -> Any:
    """Import one of them.

    Raises:
        ParamsError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        fact = f"is needed for this and cannot be imported ({error})"
        raise ParamsError(name, fact, 'python -m pip install "liver3d[export]"') from error
