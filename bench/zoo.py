"""Every model of the zoo on this CPU: time of one image by three ways of running it, and peak memory.

python bench/zoo.py --models smallest --threads 2 [--reference ../shared/zoo] [--out zoo.json]

Each figure is taken in a process of its own, at the model's real input size: `eager` is the network in Python,
`paddlex` and `lean` its exported programs in Paddle Inference, plain; `lean_onednn` the fast engine where it runs and
agrees. Ratios within a row are what counts. Memory is the peak above the loaded model of predicting and finishing one
image of 640 x 640 and one of 4000 x 4000 with the lean program. Weights are fresh ones, which find little, unless
`--reference` names a folder with fill.py and scales/, whose weights find many objects.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MEASURES = ("eager", "paddlex", "lean", "lean_onednn", "mb_640", "mb_4000")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default="smallest", help="smallest (of each family), all, or names with commas between")
    parser.add_argument("--measures", default=",".join(MEASURES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--timeout-s", type=float, default=600)
    parser.add_argument("--reference")
    parser.add_argument("--out")
    parser.add_argument("--child", nargs=2, metavar=("MEASURE", "DIR"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        options = {"threads": args.threads, "repeats": args.repeats, "reference": args.reference}
        print(json.dumps(_measure(args.models, *args.child, **options)))
        return
    found: dict[str, dict[str, Any]] = {}
    for name in _names(args.models):
        with tempfile.TemporaryDirectory() as folder:
            _in_child(args, name, "export", folder)
            found[name] = {m: _in_child(args, name, m, folder) for m in args.measures.split(",")}
        print(f"{name:<40}", "  ".join(f"{k} {_say(v)}" for k, v in found[name].items()), flush=True)
        if args.out:
            Path(args.out).write_text(json.dumps(found, indent=1))


def _names(asked: str) -> list[str]:
    from rayseg.models.zoo import MODELS

    if asked == "all":
        return list(MODELS)
    if asked == "smallest":
        return list({row.family: row.name for row in reversed(MODELS.values())}.values())[::-1]
    return asked.split(",")


def _say(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _in_child(args: argparse.Namespace, name: str, measure: str, folder: str) -> Any:
    command = [sys.executable, __file__, "--models", name, "--threads", str(args.threads), "--repeats", str(args.repeats)]
    command += ["--child", measure, folder, *(["--reference", args.reference] if args.reference else [])]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=args.timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return f"more than {args.timeout_s:.0f} s"
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1][:160]}" if done.stderr.strip() else f"exit {done.returncode}"
    return json.loads(done.stdout.splitlines()[-1])


def _measure(name: str, measure: str, folder: str, *, threads: int, repeats: int, reference: str | None) -> Any:
    """Milliseconds, or MiB above the loaded model."""
    from rayseg.models.zoo import MODELS

    if measure == "export":
        return _export(name, Path(folder), reference)
    if measure == "eager":
        return _eager_ms(name, threads, repeats, reference)
    if measure.startswith("mb_"):
        return _peak_mb(Path(folder) / "lean", int(measure.removeprefix("mb_")), threads)
    flavour, _, engine = measure.partition("_")
    return _program_ms(Path(folder) / flavour, engine, _picture(*MODELS[name].typical_input.hw), threads, repeats)


def _network(name: str, reference: str | None) -> Any:
    import paddle

    from rayseg.models.zoo import MODELS

    paddle.seed(0)
    network = MODELS[name].build()
    if reference:
        module = importlib.util.spec_from_file_location("fill", Path(reference) / "fill.py")
        assert module is not None and module.loader is not None
        fill = importlib.util.module_from_spec(module)
        module.loader.exec_module(fill)
        scales = fill.load_scales(name)
        for key, tensor in network.state_dict().items():
            values = fill.fill(key, tensor.shape, str(tensor.dtype), scales.get(key, 1.0))
            if values is not None:
                tensor.set_value(values)
    network.eval()
    return network


def _export(name: str, folder: Path, reference: str | None) -> str:
    from rayseg.predict.export import export_model

    network = _network(name, reference)
    labels = [f"class {k}" for k in range(network.num_classes)]
    for flavour in ("lean", "paddlex"):
        export_model(network, folder / flavour, name=name, labels=labels, flavour=flavour)
    return "done"


def _picture(height: int, width: int) -> np.ndarray:
    """Coloured waves and bright discs, RGB."""
    random = np.random.default_rng(0)
    ys, xs = np.mgrid[:height, :width].astype(np.float32)
    picture = 90 + 25 * np.stack([np.sin(xs / (9 + 4 * c)) + np.cos(ys / (7 + 3 * c)) for c in range(3)], axis=-1)
    for x, y, radius in random.uniform(0.02, 1, (40, 3)) * (width, height, min(height, width) / 10):
        picture[(xs - x) ** 2 + (ys - y) ** 2 < radius**2] += random.uniform(40, 110, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _median_ms(run: Callable[[], Any], repeats: int) -> float:
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _eager_ms(name: str, threads: int, repeats: int, reference: str | None) -> float:
    import paddle

    from rayseg.models.network import InstanceNetwork
    from rayseg.models.zoo import MODELS

    paddle.set_num_threads(threads) if hasattr(paddle, "set_num_threads") else None
    network, size = _network(name, reference), MODELS[name].typical_input
    picture = paddle.to_tensor(np.ascontiguousarray(_picture(*size.hw).transpose(2, 0, 1)[None] / np.float32(255)))
    inputs: Any = picture
    if isinstance(network, InstanceNetwork):
        shape = paddle.to_tensor(np.float32([size.hw]))
        inputs = {"image": picture, "im_shape": shape, "scale_factor": paddle.ones_like(shape)}
    with paddle.no_grad():
        return _median_ms(lambda: network(inputs), repeats)


def _program_ms(folder: Path, engine: str, picture: np.ndarray, threads: int, repeats: int) -> Any:
    from rayseg.predict.backends.paddle_inference import onednn_cpu, plain_cpu
    from rayseg.predict.backends.probe import deviation
    from rayseg.predict.execute import feed
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.prepare import prepare

    spec = load_model_dir(folder)
    inputs = feed(spec, [prepare(spec, picture)])
    sure = plain_cpu(spec, threads=threads)
    if engine != "onednn":
        return _median_ms(lambda: sure.run(inputs), repeats)
    fast = onednn_cpu(spec, threads=threads)
    reason = deviation(spec, fast, sure)
    return f"deviates: {reason}" if reason else _median_ms(lambda: fast.run(inputs), repeats)


def _peak_mb(folder: Path, side: int, threads: int) -> float:
    from rayseg.predict.families import finish
    from rayseg.predict.model_dir import load_model_dir
    from rayseg.predict.predictor import Predictor
    from rayseg.predict.prepare import prepare

    spec = load_model_dir(folder)
    predictor, image = Predictor(spec, "auto", threads=threads), _picture(side, side)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (raw,) = predictor.run([prepare(spec, image)], batch_size=1)
    finish(spec, raw)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
