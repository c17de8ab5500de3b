"""Settings that were left open, from the table of networks: rates, lengths, sizes and weights as a network's recipe has
them. What the settings mean is config/'s; how they are used is training's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

from rayseg.config.train import Settings
from rayseg.models.recipe import Recipe
from rayseg.models.zoo import ZooModel, find_model

log = logging.getLogger(__name__)

EMA_DECAY = 0.9998
"""Of an average that the recipe has not got."""
SUSPICIOUS = 20.0
"""AdamW at so many times its recipe's rate does not learn; PaddleX's files have 40 to 170 times."""


@dataclass(frozen=True)
class Start:
    """Where fine-tuning starts when nothing is said: PaddleX's numbers but for semantic networks, whose 500 iterations of
    2 images are too few to move a head at the rates of their recipes."""

    length: int
    """Epochs or iterations."""
    batch_size: int
    """Images of one worker's step."""
    train_size: tuple[int, int]
    """See TrainSettings.train_size."""


_SEMANTIC = Start(2000, 4, (512, 512))
STARTS: dict[str, Start] = {
    "Mask R-CNN": Start(40, 2, (800, 1333)),
    "Mask R-CNN C4": Start(40, 2, (800, 1333)),
    "Cascade Mask R-CNN": Start(40, 1, (800, 1333)),
    "SOLOv2": Start(40, 2, (800, 1333)),
    "Mask-RT-DETR": Start(40, 2, (640, 640)),
    "PP-YOLOE_seg": Start(40, 8, (640, 640)),
    "DeepLabV3": _SEMANTIC,
    "DeepLabV3+": _SEMANTIC,
    "OCRNet": _SEMANTIC,
    "PP-LiteSeg": _SEMANTIC,
    "SegFormer": _SEMANTIC,
    "SeaFormer": _SEMANTIC,
    "MaskFormer": _SEMANTIC,
}
"""By family."""


def effective(settings: Settings) -> Settings:
    """The settings with everything filled in that depends on the network.

    Only Train.num_classes (as the data say), Train.warmup_steps (the recipe's share of the run) and paths that may stay
    unset are None afterwards. A rate that can hardly be meant is warned about.

    Raises:
        ModelError: Global.model is not in the zoo; the message shows the nearest name.
    """
    row = find_model(settings.general.model)
    _warn_of_rate(settings, row.recipe)
    open_ones = {**_training(settings, row), **_folders(settings, row)}
    given = settings.to_mapping()
    changes = {}
    for key, value in open_ones.items():
        section, _, name = key.partition(".")
        if given[section][name] is None:
            changes[key] = value
    return settings.with_values(changes)


def weights_to_start_from(row: ZooModel) -> str:
    """Published weights of the whole network for instance models, of the backbone for semantic ones, as PaddleX has it."""
    whole, backbone = row.weights_url, row.backbone_url
    chosen = (whole or backbone) if row.task == "instance" else (backbone or whole)
    return chosen or "scratch"


def _training(settings: Settings, row: ZooModel) -> dict[str, Any]:
    start, recipe = STARTS[row.family], row.recipe
    length = settings.train.epochs_iters or start.length
    return {
        "Train.epochs_iters": length,
        "Train.batch_size": start.batch_size,
        "Train.learning_rate": recipe.learning_rate,
        "Train.pretrain_weight_path": weights_to_start_from(row),
        "Train.eval_interval": 1 if recipe.unit == "epochs" else max(1, length // 10),
        "Train.optimizer": recipe.optimizer,
        "Train.weight_decay": recipe.weight_decay,
        "Train.schedule": recipe.schedule.kind,
        "Train.clip": recipe.clip[1] if recipe.clip else 0.0,
        "Train.ema": recipe.ema is not None,
        "Train.ema_decay": recipe.ema[1] if recipe.ema else EMA_DECAY,
        "Train.train_size": start.train_size,
        "Search.metric": "ap" if row.task == "instance" else "miou",
    }


def _folders(settings: Settings, row: ZooModel) -> dict[str, str]:
    output = settings.general.output.rstrip("/")
    best = f"{output}/best_model/{'best_model' if row.task == 'instance' else 'model'}.pdparams"
    return {
        "Evaluate.weight_path": best,
        "Export.weight_path": best,
        "Export.save_dir": f"{output}/inference",
        "Predict.model_dir": f"{output}/best_model/inference",
    }


def _warn_of_rate(settings: Settings, recipe: Recipe) -> None:
    rate, kind = settings.train.learning_rate, settings.train.optimizer or recipe.optimizer
    if rate is not None and kind == "adamw" and recipe.optimizer == "adamw" and rate > SUSPICIOUS * recipe.learning_rate:
        log.warning(
            "Train.learning_rate %g is %.0f times the %g that %s was trained with; PaddleX's own files have such a rate and "
            "it does not learn. Leave the key out to take the recipe's.",
            *(rate, rate / recipe.learning_rate, recipe.learning_rate, settings.general.model),
        )
