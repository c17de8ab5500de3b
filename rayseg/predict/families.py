"""Which models we can finish, decided by what a directory says it is and by what its program gives, in one table.

A name is only looked at to say "not yet" for a published model we know; a model trained by a user may have any name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rayseg.errors import ModelError
from rayseg.predict.program import FLOAT, INTEGER, Program, Tensor


@dataclass(frozen=True)
class Family:
    """One kind of program: what goes in and what comes out, in order. `outputs` are (name, kind, rank)."""

    name: str
    task: Literal["instance", "semantic"]
    flavour: Literal["paddlex", "lean"]
    outputs: tuple[tuple[str, str, int], ...]
    inputs: frozenset[str] | None
    """Names it must take; None for any one name."""
    image_input: str | None
    any_batch: bool
    """Images of a batch do not influence each other."""

    def check_outputs(self, program: Program, path: Path) -> None:
        """Raise ModelError unless inputs and outputs are this family's."""
        found = [(tensor.kind, len(tensor.shape)) for tensor in program.outputs]
        if found != [(kind, rank) for _, kind, rank in self.outputs]:
            wanted = ", ".join(f"{name} ({kind}, {rank}-d)" for name, kind, rank in self.outputs)
            raise ModelError(
                f"{path}: gives {_say(program.outputs)}; a {self.flavour} {self.name} program gives {wanted}. "
                f"{self._hint(program)}"
            )
        fits = len(program.inputs) == 1 if self.inputs is None else set(program.inputs) == self.inputs
        if not fits:
            raise ModelError(
                f"{path}: takes {', '.join(program.inputs)}; expected {', '.join(sorted(self.inputs or {'one image'}))}"
            )

    def _hint(self, program: Program) -> str:
        if self.task == "instance" and len(program.outputs) == 2:
            return "This looks like an object detector, which has no masks."
        if self.task == "semantic" and program.outputs and program.outputs[0].kind == FLOAT:
            return "Export it with `--output_op argmax`."
        return "Program and yml probably belong to different models."


_PPYOLOE_PADDLEX = Family(
    name="ppyoloe_seg",
    task="instance",
    flavour="paddlex",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("mask", FLOAT, 3)),
    inputs=frozenset({"im_shape", "image", "scale_factor"}),
    image_input="image",
    any_batch=False,
)
_PPYOLOE_LEAN = Family(
    name="ppyoloe_seg",
    task="instance",
    flavour="lean",
    outputs=(("bbox", FLOAT, 2), ("bbox_num", INTEGER, 1), ("coefficients", FLOAT, 2), ("prototypes", FLOAT, 4)),
    inputs=frozenset({"image"}),
    image_input="image",
    any_batch=True,
)
_LITESEG_PADDLEX = Family(
    name="pp_liteseg",
    task="semantic",
    flavour="paddlex",
    outputs=(("labels", INTEGER, 3),),
    inputs=None,
    image_input=None,
    any_batch=True,
)
_LITESEG_LEAN = Family(
    name="pp_liteseg",
    task="semantic",
    flavour="lean",
    outputs=(("labels", INTEGER, 3),),
    inputs=None,
    image_input=None,
    any_batch=True,
)

FAMILIES = {(f.name, f.flavour): f for f in (_PPYOLOE_PADDLEX, _PPYOLOE_LEAN, _LITESEG_PADDLEX, _LITESEG_LEAN)}
"""(family, flavour) -> what we can finish."""

_OTHER_ARCHS = {
    "RCNN": "Mask R-CNN and Cascade Mask R-CNN",
    "SOLOv2": "SOLOv2",
    "DETR": "Mask-RT-DETR",
}
_OTHER_SEMANTIC = ("Deeplabv3", "OCRNet", "SegFormer", "SeaFormer", "MaskFormer")
_FINISHED = "Finished today: PP-YOLOE_seg and PP-LiteSeg."


def identify(config: dict[str, Any], path: Path) -> Family:
    """The family of a directory from its inference.yml.

    Raises:
        ModelError: not a segmentation model, or one we cannot finish yet.
    """
    own = config.get("rayseg")
    if own is not None:
        key = (own.get("family"), own.get("flavour")) if isinstance(own, dict) else (own, None)
        if key not in FAMILIES:
            raise ModelError(
                f"{path}: rayseg block {own!r} names no known family and flavour; known: {sorted(FAMILIES)}"
            )
        return FAMILIES[key]
    if "arch" in config:
        return _instance_family(config, path)
    deploy = config.get("Deploy")
    if isinstance(deploy, dict) and "transforms" in deploy:
        return _semantic_family(config, deploy, path)
    raise ModelError(
        f"{path}: has neither `arch` (instance models) nor `Deploy.transforms` (semantic models), so "
        f"{_model_name(config)} is not a segmentation model, or the file is cut"
    )


def _instance_family(config: dict[str, Any], path: Path) -> Family:
    arch = config["arch"]
    if arch == "PPYOLOE":
        return _PPYOLOE_PADDLEX
    if arch in _OTHER_ARCHS and config.get("mask"):
        raise ModelError(
            f"{path}: {_model_name(config)} is of arch {arch} ({_OTHER_ARCHS[arch]}), not supported yet. {_FINISHED}"
        )
    raise ModelError(
        f"{path}: {_model_name(config)} is of arch {arch!r}, which is not a segmentation model we know. {_FINISHED}"
    )


def _semantic_family(config: dict[str, Any], deploy: dict[str, Any], path: Path) -> Family:
    name = _model_name(config)
    if name.startswith(_OTHER_SEMANTIC):
        raise ModelError(f"{path}: {name} is a semantic model of a family that is not supported yet. {_FINISHED}")
    if deploy.get("output_op", "argmax") != "argmax":
        raise ModelError(f"{path}: output_op is {deploy['output_op']!r}; export the model with `--output_op argmax`")
    return _LITESEG_PADDLEX


def _model_name(config: dict[str, Any]) -> str:
    found = config.get("Global")
    return str(found.get("model_name", "the model")) if isinstance(found, dict) else "the model"


def _say(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.kind} {list(t.shape)}" for t in tensors) or "nothing"
