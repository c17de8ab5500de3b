"""Write a network as an inference model directory that PaddleX's loader and ours can read.

Three flavours: `paddlex` has the inputs and outputs of PaddleX's own exports, `lean` stops where the numbers are small
(masks as prototypes, labels as bytes) and takes any batch; finish/ does the rest. `probabilities`, of semantic networks only,
gives those of all classes, a byte each, which is what the tiles of a scene are blended by. Reading directories is
model_dir.py's.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import paddle
import yaml
from paddle import nn

from rayseg.errors import ModelError, OutputError
from rayseg.geometry import Size
from rayseg.models.network import LABELS_IN_A_BYTE, Flavour, InstanceNetwork, SemanticNetwork
from rayseg.models.preprocess import Preprocess
from rayseg.predict.model_dir import CONFIG_FILE, load_model_dir
from rayseg.predict.preprocess import CUBIC, LINEAR

Network = InstanceNetwork | SemanticNetwork


def export_model(
    network: Network,
    out_dir: str | Path,
    *,
    name: str,
    labels: Sequence[str],
    flavour: Flavour = "lean",
    input_size: Size | None = None,
    draw_threshold: float = 0.5,
    overwrite: bool = False,
) -> Path:
    """Export a network. The directory appears whole or not at all; the network is not changed.

    Args:
        network: one of the zoo, with its weights.
        name: written as `Global.model_name`.
        labels: name of each class id.
        input_size: fixes the input of a semantic network; None takes any size. An instance network has its own, which
            this may only repeat.
        draw_threshold: score an object must exceed unless the caller of a job has another; instance networks only.
        overwrite: replace a directory that is there.

    Returns:
        The directory.

    Raises:
        ModelError: not a network of the zoo, or settings that contradict it.
        OutputError: the directory is there already.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and not overwrite and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise OutputError(
            f"{out_dir}: is there already; give another directory, or replace it with --overwrite (in Python overwrite=True)"
        )
    layer, spec, config = describe(network, flavour, input_size)
    written = {"Global": {"model_name": name}, **config, "label_list": list(labels)}
    if isinstance(network, InstanceNetwork):
        written["draw_threshold"] = float(draw_threshold)
    fresh = out_dir.with_name(f".{out_dir.name}.exporting-{os.getpid()}")
    fresh.mkdir(parents=True)
    try:
        paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), str(fresh / "inference"))
        (fresh / CONFIG_FILE).write_text(yaml.safe_dump(written, sort_keys=False, allow_unicode=True), encoding="utf-8")
        load_model_dir(fresh)  # refuses labels that do not fit, before anything is replaced
        _put_in_place(fresh, out_dir)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return out_dir


def describe(network: Network, flavour: Flavour, input_size: Size | None) -> tuple[nn.Layer, list[Any], dict[str, Any]]:
    """Layer and input specification to save, and what the yml says about them."""
    if flavour not in get_args(Flavour):
        raise ModelError(f"flavour {flavour!r} is unknown; known: {', '.join(get_args(Flavour))}")
    if isinstance(network, InstanceNetwork):
        return _describe_instance(network, flavour, input_size)
    if isinstance(network, SemanticNetwork):
        return _describe_semantic(network, flavour, input_size)
    raise ModelError(f"{type(network).__name__} is not a network of the zoo; build one with rayseg.build_model")


def _describe_instance(
    network: InstanceNetwork, flavour: Flavour, input_size: Size | None
) -> tuple[nn.Layer, list[Any], dict[str, Any]]:
    preprocess = network.preprocess
    if flavour == "probabilities":
        raise ModelError(
            f"{type(network).__name__} finds objects and has no probabilities of classes; export it as lean or paddlex"
        )
    if input_size not in (None, preprocess.resize):
        raise ModelError(
            f"the network was built for {preprocess.resize}, asked to export for {input_size}; build it with that size"
        )
    layer, spec = network.lean_program() if flavour == "lean" else network.paddlex_program()
    config = {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": "COCO",
        "use_dynamic_shape": _image_is_free(spec),
        "arch": network.arch,
        "min_subgraph_size": network.min_subgraph_size,
        "mask": True,
        "Preprocess": _instance_steps(preprocess),
        **_own_block(network, flavour),
    }
    return layer, spec, config


