"""Peak memory of predict + encode for one large image, above the loaded model.

python bench/memory.py --model demo/model --side 4000 --source demo/images
"""

from __future__ import annotations

import argparse
import json
import resource
from pathlib import Path

import numpy as np


def rss_mb() -> float:
    """Peak resident memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo/model")
    parser.add_argument("--source", default="demo/images")
    parser.add_argument("--side", type=int, default=4000)
    parser.add_argument("--threshold", type=float)
    parser.add_argument("--out")
    args = parser.parse_args()
    from rayseg.images import decode
    from rayseg.predict.families import finish
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor
    from rayseg.predict.prepare import prepare
    from rayseg.tables import Unit, objects_table

    spec = load_model_dir(args.model)
    predictor = Predictor(spec, device="cpu", threads=2)
    first = decode(next(p for p in sorted(Path(args.source).iterdir()) if p.suffix == ".png").read_bytes())
    finish(spec, predictor.run([prepare(spec, first)], batch_size=1)[0])
    reps = [-(-args.side // n) for n in first.shape[:2]]
    image = np.ascontiguousarray(np.tile(first, (*reps, 1))[: args.side, : args.side])
    loaded = rss_mb()
    (raw,) = predictor.run([prepare(spec, image)], batch_size=1)
    result = finish(spec, raw, threshold=args.threshold)
    table = objects_table(Unit("a"), result, spec.labels)
    found = {
        "side": args.side,
        "objects": table.num_rows,
        "image_mb": round(image.nbytes / 2**20, 1),
        "loaded_mb": round(loaded, 1),
        "above_loaded_mb": round(rss_mb() - loaded, 1),
    }
    print(json.dumps(found))
    if args.out:
        Path(args.out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
