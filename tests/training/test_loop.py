"""A run that is stopped and goes on ends where an undisturbed one ends, bit for bit; one that goes wrong says so."""

from __future__ import annotations

import math

import numpy as np
import paddle
import pytest
from paddle import nn

from rayseg.errors import ConfigError, RaysegError, WeightsError
from rayseg.models.weights import read_pdparams
from rayseg.training.batches import Batch
from rayseg.training.loop import BEST, CHECKPOINT, Length, train
from rayseg.training.optim import Cosine, make_optimizer

STEPS = 3


class Toy(nn.Layer):
    """A network with a loss, running statistics and randomness of its own."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1D(width)
        self.drop = nn.Dropout(0.2)
        self.out = nn.Linear(width, 1)
        self.epochs_seen: list[int] = []

    def loss(self, inputs, targets):
        found = self.out(self.drop(self.norm(inputs["image"])))
        error = ((found - targets["wanted"]) ** 2).mean()
        return {"loss": error, "loss_twice": 2 * error}

    def set_epoch(self, epoch: int) -> None:
        self.epochs_seen.append(epoch)


def batches(epoch: int):
    rng = np.random.default_rng(epoch)
    for _ in range(STEPS):
        x = rng.normal(size=(8, 4)).astype(np.float32)
        yield Batch(x, {"wanted": x.sum(axis=1, keepdims=True)})


def run(folder, *, epochs=6, kind="adamw", stop_after=None, data=batches, events=None, model=None, **changes):
    """Train a toy; `stop_after` epochs pull the plug in the middle of the next one."""

    def cut(epoch):
        for index, batch in enumerate(data(epoch)):
            if stop_after is not None and epoch == stop_after and index == 1:
                raise KeyboardInterrupt
            yield batch

    paddle.seed(5)
    model = model or Toy()
    settings = {
        "steps_per_epoch": STEPS,
        "length": Length(epochs),
        "rate": Cosine(0.05, warmup=0.2),
        "ema_decay": 0.9,
        "folder": folder,
        "seed": 1,
        "evaluate": lambda: {"score": -float(((model.out.weight - 1) ** 2).mean())},
        "evaluate_every": 2,
        "report": (events if events is not None else []).append,
        "log_every": 2,
    }
    standing = train(model, cut, make_optimizer(model, kind=kind, weight_decay=0.01), **(settings | changes))
    return model, standing


def arrays_of(folder) -> dict[str, np.ndarray]:
    with np.load(folder / CHECKPOINT) as file:
        return {name: file[name] for name in file.files if name != "standing"}


@pytest.mark.parametrize("kind", ["adamw", "momentum"])
@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_a_stopped_run_ends_like_an_undisturbed_one(tmp_path, kind, stop_after):
    run(tmp_path / "whole", kind=kind)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", kind=kind, stop_after=stop_after)
    nn.Linear(3, 3)  # Paddle counts layers: from here on its internal names differ
    _, standing = run(tmp_path / "cut", kind=kind)
    whole, cut = arrays_of(tmp_path / "whole"), arrays_of(tmp_path / "cut")
    assert whole.keys() == cut.keys()
    assert any(name.startswith("optimizer/") for name in whole)
    for name in whole:
        assert (whole[name] == cut[name]).all(), name
    assert standing.epoch == 6 and standing.step == 6 * STEPS


def test_a_finished_run_does_nothing_more(tmp_path):
    run(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    events = []
    run(tmp_path, events=events)
    assert [event["event"] for event in events] == ["resumed"]
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_training_learns_and_keeps_the_best_average(tmp_path):
    events = []
    model, standing = run(tmp_path, epochs=40, events=events)
    losses = [event["loss"] for event in events if event["event"] == "step"]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    scores = {event["epoch"]: event["score"] for event in events if event["event"] == "evaluated"}
    assert standing.best_score == max(scores.values()) == scores[standing.best_epoch]
    best = read_pdparams(tmp_path / BEST)
    assert set(best) == set(model.state_dict())
    assert -float(((best["out.weight"] - 1) ** 2).mean()) == pytest.approx(standing.best_score, rel=1e-4)


def test_evaluation_sees_the_average_and_gives_the_weights_back(tmp_path):
    model, seen = Toy(), []

    def look():
        seen.append((model.training, model.out.weight.numpy().copy()))
        return {"score": 0.0}

    run(tmp_path, epochs=2, model=model, evaluate=look)
    assert not seen[0][0]
    with np.load(tmp_path / CHECKPOINT) as file:
        assert (seen[0][1] == file["ema/out.weight"]).all()
        assert (model.out.weight.numpy() == file["model/out.weight"]).all()
        assert (file["model/out.weight"] != file["ema/out.weight"]).any()


def test_the_last_epoch_is_evaluated_even_out_of_turn(tmp_path):
    events = []
    run(tmp_path, epochs=5, events=events)
    assert [event["epoch"] for event in events if event["event"] == "evaluated"] == [2, 4, 5]


def test_a_score_that_cannot_be_measured_still_leaves_weights(tmp_path):
    run(tmp_path, epochs=2, evaluate=lambda: {"score": math.nan})
    assert (tmp_path / BEST).exists()


def test_the_model_is_told_each_epoch(tmp_path):
    model, _ = run(tmp_path, epochs=3)
    assert model.epochs_seen == [0, 1, 2]


def test_minutes_end_a_run_before_its_epochs(tmp_path):
    _, standing = run(tmp_path, length=Length(10**6, minutes=0.005))
    assert 1 <= standing.epoch < 10**6
    assert standing.seconds >= 0.3


def test_progress_is_by_epochs_or_minutes_whichever_is_further():
    assert Length(10).progress(5, 1e9) == 0.5
    assert Length(10, minutes=1).progress(1, 30) == 0.5
    assert Length(10, minutes=1).progress(9, 30) == 0.9


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    def poisoned(epoch):
        for batch in batches(epoch):
            yield Batch(batch.image, {"wanted": batch.targets["wanted"] * (math.nan if epoch == 1 else 1)})

    with pytest.raises(RaysegError, match=r"step 4: losses .*nan.* Lower the learning rate"):
        run(tmp_path, data=poisoned)


def test_going_on_with_another_seed_is_refused(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(ConfigError, match="was started with seed 1, not 2"):
        run(tmp_path, seed=2)


def test_a_cut_checkpoint_is_named(tmp_path):
    run(tmp_path, epochs=1)
    whole = (tmp_path / CHECKPOINT).read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / CHECKPOINT).write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"checkpoint\.npz: not a whole checkpoint"):
            run(tmp_path)


def test_a_checkpoint_of_another_network_is_refused(tmp_path):
    run(tmp_path, epochs=1)
    with pytest.raises(WeightsError, match=r"written for another network: 4 tensors differ|another network"):
        run(tmp_path, model=Toy(width=5))


def test_a_run_of_no_length_is_refused():
    with pytest.raises(ConfigError, match="at least one epoch"):
        Length(0)
