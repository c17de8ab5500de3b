"""What it costs to decode in a process of its own, against decoding in this one and against plain OpenCV.

The three take turns on the same JPEG, so that whatever else the machine does meets all of them; the least and the
median time of each are reported, in milliseconds.

    python bench/decode.py --rounds 50
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rayseg.images import DecodeWorker, decode

SIZES_HW = ((480, 640), (4000, 4000))


def photograph(height: int, width: int) -> bytes:
    """A JPEG of about 0.25 bytes a pixel, as photographs have: noise, blurred, in several scales."""
    rng = np.random.default_rng(0)
    image = np.zeros((height, width, 3), np.float32)
    for scale in (4, 16, 64):
        coarse = rng.uniform(0, 85, (height // scale + 1, width // scale + 1, 3)).astype(np.float32)
        image += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", np.clip(image, 0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes()


def opencv_rgb(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def milliseconds(functions: dict[str, Callable[[bytes], np.ndarray]], data: bytes, rounds: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            function(data)
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    report: dict[str, object] = {"opencv": cv2.__version__}
    with DecodeWorker() as worker:
        start = time.perf_counter()
        worker.decode(photograph(16, 16))
        report["start_ms"] = round(1000 * (time.perf_counter() - start), 1)
        functions = {"opencv": opencv_rgb, "this_process": decode, "own_process": worker.decode}
        for height, width in SIZES_HW:
            data = photograph(height, width)
            times = milliseconds(functions, data, options.rounds)
            report[f"{width}x{height}"] = {
                "file_bytes": len(data),
                **{name: {"least_ms": round(min(t), 2), "median_ms": round(float(np.median(t)), 2)} for name, t in times.items()},
            }
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
