"""Small data sets for tests: COCO dicts, LabelMe files, VOC folders, written where a test wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rayseg import rle
from rayseg.datasets.index_mask import write_index_mask

HEIGHT, WIDTH = 24, 32


def picture(seed: int = 0, *, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def write_image(path: Path, seed: int = 0, **size: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), picture(seed, **size))
    return path


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def coco_rle(mask: np.ndarray) -> dict[str, Any]:
    found = rle.encode(mask)
    return {"size": list(found.size.hw), "counts": found.counts.decode()}


def annotation(
    number: int, image_id: int = 1, category_id: int = 1, x: float = 2, y: float = 3, side: float = 8, **changes
) -> dict:
    out = {
        "id": number,
        "image_id": image_id,
        "category_id": category_id,
        "segmentation": [square(x, y, side)],
        "bbox": [x, y, side, side],
        "area": side * side,
        "iscrowd": 0,
    }
    return {key: value for key, value in (out | changes).items() if value is not ...}


def coco(names: Sequence[str] = ("a.png",), *, categories: Mapping[int, str] | list | None = None, **changes) -> dict:
    """One object in each image; ids count from 1."""
    named = {1: "nut", 2: "fig"} if not isinstance(categories, Mapping) else categories
    out = {
        "images": [{"id": i, "file_name": name, "height": HEIGHT, "width": WIDTH} for i, name in enumerate(names, 1)],
        "categories": categories if isinstance(categories, list) else [{"id": i, "name": name} for i, name in named.items()],
        "annotations": [annotation(i, i, 1 + i % 2) for i in range(1, len(names) + 1)],
    }
    return out | changes


def write_coco_set(root: Path, train: Any, val: Any) -> Path:
    """PaddleX's layout, with a picture for every entry that names one."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, content in (("train", train), ("val", val)):
        (root / "annotations" / f"instance_{split}.json").write_text(json.dumps(content))
        for number, entry in enumerate(content["images"]):
            write_image(root / "images" / entry["file_name"], number)
    return root


def labels(seed: int = 0, *, classes: int = 3) -> np.ndarray:
    """Blocks of classes."""
    rng = np.random.default_rng(seed)
    return np.repeat(np.repeat(rng.integers(0, classes, (3, 4), dtype=np.uint8), 8, axis=0), 8, axis=1)


def write_pair(root: Path, name: str, mask: np.ndarray | bytes, seed: int = 0) -> str:
    """An image and its mask; gives the line of the list."""
    write_image(root / "images" / f"{name}.jpg", seed)
    path = root / "annotations" / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(mask if isinstance(mask, bytes) else write_index_mask(mask))
    return f"images/{name}.jpg\tannotations/{name}.png"


def shape(label: str, points: list[list[float]], **changes) -> dict:
    return {"label": label, "points": points, "group_id": None, "shape_type": "polygon", "flags": {}} | changes


def write_labelme(path: Path, drawn: list[dict], *, image: str = "../images/{}.png", seed: int = 0, **changes) -> Path:
    """A LabelMe file, and its photo where `image` says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = image.format(path.stem)
    write_image(path.parent / name.replace("\\", "/"), seed)
    content = {"version": "5", "shapes": drawn, "imagePath": name, "imageData": None, "imageHeight": HEIGHT, "imageWidth": WIDTH}
    path.write_text(json.dumps(content | changes))
    return path


def write_voc(root: Path, name: str, objects: np.ndarray, classes: np.ndarray, *, seed: int = 0) -> None:
    write_image(root / "JPEGImages" / f"{name}.jpg", seed, height=objects.shape[0], width=objects.shape[1])
    for folder, mask in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        (root / folder).mkdir(exist_ok=True)
        (root / folder / f"{name}.png").write_bytes(write_index_mask(mask))
