"""UNet3d: the network of a widely copied liver notebook, written out.

Source: Çiçek et al., "3D U-Net: learning dense volumetric segmentation from sparse annotation",
MICCAI 2016, with group instead of batch normalisation and a fourth level that keeps its width.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stages.network import GROUPS, SMALLEST_SIDE, Upsampling
from stages.train import exact


class DoubleConv(nn.Module):
    """Twice: 3x3x3 convolution, group normalisation, ReLU. Sides stay."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(in_channels, out_channels, kernel_size=3, padding=1),
            nn.GroupNorm(GROUPS, out_channels),
            nn.ReLU(inplace=True),
            nn.Conv3d(out_channels, out_channels, kernel_size=3, padding=1),
            nn.GroupNorm(GROUPS, out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> (B, out_channels, D, H, W)."""
        out: Tensor = self.layers(features)
        return out


class Halve(nn.MaxPool3d):
    """Halve every side by max pooling."""

    def __init__(self) -> None:
        super().__init__(kernel_size=2)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, D//2, H//2, W//2)."""
        if exact.is_needed(features):
            return exact.halve(features)
        out: Tensor = super().forward(features)
        return out


class Double(nn.Upsample):
    """Double every side by trilinear interpolation, corners aligned."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="trilinear", align_corners=True)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, D, H, W) -> (B, C, 2D, 2H, 2W)."""
        if exact.is_needed(features):
            return exact.double(features)
        out: Tensor = super().forward(features)
        return out


class Down(nn.Module):
    """Halve every side by max pooling, then DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(Halve(), DoubleConv(in_channels, out_channels))

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> (B, out_channels, D//2, H//2, W//2)."""
        out: Tensor = self.layers(features)
        return out


class Up(nn.Module):
    """Double every side, pad to the skip's size, concatenate skip first, then DoubleConv."""

    def __init__(self, in_channels: int, out_channels: int, upsampling: Upsampling) -> None:
        super().__init__()
        half = in_channels // 2
        self.up: nn.Module
        if upsampling == "trilinear":
            self.up = Double()
        else:
            self.up = nn.ConvTranspose3d(half, half, kernel_size=2, stride=2)
        self.conv = DoubleConv(in_channels, out_channels)

    def forward(self, below: Tensor, skip: Tensor) -> Tensor:
        """(B, C, d, h, w) and (B, C, D, H, W) with D in {2d, 2d+1} -> (B, out, D, H, W)."""
        below = self.up(below)
        padding = []
        for axis in (-1, -2, -3):  # the order torch's pad takes
            missing = skip.shape[axis] - below.shape[axis]
            padding += [missing // 2, missing - missing // 2]
        below = F.pad(below, padding)
        out: Tensor = self.conv(torch.cat([skip, below], dim=1))
        return out


class Out(nn.Module):
    """A 1x1x1 convolution to the classes."""

    def __init__(self, in_channels: int, n_classes: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(in_channels, n_classes, kernel_size=1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, in_channels, D, H, W) -> logits (B, n_classes, D, H, W)."""
        out: Tensor = self.conv(features)
        return out


class UNet3d(nn.Module):
    """A 3-D U-Net of five levels, with widths 1, 2, 4, 8 and 8 times ``n_channels``.

    Args:
        in_channels: 1 for CT.
        n_classes: 2, background and liver.
        n_channels: width of the first level, a multiple of 8.
        upsampling: ``trilinear`` (no parameters) or ``transposed`` (learned).
    """

    def __init__(
        self,
        in_channels: int = 1,
        n_classes: int = 2,
        n_channels: int = 24,
        upsampling: Upsampling = "trilinear",
    ) -> None:
        super().__init__()
        n = n_channels
        self.conv = DoubleConv(in_channels, n)
        self.down1 = Down(n, 2 * n)
        self.down2 = Down(2 * n, 4 * n)
        self.down3 = Down(4 * n, 8 * n)
        self.down4 = Down(8 * n, 8 * n)
        self.up1 = Up(16 * n, 4 * n, upsampling)
        self.up2 = Up(8 * n, 2 * n, upsampling)
        self.up3 = Up(4 * n, n, upsampling)
        self.up4 = Up(2 * n, n, upsampling)
        self.out = Out(n, n_classes)

    def forward(self, volume: Tensor) -> Tensor:
        """(B, in_channels, D, H, W), every side at least 16 -> logits (B, n_classes, D, H, W).

        Raises:
            ValueError: a side is below 16 voxels.
        """
        # side by side: min() would tie them to each other where torch.export traces them
        if any(side < SMALLEST_SIDE for side in volume.shape[2:]):
            sides = "·".join(str(side) for side in volume.shape[2:])
            raise ValueError(f"UNet3d needs {SMALLEST_SIDE} voxels on every axis, got {sides}")
        level1 = self.conv(volume)
        level2 = self.down1(level1)
        level3 = self.down2(level2)
        level4 = self.down3(level3)
        level5 = self.down4(level4)
        up = self.up1(level5, level4)
        up = self.up2(up, level3)
        up = self.up3(up, level2)
        up = self.up4(up, level1)
        logits: Tensor = self.out(up)
        return logits
