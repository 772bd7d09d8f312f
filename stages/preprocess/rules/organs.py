"""What the names of structures say: which of them cannot be liver.

The words are those of published data sets (TotalSegmentator, AMOS, BTCV, FLARE, KiTS, the Medical
Segmentation Decathlon) and their usual translations.
"""

import re

WORD = re.compile(r"[^\W\d_]+")
LIVER = ("liver", "hepat", "leber", "foie", "hígado", "higado", "fegato")
IGNORE = "ignore"  # as nnU-Net calls what nobody looked at
# beginnings of words, of which a liver consists or which lie in it
OF_A_LIVER = """
tumor tumour tumeur lesion läsion cancer metasta carcinom hcc nodul mass cyst vessel vein vene
portal arter duct segment lobe caudate ablat necro
angioma hemangiom haemangiom adenom fnh abscess biliar bile parenchym gtv viable embol tace lipiodol
resect remnant graft shunt stent thromb infarct hydatid echinoc fibros steatos cirrho calcif
"""
# and those of other structures
OF_OTHERS = """
spleen splen kidney renal pancrea stomach gastr gallbladder gall oesoph esoph aort cava ivc adrenal
suprarenal duoden colon bowel intestin rectum rectal bladder prostat uter lung pulmon heart cardi
atri ventric vertebra spine spinal rib ribs bone femur femor hip pelvi sacrum humerus scapula clavic
skull stern costal muscle psoas iliopsoas glute autochthon skin fat body brain trachea thyroid lymph
eye parotid breast iliac carotid subclavian brachiocephal
milz niere magen lunge herz galle dünndarm dickdarm bauchspeichel harnblase knochen wirbel
rate rein reins pancréa estomac bazo riñón riñon milza rene polmone
"""
WHOLE = {"rib", "fat", "hip", "eye", "ivc", "rate", "rein", "reins", "rene", "gall", "body", "skin"}
STARTS = tuple(word for word in OF_OTHERS.split() if word not in WHOLE)
PARTS = (*LIVER, *OF_A_LIVER.split())


def is_ignored(name: str) -> bool:
    """Whether a name stands for voxels that nobody looked at."""
    return name.strip().casefold().startswith(IGNORE)


def is_other_organ(name: str) -> bool:
    """Whether a name is that of a structure that is no part of the liver."""
    if is_liver(name):
        return False
    return any(word in WHOLE or word.startswith(STARTS) for word in _words(name))


def is_liver(name: str) -> bool:
    """Whether a name speaks of the liver itself."""
    return any(word.startswith(LIVER) for word in _words(name))


def is_liver_part(name: str) -> bool:
    """Whether a name is the liver's, or that of something in it."""
    return not is_other_organ(name) and any(one.startswith(PARTS) for one in _words(name))


def _words(name: str) -> list[str]:
    return [word.casefold() for word in WORD.findall(name)]
