"""Whenever a run is killed, a whole checkpoint is left; damaged and foreign ones are named and run no code."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from rayseg.errors import WeightsError
from rayseg.training.checkpoint import (
    BEST,
    checkpoints,
    find_checkpoint,
    latest,
    read_states,
    tidy,
)
from tests.training.toys import arrays_of, assert_same, plan_of, run

# Kills itself at the n-th call of a function while a second checkpoint is being written.
KILLED = """
import os, signal, sys
from pathlib import Path
from tests.training.toys import plan_of, run
name, count, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
true, left = getattr(os, name), count
def fatal(*given, **named):
    global left
    if (folder / "epoch_2").exists():
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return true(*given, **named)
setattr(os, name, fatal)
run(folder, plan_of(length=4))
"""


@pytest.mark.parametrize("name, count", [("fsync", 0), ("fsync", 5), ("rename", 0), ("rename", 1), ("rename", 2), ("link", 1)])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_older_one_and_the_run_goes_on(tmp_path, name, count):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", KILLED, name, str(count), str(folder)]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, check=False)
    assert done.returncode == -9, done.stderr.decode()[-2000:]
    left = latest(folder)
    assert left is not None
    arrays_of(left)
    read_states(left)
    run(folder, plan_of(length=4))
    run(tmp_path / "whole", plan_of(length=4))
    assert_same(tmp_path / "whole" / "epoch_4", folder / "epoch_4")
    assert_same(tmp_path / "whole" / BEST, folder / BEST)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_the_newest_are_kept_and_the_best_besides(tmp_path):
    scores = iter([3.0, 9.0, 1.0, 2.0, 1.0, 0.0])
    run(tmp_path, plan_of(eval_interval=1, keep=2), evaluate=lambda network: {"score": next(scores)})
    assert [path.name for path in checkpoints(tmp_path)] == ["epoch_5", "epoch_6"]
    assert read_states(tmp_path / BEST).standing.epoch == 2


def test_a_checkpoint_tells_where_it_stands_and_how_it_was_made(tmp_path):
    run(tmp_path, plan_of(length=2), settings={"Global": {"model": "Toy"}})
    states = read_states(tmp_path / "epoch_2")
    assert (states.standing.epoch, states.standing.step, states.standing.seed) == (2, 6, 1)
    assert states.plan["learning_rate"] == 0.05 and states.settings == {"Global": {"model": "Toy"}}
    assert states.scores.keys() == {"score"} and states.ema_steps == 6


def test_a_checkpoint_may_be_named_by_its_run_its_folder_or_its_weights(tmp_path):
    run(tmp_path, plan_of(length=2))
    place = tmp_path / "epoch_2"
    assert find_checkpoint(tmp_path) == find_checkpoint(place) == find_checkpoint(place / "model.pdparams") == place
    assert find_checkpoint(tmp_path / BEST) == tmp_path / BEST
    for wrong in (tmp_path / "absent", tmp_path / "tensorboard"):
        with pytest.raises(WeightsError, match=wrong.name):
            find_checkpoint(wrong)


def test_the_newest_checkpoint_is_that_of_the_greatest_number(tmp_path):
    run(tmp_path, plan_of(length=12, eval_interval=1, keep=12, ema=None))
    assert latest(tmp_path).name == "epoch_12"
    assert latest(tmp_path / "absent") is None


@pytest.mark.parametrize("suffix", ["pdparams", "pdema", "pdopt", "pdstates"])
def test_a_file_that_is_cut_or_missing_is_named(tmp_path, suffix):
    run(tmp_path, plan_of(length=1))
    file = tmp_path / "epoch_1" / f"model.{suffix}"
    whole = file.read_bytes()
    for length in (0, len(whole) // 2):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=f"model.{suffix}"):
            run(tmp_path, plan_of(length=2))
    file.unlink()
    if suffix != "pdstates":
        with pytest.raises(WeightsError, match=f"epoch_1: holds 0 .{suffix} files"):
            run(tmp_path, plan_of(length=2))


@pytest.mark.parametrize("suffix", ["pdparams", "pdema", "pdopt", "pdstates"])
def test_a_file_that_brings_code_is_refused_unrun(tmp_path, suffix):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    run(tmp_path, plan_of(length=1))
    (tmp_path / "epoch_1" / f"model.{suffix}").write_bytes(pickle.dumps({"backbone.0.weight": Bomb()}))
    with pytest.raises(WeightsError, match=f"model.{suffix}"):
        run(tmp_path, plan_of(length=2))
    assert not (tmp_path / "ran").exists()


def test_a_best_model_that_was_stepping_aside_comes_back(tmp_path):
    run(tmp_path, plan_of(length=1))
    (tmp_path / BEST).rename(tmp_path / f".{BEST}.old-77")
    (tmp_path / ".epoch_2.part-77").mkdir()
    tidy(tmp_path)
    assert (tmp_path / BEST / "model.pdparams").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
