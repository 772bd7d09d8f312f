"""Writing an HTML page from a template that is in the package of the module that fills it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from cache.files import replacing

BUFFERED = 32  # pieces of the page that are written at a time


def write_page(
    path: Path,
    package: str,
    template: str,
    *,
    filters: Sequence[Callable[..., str | float]],
    values: Mapping[str, Any],
) -> None:
    """Fill a template and write the page, whole or not at all; in memory is a piece at a time.

    Args:
        path: the HTML file.
        package: in which the template is.
        template: its file's name. A name it uses that has no value is an error.
        filters: functions that it uses, each by its own name.
        values: what it shows, by name; escaped. Iterators are consumed as they are written.
    """
    environment = Environment(
        loader=PackageLoader(package, "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({one.__name__: one for one in filters})
    page = environment.get_template(template).stream(values)
    page.enable_buffering(BUFFERED)
    with replacing(path) as partial:
        # a path need not be Unicode on Linux; such a name is shown with its bytes spelled out
        page.dump(str(partial), encoding="utf-8", errors="backslashreplace")
