"""Batches are the same wherever they are made, entered anywhere, and never pile up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import paddle
import pytest

from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.sample import Sample, SemanticSample
from rayseg.datasets.semantic import SemanticPairs
from rayseg.errors import ConfigError, DatasetError, RaysegError
from rayseg.geometry import Size
from rayseg.models.zoo import MODELS, find_model
from rayseg.rle import encode
from rayseg.training.data.build import make_batches
from rayseg.training.data.collate import Batch
from rayseg.training.data.epoch import EpochOrder
from rayseg.training.data.loader import Batches
from rayseg.training.data.work import held_work, instance_work, semantic_work
from rayseg.training.source import to_tensors
from tests.training.data.scenes import discs, stripes

SMALLEST = list({row.family: row.name for row in reversed(MODELS.values())}.values())
SMALL = Size(64, 96)


def flat(batch: Batch) -> list[np.ndarray]:
    return [array for part in batch for array in (part.values() if isinstance(part, dict) else [part])]


def same(one: Iterable[Batch], other: Iterable[Batch]) -> bool:
    """Equally many batches, equal in all arrays."""
    pairs = [pair for batches in zip(one, other, strict=True) for pair in zip(*map(flat, batches), strict=True)]
    return all(np.array_equal(a, b) for a, b in pairs)


def samples_for(name: str) -> list[Sample] | list[SemanticSample]:
    """Five images of different heights."""
    if find_model(name).task == "instance":
        return [discs(i, height=60 + 10 * i) for i in range(5)]
    return [stripes(Size(50 + i, 80)) for i in range(5)]


def held(name: str, **options) -> Batches:
    settings = {"batch_size": 2, "train_size": SMALL, "seed": 3, **options}
    return make_batches(find_model(name), held_work(samples_for(name)), **settings)


@pytest.fixture
def on_disk(tmp_path) -> CocoInstances:
    """Five pictures of discs in files."""
    images, annotations = [], []
    for i in range(5):
        sample = discs(i)
        cv2.imwrite(str(tmp_path / f"{i}.png"), sample.image)
        images.append({"id": i, "file_name": f"{i}.png", "height": sample.size.height, "width": sample.size.width})
        for mask in sample.full_masks():
            found = encode(mask.astype(np.uint8)).to_coco()
            segmentation = {"size": found["size"], "counts": found["counts"].decode()}
            annotations.append({"id": len(annotations) + 1, "image_id": i, "category_id": 1, "segmentation": segmentation})
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "disc"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return CocoInstances(tmp_path / "set.json", tmp_path)


@pytest.fixture
def pairs(tmp_path) -> SemanticPairs:
    """Five label maps of two classes in files."""
    tmp_path = tmp_path / "pairs"
    tmp_path.mkdir()
    for i in range(5):
        sample = stripes(Size(40 + i, 60))
        cv2.imwrite(str(tmp_path / f"{i}.png"), sample.image)
        cv2.imwrite(str(tmp_path / f"{i}_mask.png"), (sample.labels > 30).astype(np.uint8))
    (tmp_path / "train.txt").write_text("".join(f"{i}.png {i}_mask.png\n" for i in range(5)))
    return SemanticPairs(tmp_path / "train.txt", tmp_path, num_classes=2)


@pytest.mark.parametrize("name", SMALLEST)
def test_every_family_gets_arrays_of_the_shape_its_loss_takes(name):
    row = find_model(name)
    for batch in held(name)(0):
        image = batch.inputs["image"] if row.task == "instance" else batch.inputs
        assert image.dtype == np.float32 and image.shape[:2] == (2, 3) and np.isfinite(image).all()
        if row.task == "semantic":
            assert batch.targets.shape == (2, *image.shape[2:]) and batch.targets.dtype == np.int64
            continue
        targets = batch.targets
        slots = targets["gt_bbox"].shape[1]
        stride = image.shape[2] // targets["gt_segm"].shape[2]
        assert stride in (1, 4) and targets["gt_segm"].shape == (2, slots, image.shape[2] // stride, image.shape[3] // stride)
        assert targets["gt_class"].shape == targets["pad_gt_mask"].shape == (2, slots, 1)
        assert batch.inputs["im_shape"].shape == batch.inputs["scale_factor"].shape == (2, 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALLEST)
def test_the_loss_of_every_family_takes_its_batches(name):
    row = find_model(name)
    samples = [
        replace(s, classes=s.classes % 2) if isinstance(s, Sample) else replace(s, labels=s.labels % 2) for s in samples_for(name)
    ]
    paddle.seed(0)
    network = row.build(2)
    network.train()
    batches = make_batches(
        row, held_work(samples), batch_size=2, train_size=Size(128, 160), seed=0, preprocess=network.preprocess
    )
    batch = next(batches(0))
    losses = network.loss(to_tensors(batch.inputs), to_tensors(batch.targets))
    assert np.isfinite(float(losses["loss"])) and float(losses["loss"]) > 0


@pytest.mark.parametrize("name", ["Mask-RT-DETR-S", "PP-LiteSeg-T"])
def test_an_epoch_is_the_same_whenever_it_is_asked_for_and_wherever_it_is_entered(name):
    batches = held(name)
    list(batches(0))
    whole = list(batches(1))
    assert len(whole) == batches.steps_per_epoch == 3
    for start in range(4):
        assert same(whole[start:], held(name)(1, start=start))
    assert not same(whole, batches(2)) and not same(whole, held(name, seed=4)(1))


@pytest.mark.parametrize("name", ["Mask-RT-DETR-S", "PP-YOLOE_seg-S", "PP-LiteSeg-T"])
def test_two_workers_see_what_one_with_both_their_batches_sees(name):
    alone = list(held(name, batch_size=4)(1))
    ranks = [list(held(name, batch_size=2, rank=r, size=2)(1)) for r in range(2)]
    for number, whole in enumerate(alone):
        images = whole.inputs["image"] if isinstance(whole.inputs, dict) else whole.inputs
        for rank, batches in enumerate(ranks):
            found = batches[number].inputs["image"] if isinstance(whole.inputs, dict) else batches[number].inputs
            assert np.array_equal(found, images[rank::2])


def test_processes_make_the_same_batches_as_the_caller(on_disk, pairs):
    for name, work in (("Mask-RT-DETR-S", instance_work(on_disk)), ("PP-LiteSeg-T", semantic_work(pairs))):
        options = {"batch_size": 2, "train_size": SMALL, "seed": 3}
        here = make_batches(find_model(name), work, **options)
        with make_batches(find_model(name), work, **options, workers=2) as there:
            for epoch in range(2):
                assert same(here(epoch), there(epoch))
            assert same(here(1, start=2), there(1, start=2))


def test_an_error_in_a_process_reaches_the_caller_and_the_next_epoch_can_be_had(on_disk, tmp_path):
    (tmp_path / "2.png").rename(tmp_path / "gone.png")
    with make_batches(find_model("SOLOv2"), instance_work(on_disk), batch_size=2, train_size=SMALL, seed=0, workers=1) as batches:
        with pytest.raises(DatasetError, match="2.png: image 2 of the annotations is not there"):
            list(batches(0))
        (tmp_path / "gone.png").rename(tmp_path / "2.png")
        assert len(list(batches(0))) == 3


def test_a_killed_process_is_an_error_with_a_remedy_and_the_next_epoch_can_be_had(on_disk):
    with make_batches(find_model("SOLOv2"), instance_work(on_disk), batch_size=1, train_size=SMALL, seed=0, workers=1) as batches:
        epoch = batches(0)  # five batches, of which three at most are under way
        next(epoch)
        (process,) = (member.process for member in batches._pool.members)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with pytest.raises(RaysegError, match="a process that prepares images died; .* Lower Train.workers"):
            list(epoch)
        assert len(list(batches(0))) == 5


def test_processes_end_when_the_parent_is_killed(on_disk, tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys\n"
        "from rayseg.datasets.coco import CocoInstances\n"
        "from rayseg.geometry import Size\n"
        "from rayseg.models.zoo import find_model\n"
        "from rayseg.training.data.build import make_batches\n"
        "from rayseg.training.data.work import instance_work\n"
        "if __name__ == '__main__':\n"
        "    work = instance_work(CocoInstances(sys.argv[1] + '/set.json', sys.argv[1]))\n"
        "    batches = make_batches(find_model('SOLOv2'), work, batch_size=2, train_size=Size(64, 96), seed=0, workers=2)\n"
        "    next(batches(0))\n"
        "    print(*[m.process.pid for m in batches._pool.members], flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=False,
    )
    children = [int(pid) for pid in done.stdout.split()]
    assert len(children) == 2, done.stderr
    for _ in range(200):
        if not any(_alive(pid) for pid in children):
            break
        time.sleep(0.05)
    assert not any(_alive(pid) for pid in children)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@dataclass
class CountingPool:
    """In place of processes: works when asked for the result, and counts what is under way."""

    under_way: int = 0
    most: int = 0

    def submit(self, *args) -> Future:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        future: Future = Future()
        future.result = lambda: self._finish(args)  # type: ignore[method-assign]
        return future

    def _finish(self, args):
        self.under_way -= 1
        return args

    def close(self) -> None:
        """Nothing runs."""


def counted(images: int, batch_size: int, workers: int) -> tuple[Batches, CountingPool]:
    order = EpochOrder(images, batch_size)
    batches = Batches(range(images), lambda *a: a, list, order, workers=workers)  # type: ignore[arg-type]
    batches._pool = pool = CountingPool()  # type: ignore[assignment]
    return batches, pool


@pytest.mark.parametrize("batch_size, workers", [(1, 1), (4, 2), (3, 5)])
def test_images_ahead_are_bounded_and_come_in_order(batch_size, workers):
    batches, pool = counted(60, batch_size, workers)
    found = [args for batch in batches(0) for args in batch]
    assert pool.most == batches.most_in_flight == batch_size + 2 * workers
    assert pool.under_way == 0
    wanted = [(v % 60, 0, v, step.number) for step in batches.order.steps(0) for v in step.visits]
    assert found == wanted


def test_an_epoch_that_is_left_early_leaves_no_thread():
    batches, _ = counted(60, 2, 2)
    epoch = batches(0)
    next(epoch)
    epoch.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rayseg-stack")]


def test_numbers_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="Train.workers is -1"):
        held("SOLOv2", workers=-1)
    with pytest.raises(ConfigError, match="an order of 3 images was given 2 of them"):
        Batches([1, 2], lambda *a: {}, list, EpochOrder(3, 1))  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match="no images"):
        make_batches(find_model("SOLOv2"), held_work([]), batch_size=1, train_size=SMALL, seed=0)


def test_nothing_that_prepares_images_loads_paddle_or_ray():
    code = (
        "import sys, rayseg.training.data.build, rayseg.training.data.zoom_crop\n"
        "assert not {'paddle', 'ray'} & set(sys.modules), sorted({'paddle', 'ray'} & set(sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
