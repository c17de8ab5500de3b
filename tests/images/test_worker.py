"""Decoding in a child process: the same results, and a crash or a hang costs one image."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from rayseg.errors import CorruptImage, ImageTooLarge, RaysegError, TruncatedImage, UnsupportedImage
from rayseg.images import DecodeWorker, decode, decode_isolated
from tests.images.builders import FORMATS, encode, picture, with_orientation

ROOT = Path(__file__).resolve().parents[2]
GOOD = encode(picture(), "PNG")

FAKES = """
import ctypes, os, signal, time
from rayseg.images.decoding import decode_bgr

def moody(data, **options):
    if data == b"segfault":
        ctypes.string_at(0)
    if data == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if data == b"sleep":
        time.sleep(600)
    if data == b"exit":
        os._exit(3)
    if data == b"hoard":
        return bytearray(8 << 30)
    return decode_bgr(data, **options)

def broken_reply(data, **options):
    raise KeyError("a slip in the code")
"""


@pytest.fixture(scope="module")
def worker():
    with DecodeWorker() as worker:
        yield worker


@pytest.fixture
def moody(tmp_path, monkeypatch):
    """A worker whose decoder crashes, sleeps or exits when the file says so."""
    (tmp_path / "moody_decoder.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with DecodeWorker(decoder="moody_decoder:moody", timeout_s=30) as worker:
        yield worker


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(1, 1), (24, 40), (500, 700)])
def test_a_worker_gives_the_same_pixels_as_this_process(worker, kind, shape):
    data = encode(picture(*shape), kind)
    pixels = worker.decode(data)
    np.testing.assert_array_equal(pixels, decode(data))
    assert pixels.flags.owndata and pixels.flags.c_contiguous and pixels.flags.writeable


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_orientation_pages_and_truncation_pass_through(worker, kind):
    turned = with_orientation(picture(), kind, 6)
    np.testing.assert_array_equal(worker.decode(turned), decode(turned))
    cut = encode(picture(200, 300), "JPEG")[:-2000]
    np.testing.assert_array_equal(worker.decode(cut, allow_truncated=True), decode(cut, allow_truncated=True))


def test_results_stay_as_they_are_when_the_next_image_comes(worker):
    files = [encode(picture(30, 50, seed=i), "PNG") for i in range(5)]
    results = [worker.decode(data) for data in files]
    for data, result in zip(files, results, strict=True):
        np.testing.assert_array_equal(result, decode(data))


@pytest.mark.parametrize(
    "data, options, error, message",
    [
        (b"GIF89a", {}, UnsupportedImage, "GIF"),
        (b"", {}, UnsupportedImage, "empty"),
        (GOOD[:-30], {}, TruncatedImage, "ends at byte"),
        (GOOD, {"page": 1}, CorruptImage, "page 1"),
        (GOOD, {"max_pixels": 10}, ImageTooLarge, "--max-pixels 10"),
    ],
)
def test_errors_cross_the_process_as_they_are(worker, data, options, error, message):
    with pytest.raises(error, match=message) as caught:
        worker.decode(data, **options)
    assert caught.type is error
    np.testing.assert_array_equal(worker.decode(GOOD), picture())


@pytest.mark.parametrize(
    "data, message",
    [
        (b"segfault", "signal 11, SIGSEGV"),
        (b"kill", "signal 9, SIGKILL .perhaps for lack of memory"),
        (b"exit", "ended with status 3"),
    ],
)
def test_a_crash_costs_that_image_and_the_next_one_is_decoded(moody, data, message):
    np.testing.assert_array_equal(moody.decode(GOOD), picture())
    with pytest.raises(CorruptImage, match=message):
        moody.decode(data)
    np.testing.assert_array_equal(moody.decode(GOOD), picture())


def test_a_hang_costs_that_image_and_the_next_one_is_decoded(moody):
    moody.decode(GOOD)
    moody.timeout_s = 0.3
    with pytest.raises(CorruptImage, match=r"took longer than 0\.3 s"):
        moody.decode(b"sleep")
    moody.timeout_s = 30
    np.testing.assert_array_equal(moody.decode(GOOD), picture())


def test_a_child_that_was_lost_between_two_images_costs_none(worker):
    worker.decode(GOOD)
    os.kill(worker.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{worker.pid}/fd/0") and time.monotonic() < deadline:
        time.sleep(0.01)
    np.testing.assert_array_equal(worker.decode(GOOD), picture())


def test_an_allocation_beyond_the_memory_limit_costs_that_image(tmp_path, monkeypatch):
    (tmp_path / "moody_decoder.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with DecodeWorker(decoder="moody_decoder:moody", memory_limit_bytes=4 << 30) as worker:
        with pytest.raises(ImageTooLarge, match="memory"):
            worker.decode(b"hoard")
        np.testing.assert_array_equal(worker.decode(GOOD), picture())


def test_a_slip_in_the_code_is_seen_and_not_taken_for_a_damaged_image(tmp_path, monkeypatch):
    (tmp_path / "moody_decoder.py").write_text(FAKES)
    monkeypatch.syspath_prepend(str(tmp_path))
    with (
        DecodeWorker(decoder="moody_decoder:broken_reply") as worker,
        pytest.raises(RaysegError, match="a slip in the"),
    ):
        worker.decode(GOOD)


def test_a_child_that_does_not_start_is_no_fault_of_the_image():
    with DecodeWorker(decoder="no_such_module:decode") as worker:
        with pytest.raises(RaysegError, match=r"(?s)does not start.*no_such_module") as caught:
            worker.decode(GOOD)
        assert not isinstance(caught.value, CorruptImage)


def test_opencv_limits_are_not_met_before_ours(worker):
    """OpenCV refuses sides above 2^20 unless its environment says otherwise; the worker's does."""
    wide = encode(np.zeros((1, (1 << 20) + 8), np.uint8), "BMP")
    assert worker.decode(wide).shape == (1, (1 << 20) + 8, 3)
    with pytest.raises(ImageTooLarge, match="OPENCV_IO_MAX_IMAGE_PIXELS"):
        decode(wide)


