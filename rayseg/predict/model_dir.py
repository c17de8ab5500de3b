"""A PaddleX inference model directory, read and checked before anything is loaded.

    inference.json | inference.pdmodel    the program; the json wins when both are there
    inference.pdiparams                   its parameters
    inference.yml                         preprocessing, labels, thresholds

A directory that could not be honoured in full is refused with the file and the reason. Directories we export
ourselves carry a block `rayseg: {flavour: ..., family: ...}` in the yml. Nothing is ever written into the directory.
Running the program is predictor.py's.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.predict.backends.fake import parse_fake
from rayseg.predict.families import Family, identify
from rayseg.predict.params_file import check_params_file
from rayseg.predict.preprocess import Step, input_sizes, read_instance_steps, read_semantic_steps
from rayseg.predict.program import Program, read_program
from rayseg.predict.spec import ModelSpec

__all__ = ["ModelSpec", "load_model_dir", "model_files"]

PROGRAM_FILES = ("inference.json", "inference.pdmodel")
PARAMS_FILE = "inference.pdiparams"
CONFIG_FILE = "inference.yml"

_LFS_HEAD = b"version https://git-lfs"


def load_model_dir(path: str | Path) -> ModelSpec:
    """Read and check a model directory.

    Args:
        path: the directory, or `fake:instance` and the like (see backends/fake.py).

    Raises:
        ModelError: something is missing, damaged, unknown or contradictory; the message names the file.
    """
    if str(path).startswith("fake:"):
        return parse_fake(str(path))
    program_file, params_file, config_file = model_files(Path(path))
    config = _read_config(config_file)
    family = identify(config, config_file)
    program = read_program(program_file)
    check_params_file(params_file, program.num_parameters)
    family.check_outputs(program, program_file)
    steps, labels, draw_threshold = _read_task_config(family, config, config_file, program)
    image = _image_input(family, program, program_file)
    return ModelSpec(
        path=str(Path(path).resolve()),
        name=str(_get(config, "Global", "model_name") or Path(path).resolve().name),
        task=family.task,
        family=family.name,
        flavour=family.flavour,
        labels=labels,
        draw_threshold=draw_threshold,
        steps=steps,
        inputs=tuple(program.inputs),
        fixed_input=_fixed_size(image, steps, config_file, program_file),
        any_batch=image[0] < 1 and family.any_batch,
        fingerprint=_fingerprint(program_file, params_file, config_file),
    )


def model_files(directory: Path) -> tuple[Path, Path, Path]:
    """Program, parameters and yml of a directory, each there, not empty and not a git-lfs pointer.

    Raises:
        ModelError: otherwise.
    """
    if not directory.is_dir():
        why = "" if directory.exists() else " (there is no such folder)"
        raise ModelError(
            f"{directory}: is not a model directory{why}; give the folder that holds {PROGRAM_FILES[0]}. "
            "`rayseg export MODEL DIR` makes one"
        )
    there = [directory / name for name in PROGRAM_FILES if (directory / name).is_file()]
    if not there:
        raise ModelError(
            f"{directory}: has neither {' nor '.join(PROGRAM_FILES)}, so it is no inference model directory. Give one, or "
            "make it with `rayseg export MODEL DIR`"
        )
    files = (there[0], directory / PARAMS_FILE, directory / CONFIG_FILE)
    for file in files:
        if not file.is_file():
            raise ModelError(f"{file}: is missing; a model directory needs program, {PARAMS_FILE} and {CONFIG_FILE}")
        with file.open("rb") as opened:
            head = opened.read(len(_LFS_HEAD))
        if not head:
            raise ModelError(f"{file}: is empty; copy the directory again")
        if head == _LFS_HEAD:
            raise ModelError(f"{file}: is a git-lfs pointer, not the file itself; run `git lfs pull` in its repository")
    return files


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise ModelError(f"{path}: expected `key: value` lines, found a {type(config).__name__}; the file is damaged or cut")
    return config


def _read_task_config(
    family: Family, config: dict[str, Any], path: Path, program: Program
) -> tuple[tuple[Step, ...], tuple[str, ...], float]:
    known = _num_classes(config, path, program)
    if family.task == "semantic":
        steps = read_semantic_steps(_get(config, "Deploy", "transforms"), f"{path}, Deploy.transforms")
        return steps, _semantic_labels(config, path, known), 0.0
    steps = read_instance_steps(config.get("Preprocess"), f"{path}, Preprocess")
    labels = _read_labels(config.get("label_list"), path)
    _check_label_count(labels, path, known)
    threshold = config.get("draw_threshold")
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise ModelError(f"{path}: draw_threshold must be a number in [0, 1], got {threshold!r}")
    return steps, labels, float(threshold)


def _num_classes(config: dict[str, Any], path: Path, program: Program) -> int | None:
    """As our own block says, else as the program tells; None where neither does."""
    written = _get(config, "rayseg", "num_classes")
    if written is not None and (not isinstance(written, int) or written < 1):
        raise ModelError(f"{path}: rayseg.num_classes must be a number of classes, got {written!r}")
    return written or program.num_classes


def _semantic_labels(config: dict[str, Any], path: Path, num_classes: int | None) -> tuple[str, ...]:
    """Names from our own `label_list`; PaddleX stores none."""
    if config.get("label_list") is None:
        return tuple(f"class_{i}" for i in range(num_classes or 256))
    labels = _read_labels(config["label_list"], path)
    _check_label_count(labels, path, num_classes)
    return labels


def _read_labels(found: Any, path: Path) -> tuple[str, ...]:
    if not isinstance(found, list) or not found:
        raise ModelError(f"{path}: label_list must be a list of class names, got {found!r}")
    for label in found:
        if not isinstance(label, str):
            raise ModelError(f"{path}: label_list holds {label!r}, which YAML reads as {type(label).__name__}; put it in quotes")
    return tuple(found)


def _check_label_count(labels: tuple[str, ...], path: Path, num_classes: int | None) -> None:
    if num_classes not in (None, len(labels)):
        raise ModelError(
            f"{path}: label_list has {len(labels)} names, the program tells {num_classes} classes apart; "
            "yml and program belong to different models"
        )


def _image_input(family: Family, program: Program, path: Path) -> tuple[int, ...]:
    """Shape (N, 3, H, W) of the image input, -1 where anything goes."""
    tensor = program.inputs.get(family.image_input) if family.image_input else next(iter(program.inputs.values()), None)
    if tensor is None or len(tensor.shape) != 4 or tensor.shape[1] not in (3, -1):
        raise ModelError(f"{path}: takes {dict(program.inputs)}, expected an image (N, 3, H, W)")
    return tensor.shape


def _fixed_size(image: tuple[int, ...], steps: tuple[Step, ...], config_file: Path, program_file: Path) -> Size | None:
    height, width = image[2:]
    for original in (Size(101, 257), Size(333, 250)):
        made = input_sizes(steps, original)[1]
        if height not in (-1, made.height) or width not in (-1, made.width):
            raise ModelError(
                f"{config_file}: makes an input of {made.height} x {made.width} from an image of "
                f"{original.height} x {original.width}, but {program_file.name} takes {height} x {width} only"
            )
    return Size(height, width) if height > 0 and width > 0 else None


def _fingerprint(*files: Path) -> str:
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            whole.update(hashlib.file_digest(opened, "sha256").digest())
    return whole.hexdigest()


def _get(config: dict[str, Any], section: str, key: str) -> Any:
    found = config.get(section)
    return found.get(key) if isinstance(found, dict) else None
