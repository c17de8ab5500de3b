"""Random views of an annotated image for the demo model: scale, crop, flip, turn, colour.

The geometry is one affine map per view, applied once to the image and once to each mask, so nothing is resampled twice.
Sizes follow what the network will see when it predicts: the whole image stretched to `canvas_px` squared, times a
random zoom, of which training sees a window. Every function takes its random generator; the same generator state gives
the same view. The recipes of the zoo are in pipelines.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from rayseg.datasets.sample import Sample
from rayseg.errors import ConfigError
from rayseg.geometry import Size
from rayseg.models.preprocess import Preprocess
from rayseg.training.data.arrays import Arrays, pack
from rayseg.training.data.collate import Collate
from rayseg.training.data.epoch import EpochOrder, Stream, generator
from rayseg.training.data.loader import Batches
from rayseg.training.data.warp import to_cv, warp_patch

UNCHANGED = Preprocess(resize=None, mean=(0.0,) * 3, std=(1.0,) * 3)
"""Values from 0 to 1."""
MASK_STRIDE = 4
"""Masks are learned at the resolution of the prototypes, a quarter of the input's."""


@dataclass(frozen=True)
class Augment:
    """What may happen to an image. Probabilities are per image; `zoom` and `gain` are sampled on a log scale."""

    canvas_px: int
    """Side the whole image is stretched to when predicting."""
    crop_px: int
    """Side of the square the network trains on; a multiple of 32."""
    zoom: tuple[float, float] = (0.6, 1.6)
    """Scale relative to prediction."""
    near_object: float = 0.7
    """Probability that the crop is placed to hold the centre of an object; sparse images would mostly show nothing."""
    gain: tuple[float, float] = (0.5, 1.5)
    """Factor on all channels."""
    channel_gain: float = 0.1
    """Each channel is scaled by up to 1 +- this."""
    gamma: tuple[float, float] = (0.8, 1.25)
    """Exponent on intensities in [0, 1]."""
    invert: float = 0.1
    """Probability of the negative: dark field becomes bright field."""
    grey: float = 0.15
    """Probability of losing colour."""
    shuffle_channels: float = 0.1
    """Probability of exchanging the colour channels."""
    min_side_px: int = 2
    """An object with less left in the crop is no target."""
    min_visible: float = 0.1
    """An object of which a smaller share is left in the crop is no target."""

    def __post_init__(self) -> None:
        if self.crop_px % 32 or self.crop_px < 32:
            raise ConfigError(f"crop_px is {self.crop_px}; the coarsest feature map needs a multiple of 32")
        for name in ("zoom", "gain", "gamma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ConfigError(f"{name} is {(low, high)}; it must be a range of positive numbers, smaller one first")

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        """One random view of `crop_px` squared, masks and colours included."""
        viewed = warp(
            sample,
            random_view(sample, self, rng),
            self.crop_px,
            min_side_px=self.min_side_px,
            min_visible=self.min_visible,
        )
        return Sample(recolour(viewed.image, self, rng), viewed.masks, viewed.classes, viewed.name)


def crop_batches(
    samples: Sequence[Sample],
    augment: Callable[[Sample, np.random.Generator], Sample],
    *,
    batch_size: int,
    crops_per_image: int = 1,
    seed: int = 0,
) -> Batches:
    """Batches of random crops of samples held in memory.

    Args:
        augment: such as an `Augment`.
        crops_per_image: how often an epoch comes to each image. What does not fill a batch is left out.

    Raises:
        ConfigError: not even one batch can be filled.
    """
    order = EpochOrder(len(samples), batch_size, seed=seed, visits_per_image=crops_per_image, last="drop")
    return Batches(samples, _CropOne(augment, seed), Collate("instance", UNCHANGED, MASK_STRIDE), order)


@dataclass(frozen=True)
class _CropOne:
    """One crop of one sample, as arrays."""

    augment: Callable[[Sample, np.random.Generator], Sample]
    seed: int

    def __call__(self, sample: Sample, epoch: int, visit: int, step: int) -> Arrays:
        return pack(self.augment(sample, generator(Stream.VISIT, self.seed, epoch, visit)), scale=(1.0, 1.0))


def random_view(sample: Sample, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """Affine map from image to crop coordinates, float64 (2, 3), for points (x, y) with pixel centres at +0.5."""
    zoom = math.exp(rng.uniform(*np.log(augment.zoom)))
    side = augment.canvas_px * zoom
    # Where the stretched image is smaller than the crop it lies somewhere inside it, with black around.
    low, high = np.full(2, min(0.0, side - augment.crop_px)), np.full(2, max(0.0, side - augment.crop_px))
    scale = side / np.array([sample.size.width, sample.size.height])
    if sample.masks and rng.random() < augment.near_object:
        window = sample.masks[rng.integers(len(sample.masks))].window
        centre = scale * [(window.x0 + window.x1) / 2, (window.y0 + window.y1) / 2]
        low, high = np.clip(centre - augment.crop_px, low, high), np.clip(centre, low, high)
    left, top = rng.uniform(low, high)
    placed = np.array([[scale[0], 0, -left], [0, scale[1], -top], [0, 0, 1]])
    return (_random_turn(augment.crop_px, rng) @ placed)[:2]


def warp(sample: Sample, view: np.ndarray, out_px: int, *, min_side_px: int = 1, min_visible: float = 0.0) -> Sample:
    """Move an image and its masks by an affine map.

    Args:
        view: float64 (2, 3), see `random_view`.
        out_px: side of the square result; what falls outside is lost, what comes from outside is black.
        min_side_px: objects whose box is thinner than this afterwards are dropped.
        min_visible: objects that keep a smaller share of their area are dropped.
    """
    image = cv2.warpAffine(sample.image, to_cv(view), (out_px, out_px), flags=cv2.INTER_CUBIC)
    growth = abs(np.linalg.det(view[:, :2]))
    kept = []
    for index, patch in enumerate(sample.masks):
        moved = warp_patch(patch, view, Size(out_px, out_px))
        if moved is None or min(moved.bits.shape) < min_side_px or moved.area < min_visible * growth * patch.area:
            continue
        kept.append((index, moved))
    classes = sample.classes[[index for index, _ in kept]] if kept else np.empty(0, dtype=np.int64)
    return Sample(image, tuple(patch for _, patch in kept), classes, sample.name)


def recolour(image: np.ndarray, augment: Augment, rng: np.random.Generator) -> np.ndarray:
    """A random change of brightness, contrast and colour; uint8 (H, W, 3) in and out.

    All three channels map through tables of 256 values, except for the loss of colour.
    """
    if rng.random() < augment.grey:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    levels = np.linspace(0.0, 1.0, 256)[:, None].repeat(3, axis=1) ** rng.uniform(*augment.gamma)
    levels *= math.exp(rng.uniform(*np.log(augment.gain)))
    levels *= rng.uniform(1 - augment.channel_gain, 1 + augment.channel_gain, size=3)
    if rng.random() < augment.invert:
        levels = 1.0 - levels
    table = np.clip(np.rint(levels * 255), 0, 255).astype(np.uint8)
    out = cv2.LUT(image, table[None])
    return np.ascontiguousarray(out[..., rng.permutation(3)]) if rng.random() < augment.shuffle_channels else out


def _random_turn(side: int, rng: np.random.Generator) -> np.ndarray:
    """One of the eight symmetries of a square [0, side) x [0, side), as a 3 x 3 map."""
    centre, back = np.eye(3), np.eye(3)
    centre[:2, 2], back[:2, 2] = -side / 2, side / 2
    turn = np.eye(3)
    turn[:2, :2] = np.diag(rng.choice([-1.0, 1.0], size=2))
    if rng.random() < 0.5:
        turn = turn[[1, 0, 2]]
    return back @ turn @ centre
