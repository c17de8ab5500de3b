"""While an engine runs a batch, the next one's inputs are made and the last one's outputs taken apart; results stay the same."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from rayseg.errors import BackendError
from rayseg.predict import overlap
from rayseg.predict.backends.fake import FakeBackend, fake_spec
from rayseg.predict.execute import execute
from rayseg.predict.families import split_outputs
from rayseg.predict.overlap import Overlapped
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare, to_input

SPEC = fake_spec("semantic", labels=tuple(map(str, range(256))))
IMAGES = [prepare(SPEC, np.full((6, 7, 3), i, np.uint8)) for i in range(8)]
LONG_S = 30.0


def labels(raws):
    return [int(raw.arrays["labels"].flat[0]) for raw in raws]


class Gate(FakeBackend):
    """A run of the engine lasts until what is to happen beside it has happened."""

    def __init__(self, *happens: threading.Event | None) -> None:
        super().__init__(SPEC)
        self._happens = iter(happens)
        self.met: list[bool] = []

    def run(self, inputs):
        event = next(self._happens)
        if event is not None:
            self.met.append(event.wait(LONG_S))
        return super().run(inputs)


def test_inputs_of_the_next_batch_are_made_while_one_runs(monkeypatch):
    made = [threading.Event() for _ in IMAGES]

    def telling(spec, image):
        found = to_input(spec, image)
        made[int(image.pixels[0, 0, 0])].set()
        return found

    monkeypatch.setattr(overlap, "to_input", telling)
    engine = Gate(made[3], made[5], None, None)
    with Overlapped(SPEC, engine, IMAGES, range(8), min_score=0.0) as overlapped:
        raws = [overlapped.run(indices)[0] for indices in ([0, 1], [2, 3], [4, 5], [6, 7])]
    assert engine.met == [True, True]
    assert labels(raw for batch in raws for raw in batch.result()) == list(range(8))


def test_outputs_of_a_batch_are_taken_apart_while_the_next_runs(monkeypatch):
    apart = threading.Event()

    def telling(*arguments, **options):
        found = split_outputs(*arguments, **options)
        apart.set()
        return found

    monkeypatch.setattr(overlap, "split_outputs", telling)
    engine = Gate(None, apart)
    with Overlapped(SPEC, engine, IMAGES, range(4), min_score=0.0) as overlapped:
        first, second = (overlapped.run(indices)[0] for indices in ([0, 1], [2, 3]))
    assert engine.met == [True]
    assert labels([*first.result(), *second.result()]) == [0, 1, 2, 3]


def test_not_every_image_is_made_ready_at_once(monkeypatch):
    made = []

    def counting(spec, image):
        made.append(image)
        return to_input(spec, image)

    monkeypatch.setattr(overlap, "to_input", counting)
    with Overlapped(SPEC, FakeBackend(SPEC), IMAGES, range(8), min_score=0.0) as overlapped:
        overlapped.run([0])
    assert len(made) == 1 + overlap.BATCHES_AHEAD


@pytest.mark.parametrize("order", [list(range(8)), [3, 1, 7, 5, 0, 2, 4, 6]])
def test_it_gives_what_running_one_by_one_gives(order):
    engine = FakeBackend(SPEC)
    with Overlapped(SPEC, engine, IMAGES, order, min_score=0.0) as overlapped:
        batches = [overlapped.run(order[:3]), overlapped.run(order[3:])]
    found = [raw for batch in batches for raw in batch[0].result()]
    wanted = [execute(SPEC, engine, [IMAGES[i]])[0] for i in order]
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.original == theirs.original and np.array_equal(mine.arrays["labels"], theirs.arrays["labels"])


class Broken(FakeBackend):
    """Its outputs make no sense."""

    def run(self, inputs):
        return [output[:1] for output in super().run(inputs)]


class Failing(FakeBackend):
    """It runs one image at a time."""

    def run(self, inputs):
        if len(inputs["image"]) > 1:
            raise RuntimeError("an engine that has had enough")
        return super().run(inputs)


def test_what_goes_wrong_reaches_the_caller_and_no_thread_stays():
    for engine, kind, message in ((Failing, RuntimeError, "had enough"), (Broken, BackendError, "2 images")):
        before = threading.active_count()
        predictor = Predictor(SPEC, engine(SPEC))
        assert predictor.together
        with pytest.raises(kind, match=message):
            predictor.run(IMAGES * 4)  # batches grow
        assert threading.active_count() == before
