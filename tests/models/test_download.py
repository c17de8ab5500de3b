"""Downloads end whole and checked or not at all, whatever the server does."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from rayseg.errors import WeightsError
from rayseg.models import download
from rayseg.models.download import cache_dir, cached

CONTENT = np.random.default_rng(0).bytes(3_000_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """A web server that answers as it is told; remembers the ranges it was asked for."""

    def __init__(self) -> None:
        self.content = CONTENT
        self.ranges: list[str | None] = []
        self.statuses: list[int] = []
        """Given first, one a request, before it behaves."""
        self.cut_after: list[int] = []
        """Bytes after which the connection ends, one a request."""
        self.knows_ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/deep/model.pdparams"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        asked = handler.headers.get("Range")
        self.ranges.append(asked)
        if self.statuses:
            handler.send_error(self.statuses.pop(0))
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.knows_ranges else 0
        if start >= len(self.content):
            handler.send_error(416)
            return
        body = self.content[start:]
        handler.send_response(206 if asked and self.knows_ranges else 200)
        if asked and self.knows_ranges:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body[: self.cut_after.pop(0)] if self.cut_after else body)


@pytest.fixture
def server(tmp_path, monkeypatch) -> Iterator[Server]:
    monkeypatch.setenv("RAYSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    made = Server()
    thread = threading.Thread(target=made.http.serve_forever)
    thread.start()
    yield made
    made.http.shutdown()
    thread.join()
    made.http.server_close()


def test_a_file_is_fetched_once_and_then_used_without_the_server(server):
    path = cached(server.url, sha256=DIGEST)
    assert path.read_bytes() == CONTENT and path.parent == cache_dir()
    server.statuses = [500] * 9
    assert cached(server.url) == path and len(server.ranges) == 1


def test_an_interrupted_download_goes_on_where_it_stopped(server):
    server.cut_after = [1_000_000, 500_000]
    assert cached(server.url).read_bytes() == CONTENT
    assert server.ranges == [None, "bytes=1000000-", "bytes=1500000-"]


def test_a_later_call_goes_on_where_an_earlier_one_gave_up(server):
    server.cut_after = [100_000, 1, 1, 1]
    with pytest.raises(WeightsError, match="cannot be downloaded"):
        cached(server.url)
    assert cached(server.url).read_bytes() == CONTENT
    assert server.ranges[-1] == "bytes=100003-"


def test_a_server_without_ranges_is_asked_for_all_of_it_again(server):
    server.cut_after, server.knows_ranges = [1_000_000], False
    assert cached(server.url).read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_thrown_away(server):
    server.cut_after = [1_000_000] + [0] * 3
    with pytest.raises(WeightsError):
        cached(server.url)
    server.content = CONTENT[:600_000]
    assert cached(server.url).read_bytes() == CONTENT[:600_000]


def test_a_passing_fault_of_the_server_is_waited_out(server):
    server.statuses = [503, 429, 500]
    assert cached(server.url).read_bytes() == CONTENT


def test_a_file_that_is_not_there_is_not_asked_for_twice(server):
    server.statuses = [404] * 9
    with pytest.raises(WeightsError, match=r"model\.pdparams: cannot be downloaded .*404.*put it at .*cache"):
        cached(server.url)
    assert len(server.ranges) == 1


def test_without_a_network_the_message_says_where_the_file_goes_and_there_it_is_taken(server, monkeypatch):
    url = "http://127.0.0.1:9/model.pdparams"
    with pytest.raises(WeightsError, match="cannot be downloaded") as error:
        cached(url)
    place = str(error.value).rpartition("put it at ")[2]
    with open(place, "wb") as file:
        file.write(b"by hand")
    assert cached(url).read_bytes() == b"by hand"


def test_another_content_than_promised_is_refused(server):
    with pytest.raises(WeightsError, match="is not the known one of this file"):
        cached(server.url, sha256="0" * 64)


def test_a_file_that_changed_since_it_was_downloaded_is_refused(server):
    path = cached(server.url)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(WeightsError, match=r"not the one recorded when it was downloaded.*Delete it and run again"):
        cached(server.url)


def test_many_at_once_download_once(server):
    found: list[bytes] = []

    def fetch() -> None:
        found.append(cached(server.url).read_bytes())

    _together([fetch] * 6)
    assert found == [CONTENT] * 6 and len(server.ranges) == 1


def test_files_of_one_name_from_two_places_are_two_files(server):
    assert cached(server.url) != cached(server.url.replace("deep", "other"))


def test_a_folder_that_cannot_be_written_names_the_variable(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAYSEG_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(WeightsError, match="Set RAYSEG_CACHE to a folder"):
        cached(server.url)


def _together(functions: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
