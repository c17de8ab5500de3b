"""Decoding in a process of its own, so that a decoder that crashes or hangs costs one image and not the job.

The child (child.py) lives on from image to image. The file's bytes and the pixels go through two nameless files in
memory, which both sides keep mapped; the one copy out of them is the one that turns BGR into RGB. Measured, a good
image takes no longer than in this process (bench/decode.py).
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from typing import Any, Self

import cv2
import numpy as np

from rayseg import errors
from rayseg.errors import CorruptImage, RaysegError
from rayseg.images.decoding import MAX_PIXELS

TIMEOUT_S = 60.0
"""Default for one image; the slowest honest one, a PNG at the limit of pixels, takes about 12 s of a core."""

_START_TIMEOUT_S = 120.0
_KEPT_BYTES = 256 << 20  # of each shared file, between images
_ENVIRONMENT = {
    # our own max_pixels is the limit, so OpenCV's must not be met first
    **{f"OPENCV_IO_MAX_IMAGE_{name}": str(1 << 40) for name in ("PIXELS", "WIDTH", "HEIGHT")},
    # decoding has one thread; more would only reserve memory
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OPENCV_FOR_THREADS_NUM"), "1"),
}
_local = threading.local()


def decode_isolated(
    data: bytes,
    *,
    page: int = 0,
    max_pixels: int = MAX_PIXELS,
    allow_truncated: bool = False,
    reduce: int = 1,
    timeout_s: float = TIMEOUT_S,
) -> np.ndarray:
    """`decode`, in a child process that this thread starts on the first call and keeps. See `DecodeWorker.decode`."""
    worker = getattr(_local, "worker", None)
    if worker is None or worker.owner != os.getpid():  # a forked process must not talk to its parent's child
        worker = _local.worker = DecodeWorker()
    worker.timeout_s = timeout_s
    return worker.decode(data, page=page, max_pixels=max_pixels, allow_truncated=allow_truncated, reduce=reduce)


class DecodeWorker:
    """One child process that decodes, started when first needed and again after it was lost. Linux only.

    A context manager; unused ones also end with the interpreter. One at a time may call it: give each thread its own.

    Args:
        timeout_s: an image that takes longer is given up and the child replaced.
        memory_limit_bytes: address space the child may have (RLIMIT_AS), some 0.3 GB of which the libraries take; None
            for no limit.
        decoder: `module:function` that the child calls with the arguments of `decode_bgr`; tests put a crashing one in.
    """

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT_S,
        memory_limit_bytes: int | None = None,
        decoder: str = "rayseg.images.decoding:decode_bgr",
    ) -> None:
        if not hasattr(os, "memfd_create"):
            raise RaysegError("a decoder process needs Linux (memfd_create). Use `decode`, which runs in this process.")
        self.timeout_s = timeout_s
        self.owner = os.getpid()
        self._options = [decoder, str(memory_limit_bytes or 0)]
        self._input, self._output = _MemoryFile("image"), _MemoryFile("pixels")
        self._child: _Child | None = None

    def decode(
        self, data: bytes, *, page: int = 0, max_pixels: int = MAX_PIXELS, allow_truncated: bool = False, reduce: int = 1
    ) -> np.ndarray:
        """What `rayseg.images.decode` does, and the same errors.

        Returns:
            uint8 (H, W, 3), RGB; an array of the caller's own.

        Raises:
            CorruptImage: also when the decoder crashed or took longer than `timeout_s`; the next image gets a new one.
            RaysegError: the child does not start, which is no fault of the image.
        """
        self._input.write(data)
        request = {"page": page, "max_pixels": max_pixels, "allow_truncated": allow_truncated, "reduce": reduce}
        answer = self._ask({**request, "timeout_s": self.timeout_s})
        if "error" in answer:
            raise getattr(errors, answer["error"])(answer["message"])
        pixels = self._output.array((answer["height"], answer["width"], 3))
        rgb = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        del pixels
        self._input.shrink()
        self._output.shrink()
        return rgb

    @property
    def pid(self) -> int | None:
        """Of the child, while there is one."""
        return self._child.pid if self._child is not None else None

    @property
    def shared_bytes(self) -> int:
        """Memory held between images, beside the child's own."""
        return self._input.size + self._output.size

    def close(self) -> None:
        """End the child; a later `decode` starts a new one."""
        child, self._child = self._child, None
        if child is not None:
            child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._child is None or not self._child.alive():
            self.close()
            self._child = _Child([str(self._input.fd), str(self._output.fd), *self._options], self._input.fd, self._output.fd)
        try:
            return self._child.ask(request, timeout_s=self.timeout_s)
        except BaseException:  # crash, timeout or an interrupt: an answer that comes later must not meet the next request
            self.close()
            raise


