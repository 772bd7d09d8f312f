"""What the names of structures say: which of them cannot be liver.

The words are those of published data sets (TotalSegmentator, AMOS, BTCV, FLARE, KiTS, the Medical
Segmentation Decathlon) and their usual translations.
"""

import re

WORD = re.compile(r"[^\W\d_]+")
LIVER = """
liver hepat hepar leber foie hígado higado fegato fígado figado lever wątrob watrob
karaciğer karaciger печен печін játra máj maksa συκώτι ήπαρ كبد 간
"""
LIVER_SIGN = "肝"  # Chinese and Japanese write no spaces between words
IGNORE = "ignore"  # as nnU-Net calls what nobody looked at
# beginnings of words: what lies in a liver, and in other organs as well; and pieces of a liver
INSIDE = """
tumor tumour tumeur lesion läsion cancer metasta carcinom hcc nodul mass cyst vessel vein vene
portal arter duct ablat necro
angioma hemangiom haemangiom adenom fnh abscess biliar bile gtv viable embol tace lipiodol
resect remnant graft shunt stent thromb infarct hydatid echinoc fibros steatos cirrho calcif
"""
PIECES = ("segment", "lobe", "caudate", "parenchym")
# and those of other structures
OF_OTHERS = """
background hintergrund exterior
spleen splen kidney renal pancrea stomach gastr gallbladder gall oesoph esoph aort cava ivc adrenal
suprarenal duoden colon bowel intestin rectum rectal bladder prostat uter lung pulmon heart cardi
atri ventric vertebra spine spinal rib ribs bone femur femor hip pelvi sacrum humerus scapula clavic
skull stern costal muscle psoas iliopsoas glute autochthon skin fat body brain trachea thyroid lymph
eye parotid breast iliac carotid subclavian brachiocephal
milz niere magen lunge herz galle dünndarm dickdarm bauchspeichel harnblase knochen wirbel
rate rein reins pancréa estomac bazo riñón riñon milza rene polmone
baço rim rins estômago pulmão milt nier mjälte njure śledzion nerk dalak böbrek lien ren renes pulmo
селез почк желуд поджелуд легк лёгк сердц аорт spl kid kidn pan
"""
OTHER_SIGNS = "脾肾腎胰膵胃胆膀肺心脊肠腸骨食"
WHOLE = {"rib", "fat", "hip", "eye", "ivc", "rate", "rein", "reins", "rene", "gall", "body", "skin"}
WHOLE |= {"rim", "rins", "ren", "renes", "lien", "milt", "nier", "spl", "kid", "kidn", "pan"}
# what programs call a structure to which nobody gave a name
NAMELESS = re.compile(
    r"(segment|segmentation|seg|label|class|structure|roi|region|object|organ|mask|target|value"
    r"|foreground|fg|s)?[\W_]*\d*"
)
STARTS = tuple(word for word in OF_OTHERS.split() if word not in WHOLE)
LIVERS, FOUND_INSIDE = tuple(LIVER.split()), tuple(INSIDE.split())


def is_ignored(name: str) -> bool:
    """Whether a name stands for voxels that nobody looked at."""
    return name.strip().casefold().startswith(IGNORE)


def is_liver(name: str) -> bool:
    """Whether a name speaks of a liver, be it all of it or something in it."""
    return LIVER_SIGN in name or any(word.startswith(LIVERS) for word in _words(name))


def is_other_organ(name: str) -> bool:
    """Whether a name is that of a structure that is not part of the liver, or of the background."""
    if is_liver(name):
        return False
    is_other = any(word in WHOLE or word.startswith(STARTS) for word in _words(name))
    return is_other or any(sign in name for sign in OTHER_SIGNS)


def is_liver_part(name: str) -> bool:
    """Whether a name is the liver's, or that of something that may be in it, as a tumour."""
    is_piece = any(word.startswith(PIECES) for word in _words(name))
    is_part = is_piece or is_lesion_or_vessel(name)
    return is_liver(name) or (is_part and not is_other_organ(name))


def is_lesion_or_vessel(name: str) -> bool:
    """Whether a name is that of something that lies in a liver, or in another organ."""
    return any(word.startswith(FOUND_INSIDE) for word in _words(name))


def is_nameless(name: str) -> bool:
    """Whether a name says nothing at all, as those that programs give."""
    return bool(NAMELESS.fullmatch(name.strip().casefold()))


def _words(name: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(name)]
