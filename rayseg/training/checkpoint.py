"""Checkpoints: folders with everything a run needs to go on, readable whenever the run was killed.

    epoch_12/ or iter_4000/       the newest few
      model.pdparams              what predicts: the averaged weights, where weights are averaged
      model.pdema                 the weights themselves, where weights are averaged (PaddleX has the two this way round)
      model.pdopt                 state of the optimizer
      model.pdstates              JSON: where the run stands, its plan and settings
    best_model/                   the same files of the best evaluation

A folder is written under another name and renamed, so it is whole or not there. Weights and optimizer state are dicts
of arrays under the network's own names: Paddle's count the layers a process has built, and would not fit one that has
built another network first. Nothing is tied to a number of workers, and reading runs no code from the files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from rayseg.errors import WeightsError
from rayseg.models.weights import read_pdparams, save_arrays
from rayseg.training.ema import Ema

BEST = "best_model"
STEM = "model"
STATES = ".pdstates"
_FORMAT = 1
_PREFIX = {"epochs": "epoch_", "iterations": "iter_"}
_PART, _OLD = ".part-", ".old-"


@dataclass
class Standing:
    """Where a run stands. Randomness follows from `seed` and `step`, the order of data from `seed` and `epoch`."""

    seed: int
    epoch: int = 0
    """Epochs finished."""
    images: int = 0
    """Images of the present epoch that are used up, over all workers."""
    step: int = 0
    """Steps of the optimizer."""
    seconds: float = 0.0
    """Time spent, over all restarts."""
    best_score: float | None = None
    """None before the first evaluation."""
    best_step: int = -1
    best_epoch: int = -1


@dataclass(frozen=True)
class States:
    """What a `.pdstates` file holds."""

    standing: Standing
    plan: dict[str, Any]
    settings: Any
    """As they were given to the run, for people and for exporting."""
    scores: dict[str, float]
    """Of the last evaluation."""
    scaler: dict[str, float]
    ema_steps: int | None


def write_checkpoint(
    folder: Path, network: nn.Layer, optimizer: paddle.optimizer.Optimizer, ema: Ema | None, states: States, *, unit: str
) -> Path:
    """Write the whole state of a run into a folder of its own below `folder`; returns it."""
    place = place_of(folder, states.standing, unit)
    part = folder / f".{place.name}{_PART}{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    own = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    if ema is None:
        save_arrays(own, part / f"{STEM}.pdparams")
    else:
        save_arrays({name: tensor.numpy() for name, tensor in ema.state_dict().items()}, part / f"{STEM}.pdparams")
        save_arrays(own, part / f"{STEM}.pdema")
    save_arrays(_optimizer_arrays(network, optimizer), part / f"{STEM}.pdopt")
    with (part / f"{STEM}{STATES}").open("w", encoding="utf-8") as file:
        json.dump({"format": _FORMAT, **asdict(states)}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    _put_in_place(part, place)
    return place


def place_of(folder: Path, standing: Standing, unit: str) -> Path:
    """The folder of a checkpoint."""
    return folder / f"{_PREFIX[unit]}{standing.epoch if unit == 'epochs' else standing.step}"


def mark_best(folder: Path, checkpoint: Path, *, stem: str = STEM) -> Path:
    """Make `best_model` of a run's folder hold the files of a checkpoint, called `stem`; returns it."""
    place = folder / BEST
    part = folder / f".{BEST}{_PART}{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    for file in checkpoint.iterdir():
        if file.is_file():
            _link(file, part / f"{stem}{file.suffix}")
    _put_in_place(part, place)
    return place


def read_checkpoint(path: Path, network: nn.Layer, optimizer: paddle.optimizer.Optimizer, ema: Ema | None) -> States:
    """Put a saved state into a freshly built network, optimizer and average.

    Args:
        path: a checkpoint's folder.

    Raises:
        WeightsError: a file is missing or damaged, or was written for another network or optimizer.
    """
    states = read_states(path)
    if (ema is None) != (states.ema_steps is None):
        was, now = ("without", "with") if states.ema_steps is None else ("with", "without")
        raise WeightsError(f"{path}: was trained {was} averaged weights, this run is {now}; set Train.ema as it was")
    predicting = read_pdparams(_file(path, ".pdparams"))
    own = read_pdparams(_file(path, ".pdema")) if ema is not None else predicting
    accumulators = read_pdparams(_file(path, ".pdopt"))
    _require_fit(path, network, own)
    network.set_state_dict(own)
    if ema is not None:
        ema.load(predicting, steps=states.ema_steps or 0)
    _restore_optimizer(path, network, optimizer, accumulators)
    return states


def read_states(path: Path) -> States:
    """Where a checkpoint stands and how it was made, without its arrays.

    Raises:
        WeightsError: not a checkpoint of ours, or damaged.
    """
    file = _file(path, STATES)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.pop("format") != _FORMAT:
            raise WeightsError(f"{file}: was written by another version of rayseg")
        standing = Standing(**content.pop("standing"))
        return States(standing=standing, **content)
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"{file}: not the state of a rayseg run ({type(error).__name__}: {error}). It may be damaged, or PaddleX's own; "
            "weights alone can be given as Train.pretrain_weight_path"
        ) from error


