"""One scaling for a job, estimated from a seeded sample of windows whose number does not grow with the job.

`sample_windows` says where to look, `sample_values` looks (in tasks, if need be), `scaling.percentile_scaling` concludes;
`decide_scaling` does all three in one process.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rayseg.errors import ImageError
from rayseg.geo.bands import Bands
from rayseg.geo.raster import read_values
from rayseg.geo.scaling import Scaling, default_scale, dtype_scaling, parse_scale, percentile_scaling
from rayseg.geo.scene import Scene
from rayseg.geometry import Window

log = logging.getLogger(__name__)

WINDOWS = 256
WINDOW_PX = 256
VALUES_PER_WINDOW = 4096


def decide_scaling(
    scale: str | None,
    scenes: Sequence[tuple[Scene, Bands]],
    *,
    seed: int = 0,
    windows: int = WINDOWS,
    storage: Mapping[str, Any] | None = None,
) -> Scaling:
    """The scaling of a job: given, from the type, or estimated here and now.

    Args:
        scale: as for `scaling.parse_scale`; None for `dtype` if all scenes have 8 bits, else `p2,p98`.
        scenes: all of the job, each with its bands. Their order does not matter.
        seed: of the sample.
        windows: to read at most. One that is damaged is left out.
        storage: credentials.

    Raises:
        ConfigError: `scale` says nothing, or nothing that fits the scenes.
    """
    wanted = parse_scale(scale if scale is not None else default_scale(scenes))
    if isinstance(wanted, Scaling):
        return wanted
    if wanted is None:
        return dtype_scaling(scenes)
    places = sample_windows([scene for scene, _ in scenes], seed=seed, windows=windows)
    samples = []
    for number, (index, window) in enumerate(places):
        scene, bands = scenes[index]
        try:
            samples.append(sample_values(scene, window, bands, seed=(seed, number), storage=storage))
        except ImageError as error:
            log.warning("left out of the sample for --scale: %s", error)
    return percentile_scaling(samples, wanted, origin=describe(samples, len(scenes), seed=seed))


def describe(samples: Sequence[np.ndarray], n_scenes: int, *, seed: int) -> str:
    """What a scaling was estimated from, for the record."""
    values = sum(len(s) for s in samples)
    return f"{values} valid pixels in {len(samples)} windows of {WINDOW_PX} px, drawn from {n_scenes} scenes, seed {seed}"


def sample_windows(scenes: Sequence[Scene], *, seed: int = 0, windows: int = WINDOWS) -> list[tuple[int, Window]]:
    """Where to look: places spread over the area of all scenes, evenly but for chance within each share.

    A window is moved to the file's blocks where they are no larger than it, so that fewer are decoded.

    Returns:
        (index of the scene, window of at most `WINDOW_PX` a side) each, at most `windows` of them; none twice.
    """
    order = sorted(range(len(scenes)), key=lambda i: scenes[i].uri)
    ends = np.cumsum([0, *(scenes[i].size.pixels for i in order)])
    rng = np.random.default_rng(seed)
    spots = ((np.arange(windows) + rng.random(windows)) / windows * float(ends[-1])).astype(np.int64)
    out: dict[tuple[int, Window], None] = {}
    for spot in np.minimum(spots, ends[-1] - 1):
        place = int(np.searchsorted(ends, spot, side="right")) - 1
        scene = scenes[order[place]]
        # The spot says how far down; how far to the right is drawn, or windows would follow the rows' rhythm.
        y, x = int(spot - ends[place]) // scene.size.width, int(rng.integers(scene.size.width))
        out[order[place], _around(scene, x, y)] = None
    return list(out)


def sample_values(
    scene: Scene, window: Window, bands: Bands, *, seed: int | tuple[int, ...] = 0, storage: Mapping[str, Any] | None = None
) -> np.ndarray:
    """Values of the valid pixels of a window, no more than `VALUES_PER_WINDOW` of them, chosen by chance.

    Returns:
        (N, 3) of the stored type, a single band three times; only pixels at which all three are finite.

    Raises:
        CorruptImage: the window cannot be read.
    """
    values, valid = read_values(scene, window, bands, storage=storage)
    picked = values[:, valid].T
    picked = picked[np.isfinite(picked).all(axis=1)]
    if len(picked) > VALUES_PER_WINDOW:
        picked = picked[np.sort(np.random.default_rng(seed).choice(len(picked), VALUES_PER_WINDOW, replace=False))]
    return np.repeat(picked, 3, axis=1) if picked.shape[1] == 1 else picked


def _around(scene: Scene, x: int, y: int) -> Window:
    def start(at: int, side: int, block: int) -> int:
        step = block if block <= WINDOW_PX else 1
        return max(0, min(at - WINDOW_PX // 2, side - WINDOW_PX)) // step * step

    x0 = start(x, scene.size.width, scene.block.width)
    y0 = start(y, scene.size.height, scene.block.height)
    return Window(x0, y0, x0 + WINDOW_PX, y0 + WINDOW_PX).clip(scene.size)
