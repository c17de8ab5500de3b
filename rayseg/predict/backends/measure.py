"""One engine on some real images: its results, and how long it took. Runs in a process of its own (child.py).

What the results are compared with, and what follows from it, is trial.py's.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from rayseg.predict.backends.protocol import Backend
from rayseg.predict.execute import feed
from rayseg.predict.families import finish, split_outputs
from rayseg.predict.prepare import Prepared
from rayseg.predict.raw import Raw
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances, Result

Opener = Callable[..., Backend]
"""(spec, name, *, device, threads, precision, check, least_score) -> a loaded engine, as `choose.open_backend`."""

MOVED_BY = 1e-6
"""By so much of itself each number of an input is moved, up or down."""
ENOUGH_OBJECTS = 50
"""Where nothing exceeds the threshold, so many of the best objects an image are compared."""
WORTH_S = 60.0
"""Engines are tried where the plain one would work longer on what is left."""
SHARE_OF_WORK, LEAST_BUDGET_S = 0.1, 10.0
"""Running images for a trial takes at most this share of the plain engine's time for what is left, and at least so long."""
_LEAST_RUNS, _MOST_RUNS = 3, 15
_SURE = 2  # images that tell how long others take; the first also pays for planning


@dataclass(frozen=True)
class Request:
    """What is to be measured.

    Attributes:
        opener: function that can be imported by its name.
        images: in order; those that no time is left for are left out, but never the first.
        batches: sizes to be timed, where engine and model take several images at once; 1 is always timed.
        budget_s: for running images; loading, and the first run of each image in `must`, take what they take.
        must: images that are run in any case.
        plain: run each image a second time, its input moved, and choose the threshold where nothing exceeds the given one.
        images_left: for one predictor to do; no more is measured once that is known to be little work. None: no matter.
    """

    spec: ModelSpec
    engine: str
    precision: str
    opener: Opener
    images: tuple[Prepared, ...]
    device: str
    threads: int
    threshold: float
    batches: tuple[int, ...] = (1,)
    budget_s: float = 20.0
    must: int = 1
    plain: bool = False
    images_left: float | None = None

    def little(self, seconds: float) -> bool:
        """Whether what is left, at so many seconds an image, is not worth trying engines."""
        return self.images_left is not None and self.images_left * seconds < WORTH_S

    def enough_s(self, seconds: float) -> float:
        """Time for running images, where the plain engine takes so many seconds an image."""
        return self.budget_s if self.images_left is None else min(self.budget_s, enough_s(self.images_left * seconds))


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        results: of the images that were run; batched: of the first so many images, run together.
        moved: results of the plain engine on inputs moved.
        threshold: that the results were cut with.
        start_s: loading the engine; first_s: the first image, which pays for planning.
        seconds: batch size -> seconds an image, the median.
    """

    results: tuple[Result, ...]
    threshold: float
    start_s: float
    first_s: float
    seconds: dict[int, float]
    moved: tuple[Result, ...] = ()
    batched: dict[int, tuple[Result, ...]] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """The size that is fastest."""
        return min(self.seconds, key=lambda size: (self.seconds[size], size))


def enough_s(work_s: float) -> float:
    """Seconds that running images for a trial may take where the plain engine would work so long."""
    return max(LEAST_BUDGET_S, SHARE_OF_WORK * work_s)


def measure(request: Request) -> Measured:
    """Load an engine, run the images, and time it.

    Raises:
        Exception: what the engine raises.
    """
    begun = time.perf_counter()
    backend = request.opener(
        request.spec,
        request.engine,
        device=request.device,
        threads=request.threads,
        precision=request.precision,
        check=False,
        least_score=0.0 if request.plain else request.threshold,
    )
    start_s = time.perf_counter() - begun
    raws, moved, firsts = _run_once(request, backend)
    batched: dict[int, tuple[Raw, ...]] = {}
    if request.little(min(firsts)):
        seconds = {1: min(firsts)}
    else:
        seconds = {1: _time_one_by_one(request, backend, len(raws), firsts)}
        together, batched = _time_batches(request, backend, request.images[: len(raws)])
        seconds |= together
    threshold = request.threshold
    if request.plain and request.spec.task == "instance":
        threshold = _threshold(request.spec, raws, threshold)
    return Measured(
        tuple(finish(request.spec, raw, threshold) for raw in raws),
        threshold,
        start_s,
        firsts[0],
        seconds,
        tuple(finish(request.spec, raw, threshold) for raw in moved),
        {size: tuple(finish(request.spec, raw, threshold) for raw in some) for size, some in batched.items()},
    )


def _run_once(request: Request, backend: Backend) -> tuple[list[Raw], list[Raw], list[float]]:
    """Raws of as many images as there is time for, those of their moved inputs, and seconds of each first run."""
    random = np.random.default_rng(0)
    raws: list[Raw] = []
    moved: list[Raw] = []
    firsts: list[float] = []
    begun = time.perf_counter()
    for image in request.images:
        passed = time.perf_counter() - begun
        enough = request.enough_s(min(firsts)) if firsts else request.budget_s
        if len(raws) >= request.must and passed * (1 + 1 / max(1, len(raws))) > enough / 2:
            break  # one more would not leave half of the time for timing
        if len(firsts) >= _SURE and request.little(min(firsts)):
            break
        inputs = feed(request.spec, [image])
        start = time.perf_counter()
        outputs = backend.run(inputs)
        firsts.append(time.perf_counter() - start)
        raws += split_outputs(request.spec, outputs, [image])
        if request.plain:
            moved += split_outputs(request.spec, backend.run(moved_inputs(inputs, random)), [image])
    return raws, moved, firsts


def moved_inputs(inputs: dict[str, np.ndarray], random: np.random.Generator) -> dict[str, np.ndarray]:
    """The same inputs, each number of an image a millionth larger or smaller."""
    out = dict(inputs)
    for name, array in inputs.items():
        if array.ndim == 4:  # the image; sizes and scales stay
            signs = random.choice(np.asarray([1 - MOVED_BY, 1 + MOVED_BY], dtype=np.float32), array.shape)
            out[name] = np.ascontiguousarray(array * signs)
    return out


def _time_one_by_one(request: Request, backend: Backend, n: int, firsts: Sequence[float]) -> float:
    """Median seconds of an image; where one run takes all the time there is, that run's."""
    expected, enough = median(firsts[1:] or firsts), request.enough_s(min(firsts))
    runs = int(np.clip(enough / 2 / max(expected, 1e-6), 0, _MOST_RUNS))
    if runs < _LEAST_RUNS and (len(firsts) > 1 or expected > enough / 2):
        return expected
    inputs = [feed(request.spec, [image]) for image in request.images[: min(n, max(1, runs))]]
    return _median_s(backend, inputs, max(1, runs))


