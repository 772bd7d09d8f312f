"""Several views of a patch: of several networks, and of its mirror images."""

import numpy as np
import pytest
import torch

from cache.errors import ModelError
from stages.predict.average import mean_probability
from stages.predict.model import load_ensemble

PATCH = torch.arange(4 * 5 * 6, dtype=torch.float32).reshape(1, 1, 4, 5, 6)


def sure_of(probability):
    """A network that gives every voxel the same probability."""

    def network(hu):
        odds = torch.full_like(hu, float(np.log(probability / (1 - probability))))
        return torch.cat([torch.zeros_like(hu), odds], dim=1)

    return network


def neighbours(hu):
    """A network that looks at what lies before and behind, and so is not the same mirrored."""
    return torch.cat([torch.zeros_like(hu), (hu.roll(1, 2) - hu.roll(2, 4)) / 30], dim=1)


class Recorder:
    def __init__(self):
        self.seen = []

    def __call__(self, hu):
        self.seen.append(hu.clone())
        return torch.zeros(1, 2, *hu.shape[2:])


def test_the_probability_is_the_mean_of_the_networks():
    mean = mean_probability([sure_of(0.2), sure_of(0.3), sure_of(0.7)], is_mirrored=False)
    torch.testing.assert_close(mean(PATCH), torch.full_like(PATCH, 0.4))


def test_every_mirroring_is_shown_once():
    recorder = Recorder()
    mean_probability([recorder], is_mirrored=True)(PATCH)
    corners = {patch[0, 0, 0, 0, 0].item() for patch in recorder.seen}
    # what lies in the first corner then lies in each of the eight: z 0 or 3, y 0 or 4, x 0 or 5
    assert corners == {30 * z + 6 * y + x for z in (0, 3) for y in (0, 4) for x in (0, 5)}
    assert len(recorder.seen) == 8


def test_without_mirroring_the_patch_is_shown_once_and_as_it_is():
    recorder = Recorder()
    mean_probability([recorder], is_mirrored=False)(PATCH)
    (seen,) = recorder.seen
    assert torch.equal(seen, PATCH)


@pytest.mark.parametrize("axes", [(2,), (3, 4), (2, 3, 4)])
def test_mirrored_a_patch_gives_the_mirrored_answer(axes):
    mean = mean_probability([neighbours], is_mirrored=True)
    torch.testing.assert_close(mean(PATCH.flip(axes)), mean(PATCH).flip(axes))
    alone = mean_probability([neighbours], is_mirrored=False)
    assert not torch.allclose(alone(PATCH.flip(axes)), alone(PATCH).flip(axes))


class TestLoading:
    def test_models_of_one_preparation_are_loaded_in_their_order(self, write_model):
        first, other = write_model(name="a.pt"), write_model(name="b.pt")
        ensemble = load_ensemble([first, other], "cpu")
        assert [model.name for model in ensemble.models] == ["a.pt", "b.pt"]
        assert ensemble.device == torch.device("cpu")

    def test_another_preparation_is_refused_with_both_files_and_what_differs(self, write_model):
        first = write_model(name="a.pt")
        other = write_model(name="b.pt", preprocess={"margin_mm": 7.5})
        with pytest.raises(ModelError) as caught:
            load_ensemble([first, other], "cpu")
        assert caught.value.where == other
        assert caught.value.fact == f"cannot be averaged with {first}: margin_mm is 7.5, not 5.0"

    def test_another_patch_is_refused(self, write_model):
        first = write_model(name="a.pt")
        other = write_model(name="b.pt", train={"patch_zyx": [16, 16, 24]})
        with pytest.raises(ModelError, match=r"patch_zyx is \[16, 16, 24\], not None"):
            load_ensemble([first, other], "cpu")

    def test_another_hu_window_and_another_format_of_the_store_are_taken(self, write_model):
        first = write_model(name="a.pt")
        windowed = write_model(name="b.pt", train={"hu_window": [-100, 300]})
        other = write_model(name="c.pt", preprocess={"format": "hdf5"})
        assert len(load_ensemble([first, windowed, other], "cpu").models) == 3
