"""What fine-tuning on a real data set costs and gives with one worker and with several: curve, best score, minutes.

The data set is copied first, its long sides cut down to `--longest` pixels, since networks look at all of a validation image.
Each number of workers is a run of `rayseg train` as a user starts it, with the same images in a step: two workers take half each.

    python bench/training.py --data optic_disc/ --model PP-LiteSeg-T --longest 768 --train-size 384 384 --length 300 --workers 1 2
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from rayseg.datasets.index_mask import read_index_mask

ROOT = Path(__file__).resolve().parents[1]


def smaller_copy(source: Path, target: Path, longest: int) -> None:
    """A semantic set in PaddleX's layout (train.txt, val.txt), images and masks scaled down alike."""
    for part in ("train.txt", "val.txt"):
        lines = (source / part).read_text(encoding="utf-8").splitlines()
        for line in lines:
            image, mask = line.split()
            for name, pixels, how in (
                (image, cv2.imread(str(source / image), cv2.IMREAD_COLOR), cv2.INTER_AREA),
                (mask, read_index_mask((source / mask).read_bytes()), cv2.INTER_NEAREST),
            ):
                scale = min(1.0, longest / max(pixels.shape[:2]))
                size = (round(pixels.shape[1] * scale), round(pixels.shape[0] * scale))
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(target / name), cv2.resize(pixels, size, interpolation=how))
        shutil.copy(source / part, target / part)
    if (source / "labels.txt").exists():
        shutil.copy(source / "labels.txt", target / "labels.txt")


def squares(root: Path, *, images: int = 16, side: int = 128) -> Path:
    """A small semantic set for runs without `--data`; a quarter of it is for validation."""
    random, lines = np.random.default_rng(0), []
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for index in range(images):
        picture, mask = random.integers(0, 60, (side, side, 3), dtype=np.uint8), np.zeros((side, side), np.uint8)
        y, x = random.integers(0, side // 2, 2)
        picture[y : y + side // 2, x : x + side // 2] += 180
        mask[y : y + side // 2, x : x + side // 2] = 1
        cv2.imwrite(str(root / f"images/{index}.png"), picture)
        cv2.imwrite(str(root / f"masks/{index}.png"), mask)
        lines.append(f"images/{index}.png masks/{index}.png\n")
    (root / "train.txt").write_text("".join(lines[images // 4 :]))
    (root / "val.txt").write_text("".join(lines[: images // 4]))
    (root / "labels.txt").write_text("background\nsquare\n")
    return root


def run(args: argparse.Namespace, data: Path, workers: int, out: Path) -> dict:
    """One run of `rayseg train`: what it says of itself, and how its loss and score went."""
    given = {
        "Global.dataset_dir": data,
        "Global.output": out,
        "Global.device": args.device,
        "Train.epochs_iters": args.length,
        "Train.eval_interval": max(1, args.length // args.evaluations),
        "Train.batch_size": args.batch // workers,
        "Train.learning_rate": args.rate,
        "Train.scale_rate": "false",
        "Train.train_size": list(args.train_size),
        "Train.pretrain_weight_path": args.weights,
        "Train.workers": args.loaders,
        "Cluster.num_workers": workers,
        "Cluster.cpus_per_worker": args.cpus_per_worker,
    } | dict(pair.split("=", 1) for pair in args.override)
    (config,) = ROOT.glob(f"configs/*_segmentation/{args.model}.yaml")
    command = [sys.executable, "-m", "rayseg.cli", "train", "-q", "-c", str(config)]
    for key, value in given.items():
        command += ["-o", f"{key}={value}"]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT, stdout=sys.stderr)
    seconds = time.perf_counter() - start
    result = json.loads((out / "train_result.json").read_text())["rayseg"]
    events = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    return {
        "workers": workers,
        "images_of_one_worker": args.batch // workers,
        "minutes": round(seconds / 60, 2),
        "minutes_without_start": round(result["seconds"] / 60, 2),
        "scores": result["scores"],
        "best_epoch": result["best_epoch"],
        "best_step": result["best_step"],
        "steps": result["steps"],
        "loss": [[e["step"], e["loss"]] for e in events if e["event"] == "step"],
        "evaluated": [[e["step"], e["metrics"]] for e in events if e["event"] == "saved"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="data set in PaddleX's layout; left out: noisy pictures of bright squares")
    parser.add_argument("--model", default="PP-LiteSeg-T")
    parser.add_argument("--longest", type=int, help="of a semantic set: longest side of the images that are used")
    parser.add_argument("--train-size", type=int, nargs=2, default=(96, 96))
    parser.add_argument("--length", type=int, default=20, help="epochs of an instance model, iterations of a semantic one")
    parser.add_argument("--evaluations", type=int, default=2)
    parser.add_argument("--batch", type=int, default=4, help="images of a step, over all workers")
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--weights", default="scratch")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--loaders", type=int, default=1, help="Train.workers")
    parser.add_argument("--cpus-per-worker", type=float, default=1.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--override", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--keep", type=Path, help="where the output folders stay")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = args.data.resolve() if args.data else squares(Path(folder, "squares"))
        if args.longest:
            smaller_copy(data, Path(folder, "data"), args.longest)
            data = Path(folder, "data")
        kept = (args.keep or Path(folder)).resolve()
        runs = [run(args, data, workers, kept / f"workers-{workers}") for workers in args.workers]
    said = {k: v for k, v in vars(args).items() if k not in ("out", "keep")}
    text = json.dumps({"settings": said, "runs": runs}, indent=1, default=str)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
