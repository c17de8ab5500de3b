"""The job server of a cluster: submit, look, follow, stop, each with errors that say what to do.

Only what Ray's job SDK leaves open is here: the address is the one given, a token is found and named when it is missing, a
broken connection is taken up again, and a job that ended has the exit status its own process had.
"""

from __future__ import annotations

import asyncio
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobSubmissionClient

from rayseg.errors import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8265"
STOPPED = 130
"""Exit status of a job that was stopped, as of a process that Ctrl-C ended."""
_PATIENCE_S = 120.0  # how long a job is followed without hearing from its cluster


@dataclass(frozen=True)
class Job:
    """What the cluster knows of a job.

    Attributes:
        status: PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED.
        exit_code: of its process; None while it runs, and where it died with its machine.
        message: why it is in this state, in Ray's words.
    """

    id: str
    status: str
    exit_code: int | None
    entrypoint: str
    message: str
    started: datetime | None
    ended: datetime | None

    @property
    def over(self) -> bool:
        return self.status in ("SUCCEEDED", "FAILED", "STOPPED")

    @property
    def exit_status(self) -> int:
        """0 done, 1 incomplete or lost, 2 refused, 130 stopped; 0 while it runs."""
        if self.status == "FAILED":
            return self.exit_code if self.exit_code in (1, 2) else 1
        return STOPPED if self.status == "STOPPED" else 0


class JobServer:
    """The jobs of one cluster."""

    def __init__(self, address: str | None = None) -> None:
        """Connect.

        Args:
            address: URL of the dashboard; None takes RAY_API_SERVER_ADDRESS, RAY_ADDRESS where it is a URL, else this machine's.

        Raises:
            ConfigError: no such address, nothing there, or it asks for a token and there is none, or another.
        """
        self.address = _address(address)
        _probe(self.address)
        with self._explained(), _only(self.address):
            self._client = JobSubmissionClient(self.address, headers=_headers())

    def submit(self, entrypoint: str, *, job_id: str, archive: Path | None, env: Mapping[str, str]) -> None:
        """Hand in a job.

        Args:
            entrypoint: a shell command.
            archive: zip that is unpacked on every machine, and in which the job starts; None uploads nothing.
            env: environment variables of all its processes.

        Raises:
            ConfigError: see __init__; or the id is taken.
        """
        runtime_env: dict[str, Any] = {"env_vars": dict(env)} if env else {}
        if archive is not None:
            runtime_env["working_dir"] = str(archive)
        with self._explained(job_id):
            self._client.submit_job(entrypoint=entrypoint, submission_id=job_id, runtime_env=runtime_env)

    def jobs(self) -> list[Job]:
        """All submitted jobs that the cluster remembers, the latest last."""
        with self._explained():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or datetime.max.replace(tzinfo=UTC))

    def job(self, job_id: str) -> Job:
        """One of them.

        Raises:
            ConfigError: the cluster knows no such job.
        """
        with self._explained(job_id):
            return _job(self._client.get_job_info(job_id))

    def log(self, job_id: str) -> str:
        """All it has said so far."""
        with self._explained(job_id):
            return str(self._client.get_job_logs(job_id))

    def follow(self, job_id: str, *, patience_s: float = _PATIENCE_S) -> Iterator[str]:
        """What it says, as it says it, until it is over. A connection that breaks is taken up where it broke.

        Raises:
            ConfigError: nothing was heard of the cluster for `patience_s`; the job may well go on.
        """
        self.job(job_id)
        seen, heard = 0, time.monotonic()
        while True:
            try:
                position = 0
                for text in self._tail(job_id):
                    position, heard = position + len(text), time.monotonic()
                    if position > seen:
                        yield text[len(text) - (position - seen) :]
                        seen = position
                if self.job(job_id).over:
                    return
                heard = time.monotonic()
            except Exception as error:  # the SDK's HTTP libraries raise their own trees
                if time.monotonic() - heard > patience_s:
                    raise ConfigError(
                        f"{self.address}: lost sight of {job_id} for {patience_s:g} s ({error}). It may go on all the same: "
                        f"rayseg jobs status {job_id} --address {self.address}"
                    ) from error
            time.sleep(1)

    def stop(self, job_id: str, *, patience_s: float = 60.0) -> Job:
        """Stop it and wait until it has; a job that is over is left as it is."""
        with self._explained(job_id):
            self._client.stop_job(job_id)
        end = time.monotonic() + patience_s
        while not (job := self.job(job_id)).over and time.monotonic() < end:
            time.sleep(0.5)
        return job

    def _tail(self, job_id: str) -> Iterator[str]:
        loop = asyncio.new_event_loop()
        lines = self._client.tail_job_logs(job_id)
        try:
            while True:
                try:
                    yield loop.run_until_complete(anext(lines))
                except StopAsyncIteration:
                    return
        finally:
            loop.run_until_complete(lines.aclose())
            loop.close()

    @contextmanager
    def _explained(self, job_id: str | None = None) -> Iterator[None]:
        """Errors of the SDK leave the block as ours."""
        try:
            yield
        except AuthenticationError as error:
            raise ConfigError(f"{self.address}: {_about_tokens(missing='required' in str(error))}") from error
        except RuntimeError as error:
            said = str(error)
            if "does not exist" in said or "status code 404" in said:
                raise ConfigError(
                    f"{self.address} knows no job {job_id!r}; `rayseg jobs list` shows those it knows. "
                    "A cluster forgets its jobs when its head ends; their results stay."
                ) from error
            if "already exists" in said or "submission_id" in said:
                raise ConfigError(
                    f"--job-id {job_id}: {self.address} had a job of this name, and a name is used once. Leave it out or "
                    "give another: what a job goes on with is its output folder, not its name."
                ) from error
            raise ConfigError(f"{self.address}: {said}") from error
        except OSError as error:
            raise ConfigError(f"{self.address}: {error}. Check the address, and `ray status` on the head.") from error


