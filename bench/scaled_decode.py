"""What `--scaled-decode` does to results: objects lost and new, how much masks overlap, and AP both ways.

Annotated images are enlarged to 12 megapixels, given a camera's noise or none, and stored as JPEGs. Each is decoded whole and
scaled and run through the same engine; results are compared in the size that was annotated.

    python bench/scaled_decode.py
    python bench/scaled_decode.py --model DIR --annotations FILE --images DIR --noise 0 6 20
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _camera import jpeg, ready

from rayseg.datasets.coco import CocoInstances
from rayseg.errors import ConfigError
from rayseg.evaluation.model import scoring_for
from rayseg.evaluation.scoring import InstanceScoring, finish_evaluation, join
from rayseg.geometry import Size
from rayseg.predict.backends.compare import change
from rayseg.predict.families import finish
from rayseg.predict.model_dir import load_model_dir
from rayseg.predict.predictor import Predictor
from rayseg.results import Instances

ROOT = Path(__file__).resolve().parents[1]
CAMERA_WH, QUALITY = (4000, 3000), 92
LEAST_SCORE = 0.01  # AP needs nearly all of them
MAX_DETS = (1, 10, 300)
WAYS = ("whole", "scaled")


def compared(predictor: Predictor, truth: CocoInstances, *, noise: float) -> dict[str, Any]:
    """Both ways on every image.

    Args:
        noise: its standard deviation in the enlarged image, of 255.
    """
    spec, rng = predictor.spec, np.random.default_rng(0)
    results: dict[str, list[Instances]] = {way: [] for way in WAYS}
    for index, entry in enumerate(truth.images):
        large = cv2.resize(truth.image(index)[..., ::-1], CAMERA_WH, interpolation=cv2.INTER_CUBIC).astype(np.float32)
        if noise:
            large += rng.normal(0, noise, large.shape).astype(np.float32)
        data = jpeg(large, quality=QUALITY)
        for way in WAYS:
            results[way].append(_objects(predictor, data, entry.size, scaled=way == "scaled"))
    sure = {
        way: [one.select(np.flatnonzero(one.scores > spec.draw_threshold)) for one in found] for way, found in results.items()
    }
    changed = change(sure["scaled"], sure["whole"])
    return {"ap": {way: _ap(predictor, truth, results[way]) for way in WAYS}, **asdict(changed), "said": changed.said()}


def _objects(predictor: Predictor, data: bytes, size: Size, *, scaled: bool) -> Instances:
    (raw,) = predictor.run([ready(predictor.spec, data, scaled=scaled, original=size)], min_score=LEAST_SCORE)
    found = finish(predictor.spec, raw, LEAST_SCORE)
    assert isinstance(found, Instances)
    return found


def _ap(predictor: Predictor, truth: CocoInstances, results: Sequence[Instances]) -> float:
    scoring = scoring_for(predictor.spec, truth, max_dets=MAX_DETS, boxes=False)
    assert isinstance(scoring, InstanceScoring)
    parts = [scoring.score(entry.image_id, found) for entry, found in zip(truth.images, results, strict=True)]
    return round(finish_evaluation(scoring, [join(scoring, parts)]).metrics()["ap"], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT / "demo/model"), help="of instances, with an input of fixed size")
    parser.add_argument("--annotations", type=Path, default=ROOT / "demo/instances.json", help="COCO file")
    parser.add_argument("--images", type=Path, default=ROOT / "demo/images")
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 6.0])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    spec = load_model_dir(options.model)
    if spec.task != "instance" or spec.fixed_input is None:
        raise ConfigError(f"{options.model}: needs a model of instances with an input of fixed size")
    predictor, truth = Predictor(spec), CocoInstances(options.annotations, options.images)
    report: dict[str, Any] = {"model": spec.name, "engine": predictor.backend_name, "images": len(truth.images)}
    for noise in options.noise:
        report[f"noise {noise:g}"] = compared(predictor, truth, noise=noise)
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
