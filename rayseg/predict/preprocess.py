"""The preprocessing steps an inference.yml can ask for, read and applied exactly as PaddleX does.

A step is a frozen value with `apply`; a list of steps that could not be honoured in full is refused when it is read.
Which steps run before an image travels and which after is decided in prepare.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rayseg.errors import ModelError
from rayseg.geometry import Size

NEAREST, LINEAR, CUBIC, AREA, LANCZOS4 = range(5)
"""Interpolation codes of an inference.yml; they are OpenCV's own."""

_INTERPOLATION_NAMES = {
    "NEAREST": NEAREST,
    "LINEAR": LINEAR,
    "BICUBIC": CUBIC,
    "CUBIC": CUBIC,
    "AREA": AREA,
    "LANCZOS4": LANCZOS4,
}
_KNOWN_BUT_UNUSED = ("Pad", "WarpAffine", "ResizeByShort", "ResizeByLong")


@dataclass(frozen=True)
class Resize:
    """Stretch to `target`; with `keep_ratio` as large as fits it, long side to long and short to short."""

    target: Size
    keep_ratio: bool = False
    interpolation: int = LINEAR
    divisor: int | None = None
    """Both sides are rounded up to a multiple of it."""

    def size_for(self, size: Size) -> Size:
        """The size an image of `size` gets; sides are rounded half to even."""
        height, width = self.target.hw
        if self.keep_ratio:
            scale = min(max(self.target.hw) / max(size.hw), min(self.target.hw) / min(size.hw))
            height, width = max(1, round(size.height * scale)), max(1, round(size.width * scale))
        if self.divisor:
            height, width = (math.ceil(side / self.divisor) * self.divisor for side in (height, width))
        return Size(height, width)

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (H', W', 3), same dtype."""
        return self.apply_to(image, self.size_for(Size(*image.shape[:2])))

    def apply_to(self, image: np.ndarray, wanted: Size) -> np.ndarray:
        """As `apply`, to a size that is known: that of a larger image, of which this one is a smaller copy."""
        if wanted.hw == image.shape[:2]:
            return image
        import cv2  # reading a model directory needs no OpenCV

        return cv2.resize(image, wanted.wh, interpolation=self.interpolation)


@dataclass(frozen=True)
class Normalize:
    """(value * scale - mean) / std for each channel, computed in float32 as `value * (scale / std) + (-mean / std)`."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float = 1 / 255

    def apply(self, image: np.ndarray) -> np.ndarray:
        """uint8 (H, W, 3) -> float32 (H, W, 3), laid out so that bringing channels first costs nothing."""
        planes = np.empty((3, *image.shape[:2]), dtype=np.float32)
        self.apply_into(image, planes)
        return planes.transpose(1, 2, 0)

    def apply_into(self, image: np.ndarray, planes: np.ndarray) -> None:
        """uint8 (H, W, 3) -> a float32 (3, H, W) that is there, which may be a part of a larger one."""
        import cv2  # as above

        for channel, plane in enumerate(planes):
            gain, offset = self.scale / self.std[channel], -self.mean[channel] / self.std[channel]
            # Every third byte is a slow read; taken apart first, the rest runs at the speed of memory.
            np.multiply(cv2.extractChannel(image, channel), np.float32(gain), out=plane)
            if offset:
                plane += np.float32(offset)


@dataclass(frozen=True)
class Permute:
    """Channels first."""

    def apply(self, image: np.ndarray) -> np.ndarray:
        """(H, W, 3) -> (3, H, W)."""
        return image.transpose(2, 0, 1)


@dataclass(frozen=True)
class PadStride:
    """Zeros at the right and bottom up to a multiple of `stride`; nothing when it is 0 or less."""

    stride: int

    def size_for(self, size: Size) -> Size:
        """The size an image of `size` gets."""
        if self.stride <= 0:
            return size
        return Size(*(math.ceil(side / self.stride) * self.stride for side in size.hw))

    def apply(self, planes: np.ndarray) -> np.ndarray:
        """(3, H, W) -> (3, H', W')."""
        height, width = planes.shape[1:]
        wanted = self.size_for(Size(height, width))
        return np.pad(planes, ((0, 0), (0, wanted.height - height), (0, wanted.width - width)))


Step = Resize | Normalize | Permute | PadStride


def read_instance_steps(items: Any, where: str) -> tuple[Step, ...]:
    """The `Preprocess` list of an instance model.

    Args:
        items: as the yml has it.
        where: file and key, for messages.

    Raises:
        ModelError: an operator or a parameter that is unknown, or an order that PaddleX itself could not run.
    """
    readers = {"Resize": _det_resize, "NormalizeImage": _det_normalize, "Permute": _permute, "PadStride": _pad_stride}
    steps = _read(items, readers, where)
    kinds = [type(step) for step in steps]
    tail = kinds.index(Permute) if Permute in kinds else len(kinds)
    if any(kind in (Resize, Normalize) for kind in kinds[tail:]) or kinds[tail:].count(Permute) != 1:
        raise ModelError(f"{where}: needs exactly one Permute, after Resize and NormalizeImage, got {_names(steps)}")
    if PadStride in kinds[:tail]:
        raise ModelError(f"{where}: PadStride must follow Permute, got {_names(steps)}")
    return steps


