"""The best trial's weights and settings, where those of a training run would be: OUT/best_model and OUT/config.yaml."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import ray

from rayseg.config.train import load_settings
from rayseg.errors import OutputError
from rayseg.tuning.records import write_text

BEST, CONFIG, INFERENCE = "best_model", "config.yaml", "inference"


def keep_best(out: Path, trial: Path) -> Path:
    """Copy a trial's best weights to OUT/best_model, with an inference model that `rayseg segment --model` takes.

    A trial that was stopped early has not exported its weights; a task does so now.

    Raises:
        OutputError: the trial has no weights.
    """
    if not (trial / BEST).is_dir():
        raise OutputError(f"{trial / BEST}: the best trial's weights are gone; remove {trial} and start again to train it anew")
    if not (trial / BEST / INFERENCE / "inference.yml").exists():
        hidden = {"env_vars": {"CUDA_VISIBLE_DEVICES": ""}}
        ray.get(ray.remote(_export).options(num_cpus=0, runtime_env=hidden).remote(str(trial)))
    place, part, old = out / BEST, out / f".{BEST}.part-{os.getpid()}", out / f".{BEST}.old-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(trial / BEST, part)
    if place.exists():
        place.rename(old)
    part.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    settings = load_settings(trial / CONFIG)
    before, changes = str(trial), {"Global.output": str(out)}
    for section, values in settings.to_mapping().items():
        # The weights and folders that commands look for follow the output
        changes |= {
            f"{section}.{key}": value.replace(before, str(out), 1)
            for key, value in values.items()
            if isinstance(value, str) and value.startswith(f"{before}/")
        }
    write_text(out / CONFIG, settings.with_values(changes).to_yaml())
    return place


def _export(trial: str) -> None:
    """In a process of its own: the driver may be a machine without room for a network."""
    from rayseg.training.run import export_best, prepare

    job = prepare(load_settings(Path(trial) / CONFIG))
    export_best(job, job.row.build(len(job.sets.labels)))