def _job(details: Any) -> Job:
    def moment(milliseconds: int | None) -> datetime | None:
        return datetime.fromtimestamp(milliseconds / 1000, UTC) if milliseconds else None

    status = getattr(details.status, "value", details.status)
    code = getattr(details, "driver_exit_code", None)
    times = moment(details.start_time), moment(details.end_time)
    return Job(details.submission_id or details.job_id, str(status), code, details.entrypoint, details.message or "", *times)


def _address(given: str | None) -> str:
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    known = [value for name in names if (value := os.environ.get(name, "")).startswith(("http://", "https://"))]
    address = given or (known[0] if known else DEFAULT_ADDRESS)
    if not address.startswith(("http://", "https://")):
        raise ConfigError(f"--address {address}: expected the URL of the dashboard, such as http://head:8265")
    return address.rstrip("/")


def _probe(address: str, *, timeout_s: float = 15.0) -> None:
    """Ray's client would wait for minutes where nothing answers."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=timeout_s) as answer:
            answer.read()
    except urllib.error.HTTPError as error:
        if error.code not in (401, 403):
            raise ConfigError(
                f"{address}: answers, but not as a Ray dashboard ({error}). The port is the dashboard's, mostly 8265."
            ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConfigError(
            f"{address}: no Ray dashboard there ({reason}). Give --address http://HEAD:8265; a head that only its own machine "
            "reaches needs a tunnel, such as `ray dashboard cluster.yaml` or `kubectl port-forward svc/NAME-head-svc 8265`."
        ) from error


def _headers() -> dict[str, str]:
    """With the token, if there is one to send; the one of the home directory only where RAY_AUTH_MODE=token asks for it."""
    mode = os.environ.get("RAY_AUTH_MODE", "").lower()
    if mode not in ("", "token"):
        return {}
    token = os.environ.get("RAY_AUTH_TOKEN", "").strip()
    path = os.environ.get("RAY_AUTH_TOKEN_PATH") or (str(Path.home() / ".ray/auth_token") if mode == "token" else "")
    if not token and path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise ConfigError(f"{path}: no token can be read there ({error.strerror}). {_about_tokens(missing=True)}") from error
    return {"Authorization": f"Bearer {token}"} if token else {}


def _about_tokens(*, missing: bool) -> str:
    how = (
        "Set RAY_AUTH_MODE=token and the token in RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or in "
        "~/.ray/auth_token; on the head `ray get-auth-token` shows it."
    )
    return f"the cluster asks for a token, and none was sent. {how}" if missing else f"the cluster refuses this token. {how}"


@contextmanager
def _only(address: str) -> Iterator[None]:
    """RAY_API_SERVER_ADDRESS and RAY_ADDRESS would win over the address that was given."""
    before = os.environ.get("RAY_API_SERVER_ADDRESS")
    os.environ["RAY_API_SERVER_ADDRESS"] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ["RAY_API_SERVER_ADDRESS"]
        else:
            os.environ["RAY_API_SERVER_ADDRESS"] = before