def checkpoints(folder: Path) -> list[Path]:
    """Those below a run's folder, oldest first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        for prefix in _PREFIX.values():
            number = path.name.removeprefix(prefix)
            if path.name.startswith(prefix) and number.isdecimal() and any(path.glob(f"*{STATES}")):
                found.append((int(number), path))
    return [path for _, path in sorted(found)]


def latest(folder: Path) -> Path | None:
    """The newest checkpoint below a run's folder; None without any."""
    found = checkpoints(folder)
    return found[-1] if found else None


def find_checkpoint(path: Path) -> Path:
    """The checkpoint meant by a run's folder, a checkpoint's folder, or a file in one.

    Raises:
        WeightsError: there is none.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise WeightsError(f"{path}: there is no such checkpoint")
    if any(folder.glob(f"*{STATES}")):
        return folder
    newest = latest(folder) if path.is_dir() else None
    if newest is None:
        raise WeightsError(f"{path}: no checkpoint; a run can go on from a folder with a {STATES} file in it")
    return newest


def prune(folder: Path, *, keep: int) -> None:
    """Remove all but the newest checkpoints."""
    for path in checkpoints(folder)[:-keep]:
        _remove(path)


def discard_newer(folder: Path, standing: Standing) -> list[Path]:
    """Remove checkpoints of a course that a run going back to an earlier one leaves; returns them."""
    gone = [path for path in checkpoints(folder) if read_states(path).standing.step > standing.step]
    for path in gone:
        _remove(path)
    return gone


def tidy(folder: Path) -> None:
    """Clear away what a kill in the middle of writing leaves; a best_model that was stepping aside comes back."""
    for path in folder.glob(f".*{_OLD}*"):
        name = path.name[1:].partition(_OLD)[0]
        if not (folder / name).exists():
            path.rename(folder / name)
        shutil.rmtree(path, ignore_errors=True)
    for path in folder.glob(f".*{_PART}*"):
        shutil.rmtree(path, ignore_errors=True)


def _put_in_place(fresh: Path, place: Path) -> None:
    """Rename a complete folder to its name; an older one of that name steps aside first."""
    _sync(fresh)
    aside = place.with_name(f".{place.name}{_OLD}{os.getpid()}")
    if place.exists():
        place.rename(aside)
    fresh.rename(place)
    _sync(place.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    """A folder half removed must not look like a checkpoint."""
    aside = path.with_name(f".{path.name}{_PART}gone-{os.getpid()}")
    path.rename(aside)
    shutil.rmtree(aside, ignore_errors=True)


def _link(source: Path, target: Path) -> None:
    """The same file under two names, or a copy where the file system has no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _sync(folder: Path) -> None:
    """Names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file(path: Path, suffix: str) -> Path:
    found = sorted(file for file in path.glob(f"*{suffix}") if not file.name.startswith("."))
    if len(found) != 1:
        raise WeightsError(f"{path}: holds {len(found)} {suffix} files; a checkpoint has one of each, copy it again as a whole")
    return found[0]


def _require_fit(path: Path, network: nn.Layer, state: Mapping[str, np.ndarray]) -> None:
    wanted = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: list(array.shape) for name, array in state.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise WeightsError(
            f"{path}: written for another network: {len(odd)} tensors differ, first {odd[0]!r} "
            f"(file {found.get(odd[0])}, network {wanted.get(odd[0])}). Use the settings it was trained with."
        )


def _optimizer_arrays(network: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, np.ndarray]:
    """Accumulators as `<parameter>:<accumulator>`, the parameter under its name in the network."""
    out = {}
    owners = _by_internal_name(network)
    for name, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            owner, accumulator = _split(name, owners)
            out[f"{owners[owner]}:{accumulator}"] = value.numpy()
    return out


def _restore_optimizer(
    path: Path, network: nn.Layer, optimizer: paddle.optimizer.Optimizer, arrays: Mapping[str, np.ndarray]
) -> None:
    internal = {name: owner for owner, name in _by_internal_name(network).items()}
    state: dict[str, Any] = {}
    for key, array in arrays.items():
        name, _, accumulator = key.rpartition(":")
        if name not in internal:
            raise WeightsError(f"{path}: optimizer state for {name!r}, which the network does not train")
        state[f"{internal[name]}_{accumulator}"] = paddle.to_tensor(array)
    optimizer.set_state_dict(state)


def _by_internal_name(network: nn.Layer) -> dict[str, str]:
    """Paddle's name of each parameter -> its name in the network."""
    return {parameter.name: name for name, parameter in network.named_parameters()}


def _split(name: str, owners: Mapping[str, str]) -> tuple[str, str]:
    """`conv2d_7.w_0_moment1_0` -> (`conv2d_7.w_0`, `moment1_0`)."""
    cut = len(name)
    while (cut := name.rfind("_", 0, cut)) > 0:
        if name[:cut] in owners:
            return name[:cut], name[cut + 1 :]
    raise KeyError(f"optimizer state {name!r} belongs to no parameter of the network")
