"""A trial that did not train with what it was given is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rayseg.config.train import Settings
from rayseg.distributed.resources import Resources
from rayseg.errors import RaysegError
from rayseg.training.loop import FitResult
from rayseg.training.plan import plan_from
from rayseg.tuning.points import trial_settings
from rayseg.tuning.proof import Proof
from tests.training.toys import ToyData, run

ONE = Resources(1, 1, use_gpu=False, cpus=1.0, gpus=0.0)


def given_settings(folder: Path, parameters: dict, *, model: str = "PP-LiteSeg-T", **train) -> Settings:
    usual = {"num_classes": 2, "epochs_iters": 6, "eval_interval": 3, "batch_size": 8, "log_interval": 1, "warmup_steps": 0}
    base = Settings.from_mapping({"Global": {"model": model}, "Train": {**usual, **train}})
    return trial_settings(base, parameters, folder=folder, resources=ONE)


def trained(asked: Settings, proof: Proof, *, used: Settings | None = None) -> FitResult:
    """A run of the loop with settings that may be others than asked for."""
    folder, plan = Path(asked.general.output), plan_from(used or asked)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text((used or asked).to_yaml())
    scores = {plan.metric: 0.5}
    return run(folder, plan, report=proof, evaluate=lambda network: scores, data=ToyData(batch_size=8))


@settings(max_examples=12)
@given(
    st.sampled_from(["PP-LiteSeg-T", "PP-YOLOE_seg-S", "SegFormer-B0", "MaskRCNN-ResNet50-FPN"]),
    st.floats(1e-4, 0.1),
    st.sampled_from(["constant", "step", "cosine", "poly"]),
    st.sampled_from([0, 1, 3]),
    st.integers(1, 2),
    st.booleans(),
)
def test_rates_worked_out_from_the_settings_are_those_of_the_optimizer(tmp_path_factory, model, rate, kind, warmup, steps, scale):
    folder = tmp_path_factory.mktemp("run")
    asked = {"Train.learning_rate": rate, "Train.schedule": kind}
    made = given_settings(folder, asked, model=model, warmup_steps=warmup, accumulate_steps=steps, scale_rate=scale, clip=0)
    proof = Proof(made)
    result = trained(made, proof)
    proof.finish(result, asked)
    assert result.first_rate == pytest.approx(proof._expected(0)) and proof.begins_at == 0


def test_another_rate_is_found_at_the_first_step_that_is_logged(tmp_path):
    asked = given_settings(tmp_path, {"Train.learning_rate": 0.01})
    other = asked.with_values({"Train.learning_rate": 0.02})
    with pytest.raises(RaysegError, match="rate of step 1: the optimizer had 0.04, the settings ask for 0.02|had 0.0"):
        trained(asked, Proof(asked), used=other)


def test_another_rate_is_found_at_the_end_where_nothing_was_logged(tmp_path):
    asked = given_settings(tmp_path, {"Train.learning_rate": 0.01}, log_interval=100)
    proof = Proof(asked)
    result = trained(asked, lambda event: proof(event) if event["event"] == "started" else None, used=None)
    proof.finish(result, {"Train.learning_rate": 0.01})
    from dataclasses import replace

    with pytest.raises(RaysegError, match="first rate of step 1"):
        proof.finish(replace(result, first_rate=0.5), {})
    with pytest.raises(RaysegError, match="highest rate: the optimizer had 0.5"):
        proof.finish(replace(result, highest_rate=0.5), {})


def test_other_settings_are_found_whether_they_were_searched_or_not(tmp_path):
    asked = given_settings(tmp_path, {"Train.weight_decay": 0.5})
    proof = Proof(asked)
    result = trained(asked, proof)
    for key, value, parameters, message in (
        ("Train.weight_decay", 0.25, {"Train.weight_decay": 0.5}, "trained with Train.weight_decay 0.25, but 0.5 was asked for"),
        ("Train.amp", "O1", {"Train.weight_decay": 0.5}, "trained with Train.amp 'O1', but 'OFF' was asked for"),
    ):
        (tmp_path / "config.yaml").write_text(asked.with_values({key: value}).to_yaml())
        with pytest.raises(RaysegError, match=message):
            proof.finish(result, parameters)
