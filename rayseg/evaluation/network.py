"""A network in memory as a loaded predictor: what its export would be, without writing it.

Preprocessing, inputs and outputs are taken from the description that export.py writes into a directory, so that both
give the same results. The network runs operator by operator, which is slower than the engine a directory runs on.
"""

from __future__ import annotations

from collections.abc import Sequence

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.paddle_eager import PaddleEager
from rayseg.predict.export import Network, describe
from rayseg.predict.families import FAMILIES
from rayseg.predict.predictor import Predictor
from rayseg.predict.preprocess import read_instance_steps, read_semantic_steps
from rayseg.predict.spec import ModelSpec


def predictor_of(network: Network, labels: Sequence[str], *, name: str = "network", batches: bool | None = None) -> Predictor:
    """A predictor of a network's present weights; training the network on changes nothing of it.

    Args:
        network: one of the zoo, in any mode, which it keeps.
        labels: name of each class id.
        batches: give it several images at once; None does so where the network is on a GPU.

    Raises:
        ModelError: labels that are not as many as its classes, or no network of the zoo.
        BackendError: its outputs are not finite numbers.
    """
    layer, inputs, config = describe(network, "lean", None)
    if len(labels) != network.num_classes:
        raise ModelError(f"{name} tells {network.num_classes} classes apart, got {len(labels)} labels: {', '.join(labels)[:80]}")
    family = FAMILIES[network.family, "lean"]
    semantic = family.task == "semantic"
    steps = (
        read_semantic_steps(config["Deploy"]["transforms"], name) if semantic else read_instance_steps(config["Preprocess"], name)
    )
    image = list(inputs[0].shape)
    spec = ModelSpec(
        path=name,
        name=name,
        task=family.task,
        family=family.name,
        flavour=family.flavour,
        labels=tuple(labels),
        draw_threshold=0.0 if semantic else float(config["draw_threshold"]),
        steps=steps,
        inputs=tuple(found.name for found in inputs),
        fixed_input=Size(*image[2:]) if all(side not in (None, -1) for side in image[2:]) else None,
        any_batch=family.any_batch,
        fingerprint="",
    )
    on_gpu = any(parameter.place.is_gpu_place() for parameter in network.parameters()[:1])
    return Predictor(spec, PaddleEager(layer, spec.inputs, batches=on_gpu if batches is None else batches))
