"""Device, precision, memory layout, and what of torch and the C library is set for a run."""

import logging
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from cache.errors import ParamsError
from stages.train.device import (
    autocast,
    choose_device,
    chosen_precision,
    make_scaler,
    place,
    require_sound_gradients,
    settings,
)
from stages.train.exact import double, halve
from stages.train.params import TrainParams
from stages.train.tune import Engine, choose_engine, compiled_seconds, eager_seconds
from stages.train.unet import UNet3d
from tiny import TRAIN, one_thread

REPO = Path(__file__).parent.parent
CPU, GPU = torch.device("cpu"), torch.device("cuda")
SHAPE = (1, 1, 16, 17, 18)
SIDES = st.tuples(*[st.integers(2, 7)] * 3)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    with one_thread():
        yield


def make_params(**changes):
    return TrainParams.model_validate({**TRAIN, **changes})


def all_numbers_differ(*shape):
    """A tensor of numbers none of which is there twice, and none zero."""
    count = torch.Size(shape).numel()
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return ((order.view(shape) + 0.5) / count - 0.5).requires_grad_()


def gradient(function, features):
    """What a gradient that is another number everywhere becomes on its way back."""
    out = function(features)
    (back,) = torch.autograd.grad(out, features, all_numbers_differ(*out.shape).detach())
    return back


def flags():
    """All of torch's state that ``settings`` is about."""
    cudnn = torch.backends.cudnn
    return {
        "benchmark": cudnn.benchmark,
        "deterministic cuDNN": cudnn.deterministic,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "TF32 in convolutions": cudnn.allow_tf32,
        "precision of products": torch.get_float32_matmul_precision(),
    }


class TestTheDevice:
    def test_a_device_that_is_none_is_refused(self):
        with pytest.raises(ParamsError, match="--device: 'meta' is not a device that torch"):
            choose_device("meta")

    @pytest.mark.parametrize("name", ["tpu9", "CPU", "cuda:x", ""])
    def test_what_is_not_the_name_of_a_device_is_refused_without_torchs_list_of_them(self, name):
        with pytest.raises(ParamsError) as caught:
            choose_device(name)
        assert caught.value.fact == f"{name!r} is not the name of a device"

    @pytest.mark.skipif(torch.backends.mps.is_available(), reason="it can compute on mps")
    @pytest.mark.parametrize("name", ["mps", "xla"])
    def test_a_device_that_is_not_here_is_refused_in_few_words(self, name):
        with pytest.raises(ParamsError) as caught:
            choose_device(name)
        assert len(caught.value.fact) < 100
        assert "aten::" not in str(caught.value)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    @pytest.mark.parametrize("name", ["cuda", "cuda:7"])
    def test_without_a_gpu_no_gpu_is_recommended(self, name, monkeypatch):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
        with pytest.raises(ParamsError) as caught:
            choose_device(name)
        assert caught.value.fix == "use auto or cpu"

    @pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
    def test_without_a_gpu_all_of_torchruns_processes_take_the_cpu(self, monkeypatch):
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert choose_device("auto") == CPU

    @pytest.mark.parametrize("layout", ["channels last", "contiguous"])
    def test_a_network_is_laid_out_as_asked_and_keeps_its_weights(self, layout):
        network = nn.Conv3d(3, 5, 3)
        before = network.weight.detach().clone()
        place(network, CPU, "contiguous" if layout == "channels last" else "channels last")
        place(network, CPU, layout)
        kind = torch.contiguous_format if layout == "contiguous" else torch.channels_last_3d
        assert network.weight.is_contiguous(memory_format=kind)
        assert torch.equal(network.weight, before)

    def test_on_the_cpu_a_network_is_laid_out_channels_last(self):
        network = place(nn.Conv3d(3, 5, 3), CPU)
        assert network.weight.is_contiguous(memory_format=torch.channels_last_3d)


