"""A scene on one small picture: its pixels read small, and over them what was found, what nobody saw, and where seams run.

Memory is that of the picture and of the outlines drawn, however large the scene: outlines are made small as they are read.
Which scenes are shown, and the page around them, is the report's business.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rayseg.draw import PALETTE, draw_semantic, fit
from rayseg.errors import OutputError, RaysegError
from rayseg.geo.gdal import close_all
from rayseg.geo.ground import Ground
from rayseg.geo.pixel_rings import Rings, rings_in_pixels
from rayseg.geo.scaling import Scaling
from rayseg.geo.small import read_small, read_small_labels
from rayseg.geometry import Size, Window
from rayseg.pipeline.read_tables import opened
from rayseg.pipeline.scenes.records import SceneRecord, read_batch
from rayseg.pipeline.storage import Store
from rayseg.results import SemanticMap
from rayseg.tiling.labels import void_of

LONGEST_PX = 900
MOST_OBJECTS = 20_000
"""Drawn in one picture: half of them the largest, half spread evenly over the scene."""

_ENLARGED = 4
_DOT_PX = 2.0
_WIDE_LINE_PX = 16.0
_GRID_PX = 24.0
_ROWS = 8192
_SHIFT = 3  # OpenCV's coordinates: eighths of a pixel
_BLANK, _NO_DATA, _DAMAGED = (58, 63, 69), (24, 27, 30), (92, 60, 58)
_RED = np.array((224, 50, 42))


@dataclass(frozen=True, eq=False)
class Overview:
    """A picture of a scene.

    Attributes:
        rgb: uint8 (H, W, 3).
        objects: the scene has.
        drawn: of these; fewer where it is a sample.
        holes: something that nobody saw is marked.
        shares: part of the labelled pixels that each class has, of a label map.
        trouble: why there is less to see than there should be, in sentences.
    """

    rgb: np.ndarray
    objects: int = 0
    drawn: int = 0
    holes: bool = False
    shares: Mapping[int, float] = field(default_factory=dict)
    trouble: tuple[str, ...] = ()


@dataclass(frozen=True)
class Committed:
    """What the ledger says of a scene that was put together.

    Attributes:
        objects: name of its objects file below the output.
        label_map: the same of its label map.
        holes: WKB.
    """

    objects: str
    label_map: str | None
    holes: bytes | None


def record_of(store: Store, batch: str, unit_id: int) -> SceneRecord:
    """What the job knows of a scene.

    Raises:
        OutputError: its batch cannot be read, or says nothing of it.
    """
    for record in read_batch(store, batch):
        if record.unit_id == unit_id:
            return record
    raise OutputError(f"scenes/{batch}.parquet says nothing of scene {unit_id}; `rayseg verify {store.url}` says what to do")


def overview(
    store: Store,
    record: SceneRecord,
    done: Committed | None,
    *,
    labels: Sequence[str],
    scaling: Scaling,
    storage: Mapping[str, Any],
    skip: Sequence[int] = (),
    longest_px: int = LONGEST_PX,
    most_objects: int = MOST_OBJECTS,
) -> Overview:
    """Draw one scene. What cannot be read is left out, and said.

    Args:
        store: of the job.
        done: what was found; None for a scene that is not put together yet.
        labels: name of each class.
        scaling: the job's.
        storage: fsspec options of the source.
        skip: classes of label maps that stay uncoloured.
        longest_px: longer side of the picture.
        most_objects: that are drawn.
    """
    scene = record.opened
    size = _picture_size(scene.size, longest_px)
    canvas, trouble = _ground(record, size, scaling, storage)
    scale = np.divide(size.wh, scene.size.wh)
    _outside(canvas, record, scale)
    shares: dict[int, float] = {}
    drawn = total = 0
    try:
        if done is not None and done.label_map is not None:
            canvas, shares = _labels(canvas, store, done.label_map, scene.size, size, len(labels), skip)
        elif done is not None:
            drawn, total = _objects(canvas, store, done.objects, scene.ground, scale, len(labels), most_objects)
    except RaysegError as error:
        trouble += (f"What was found in it is not shown: {str(error).rstrip('.')}.",)
    _tile_lines(canvas, record, scale)
    holes = done is not None and done.holes is not None
    if done is not None and done.holes is not None:
        _holes(canvas, rings_in_pixels([done.holes], scene.ground)[0], scale)
    return Overview(canvas, total, drawn, holes, shares, trouble)


def _picture_size(scene: Size, longest_px: int) -> Size:
    """Small scenes are enlarged by a whole number, so that pixels stay squares."""
    longest = max(scene.hw)
    if longest > longest_px:
        return fit(scene, longest_px)
    times = max(1, min(_ENLARGED, longest_px // longest))
    return Size(scene.height * times, scene.width * times)


def _ground(record: SceneRecord, size: Size, scaling: Scaling, storage: Mapping[str, Any]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The scene's own pixels, or a blank picture and the reason for it."""
    scene, bands = record.opened, record.bands
    canvas = np.full((*size.hw, 3), _BLANK, dtype=np.uint8)
    if bands is None:
        return canvas, ("Its pixels are not shown: the job wrote down no bands of it.",)
    smaller = size if size.width <= scene.size.width else scene.size
    try:
        found = read_small(scene, smaller, bands=bands, scaling=scaling, storage=storage)
    except (RaysegError, MemoryError) as error:  # gone, damaged, too large, or credentials that mean nothing to GDAL
        return canvas, (f"Its pixels are not shown: {str(error).rstrip('.')}.",)
    finally:
        close_all()
    rgb = found.rgb
    rgb[~found.valid] = _NO_DATA
    rgb[found.damaged] = _DAMAGED
    if smaller != size:
        rgb = cv2.resize(rgb, size.wh, interpolation=cv2.INTER_NEAREST)
    trouble = ("Parts of the file are damaged and could not be read.",) if found.damaged.any() else ()
    return np.ascontiguousarray(rgb), trouble


