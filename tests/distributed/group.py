"""Process groups without Ray: the same function in N processes that talk over gloo on this machine."""

from __future__ import annotations

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from rayseg.distributed.backend import environment

ROOT = Path(__file__).resolve().parents[2]
START = """
import importlib, pickle, sys
import paddle
from paddle import distributed
paddle.set_device("cpu")
distributed.init_parallel_env()
module, function, arguments, out = sys.argv[1:]
answer = getattr(importlib.import_module(module), function)(*pickle.loads(bytes.fromhex(arguments)))
with open(out, "wb") as file:
    pickle.dump(answer, file)
"""


def in_group(function: Any, size: int, folder: Path, *arguments: Any) -> list[Any]:
    """What a module's function returned in each of `size` processes, by rank."""
    places, processes = [("127.0.0.1", port) for port in _free_ports(size + 1)], []
    for rank, values in enumerate(environment(places[:size], places[size], "gloo", 60)):
        command = [sys.executable, "-c", START, function.__module__, function.__name__, pickle.dumps(arguments).hex()]
        with (folder / f"{rank}.log").open("wb") as output:
            processes.append(
                subprocess.Popen(
                    [*command, str(folder / f"{rank}.pickle")],
                    cwd=ROOT,
                    env={**os.environ, **values, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                    stdout=output,
                    stderr=output,
                )
            )
    try:
        for rank, process in enumerate(processes):
            assert process.wait(timeout=120) == 0, f"rank {rank}: {(folder / f'{rank}.log').read_text()[-3000:]}"
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(size)]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports
