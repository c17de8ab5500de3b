"""PaddleX's side of against_paddlex.py, run by the interpreter of PaddleX's own environment: nothing of rayseg is here.

    PYTHON bench/_paddlex.py JOB.json

JOB names a model directory, the paths of images, and one way of running them. Each result is saved as PaddleX's users save
it; a line with the time and the number of objects follows it in the file `times`. Of the first `keep` images the result itself
is kept, too, as arrays. PaddleX uses one process on CPUs; where the job says more, each gets a share of the images.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    path = Path(sys.argv[1])
    job = json.loads(path.read_text())
    if job["processes"] > 1:
        sys.exit(_share_out(path, job))
    from paddlex import create_model

    model = create_model(job["name"], model_dir=job["model_dir"], device="cpu", **_engine(job))
    options = {} if job["threshold"] is None else {"threshold": job["threshold"]}
    kept = set(job["keep"])
    with open(job["times"], "a", buffering=1) as times:
        for result in model.predict(job["paths"], batch_size=job["batch"], **options):
            result.save_to_json(job["out"])
            times.write(json.dumps([time.time(), len(result["boxes"]) if "boxes" in result else None]) + "\n")
            if result["input_path"] in kept:
                _keep(result, Path(job["keep_in"]) / (Path(result["input_path"]).name + ".npz"))


def _share_out(path: Path, job: dict[str, Any]) -> int:
    """Run several of this script, each on its share of the images and the threads."""
    n = job["processes"]
    children = []
    for k in range(n):
        part = path.with_name(f"{path.stem}.{k}.json")
        share = {"processes": 1, "paths": job["paths"][k::n], "threads": max(1, job["threads"] // n)}
        part.write_text(json.dumps({**job, **share}))
        children.append(subprocess.Popen([sys.executable, __file__, str(part)]))
    return max(abs(child.wait()) for child in children)


def _engine(job: dict[str, Any]) -> dict[str, Any]:
    """What `create_model` is told about the engine; `default` says nothing at all."""
    if job["run_mode"] == "default":
        return {}
    if job["run_mode"] == "hpip":
        return {"use_hpip": True}
    mode, _, without = job["run_mode"].partition("-")
    config = {"run_mode": mode, "cpu_threads": job["threads"]}
    return {"engine": "paddle_static", "engine_config": {**config, **({"delete_pass": [without]} if without else {})}}


def _keep(result: Any, path: Path) -> None:
    if "pred" in result:
        np.savez(path, label_map=np.asarray(result["pred"])[0])
        return
    rows = [[one["cls_id"], one["score"], *one["coordinate"]] for one in result["boxes"]]
    masks: dict[str, Any] = {f"mask_{i}": np.asarray(mask) > 0 for i, mask in enumerate(result["masks"])}
    np.savez(path, rows=np.asarray(rows, dtype=np.float64).reshape(-1, 6), **masks)


if __name__ == "__main__":
    main()
