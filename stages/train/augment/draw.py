"""What is drawn for one sample. Numpy alone: the plan of a run draws, devices only carry out."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from cache.grid import Box, Triple, TripleMm, triple, triple_mm
from stages.train.augment.params import (
    AugmentationParams,
    Elastic,
    Flip,
    Noise,
    Rotation,
    Scaling,
    Shift,
)
from stages.train.augment.warp import Bend, Matrix, Warp

KINDS = tuple(AugmentationParams.model_fields)  # a new one goes to the end


@dataclass(frozen=True)
class Draw:
    """Everything drawn for one sample; an intensity kind that was not drawn is None.

    Attributes:
        warp: where its voxels come from.
        noise_sd: standard deviation of the noise; 1 is half the window.
        noise_seed: of the noise, for the device's own generator.
        blur_sigma: voxels, along every axis.
        brightness: the factor.
        contrast: the factor.
        low_resolution: the factor, at most 1.
        gamma_inverted: the exponent for the negated patch; done before ``gamma``.
        gamma: the exponent.
    """

    warp: Warp = field(default_factory=Warp)
    noise_sd: float | None = None
    noise_seed: int = 0
    blur_sigma: float | None = None
    brightness: float | None = None
    contrast: float | None = None
    low_resolution: float | None = None
    gamma_inverted: float | None = None
    gamma: float | None = None

    def source_box(self, box: Box) -> Box:
        """What must be read to show ``box``: more than it where it is turned, shrunk or bent.

        Nothing beyond the source box takes part. It is the box itself unless something moves,
        and the box moved by whole voxels where it is only shifted.
        """
        return self.warp.source_box(box)


def draw(params: AugmentationParams, random: np.random.Generator, spacing_zyx_mm: TripleMm) -> Draw:
    """Draw all kinds for one sample.

    Each kind draws from a generator of its own, so turning one off leaves the others as they are.

    Args:
        params: each kind, or None where it is off.
        random: the sample's own generator; the same state gives the same draw.
        spacing_zyx_mm: of the case, in which angles and distances are measured.
    """
    # the place of a kind in KINDS is part of what a seed means
    of = dict(zip(KINDS, random.spawn(len(KINDS)), strict=True))
    angles = _angles(params.rotation, of["rotation"])
    scale = _scale(params.scaling, of["scaling"])
    warp = Warp(
        _flips(params.flip, of["flip"]),
        inverse_matrix(angles, scale, spacing_zyx_mm),
        _shift(params.shift, of["shift"], spacing_zyx_mm),
        _bend(params.elastic, of["elastic"], spacing_zyx_mm),
    )
    return Draw(warp, **_noise(params.noise, of["noise"]), **_intensities(params, of))


def inverse_matrix(angles_zyx: TripleMm, scale: float, spacing_zyx_mm: TripleMm) -> Matrix | None:
    """From an output voxel to its source, in voxels, both from the centre; None for the identity.

    Args:
        angles_zyx: degrees about each axis. A positive one turns x towards y, about z; x towards
            z, about y; y towards z, about x. About x is done first, about z last.
        scale: above 1 magnifies.
        spacing_zyx_mm: turning is done in millimetres, or a ball would not stay one.
    """
    turned = np.eye(3)
    for axis, angle in enumerate(np.radians(angles_zyx)):
        rows = [other for other in range(3) if other != axis]
        step = np.eye(3)
        step[np.ix_(rows, rows)] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        turned = turned @ step
    if scale == 1 and (turned == np.eye(3)).all():
        return None
    spacing = np.array(spacing_zyx_mm)
    first, second, third = turned.T / scale * spacing / spacing[:, None]
    return triple_mm(first), triple_mm(second), triple_mm(third)


def _flips(params: Flip | None, random: Generator) -> tuple[bool, bool, bool]:
    if params is None:
        return False, False, False
    first, second, third = (random.random(3) < params.probability_zyx).tolist()
    return first, second, third


def _angles(params: Rotation | None, random: Generator) -> TripleMm:
    if params is None or random.random() >= params.probability:
        return 0.0, 0.0, 0.0
    return triple_mm(random.uniform(-params.degrees, params.degrees, 3))


def _scale(params: Scaling | None, random: Generator) -> float:
    if params is None or random.random() >= params.probability:
        return 1.0
    return _about_one(random, params.factor)


def _shift(params: Shift | None, random: Generator, spacing_zyx_mm: TripleMm) -> Triple:
    """Rounded to whole voxels, so that a patch that is only shifted keeps its values."""
    if params is None or random.random() >= params.probability:
        return 0, 0, 0
    return triple(np.rint(random.uniform(-params.mm, params.mm, 3) / spacing_zyx_mm))


def _bend(params: Elastic | None, random: Generator, spacing_zyx_mm: TripleMm) -> Bend | None:
    if params is None or random.random() >= params.probability:
        return None
    return Bend(
        seed=int(random.integers(2**62)),
        spacing_zyx=triple_mm(params.spacing_mm / np.array(spacing_zyx_mm)),
        sd_zyx=triple_mm(params.sd_mm / np.array(spacing_zyx_mm)),
    )


def _noise(params: Noise | None, random: Generator) -> dict[str, Any]:
    if params is None or random.random() >= params.probability:
        return {}
    return {
        "noise_sd": float(random.uniform(*params.sd)),
        "noise_seed": int(random.integers(2**62)),
    }


def _intensities(params: AugmentationParams, of: dict[str, Generator]) -> dict[str, Any]:
    """The kinds that are one number each, by name; only those that were drawn."""
    drawn: dict[str, Any] = {}
    blur, low, gamma = params.blur, params.low_resolution, params.gamma
    if blur and of["blur"].random() < blur.probability:
        drawn["blur_sigma"] = float(of["blur"].uniform(*blur.sigma_voxels))
    if low and of["low_resolution"].random() < low.probability:
        drawn["low_resolution"] = float(of["low_resolution"].uniform(*low.factor))
    for name, section in (("brightness", params.brightness), ("contrast", params.contrast)):
        if section and of[name].random() < section.probability:
            drawn[name] = _about_one(of[name], section.factor)
    if gamma:
        inverted, plain = of["gamma"].spawn(2)
        if inverted.random() < gamma.probability_inverted:
            drawn["gamma_inverted"] = _about_one(inverted, gamma.exponent)
        if plain.random() < gamma.probability:
            drawn["gamma"] = _about_one(plain, gamma.exponent)
    return drawn


def _about_one(random: Generator, limits: tuple[float, float]) -> float:
    """Below and above 1 equally often, where the limits lie on both sides, as nnU-Net draws."""
    low, high = limits
    is_below = random.random() < 0.5
    if low < 1 < high:
        low, high = (low, 1.0) if is_below else (1.0, high)
    return float(random.uniform(low, high))
