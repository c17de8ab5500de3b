"""What `predict` yields: dicts with PaddleX's keys and methods, one class for each task and one for what failed.

    InstanceResult    input_path, page_index, boxes [{cls_id, label, score, coordinate [x0, y0, x1, y1]}], masks
    SemanticResult    input_path, page_index, pred int32 (1, H, W)
    FailedResult      input_path, page_index, error

A result does not hold its image: drawing reads it again. What the caller changes in the dict is what is saved and drawn.
File names are saving.py's, colours drawing.py's.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from rayseg.errors import ConfigError, OutputError, RaysegError, SourceError
from rayseg.geometry import Size
from rayseg.paddlex import drawing
from rayseg.paddlex.masks import Masks, run_lengths
from rayseg.paddlex.origins import Origin
from rayseg.paddlex.saving import image_extension, target
from rayseg.results import Instances, SemanticMap
from rayseg.rle import Rle

log = logging.getLogger(__name__)

Text = str
"""The classes below have a property of that name, as PaddleX's have."""

_QUALITY = 95  # of JPEG and WebP; other formats do not ask for it

MaskForm = Literal["rle", "nested"]
Style = Literal["overlay", "colour_map"]


class SegmentationResult(dict[str, Any]):
    """What all results can do.

    Attributes:
        stem: of the files it is saved to, unless a path says otherwise.
        origin: gives its pixels again.
    """

    error: RaysegError | None = None
    """Why there is no result; None where there is one."""
    _bulky: tuple[Text, ...] = ()  # keys that are not printed

    def __init__(self, input_path: Text | None, page_index: int | None, *, origin: Origin | None, stem: Text) -> None:
        super().__init__(input_path=input_path, page_index=page_index)
        self.origin = origin
        self.stem = stem

    def __missing__(self, key: Text) -> Any:
        if key != "input_img":
            raise KeyError(key)
        return self.image()[..., ::-1].copy()

    def image(self) -> np.ndarray:
        """The image it was found in, read again: uint8 (H, W, 3) RGB; `result["input_img"]` is the same in BGR.

        Raises:
            SourceError, ImageError: it cannot be read any more.
        """
        if self.origin is None:
            raise SourceError(f"{self['input_path']}: there is no image to this result")
        try:
            return self.origin.rgb()
        except RaysegError as error:
            raise type(error)(f"{self['input_path']}: {error}") from error

    @property
    def json(self) -> dict[Text, Any]:
        """`{"res": ...}` of plain values; masks are COCO RLE."""
        return {"res": self._plain("rle")}

    @property
    def img(self) -> dict[Text, Image.Image]:
        """`{"res": picture}`, RGB."""
        return {"res": self.draw()}

    @property
    def str(self) -> Text:
        """What `print` prints."""
        return f"{self._short()}"

    def print(self, json_format: bool = False, indent: int = 4, ensure_ascii: bool = False) -> None:
        """Print it without its masks; as JSON of that indent where told to."""
        short = self._short()
        text = json.dumps(short, indent=indent, ensure_ascii=ensure_ascii, default=_plain) if json_format else f"{short}"
        print(text)  # noqa: T201 - it is what the caller asks for

    def save_to_json(
        self,
        save_path: Text | os.PathLike[Text],
        indent: int | None = 4,
        ensure_ascii: bool = False,
        *,
        masks: MaskForm = "rle",
    ) -> Path:
        """Write its values.

        Args:
            save_path: a folder, or a file ending in .json.
            masks: "rle", COCO run lengths of the whole image (of semantic results one for each class); or "nested", PaddleX's
                lists of numbers, about 19 bytes a pixel.

        Returns:
            The file, `<stem>_res.json` in a folder.

        Raises:
            OutputError: it cannot be written.
        """
        if masks not in ("rle", "nested"):
            raise ConfigError(f"masks={masks!r}: expected rle or nested")
        text = json.dumps(self._plain(masks), indent=indent, ensure_ascii=ensure_ascii, default=_plain)
        path = target(save_path, self.stem, kind="application/json", extension=".json")
        try:
            path.write_text(text, encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
        return path

    def save_to_img(self, save_path: Text | os.PathLike[Text], *, style: Style = "overlay") -> Path | None:
        """Draw it into a file.

        Args:
            save_path: a folder, or a file with an image's ending.
            style: see `draw`.

        Returns:
            The file, `<stem>_res` with the ending of the input in a folder; None for a failed result.

        Raises:
            OutputError: it cannot be written. What `draw` raises passes through.
        """
        picture = self.draw(style)
        path = target(save_path, self.stem, kind="image", extension=image_extension(self["input_path"]))
        try:
            picture.save(path, quality=_QUALITY)
        except (OSError, ValueError, KeyError) as error:
            raise OutputError(f"{path}: cannot be written as an image ({error}); give a path that ends in .png") from error
        return path

    def save_all(self, save_path: Text | os.PathLike[Text]) -> None:
        """Both of the above, with their defaults."""
        self.save_to_img(save_path)
        self.save_to_json(save_path)

    def draw(self, style: Style = "overlay") -> Image.Image:
        """A picture of it.

        Raises:
            ConfigError: the task has no such style.
            SourceError, ImageError: its image cannot be read any more, or is another one now.
        """
        raise NotImplementedError

    def _plain(self, masks: MaskForm) -> dict[Text, Any]:
        return dict(self)

    def _short(self) -> dict[Text, Any]:
        return {"res": {key: "..." if key in self._bulky else value for key, value in self.items()}}

    def _image_of(self, size: Size) -> np.ndarray:
        image = self.image()
        if image.shape[:2] != size.hw:
            height, width = image.shape[:2]
            raise SourceError(
                f"{self['input_path']}: is now {width} x {height} pixels, the result is of {size.width} x {size.height}"
            )
        return image


class InstanceResult(SegmentationResult):
    """Objects of one image."""

    _bulky = ("masks",)

    def __init__(
        self,
        input_path: Text | None,
        page_index: int | None,
        found: Instances,
        labels: Sequence[Text],
        *,
        origin: Origin | None,
        stem: Text,
    ) -> None:
        super().__init__(input_path, page_index, origin=origin, stem=stem)
        self.size = found.size
        rows = zip(found.class_ids.tolist(), found.scores.tolist(), found.boxes_xyxy.tolist(), strict=True)
        self["boxes"] = [{"cls_id": c, "label": labels[c], "score": score, "coordinate": box} for c, score, box in rows]
        self["masks"] = Masks(found.masks, found.boxes_xyxy.tolist())

    @property
    def found(self) -> Instances:
        """The objects as the rest of rayseg has them."""
        boxes = self["boxes"]
        return Instances(
            self.size,
            np.array([box["coordinate"] for box in boxes], dtype=np.float32),
            np.array([box["score"] for box in boxes]),
            np.array([box["cls_id"] for box in boxes]),
            tuple(run_lengths(self["masks"], boxes, self.size)),
        )

    def draw(self, style: Style = "overlay") -> Image.Image:
        if style != "overlay":
            raise ConfigError(f"style={style!r}: results with objects are drawn over their image only (overlay)")
        labels = [f"{box['label']}" for box in self["boxes"]]
        return drawing.draw_instances(self._image_of(self.size), self.found, labels)

    def _plain(self, masks: MaskForm) -> dict[Text, Any]:
        if masks == "nested":
            listed: list[Any] = [np.asarray(mask).tolist() for mask in self["masks"]]
        else:
            listed = [_coco(mask) for mask in run_lengths(self["masks"], self["boxes"], self.size)]
        return {**self, "masks": listed}


class SemanticResult(SegmentationResult):
    """One class for each pixel of one image."""

    _bulky = ("pred",)

    def __init__(
        self,
        input_path: Text | None,
        page_index: int | None,
        found: SemanticMap,
        labels: Sequence[Text],
        *,
        origin: Origin | None,
        stem: Text,
    ) -> None:
        super().__init__(input_path, page_index, origin=origin, stem=stem)
        self.labels = tuple(labels)
        self["pred"] = found.labels[None].astype(np.int32)

    @property
    def found(self) -> SemanticMap:
        """The label map as the rest of rayseg has it."""
        labels = np.asarray(self["pred"])[0]
        return SemanticMap(labels.astype(np.uint8 if labels.max() <= 255 else np.uint16))

    def draw(self, style: Style = "overlay") -> Image.Image:
        found = self.found
        if style == "colour_map":
            return drawing.colour_map(found)
        if style != "overlay":
            raise ConfigError(f"style={style!r}: expected overlay, or colour_map for PaddleX's picture of the label map alone")
        return drawing.draw_map(self._image_of(found.size), found)

    def _plain(self, masks: MaskForm) -> dict[Text, Any]:
        if masks == "nested":
            return {**self, "pred": np.asarray(self["pred"]).tolist()}
        regions = self.found.regions()
        pairs = zip(regions.class_ids.tolist(), regions.masks, strict=True)
        return {**self, "pred": [{"cls_id": c, "label": self._label(c), **_coco(mask)} for c, mask in pairs]}

    def _label(self, class_id: int) -> Text:
        return self.labels[class_id] if class_id < len(self.labels) else f"class_{class_id}"


class FailedResult(SegmentationResult):
    """An image that could not be used; `error` says why. Saving its picture does nothing but say so in the log."""

    def __init__(self, input_path: Text | None, page_index: int | None, error: RaysegError, *, stem: Text) -> None:
        super().__init__(input_path, page_index, origin=None, stem=stem)
        self.error = error
        self["error"] = f"{type(error).__name__}: {error}"

    def draw(self, style: Style = "overlay") -> Image.Image:
        raise self.error or SourceError("failed")

    def save_to_img(self, save_path: Any, *, style: Style = "overlay") -> None:
        log.warning("no picture of a failed result: %s", self["error"])


def _coco(mask: Rle) -> dict[Text, Any]:
    return {"size": list(mask.size.hw), "counts": mask.counts.decode("ascii")}


def _plain(value: Any) -> Any:
    """What json does not know of itself: numpy's numbers and arrays."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")
