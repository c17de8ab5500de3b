"""Batches for a model of the zoo: its pipeline, its normalisation and the shape of its targets, put together."""

from __future__ import annotations

from rayseg.geometry import Size
from rayseg.models.preprocess import Preprocess
from rayseg.models.zoo import ZooModel
from rayseg.training.data.collate import Collate
from rayseg.training.data.epoch import EpochOrder, Last
from rayseg.training.data.loader import Batches
from rayseg.training.data.pipelines import pipeline_of
from rayseg.training.data.work import Augmenter, Work


def make_batches(
    row: ZooModel,
    work: Work,
    *,
    batch_size: int,
    train_size: Size,
    seed: int,
    augment: bool = True,
    preprocess: Preprocess | None = None,
    rank: int = 0,
    size: int = 1,
    workers: int = 0,
    last: Last = "fill",
) -> Batches:
    """One worker's batches.

    Args:
        train_size: of crops or stretched images; for Mask R-CNN and SOLOv2 short side and long side.
        augment: False changes nothing at random but the order.
        preprocess: the network's own, where it differs from the table's.
        rank, size: this worker and the number of workers.
        workers: processes that prepare images; 0 prepares them where batches are asked for.
        last: what happens to the last step of an epoch; see `EpochOrder`.

    Raises:
        ConfigError: a number that cannot be.
        DatasetError: there are no images.
    """
    pipeline, preprocess = pipeline_of(row, train_size), preprocess or row.preprocess
    return Batches(
        work.references,
        Augmenter(work.load, pipeline, train_size, preprocess, seed, augment),
        Collate(row.task, preprocess, pipeline.mask_stride),
        EpochOrder(len(work.references), batch_size, rank=rank, size=size, seed=seed, last=last),
        workers=workers,
    )
