"""What the words in a file's or folder's name say: CT or label, and of which case."""

import re
from typing import Literal

from stages.preprocess.layouts.names import composed

Role = Literal["ct", "label", "other"]  # other: a label of something that is not the liver
CT = re.compile(
    r"images?|imgs?|imaging|cts?|ctscans?|scans?|volumes?|vols?|dicoms?|dcm|orig|original"
)
LABEL = re.compile(
    r"labels?|lbls?|masks?|segs?|segm|segmentations?|gts?|ground|truth|groundtruth|annotations?"
    r"|annot|rois?|contours?"
)
LIVER = re.compile("livers?")
OTHER = re.compile(
    r"spleens?|kidneys?|renal|pancreas|lungs?|hearts?|aorta|stomach|gallbladder|bladder|bones?|skin"
    r"|colon|bowel|duodenum|esophagus|oesophagus|adrenals?|spine|vertebrae?|ribs?|muscles?|brain"
    r"|prostate|uterus|airways?|trachea|thyroid|fat|tumou?rs?|lesions?|cysts?|nodules?|hcc|mets"
    r"|metastas[ei]s|vessels?|veins?|arter(y|ies)"
)
# imagesTs, labels_val, test/: cases that somebody set apart
SET_APART = re.compile(r"ts|te|tests?|testing|va|val|valid|validation")
TRAINING = re.compile(r"tr|train|training")
# letters, digits, and what parts them; then the words of imagesTr and RawData by their capitals
PIECES = re.compile(r"[^\W\d_]+|\d+|[\W_]+")
BRACKETS = (("(", ")"), ("[", "]"), ("{", "}"))
CAMEL = re.compile(r"[^\W\d_A-Z]+|[A-Z]+(?![a-z])|[A-Z][a-z]*")


def words(name: str) -> list[str]:
    """The words and numbers of a name, in lower case."""
    return [piece.lower() for piece in _pieces(name) if piece.isalnum()]


def role(name: str) -> Role | None:
    """What a file or folder of this name holds; None if the name does not say.

    An ending counts too, for ``.seg.nrrd`` is of labels alone.
    A name of both kinds, as ``ct_mask``, is a label's; one with ``ct`` and ``liver`` is a CT's.
    """
    if _says(name, LABEL):
        return "other" if is_of_another(name) else "label"
    if _says(name, CT):
        return "ct"
    if is_of_another(name):
        return "other"
    return "label" if _says(name, LIVER) else None


def is_of_another(name: str) -> bool:
    """Whether a name speaks of another structure than the liver, and not of the liver."""
    return _says(name, OTHER) and not _says(name, LIVER)


def is_of_liver_alone(name: str) -> bool:
    """Whether a name says that it is a label of the liver, and of nothing beside it."""
    said = [word for word in words(name) if not LABEL.fullmatch(word)]
    return bool(said) and all(LIVER.fullmatch(word) for word in said)


def is_set_apart(name: str) -> bool:
    """Whether a folder of this name holds cases for testing or validation."""
    return _says(name, SET_APART)


def is_split(name: str) -> bool:
    """Whether a name says of which part of a data set the cases below are, and nothing else."""
    said = words(name)
    return said != [] and all(
        SET_APART.fullmatch(word) or TRAINING.fullmatch(word) for word in said
    )


def core(name: str) -> str:
    """A name without the words at its ends that say whether it is a CT or a label, in lower case.

    ``img0001`` and ``label0001`` have ``0001`` in common, ``7`` and ``7_mask`` have ``7``. A name
    of such words alone is its own core.
    """
    return case_name(name).casefold()


def case_name(name: str) -> str:
    """The ``core`` of a name with its capitals, and with both of any brackets."""
    pieces = _pieces(name)
    while pieces and _says_no_case(pieces[-1]):
        pieces.pop()
    while pieces and _says_no_case(pieces[0]):
        pieces.pop(0)
    return _with_both("".join(pieces)) or composed(name)


def _with_both(name: str) -> str:
    """A name with the brackets that were cut off its ends, whose partners are left in it."""
    for opening, closing in BRACKETS:
        if name.count(opening) > name.count(closing):
            name += closing
        elif name.count(opening) < name.count(closing):
            name = opening + name
    return name


def _says(name: str, what: re.Pattern[str]) -> bool:
    return any(what.fullmatch(word) for word in words(name))


def _says_no_case(piece: str) -> bool:
    return not piece.isalnum() or _is_known(piece)


def _is_known(piece: str) -> bool:
    return any(kind.fullmatch(piece.lower()) for kind in (CT, LABEL, LIVER))


def _pieces(name: str) -> list[str]:
    """A name in pieces that make it up again: words, numbers, and what parts them."""
    found = PIECES.findall(composed(name))
    return [part for piece in found for part in _parts(piece)]


def _parts(piece: str) -> list[str]:
    return CAMEL.findall(piece) if piece.isalpha() and not _is_known(piece) else [piece]
