"""Batches from Ray tasks are those of one process, whatever happens to the tasks."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import ray

from rayseg.datasets.sample import SemanticSample
from rayseg.distributed.tasks import TaskBatches, task_cpus
from rayseg.errors import ConfigError, DatasetError
from rayseg.geometry import Size
from rayseg.models.zoo import find_model
from rayseg.training.data.build import make_batches
from rayseg.training.data.loader import Batches
from rayseg.training.data.work import Work

IMAGES = 7


def sample(index: int) -> SemanticSample:
    rng = np.random.default_rng(index)
    image = rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return SemanticSample(image=image, labels=(image[..., 0] > 99).astype(np.uint8), name=f"{index}.png")


def recipe(load, *, rank: int = 0, size: int = 1, batch_size: int = 3) -> Batches:
    work = Work(range(IMAGES), load)
    row = find_model("PP-LiteSeg-T")
    return make_batches(row, work, batch_size=batch_size, train_size=Size(32, 32), seed=4, rank=rank, size=size)


def dies_once(marks: Path, index: int) -> SemanticSample:
    mark = marks / str(index)
    if not mark.exists():
        mark.touch()
        if index == 2:
            os.kill(os.getpid(), signal.SIGKILL)
    return sample(index)


def unreadable(index: int) -> SemanticSample:
    if index == 5:
        raise DatasetError("5.png: cut short")
    return sample(index)


def assert_equal(found, wanted):
    found, wanted = list(found), list(wanted)
    assert len(found) == len(wanted) > 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.targets, other.targets)


@pytest.mark.parametrize("epoch, start, rank, size", [(0, 0, 0, 1), (3, 1, 0, 1), (1, 0, 1, 2)])
def test_tasks_make_the_batches_of_one_process(ray_local, epoch, start, rank, size):
    one = recipe(sample, rank=rank, size=size)
    tasks = TaskBatches(one, tasks=2, cpus=0.5)
    assert tasks.steps_per_epoch == one.steps_per_epoch
    assert_equal(tasks(epoch, start=start), one(epoch, start=start))


def test_a_task_that_is_killed_is_run_again_and_changes_nothing(ray_local, tmp_path):
    from functools import partial

    dying = recipe(partial(dies_once, tmp_path))
    assert_equal(TaskBatches(dying, tasks=2)(0), recipe(sample)(0))
    assert (tmp_path / "2").exists()


def test_an_image_that_cannot_be_read_ends_the_epoch_with_its_name(ray_local):
    with pytest.raises(DatasetError, match="5.png: cut short"):
        list(TaskBatches(recipe(unreadable), tasks=1)(0))


def test_an_epoch_may_be_left_in_the_middle(ray_local):
    batches = TaskBatches(recipe(sample), tasks=2)
    stream = batches(0)
    first = next(stream)
    stream.close()
    np.testing.assert_array_equal(first.inputs, next(batches(0)).inputs)


def test_tasks_share_what_is_free_and_reserve_nothing_when_nothing_is(ray_local, monkeypatch):
    for free, tasks, wanted in [(8.0, 4, 1.0), (1.0, 4, 0.25), (1.0, 3, 0.3333), (0.0, 2, 0.0)]:
        monkeypatch.setattr(ray, "available_resources", lambda free=free: {"CPU": free} if free else {})
        assert task_cpus(tasks) == wanted


def test_no_tasks_are_refused(ray_local):
    with pytest.raises(ConfigError, match="Train.workers is 0"):
        TaskBatches(recipe(sample), tasks=0)
