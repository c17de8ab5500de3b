"""Stored values to 8 bits by one scaling for a whole job, so that the same ground looks the same in every tile.

It is declared (`0,10000`), follows from the type (`dtype`), or is estimated once from a sample of all scenes (`p2,p98`) by
`sampling.py`; then it is a value that is recorded and handed to every task.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from rayseg.errors import ConfigError
from rayseg.geo.bands import Bands
from rayseg.geo.scene import Scene

_PERCENT = re.compile(r"p(\d+(?:\.\d+)?)\s*,\s*p(\d+(?:\.\d+)?)")
_FORMS = "write two numbers (0,10000), two percentiles (p2,p98) or dtype"


@dataclass(frozen=True)
class Scaling:
    """For each of red, green and blue: 8-bit value = 255 (value - low) / (high - low), rounded half to even, cut at 0 and 255.

    Attributes:
        low, high: three each.
        origin: how they were found, in words for the record.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    origin: str = ""

    def __post_init__(self) -> None:
        pairs = list(zip(self.low, self.high, strict=True))
        if not all(math.isfinite(v) for pair in pairs for v in pair) or any(lo >= hi for lo, hi in pairs):
            raise ConfigError(f"a scaling needs low < high for each of red, green and blue, got low={self.low} high={self.high}")

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scale the bands of one window.

        Args:
            values: (1, H, W) or (3, H, W), integer or float. One band is shown as grey, by the first pair. NaN becomes 0.

        Returns:
            uint8 (H, W, 3), C-contiguous.
        """
        out = np.empty((*values.shape[1:], 3), dtype=np.uint8)
        for channel in range(len(values)):
            out[..., channel] = self._channel(values[channel], channel)
        if len(values) == 1:
            out[..., 1:] = out[..., :1]
        return out

    def _channel(self, values: np.ndarray, channel: int) -> np.ndarray:
        low, high = self.low[channel], self.high[channel]
        if values.dtype == np.uint8 and (low, high) == (0, 255):
            return values
        if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
            # Looking up is many times faster than arithmetic. A negative index counts from the end, where its value is.
            return _table(values.dtype.str, low, high)[values]
        return _scale(values, low, high)

    def to_dict(self) -> dict[str, Any]:
        """For job.json."""
        return {"low": list(self.low), "high": list(self.high), "origin": self.origin}

    @classmethod
    def from_dict(cls, stored: dict[str, Any]) -> Scaling:
        """The inverse of `to_dict`."""
        low, high = (tuple(float(v) for v in stored[name]) for name in ("low", "high"))
        return cls(low, high, str(stored.get("origin", "")))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Percentiles:
    """A scaling that is yet to be estimated."""

    low: float
    high: float


def parse_scale(text: str) -> Scaling | Percentiles | None:
    """What `--scale` says.

    Args:
        text: `low,high` for all three colours; `p2,p98`: percentiles over the job; `dtype`: the range of the stored type,
            of the bits that are used.

    Returns:
        A scaling; percentiles to estimate one from; None for `dtype`, which `dtype_scaling` answers.

    Raises:
        ConfigError: none of these.
    """
    word = text.strip().lower()
    if word == "dtype":
        return None
    if match := _PERCENT.fullmatch(word):
        low, high = float(match[1]), float(match[2])
        if not 0 <= low < high <= 100:
            raise ConfigError(f"--scale {text}: percentiles must rise and lie in 0..100")
        return Percentiles(low, high)
    try:
        low, high = (float(v) for v in word.split(","))
    except ValueError as error:
        raise ConfigError(f"--scale {text!r} is no scaling; {_FORMS}") from error
    if not low < high or not math.isfinite(low) or not math.isfinite(high):
        raise ConfigError(f"--scale {text}: the first number must be below the second")
    return Scaling((low,) * 3, (high,) * 3, f"given: {low:g} to {high:g}")


def default_scale(scenes: Sequence[tuple[Scene, Bands]]) -> str:
    """What `--scale` is when it is not given: `dtype` where all values are 8-bit colours, else `p2,p98`."""
    eight_bits = all(b.palette or {scene.bands[n - 1].dtype for n in b.numbers} == {"uint8"} for scene, b in scenes)
    return "dtype" if eight_bits else "p2,p98"


def dtype_scaling(scenes: Sequence[tuple[Scene, Bands]]) -> Scaling:
    """From the least to the greatest value that the stored type can hold, of the bits that are used.

    Raises:
        ConfigError: scenes differ in it, or hold floating-point numbers.
    """
    ranges: dict[tuple[float, float], str] = {}
    for scene, bands in scenes:
        ranges.setdefault(_range(scene, bands), scene.uri)
    if len(ranges) != 1:
        found = "; ".join(f"{lo:g}..{hi:g} ({uri})" for (lo, hi), uri in list(ranges.items())[:3])
        raise ConfigError(f"--scale dtype needs one range for all scenes, found {found or 'no scene'}. Use low,high or p2,p98")
    low, high = next(iter(ranges))
    return Scaling((low,) * 3, (high,) * 3, f"range of the type: {low:g} to {high:g}")


def percentile_scaling(samples: Sequence[np.ndarray], wanted: Percentiles, *, origin: str = "") -> Scaling:
    """Percentiles of each colour over all samples together.

    Args:
        samples: (N, 3) each, valid values only; see `sampling.sample_values`.
        wanted: which.
        origin: for the record.

    Raises:
        ConfigError: no value at all.
    """
    values = np.concatenate([np.empty((0, 3)), *samples])
    if not len(values):
        raise ConfigError("--scale by percentiles: no valid pixel in the sample of the scenes; say --scale low,high")
    low, high = np.percentile(values, [wanted.low, wanted.high], axis=0)
    # A colour that hardly varies: one step of the data, so that it becomes black rather than an error.
    high = np.where(high > low, high, np.where(low < 2.0**52, low + 1.0, np.nextafter(low, np.inf)))
    words = f"percentiles {wanted.low:g} and {wanted.high:g}" + (f" of {origin}" if origin else "")
    return Scaling(tuple(map(float, low)), tuple(map(float, high)), words)  # type: ignore[arg-type]


def _range(scene: Scene, bands: Bands) -> tuple[float, float]:
    if bands.palette:
        return 0.0, 255.0
    chosen = [scene.bands[n - 1] for n in bands.numbers]
    dtype, bits = np.dtype(chosen[0].dtype), max(band.bits for band in chosen)
    if dtype.kind == "f":
        raise ConfigError(
            f"--scale dtype: {scene.uri} holds floating-point numbers, whose range says nothing. Use low,high or p2,p98"
        )
    if dtype.kind == "i":
        return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
    return 0.0, float(2**bits - 1)


def _scale(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """The formula, in float64 where float32 would round the values."""
    precise = values.dtype.itemsize > 4 or (values.dtype.kind in "iu" and values.dtype.itemsize > 2)
    out: np.ndarray = values.astype(np.float64 if precise else np.float32)
    with np.errstate(all="ignore"):
        np.subtract(out, low, out=out)
        np.multiply(out, 255.0 / (high - low), out=out)
        np.clip(out, 0, 255, out=out)
        np.rint(out, out=out)
    return np.nan_to_num(out, copy=False, nan=0.0).astype(np.uint8)


@lru_cache(maxsize=32)
def _table(dtype: str, low: float, high: float) -> np.ndarray:
    """8-bit value of each value of a type of up to 16 bits, negative ones at the end."""
    kind = np.dtype(dtype)
    unsigned = np.arange(2 ** (8 * kind.itemsize), dtype=np.int64).astype(f"u{kind.itemsize}")
    return _scale(unsigned.view(kind).astype(np.float64), low, high)