class TestThePrecision:
    @pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
    @pytest.mark.parametrize("device", [CPU, GPU])
    def test_what_is_asked_for_is_taken(self, precision, device):
        assert chosen_precision(make_params(precision=precision), device) == precision

    def test_auto_is_fp32_on_the_cpu(self):
        assert chosen_precision(make_params(precision="auto"), CPU) == "fp32"

    @pytest.mark.parametrize(
        ("precision", "dtype"),
        [("bf16", torch.bfloat16), ("fp16", torch.float16), ("fp32", torch.float32)],
    )
    def test_a_convolution_computes_in_it(self, precision, dtype):
        with autocast(make_params(precision=precision), CPU):
            assert F.conv3d(torch.ones(1, 1, 3, 3, 3), torch.ones(1, 1, 3, 3, 3)).dtype == dtype

    @pytest.mark.parametrize("precision", ["bf16", "fp16"])
    def test_half_precision_is_refused_for_training_on_the_cpu(self, precision):
        with pytest.raises(ParamsError, match=rf"(?s)train.precision: is {precision}, .*auto"):
            require_sound_gradients(make_params(precision=precision), CPU)

    @pytest.mark.parametrize("precision", ["auto", "fp32"])
    def test_full_precision_is_not_refused(self, precision):
        require_sound_gradients(make_params(precision=precision), CPU)

    @pytest.mark.parametrize("precision", ["auto", "bf16", "fp16", "fp32"])
    def test_a_gpu_may_train_in_any(self, precision):
        require_sound_gradients(make_params(precision=precision), GPU)

    def test_fp16_alone_has_its_gradients_scaled(self):
        scalers = {
            precision: make_scaler(make_params(precision=precision), CPU)
            for precision in ("auto", "bf16", "fp16", "fp32")
        }
        assert [name for name, scaler in scalers.items() if scaler] == ["fp16"]
        assert scalers["fp16"].is_enabled()


class TestSettings:
    @pytest.mark.parametrize("deterministic", [False, True])
    def test_all_of_torch_is_afterwards_as_before(self, deterministic):
        before = flags()
        with settings(make_params(deterministic=deterministic), CPU):
            assert flags() != before
        assert flags() == before

    def test_an_error_changes_nothing_of_that(self):
        before = flags()
        with pytest.raises(ZeroDivisionError), settings(make_params(deterministic=True), CPU):
            1 / 0  # noqa: B018 - it is the error
        assert flags() == before

    def test_fp32_is_fp32_whatever_was_set_before(self):
        torch.set_float32_matmul_precision("high")
        try:
            with settings(make_params(), CPU):
                assert flags()["TF32 in convolutions"] is False
                assert flags()["precision of products"] == "highest"
                assert torch.backends.cuda.matmul.allow_tf32 is False
            assert flags()["precision of products"] == "high"
        finally:
            torch.set_float32_matmul_precision("highest")

    @pytest.mark.parametrize(
        ("changes", "is_searched"),
        [({}, True), ({"patch_zyx": None}, False), ({"deterministic": True}, False)],
    )
    def test_the_fastest_algorithm_is_searched_where_patches_have_one_shape(
        self, changes, is_searched
    ):
        with settings(make_params(**changes), CPU):
            assert flags()["benchmark"] is is_searched

    def test_deterministic_means_torchs_deterministic_algorithms(self):
        with settings(make_params(deterministic=True), CPU):
            assert flags()["deterministic"]
            assert flags()["deterministic cuDNN"]
        with settings(make_params(deterministic=False), CPU):
            assert not flags()["deterministic"]


