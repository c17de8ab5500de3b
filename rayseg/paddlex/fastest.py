"""`use_hpip=True`: the fastest engine of this machine that gives the plain engine's results, tried on the first images given.

A choice is remembered for the model and the kind of machine, so that a trial happens once; see rayseg.predict.backends.trial.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from rayseg.errors import BackendError
from rayseg.predict.backends import trial
from rayseg.predict.backends.choices import choice_file, remember, remembered
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.devices import Device
from rayseg.predict.machine import machine_kind
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)


class Fastest:
    """Finds the engine of one model.

    Args:
        devices: of one kind, cpu or gpu; each gets a predictor.
        threads: of a CPU engine.
        batch_size: most images given to the network at once.
        threshold: score an object must exceed; None is the model's.
    """

    def __init__(
        self, spec: ModelSpec, devices: Sequence[Device], *, threads: int, batch_size: int, threshold: float | None
    ) -> None:
        self._spec, self._devices = spec, tuple(devices)
        self._threads, self._threshold, self._batch_size = threads, threshold, batch_size
        where = devices[0]
        self._path = choice_file(
            spec,
            machine_kind(str(where)),
            device=where.kind,
            threads=threads,
            precision=trial.FP32,
            threshold=threshold,
            most=batch_size,
        )

    def known(self) -> list[Predictor] | None:
        """With the engine that was chosen before on such a machine; None where none was, or where it does not open."""
        choice = remembered(self._path)
        return None if choice is None else self._opened(choice)

    def tried(self, images: Sequence[np.ndarray]) -> list[Predictor] | None:
        """With the engine that is fastest and right on these images; None where engines cannot be tried.

        Args:
            images: uint8 (H, W, 3) RGB; at least one.
        """
        log.info("%s: trying engines on %d images, which takes up to some minutes and is done once", self._spec.name, len(images))
        try:
            choice = trial.try_engines(
                self._spec,
                [prepare(self._spec, image) for image in images],
                device=str(self._devices[0]),
                threads=self._threads,
                threshold=self._threshold,
                batches=[size for size in trial.BATCHES if size <= self._batch_size],
            )
        except BackendError as error:
            log.warning("%s: engines could not be tried: %s", self._spec.name, error)
            return None
        remember(self._path, choice)
        return self._opened(choice)

    def _opened(self, choice: trial.Choice) -> list[Predictor] | None:
        if choice.engine is None:
            return None
        try:
            return [self._open(choice.engine, device) for device in self._devices]
        except BackendError as error:
            log.warning("%s: engine %s was chosen and does not open: %s", self._spec.name, choice.engine, error)
            return None

    def _open(self, engine: str, device: Device) -> Predictor:
        backend = open_backend(self._spec, engine, device=str(device), threads=self._threads, precision=trial.FP32, check=False)
        return Predictor(self._spec, backend, str(device), self._threads)
