"""Several workers with a share of each batch train as one does with all of it."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from rayseg.errors import DatasetError
from rayseg.models.normalise import averaging, over_workers
from rayseg.models.semantic.losses import cross_entropy
from rayseg.training import gradients
from rayseg.training.checkpoint import BEST, read_states
from tests.training.toys import STEPS, Toy, ToyData, arrays_of, closeness, plan_of, run
from tests.training.worlds import together


class Share(ToyData):
    """One worker's part of the batches of ToyData."""

    rank, size = 0, 1

    def __call__(self, epoch, *, start=0):
        for batch in ToyData(self.steps_per_epoch, cut_at=self.cut_at)(epoch, start=start):
            inputs, targets = batch.inputs["image"][self.rank :: self.size], batch.targets["wanted"][self.rank :: self.size]
            yield batch._replace(inputs={"image": inputs}, targets={"wanted": targets})


def train_together(folder, size, *, plan=None, cut_at=None, **changes):
    """The networks of all workers, after a run of some."""
    networks = []
    for rank in range(size):
        paddle.seed(5 + rank)  # workers need not start from the same weights
        networks.append(Toy(norm=False, drop=0.0))

    def work(world):
        data = Share(cut_at=cut_at)
        data.rank, data.size = world.rank, size
        given = plan or plan_of(batch_size=8 // size, clip=("global_norm", 0.5), rate_batch=8)
        return run(folder, given, data=data, network=networks[world.rank], world=world, **changes)

    return networks, together(size, work)


def states(network):
    return {name: tensor.numpy() for name, tensor in network.state_dict().items()}


def test_two_workers_with_half_batches_train_like_one_with_whole_ones(tmp_path):
    (alone,), _ = train_together(tmp_path / "one", 1)
    pair, results = train_together(tmp_path / "two", 2)
    for name, wanted in states(alone).items():
        assert np.allclose(states(pair[0])[name], wanted, atol=2e-6), name
        assert (states(pair[0])[name] == states(pair[1])[name]).all(), name
    one, two = (np.loadtxt(tmp_path / part / "history.csv", delimiter=",", skiprows=1, usecols=2) for part in ("one", "two"))
    assert np.allclose(one, two, atol=1e-5)
    assert results[0].best_score == results[1].best_score


def test_a_run_of_two_workers_goes_on_with_one(tmp_path):
    plans = [plan_of(batch_size=8 // size, rate_batch=8, unit="iterations", length=8, eval_interval=2) for size in (2, 1)]
    (alone,), _ = train_together(tmp_path / "one", 1, plan=plans[1])
    with pytest.raises(KeyboardInterrupt):
        train_together(tmp_path / "cut", 2, plan=plans[0], cut_at=(1, 2))
    standing = read_states(tmp_path / "cut" / "iter_4").standing
    assert (standing.epoch, standing.images) == (1, 8)
    (resumed,), _ = train_together(tmp_path / "cut", 1, plan=plans[1])
    for name, wanted in states(alone).items():
        assert np.allclose(states(resumed)[name], wanted, atol=2e-6), name


def test_only_rank_0_writes_and_all_are_told_the_same(tmp_path):
    told = {0: [], 1: []}

    def evaluate(network):
        return {"score": float(np.random.default_rng().random())}  # workers that disagree take rank 0's word

    def work(world):
        data = Share()
        data.rank, data.size = world.rank, 2
        return run(
            tmp_path if world.rank == 0 else tmp_path / "nowhere",
            plan_of(batch_size=4),
            data=data,
            network=Toy(norm=False, drop=0.0),
            world=world,
            report=told[world.rank].append,
            evaluate=evaluate,
        )

    together(2, work)
    assert not (tmp_path / "nowhere").exists() and (tmp_path / BEST).exists()
    plain = [[{k: v for k, v in e.items() if k not in ("seconds", "path")} for e in told[rank]] for rank in (0, 1)]
    assert plain[0] == plain[1]


def test_workers_with_different_numbers_of_batches_are_refused_at_once(tmp_path):
    def work(world):
        run(tmp_path, data=ToyData(STEPS + world.rank), world=world)

    with pytest.raises(DatasetError, match=r"has \d batches in an epoch, rank 0 has 3|every worker needs the same"):
        together(2, work)


def test_gradients_are_averaged_in_parcels_and_a_missing_one_counts_as_zero(monkeypatch):
    monkeypatch.setattr(gradients, "BUCKET_BYTES", 40)
    shapes = [(3, 2), (4,), (50,), (1,), (2, 2)]

    def work(world):
        parameters = [paddle.create_parameter(list(shape), "float32") for shape in shapes]
        for index, parameter in enumerate(parameters):
            if index == 4 or (index == 1 and world.rank == 1):
                continue
            parameter.grad = paddle.full(parameter.shape, float(10 * index + world.rank))
        gradients.average(parameters, world)
        return [None if p.grad is None else p.grad.numpy() for p in parameters]

    first, second = together(2, work)
    for index, wanted in enumerate([0.5, 5.0, 20.5, 30.5]):
        assert first[index].shape == shapes[index]
        assert (first[index] == wanted).all() and (second[index] == wanted).all()
    assert first[4] is None


@pytest.mark.parametrize("kind", ["global_norm", "norm"])
def test_gradients_are_cut_as_paddle_cuts_them(kind):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in [(3, 2), (4,), (1,)]]
    for limit in (0.5, 100.0):
        parameters = [paddle.create_parameter(list(a.shape), "float32") for a in arrays]
        for parameter, array in zip(parameters, arrays, strict=True):
            parameter.grad = paddle.to_tensor(array)
        theirs = (paddle.nn.ClipGradByGlobalNorm if kind == "global_norm" else paddle.nn.ClipGradByNorm)(limit)
        wanted = [g.numpy() for _, g in theirs([(p, p.grad) for p in parameters])]
        gradients.clip(parameters, kind, limit)
        for parameter, array in zip(parameters, wanted, strict=True):
            assert np.allclose(parameter.grad.numpy(), array, rtol=1e-5)


def test_a_cross_entropy_over_workers_is_that_of_the_whole_batch():
    """One worker's labels are mostly left out: the mean of two means would be another number."""
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(2, 3, 4, 4)).astype(np.float32), rng.integers(0, 3, (2, 4, 4))
    labels[0, 1:] = 255
    whole = float(cross_entropy(paddle.to_tensor(logits), paddle.to_tensor(labels)))

    def work(world):
        with averaging(world.all_reduce_mean, 2):
            part = slice(world.rank, world.rank + 1)
            return float(cross_entropy(paddle.to_tensor(logits[part]), paddle.to_tensor(labels[part])))

    parts = together(2, work)
    assert np.mean(parts) == pytest.approx(whole, rel=1e-5)
    apart = [float(cross_entropy(paddle.to_tensor(logits[[k]]), paddle.to_tensor(labels[[k]]))) for k in (0, 1)]
    assert abs(np.mean(apart) - whole) > 0.01


def test_the_least_that_a_count_may_be_is_that_of_all_workers_together():
    def work(world):
        with averaging(world.all_reduce_mean, 2):
            return [float(over_workers(paddle.to_tensor(count), least=1.0)) for count in (0.1 * world.rank, 1.0 + world.rank)]

    assert together(2, work) == [[0.5, 1.5], [0.5, 1.5]]
    assert float(over_workers(paddle.to_tensor(0.1), least=1.0)) == 1.0


def test_a_count_of_one_process_is_left_as_it_is():
    count = paddle.to_tensor(3.0)
    assert over_workers(count) is count


def test_scores_kept_with_a_checkpoint_are_those_of_all(tmp_path):
    _, results = train_together(tmp_path, 2, evaluate=closeness)
    assert read_states(tmp_path / "epoch_6").scores == results[1].scores
    assert any(name.startswith(".pdema:") for name in arrays_of(tmp_path / "epoch_6"))