class _MemoryFile:
    """A file without a name, in memory; gone with its last user."""

    def __init__(self, name: str) -> None:
        self.fd = os.memfd_create(f"rayseg-{name}")
        weakref.finalize(self, os.close, self.fd)
        self._map: mmap.mmap | None = None

    @property
    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def write(self, data: bytes) -> None:
        """Replace the content."""
        os.ftruncate(self.fd, len(data))
        view, done = memoryview(data), 0
        while done < len(view):
            done += os.pwrite(self.fd, view[done:], done)

    def array(self, shape: tuple[int, int, int]) -> np.ndarray:
        """The start of the content as a uint8 array, which must be let go before the next `shrink`."""
        count = int(np.prod(shape))
        if self._map is None or len(self._map) < count:
            self._map = mmap.mmap(self.fd, self.size, prot=mmap.PROT_READ)
        return np.frombuffer(self._map, np.uint8, count=count).reshape(shape)

    def shrink(self) -> None:
        """Give memory back after a huge image. Smaller ones keep it: fresh pages cost as much as decoding into them."""
        if self.size > _KEPT_BYTES:
            self._map = None
            os.ftruncate(self.fd, 0)


class _Child:
    """A running child.py and the socket to it."""

    def __init__(self, arguments: list[str], *files: int) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs, tempfile.TemporaryFile() as complaints:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "rayseg.images.child", str(theirs.fileno()), *arguments],
                pass_fds=(theirs.fileno(), *files),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=complaints,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            theirs.close()
            self.end = weakref.finalize(self, _end, self._process, self._channel, os.getpid())
            try:
                self._receive(_START_TIMEOUT_S)
            except (OSError, EOFError) as error:
                self.end()
                complaints.seek(0)
                said = complaints.read().decode("utf-8", "replace").strip()[-2000:]
                raise RaysegError(f"the decoder process does not start ({error or 'it ended at once'}): {said}") from error

    @property
    def pid(self) -> int:
        return self._process.pid

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            CorruptImage: none came, with the reason.
        """
        try:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(self._receive(timeout_s))
        except TimeoutError as error:
            raise CorruptImage(
                f"the decoder took longer than {timeout_s:g} s and was ended. If the image is genuine, raise --decode-timeout-s."
            ) from error
        except (OSError, EOFError) as error:
            raise CorruptImage(f"the decoder {self._fate()}; the file is damaged or made to do that.") from error

    def _receive(self, timeout_s: float) -> bytes:
        """One line, which is all that the child sends before the next request."""
        self._channel.settimeout(timeout_s)
        line = b""
        while not line.endswith(b"\n"):
            part = self._channel.recv(65536)
            if not part:
                raise EOFError("the decoder process is gone")
            line += part
        return line

    def _fate(self) -> str:
        status = self._process.wait(timeout=10)
        if status >= 0:
            return f"ended with status {status}"
        hint = " (perhaps for lack of memory)" if -status == signal.SIGKILL else ""
        return f"crashed with signal {-status}, {signal.Signals(-status).name}{hint}"


def _end(process: subprocess.Popen[bytes], channel: socket.socket, owner: int) -> None:
    channel.close()
    if os.getpid() == owner:  # a forked process has no say over its parent's child
        process.kill()
        process.wait()