def _outside(canvas: np.ndarray, record: SceneRecord, scale: np.ndarray) -> None:
    """Darken what the polygons leave out."""
    if record.aoi_wkb is None:
        return
    inside = np.zeros(canvas.shape[:2], dtype=np.uint8)
    for rings in rings_in_pixels([record.aoi_wkb], Ground()):
        _fill(inside, [_points(ring, scale) for ring in rings], (1,))
    out = inside == 0
    canvas[out] = (canvas[out] * 0.45).astype(np.uint8)


def _objects(
    canvas: np.ndarray, store: Store, name: str, ground: Ground, scale: np.ndarray, n_labels: int, most: int
) -> tuple[int, int]:
    """Draw objects, small ones on top of large ones; how many, and how many there are."""
    rings, boxes, areas, colours = list[Rings](), list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    with opened(store, name) as source:
        file = pq.ParquetFile(source)
        total, chosen, start = file.metadata.num_rows, _chosen(file, most), 0
        columns = ["object_id", "class_id", "area_px", "window", "geometry"]
        for batch in file.iter_batches(_ROWS, columns=columns):
            stop = start + batch.num_rows
            mine = chosen[np.searchsorted(chosen, start) : np.searchsorted(chosen, stop)] - start
            start = stop
            if not len(mine):
                continue
            rows = batch.take(mine)
            found = rings_in_pixels(rows["geometry"].to_pylist(), ground)
            rings += [[_points(ring, scale) for ring in outline] for outline in found]
            boxes.append(np.stack([pc.struct_field(rows["window"], [n]).to_numpy() for n in ("x0", "y0", "x1", "y1")], axis=1))
            areas.append(rows["area_px"].to_numpy())
            colours.append(rows["object_id" if n_labels <= 1 else "class_id"].to_numpy())
    if rings:
        _paint(canvas, rings, np.concatenate(boxes) * np.tile(scale, 2), np.concatenate(areas), np.concatenate(colours))
    return len(rings), total


