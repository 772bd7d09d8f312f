"""The structures that a .seg.nrrd file of 3D Slicer names in its header."""

import re
from pathlib import Path

from cache.errors import SourceError
from stages.preprocess.files import LabelNames
from stages.preprocess.reading.header_text import TextHeader
from stages.preprocess.rules.ct import EXPORT_AGAIN

KEY = re.compile(r"Segment(\d{1,6})_(Name|LabelValue)")
WHOLE = re.compile(r"\s*[+-]?\d{1,18}\s*")

Layers = dict[str, tuple[int, ...]]


def segments_of(path: Path, header: TextHeader | None, count: int) -> tuple[LabelNames, Layers]:
    """Label values and layers by structure; both empty for a file that names none.

    Segments of one name are one structure: it has a value, and the layer it lies in, of each.

    Args:
        path: the file.
        header: what it says, if it is text.
        count: how many layers it has.

    Raises:
        SourceError: a value or layer is no whole number, or there is no such layer.
    """
    names: LabelNames = {}
    layers: Layers = {}
    fields = header.pairs if header else {}
    # whatever wrote the file may have begun with 1, or left one out
    for number in sorted({int(found[1]) for key in fields if (found := KEY.fullmatch(key))}):
        identity = fields.get(f"Segment{number}_ID", f"Segment {number}")
        name = fields.get(f"Segment{number}_Name", identity)
        value = _whole(path, fields, f"Segment{number}_LabelValue", absent=1)
        layer = _whole(path, fields, f"Segment{number}_Layer", absent=0)
        if not 0 <= layer < count:
            fact = f"its segment {number} is in layer {layer} of {count}"
            raise SourceError(path, fact, EXPORT_AGAIN)
        names[name] = (*names.get(name, ()), value)
        layers[name] = (*layers.get(name, ()), layer)
    return names, layers


def _whole(path: Path, fields: dict[str, str], key: str, *, absent: int) -> int:
    text = fields.get(key, str(absent))
    if not WHOLE.fullmatch(text):
        raise SourceError(path, f"its {key} is {text!r}, no whole number", EXPORT_AGAIN)
    return int(text)
