"""Processes that run one function, each behind a pipe of its own.

concurrent.futures' process pool waits for ever when a process is killed while it hands back a result, since all share one
pipe; a process that dies here ends its pipe and nothing else. The other way round, a parent that is killed ends its
processes.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

import cv2

from rayseg.errors import RaysegError

Function = Callable[..., Any]
_PATIENCE_S = 10.0


class ProcessDied(RaysegError):
    """A process ended without an answer."""


class Processes:
    """A fixed number of processes, started at once; work is done in the order it was submitted."""

    def __init__(self, function: Function, count: int) -> None:
        """Start them.

        Args:
            function: picklable, as its arguments and results must be.
        """
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        self.members = [_Process(function) for _ in range(count)]
        for member in self.members:
            self._idle.put(member)
        self._threads = ThreadPoolExecutor(count, thread_name_prefix="rayseg-process")
        self._end = weakref.finalize(self, _end, self.members, self._threads)

    def submit(self, *arguments: Any) -> Future[Any]:
        """The function's result, or what it raised; ProcessDied where its process did."""
        return self._threads.submit(_run, self._idle, arguments)

    def close(self) -> None:
        """Forget what has not begun, wait for what has, and end the processes."""
        self._end()


class _Process:
    """One process, used by one thread at a time."""

    def __init__(self, function: Function) -> None:
        # Spawned, not forked: the caller's threads (Paddle's, CUDA's) do not survive a fork.
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe ends with the process

    def __call__(self, arguments: Sequence[Any]) -> Any:
        try:
            self.pipe.send(arguments)
            result, error = self.pipe.recv()
        except (EOFError, OSError) as cause:
            raise ProcessDied(f"process {self.process.pid} ended without an answer") from cause
        if error is not None:
            raise error
        return result


def _run(idle: SimpleQueue[_Process], arguments: Sequence[Any]) -> Any:
    process = idle.get()
    try:
        return process(arguments)
    finally:
        idle.put(process)


def _end(members: Sequence[_Process], threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=True, cancel_futures=True)
    for member in members:
        member.pipe.close()
    for member in members:
        member.process.join(_PATIENCE_S)
        if member.process.is_alive():
            member.process.kill()
            member.process.join()


def _serve(pipe: Connection, function: Function) -> None:
    """What a process does until the other end of its pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business
    cv2.setNumThreads(1)  # there are as many processes as there are cores to use
    while True:
        try:
            arguments = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: tuple[Any, Exception | None] = (function(*arguments), None)
        except Exception as error:  # noqa: BLE001 (whatever it is, the caller must see it)
            answer = (None, _portable(error))
        try:
            pipe.send(answer)
        except OSError:
            return


def _portable(error: Exception) -> Exception:
    if isinstance(error, RaysegError):
        return error
    return RaysegError("".join(traceback.format_exception(error)))
