"""Trials that train a toy in no time: the real loop with the real plan, but no images. The score follows from the settings alone.

Everything is importable by name, since trials run in processes of their own.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import paddle

from rayseg.config.train import Settings
from rayseg.errors import DatasetError
from rayseg.training.loop import FitResult, Report, fit
from rayseg.training.plan import plan_from
from tests.training.toys import Toy, ToyData

STARTS, GO_ON = "starts.txt", "go-on"
BEST_RATE, BEST_LENGTH = 0.02, 6


def settings_for(output: Path, data: Path, *, search: dict[str, Any], **train: Any) -> Settings:
    """A search over toys that pass for a network of the zoo; two trials at a time on a Ray with four CPUs."""
    usual = {"num_classes": 2, "epochs_iters": 4, "batch_size": 8, "learning_rate": 0.01, "scale_rate": False, "workers": 0}
    usual |= {"pretrain_weight_path": "scratch", "eval_interval": 1, "log_interval": 1, "warmup_steps": 0, "clip": 0.5}
    return Settings.from_mapping(
        {
            "Global": {"model": "PP-LiteSeg-T", "dataset_dir": str(data), "output": str(output), "device": "cpu"},
            "Train": {**usual, **train},
            "Cluster": {"cpus_per_worker": 2.0},
            "Search": search,
        }
    )


def score_of(settings: Settings, step: int) -> float:
    """Best at one rate and one length, and better with every step."""
    train = settings.train
    assert train.learning_rate and train.epochs_iters
    off = abs(train.learning_rate - BEST_RATE) * 10 + abs(train.epochs_iters - BEST_LENGTH) / 100
    return 1 / (1 + off) * step / (step + 1)


def train_toy(settings: Settings, report: Report) -> FitResult:
    """Trains as `rayseg.training.run.train` does, and writes down that it was started.

    Some settings do harm: weight_decay 0.5 raises, 0.25 ends the process, 0.75 waits before its third step for a file beside the
    trials, so that a test can kill the driver meanwhile.
    """
    folder = Path(settings.general.output)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / STARTS).open("a") as file:
        file.write(f"{os.getpid()}\n")
    (folder / "config.yaml").write_text(settings.to_yaml())
    steps = {"n": 0}

    def told(event: dict[str, Any]) -> None:
        steps["n"] = event["step"]
        if event["event"] == "step":
            harm(settings, event["step"])
        report(event)

    paddle.seed(5)
    result = fit(
        Toy(),
        plan_from(settings),
        batches=ToyData(),
        folder=folder,
        evaluate=lambda network: {"miou": score_of(settings, steps["n"])},
        report=told,
        settings=settings.to_mapping(),
    )
    export(folder)
    return result


def train_otherwise(settings: Settings, report: Report) -> FitResult:
    """Does not do as it is told: the rate it trains with is another."""
    rate = 2 * float(settings.train.learning_rate or 0)
    return train_toy(settings.with_values({"Train.learning_rate": rate}), report)


def harm(settings: Settings, step: int) -> None:
    decay = settings.train.weight_decay
    if decay == 0.5 and step == 2:
        raise DatasetError("the <b>data</b> are gone")
    if decay == 0.25 and step == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    if decay == 0.75 and step == 3:
        while not (Path(settings.general.output).parent / GO_ON).exists():
            time.sleep(0.05)


def export(folder: Path) -> None:
    place = folder / "best_model" / "inference"
    place.mkdir(parents=True, exist_ok=True)
    (place / "inference.yml").write_text("made: up\n")


def starts(out: Path, trial: str) -> int:
    """How often a trial was started."""
    path = out / "trials" / trial / STARTS
    return len(path.read_text().splitlines()) if path.exists() else 0
