"""Write a network as an inference model directory that PaddleX's loader and ours can read.

Two flavours: `paddlex` has the inputs and outputs of PaddleX's own exports, `lean` stops where the numbers are small
(masks as prototypes, labels as bytes) and takes any batch; finish/ does the rest. Reading directories is
model_dir.py's.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import paddle
import yaml
from paddle import nn
from paddle.static import InputSpec

from rayseg.errors import ModelError, OutputError
from rayseg.geometry import Size
from rayseg.models.instance.ppyoloe_seg import PPYOLOESeg, lean_program, paddlex_program
from rayseg.models.semantic.pp_liteseg import PPLiteSeg
from rayseg.models.zoo import Preprocess
from rayseg.predict.model_dir import CONFIG_FILE, load_model_dir
from rayseg.predict.preprocess import CUBIC, LINEAR

Flavour = Literal["lean", "paddlex"]


def export_model(
    network: nn.Layer,
    out_dir: str | Path,
    *,
    name: str,
    labels: Sequence[str],
    flavour: Flavour = "lean",
    input_size: Size | None = None,
    draw_threshold: float = 0.5,
    preprocess: Preprocess | None = None,
    overwrite: bool = False,
) -> Path:
    """Export a network. The directory appears whole or not at all; the network is not changed.

    Args:
        network: a PPYOLOESeg or PPLiteSeg with its weights.
        name: written as `Global.model_name`.
        labels: name of each class id.
        input_size: fixes the input of a semantic network; None takes any size. An instance network has its own, which
            this may only repeat.
        draw_threshold: score an object must exceed unless the caller of a job has another; instance networks only.
        preprocess: None takes what the family is published with.
        overwrite: replace a directory that is there.

    Returns:
        The directory.

    Raises:
        ModelError: a network that is not in the table, or settings that contradict it.
        OutputError: the directory is there already.
    """
    out_dir = Path(out_dir)
    if out_dir.exists() and not overwrite and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise OutputError(f"{out_dir}: is there already; give another directory, or ask to overwrite it")
    layer, spec, config = _describe(network, flavour, input_size, preprocess)
    written = {"Global": {"model_name": name}, **config, "label_list": list(labels)}
    if isinstance(network, PPYOLOESeg):
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


def _describe(
    network: nn.Layer, flavour: Flavour, input_size: Size | None, preprocess: Preprocess | None
) -> tuple[nn.Layer, list[Any], dict[str, Any]]:
    """Layer and input specification to save, and what the yml says about them."""
    if flavour not in ("lean", "paddlex"):
        raise ModelError(f"flavour {flavour!r} is unknown; known: lean, paddlex")
    if isinstance(network, PPYOLOESeg):
        return _describe_ppyoloe(network, flavour, input_size, preprocess)
    if isinstance(network, PPLiteSeg):
        return _describe_liteseg(network, flavour, input_size, preprocess)
    raise ModelError(f"{type(network).__name__} cannot be exported; known: PPYOLOESeg, PPLiteSeg")


def _describe_ppyoloe(
    network: PPYOLOESeg, flavour: Flavour, input_size: Size | None, preprocess: Preprocess | None
) -> tuple[nn.Layer, list[Any], dict[str, Any]]:
    size = network.input_size
    if input_size not in (None, size):
        raise ModelError(
            f"the network was built for {size}, asked to export for {input_size}; build it with that input_size"
        )
    preprocess = preprocess or Preprocess(resize=size, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="cubic")
    if preprocess.resize != size:
        raise ModelError(f"preprocessing resizes to {preprocess.resize}, the network takes {size}")
    layer, spec = lean_program(network) if flavour == "lean" else paddlex_program(network)
    config = {
        "mode": "paddle",
        "draw_threshold": 0.5,
        "metric": "COCO",
        "use_dynamic_shape": False,
        "arch": "PPYOLOE",
        "min_subgraph_size": 3,
        "mask": True,
        "Preprocess": [
            {
                "type": "Resize",
                "interp": CUBIC if preprocess.interpolation == "cubic" else LINEAR,
                "keep_ratio": False,
                "target_size": list(size.hw),
            },
            {
                "type": "NormalizeImage",
                "mean": list(preprocess.mean),
                "std": list(preprocess.std),
                "norm_type": "none",  # PaddleX's name for mean and std as given
            },
            {"type": "Permute"},
        ],
        **_own_block("ppyoloe_seg", flavour),
    }
    return layer, spec, config


def _describe_liteseg(
    network: PPLiteSeg, flavour: Flavour, input_size: Size | None, preprocess: Preprocess | None
) -> tuple[nn.Layer, list[Any], dict[str, Any]]:
    preprocess = preprocess or Preprocess(resize=None, mean=(0.5,) * 3, std=(0.5,) * 3)
    if input_size and preprocess.resize != input_size:
        raise ModelError(f"preprocessing resizes to {preprocess.resize}, the input would be fixed to {input_size}")
    height, width = input_size.hw if input_size else (None, None)
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
            "input_shape": [None, 3, height, width],
            "output_op": "argmax",
            "output_dtype": "int32" if flavour == "paddlex" or network.num_classes > 256 else "uint8",
        },
        **_own_block("pp_liteseg", flavour),
    }
    return _LabelMap(network, flavour), [InputSpec([None, 3, height, width], "float32", "x")], config


def _own_block(family: str, flavour: Flavour) -> dict[str, Any]:
    """A paddlex export needs no words of ours."""
    return {"rayseg": {"family": family, "flavour": flavour}} if flavour == "lean" else {}


def _put_in_place(fresh: Path, out_dir: Path) -> None:
    """Rename onto an absent or empty directory; an old one steps aside first."""
    if out_dir.is_dir() and any(out_dir.iterdir()):
        old = out_dir.with_name(f".{out_dir.name}.replaced-{os.getpid()}")
        out_dir.rename(old)
        fresh.rename(out_dir)
        shutil.rmtree(old)
    else:
        fresh.rename(out_dir)


class _LabelMap(nn.Layer):
    """A copy of a semantic network whose forward ends in a label map."""

    def __init__(self, network: PPLiteSeg, flavour: Flavour) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.lean = flavour == "lean"
        self.eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.network.forward_lean(x) if self.lean else self.network.forward_paddlex(x)