def _chosen(file: pq.ParquetFile, most: int) -> np.ndarray:
    """Numbers of the rows to draw, ascending: all of them, or the largest and some of the others, spread evenly."""
    n = file.metadata.num_rows
    if n <= most:
        return np.arange(n)
    order = np.argsort(-file.read(columns=["area_px"])["area_px"].to_numpy(), kind="stable")
    others = np.sort(order[most // 2 :])
    spread = others[np.linspace(0, len(others) - 1, most - most // 2).astype(np.int64)]
    return np.sort(np.concatenate([order[: most // 2], spread]))


def _paint(canvas: np.ndarray, rings: list[Rings], boxes: np.ndarray, areas: np.ndarray, colours: np.ndarray) -> None:
    """Colour inside, a line around, a dot for what is smaller than a line."""
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    line_px = 2 if float(np.median(sides)) >= _WIDE_LINE_PX else 1
    layer, covered = canvas.copy(), np.zeros(canvas.shape[:2], dtype=np.uint8)
    order = np.argsort(-areas, kind="stable").tolist()
    shown = [rings[i] or [_points(_corners(boxes[i]), np.ones(2))] for i in range(len(rings))]
    tints = [PALETTE[colour % len(PALETTE)].tolist() for colour in colours.tolist()]
    for i in order:
        if sides[i] >= _DOT_PX:
            _fill(layer, shown[i], tints[i])
            _fill(covered, shown[i], (1,))
    inside = covered > 0
    canvas[inside] = cv2.addWeighted(canvas, 0.65, layer, 0.35, 0)[inside]
    for i in order:
        if sides[i] >= _DOT_PX:
            cv2.polylines(canvas, shown[i], True, tints[i], line_px, cv2.LINE_AA, _SHIFT)
        else:
            x, y = boxes[i, :2].astype(int).tolist()
            canvas[y : y + 2, x : x + 2] = tints[i]


def _labels(
    canvas: np.ndarray, store: Store, name: str, scene: Size, size: Size, n_labels: int, skip: Sequence[int]
) -> tuple[np.ndarray, dict[int, float]]:
    """The label map over the picture, and the share of each class."""
    uri = store.path(name) if store.local else f"{store.url.rstrip('/')}/{name}"
    void, smaller = void_of(n_labels), size if size.width <= scene.width else scene
    try:
        labels = read_small_labels(uri, smaller, void=void, storage=None if store.local else store.options)
    finally:
        close_all()
    found, counts = np.unique(labels[labels != void], return_counts=True)
    shares = dict(zip(found.tolist(), (counts / max(1, counts.sum())).tolist(), strict=True))
    labels = cv2.resize(labels, size.wh, interpolation=cv2.INTER_NEAREST_EXACT)
    return draw_semantic(canvas, SemanticMap(labels), skip=[*skip, void], alpha=0.45, outline_px=0), shares


def _tile_lines(canvas: np.ndarray, record: SceneRecord, scale: np.ndarray) -> None:
    """Faint lines where seams run, in the middle of what tiles share, unless they would cover the picture."""
    grid = record.grid
    if (grid.tile_size.width - record.overlap_px) * scale[0] < _GRID_PX:
        return
    lines = np.zeros(canvas.shape[:2], dtype=bool)
    lines[(grid.rows.borders[1:-1] * scale[1]).astype(int)] = True
    lines[:, (grid.columns.borders[1:-1] * scale[0]).astype(int)] = True
    canvas[lines] = (canvas[lines] * 0.8 + 255 * 0.2).astype(np.uint8)


def _holes(canvas: np.ndarray, rings: Rings, scale: np.ndarray) -> None:
    """Red and hatched, with a red line around."""
    points = [_points(ring, scale) for ring in rings]
    inside = np.zeros(canvas.shape[:2], dtype=np.uint8)
    _fill(inside, points, (1,))
    rows, columns = np.nonzero(inside)
    weight = np.where((rows + columns) % 10 < 4, 0.75, 0.25)[:, None]
    canvas[rows, columns] = (canvas[rows, columns] * (1 - weight) + _RED * weight).astype(np.uint8)
    cv2.polylines(canvas, points, True, _RED.tolist(), 2, cv2.LINE_AA, _SHIFT)


def _fill(canvas: np.ndarray, points: list[np.ndarray], colour: Sequence[int]) -> None:
    if points:
        cv2.fillPoly(canvas, points, colour, shift=_SHIFT)


def _points(ring: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """A ring in scene pixels -> int32 (n, 1, 2) as OpenCV counts, pixel centres at whole numbers; no corner twice in a row."""
    points = np.rint((ring * scale - 0.5) * (1 << _SHIFT)).clip(-(2**30), 2**30).astype(np.int32)
    keep = np.ones(len(points), dtype=bool)
    keep[1:] = (np.diff(points, axis=0) != 0).any(axis=1)
    return points[keep].reshape(-1, 1, 2)


def _corners(box: np.ndarray) -> np.ndarray:
    window = Window(*np.rint(box).astype(int).tolist())
    return np.array([(window.x0, window.y0), (window.x1, window.y0), (window.x1, window.y1), (window.x0, window.y1)], dtype=float)
