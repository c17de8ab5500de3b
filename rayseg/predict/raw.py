"""What a network said about one image, cut out of a batch and made small enough to travel; not yet a result.

Turning it into objects or a label map is finish/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rayseg.errors import BackendError
from rayseg.geometry import Size
from rayseg.predict.prepare import Prepared
from rayseg.predict.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Raw:
    """Outputs for one image.

    Attributes:
        arrays: by task and flavour; every array is C-contiguous and its own.
            instance, lean: `bbox` float32 (m, 6): class, score, x0, y0, x1, y1 in pixels of the network's input;
                `coefficients` float32 (m, P); `prototypes` float32 (P, h, w), absent when m is 0.
            instance, paddlex: `bbox` with edges in original pixels; `mask_bits` uint8 (m, H, ceil(W / 8)), eight
                pixels of a row a byte; `mask_width` int64 (1,): W, which may be a pixel less than the image has.
            semantic: `labels` uint8 or uint16 (H, W), at the size of the network's input.
        original, resized, network: as in Prepared.
        min_score: objects that do not exceed it were dropped already.
    """

    arrays: dict[str, np.ndarray]
    original: Size
    resized: Size
    network: Size
    min_score: float = 0.0


def split_outputs(
    spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared], *, min_score: float = 0.0
) -> list[Raw]:
    """One Raw for each image of a batch, in its order.

    Args:
        outputs: of the program, in its order.
        min_score: objects must exceed it.

    Raises:
        BackendError: outputs that do not fit the batch, or are not numbers.
    """
    if spec.task == "semantic":
        return _split_semantic(spec, outputs, batch)
    for output in outputs:
        if output.dtype.kind == "f" and not np.isfinite(output).all():
            raise BackendError(
                f"{spec.name} gave values that are not finite numbers; the weights or the engine are broken"
            )
    bbox, bbox_num = outputs[0].reshape(-1, 6), outputs[1].reshape(-1)
    if len(bbox_num) != len(batch) or bbox_num.min() < 0 or bbox_num.sum() != len(bbox):
        raise BackendError(f"{spec.name} gave {len(bbox)} boxes counted as {bbox_num.tolist()} for {len(batch)} images")
    raws, start = [], 0
    for index, (count, image) in enumerate(zip(bbox_num.tolist(), batch, strict=True)):
        rows = slice(start, start + count)
        keep = np.flatnonzero((bbox[rows, 1] > min_score) & (bbox[rows, 0] > -1))
        take = _take_lean if spec.flavour == "lean" else _take_paddlex
        arrays = {"bbox": bbox[rows][keep], **take(outputs, rows, keep, index)}
        raws.append(Raw(arrays, image.original, image.resized, image.network, min_score))
        start += count
    return raws


def _take_lean(outputs: Sequence[np.ndarray], rows: slice, keep: np.ndarray, index: int) -> dict[str, np.ndarray]:
    coefficients = {"coefficients": outputs[2][rows][keep]}
    return {**coefficients, "prototypes": outputs[3][index].copy()} if len(keep) else coefficients


def _take_paddlex(outputs: Sequence[np.ndarray], rows: slice, keep: np.ndarray, index: int) -> dict[str, np.ndarray]:
    masks = outputs[2][rows]
    height, width = masks.shape[1:]
    bits = np.zeros((len(keep), height, -(-width // 8)), dtype=np.uint8)
    for packed, i in zip(bits, keep, strict=True):
        packed[:] = np.packbits(masks[i] > 0, axis=1)
    return {"mask_bits": bits, "mask_width": np.asarray([width], dtype=np.int64)}


def _split_semantic(spec: ModelSpec, outputs: Sequence[np.ndarray], batch: Sequence[Prepared]) -> list[Raw]:
    (labels,) = outputs
    if labels.shape != (len(batch), *batch[0].network.hw):
        raise BackendError(
            f"{spec.name} gave a label map of {labels.shape} for {len(batch)} images of {batch[0].network}"
        )
    narrow = np.uint8 if len(spec.labels) <= 256 else np.uint16
    if labels.dtype != narrow and not 0 <= int(labels.min()) <= int(labels.max()) < len(spec.labels):
        raise BackendError(
            f"{spec.name} gave class ids {labels.min()} to {labels.max()}, it has {len(spec.labels)} labels"
        )
    return [
        Raw({"labels": labels[i].astype(narrow)}, image.original, image.resized, image.network)
        for i, image in enumerate(batch)
    ]
