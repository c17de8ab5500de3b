"""Paddle under Ray Train: every worker learns who it is, takes its device, and joins the process group.

Ray Train starts the workers, counts their ranks and starts them again after a failure; this file tells Paddle about it.
GPUs talk over NCCL, CPUs over gloo. What the workers then say to each other is world.py's concern.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal

import ray
import ray.train
from ray.train import BackendConfig
from ray.train._internal.utils import get_address_and_port
from ray.train.backend import Backend

from rayseg.errors import ConfigError

log = logging.getLogger(__name__)

_GPU = "FLAGS_selected_gpus"  # Paddle's spelling
_SIOCGIFADDR = 0x8915  # linux/sockios.h: the IPv4 address of an interface
SHUTDOWN_S = 5.0
"""How long workers may take to leave the group; those that hang on a dead peer are ended by Ray anyway."""


@dataclass
class PaddleConfig(BackendConfig):
    """How the workers of one run talk to each other; what `DataParallelTrainer(backend_config=...)` takes."""

    backend: Literal["nccl", "gloo"] | None = None
    """None: nccl where the workers were given GPUs, else gloo."""
    timeout_s: int = 1800
    """How long a worker waits for the others, when it joins and in every exchange; rank 0's export at the end is one wait."""

    def __post_init__(self) -> None:
        if self.backend not in (None, "nccl", "gloo"):
            raise ConfigError(f"backend is {self.backend!r}; Paddle's workers talk over nccl (GPUs) or gloo (CPUs)")
        if self.timeout_s < 1:
            raise ConfigError(f"timeout_s is {self.timeout_s}; workers need at least a second to find each other")

    @property
    def backend_cls(self) -> type[PaddleBackend]:
        return PaddleBackend

    @property
    def train_func_context(self) -> Any:
        """Entered around the worker function, in the thread that trains: Paddle remembers the device per thread."""
        return _in_group

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class PaddleBackend(Backend):
    """What Ray Train calls when a group of workers starts and ends."""

    share_cuda_visible_devices = True  # NCCL peers on one node have to see each other's GPU

    def on_start(self, worker_group: Any, backend_config: PaddleConfig) -> None:
        """Tell every worker its rank and where the others are. They join when their function starts."""
        has_gpu = worker_group.get_resources_per_worker().get("GPU", 0) > 0
        # Ports that are free now. Someone else may take one before it is used: the group then fails and is started anew.
        places = worker_group.execute(get_address_and_port)
        store = worker_group.execute_single(0, get_address_and_port)
        environments = environment(
            places, store, backend_config.backend or ("nccl" if has_gpu else "gloo"), backend_config.timeout_s
        )
        ray.get([worker_group.execute_single_async(rank, _take, values) for rank, values in enumerate(environments)])

    def on_shutdown(self, worker_group: Any, backend_config: PaddleConfig) -> None:
        """Let living workers leave the group; after a crash there is nobody to take leave of."""
        try:
            ray.get(worker_group.execute_async(_leave), timeout=SHUTDOWN_S)
        except (ray.exceptions.RayActorError, ray.exceptions.RayTaskError, ray.exceptions.GetTimeoutError) as error:
            log.info("a worker did not leave the process group: %s", type(error).__name__)


def environment(places: list[tuple[str, int]], store: tuple[str, int], backend: str, timeout_s: int) -> list[dict[str, str]]:
    """The variables Paddle's `init_parallel_env` reads, one dict for each rank.

    Args:
        places: (address, port) of each worker, by rank.
        store: where rank 0 keeps the list of who has come.
        backend: "nccl" or "gloo".
        timeout_s: for joining and for every exchange.

    Raises:
        ConfigError: an IPv6 address, which Paddle would cut at its colons.
    """
    for address, _ in [*places, store]:
        if ":" in address:
            raise ConfigError(f"a worker has the address {address}; Paddle needs IPv4: start Ray with --node-ip-address")
    endpoints = [f"{address}:{port}" for address, port in places]
    return [
        {
            "PADDLE_TRAINER_ID": str(rank),
            "PADDLE_TRAINERS_NUM": str(len(endpoints)),
            "PADDLE_TRAINER_ENDPOINTS": ",".join(endpoints),
            "PADDLE_CURRENT_ENDPOINT": endpoint,
            "PADDLE_MASTER": f"{store[0]}:{store[1]}",
            "PADDLE_DISTRI_BACKEND": backend,
            "FLAGS_stop_check_timeout": str(timeout_s),
            "PADDLE_PG_TIMEOUT": str(timeout_s * 1000),
        }
        for rank, endpoint in enumerate(endpoints)
    ]


def interface_of(address: str) -> str | None:
    """Name of the network interface that owns an IPv4 address; None when there is none on this machine (Linux)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", name.encode()[:15]))
            except OSError:  # an interface without an IPv4 address
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def _take(values: dict[str, str]) -> None:
    """Runs in a worker before Paddle is imported: the flags are read on import."""
    os.environ.update(values)
    if values["PADDLE_DISTRI_BACKEND"] == "gloo" and "GLOO_SOCKET_IFNAME" not in os.environ:
        # gloo would bind to what the host name resolves to, often 127.0.0.1, where no other node finds it
        name = interface_of(values["PADDLE_CURRENT_ENDPOINT"].rsplit(":", 1)[0])
        if name:
            os.environ["GLOO_SOCKET_IFNAME"] = name
    if values["PADDLE_DISTRI_BACKEND"] == "nccl":
        mine = [str(i) for i in ray.get_gpu_ids()]
        os.environ[_GPU] = str(position_of_gpu(mine, os.environ.get("CUDA_VISIBLE_DEVICES", "")))


def position_of_gpu(mine: list[str], visible: str) -> int:
    """Which of the visible devices is this worker's: Paddle counts positions in CUDA_VISIBLE_DEVICES.

    Raises:
        ConfigError: the worker was given no GPU, or another than the visible ones.
    """
    devices = [device.strip() for device in visible.split(",") if device.strip()]
    if not mine:
        raise ConfigError("nccl needs a GPU for every worker and this one was given none; set Cluster.use_gpu or use gloo")
    if mine[0] not in devices:
        raise ConfigError(f"this worker's GPU {mine[0]} is not in CUDA_VISIBLE_DEVICES={visible!r}; leave that variable to Ray")
    return devices.index(mine[0])


@contextmanager
def _joined() -> Iterator[None]:
    if "PADDLE_TRAINERS_NUM" not in os.environ:  # ScalingConfig(num_workers=0): in the driver, without a backend
        yield
        return
    import paddle
    from paddle import distributed

    paddle.disable_signal_handler()  # else every worker that Ray ends prints what looks like a crash
    if os.environ["PADDLE_DISTRI_BACKEND"] == "nccl":
        if not paddle.is_compiled_with_cuda():
            raise ConfigError(
                "the workers were given GPUs, but this Paddle is built for CPUs only; install paddlepaddle-gpu on every node "
                "or set Cluster.use_gpu=false"
            )
        paddle.set_device(f"gpu:{os.environ[_GPU]}")
    else:
        paddle.set_device("cpu")
    if int(os.environ["PADDLE_TRAINERS_NUM"]) > 1:
        distributed.init_parallel_env()
    yield


def _in_group() -> AbstractContextManager[None]:
    return _joined()


def _leave() -> None:
    from paddle import distributed

    if distributed.is_initialized():
        distributed.destroy_process_group()
