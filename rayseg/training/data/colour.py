"""Random changes of brightness, contrast, saturation and hue.

Each is an affine map of a pixel's RGB, so all of them are multiplied into one, which is applied and rounded once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
"""ITU-R BT.601."""
_TO_YIQ = np.array([LUMA, [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
"""NTSC: brightness, and two axes of colour that turn into each other when the hue changes."""


@dataclass(frozen=True)
class Distortion:
    """How far colours may go. A factor is drawn from 1 - x to 1 + x."""

    brightness: float
    contrast: float
    """Around the mean grey of the image."""
    saturation: float
    hue_degrees: float
    each: float = 1.0
    """Probability of each of the four."""
    share: float = 1.0
    """Of images in which anything happens."""


def distort(image: np.ndarray, distortion: Distortion, rng: np.random.Generator) -> np.ndarray:
    """uint8 (H, W, 3) RGB in and out; the four changes happen in an order drawn at random."""
    matrix, offset = np.eye(3), np.zeros(3)
    if rng.random() >= distortion.share:
        return image
    mean = np.array(cv2.mean(image)[:3])
    for which in rng.permutation(4):
        happens, amount = rng.random() < distortion.each, rng.uniform(-1, 1)
        if not happens:
            continue
        grey = float(LUMA @ (matrix @ mean + offset))
        linear, constant = _change(which, amount, distortion, grey)
        matrix, offset = linear @ matrix, linear @ offset + constant
    return cv2.transform(image, np.column_stack([matrix, offset]))


def _change(which: int, amount: float, distortion: Distortion, grey: float) -> tuple[np.ndarray, np.ndarray | float]:
    """(3, 3) and what is added; `amount` in [-1, 1], `grey` of the image so far."""
    if which == 0:
        return (1 + amount * distortion.brightness) * np.eye(3), 0.0
    if which == 1:
        factor = 1 + amount * distortion.contrast
        return factor * np.eye(3), (1 - factor) * grey
    if which == 2:
        factor = 1 + amount * distortion.saturation
        return factor * np.eye(3) + (1 - factor) * np.outer(np.ones(3), LUMA), 0.0
    turn = math.radians(amount * distortion.hue_degrees)
    rotation = np.array([[1, 0, 0], [0, math.cos(turn), -math.sin(turn)], [0, math.sin(turn), math.cos(turn)]])
    return np.linalg.solve(_TO_YIQ, rotation @ _TO_YIQ), 0.0
