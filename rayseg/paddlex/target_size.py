"""The size a semantic network sees, where the caller has another than the model directory: PaddleX's `target_size`.

None leaves the model's own, -1 takes each image as it is. A number, or (width, height), makes the image fit: with the
model's own way of resizing where its directory has one; else sides keep their ratio and are rounded up to multiples of 32.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from rayseg.errors import ConfigError
from rayseg.geometry import Size
from rayseg.predict.preprocess import LINEAR, Resize, Step
from rayseg.predict.spec import ModelSpec

_DIVISOR = 32
_TEXT = re.compile(r"[(\[]?\s*(-?\d+)\s*(?:,\s*(-?\d+)\s*)?[)\]]?")


def read_target_size(given: Any) -> int | tuple[int, int] | None:
    """A target size as PaddleX's users write it; text, as on the command line, may be `512`, `512,256` or `None`.

    Returns:
        None, -1, a number, or (width, height).

    Raises:
        ConfigError: anything else.
    """
    if isinstance(given, str):
        match = _TEXT.fullmatch(given.strip())
        if match is None and given.strip() != "None":
            raise _wrong(given)
        given = [int(part) for part in match.groups() if part] if match else None
        given = given[0] if given and len(given) == 1 else given
    if given is None or _is_side(given) or (isinstance(given, int) and given == -1):
        return given
    if isinstance(given, (list, tuple)) and len(given) == 2 and all(map(_is_side, given)):
        return int(given[0]), int(given[1])
    raise _wrong(given)


def with_target_size(spec: ModelSpec, target: int | tuple[int, int] | None) -> ModelSpec:
    """The model with another resizing step.

    Raises:
        ConfigError: a model of objects, which has the size it was trained with; or a program of one size, and another is
            asked for.
    """
    if target is None:
        return spec
    if spec.task != "semantic":
        raise ConfigError(
            f"target_size {target}: {spec.name} finds objects and has the size of its model directory; leave it out"
        )
    steps = _steps(spec.steps, target)
    if spec.fixed_input is not None and steps != spec.steps:
        height, width = spec.fixed_input.hw
        raise ConfigError(f"target_size {target}: the program of {spec.name} takes {width} x {height} only; leave it out")
    return replace(spec, steps=steps)


def _steps(steps: tuple[Step, ...], target: int | tuple[int, int]) -> tuple[Step, ...]:
    if target == -1:
        return tuple(step for step in steps if not isinstance(step, Resize))
    width, height = target if isinstance(target, tuple) else (target, target)
    if not any(isinstance(step, Resize) for step in steps):
        return (Resize(Size(height, width), keep_ratio=True, interpolation=LINEAR, divisor=_DIVISOR), *steps)
    return tuple(replace(step, target=Size(height, width)) if isinstance(step, Resize) else step for step in steps)


def _is_side(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _wrong(given: Any) -> ConfigError:
    return ConfigError(f"target_size {given!r}: expected None, -1 (as the image is), a number of pixels, or (width, height)")
