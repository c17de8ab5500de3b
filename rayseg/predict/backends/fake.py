"""A scripted stand-in for a network: no weights, no Paddle, results from the pixels alone, faults on demand.

    fake:instance                                   bright blobs become objects
    fake:semantic?labels=sky,land,sea&size=64x96    brightness decides the class; images are resized to 64 x 96
    fake:semantic?output=probabilities              the same classes, and how likely each one is
    fake:instance?delay_ms=10&raise_on=255,0,0&kill_on=0,0,255&hang_on=0,255,0&draw_threshold=0.5&pattern=box

`raise_on`, `kill_on`, `hang_on`: what happens to an image whose top left pixel has this RGB value: an exception,
SIGKILL for the process, or sleep without end. `pattern=box` finds one fixed box in every image, at almost no cost.
`pattern=colours` finds every object of an image in which each has a colour of its own on black: class red modulo the number
of classes, score from green; so it sees in a tile just what the tile holds.
"""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

import numpy as np

from rayseg.errors import BackendError, ModelError
from rayseg.geometry import Size
from rayseg.predict.preprocess import NEAREST, Normalize, Permute, Resize
from rayseg.predict.spec import ModelSpec

Rgb = tuple[int, int, int]
_PREFIX = "fake:"
_BRIGHT = 128


@dataclass(frozen=True)
class FakeScript:
    """How a fake behaves."""

    labels: tuple[str, ...] = ("red", "green", "blue")
    """For instances the class is the strongest channel of a blob, for label maps the brightness."""
    size: Size | None = None
    """Images are resized to it; None leaves them."""
    draw_threshold: float = 0.5
    delay_ms: float = 0.0
    """Time each image takes at least, asleep."""
    busy_ms: float = 0.0
    """CPU time each image takes, computing nothing."""
    raise_on: Rgb | None = None
    kill_on: Rgb | None = None
    hang_on: Rgb | None = None
    pattern: Literal["blobs", "box", "colours"] = "blobs"
    most: int = 100
    """Blobs that are reported of an image at most, the first in reading order."""
    output: Literal["labels", "probabilities"] = "labels"
    """Of semantic fakes."""


def fake_spec(task: Literal["instance", "semantic"] = "instance", **script: Any) -> ModelSpec:
    """A model without files; `script` are fields of FakeScript. Its path says it all."""
    written = {key: _write(value) for key, value in script.items() if value is not None}
    return parse_fake(_PREFIX + task + (f"?{urlencode(written, safe=',')}" if written else ""))


def parse_fake(path: str) -> ModelSpec:
    """The model a `fake:` string stands for.

    Raises:
        ModelError: an unknown task or parameter, or a malformed value.
    """
    task, script = _parse(path)
    resize = (Resize(script.size, interpolation=NEAREST),) if script.size else ()
    instance = task == "instance"
    return ModelSpec(
        path=path,
        name=f"fake-{task}",
        task="instance" if instance else "semantic",
        family="ppyoloe_seg" if instance else "label_map",  # whose outputs it imitates
        flavour="probabilities" if script.output == "probabilities" else "paddlex",
        labels=script.labels,
        draw_threshold=script.draw_threshold if instance else 0.0,
        steps=(*resize, Normalize(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)), Permute()),
        inputs=("im_shape", "image", "scale_factor") if instance else ("image",),
        fixed_input=script.size,
        any_batch=not instance,
        fingerprint=hashlib.sha256(path.encode()).hexdigest(),
    )


