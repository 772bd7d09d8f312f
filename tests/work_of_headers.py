"""Reading files whose headers were changed at random, in a process of its own: readers may end it.

    python tests/work_of_headers.py FOLDER SEED COUNT

prints one line of JSON for each outcome that is neither "read right" nor "refused with a reason".
"""

import gzip
import json
import random
import sys
import traceback
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 - the name everyone uses

from cache.errors import SourceError
from stages.preprocess.reading.read import read_ct, read_label
from test_dicom import positions, write_slice
from test_read import counted, write_nifti

SPACING, ORIGIN = (0.75, 0.5, 2.5), (-11.0, 7.0, 23.0)
SFORM = [[0.75, 0, 0, 11], [0, 0.5, 0, -7], [0, 0, 2.5, 23]]  # RAS
LONG = (b"A" * 300, b"\xe4" * 5000, b"x" * 70_000, b"\0" * 600, b"9" * 400)
ODD = (b"1e999", b"-1", b"nan", b"0", b"99999999999999999999", b"M\xfcller", b"\0")
COMMENTS = {
    "mha": (b"Comment = ", b"Name = ", b"Patient = ", b"M\xfcller = "),
    "nrrd": (b"# ", b"content: ", b"key:=", b"M\xfcller:="),
}
# what a reader of NIfTI looks at: length, dimensions, type, spacing, offset, scale, units, place
NIFTI_NEEDED = ((0, 4), (40, 56), (70, 92), (108, 124), (252, 328), (344, 348))
# of the others, the fields whose absence gives way to a default
PLACED = {
    "mha": (b"TransformMatrix =", b"Offset =", b"ElementSpacing =", b"BinaryDataByteOrderMSB ="),
    "nrrd": (b"space:", b"space directions:", b"space origin:"),
}
NIFTI_ODD = (b"\xff" * 4, bytes(4), b"\0\0\xc0\x7f", b"\xff\xff\xff\x7f", b"\0\0\0\x80")


def write_sound(folder):
    """One small file of each kind; gives its bytes, and those of three DICOM slices."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"nii": write_nifti(folder / "a.nii", counted(), spacing_xyz_mm=SPACING, sform=SFORM)}
    image = sitk.GetImageFromArray(counted())
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    for kind in ("mha", "nrrd"):
        for compress in (False, True):
            content[f"{kind}-{compress}"] = folder / f"{compress}.{kind}"
            sitk.WriteImage(image, str(folder / f"{compress}.{kind}"), compress)
    for number, place in enumerate(positions(3, (0.0, 0.0, 2.5))):
        path = folder / "series" / f"{number}.dcm"
        write_slice(path, np.zeros((6, 7), np.int16), place, InstanceNumber=number + 1)
    content["dcm"] = folder / "series" / "1.dcm"
    return {kind: path.read_bytes() for kind, path in content.items()}


def header_end(kind, content):
    """The first byte behind a header."""
    if kind == "nii":
        return 352
    mark = {"m": b"LOCAL\n", "n": b"\n\n", "d": b"\xe0\x7f\x10\x00"}[kind[0]]
    return content.index(mark) + len(mark)


def changed(kind, header, rng):
    """A header with something changed in it, and whether nobody needs what was changed."""
    family = kind[:4].rstrip("-")
    if family in COMMENTS and rng.random() < 0.3:
        lines = header.split(b"\n")
        line = rng.choice(COMMENTS[family]) + rng.choice((*LONG, *ODD))
        lines.insert(rng.randrange(1, len(lines) - 2), line)
        return b"\n".join(lines), True
    changed = bytearray(header)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(changed))
        how = rng.randrange(5)
        if how == 0:
            changed[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            count = rng.choice((1, 2, 4, 8))
            changed[place : place + count] = rng.randbytes(count)
        elif how == 2:
            count = rng.choice((1, 3, 20))
            changed[place : place + count] = bytes(count)
        elif how == 3 and kind == "nii":
            changed[place // 4 * 4 : place // 4 * 4 + 4] = rng.choice(NIFTI_ODD)
        elif how == 3:
            changed[place:place] = rng.choice((*LONG, *ODD))
        elif kind != "nii":
            del changed[place : place + rng.randrange(1, 5)]
    if kind != "nii":
        return bytes(changed), False
    changed = bytes(changed[:352].ljust(352, b"\0"))
    return changed, all(changed[a:b] == header[a:b] for a, b in NIFTI_NEEDED)


def write_changed(folder, kind, content, rng):
    """Write a file with a changed header; gives its path, and whether nobody needs the change."""
    end = header_end(kind, content)
    header, is_harmless = changed(kind, content[:end], rng)
    if kind == "dcm":
        path = folder / "series" / "1.dcm"
        path.write_bytes(header + content[end:])
        return path.parent, is_harmless
    is_packed = kind == "nii" and rng.random() < 0.5
    path = folder / f"changed.{kind.split('-')[0]}{'.gz' * is_packed}"
    whole = header + content[end:]
    path.write_bytes(gzip.compress(whole, 1) if is_packed else whole)
    return path, is_harmless


def is_right(source):
    """Whether a volume is the one that was written."""
    places = (source.grid.spacing_zyx_mm, source.grid.origin_xyz_mm)
    return (
        source.array.shape == (5, 6, 7)
        and np.array_equal(np.sort(source.array.ravel()), counted().ravel())
        and all(np.allclose(*pair) for pair in zip(places, (SPACING[::-1], ORIGIN), strict=True))
    )


def fault(path, kind, door, *, is_harmless):
    """What is wrong with how a file was read; None if nothing is."""
    try:
        source = door(path)
    except SourceError as error:
        return f"refused: {error.fact}" if is_harmless else None
    except Exception:
        return traceback.format_exc()
    grid = source.grid
    if not np.isfinite([*grid.spacing_zyx_mm, *grid.origin_xyz_mm, *grid.direction]).all():
        return f"read on {grid}"
    if kind == "dcm" or is_right(source):
        return None
    if is_harmless:
        return f"read as another: {grid}"
    text = path.read_bytes()[:200_000] if kind != "nii" else b""
    missing = [key for key in PLACED.get(kind[:4].rstrip("-"), ()) if key not in text]
    return f"read with defaults for {missing}: {grid}" if missing else None


def main(folder, seed, count):
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    sound = write_sound(folder)
    for number in range(count):
        rng = random.Random(seed * 1_000_003 + number)
        kind = rng.choice(sorted(sound))
        path, is_harmless = write_changed(folder, kind, sound[kind], rng)
        tell(sys.stderr, number=number, kind=kind)  # whatever ends the process, this was the file
        for door in (read_ct, lambda one: read_label(one, None)):
            found = fault(path, kind, door, is_harmless=is_harmless)
            if found is not None:
                tell(sys.stdout, seed=seed, number=number, kind=kind, fault=found)


def tell(stream, **fields):
    stream.write(json.dumps(fields) + "\n")
    stream.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