def test_huge_images_give_their_memory_back(worker, monkeypatch):
    monkeypatch.setattr("rayseg.images.worker._KEPT_BYTES", 100_000)
    for shape in ((20, 30), (300, 400), (20, 30), (300, 400), (310, 400)):
        np.testing.assert_array_equal(worker.decode(encode(picture(*shape), "PNG")), picture(*shape))
        assert worker.shared_bytes <= 200_000


def test_each_thread_has_a_child_of_its_own():
    results: dict[int, list[np.ndarray]] = {}

    def run(seed: int) -> None:
        data = encode(picture(40, 60, seed=seed), "PNG")
        results[seed] = [decode_isolated(data) for _ in range(20)]

    threads = [threading.Thread(target=run, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for seed, images in results.items():
        for image in images:
            np.testing.assert_array_equal(image, picture(40, 60, seed=seed))


def test_the_child_dies_with_a_parent_that_is_killed():
    code = (
        "import os, signal; from rayseg.images import DecodeWorker; from tests.images.builders import *\n"
        "w = DecodeWorker(); w.decode(encode(picture(), 'PNG')); print(w.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    assert _ends(int(parent.stdout), within_s=20)


def test_the_child_ends_with_its_worker():
    worker = DecodeWorker()
    worker.decode(GOOD)
    pid = worker.pid
    worker.close()
    assert _ends(pid, within_s=10)
    np.testing.assert_array_equal(worker.decode(GOOD), picture())  # and a closed worker starts again
    pid = worker.pid
    del worker
    assert _ends(pid, within_s=10)


def test_the_child_loads_neither_paddle_nor_ray():
    code = "import rayseg.images.child, sys; print([m for m in ('paddle', 'ray', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def _ends(pid: int, *, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False
