"""Colours change within their limits, and nothing else does."""

from __future__ import annotations

import numpy as np
import pytest

from rayseg.training.data.colour import LUMA, Distortion, distort

IMAGE = np.random.default_rng(0).integers(60, 190, (20, 30, 3), dtype=np.uint8)
NOTHING = Distortion(0, 0, 0, 0)


def ways(distortion: Distortion, image: np.ndarray = IMAGE, *, count: int = 60) -> list[np.ndarray]:
    return [distort(image, distortion, np.random.default_rng(seed)) for seed in range(count)]


def test_no_distance_is_no_change():
    assert all(np.abs(out.astype(int) - IMAGE).max() <= 1 for out in ways(NOTHING))


@pytest.mark.parametrize("distortion", [Distortion(0.4, 0.4, 0.4, 18, each=0.5), Distortion(0.125, 0.5, 0.5, 18)])
def test_size_and_type_stay(distortion):
    for out in ways(distortion):
        assert out.shape == IMAGE.shape and out.dtype == np.uint8
    assert np.abs(ways(distortion)[0].astype(int) - IMAGE).max() > 3


def test_brightness_is_a_factor_within_its_limits():
    factors = [out.mean() / IMAGE.mean() for out in ways(Distortion(0.2, 0, 0, 0))]
    assert 0.79 < min(factors) < 0.9 and 1.1 < max(factors) < 1.21


def test_contrast_keeps_the_mean_grey_and_scales_the_spread():
    greys = [out @ LUMA for out in ways(Distortion(0, 0.3, 0, 0))]
    assert all(abs(grey.mean() - (IMAGE @ LUMA).mean()) < 1 for grey in greys)
    spreads = [grey.std() / (IMAGE @ LUMA).std() for grey in greys]
    assert 0.69 < min(spreads) < 0.85 and 1.15 < max(spreads) < 1.31


@pytest.mark.parametrize("distortion", [Distortion(0, 0, 0.3, 0), Distortion(0, 0, 0, 18)])
def test_saturation_and_hue_leave_every_grey_and_all_brightness(distortion):
    ramp = np.arange(256, dtype=np.uint8)[None, :, None].repeat(3, axis=2)
    mild = np.full((4, 4, 3), (120, 140, 130), np.uint8)
    for grey, coloured in zip(ways(distortion, ramp), ways(distortion, mild), strict=True):
        assert np.abs(grey.astype(int) - ramp).max() <= 1
        assert np.abs(coloured @ LUMA - mild @ LUMA).max() <= 1


def test_hue_turns_red_towards_its_neighbours_but_not_further():
    red = np.full((1, 1, 3), (180, 60, 60), np.uint8)
    found = np.array([out[0, 0] for out in ways(Distortion(0, 0, 0, 18), red)]).astype(int)
    assert min(found[:, 1].max(), found[:, 2].max()) > 68
    assert (found[:, 0] > found[:, 1]).all() and (found[:, 0] > found[:, 2]).all()


def test_probabilities_are_honoured():
    changed = np.mean([(out != IMAGE).any() for out in ways(Distortion(0.5, 0, 0, 0, each=0.5), count=400)])
    seldom = np.mean([(out != IMAGE).any() for out in ways(Distortion(0.5, 0, 0, 0, share=0.2), count=400)])
    assert 0.4 < changed < 0.6 and 0.13 < seldom < 0.27
