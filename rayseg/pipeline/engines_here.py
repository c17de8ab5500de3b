"""Opening the engine that a job chose for the kind of machine a predictor runs on. How it is chosen is engine.py's."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from rayseg.config.backends import PRECISIONS
from rayseg.config.segment import SegmentSettings
from rayseg.errors import BackendError
from rayseg.predict.backends.choices import versions
from rayseg.predict.backends.choose import open_backend
from rayseg.predict.devices import Device, open_predictor
from rayseg.predict.machine import machine_kind
from rayseg.predict.predictor import Predictor
from rayseg.predict.spec import ModelSpec

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Chosen:
    """What a job runs on machines of one kind.

    Attributes:
        versions: of the packages it was tried with.
    """

    engine: str
    precision: str
    versions: Mapping[str, str]


def open_chosen(
    spec: ModelSpec, device: Device, settings: SegmentSettings, engines: Mapping[str, Chosen], *, threads: int
) -> Predictor:
    """The predictor of a job on this machine.

    Machines of a kind that nothing was chosen for, such as nodes that joined later, take what `auto` takes; so do those where
    the chosen engine does not open, with a line in the log.

    Args:
        engines: key of a machine kind -> choice.

    Raises:
        BackendError: no engine runs the model as asked.
    """
    least = spec.draw_threshold if settings.threshold is None else settings.threshold
    found = engines.get(machine_kind(str(device)).key) if engines and settings.backend == "auto" else None
    if found is not None:
        try:
            # It was checked on images of the job; with other packages than those it is checked again, on a made-up one.
            trusted = found.versions == versions()
            engine = open_backend(
                spec,
                found.engine,
                device=str(device),
                threads=threads,
                precision=found.precision,
                check=not trusted,
                least_score=least,
            )
            return Predictor(spec, engine, str(device), threads, least_score=least)
        except BackendError as error:
            if found.precision != PRECISIONS[0]:
                raise
            log.warning("%s: engine %s was chosen for this machine and does not open: %s", spec.name, found.engine, error)
    return open_predictor(
        spec, device, backend=settings.backend, threads=threads, precision=settings.precision, least_score=least
    )
