"""Where an evaluation gets its model from; small, and crosses process borders, where a loaded model cannot."""

from __future__ import annotations

from dataclasses import dataclass

import paddle

from rayseg.evaluation.network import predictor_of
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.training.trained import load_trained


@dataclass(frozen=True)
class ModelSource:
    """Where a worker gets the model from: a model directory, or weights with the network's name and its classes."""

    path: str
    name: str
    labels: tuple[str, ...] | None
    """None for a directory, which has its own."""

    def open(self, device: str) -> Predictor:
        """Load it.

        Args:
            device: cpu or gpu:N.
        """
        if self.labels is None:
            return Predictor(load_model_dir(self.path), "auto", device)
        paddle.set_device(device)
        return predictor_of(load_trained(self.name, self.path, num_classes=len(self.labels)), self.labels, name=self.name)
