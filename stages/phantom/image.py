"""From the layers of tissue to voxels: paint them slab by slab, then add noise and blur."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stages.phantom.anatomy import Layer
from stages.phantom.lattice import Interpolation, Lattice
from stages.phantom.scan import Scan
from stages.phantom.shapes import Level
from stages.phantom.tissues import AIR_HU

Volume = NDArray[np.int16]
LabelMap = NDArray[np.uint8]

LOWEST_HU, HIGHEST_HU = -1024, 3071  # of a 12-bit scanner
TEXTURE_HU = 3.0  # unevenness of every tissue over some millimetres
SLAB_VOXELS = 2**18  # painted at a time: a float32 slab of 1 MB stays in the processor's cache


@dataclass(frozen=True)
class Paint:
    """A layer and the voxels it may cover."""

    layer: Layer
    onto: Interpolation

    def apply(self, hu: Level, label_map: LabelMap, *, first: int) -> None:
        """Paint what the layer has in the slices from ``first`` on; (slices, Y, X) arrays."""
        z, y, x = self.onto.voxels
        start, stop = max(z.start, first), min(z.stop, first + len(hu))
        if start >= stop:
            return
        level = self.onto.slab(self.layer.level, first=start - z.start, stop=stop - z.start)
        here = slice(start - first, stop - first), y, x
        labels = label_map[here]
        for below, value in self.layer.bands:
            inside = level < below
            if self.layer.in_liver:
                inside &= labels > 0
            np.copyto(hu[here], value, where=inside)
            if self.layer.label:
                np.copyto(labels, self.layer.label, where=inside)


def paint(
    rng: np.random.Generator,
    scan: Scan,
    *,
    lattice: Lattice,
    layers: list[Layer],
    table: NDArray[np.bool_],
) -> tuple[Volume, LabelMap]:
    """The volume in HU and the label map, both (Z, Y, X); the generator draws texture and noise."""
    paints = [
        Paint(layer, onto)
        for layer in [_texture(rng, lattice), *layers]
        if (onto := lattice.interpolation(layer.box)) is not None
    ]
    texture, *tissues = paints
    shape = scan.grid.shape_zyx
    volume, label_map = np.empty(shape, np.int16), np.zeros(shape, np.uint8)
    depth = max(1, SLAB_VOXELS // (shape[1] * shape[2]))
    for first in range(0, shape[0], depth):
        part = slice(first, min(first + depth, shape[0]))
        hu = np.full(volume[part].shape, AIR_HU, np.float32)
        np.copyto(hu, scan.table_hu, where=table)
        for tissue in tissues:
            tissue.apply(hu, label_map[part], first=first)
        hu += texture.onto.slab(texture.layer.level, first=part.start, stop=part.stop)
        volume[part] = _expose(rng, hu, noise_hu=scan.noise_hu, blur=scan.blur)
    return volume, label_map


def _texture(rng: np.random.Generator, lattice: Lattice) -> Layer:
    """Unevenness on every lattice point, HU."""
    z, y, x = lattice.shape_zyx
    level = TEXTURE_HU * rng.standard_normal((z, y, x), dtype=np.float32)
    return Layer(level, (slice(0, z), slice(0, y), slice(0, x)), bands=())


def _expose(rng: np.random.Generator, hu: Level, *, noise_hu: float, blur: float) -> Volume:
    """Whole HU as a scanner gives them: noise that its kernel has blurred with the image."""
    # the kernel leaves this share of white noise, on the two axes together
    left = 2 * blur**2 + (1 - 2 * blur) ** 2
    noise = rng.standard_normal(hu.shape, dtype=np.float32)
    noise *= noise_hu / left
    noise += hu
    blurred = _blur(_blur(noise, blur, axis=1), blur, axis=2)
    np.rint(blurred, out=blurred)
    np.clip(blurred, LOWEST_HU, HIGHEST_HU, out=blurred)
    return blurred.astype(np.int16)


def _blur(values: Level, share: float, *, axis: int) -> Level:
    """The kernel (share, 1 - 2 share, share) along an axis; an edge voxel stands for its beyond."""
    blurred = values * (1 - 2 * share)
    out = np.moveaxis(blurred, axis, 0)
    neighbours = values * share
    beside = np.moveaxis(neighbours, axis, 0)
    out[1:] += beside[:-1]
    out[:-1] += beside[1:]
    out[0] += beside[0]
    out[-1] += beside[-1]
    return blurred
