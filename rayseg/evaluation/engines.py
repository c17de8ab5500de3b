"""One engine, loaded from a model directory, scored on annotated images. Which engines are worth it is for a trial to say."""

from __future__ import annotations

from pathlib import Path

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.semantic import SemanticPairs
from rayseg.errors import ConfigError
from rayseg.evaluation.model import Truth, evaluate_model
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor

MAIN_METRIC = {"instance": "ap", "semantic": "miou"}
"""What one number says of a model of each task."""


def score_engine(
    model: str, engine: str, precision: str, *, device: str, threads: int, truth: str, images: str
) -> dict[str, float]:
    """Scores of one engine, as `Evaluation.metrics` names them.

    Args:
        model: inference directory.
        device: cpu or gpu:N.
        truth: COCO .json of an instance model, list of images and masks of a semantic one.
        images: folder that names in the truth are relative to.

    Raises:
        RaysegError: the engine does not open, or the truth cannot be used.
    """
    spec = load_model_dir(model)
    backend = open_backend(spec, engine, device=device, threads=threads, precision=precision, check=False)
    predictor = Predictor(spec, backend, device, threads)
    return dict(evaluate_model(predictor, open_truth(spec.task, truth, images, len(spec.labels))).metrics())


def open_truth(task: str, truth: str, images: str, num_classes: int) -> Truth:
    """The annotated images that a model of a task is scored on.

    Raises:
        ConfigError: a file of the other task.
        DatasetError: it cannot be read.
    """
    is_coco = Path(truth).suffix.lower() == ".json"
    if is_coco != (task == "instance"):
        wanted = "a COCO .json" if task == "instance" else "a list of images and index masks, such as val.txt"
        raise ConfigError(f"truth {truth}: a model of {task} segmentation is scored on {wanted}")
    return CocoInstances(truth, images) if is_coco else SemanticPairs(truth, images, num_classes=num_classes)
