"""What only a GPU can show: training that repeats itself to the bit, and the engine's trial."""

import logging

import pytest
import torch

from stages.train.device import autocast, place, settings
from stages.train.losses import make_loss
from stages.train.params import TrainParams
from stages.train.tune import choose_engine
from stages.train.unet import UNet3d
from tiny import TRAIN

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = torch.device("cuda")
SHAPE = (2, 1, 32, 33, 34)


@pytest.fixture(autouse=True)
def _workspace(monkeypatch):
    # cuBLAS reads it when it is first used in the process, which another test may have done
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


def make_params(**changes):
    return TrainParams.model_validate({**TRAIN, **changes})


def two_steps(params):
    """The weights after two steps on the same random patches."""
    torch.manual_seed(0)
    network = place(UNet3d(1, 2, params.n_channels, params.upsampling), GPU)
    # Adam would make whole steps of gradients that are zero but for rounding
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    inputs, loss = torch.randn(SHAPE).to(GPU), make_loss(params.loss)
    mask = (inputs[:, 0] > 0).to(torch.uint8)
    with settings(params, GPU):
        for _ in range(2):
            with autocast(params, GPU):
                logits = network(inputs)
            loss(logits.float(), mask).backward()
            optimizer.step()
            optimizer.zero_grad()
    return [weight.detach().clone() for weight in network.parameters()]


@pytest.mark.parametrize("upsampling", ["trilinear", "transposed"])
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_a_deterministic_run_gives_the_same_bits_twice(upsampling, precision):
    params = make_params(deterministic=True, upsampling=upsampling, precision=precision)
    first, second = two_steps(params), two_steps(params)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_deterministic_run_learns_what_any_run_learns():
    exact = two_steps(make_params(deterministic=True, precision="fp32"))
    usual = two_steps(make_params(deterministic=False, precision="fp32"))
    for a, b in zip(exact, usual, strict=True):
        torch.testing.assert_close(a, b, rtol=0.001, atol=1e-4)


@pytest.mark.parametrize("compiled", ["auto", "never"])
def test_the_engine_is_tried_and_told(compiled, caplog):
    params = make_params(compile=compiled, precision="auto")
    network = UNet3d(1, 2, 8).to(GPU)
    before = [weight.detach().clone() for weight in network.parameters()]
    with caplog.at_level(logging.INFO), settings(params, GPU):
        engine = choose_engine(network, SHAPE, params, GPU, steps=10)
    assert not engine.is_compiled  # ten steps are not worth it
    assert f"taken: {engine}" in caplog.text
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    assert all(weight.grad is None for weight in network.parameters())


@pytest.mark.slow
def test_a_long_run_tries_the_compiler():
    pytest.importorskip("triton")
    params = make_params(compile="auto", precision="auto")
    network = UNet3d(1, 2, 8).to(GPU)
    with settings(params, GPU):
        choose_engine(network, SHAPE, params, GPU, steps=10**9)
    assert all(weight.grad is None for weight in network.parameters())
