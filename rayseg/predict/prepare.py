"""From a decoded image to the network's input: resizing where the image is decoded, floats where the network runs.

An image travels as uint8, a quarter of the bytes of what the network takes; normalising, padding and bringing
channels first happen in the predictor's process. How each step computes is preprocess.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayseg.geometry import Size
from rayseg.predict.preprocess import Normalize, Resize, Step, input_sizes
from rayseg.predict.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Prepared:
    """One image on its way to the network.

    Attributes:
        pixels: uint8 (H, W, 3) RGB, resized unless the model normalises first.
        original: size of the image.
        resized: size of the image after resizing, without padding.
        network: size of the input the network gets, padding included. Images of one such size can share a batch.
    """

    pixels: np.ndarray
    original: Size
    resized: Size
    network: Size

    @property
    def im_shape(self) -> np.ndarray:
        """float32 (2,): height and width after resizing."""
        return np.asarray(self.resized.hw, dtype=np.float32)

    @property
    def scale_factor(self) -> np.ndarray:
        """float32 (2,): resized / original of height and width."""
        (h1, w1), (h0, w0) = self.resized.hw, self.original.hw
        return np.asarray([h1 / h0, w1 / w0], dtype=np.float32)


def prepare(spec: ModelSpec, image: np.ndarray, *, original: Size | None = None) -> Prepared:
    """Make an image ready to travel.

    Args:
        image: uint8 (H, W, 3), RGB.
        original: size of the image that this is a smaller copy of. All sizes are then those the larger one would have, so
            that results are in its pixels. None: it is the image itself.

    Raises:
        ValueError: another dtype or shape; a smaller copy for a model that does not begin by resizing.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"an image is a non-empty uint8 (H, W, 3) array in RGB order, got {image.dtype} {image.shape}")
    size = Size(*image.shape[:2])
    original = size if original is None else original
    if original != size and not resizes_first(spec):
        raise ValueError(f"{spec.name} does not begin by resizing; {size.hw} for an image of {original.hw} is another image")
    resized, network = input_sizes(spec.steps, original)
    before, _ = _split(spec.steps)
    reached = original
    for step in before:
        reached = step.size_for(reached)
        image = step.apply_to(image, reached)
    return Prepared(np.ascontiguousarray(image), original, resized, network)


def resizes_first(spec: ModelSpec) -> bool:
    """Whether the model begins by resizing, so that a smaller copy of an image may stand for it."""
    return bool(spec.steps) and isinstance(spec.steps[0], Resize)


def first_size(spec: ModelSpec, original: Size) -> Size:
    """What an image of `original` is resized to first; `original` itself where the model does not begin so."""
    first = spec.steps[0] if spec.steps else None
    return first.size_for(original) if isinstance(first, Resize) else original


def to_input(spec: ModelSpec, prepared: Prepared, *, out: np.ndarray | None = None) -> np.ndarray:
    """What the network takes: float32 (3, H, W), C-contiguous; bit for bit what PaddleX computes.

    Args:
        out: where to put it, such as its place in a batch; None makes a new array.
    """
    out = np.empty((3, *prepared.network.hw), dtype=np.float32) if out is None else out
    height, width = prepared.resized.hw
    inside = out[:, :height, :width]
    out[:, height:], out[:, :height, width:] = 0, 0
    image = prepared.pixels
    for step in _split(spec.steps)[1]:
        if isinstance(step, Normalize) and image.shape[:2] == (height, width):
            step.apply_into(image, inside)
            return out
        if isinstance(step, Normalize | Resize):
            image = step.apply(image)
    inside[:] = image.transpose(2, 0, 1)
    return out


def _split(steps: Sequence[Step]) -> tuple[Sequence[Resize], Sequence[Step]]:
    """Steps that keep uint8 (resizing before normalising), and the rest."""
    first = next((i for i, step in enumerate(steps) if not isinstance(step, Resize)), len(steps))
    return [step for step in steps[:first] if isinstance(step, Resize)], steps[first:]
