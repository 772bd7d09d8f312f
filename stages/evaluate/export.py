"""Writing a mask or a probability as an image file in the CT's geometry."""

from pathlib import Path

from cache.case import Mask
from cache.grid import Grid
from stages.evaluate.window import Probability
from stages.image_file import ending_of, write_image


def beside(path: Path, words: str, ending: str | None = None) -> Path:
    """The path beside a mask's with some words after its name, and its ending or another."""
    own = ending_of(path)
    return path.with_name(f"{path.name.removesuffix(own)}{words}{ending or own}")


def write_mask(path: Path, mask: Mask, grid: Grid) -> None:
    """Write a mask on its grid, compressed; the file's ending chooses the format.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        mask: uint8, array order of the CT's file.
        grid: the CT's own grid.

    Raises:
        DataError: no format for masks has this ending, or it cannot be written there.
    """
    write_image(path, mask, grid)


def write_probability(path: Path, probability: Probability, grid: Grid) -> None:
    """Write a probability as ``write_mask`` writes a mask.

    Args:
        path: where to; an existing file is replaced, whole or not at all.
        probability: float32 in [0, 1], array order of the CT's file.
        grid: the CT's own grid.

    Raises:
        DataError: no format for masks has this ending, or it cannot be written there.
    """
    write_image(path, probability, grid)
