"""What it costs to decode in a process of its own, and what decoding large JPEGs smaller spares.

Decoding here, in a process of its own and with plain OpenCV take turns on the same JPEG, so that whatever else the machine does
meets all of them; the least and the median time of each are reported, in milliseconds. In the same way decoding + resizing to a
network's input, whole and with `--scaled-decode`, in CPU milliseconds of this process, which does both.

    python bench/decode.py --rounds 50
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _camera import photograph, ready

from rayseg.geometry import Size
from rayseg.images import DecodeWorker, decode, reduction
from rayseg.predict.backends.fake import fake_spec
from rayseg.predict.preprocess import CUBIC, Resize

SIZES_HW = ((480, 640), (4000, 4000))
CAMERA_HW = ((1224, 1632), (3000, 4000))  # 2 and 12 megapixels
INPUTS_PX = (512, 640)


def opencv_rgb(data: bytes) -> np.ndarray:
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def milliseconds(
    functions: Mapping[str, Callable[[bytes], object]],
    data: bytes,
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = clock()
            function(data)
            times[name].append(1000 * (clock() - start))
    return times


def summary(times: Mapping[str, list[float]]) -> dict[str, Any]:
    return {name: {"least_ms": round(min(t), 2), "median_ms": round(float(np.median(t)), 2)} for name, t in times.items()}


def scaled_times(rounds: int) -> dict[str, Any]:
    """Of decoding + resizing, whole and scaled, for each size of picture and network."""
    found = {}
    for height, width in CAMERA_HW:
        data = photograph(height, width)
        for side in INPUTS_PX:
            base = fake_spec()
            spec = replace(base, steps=(Resize(Size(side, side), interpolation=CUBIC), *base.steps))
            ways = {"whole": partial(ready, spec, scaled=False), "scaled": partial(ready, spec, scaled=True)}
            times = milliseconds(ways, data, rounds, clock=time.process_time)
            ratios = np.percentile(np.divide(times["whole"], times["scaled"]), [10, 50, 90])
            found[f"{width}x{height} to {side}x{side}"] = {
                "decoded_at_1_of": reduction((height, width), (side, side)),
                **summary(times),
                "whole_over_scaled": dict(zip(("p10", "p50", "p90"), (round(float(r), 2) for r in ratios), strict=True)),
            }
    return found


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
            report[f"{width}x{height}"] = {"file_bytes": len(data), **summary(times)}
    report["decode_and_resize_cpu"] = scaled_times(options.rounds)
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
