"""What each process of a group does in test_world.py and test_sync_batch_norm.py; arrays come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import distributed, nn

from rayseg.distributed.sync_batch_norm import SharedBatchNorm, share_batch_norms
from rayseg.distributed.world import PaddleWorld, current_world
from tests.distributed.toy_runs import train_toy


def everything(folder: str) -> dict[str, Any]:
    """One visit to every method of the world, batch norms over the group, and a run: starting processes takes the time."""
    train_toy(Path(folder), current_world(), seed=5 + distributed.get_rank())  # rank 0's weights have to be taken
    return {"world": talk(), "uneven": normalise(UNEVEN), "far": far(), "half": half(), "layers": replaced()}


def talk() -> dict[str, Any]:
    world = current_world()
    assert isinstance(world, PaddleWorld)
    out: dict[str, Any] = {"rank": world.rank, "size": world.size}
    for name in ("float32", "float64", "float16", "bfloat16"):
        tensor = paddle.to_tensor([1.0 + 2 * world.rank, -0.5]).astype(name)
        world.all_reduce_mean([tensor, empty := paddle.zeros([0])])
        out[f"mean {name}"] = (tensor.astype("float64").tolist(), str(tensor.dtype), empty.shape)
    for name in ("float32", "float16", "bfloat16", "bool", "uint8", "int8", "int16", "int32", "int64"):
        tensor = paddle.to_tensor([1 - world.rank, 1]).astype(name)
        world.broadcast([tensor])
        out[f"broadcast {name}"] = (tensor.astype("int64").tolist(), str(tensor.dtype))
    weight = nn.Linear(2, 1).weight
    weight.set_value(paddle.full([2, 1], float(world.rank + 7)))
    world.broadcast([weight])
    out["parameter"] = (weight.tolist(), weight.stop_gradient)
    message = {"score": 0.5, "nan": float("nan"), "path": "/tmp/ä", "list": [1, None, True]} if world.rank == 0 else "not asked"
    out["agree"] = world.agree(message)
    out["agree nothing"] = world.agree(None if world.rank == 0 else 1)
    out["gathered"] = world.gather({"rank": world.rank})
    world.barrier()
    return out


def batch_of(rows: int, *, seed: int, centre: float = 0.0, channels: int = 3) -> np.ndarray:
    return (np.random.default_rng(seed).normal(centre, 2.0, (rows, channels, 4, 5))).astype(np.float32)


UNEVEN = (batch_of(3, seed=1), batch_of(1, seed=2, centre=3.0))
"""A batch for each of two workers."""
FAR = (batch_of(2, seed=3, centre=2e4), batch_of(2, seed=4, centre=2e4))


def small_network() -> nn.Sequential:
    paddle.seed(11)
    network = nn.Sequential(nn.Conv2D(3, 4, 1), nn.BatchNorm2D(4), nn.ReLU(), nn.Conv2D(4, 2, 1), nn.BatchNorm2D(2))
    network[1].weight.set_value(paddle.to_tensor([0.5, 1.0, 2.0, -1.0]))
    return network


def passes(network: nn.Layer, batch: np.ndarray, share: float) -> dict[str, np.ndarray]:
    """Output, gradients and statistics after one step forward and back; `share` of this batch in the loss of all."""
    x = paddle.to_tensor(batch, stop_gradient=False)
    y = network(x)
    (((y - 0.3) ** 3).mean() * share).backward()
    out = {"output": y.numpy(), "input gradient": x.grad.numpy()}
    out |= {f"gradient {name}": p.grad.numpy() for name, p in network.named_parameters() if p.grad is not None}
    out |= {f"state {name}": value.numpy() for name, value in network.state_dict().items()}
    network.eval()
    return out | {"evaluated": network(x.detach()).numpy()}


def normalise(batches: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    rank = distributed.get_rank()
    rows = [len(b) for b in batches]
    network = share_batch_norms(small_network())
    assert isinstance(network[1], SharedBatchNorm)
    return passes(network, batches[rank], rows[rank] / sum(rows))


def far() -> dict[str, np.ndarray]:
    """Output and running statistics where means are ten thousand times the spread."""
    layer = share_batch_norms(nn.BatchNorm2D(3, momentum=0.0))
    output = layer(paddle.to_tensor(FAR[distributed.get_rank()]))
    return {"output": output.numpy(), "mean": layer._mean.numpy(), "variance": layer._variance.numpy()}


def half() -> tuple[str, np.ndarray, str]:
    """A batch norm fed with half precision under AMP, as in O1."""
    layer = share_batch_norms(nn.BatchNorm2D(3))
    with paddle.amp.auto_cast(enable=True, level="O1", dtype="bfloat16"):
        y = layer(paddle.to_tensor(UNEVEN[distributed.get_rank()]).astype("bfloat16"))
    return str(y.dtype), y.astype("float32").numpy(), str(layer._mean.dtype)


def replaced() -> dict[str, str]:
    """Kinds of layers before and after."""
    network = nn.Sequential(
        nn.BatchNorm2D(2), nn.BatchNorm2D(2, use_global_stats=True), nn.Sequential(nn.BatchNorm1D(2)), nn.LayerNorm(2)
    )
    names = list(network.state_dict())
    network.eval()
    shared = share_batch_norms(network)
    assert list(shared.state_dict()) == names and not shared[0].training
    return {name: type(layer).__name__ for name, layer in shared.named_sublayers()}
