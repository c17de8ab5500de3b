"""Settings of the main job: which images, which model, where to, and how much of the machine.

`identity()` holds what decides the result; a folder of results belongs to one identity. The rest may change between a run
and its resumption.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field, fields
from fractions import Fraction
from typing import Any

from rayseg.config.backends import BACKENDS, PRECISIONS
from rayseg.config.device import DeviceChoice, parse_device
from rayseg.config.scenes import SceneSettings
from rayseg.errors import ConfigError


@dataclass(frozen=True)
class SegmentSettings:
    """One run of `rayseg segment`.

    Attributes:
        source: file, folder, glob, manifest (.txt, .csv, .parquet) or fsspec URL such as s3://bucket/prefix.
        out: folder or URL the tables are written to.
        model: inference model directory, or `fake:...` for tests.
        threshold: smallest score of an object that is kept; None takes the model's own.
        backend: engine of the predictors, one of `backends.BACKENDS`; auto is the fastest that gives right numbers.
        precision: of the network's arithmetic: fp32, bf16 or fp16. The latter two change results, and few engines have them.
        device: auto, cpu, gpu, or another kind that Ray hands out, such as npu. `gpu:0,1` is two predictors; which GPUs they
            get is decided by their numbers where the job starts its own Ray, and by Ray on a cluster.
        max_pixels: an image with more is a failed row; it is refused from its header, never decoded.
        allow_truncated: take what can be decoded of a file that ends early instead of failing it.
        scaled_decode: JPEGs much larger than the network's input are decoded at 1/2, 1/4 or 1/8 of their sides, in less time.
            The network sees smoother pixels, so results change a little; rows stay in the size of the image.
        max_failures: the job stops above this many failed images: a count such as "20" or a share such as "1%"; None never stops.
        save_label_maps: also write an index PNG for each image (semantic models).
        predictors: how many predictors run: "4", "1:8" (at least one, at most eight), or auto.
        gpus_per_predictor: GPUs each predictor is pinned to, fractions allowed; None is 1 where there are GPUs, else 0.
        threads_per_predictor: threads of a CPU predictor; None shares the cores out.
        batch_size: images given to the network at once, at most; None finds by growing how many are worth it, at most 64.
        chunk_images: images in one file of results; None chooses from the size of the archive. Fixed once planned.
        decode_timeout_s: a file whose decoding takes longer is a failed row.
        fetch_attempts: how often reading a file is tried when the storage fails in passing.
        manifest_column: column of a CSV or Parquet manifest that holds the paths; None finds it.
        source_options: fsspec options of the source, such as endpoint_url, key, secret, anon.
        out_options: the same for the output; None takes the source's when both have the same protocol.
        scenes: the images are scenes, cut into tiles and put together again; None takes each as a whole.
    """

    source: str
    out: str
    model: str
    threshold: float | None = None
    backend: str = "auto"
    precision: str = PRECISIONS[0]
    device: str = "auto"
    max_pixels: int = 500_000_000
    allow_truncated: bool = False
    scaled_decode: bool = False
    max_failures: str | None = None
    save_label_maps: bool = False
    predictors: str = "auto"
    gpus_per_predictor: float | None = None
    threads_per_predictor: int | None = None
    batch_size: int | None = None
    chunk_images: int | None = None
    decode_timeout_s: float = 60.0
    fetch_attempts: int = 6
    manifest_column: str | None = None
    source_options: dict[str, Any] = field(default_factory=dict)
    out_options: dict[str, Any] | None = None
    scenes: SceneSettings | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold must lie in [0, 1], got {self.threshold}")
        for name in ("max_pixels", "fetch_attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("batch_size", "chunk_images", "threads_per_predictor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        for name, words in (("backend", BACKENDS), ("precision", PRECISIONS)):
            if getattr(self, name) not in words:
                raise ConfigError(f"{name} {getattr(self, name)!r} is unknown; use {', '.join(words[:-1])} or {words[-1]}")
        if self.gpus_per_predictor is not None and not 0 <= self.gpus_per_predictor < math.inf:
            raise ConfigError(f"gpus_per_predictor must be a number and not negative, got {self.gpus_per_predictor}")
        self._check_device()
        if not 0 < self.decode_timeout_s < math.inf:
            raise ConfigError(f"decode_timeout_s must be a number above 0, got {self.decode_timeout_s}")
        self.predictor_range()
        self.failure_limit(1)
        if self.scenes is not None:
            self._check_scenes()

    def accelerator(self) -> DeviceChoice | None:
        """The device that is asked for; None for auto.

        Raises:
            ConfigError: no device string.
        """
        return None if self.device == "auto" else parse_device(self.device)

    def _check_device(self) -> None:
        choice = self.accelerator()
        if choice is None:
            return
        if choice.resource != "GPU" and self.gpus_per_predictor:
            raise ConfigError(f"device {choice.kind} contradicts gpus_per_predictor {self.gpus_per_predictor}; drop one of them")
        if choice.indices is None:
            return
        if self.gpus_per_predictor is not None:
            raise ConfigError(f"device {self.device} is one predictor a device; drop gpus_per_predictor, or the numbers")
        if self.predictor_range() not in (None, (len(choice.indices),) * 2):
            raise ConfigError(
                f"device {self.device} is {len(choice.indices)} predictors, predictors says {self.predictors}; drop one of them"
            )

    def predictor_range(self) -> tuple[int, int] | None:
        """(least, most) predictors, or None for auto.

        Raises:
            ConfigError: neither auto, N nor MIN:MAX.
        """
        if self.predictors == "auto":
            return None
        found = re.fullmatch(r"(\d+)(?::(\d+))?", self.predictors)
        low, high = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= low <= high:
            raise ConfigError(f"predictors {self.predictors!r}: expected auto, a number, or MIN:MAX with 1 <= MIN <= MAX")
        return low, high

    def failure_limit(self, planned: int) -> int | None:
        """How many failed images are tolerated out of `planned`; None without a limit.

        Raises:
            ConfigError: neither a count nor a percentage.
        """
        if self.max_failures is None:
            return None
        found = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?)%", self.max_failures)
        if not found or (found[2] and Fraction(found[2]) > 100):
            raise ConfigError(f"max_failures {self.max_failures!r}: expected a count such as 20 or a share such as 1%")
        return int(found[1]) if found[1] else int(Fraction(found[2]) * planned / 100)

    def identity(self) -> dict[str, Any]:
        """What decides the rows of the result, as JSON values."""
        names = ("source", "threshold", "max_pixels", "allow_truncated", "save_label_maps", "manifest_column")
        source = self.source if "://" in self.source else os.path.abspath(self.source)
        values = {**{name: getattr(self, name) for name in names}, "source": source}
        # jobs from before there was a choice have no such keys
        if self.precision != PRECISIONS[0]:
            values["precision"] = self.precision
        if self.scaled_decode:
            values["scaled_decode"] = True
        return values if self.scenes is None else {**values, "scenes": self.scenes.to_dict()}

    def _check_scenes(self) -> None:
        """Refuse what is said of whole images."""
        names = ("max_pixels", "allow_truncated", "scaled_decode", "decode_timeout_s")
        whole = {f.name: f.default for f in fields(self) if f.name in names}
        for name, default in whole.items():
            if getattr(self, name) != default:
                raise ConfigError(f"{name} is about images that are decoded whole; scenes are read by windows. Leave it out")
        if self.save_label_maps:
            raise ConfigError("save_label_maps is about images; a scene of a semantic model always gets one. Leave it out")
