"""Batches grow while it pays, shrink when memory runs out, and nothing is lost or changed by it: with made-up engines and a
made-up clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.geometry import Size
from rayseg.predict import memory
from rayseg.predict.backends.fake import FakeBackend, fake_spec
from rayseg.predict.batches import MOST, BatchSizes, by_shape, is_out_of_memory
from rayseg.predict.predictor import Predictor
from rayseg.predict.prepare import prepare

SMALL, LARGE = Size(10, 10), Size(100, 100)


@dataclass
class Engine:
    """Takes `start + each * n` seconds for n images, on top for the first run of a size; has room for so many pixels."""

    start: float = 1.0
    each: float = 1.0
    room: float = float("inf")
    shape: Size = SMALL
    fails_on: int | None = None
    now: float = 0.0
    runs: list[int] = field(default_factory=list)

    def clock(self) -> float:
        return self.now

    def run(self, items) -> list[int]:
        if len(items) * self.shape.pixels > self.room:
            raise RuntimeError("(External) ResourceExhaustedError: Out of memory error on GPU 0.")
        if self.fails_on in items:
            raise RuntimeError("an image that no engine likes")
        self.now += self.start + self.each * len(items) + (100 if len(items) not in self.runs else 0)
        self.runs.append(len(items))
        return [10 * item for item in items]


def run(engine: Engine, sizes: BatchSizes, n: int, *, most: int = MOST) -> list[int]:
    return sizes.run(engine.shape, range(n), engine.run, most=most)


@given(st.floats(0, 50), st.floats(0.01, 5), st.integers(1, 300), st.integers(1, 80), st.integers(1, 70))
def test_whatever_the_engine_every_image_comes_back_once_and_in_order(start, each, n, most, room):
    engine = Engine(start=start, each=each, room=room * SMALL.pixels)
    sizes = BatchSizes(clock=engine.clock)
    for _ in range(3):
        assert run(engine, sizes, n, most=most) == [10 * i for i in range(n)]
    assert max(engine.runs) <= min(most, room, MOST)


def test_batches_grow_while_each_doubling_gives_more():
    engine = Engine(start=9.0, each=1.0)  # images a second: 0.1, 0.18, 0.31, 0.47, 0.64, 0.78, 0.88
    sizes = BatchSizes(clock=engine.clock)
    run(engine, sizes, 1000)
    assert sizes.found == {SMALL: 64}
    assert engine.runs[:9] == [1, 1, 1, 2, 2, 2, 4, 4, 4]


def test_growing_ends_where_the_next_step_gives_less_than_a_twentieth():
    engine = Engine(start=0.2, each=1.0)  # 0.83, 0.91, 0.952, 0.976
    sizes = BatchSizes(clock=engine.clock)
    run(engine, sizes, 200)
    assert sizes.found == {SMALL: 2}
    engine.runs.clear()
    run(engine, sizes, 9)
    assert engine.runs == [2, 2, 2, 2, 1], "what was found is remembered"


def test_an_engine_that_gains_nothing_gets_one_image():
    engine = Engine(start=0.0, each=1.0)
    sizes = BatchSizes(clock=engine.clock)
    run(engine, sizes, 50)
    assert sizes.found == {SMALL: 1}


def test_the_first_run_of_a_size_pays_for_planning_and_does_not_count():
    """100 s on top, of which one run in three would make every larger batch look better."""
    engine = Engine(start=0.0, each=10.0)
    sizes = BatchSizes(clock=engine.clock)
    run(engine, sizes, 50)
    assert sizes.found == {SMALL: 1}


def test_each_input_size_has_its_own_batch():
    sizes = BatchSizes(clock=lambda: 0.0)
    small, large = Engine(start=9.0), Engine(start=0.0, shape=LARGE)
    for engine in (small, large):
        sizes._clock = engine.clock
        run(engine, sizes, 1000)
    assert sizes.found == {SMALL: 64, LARGE: 1}


def test_when_memory_runs_out_the_same_images_are_tried_again_and_the_limit_is_remembered(caplog):
    engine = Engine(start=9.0, room=5 * SMALL.pixels)
    sizes = BatchSizes(clock=engine.clock)
    assert run(engine, sizes, 100) == [10 * i for i in range(100)]
    assert max(engine.runs) == 4 and sizes.found == {SMALL: 4}
    assert "8 images of 10x10 at once: memory ran out" in caplog.text and "ResourceExhausted" in caplog.text
    caplog.clear()
    run(engine, sizes, 100)
    assert not caplog.records, "eight were never tried again"


def test_memory_that_is_taken_later_shrinks_batches_that_had_room():
    engine = Engine(start=9.0)
    sizes = BatchSizes(clock=engine.clock)
    run(engine, sizes, 500)
    engine.room, engine.runs = 20 * SMALL.pixels, []
    assert run(engine, sizes, 100) == [10 * i for i in range(100)]
    assert max(engine.runs) == 16


def test_one_image_that_is_too_much_is_an_error():
    engine = Engine(room=SMALL.pixels - 1)
    with pytest.raises(RuntimeError, match="ResourceExhausted"):
        run(engine, BatchSizes(clock=engine.clock), 3)


def test_other_errors_are_not_tried_again():
    engine = Engine(fails_on=7)
    with pytest.raises(RuntimeError, match="no engine likes"):
        run(engine, BatchSizes(clock=engine.clock), 20)
    assert sum(engine.runs) <= 7


def test_nothing_larger_is_tried_once_memory_is_nearly_full():
    engine = Engine(start=9.0)
    sizes = BatchSizes(clock=engine.clock, used_share=lambda: 0.1 * max(engine.runs) + 0.2)  # 0.3, 0.4, 0.6, 1.0
    run(engine, sizes, 500)
    assert sizes.found == {SMALL: 8}


def test_a_number_given_is_an_upper_bound_and_holds_for_one_call():
    engine = Engine(start=9.0)
    sizes = BatchSizes(clock=engine.clock)
    run(engine, sizes, 100, most=3)
    assert max(engine.runs) == 3
    run(engine, sizes, 1000)
    assert max(engine.runs) == 64


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("(PreconditionNotMet) ResourceExhausted: no memory left on device gpu:0"),
        RuntimeError("\n\nOut of memory error on GPU 0. Cannot allocate 2.1GB memory on GPU 0"),
        RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer of size 41"),
        RuntimeError("CUDA error: CUDA out of memory"),
        RuntimeError("CUDA error cudaErrorMemoryAllocation"),
        RuntimeError("std::bad_alloc"),
    ],
)
def test_every_engines_words_for_no_memory_are_known_also_when_wrapped(error):
    assert is_out_of_memory(error)
    wrapped = RuntimeError("the engine failed")
    wrapped.__cause__ = error
    assert is_out_of_memory(wrapped)


@pytest.mark.parametrize("error", [RuntimeError("shape mismatch"), ValueError("memory format"), SystemError("")])
def test_other_words_are_not_taken_for_it(error):
    assert not is_out_of_memory(error)


@given(st.lists(st.sampled_from([SMALL, LARGE, Size(3, 4)])))
def test_images_are_taken_size_by_size(shapes):
    found = by_shape(shapes)
    assert sorted(i for indices in found.values() for i in indices) == list(range(len(shapes)))
    assert all(shapes[i] == shape for shape, indices in found.items() for i in indices)


class Cramped(FakeBackend):
    """Holds three images at once."""

    def run(self, inputs):
        if len(inputs["image"]) > 3:
            raise MemoryError("Failed to allocate memory")
        return super().run(inputs)


def test_a_predictor_short_of_memory_gives_what_one_with_plenty_gives():
    spec = fake_spec("semantic", labels=tuple(map(str, range(256))), delay_ms=0.5)
    pictures = [np.full((5 + i % 2, 6, 3), i, np.uint8) for i in range(60)]
    wanted = [int(r.labels[0, 0]) for r in Predictor(spec, FakeBackend(spec)).predict(pictures)]
    assert wanted == list(range(60))
    cramped = Predictor(spec, Cramped(spec))
    raws = cramped.run([prepare(spec, picture) for picture in pictures], batch_size=64)
    assert [int(raw.arrays["labels"].flat[0]) for raw in raws] == wanted


def test_memory_is_a_share_or_unknown():
    found = memory.used_share("cpu")
    assert found is None or 0 < found < 1
    assert memory.used_share("npu:0") is None
    assert memory.resident_bytes() >= 0
