"""One batch through one engine: images in, Raws out. Which images share a batch is predictor.py's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rayseg.predict.backends.protocol import Backend
from rayseg.predict.families import split_outputs
from rayseg.predict.prepare import Prepared, to_input
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec


def execute(spec: ModelSpec, backend: Backend, batch: Sequence[Prepared], *, min_score: float = 0.0) -> list[Raw]:
    """Run images of one network size together.

    Raises:
        BackendError: the outputs make no sense. What the engine itself raises passes through.
    """
    return split_outputs(spec, backend.run(feed(spec, batch)), batch, min_score=min_score)


def feed(spec: ModelSpec, batch: Sequence[Prepared], *, made: Sequence[np.ndarray] | None = None) -> dict[str, np.ndarray]:
    """The program's inputs for a batch, by name; whichever of them is not im_shape or scale_factor is the image.

    Args:
        batch: of one network size.
        made: float32 (3, H, W) of each image, as `to_input` gives it, where that is done.
    """
    makers = {"im_shape": lambda image: image.im_shape, "scale_factor": lambda image: image.scale_factor}
    found = {name: np.stack([makers[name](image) for image in batch]) for name in spec.inputs if name in makers}
    for name in set(spec.inputs) - set(makers):
        found[name] = np.empty((len(batch), 3, *batch[0].network.hw), dtype=np.float32)
        for n, (image, place) in enumerate(zip(batch, found[name], strict=True)):
            if made is None:
                to_input(spec, image, out=place)
            else:
                place[...] = made[n]
    return found