def read_semantic_steps(items: Any, where: str) -> tuple[Step, ...]:
    """The `Deploy.transforms` list of a semantic model; channels come first at its end without being told.

    Raises:
        ModelError: as above, or there is no Normalize.
    """
    steps = _read(items, {"Resize": _seg_resize, "Normalize": _seg_normalize}, where)
    if not any(isinstance(step, Normalize) for step in steps):
        raise ModelError(f"{where}: has no Normalize, which every semantic model needs, got {_names(steps)}")
    return (*steps, Permute())


def input_sizes(steps: Sequence[Step], original: Size) -> tuple[Size, Size]:
    """Sizes an image of `original` gets: after resizing, and with padding."""
    resized = original
    for step in steps:
        if isinstance(step, Resize):
            resized = step.size_for(resized)
    network = resized
    for step in steps:
        if isinstance(step, PadStride):
            network = step.size_for(network)
    return resized, network


def _read(items: Any, readers: Mapping[str, Any], where: str) -> tuple[Step, ...]:
    if not isinstance(items, list) or not items:
        raise ModelError(f"{where}: expected a list of operators, got {items!r}")
    steps = []
    for item in items:
        if not isinstance(item, dict) or "type" not in item:
            raise ModelError(f"{where}: expected an operator with a `type`, got {item!r}")
        params = {key: value for key, value in item.items() if key != "type"}
        name = item["type"]
        if name not in readers:
            known = " (PaddleX knows it, no segmentation model we finish uses it)" if name in _KNOWN_BUT_UNUSED else ""
            raise ModelError(f"{where}: operator {name!r} is not supported{known}; supported: {', '.join(readers)}")
        try:
            steps.append(readers[name](**params))
        except (TypeError, ValueError) as error:
            raise ModelError(f"{where}: {name} cannot be built from {params}: {error}") from error
    for kind in (Resize, Normalize):
        if sum(isinstance(step, kind) for step in steps) > 1:
            raise ModelError(f"{where}: more than one {kind.__name__}, got {_names(steps)}")
    return tuple(steps)


def _names(steps: Sequence[Step]) -> str:
    return " -> ".join(type(step).__name__ for step in steps) or "nothing"


def _det_resize(*, target_size: Any, keep_ratio: bool = False, interp: int | str = CUBIC) -> Resize:
    height, width = _pair(target_size)
    return Resize(Size(height, width), bool(keep_ratio), _interpolation(interp))


def _seg_resize(
    *,
    target_size: Any,
    keep_ratio: bool = False,
    interp: int | str = "LINEAR",
    size_divisor: int | None = None,
    backend: str = "cv2",
) -> Resize:
    if backend != "cv2":
        raise ValueError(f"backend {backend!r} is not supported, only cv2")
    width, height = _pair(target_size)
    return Resize(Size(height, width), bool(keep_ratio), _interpolation(interp), size_divisor)


def _det_normalize(
    *, mean: Sequence[float], std: Sequence[float], is_scale: bool = True, norm_type: str | None = "mean_std"
) -> Normalize:
    if norm_type not in (None, "none", "mean_std"):
        raise ValueError(f"norm_type {norm_type!r}: PaddleX cannot run it either; known are none and mean_std")
    return Normalize(_channels(mean), _divisors(std), 1 / 255 if is_scale else 1.0)


def _seg_normalize(*, mean: Any = 0.5, std: Any = 0.5) -> Normalize:
    return Normalize(_channels(mean), _divisors(std))


def _permute(*, to_bgr: bool = False) -> Permute:
    if to_bgr:
        raise ValueError("to_bgr is not supported")
    return Permute()


def _pad_stride(*, stride: int = 0) -> PadStride:
    return PadStride(int(stride))


def _pair(value: Any) -> tuple[int, int]:
    first, second = (value, value) if isinstance(value, int) else value
    return int(first), int(second)


def _channels(value: Any) -> tuple[float, float, float]:
    red, green, blue = [value] * 3 if isinstance(value, int | float) else value
    return float(red), float(green), float(blue)


def _divisors(value: Any) -> tuple[float, float, float]:
    found = _channels(value)
    if 0 in found:
        raise ValueError(f"std must not be 0, got {value}")
    return found


def _interpolation(value: int | str) -> int:
    code = _INTERPOLATION_NAMES.get(value.upper(), -1) if isinstance(value, str) else int(value)
    if code not in _INTERPOLATION_NAMES.values():
        raise ValueError(f"interp {value!r}: expected 0 to 4 or one of {', '.join(_INTERPOLATION_NAMES)}")
    return code
