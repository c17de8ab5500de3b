"""The process in which a DecodeWorker's images are decoded: reads a request, writes pixels to shared memory, answers.

Started by worker.py as `python -m rayseg.images.child SOCKET_FD INPUT_FD OUTPUT_FD DECODER MEMORY_LIMIT`. It loads no
more than decoding needs, ends when the parent does (the socket closes), and kills itself when a request takes longer
than the parent would wait, in case there is no parent left to do so.

A request is a JSON line; the image's bytes are what the input file holds. The answer is a JSON line with the size of
the BGR pixels in the output file, or with the name and message of the error.
"""

from __future__ import annotations

import importlib
import json
import mmap
import os
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

from rayseg.errors import ImageError

READY = b"ready\n"
ORPHAN_GRACE_S = 5.0
_MESSAGE_LIMIT = 2000


def main(arguments: list[str]) -> None:
    """Serve requests until the parent closes its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent to act on
    channel = socket.socket(fileno=int(arguments[0]))
    input_fd, output_fd, memory_limit = int(arguments[1]), int(arguments[2]), int(arguments[4])
    decoder = _load(arguments[3])
    if memory_limit:
        resource.setrlimit(resource.RLIMIT_AS, (memory_limit, memory_limit))
    channel.sendall(READY)
    # From here on nothing but the libraries' own warnings, a line per odd image, would come.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    pixels = _SharedPixels(output_fd)
    with channel.makefile("rb") as requests:
        for line in requests:
            request = json.loads(line)
            signal.setitimer(signal.ITIMER_REAL, request.pop("timeout_s") + ORPHAN_GRACE_S)
            answer = _answer(decoder, request, input_fd, pixels)
            signal.setitimer(signal.ITIMER_REAL, 0)
            channel.sendall(json.dumps(answer).encode() + b"\n")


class _SharedPixels:
    """The output file as an array; it stays mapped, since touching fresh memory costs as much as decoding into it."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map: mmap.mmap | None = None

    def empty(self, shape: tuple[int, int, int]) -> np.ndarray:
        """A uint8 array at the start of the file, which grows where it must."""
        wanted, size = int(np.prod(shape)), os.fstat(self._fd).st_size
        if size < wanted:
            os.ftruncate(self._fd, wanted)
            size = wanted
        if self._map is None or len(self._map) != size:  # the parent may have shrunk it
            self._map = mmap.mmap(self._fd, size)
        return np.frombuffer(self._map, np.uint8, count=wanted).reshape(shape)


def _answer(decoder: Callable[..., np.ndarray], request: dict[str, Any], fd: int, pixels: _SharedPixels) -> dict[str, Any]:
    try:
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            data = file.read()
        image = decoder(data, empty=pixels.empty, path=f"/proc/self/fd/{fd}", **request)
        return {"height": image.shape[0], "width": image.shape[1]}
    except ImageError as error:
        return {"error": type(error).__name__, "message": str(error)[:_MESSAGE_LIMIT]}
    except MemoryError:
        return {"error": "ImageTooLarge", "message": "the image does not fit into the memory the decoder may use."}
    except Exception:  # noqa: BLE001 - a slip in our code, as damaged images raise ImageError; the parent shall see it
        return {"error": "RaysegError", "message": traceback.format_exc()[-_MESSAGE_LIMIT:]}


def _load(name: str) -> Callable[..., np.ndarray]:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


if __name__ == "__main__":
    main(sys.argv[1:])