class FakeBackend:
    """Plays the script of a fake model; takes and gives what an exported program of that task does."""

    name = "fake"
    batches = True

    def __init__(self, spec: ModelSpec) -> None:
        if not spec.scripted:
            raise BackendError(f"the fake backend runs fake models only, not {spec.name}")
        self._task, self._script = _parse(spec.path)

    def run(self, inputs: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        images = np.rint(inputs["image"].transpose(0, 2, 3, 1) * 255).astype(np.uint8)
        for image in images:
            self._misbehave(tuple(image[0, 0].tolist()))
            time.sleep(self._script.delay_ms / 1000)
            end = time.thread_time() + self._script.busy_ms / 1000
            while time.thread_time() < end:
                pass
        if self._task == "semantic":
            brightness, count = np.stack([_brightness(image) for image in images]), len(self._script.labels)
            if self._script.output == "probabilities":
                return [_class_probabilities(count)[:, brightness].swapaxes(0, 1)]
            return [brightness.astype(np.int32) * count // 256]
        (scale,), (size,) = inputs["scale_factor"], inputs["im_shape"]
        return _instances(images[0], np.rint(size / scale).astype(int), scale, self._script)

    def _misbehave(self, corner: tuple[int, ...]) -> None:
        if corner == self._script.raise_on:
            raise RuntimeError(f"scripted fault on an image whose first pixel is {corner}")
        if corner == self._script.kill_on:
            os.kill(os.getpid(), signal.SIGKILL)
        while corner == self._script.hang_on:
            time.sleep(60)


def _class_probabilities(count: int) -> np.ndarray:
    """How likely each class is at each brightness, uint8 (count, 256) in 255ths.

    All for one class in the middle of its range, and shared with the next one in between. On a border the class that the
    label map has is ahead by the half step of brightness that is added here.
    """
    place = (np.arange(256) * count + 0.5) / 256
    middles = np.arange(count)[:, None] + 0.5
    return np.rint(255 * (1 - np.abs(np.clip(place, 0.5, count - 0.5) - middles)).clip(0)).astype(np.uint8)


def _instances(image: np.ndarray, original_hw: np.ndarray, scale_hw: np.ndarray, script: FakeScript) -> list[np.ndarray]:
    """bbox (m, 6), bbox_num (1,), mask (m, H, W); one row of zeros when nothing is found."""
    height, width = original_hw.tolist()
    count = len(script.labels)
    if script.pattern == "blobs":
        found = _blobs(image, count, most=script.most)
    else:
        found = _one_box(image, count) if script.pattern == "box" else _colours(image, count)
    rows = np.zeros((max(1, len(found)), 6), dtype=np.float32)
    masks = np.zeros((len(rows), height, width), dtype=np.float32)
    for i, (class_id, score, (x0, y0, x1, y1), mask) in enumerate(found):
        rows[i] = (class_id, score, x0 / scale_hw[1], y0 / scale_hw[0], x1 / scale_hw[1], y1 / scale_hw[0])
        masks[i] = _nearest(mask, height, width)
    return [rows, np.asarray([len(rows)], dtype=np.int32), masks]


def _blobs(image: np.ndarray, num_classes: int, *, most: int) -> list[tuple[int, float, tuple[int, int, int, int], np.ndarray]]:
    """Connected bright regions in reading order: class, score (how full its box is, 0.5 to 1), xyxy, mask."""
    import cv2

    count, regions, stats, _ = cv2.connectedComponentsWithStats((_brightness(image) >= _BRIGHT).astype(np.uint8), connectivity=4)
    found = []
    for label in range(1, min(count, most + 1)):
        x, y, w, h, area = stats[label].tolist()
        mask = regions == label
        strongest = int(np.argmax(image[mask].sum(axis=0, dtype=np.int64)))
        found.append((strongest % num_classes, 0.5 + 0.5 * area / (w * h), (x, y, x + w, y + h), mask))
    return found


def _one_box(image: np.ndarray, num_classes: int) -> list[tuple[int, float, tuple[int, int, int, int], np.ndarray]]:
    height, width = image.shape[:2]
    x0, y0, x1, y1 = width // 4, height // 4, width // 4 + (width + 1) // 2, height // 4 + (height + 1) // 2
    mask = np.zeros((height, width), dtype=bool)
    mask[y0:y1, x0:x1] = True
    return [(int(image[0, 0, 0]) % num_classes, 0.75, (x0, y0, x1, y1), mask)]


def _colours(image: np.ndarray, num_classes: int) -> list[tuple[int, float, tuple[int, int, int, int], np.ndarray]]:
    """Pixels of one colour, but black, are one object, wherever they lie; in the order of the colours."""
    ids = image.astype(np.uint32) @ np.asarray([65536, 256, 1], dtype=np.uint32)
    y, x = np.nonzero(ids)
    order = np.argsort(ids[y, x], kind="stable")
    y, x = y[order], x[order]
    colours, first = np.unique(ids[y, x], return_index=True)
    found = []
    for colour, rows, columns in zip(colours.tolist(), np.split(y, first[1:]), np.split(x, first[1:]), strict=False):
        mask = np.zeros(ids.shape, dtype=bool)
        mask[rows, columns] = True
        red, green = colour >> 16, (colour >> 8) & 255
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        found.append((red % num_classes, 0.5 + (green + 1) / 512, box, mask))
    return found


def _nearest(mask: np.ndarray, height: int, width: int) -> np.ndarray:
    rows, columns = np.arange(height) * mask.shape[0] // height, np.arange(width) * mask.shape[1] // width
    return mask if mask.shape == (height, width) else mask[rows][:, columns]


def _brightness(image: np.ndarray) -> np.ndarray:
    """uint8 (H, W): the mean of the channels, rounded down."""
    return (image.sum(axis=2, dtype=np.uint16) // 3).astype(np.uint8)


def _parse(path: str) -> tuple[str, FakeScript]:
    task, _, query = path.removeprefix(_PREFIX).partition("?")
    if task not in ("instance", "semantic"):
        raise ModelError(f"{path!r}: a fake model is fake:instance or fake:semantic")
    known = {field.name: _READERS[field.name] for field in fields(FakeScript)}
    values = {}
    for key, text in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if key not in known:
            raise ModelError(f"{path!r}: unknown parameter {key!r}; known: {', '.join(known)}")
        try:
            values[key] = known[key](text)
        except ValueError as error:
            raise ModelError(f"{path!r}: {key}={text!r} cannot be read: {error}") from error
    script = FakeScript(**values)
    if script.output == "probabilities" and (task == "instance" or len(script.labels) > 256):
        raise ModelError(f"{path!r}: output=probabilities is for fake:semantic with at most 256 labels")
    return task, script


def _write(value: Any) -> str:
    if isinstance(value, Size):
        return f"{value.height}x{value.width}"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _rgb(text: str) -> Rgb:
    red, green, blue = (int(part) for part in text.split(","))
    return red, green, blue


def _size(text: str) -> Size:
    height, width = (int(part) for part in text.split("x"))
    return Size(height, width)


def _pattern(text: str) -> str:
    if text not in ("blobs", "box", "colours"):
        raise ValueError("expected blobs, box or colours")
    return text


def _output(text: str) -> str:
    if text not in ("labels", "probabilities"):
        raise ValueError("expected labels or probabilities")
    return text


_READERS: dict[str, Any] = {
    "labels": lambda text: tuple(text.split(",")),
    "size": _size,
    "draw_threshold": float,
    "delay_ms": float,
    "busy_ms": float,
    "raise_on": _rgb,
    "kill_on": _rgb,
    "hang_on": _rgb,
    "pattern": _pattern,
    "most": int,
    "output": _output,
}