class TestExactOperations:
    """On any device they do what torch's own do; that they are used is for a GPU to show."""

    @given(sides=SIDES)
    @examples(max_examples=20)
    def test_halving_is_max_pooling(self, sides):
        features = all_numbers_differ(2, 3, *sides)
        assert torch.equal(halve(features), F.max_pool3d(features, 2))

    @given(sides=SIDES)
    @examples(max_examples=20)
    def test_halving_has_the_gradient_of_max_pooling(self, sides):
        features = all_numbers_differ(2, 3, *sides)
        torch.testing.assert_close(
            gradient(halve, features), gradient(lambda x: F.max_pool3d(x, 2), features)
        )

    @given(sides=st.tuples(*[st.integers(1, 7)] * 3))
    @examples(max_examples=20)
    def test_doubling_is_trilinear_upsampling(self, sides):
        features = all_numbers_differ(2, 3, *sides)
        torch.testing.assert_close(double(features), upsampled(features))

    @given(sides=st.tuples(*[st.integers(1, 7)] * 3))
    @examples(max_examples=20)
    def test_doubling_has_the_gradient_of_trilinear_upsampling(self, sides):
        features = all_numbers_differ(2, 3, *sides)
        torch.testing.assert_close(gradient(double, features), gradient(upsampled, features))

    @pytest.mark.parametrize("function", [halve, double])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_mixed_precision_around_them_changes_no_dtype(self, function, dtype):
        with torch.autocast("cpu", torch.bfloat16):
            assert function(torch.ones(1, 8, 4, 5, 6, dtype=dtype)).dtype == dtype

    def test_mixed_precision_does_not_round_the_weights(self):
        features = all_numbers_differ(1, 2, 4, 5, 6)
        with torch.autocast("cpu", torch.bfloat16):
            torch.testing.assert_close(double(features), upsampled(features))

    def test_torchs_own_pooling_and_upsampling_are_used_on_the_cpu(self):
        features = torch.zeros(1, 8, 4, 4, 4)  # where all are equal, only one gets the gradient
        down = UNet3d(1, 2, 8).down1.layers[0]
        with settings(make_params(deterministic=True), CPU):
            assert int(gradient(down, features.requires_grad_()).count_nonzero()) == 8 * 2**3


def upsampled(features):
    return F.interpolate(features, scale_factor=2, mode="trilinear", align_corners=True)


class TestTheEngine:
    @pytest.mark.parametrize(
        ("compiled", "is_compiled"), [("auto", False), ("never", False), ("always", True)]
    )
    def test_on_the_cpu_it_is_known(self, compiled, is_compiled):
        network = nn.Identity()  # which cannot be tried: it has nothing to learn
        engine = choose_engine(network, SHAPE, make_params(compile=compiled), CPU, steps=10**9)
        assert engine == Engine("channels last", is_compiled)

    def test_the_clock_does_not_decide_about_a_deterministic_run(self):
        engine = choose_engine(
            nn.Identity(), SHAPE, make_params(deterministic=True), GPU, steps=10**9
        )
        assert engine == Engine("contiguous")

    def test_a_trial_takes_time_in_both_layouts(self):
        seconds = eager_seconds(nn.Conv3d(1, 2, 3), SHAPE, make_params(), CPU)
        assert list(seconds) == [Engine("contiguous"), Engine("channels last")]
        assert all(0 < value < 60 for value in seconds.values())

    def test_a_trial_leaves_weights_gradients_and_generators_alone(self):
        network = nn.Conv3d(1, 2, 3)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        generator = torch.get_rng_state()
        eager_seconds(network, SHAPE, make_params(), CPU)
        assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
        assert all(weight.grad is None for weight in network.parameters())
        assert torch.equal(torch.get_rng_state(), generator)

    @pytest.mark.slow
    def test_a_compiler_that_fails_is_told_and_left_out(self, caplog, monkeypatch):
        from torch._inductor import config

        monkeypatch.setattr(config.cpp, "cxx", ("/nowhere/no-compiler",))
        monkeypatch.setattr(config, "force_disable_caches", True)
        network = nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU())  # a convolution alone is torch's own
        with caplog.at_level(logging.WARNING):
            tried = compiled_seconds(network, "contiguous", SHAPE, make_params(), CPU)
        assert tried == {}
        assert "torch.compile failed (" in caplog.text
        assert all(weight.grad is None for weight in network.parameters())


FAULTS_PER_ROUND = """
import resource, sys
import numpy as np
from stages.reuse import ALL, LARGEST, keep_freed_memory

if sys.argv[1] == "training":
    assert keep_freed_memory(most_bytes=ALL, one_arena=False)
if sys.argv[1] == "worker":
    assert keep_freed_memory(most_bytes=LARGEST, one_arena=True)
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for megabytes in (60, 90, 60):
        np.ones(megabytes << 20, np.uint8)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
@pytest.mark.parametrize(
    ("mode", "is_kept"), [("training", True), ("worker", True), ("freed", False)]
)
def test_memory_that_is_kept_is_not_asked_for_anew(mode, is_kept):
    ended = subprocess.run(
        [sys.executable, "-c", FAULTS_PER_ROUND, mode],
        cwd=REPO,
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    last = int(ended.stdout.split()[-1])
    # 150 MB are at most 51 200 pages of 4 kB, or 100 huge ones
    assert (last < 50) is is_kept