def _instance_steps(preprocess: Preprocess) -> list[dict[str, Any]]:
    normalize: dict[str, Any] = {"type": "NormalizeImage", "mean": list(preprocess.mean), "std": list(preprocess.std)}
    plain = set(preprocess.mean) == {0.0} and set(preprocess.std) == {1.0}
    normalize |= {"norm_type": "none"} if plain else {"is_scale": True}  # as PaddleX writes them
    steps = [normalize]
    if preprocess.resize:
        resize = {
            "type": "Resize",
            "interp": CUBIC if preprocess.interpolation == "cubic" else LINEAR,
            "keep_ratio": preprocess.keep_ratio,
            "target_size": list(preprocess.resize.hw),
        }
        steps.insert(1 if preprocess.normalize_first else 0, resize)
    return [*steps, {"type": "Permute"}, *_padding(preprocess)]


def _padding(preprocess: Preprocess) -> list[dict[str, Any]]:
    return [{"type": "PadStride", "stride": preprocess.pad_stride}] if preprocess.pad_stride else []


def _image_is_free(spec: Any) -> bool:
    """Whether any height and width will do."""
    image = spec[0]["image"] if isinstance(spec[0], dict) else spec[0]
    return any(side in (None, -1) for side in image.shape[2:])


def _describe_semantic(
    network: SemanticNetwork, flavour: Flavour, input_size: Size | None
) -> tuple[nn.Layer, list[Any], dict[str, Any]]:
    preprocess = network.preprocess
    if flavour == "probabilities" and network.num_classes > LABELS_IN_A_BYTE:
        raise ModelError(
            f"{network.num_classes} classes: a byte each is too coarse for the probabilities of more than {LABELS_IN_A_BYTE}; "
            "export it as lean"
        )
    size = input_size or preprocess.resize
    if input_size and preprocess.resize != input_size:
        raise ModelError(f"preprocessing resizes to {preprocess.resize}, the input would be fixed to {input_size}")
    resize = {
        "type": "Resize",
        "target_size": list(preprocess.resize.wh) if preprocess.resize else None,
        "interp": "BICUBIC" if preprocess.interpolation == "cubic" else "LINEAR",
    }
    normalize = {"type": "Normalize", "mean": list(preprocess.mean), "std": list(preprocess.std)}
    if set(preprocess.mean) == set(preprocess.std) == {0.5}:
        normalize = {"type": "Normalize"}  # 0.5 is the default, and PaddleX 3.7 fails on a `mean` that is a list
    config = {
        "Deploy": {
            "model": "inference.json",
            "params": "inference.pdiparams",
            "transforms": [*([resize] if preprocess.resize else []), normalize],
            "input_shape": [None, 3, *(size.hw if size else (None, None))],
            "output_op": "softmax" if flavour == "probabilities" else "argmax",
            "output_dtype": "int32" if flavour == "paddlex" or network.num_classes > LABELS_IN_A_BYTE else "uint8",
        },
        **_own_block(network, flavour),
    }
    layer, spec = network.program(flavour, size)
    return layer, spec, config


def _own_block(network: Network, flavour: Flavour) -> dict[str, Any]:
    """A paddlex export needs no words of ours."""
    if flavour == "paddlex":
        return {}
    return {"rayseg": {"family": network.family, "flavour": flavour, "num_classes": network.num_classes}}


def _put_in_place(fresh: Path, out_dir: Path) -> None:
    """Rename onto an absent or empty directory; an old one steps aside first."""
    if out_dir.is_dir() and any(out_dir.iterdir()):
        old = out_dir.with_name(f".{out_dir.name}.replaced-{os.getpid()}")
        out_dir.rename(old)
        fresh.rename(out_dir)
        shutil.rmtree(old)
    else:
        fresh.rename(out_dir)
