"""How each family sees its training images: one function a recipe, and one table that says which family has which.

Numbers are those of PaddleDetection's and PaddleSeg's readers; sizes follow the training size, so that a small machine
trains on a smaller version of the same. Each function only chooses a view; look.py looks through it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from rayseg.errors import ConfigError, ModelError
from rayseg.geometry import Size, Window
from rayseg.models.zoo import ZooModel
from rayseg.training.data.colour import Distortion
from rayseg.training.data.cuts import crop_by_iou, crop_of, expansion
from rayseg.training.data.look import Rgb
from rayseg.training.data.view import View, cut, fitted, mirrored, stretched, whole

IMAGENET_GREY: Rgb = (124, 116, 104)
"""ImageNet's mean colour."""
MIDDLE_GREY: Rgb = (128, 128, 128)
"""127.5 would be exactly 0 after normalising; this is 0.004."""


@dataclass(frozen=True, eq=False)
class Scene:
    """What a view is chosen for.

    Attributes:
        size: of the image.
        boxes_xyxy: (G, 4), image pixels; none for a label map.
        train_size: as set.
        rng: of this visit to the image.
        step_rng: in the same state for all images of a step.
    """

    size: Size
    boxes_xyxy: np.ndarray
    train_size: Size
    rng: np.random.Generator
    step_rng: np.random.Generator


@dataclass(frozen=True)
class Pipeline:
    """One recipe. Functions are named in this file, so that a pipeline can be pickled."""

    random: Callable[[Scene], View]
    """The view of a training image."""
    plain: Callable[[Scene], View]
    """Nothing at random."""
    fill: Rgb = (0, 0, 0)
    """Beyond the image."""
    distortion: Distortion | None = None
    centred: bool = False
    """Objects whose centre is cut off are no targets."""
    mask_stride: int = 1
    """Masks reach the network at 1 / this of the size of the image; 1 or 4."""
    multiple: int = 1
    """Both numbers of the training size are multiples of this."""


# ---- instance


def short_side_of_several(scene: Scene) -> View:
    """Mask R-CNN: short side 0.8 to 1 of the set one in steps of 0.04 (640 to 800 by 32), long side limited; flip."""
    target = scene.train_size
    short = round(min(target.hw) * int(scene.rng.integers(20, 26)) / 25)
    return _flipped(fitted(whole(scene.size), Size(short, max(target.hw))), scene)


def short_side_fixed(scene: Scene) -> View:
    """SOLOv2: as for prediction, and flip."""
    return _flipped(fitted_whole(scene), scene)


def square_around_objects(scene: Scene) -> View:
    """PP-YOLOE_seg: expansion, crop by IoU, flip, stretched to the training size."""
    return stretched(_around_objects(scene, crop=1.0), scene.train_size)


def squares_of_the_step(scene: Scene) -> View:
    """Mask-RT-DETR: the same with a crop in 4 of 5 images, and one size for all images of a step."""
    return stretched(_around_objects(scene, crop=0.8), step_size(scene.train_size, scene.step_rng))