def _median_s(backend: Backend, inputs: Sequence[dict[str, np.ndarray]], runs: int) -> float:
    seconds = []
    for i in range(runs):
        start = time.perf_counter()
        backend.run(inputs[i % len(inputs)])
        seconds.append(time.perf_counter() - start)
    return median(seconds)


def _time_batches(
    request: Request, backend: Backend, images: Sequence[Prepared]
) -> tuple[dict[int, float], dict[int, tuple[Raw, ...]]]:
    """Seconds an image at each larger batch size, and Raws of the images in it; a size that fails ends it."""
    seconds: dict[int, float] = {}
    raws: dict[int, tuple[Raw, ...]] = {}
    sizes = sorted(size for size in request.batches if size > 1)
    if not (sizes and backend.batches and request.spec.any_batch):
        return seconds, raws
    commonest = Counter(image.network for image in images).most_common(1)[0][0]
    if images[0].network != commonest:
        return seconds, raws
    alike = [image for image in images if image.network == commonest]
    lead = next((i for i, image in enumerate(images) if image.network != commonest), len(images))
    for size in sizes:
        batch = [alike[i % len(alike)] for i in range(size)]
        inputs = feed(request.spec, batch)
        try:
            found = split_outputs(request.spec, backend.run(inputs), batch)  # also the warm-up
            seconds[size] = _median_s(backend, [inputs], _LEAST_RUNS) / size
        except Exception:  # noqa: BLE001 - out of memory has as many types as there are engines
            break
        raws[size] = tuple(found[: min(size, lead)])
    return seconds, raws


def _threshold(spec: ModelSpec, raws: Sequence[Raw], wanted: float) -> float:
    """The wanted one where objects exceed it; else one that the best of all images exceed."""
    if any(_count(finish(spec, raw, wanted)) for raw in raws):
        return wanted
    found = [result for raw in raws if isinstance(result := finish(spec, raw, 0.0), Instances)]
    scores = np.sort(np.concatenate([result.scores for result in found]))[::-1].astype(float)
    keep = ENOUGH_OBJECTS * len(raws)
    return float((scores[keep - 1] + scores[keep]) / 2) if len(scores) > keep else 0.0


def _count(result: Result) -> int:
    return len(result) if isinstance(result, Instances) else 0
