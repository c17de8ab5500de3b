"""One file with everything a run needs to go on: weights, their average, optimizer, where the run stands, best score.

The file is a plain .npz without pickle, so opening one from a stranger runs no code. It is written under another name
and then renamed: a run killed while writing leaves the file before it. Optimizer state is stored under the model's
parameter names; Paddle's own names count the layers a process has built, and would not fit a process that has built
another model first.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from rayseg.errors import WeightsError
from rayseg.training.optim import Ema


@dataclass
class Standing:
    """Where a run stands after its last finished epoch. Data order and randomness follow from `seed` and `epoch`."""

    seed: int
    epoch: int = 0
    """Epochs finished."""
    step: int = 0
    """Optimizer steps taken."""
    seconds: float = 0.0
    """Time spent, over all restarts."""
    best_score: float = -1.0
    best_epoch: int = -1


def save_checkpoint(path: Path, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, ema: Ema, standing: Standing) -> None:
    """Write the whole state of a run, atomically."""
    arrays: dict[str, Any] = {f"model/{k}": v.numpy() for k, v in model.state_dict().items()}
    arrays |= {f"ema/{k}": v for k, v in ema.state_dict().items()}
    arrays |= {f"optimizer/{k}": v for k, v in _optimizer_arrays(model, optimizer).items()}
    arrays["standing"] = np.array(json.dumps(asdict(standing) | {"ema_steps": ema.steps}))
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, ema: Ema) -> Standing:
    """Put a saved state back into a freshly built model, optimizer and average.

    Raises:
        WeightsError: the file is cut short, or was written for another network or optimizer.
    """
    try:
        # Opened here, for np.load does not close the file when it is cut short.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        standing = json.loads(str(arrays.pop("standing")))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{path}: not a whole checkpoint ({error}); delete it to start anew") from error
    parts: dict[str, dict[str, np.ndarray]] = {"model": {}, "ema": {}, "optimizer": {}}
    for name, array in arrays.items():
        part, _, key = name.partition("/")
        parts[part][key] = array
    _require_fit(path, model, parts["model"])
    model.set_state_dict(parts["model"])
    ema.load(parts["ema"], steps=int(standing.pop("ema_steps")))
    _restore_optimizer(path, model, optimizer, parts["optimizer"])
    return Standing(**standing)


def _require_fit(path: Path, model: nn.Layer, state: dict[str, np.ndarray]) -> None:
    wanted = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: list(array.shape) for name, array in state.items()}
    if wanted != found:
        odd = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        raise WeightsError(
            f"{path}: written for another network: {len(odd)} tensors differ, first {odd[0]!r} "
            f"(file {found.get(odd[0])}, model {wanted.get(odd[0])}). Use the settings it was trained with."
        )


def _optimizer_arrays(model: nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, np.ndarray]:
    """Accumulators as `<parameter>:<accumulator>`, the parameter under its name in the model."""
    out = {}
    owners = _by_internal_name(model)
    for name, value in optimizer.state_dict().items():
        if isinstance(value, paddle.Tensor):
            owner, accumulator = _split(name, owners)
            out[f"{owners[owner]}:{accumulator}"] = value.numpy()
    return out


def _restore_optimizer(path: Path, model: nn.Layer, optimizer: paddle.optimizer.Optimizer, arrays: dict[str, np.ndarray]) -> None:
    internal: dict[str, str] = {name: owner for owner, name in _by_internal_name(model).items()}
    state: dict[str, Any] = {}
    for key, array in arrays.items():
        name, _, accumulator = key.rpartition(":")
        if name not in internal:
            raise WeightsError(f"{path}: optimizer state for {name!r}, which the model does not train")
        state[f"{internal[name]}_{accumulator}"] = paddle.to_tensor(array)
    optimizer.set_state_dict(state)


def _by_internal_name(model: nn.Layer) -> dict[str, str]:
    """Paddle's name of each parameter -> its name in the model."""
    return {parameter.name: name for name, parameter in model.named_parameters()}


def _split(name: str, owners: dict[str, str]) -> tuple[str, str]:
    """`conv2d_7.w_0_moment1_0` -> (`conv2d_7.w_0`, `moment1_0`)."""
    cut = len(name)
    while (cut := name.rfind("_", 0, cut)) > 0:
        if name[:cut] in owners:
            return name[:cut], name[cut + 1 :]
    raise KeyError(f"optimizer state {name!r} belongs to no parameter of the model")
