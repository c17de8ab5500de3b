"""Train a small PP-YOLOE_seg on a COCO set held in memory, as the demo model was: settings in, weights and scores out.

Models of the zoo are trained by run.py; both use the same loop.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.sample import Sample
from rayseg.errors import ConfigError, DatasetError
from rayseg.evaluation.model import evaluate_model
from rayseg.models.instance.ppyoloe_seg import PPYOLOESeg, build_ppyoloe_seg
from rayseg.models.recipe import Schedule, Warmup
from rayseg.models.weights import load_weights
from rayseg.training.checkpoint import BEST, STEM
from rayseg.training.data.zoom_crop import Augment, crop_batches
from rayseg.training.loop import Report, fit
from rayseg.training.plan import Plan
from rayseg.training.seeds import seed_all

FINAL_RATE = 0.01
MAX_DETS = (10, 100, 300)
"""Detections per image that count; COCO's 100 would cap the recall of crowded microscope images."""


@dataclass(frozen=True)
class InstanceRun:
    """What a training run is asked to do. Paths are in the call, so that one file of settings fits every machine."""

    epochs: int
    minutes: float | None = None
    """Stop after so much time even if epochs are left; the learning rate is spread over whichever is shorter."""
    seed: int = 0
    width_mult: float = 0.25
    depth_mult: float = 0.33
    num_protos: int = 32
    proto_channels: int = 64
    input_px: int = 512
    """Side of the network's input when predicting; the whole image is stretched to it."""
    crop_px: int = 256
    """Side of the windows it is trained on."""
    zoom: tuple[float, float] = (0.6, 1.6)
    batch_size: int = 8
    crops_per_image: int = 4
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    clip_norm: float | None = 10.0
    warmup: float = 0.03
    ema_decay: float = 0.998
    atss_epochs: int = 0
    evaluate_every: int = 5
    """Epochs."""

    def plan(self) -> Plan:
        """The same for the loop."""
        if self.optimizer not in ("momentum", "adamw"):
            raise ConfigError(f"optimizer {self.optimizer!r} is unknown; choose adamw or momentum")
        return Plan(
            length=self.epochs,
            unit="epochs",
            minutes=self.minutes,
            seed=self.seed,
            batch_size=self.batch_size,
            optimizer=self.optimizer,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            clip=("global_norm", self.clip_norm) if self.clip_norm else None,
            schedule=Schedule("cosine", warmup=Warmup(self.warmup)),
            final_rate=FINAL_RATE,
            ema=("threshold", self.ema_decay),
            eval_interval=self.evaluate_every,
            log_interval=20,
            keep=1,
        )


def train_instances(
    run: InstanceRun, *, train_set: CocoInstances, val_set: CocoInstances, folder: Path, report: Report
) -> dict[str, Any]:
    """Train, then score the best averaged weights on the whole validation set.

    Args:
        folder: for the checkpoint and the weights; a run that stopped there goes on.
        report: see `rayseg.training.loop.train`.

    Returns:
        The settings, digests of both sets, how long it took, the name of the weights in the folder, and their mask AP.

    Raises:
        DatasetError: the two sets do not name the same classes in the same order.
    """
    if train_set.labels != val_set.labels:
        raise DatasetError(
            f"training classes {train_set.labels} differ from validation classes {val_set.labels}; "
            "both files must list the same categories in the same order"
        )
    seed_all(run.seed)
    model = build_model(run, num_classes=len(train_set.labels))
    train_samples, val_samples = list(train_set), list(val_set)
    crops = crop_batches(
        train_samples,
        Augment(canvas_px=run.input_px, crop_px=run.crop_px, zoom=run.zoom),
        batch_size=run.batch_size,
        crops_per_image=run.crops_per_image,
        seed=run.seed,
    )

    def score(network: PPYOLOESeg, *, threshold: float) -> dict[str, float]:
        found = evaluate_model(network, val_set, labels=val_set.labels, min_score=threshold, max_dets=MAX_DETS, boxes=False)
        scores = found.metrics()
        return {"score": scores["ap"], **{name: scores[name] for name in ("ap", "ap50", "ap75")}}

    ended = fit(
        model,
        run.plan(),
        batches=crops,
        folder=folder,
        # Objects below 0.05 hardly move AP and are most of the work.
        evaluate=lambda network: score(network, threshold=0.05),
        report=report,
        settings=asdict(run),
    )
    weights = f"{BEST}/{STEM}.pdparams"
    load_weights(model, folder / weights)
    model.eval()
    scores = score(model, threshold=0.0)
    return {
        "settings": asdict(run),
        "data": {"train": digest(train_samples), "val": digest(val_samples)},
        "images": {"train": len(train_samples), "val": len(val_samples)},
        "epochs": ended.epoch,
        "best_epoch": ended.best_epoch,
        "steps": ended.step,
        "minutes": round(ended.seconds / 60, 1),
        "weights": weights,
        "max_dets": MAX_DETS,
        "val_mask_ap": {name: round(scores[name], 4) for name in ("ap", "ap50", "ap75")},
    }


def build_model(run: InstanceRun, *, num_classes: int) -> PPYOLOESeg:
    """The network a run's settings describe, freshly initialised."""
    return build_ppyoloe_seg(
        num_classes,
        width_mult=run.width_mult,
        depth_mult=run.depth_mult,
        input_size=run.input_px,
        num_protos=run.num_protos,
        proto_channels=run.proto_channels,
        atss_epochs=run.atss_epochs,
    )


def trained_model(run: InstanceRun, weights: Path, *, num_classes: int) -> PPYOLOESeg:
    """The network of a run's settings with the weights the run left, in eval mode."""
    model = build_model(run, num_classes=num_classes)
    load_weights(model, weights)
    model.eval()
    return model


def digest(samples: list[Sample]) -> str:
    """sha256 over names, pixels, classes and masks: two sets with one digest train the same."""
    out = hashlib.sha256()
    for sample in samples:
        out.update(sample.name.encode())
        out.update(sample.image.tobytes())
        out.update(sample.classes.tobytes())
        for patch in sample.masks:
            out.update(repr(patch.window).encode())
            out.update(np.packbits(patch.bits).tobytes())
    return out.hexdigest()