def step_size(train_size: Size, rng: np.random.Generator) -> Size:
    """One of the sizes 0.75 to 1.25 times the training size whose height is a multiple of 32, the middle one three times as
    likely: 480 to 800 for 640."""
    low, high = -(-train_size.height * 3 // 128), train_size.height * 5 // 128
    heights = [32 * k for k in range(low, high + 1)] + [train_size.height] * 2
    height = heights[rng.integers(len(heights))]
    return Size(height, max(32, round(train_size.width * height / train_size.height / 32) * 32))


# ---- semantic


def steps_of_scale(scene: Scene) -> View:
    """PaddleSeg's own: scale 0.5 to 2 in steps of 0.25, crop of the training size, flip."""
    scale = 0.25 * int(scene.rng.integers(2, 9))
    return _crop_flipped(Size(*(max(1, round(side * scale)) for side in scene.size.hw)), scene)


def short_side_of_many(scene: Scene) -> View:
    """MaskFormer: short side 0.5 to 2 of the training size in steps of 0.1 (256 to 1024 for 512), long side at most 4; crop,
    flip."""
    least = min(scene.train_size.hw)
    target = Size(least * int(scene.rng.integers(5, 21)) // 10, 4 * least)
    return _crop_flipped(fitted(whole(scene.size), target).size, scene)


# ---- nothing at random


def fitted_whole(scene: Scene) -> View:
    """Short side and long side as set."""
    return fitted(whole(scene.size), scene.train_size)


def stretched_whole(scene: Scene) -> View:
    """To the training size, whatever that does to the ratio."""
    return stretched(whole(scene.size), scene.train_size)


def padded_whole(scene: Scene) -> View:
    """Fitted into the training size by one factor, padded at the right and the bottom."""
    height, width = scene.train_size.hw
    scale = min(height / scene.size.height, width / scene.size.width)
    size = Size(*(min(limit, max(1, round(s * scale))) for s, limit in zip(scene.size.hw, (height, width), strict=True)))
    return cut(stretched(whole(scene.size), size), Window.of(scene.train_size))


# ---- the table

_RCNN = Pipeline(short_side_of_several, fitted_whole)
_SEG = Pipeline(steps_of_scale, padded_whole, MIDDLE_GREY, Distortion(0.4, 0.4, 0.4, 18, each=0.5))

PIPELINES: dict[str, Pipeline] = {
    "Mask R-CNN": _RCNN,
    "Mask R-CNN C4": _RCNN,
    "Cascade Mask R-CNN": _RCNN,
    "SOLOv2": Pipeline(short_side_fixed, fitted_whole),
    "Mask-RT-DETR": Pipeline(
        squares_of_the_step,
        stretched_whole,
        IMAGENET_GREY,
        Distortion(0.5, 0.5, 0.5, 18, each=0.5, share=0.8),
        centred=True,
        multiple=32,
    ),
    "PP-YOLOE_seg": Pipeline(
        square_around_objects,
        stretched_whole,
        IMAGENET_GREY,
        Distortion(0.5, 0.5, 0.5, 18, each=0.5),
        centred=True,
        mask_stride=4,
        multiple=32,
    ),
    "DeepLabV3": _SEG,
    "DeepLabV3+": _SEG,
    "OCRNet": _SEG,
    "PP-LiteSeg": _SEG,
    "SegFormer": _SEG,
    "SeaFormer": _SEG,
    "MaskFormer": Pipeline(short_side_of_many, stretched_whole, MIDDLE_GREY, Distortion(0.125, 0.5, 0.5, 18)),
}
"""By family, as models/zoo.py names them."""


def pipeline_of(row: ZooModel, train_size: Size) -> Pipeline:
    """The pipeline of a network.

    Raises:
        ConfigError: the training size does not suit it.
        ModelError: its family has no pipeline.
    """
    if row.family not in PIPELINES:
        raise ModelError(f"{row.name}: the family {row.family!r} has no augmentation; known: {', '.join(PIPELINES)}")
    pipeline = PIPELINES[row.family]
    if any(side % pipeline.multiple for side in train_size.hw):
        raise ConfigError(
            f"Train.train_size {list(train_size.hw)}: {row.name} takes multiples of {pipeline.multiple}, such as "
            f"{[max(1, round(side / pipeline.multiple)) * pipeline.multiple for side in train_size.hw]}"
        )
    return pipeline


def _around_objects(scene: Scene, *, crop: float) -> View:
    view = whole(scene.size)
    if scene.rng.random() < 0.5:
        view = cut(view, expansion(view.size, scene.rng))
    if scene.rng.random() < crop:
        view = cut(view, crop_by_iou(view.boxes(scene.boxes_xyxy), view.size, scene.rng))
    return _flipped(view, scene)


def _crop_flipped(size: Size, scene: Scene) -> View:
    view = stretched(whole(scene.size), size)
    return _flipped(cut(view, crop_of(size, scene.train_size, scene.rng)), scene)


def _flipped(view: View, scene: Scene) -> View:
    return mirrored(view) if scene.rng.random() < 0.5 else view
