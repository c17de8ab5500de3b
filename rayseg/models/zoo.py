"""Every network by name, in one table: how to build it and what it was published with.

Building is all that happens here; weights are `weights.py`'s. A network is imported when it is built, so reading the
table costs nothing. A new network is one more row.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.preprocess import Preprocess

if TYPE_CHECKING:
    from paddle import nn


@dataclass(frozen=True)
class Recipe:
    """PaddleX's training settings: what fine-tuning starts from, not necessarily what made the score."""

    length: int
    """How long it trains."""
    unit: Literal["epochs", "iterations"]
    """Of the length."""
    batch_size: int
    """Images per device."""
    learning_rate: float
    """At its peak."""
    optimizer: str
    """With its settings."""
    schedule: str
    """Of the learning rate."""
    ema_decay: float | None
    """Of the averaged weights, if any."""


@dataclass(frozen=True)
class Score:
    """A published result; not measured here."""

    metric: str
    """Name of the measure."""
    value: float
    """In percent."""
    dataset: str
    """It was measured on."""


@dataclass(frozen=True)
class ZooModel:
    """One network."""

    name: str
    """As PaddleX calls it."""
    task: Literal["instance", "semantic"]
    """Objects, or one class a pixel."""
    build: Callable[[int], nn.Layer]
    """Number of classes -> network with fresh weights."""
    num_classes: int
    """Of the published weights."""
    preprocess: Preprocess
    """Of the published weights."""
    recipe: Recipe
    """To start from."""
    published: Score
    """What the published weights reach."""


def build_model(name: str, num_classes: int | None = None) -> nn.Layer:
    """A network with fresh weights.

    Args:
        name: from the table.
        num_classes: the published number unless given; without background for instance models.

    Raises:
        ModelError: the name is not in the table; the message shows the nearest one.
    """
    row = find_model(name)
    return row.build(row.num_classes if num_classes is None else num_classes)


def find_model(name: str) -> ZooModel:
    """The row of a name.

    Raises:
        ModelError: see `build_model`.
    """
    if name in MODELS:
        return MODELS[name]
    by_lower = {known.lower(): known for known in MODELS}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    guess = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
    raise ModelError(f"no model is called {name!r}.{guess} Known: {', '.join(MODELS)}.")


def _ppyoloe_seg_s(num_classes: int) -> nn.Layer:
    from rayseg.models.instance.ppyoloe_seg import build_ppyoloe_seg_s

    return build_ppyoloe_seg_s(num_classes)


def _pp_liteseg_t(num_classes: int) -> nn.Layer:
    from rayseg.models.semantic.pp_liteseg import build_pp_liteseg_t

    return build_pp_liteseg_t(num_classes)


_ROWS = (
    ZooModel(
        name="PP-YOLOE_seg-S",
        task="instance",
        build=_ppyoloe_seg_s,
        num_classes=80,
        preprocess=Preprocess(
            resize=Size(height=640, width=640), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), interpolation="cubic"
        ),
        recipe=Recipe(
            length=80,
            unit="epochs",
            batch_size=8,
            learning_rate=1e-3,
            optimizer="momentum 0.9, L2 5e-4 except batch norm",
            schedule="5 epochs linear warm-up, then cosine towards epoch 96",
            ema_decay=0.9998,
        ),
        published=Score(metric="mask AP", value=32.5, dataset="COCO val2017"),
    ),
    ZooModel(
        name="PP-LiteSeg-T",
        task="semantic",
        build=_pp_liteseg_t,
        num_classes=19,
        preprocess=Preprocess(resize=None, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        recipe=Recipe(
            length=80_000,
            unit="iterations",
            batch_size=2,
            learning_rate=0.01,
            optimizer="momentum 0.9, L2 4e-5",
            schedule="polynomial, power 0.9, to 0",
            ema_decay=None,
        ),
        published=Score(metric="mean IoU", value=73.1, dataset="Cityscapes val, evaluated at half scale"),
    ),
)

MODELS: dict[str, ZooModel] = {row.name: row for row in _ROWS}
