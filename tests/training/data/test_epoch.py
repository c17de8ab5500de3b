"""An epoch is dealt out completely, alike in any number of workers, and can be entered in the middle."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayseg.errors import ConfigError, DatasetError
from rayseg.training.data.epoch import EpochOrder, Stream, exact_shard, generator

counts, small = st.integers(1, 60), st.integers(1, 7)


def dealt(images: int, batch: int, size: int, epoch: int = 0, **options) -> list[list[tuple[int, ...]]]:
    """Visits by rank and step."""
    orders = [EpochOrder(images, batch, rank=r, size=size, **options) for r in range(size)]
    return [[step.visits for step in order.steps(epoch)] for order in orders]


@given(counts, small, small)
def test_filled_batches_are_full_everywhere_and_miss_no_image(images, batch, size):
    ranks = dealt(images, batch, size)
    visits = [v for steps in ranks for step in steps for v in step]
    assert {len(steps) for steps in ranks} == {-(-images // (batch * size))}
    assert {len(step) for steps in ranks for step in steps} == {batch}
    seen = Counter(v % images for v in visits)
    assert set(seen) == set(range(images)) and max(seen.values()) - min(seen.values()) <= 1
    assert len(set(visits)) == len(visits)  # a second look is another visit, with another augmentation


@given(counts, small, small)
def test_short_batches_partition_the_epoch_but_for_workers_that_would_have_none(images, batch, size):
    ranks = dealt(images, batch, size, last="short")
    visits = [v for steps in ranks for step in steps for v in step]
    assert len({len(steps) for steps in ranks}) == 1
    assert all(1 <= len(step) <= batch for steps in ranks for step in steps)
    left = images - (len(ranks[0]) - 1) * batch * size
    assert len(visits) == images + max(0, size - left)
    assert set(range(images)) <= {v % images for v in visits}


@given(counts, small, small)
def test_dropped_ends_leave_only_full_batches_of_different_images(images, batch, size):
    if images < batch * size:
        return
    visits = [v for steps in dealt(images, batch, size, last="drop") for step in steps for v in step]
    assert len(visits) == images // (batch * size) * batch * size == len(set(visits)) and max(visits) < images


@given(counts, small, small, st.sampled_from(["fill", "short"]))
def test_workers_together_see_in_each_step_what_one_worker_with_their_batch_sees(images, batch, size, last):
    alone = dealt(images, batch * size, 1, last=last)[0]
    together = dealt(images, batch, size, last=last)
    for number, wanted in enumerate(alone):
        found = sorted(v for steps in together for v in steps[number])
        assert found == sorted(wanted) if last == "fill" else set(wanted) <= set(found)


@given(counts, small, small, st.integers(0, 3))
def test_an_epoch_entered_in_the_middle_goes_on_as_the_whole_one(images, batch, size, epoch):
    order = EpochOrder(images, batch, rank=size - 1, size=size)
    whole = list(order.steps(epoch))
    for start in range(len(whole) + 1):
        assert list(order.steps(epoch, start=start)) == whole[start:]


def test_every_epoch_and_seed_has_an_order_of_its_own():
    orders = [dealt(40, 40, 1, epoch, seed=seed)[0][0] for epoch in (0, 1) for seed in (0, 1)]
    assert len(set(orders)) == 4 and all(sorted(order) == list(range(40)) for order in orders)
    assert dealt(40, 40, 1, 1, seed=1)[0][0] == orders[3]


def test_several_visits_are_told_apart():
    visits = [v for step in dealt(5, 2, 1, visits_per_image=2)[0] for v in step]
    assert sorted(visits) == list(range(10))


def test_generators_of_different_purposes_differ():
    draws = {generator(stream, 3, 1, 0).integers(2**60).item() for stream in Stream}
    draws |= {generator(Stream.VISIT, 3, 1, number).integers(2**60).item() for number in (1, 2)}
    assert len(draws) == 5


@given(counts, small)
def test_exact_shards_are_a_partition_of_nearly_equal_parts(count, size):
    shards = [exact_shard(count, rank, size) for rank in range(size)]
    assert sorted(i for shard in shards for i in shard) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1


@pytest.mark.parametrize(
    "error, message, values",
    [
        (DatasetError, "no images", {"images": 0}),
        (ConfigError, "batch_size is 0", {"batch_size": 0}),
        (ConfigError, "rank is 2, but workers are numbered 0 to 1", {"rank": 2, "size": 2}),
        (ConfigError, "last is 'keep'", {"last": "keep"}),
        (ConfigError, "5 images x 1 visits do not fill one step of 6", {"batch_size": 3, "size": 2, "last": "drop"}),
    ],
)
def test_numbers_that_cannot_be_are_refused(error, message, values):
    with pytest.raises(error, match=message):
        EpochOrder(**{"images": 5, "batch_size": 2, **values})


@pytest.mark.parametrize("epoch, start", [(-1, 0), (0, -1), (0, 4)])
def test_steps_that_do_not_exist_are_refused(epoch, start):
    with pytest.raises(ValueError, match="an epoch has the steps 0 to 2"):
        list(EpochOrder(5, 2).steps(epoch, start=start))
