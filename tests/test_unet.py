"""The network: the notebook's parameters and feature maps, and any sides from 16 voxels on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import GroupNorm

from stages.train.unet import UNet3d, Up

UPSAMPLINGS = ("trilinear", "transposed")


def parameters(network):
    return sum(value.numel() for value in network.parameters())


def feature_maps(network, shape):
    """The shape that leaves each direct part of the network, by the part's name."""
    shapes = {}
    for name, part in network.named_children():
        part.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out.shape}))
    # nothing is computed on the meta device, only the shapes
    network.to("meta")(torch.zeros(shape, device="meta"))
    return {name: tuple(shape) for name, shape in shapes.items()}


def test_the_notebooks_network_has_5650538_parameters():
    assert parameters(UNet3d(1, 2, 24)) == 5_650_538


def test_unet3d_with_transposed_convolutions_has_6042578_parameters():
    assert parameters(UNet3d(1, 2, 24, "transposed")) == 6_042_578


def test_the_feature_maps_on_the_way_down_are_the_notebooks():
    maps = feature_maps(UNet3d(1, 2, 24), (2, 1, 50, 96, 96))
    assert maps["conv"] == (2, 24, 50, 96, 96)
    assert maps["down1"] == (2, 48, 25, 48, 48)
    assert maps["down2"] == (2, 96, 12, 24, 24)
    assert maps["down3"] == (2, 192, 6, 12, 12)
    assert maps["down4"] == (2, 192, 3, 6, 6)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_the_feature_maps_on_the_way_up_have_the_sides_of_those_they_meet(upsampling):
    maps = feature_maps(UNet3d(1, 2, 24, upsampling), (2, 1, 50, 96, 96))
    assert maps["up1"] == (2, 96, 6, 12, 12)
    assert maps["up2"] == (2, 48, 12, 24, 24)
    assert maps["up3"] == (2, 24, 25, 48, 48)
    assert maps["up4"] == (2, 24, 50, 96, 96)
    assert maps["out"] == (2, 2, 50, 96, 96)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@settings(deadline=None, max_examples=12)
@given(sides=st.tuples(*[st.integers(16, 70)] * 3))
def test_logits_have_the_sides_of_the_input_whatever_they_are(upsampling, sides):
    with torch.device("meta"):
        logits = UNet3d(1, 2, 8, upsampling)(torch.zeros(1, 1, *sides))
    assert logits.shape == (1, 2, *sides)


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@torch.inference_mode()
def test_odd_sides_give_finite_logits(upsampling):
    logits = UNet3d(1, 2, 8, upsampling)(torch.randn(1, 1, 17, 19, 23))
    assert logits.shape == (1, 2, 17, 19, 23)
    assert logits.isfinite().all()


def test_trilinear_upsampling_keeps_the_corners():
    # align_corners=True: the ends stay and the line between them stays straight
    line = torch.arange(3.0).view(1, 1, 1, 1, 3)
    upsampled = Up(8, 8, "trilinear").up(line)
    assert upsampled[0, 0, 0, 0].tolist() == pytest.approx([0.0, 0.4, 0.8, 1.2, 1.6, 2.0])


def test_every_width_is_normalised_in_8_groups():
    groups = {part.num_groups for part in UNet3d().modules() if isinstance(part, GroupNorm)}
    assert groups == {8}


@pytest.mark.parametrize("sides", [(15, 16, 17), (16, 3, 17), (16, 17, 1)])
def test_a_side_below_16_voxels_is_refused_by_name(sides):
    named = "·".join(map(str, sides))
    with pytest.raises(ValueError, match=f"16 voxels on every axis, got {named}"):
        UNet3d(1, 2, 8)(torch.zeros(1, 1, *sides))


@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
def test_every_parameter_gets_a_gradient(upsampling):
    torch.manual_seed(0)
    # with 8 channels a group would be one channel, and GroupNorm would cancel its bias
    network = UNet3d(1, 2, 16, upsampling)
    logits = network(torch.randn(1, 1, 17, 19, 23))
    logits.square().mean().backward()
    without = [name for name, value in network.named_parameters() if not value.grad.any()]
    assert without == []
