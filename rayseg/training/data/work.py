"""One image from its file to augmented arrays: a value that can be pickled and called in any process.

What it is called with is small; what it returns depends on nothing else. Where it is called is the business of loader.py
in one process and of rayseg/distributed in many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from rayseg.datasets.coco import CocoInstances, load_sample
from rayseg.datasets.files import Reader
from rayseg.datasets.sample import Sample, SemanticSample
from rayseg.datasets.semantic import SemanticPairs, load_pair
from rayseg.geometry import Size
from rayseg.models.preprocess import Preprocess
from rayseg.training.data.arrays import Arrays, pack, pack_labels
from rayseg.training.data.colour import distort
from rayseg.training.data.epoch import Stream, generator
from rayseg.training.data.look import look, look_at_labels
from rayseg.training.data.pipelines import Pipeline, Scene

INTERPOLATIONS = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}
"""By their names in `Preprocess`."""


@dataclass(frozen=True, eq=False)
class Work:
    """The images of a training set, unread.

    Attributes:
        references: one an image; small, and picklable.
        load: reference -> sample; picklable.
    """

    references: Sequence[Any]
    load: Callable[[Any], Sample | SemanticSample]


def instance_work(dataset: CocoInstances, *, read: Reader | None = None) -> Work:
    """The images of a COCO set.

    Args:
        read: reads files in place of the reader of the set.
    """
    return Work(dataset.images, partial(load_sample, class_of=dataset.class_of, read=read or dataset._read))


def semantic_work(dataset: SemanticPairs, *, read: Reader | None = None) -> Work:
    """The images of a list; see `instance_work`."""
    return Work(dataset.entries, partial(load_pair, num_classes=dataset.num_classes, read=read or dataset._read))


def held_work(samples: Sequence[Sample | SemanticSample]) -> Work:
    """Samples in memory. They travel whole, so this is for few images or for no worker processes."""
    return Work(samples, _itself)


@dataclass(frozen=True)
class Augmenter:
    """Loads one image and looks at it as its pipeline says."""

    load: Callable[[Any], Sample | SemanticSample]
    pipeline: Pipeline
    train_size: Size
    preprocess: Preprocess
    seed: int
    augment: bool = True
    """False: nothing at random."""

    def __call__(self, reference: Any, epoch: int, visit: int, step: int) -> Arrays:
        """Arrays of one look at one image; see arrays.py.

        Args:
            reference: of `Work.references`.
            epoch: from 0.
            visit, step: of `EpochOrder`.

        Raises:
            DatasetError: the image or its annotations cannot be read.
        """
        sample = self.load(reference)
        rng = generator(Stream.VISIT, self.seed, epoch, visit)
        boxes = sample.boxes_xyxy if isinstance(sample, Sample) else np.empty((0, 4), dtype=np.float32)
        scene = Scene(sample.size, boxes, self.train_size, rng, generator(Stream.STEP, self.seed, epoch, step))
        view = (self.pipeline.random if self.augment else self.pipeline.plain)(scene)
        distortion = self.pipeline.distortion if self.augment else None
        recolour = partial(distort, distortion=distortion, rng=rng) if distortion else None
        fill, interpolation = self.pipeline.fill, INTERPOLATIONS[self.preprocess.interpolation]
        if isinstance(sample, SemanticSample):
            seen = look_at_labels(sample, view, fill=fill, interpolation=interpolation, recolour=recolour)
            return pack_labels(seen)
        centred = self.pipeline.centred and self.augment
        found = look(sample, view, fill=fill, interpolation=interpolation, recolour=recolour, centred=centred)
        return pack(found, view.scale)


def _itself(sample: Sample | SemanticSample) -> Sample | SemanticSample:
    return sample
