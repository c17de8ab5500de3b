"""The workers of one trial, started through Ray Train and let go when the trial is stopped or lost.

Ray Train's controller dies with the trial's process, but the reservation of its workers lives on until the job ends unless Ray's
own cleaner sees to it, and that needs Ray's dashboard, which a Ray started for one search has not. The next trial would wait for
ever. So each group of workers leaves a note of its reservation in the trial's folder, and the driver of the search gives it back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.util import get_current_placement_group, placement_group_table, remove_placement_group
from ray.util.placement_group import PlacementGroup

from rayseg.config.train import Settings
from rayseg.distributed.backend import PaddleBackend, PaddleConfig
from rayseg.distributed.trainer import train_on_ray
from rayseg.training.loop import FitResult, Report

log = logging.getLogger(__name__)
NOTE = ".reserved"


def train_noted(settings: Settings, report: Report) -> FitResult:
    """As `train_on_ray`, with a note of what its workers reserve."""
    note = Path(settings.general.output) / NOTE
    result = train_on_ray(settings, report=report, backend=NotedConfig(note=str(note)))
    note.unlink(missing_ok=True)
    return result


def release(folder: Path) -> bool:
    """End the workers that a trial has left behind and give back what they hold; returns whether there were any."""
    note = folder / NOTE
    if not note.exists():
        return False
    name = note.read_text(encoding="utf-8").strip()
    note.unlink(missing_ok=True)
    if placement_group_table().get(name, {}).get("state") in (None, "REMOVED"):
        return False
    remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(name)))
    log.info("%s: the workers were let go", folder)
    return True


@dataclass
class NotedConfig(PaddleConfig):
    """Of a group of workers that writes down what it reserves."""

    note: str = ""
    """File; empty for none."""

    @property
    def backend_cls(self) -> type[PaddleBackend]:
        return NotedBackend


class NotedBackend(PaddleBackend):
    """What Ray Train calls, in the controller, when a group starts."""

    def on_start(self, worker_group: Any, backend_config: PaddleConfig) -> None:
        """Write the note, then as always."""
        if isinstance(backend_config, NotedConfig) and backend_config.note:
            path = Path(backend_config.note)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(worker_group.execute_single(0, _reserved)), encoding="utf-8")
        super().on_start(worker_group, backend_config)


def _reserved() -> str:
    group = get_current_placement_group()
    return "" if group is None else str(group.id.hex())
