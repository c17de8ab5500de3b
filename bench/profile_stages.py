"""Where the CPU time of an image goes: milliseconds of each step from a file's bytes to a row on disk, for each family.

    python bench/profile_stages.py --images ../shared/data/coco_ccby/val2017 --reference ../shared/zoo --out profile.json
    python bench/profile_stages.py --models PP-LiteSeg-T --images photos --exported folder --cprofile table

One thread, one process, CPU seconds rather than those on the clock: a busy machine changes them little. A step's figure is
the mean over the images of the median over the repeats; the network runs once an image. `rle` is a part of `finish`, told
apart by encoding the finished masks once more. Models are exported with fresh weights, which find little, unless
`--reference` names a folder with fill.py and scales/, whose weights find many objects; `--exported` names a folder that
holds NAME/lean from an earlier run.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FIVE = "Mask-RT-DETR-S,MaskRCNN-ResNet50-FPN,PP-YOLOE_seg-S,PP-LiteSeg-T,SegFormer-B0"
STAGES = ("read", "decode", "resize", "input", "network", "split", "finish", "rle", "table", "parquet")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=FIVE, help="names with commas between, or: smallest (of each family), all")
    parser.add_argument("--images", required=True, help="a folder of photographs")
    parser.add_argument("--count", type=int, default=8, help="of them")
    parser.add_argument("--backend", default="paddle")
    parser.add_argument("--threshold", type=float, help="instead of each model's own")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--exported", help="folder of models exported before; what is missing there is put there")
    parser.add_argument("--reference")
    parser.add_argument("--out")
    parser.add_argument("--cprofile", choices=STAGES, help="show what one step spends its time in, instead of the table")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")  # before the libraries that read them are imported
    import cv2

    from rayseg.errors import RaysegError

    cv2.setNumThreads(1)
    paths = sorted(path for path in Path(args.images).iterdir() if path.is_file())[: args.count]
    with tempfile.TemporaryDirectory() as own:
        found: dict[str, dict[str, Any]] = {}
        for name in _names(args.models):
            options = {"backend": args.backend, "threshold": args.threshold, "repeats": args.repeats, "show": args.cprofile}
            try:
                found[name] = profile(_exported(name, Path(args.exported or own), args.reference), paths, **options)
            except RaysegError as error:  # an engine that cannot run this model
                found[name] = {"failed": str(error)}
            if not args.cprofile:
                print(_line(name, found[name], head=len(found) == 1), flush=True)
    if args.out:
        Path(args.out).write_text(json.dumps(found, indent=1) + "\n")


def profile(
    folder: Path, paths: list[Path], *, backend: str, threshold: float | None, repeats: int, show: str | None
) -> dict[str, float]:
    """CPU milliseconds an image of each step, objects an image and bytes of Parquet an image."""
    import pyarrow as pa

    from rayseg import rle
    from rayseg.images import decode
    from rayseg.pipeline.plan import parquet_bytes
    from rayseg.predict.backends.choose import open_backend
    from rayseg.predict.execute import feed
    from rayseg.predict.families import finish, split_outputs
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.prepare import prepare
    from rayseg.results import SemanticMap
    from rayseg.tables import Unit, objects_table

    spec = load_model_dir(folder)
    engine = open_backend(spec, backend, device="cpu", threads=1)
    least = spec.draw_threshold if threshold is None else threshold
    step = _Steps(repeats, show)
    tables = []
    for path in paths:
        data = step("read", path.read_bytes)
        image = step("decode", lambda data=data: decode(data))
        prepared = step("resize", lambda image=image: prepare(spec, image))
        inputs = step("input", lambda prepared=prepared: feed(spec, [prepared]))
        outputs = step("network", lambda inputs=inputs: engine.run(inputs), repeats=1)
        (raw,) = step("split", lambda o=outputs, p=prepared: split_outputs(spec, o, [p], min_score=least))
        result = step("finish", lambda raw=raw: finish(spec, raw, threshold))
        masks = () if isinstance(result, SemanticMap) else result.masks
        cut = [(rle.decode_window(mask, mask.extent), mask.extent) for mask in masks]
        step("rle", lambda cut=cut, size=result.size: rle.encode_many(cut, size))
        tables.append(step("table", lambda path=path, result=result: objects_table(Unit(str(path)), result, spec.labels)))
    whole = pa.concat_tables(tables)
    written = step("parquet", lambda: parquet_bytes(whole))
    took = {name: sum(times) / len(paths) for name, times in step.took.items()}
    return {**took, "objects": whole.num_rows / len(paths), "bytes": len(written) / len(paths)}


class _Steps:
    """Runs a step some times, keeps the median CPU milliseconds, and gives what it gave."""

    def __init__(self, repeats: int, show: str | None) -> None:
        self.took: dict[str, list[float]] = {}
        self._repeats, self._show = repeats, show

    def __call__(self, name: str, run: Callable[[], Any], *, repeats: int | None = None) -> Any:
        times: list[float] = []
        for _ in range(repeats or self._repeats):
            begun = time.process_time()
            found = run()
            times.append(1000 * (time.process_time() - begun))
        self.took.setdefault(name, []).append(statistics.median(times))
        if name == self._show:
            with cProfile.Profile() as profiler:
                run()
            pstats.Stats(profiler).sort_stats("tottime").print_stats(12)
        return found


def _names(asked: str) -> list[str]:
    from rayseg.models.zoo import MODELS

    if asked == "all":
        return list(MODELS)
    if asked == "smallest":
        return list({row.family: row.name for row in reversed(MODELS.values())}.values())[::-1]
    return asked.split(",")


def _exported(name: str, root: Path, reference: str | None) -> Path:
    folder = root / name / "lean"
    if not folder.exists():
        from zoo import _export

        _export(name, root / name, reference)
    return folder


def _line(name: str, found: dict[str, Any], *, head: bool) -> str:
    columns = [*STAGES, "objects", "bytes"]
    title = f"{'CPU ms an image':<30}" + "".join(f"{column:>10}" for column in columns) + "\n"
    if "failed" in found:
        return (title if head else "") + f"{name:<30}  failed: {found['failed'][:150]}"
    return (title if head else "") + f"{name:<30}" + "".join(f"{found[column]:>10.2f}" for column in columns)


if __name__ == "__main__":
    main()
