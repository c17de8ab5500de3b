"""A network as training left it: its weights, all of them, and the names of its classes."""

from __future__ import annotations

from pathlib import Path

from rayseg.config.train import Settings
from rayseg.errors import WeightsError
from rayseg.models.network import InstanceNetwork, SemanticNetwork
from rayseg.models.weights import load_weights
from rayseg.models.zoo import find_model
from rayseg.predict.model_dir import load_model_dir
from rayseg.training.sets import open_sets

INFERENCE = "inference"


def load_trained(name: str, weights: str, *, num_classes: int) -> InstanceNetwork | SemanticNetwork:
    """A network of the zoo in eval mode, with every parameter from a file.

    Args:
        weights: see `load_weights`.

    Raises:
        ModelError: no such network.
        WeightsError: see `load_weights`; or the file leaves parameters untrained, being for other classes or a backbone.
    """
    network = find_model(name).build(num_classes)
    loaded = load_weights(network, weights)
    if loaded.unset:
        raise WeightsError(
            f"{weights} leaves {len(loaded.unset)} parameters without trained values, such as {loaded.unset[0]}; "
            f"it was made for another number of classes than the {num_classes} asked for, or is a backbone alone"
        )
    network.eval()
    return network


def labels_of(settings: Settings, weights: str) -> tuple[str, ...]:
    """Names of the classes that weights were trained on.

    They stand in the inference directory that training writes beside its weights; else the data set of the settings has
    them; else they are numbered, as many as Train.num_classes or the published weights have.

    Args:
        settings: effective ones.
        weights: path, URL or name.
    """
    beside = Path(weights).parent / INFERENCE
    if (beside / "inference.yml").is_file():
        return tuple(load_model_dir(beside).labels)
    if settings.general.dataset_dir is not None:
        return open_sets(settings).labels
    row = find_model(settings.general.model)
    return numbered(settings.train.num_classes or row.num_classes)


def numbered(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(f"class_{index}" for index in range(count))
