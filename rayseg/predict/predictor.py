"""A loaded model in one process: images -> network outputs, or all the way to results.

Preparing and finishing can run elsewhere (prepare.py, finish/); `run` is the part that needs the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial

import numpy as np

from rayseg.config.backends import PRECISIONS
from rayseg.predict import batches
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.backends.probe import check_runs
from rayseg.predict.backends.protocol import Backend
from rayseg.predict.execute import execute
from rayseg.predict.families import finish
from rayseg.predict.memory import used_share
from rayseg.predict.overlap import Overlapped
from rayseg.predict.prepare import Prepared, prepare
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Result

MAX_BATCH_PIXELS = 8 * 1024 * 1024
"""A batch is cut at this many input pixels (about 96 MB of float32 images); one image alone may have more."""


class Predictor:
    """A model that is loaded, probed and ready.

    Args:
        backend: one of `rayseg.config.backends.BACKENDS`; or an engine that is loaded already.
        device: cpu or gpu:N.
        threads: of a CPU engine.
        precision: of an engine that is loaded here: fp32, bf16 or fp16.
        least_score: nobody will ask for objects that do not exceed it, so an engine that is loaded here may be spared them.

    Raises:
        BackendError: no engine on this machine runs the model with right numbers.
        ModelError: its labels do not fit its outputs.
    """

    def __init__(
        self,
        spec: ModelSpec,
        backend: str | Backend = "auto",
        device: str = "cpu",
        threads: int = 2,
        precision: str = PRECISIONS[0],
        least_score: float = 0.0,
    ) -> None:
        self.spec = spec
        self._least_score = least_score
        if isinstance(backend, str):
            backend = open_backend(spec, backend, device=device, threads=threads, precision=precision, least_score=least_score)
        self._backend = backend
        self._sizes = batches.BatchSizes(used_share=partial(used_share, device))
        self.probe()

    @property
    def backend_name(self) -> str:
        """Which engine was chosen."""
        return self._backend.name

    @property
    def together(self) -> bool:
        """Whether it gives the network several images at once: the program takes them, and the engine gains by it."""
        return self.spec.any_batch and self._backend.batches

    def probe(self) -> None:
        """Run a made-up image to its result; raises when the engine is broken or the labels do not fit."""
        check_runs(self.spec, self._backend)

    def run(self, images: Sequence[Prepared], *, batch_size: int | None = None, min_score: float = 0.0) -> list[Raw]:
        """Network outputs of images of any sizes.

        Images of one network size share batches; no image's result depends on its batch-mates. An engine that runs out of
        memory gets the same images again, fewer at once.

        Args:
            batch_size: most images given to the network at once; None lets the engine's speed and memory decide. Programs
                that take one image, and engines that gain nothing from more, get them one by one.
            min_score: objects that do not exceed it, or the predictor's `least_score`, are dropped here, which makes Raws
                smaller.

        Returns:
            One Raw for each image, in order.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        min_score = max(min_score, self._least_score)
        if self.together:
            return self._run_together(images, batch_size or batches.MOST, min_score)
        found: dict[int, Raw] = {}
        for indices in batches.by_shape([image.network for image in images]).values():
            for i in indices:
                (found[i],) = execute(self.spec, self._backend, [images[i]], min_score=min_score)
        return [found[i] for i in range(len(images))]

    def _run_together(self, images: Sequence[Prepared], most: int, min_score: float) -> list[Raw]:
        alike = batches.by_shape([image.network for image in images])
        order = [i for indices in alike.values() for i in indices]
        with Overlapped(self.spec, self._backend, images, order, min_score=min_score) as engine:
            waiting: list[Future[list[Raw]]] = []
            for size, indices in alike.items():
                limit = min(most, max(1, MAX_BATCH_PIXELS // size.pixels))
                waiting += self._sizes.run(size, indices, engine.run, most=limit)
            raws = [raw for batch in dict.fromkeys(waiting) for raw in batch.result()]
        found = dict(zip(order, raws, strict=True))
        return [found[i] for i in range(len(images))]

    def predict(
        self, images: Sequence[np.ndarray], threshold: float | None = None, *, batch_size: int | None = None
    ) -> list[Result]:
        """Results of uint8 (H, W, 3) RGB images, in order; see `finish` for the threshold."""
        raws = self.run([prepare(self.spec, image) for image in images], batch_size=batch_size)
        return [finish(self.spec, raw, threshold) for raw in raws]
