"""Which models we can finish: the table of families, and everything that is looked up in it.

A directory's family is decided by what its inference.yml says it is, never by the model's name: a model trained by a
user may have any.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.errors import ModelError
from rayseg.predict.families import label_map, mask_rtdetr, ppyoloe_seg, rcnn, solov2
from rayseg.predict.families.family import Family
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Result

__all__ = ["FAMILIES", "Family", "finish", "identify", "split_outputs"]

FAMILIES = {
    (family.name, family.flavour): family
    for family in (
        *(label_map.PADDLEX, label_map.LEAN, label_map.PROBABILITIES),
        *(mask_rtdetr.PADDLEX, mask_rtdetr.LEAN),
        *(ppyoloe_seg.PADDLEX, ppyoloe_seg.LEAN),
        *(rcnn.PADDLEX, rcnn.LEAN),
        *(solov2.PADDLEX, solov2.LEAN),
    )
}
"""(family, flavour) -> what we can finish."""


def split_outputs(
    spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], *, min_score: float = 0.0
) -> list[Raw]:
    """What is kept of each image of a batch, in its order.

    Args:
        outputs: of the program, in its order.
        min_score: objects must exceed it.

    Raises:
        BackendError: outputs that do not fit the batch, or are not numbers.
    """
    kept = FAMILIES[spec.family, spec.flavour].split(spec, outputs, batch, min_score)
    return [
        Raw({name: _own(array) for name, array in arrays.items()}, image.original, image.resized, image.network, min_score)
        for arrays, image in zip(kept, batch, strict=True)
    ]


def _own(array: np.ndarray) -> np.ndarray:
    """C-contiguous, and not a view that keeps a whole batch alive."""
    return np.ascontiguousarray(array if array.base is None else array.copy())


def finish(spec: ModelSpec, raw: Raw, threshold: float | None = None) -> Result:
    """The result for one image. Runs anywhere; needs no network and no Paddle.

    Args:
        threshold: score an object must exceed; None takes the model's own. Label maps have none.

    Raises:
        ModelError: a class id without a label.
        ValueError: a threshold below the one the outputs were already cut with.
    """
    threshold = spec.draw_threshold if threshold is None else threshold
    if threshold < raw.min_score:
        raise ValueError(f"threshold {threshold} is below {raw.min_score}, the score these outputs were already cut at")
    return FAMILIES[spec.family, spec.flavour].finish(spec, raw, threshold)


def identify(config: dict[str, Any], path: Path) -> Family:
    """The family of a directory from its inference.yml.

    Raises:
        ModelError: not a segmentation model, or one we cannot finish.
    """
    own = config.get("rayseg")
    if own is not None:
        key = (own.get("family"), own.get("flavour")) if isinstance(own, dict) else (own, None)
        if key not in FAMILIES:
            raise ModelError(f"{path}: rayseg block {own!r} names no known family and flavour; known: {sorted(FAMILIES)}")
        return FAMILIES[key]
    if "arch" in config:
        return _instance_family(config, path)
    deploy = config.get("Deploy")
    if isinstance(deploy, dict) and "transforms" in deploy:
        return _semantic_family(deploy, path)
    raise ModelError(
        f"{path}: has neither `arch` (instance models) nor `Deploy.transforms` (semantic models), so "
        f"{_model_name(config)} is not a segmentation model, or the file is cut"
    )


def _instance_family(config: dict[str, Any], path: Path) -> Family:
    by_arch = {family.arch: family for family in FAMILIES.values() if family.arch}
    family = by_arch.get(config["arch"])
    if family is None:
        raise ModelError(
            f"{path}: {_model_name(config)} is of arch {config['arch']!r}, which is not a segmentation model we know; "
            f"known: {', '.join(sorted(by_arch))}"
        )
    return family


def _semantic_family(deploy: dict[str, Any], path: Path) -> Family:
    if deploy.get("output_op", "argmax") != "argmax":
        raise ModelError(f"{path}: output_op is {deploy['output_op']!r}; export the model with `--output_op argmax`")
    return label_map.PADDLEX


def _model_name(config: dict[str, Any]) -> str:
    found = config.get("Global")
    return str(found.get("model_name", "the model")) if isinstance(found, dict) else "the model"
