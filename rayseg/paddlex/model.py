"""A loaded model behind PaddleX's `predict`: a lazy stream of results, in the order of the input.

Images are read when it is their turn, predicted in batches, and dealt round the devices, each with a thread of its own.
What an input may be is inputs.py's, what a result can do result.py's.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import chain, cycle, islice
from typing import Any

import numpy as np

from rayseg.errors import BackendError, ConfigError, RaysegError
from rayseg.paddlex.engines import refuse_unknown, whole_number
from rayseg.paddlex.fastest import Fastest
from rayseg.paddlex.inputs import Picture, check_input, pictures
from rayseg.paddlex.result import FailedResult, InstanceResult, SegmentationResult, SemanticResult
from rayseg.paddlex.saving import Stems
from rayseg.paddlex.target_size import read_target_size, with_target_size
from rayseg.predict.backends.trial import IMAGES
from rayseg.predict.families import finish
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare
from rayseg.predict.spec import ModelSpec
from rayseg.results import Instances, Result

_ARGUMENTS = ("input", "batch_size", "threshold", "target_size", "on_error")
Answer = tuple[Picture, Result | RaysegError]
Batch = list[tuple[Picture, np.ndarray | RaysegError]]


class SegmentationModel:
    """What `create_model` and `create_pipeline` return.

    Args:
        predictors: of one model, one a device.
        batch_size, threshold, target_size: where `predict` is not given its own; None is the model directory's.
        fastest: asked at the first images for predictors that are faster than those given.

    Raises:
        ConfigError: a setting that the model's task does not have, or an impossible value.
    """

    def __init__(
        self,
        predictors: Sequence[Predictor],
        *,
        batch_size: int = 1,
        threshold: float | None = None,
        target_size: Any = None,
        fastest: Fastest | None = None,
    ) -> None:
        self.spec: ModelSpec = predictors[0].spec
        self._predictors = tuple(predictors)
        check_settings(self.spec, batch_size=batch_size, threshold=threshold, target_size=target_size)
        self._batch_size, self._threshold = batch_size, threshold
        self._target_size = read_target_size(target_size)
        self._fastest = fastest

    @property
    def model_name(self) -> str:
        """As the model directory has it."""
        return self.spec.name

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class id."""
        return self.spec.labels

    def predict(
        self,
        input: Any,  # PaddleX's name
        batch_size: int | None = None,
        threshold: float | None = None,
        target_size: Any = None,
        *,
        on_error: str = "raise",
        **unsupported: Any,
    ) -> Iterator[SegmentationResult]:
        """Results of all images of an input, one by one. What is given here wins over the model's, for this call alone.

        Args:
            input: path (text or pathlib) of an image, TIFF, PDF (extra `pdf`) or folder, which is searched to its bottom; URL;
                uint8 (H, W, 3) array in BGR order; or a list or any other iterable of these, also nested.
            batch_size: most images given to the network at once; they may be of different sizes.
            threshold: score an object must exceed; models of objects only.
            target_size: size the network sees, see target_size.py; semantic models only.
            on_error: "raise" stops at the first image that cannot be used, after the results before it; "skip" yields a
                result with `.error` for it and goes on.

        Raises:
            ConfigError: now, for arguments that are wrong or unknown; in its turn, for a thing in a list that is no input.
            RaysegError: in its turn, named, for an image that cannot be used; unless on_error is "skip".
        """
        refuse_unknown(unsupported, _ARGUMENTS, call="predict()")
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error={on_error!r}: expected raise or skip")
        check_input(input)
        batch = self._batch_size if batch_size is None else batch_size
        wanted = self._threshold if threshold is None else threshold
        size = self._target_size if target_size is None else read_target_size(target_size)
        check_settings(self.spec, batch_size=batch, threshold=wanted, target_size=size)
        spec = with_target_size(self.spec, size)
        return self._results(input, lambda one: _Run(one, spec, wanted, batch), batch, skip=on_error == "skip")

    __call__ = predict

    def _results(self, given: Any, run: Callable[[Predictor], _Run], batch: int, *, skip: bool) -> Iterator[SegmentationResult]:
        stems = Stems()
        batches = self._hurried(_batches(pictures(given), batch, skip=skip), batch)
        runs = [run(predictor) for predictor in self._predictors]
        for picture, found in _dealt(runs, batches):
            path, page = picture.input_path, picture.page_index
            if isinstance(found, RaysegError):
                if not skip or isinstance(found, ConfigError):
                    raise found
                yield FailedResult(path, page, found, stem=stems.claim(path, page))
                continue
            kind: Any = InstanceResult if isinstance(found, Instances) else SemanticResult
            yield kind(path, page, found, self.spec.labels, origin=picture.origin, stem=stems.claim(path, page))

    def _hurried(self, batches: Iterator[Batch], size: int) -> Iterator[Batch]:
        """The same batches, after the first images were used to find faster predictors, if that is still to be done."""
        if self._fastest is None:
            return batches
        first = list(islice(batches, -(-IMAGES // size)))
        images = [pixels for batch in first for _, pixels in batch if not isinstance(pixels, RaysegError)]
        if images:
            fastest, self._fastest = self._fastest, None
            self._predictors = tuple(fastest.tried(images[:IMAGES]) or self._predictors)
        return chain(first, batches)


def check_settings(spec: ModelSpec, *, batch_size: Any, threshold: Any, target_size: Any) -> None:
    """Raise ConfigError for a setting that the model's task does not have, or an impossible value."""
    whole_number(batch_size, "batch_size")
    with_target_size(spec, read_target_size(target_size))
    if threshold is None:
        return
    if spec.task != "instance":
        raise ConfigError(f"threshold {threshold!r}: {spec.name} gives a class to each pixel and has no scores; leave it out")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float, np.floating)) or not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be a number in [0, 1], got {threshold!r}")


class _Run:
    """One predictor with the settings of one call."""

    def __init__(self, predictor: Predictor, spec: ModelSpec, threshold: float | None, batch_size: int) -> None:
        self._predictor = copy.copy(predictor)  # the engine is shared, the preprocessing may be this call's own
        self._predictor.spec = spec
        self._threshold = threshold
        self._batch_size = batch_size

    def __call__(self, batch: Batch) -> list[Answer]:
        """Answers in the order of the batch. An image the engine fails on costs its neighbours nothing."""
        images = [pixels for _, pixels in batch if not isinstance(pixels, RaysegError)]
        try:
            found: list[Any] = self._finished(images)
        except Exception as error:  # noqa: BLE001 - engines raise anything from RuntimeError to SystemError
            found = [error] if len(images) == 1 else [self._alone(image) for image in images]
        answers = iter(found)
        return [
            (picture, pixels if isinstance(pixels, RaysegError) else _named(picture, next(answers))) for picture, pixels in batch
        ]

    def _finished(self, images: Sequence[np.ndarray]) -> list[Result]:
        spec = self._predictor.spec
        lowest = spec.draw_threshold if self._threshold is None else self._threshold
        prepared = [prepare(spec, image) for image in images]
        raws = self._predictor.run(prepared, batch_size=self._batch_size, min_score=lowest)
        return [finish(spec, raw, lowest) for raw in raws]

    def _alone(self, image: np.ndarray) -> Result | Exception:
        try:
            return self._finished([image])[0]
        except Exception as error:  # noqa: BLE001 - as above
            return error


def _batches(given: Iterator[Picture], most: int, *, skip: bool) -> Iterator[Batch]:
    """Read pictures in lists of at most `most`; unless skipping, nothing is read after the first that fails."""
    batch: Batch = []
    for picture in given:
        try:
            batch.append((picture, picture.read()))
        except RaysegError as error:
            batch.append((picture, _with_name(picture, error)))
            if not skip or isinstance(error, ConfigError):
                break
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch


def _dealt(runs: Sequence[_Run], batches: Iterator[Batch]) -> Iterator[Answer]:
    """Answers in the order of the batches; with several devices, one batch waits for each."""
    if len(runs) == 1:
        for batch in batches:
            yield from runs[0](batch)
        return
    waiting: deque[Future[list[Answer]]] = deque()
    with ExitStack() as stack:
        pools = [stack.enter_context(ThreadPoolExecutor(1)) for _ in runs]
        for (run, pool), batch in zip(cycle(zip(runs, pools, strict=True)), batches):
            waiting.append(pool.submit(run, batch))
            if len(waiting) > len(runs):
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _named(picture: Picture, found: Result | Exception) -> Result | RaysegError:
    if isinstance(found, RaysegError):
        return _with_name(picture, found)
    if isinstance(found, Exception):
        lines = [line.strip() for line in f"{found}".splitlines() if line.strip()]
        return _with_name(picture, BackendError(f"the engine failed ({type(found).__name__}: {lines[-1] if lines else ''})"))
    return found


def _with_name(picture: Picture, error: RaysegError) -> RaysegError:
    named = type(error)(f"{picture.name}: {error}")
    named.__cause__ = error
    return named
