"""`rayseg predict` and `rayseg pipeline-config`: PaddleX's one-liners, for a few images; archives are `rayseg segment`'s.

Flags have PaddleX's spelling (--save_path) and ours (--save-path). `rayseg --pipeline ...` and `rayseg --get_pipeline_config
NAME`, PaddleX's forms without a command, are these two as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rayseg.cli.shared import DONE, INCOMPLETE, Declare
from rayseg.errors import OutputError

_CONFIG_FLAGS = ("--get_pipeline_config", "--get-pipeline-config")


def add_commands(command: Declare) -> None:
    """Declare them."""
    sub = command("predict", predict, "segment a few images as PaddleX does; print the results and write JSON and pictures")
    sub.add_argument(
        "--pipeline", required=True, metavar="NAME|FILE", help="instance_segmentation, semantic_segmentation or YAML"
    )
    sub.add_argument("--input", required=True, metavar="X", help="image, TIFF, PDF, folder or URL")
    sub.add_argument("--save_path", "--save-path", metavar="DIR", help="folder for <name>_res.json and pictures; default: none")
    sub.add_argument("--device", help="cpu, gpu, gpu:0, gpu:0,1, npu:0, ... (default: the first GPU, else the CPU)")
    sub.add_argument("--model_name", "--model-name", metavar="N", help="instead of the pipeline's")
    sub.add_argument("--model_dir", "--model-dir", metavar="D", help="inference model directory")
    sub.add_argument("--batch_size", "--batch-size", type=int, metavar="N", help="most images given to the network at once")
    sub.add_argument("--engine", help="paddle, paddle-onednn or eager (default: the fastest of Paddle that gives right numbers)")
    sub.add_argument(
        "--use_hpip",
        "--use-hpip",
        action="store_true",
        default=None,
        help="the fastest engine of this machine that is right on the first images",
    )
    sub.add_argument(
        "--on_error", "--on-error", choices=("raise", "skip"), default="raise", help="at an image that cannot be used"
    )
    one = sub.add_mutually_exclusive_group()
    one.add_argument("--threshold", type=float, metavar="F", help="score an object must exceed")
    one.add_argument("--target_size", "--target-size", metavar="N|W,H", help="size that a semantic network sees; -1: the image's")
    sub = command("pipeline-config", pipeline_config, "write a pipeline's YAML, to be changed and given to --pipeline")
    sub.add_argument("name", metavar="NAME")
    sub.add_argument("--save_path", "--save-path", metavar="P", default=".", help="folder or .yaml file (default: this folder)")
    sub.add_argument("--force", action="store_true", help="replace a file that is there")


def with_command(argv: Sequence[str] | None) -> list[str]:
    """Arguments in PaddleX's form, which has no command, with the command they mean; others as they are. None: this process's."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or not argv[0].startswith("--"):
        return list(argv)
    for i, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if flag in _CONFIG_FLAGS:
            return ["pipeline-config", *argv[:i], *([value] if equals else []), *argv[i + 1 :]]
        if flag == "--pipeline":
            return ["predict", *argv]
    return list(argv)


def predict(args: argparse.Namespace) -> int:
    """`rayseg predict --pipeline NAME --input X --save_path DIR`"""
    from rayseg.paddlex.create import create_pipeline

    pipeline = create_pipeline(
        args.pipeline,
        device=args.device,
        engine=args.engine,
        use_hpip=args.use_hpip,
        model_name=args.model_name,
        model_dir=args.model_dir,
        batch_size=args.batch_size,
        threshold=args.threshold,
        target_size=args.target_size,
    )
    failed = 0
    for result in pipeline.predict(args.input, on_error=args.on_error):
        result.print()
        if args.save_path:
            result.save_all(args.save_path)
        failed += result.error is not None
    return INCOMPLETE if failed else DONE


def pipeline_config(args: argparse.Namespace) -> int:
    """`rayseg --get_pipeline_config NAME --save_path P`"""
    from rayseg.paddlex.pipeline_file import pipeline_text

    text, path = pipeline_text(args.name), Path(args.save_path)
    if path.suffix.lower() not in (".yaml", ".yml"):
        path = path / f"{args.name}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w" if args.force else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputError(f"{path}: is there already; give another --save_path, or --force to replace it") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    print(path)
    return DONE
