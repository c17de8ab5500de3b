"""The training and validation images that settings name, with their classes checked against each other."""

from __future__ import annotations

from dataclasses import dataclass

from rayseg.config.train import Settings
from rayseg.datasets.coco import CocoInstances
from rayseg.datasets.files import Reader, read_local
from rayseg.datasets.layout import CLASS_FILES, Exists, find_instance, find_semantic
from rayseg.datasets.semantic import SemanticPairs
from rayseg.errors import ConfigError
from rayseg.models.zoo import find_model


@dataclass(frozen=True)
class Sets:
    """Annotated images.

    Attributes:
        train, val: both of one kind.
        labels: names of the classes by index.
    """

    train: CocoInstances | SemanticPairs
    val: CocoInstances | SemanticPairs
    labels: tuple[str, ...]


def open_sets(settings: Settings, *, read: Reader = read_local, exists: Exists | None = None) -> Sets:
    """Open what `Global` names; images are read later, one by one.

    Args:
        read, exists: how files are read and looked for, where they are not on a local disk.

    Raises:
        ConfigError: no data set is named, or `Train.num_classes` says something else than the data.
        DatasetError: files are missing or bad.
    """
    general = settings.general
    if general.dataset_dir is None:
        raise ConfigError("Global.dataset_dir is not set; name the folder of the data set")
    look = {} if exists is None else {"exists": exists}
    where = {"image_dir": general.image_dir, "train": general.train_annotations, "val": general.val_annotations}
    wanted = settings.train.num_classes
    if find_model(general.model).task == "instance":
        found = find_instance(general.dataset_dir, **where, **look)  # type: ignore[arg-type]
        train = CocoInstances(found.train.annotations, found.train.images, read=read)
        val = CocoInstances(found.val.annotations, found.val.images, like=train, read=read)
        if wanted is not None and wanted != len(train.labels):
            raise ConfigError(
                f"Train.num_classes is {wanted}, but {found.train.annotations} has {len(train.labels)} categories "
                f"({', '.join(train.labels[:5])}{', ...' if len(train.labels) > 5 else ''}); background does not count"
            )
        return Sets(train, val, train.labels)
    lists = find_semantic(general.dataset_dir, **where, read=read, **look)  # type: ignore[arg-type]
    names = lists.class_names
    if wanted is None and names is None:
        raise ConfigError(
            f"Train.num_classes is not set, and {general.dataset_dir} has no {', '.join(CLASS_FILES[:-1])} or {CLASS_FILES[-1]} "
            "with the names of its classes, one a line; give either"
        )
    if wanted is not None and names is not None and wanted != len(names):
        raise ConfigError(f"Train.num_classes is {wanted}, but the data set names {len(names)} classes: {', '.join(names)}")
    labels = names or tuple(str(index) for index in range(wanted or 0))
    pairs = [SemanticPairs(part, lists.images, num_classes=len(labels), read=read) for part in (lists.train, lists.val)]
    return Sets(pairs[0], pairs[1], labels)
