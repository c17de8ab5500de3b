"""Train the demo model: nuclei in microscope images, from scratch, on CPU.

    python jobs/train_demo.py DATA OUT [--settings demo/train.yaml]

DATA holds instances_train.json, instances_val.json and images/; demo/images/SOURCE.txt says where they are from. OUT
gets what every run leaves (rayseg/training/), train.log.jsonl, metrics.json and model/, the exported directory. Run the same
command again to go on after a stop. OMP_NUM_THREADS=1 is as fast as 2 when the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rayseg.config.load import build, read_yaml
from rayseg.datasets.coco import CocoInstances
from rayseg.predict.export import export_model
from rayseg.training.instance import InstanceRun, train_instances, trained_model

NAME = "PP-YOLOE_seg-nuclei"
SETTINGS = Path(__file__).resolve().parent.parent / "demo" / "train.yaml"


def main(argv: list[str] | None = None) -> int:
    """Run; 0 when the model is trained and scored."""
    arguments = _parse(argv)
    run = build(InstanceRun, read_yaml(arguments.settings), where=str(arguments.settings))
    arguments.out.mkdir(parents=True, exist_ok=True)
    train_set, val_set = (
        CocoInstances(arguments.data / f"instances_{part}.json", arguments.data / "images") for part in ("train", "val")
    )
    with (arguments.out / "train.log.jsonl").open("a", encoding="utf-8", buffering=1) as log:

        def report(event: dict[str, Any]) -> None:
            line = json.dumps(event)
            print(line, flush=True)
            log.write(line + "\n")

        result = train_instances(run, train_set=train_set, val_set=val_set, folder=arguments.out, report=report)
    (arguments.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    network = trained_model(run, arguments.out / result["weights"], num_classes=len(train_set.labels))
    export_model(network, arguments.out / "model", name=NAME, labels=train_set.labels, overwrite=True)
    return 0


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--settings", type=Path, default=SETTINGS)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
