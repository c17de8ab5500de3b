"""Calls a function in a Python process of its own: engines and converters can end the process they run in.

The function and its arguments go through a folder that only this user can read; what comes back is what the function returned,
or one error that says how it ended. A child ends when its parent does.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from rayseg.errors import BackendError

T = TypeVar("T")
_SAID = 400


def in_child(function: Callable[..., T], *arguments: Any, timeout_s: float) -> T:
    """Call a function that can be imported by its name, in a new process.

    Raises:
        BackendError: it raised something, ended its process, or took longer than `timeout_s`; in a line of its own words.
    """
    with tempfile.TemporaryDirectory(prefix="rayseg-trial-") as folder:
        asked, answered = Path(folder, "asked"), Path(folder, "answered")
        asked.write_bytes(pickle.dumps((function, arguments)))
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
        command = [sys.executable, "-m", "rayseg.predict.backends.child", str(asked), str(answered)]
        with Path(folder, "said").open("w+b") as said:
            # A pipe that nobody writes to: it closes with this process, and the child watches it.
            child = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=said, stderr=said, env=environment, start_new_session=True
            )
            try:
                status = child.wait(timeout_s)
            except subprocess.TimeoutExpired as error:
                raise BackendError(f"took longer than {timeout_s:.0f} s and was stopped") from error
            finally:
                _end(child)
            said.seek(max(0, said.seek(0, os.SEEK_END) - _SAID))
            last = said.read().decode(errors="replace").strip().splitlines()
        if not answered.exists():
            raise BackendError(_how(status) + (f": {last[-1]}" if last else ""))
        fine, found = pickle.loads(answered.read_bytes())  # noqa: S301 - written by our own child, into our own folder
    if not fine:
        raise BackendError(found)
    return found


def main(asked: str, answered: str) -> None:
    """In the child."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function, arguments = pickle.loads(Path(asked).read_bytes())  # noqa: S301 - written by our parent, into its own folder
        answer = True, function(*arguments)
    except BaseException as error:  # noqa: BLE001 - engines raise anything, SystemExit too
        traceback.print_exc()
        answer = False, _words(error)
    partial = Path(f"{answered}.part")
    partial.write_bytes(pickle.dumps(answer))
    partial.replace(answered)
    sys.stdout.flush()
    os._exit(0)  # engines may crash when they are taken down; the answer is there


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)  # a session of its own: its children go with it
        child.wait()
    if child.stdin is not None:
        child.stdin.close()


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(1)


def _how(status: int) -> str:
    if status >= 0:
        return f"its process ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"its process crashed ({name})"


def _words(error: BaseException) -> str:
    """The sentence that matters; C++ engines write pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = next((line for line in lines if line.startswith("(")), lines[-1] if lines else "")
    return (said if isinstance(error, BackendError) else f"{type(error).__name__}: {said}")[:_SAID]


if __name__ == "__main__":
    main(*sys.argv[1:])
