"""Every network by name, in one table: how to build it, where its weights are and what it was published with.

Building is all that happens here; weights are weights.py's. A network is imported when it is built, so reading the
table costs nothing. A new network is one builder and one more row.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, SEMANTIC, Preprocess
from rayseg.models.recipe import Recipe, Schedule, Warmup

if TYPE_CHECKING:
    from rayseg.models.network import InstanceNetwork, SemanticNetwork


@dataclass(frozen=True)
class Score:
    """A published result; not measured here."""

    metric: str
    """Name of the measure."""
    value: float
    """In percent."""
    dataset: str
    """It was measured on, and how where that is unusual."""


@dataclass(frozen=True)
class ZooModel:
    """One network."""

    name: str
    """As PaddleX calls it."""
    task: Literal["instance", "semantic"]
    """Objects, or one class a pixel."""
    family: str
    """Networks of one family differ in size alone."""
    builder: str
    """module:function below rayseg.models: number of classes -> network with fresh weights."""
    num_classes: int
    """Of the published weights; without background for instance models."""
    preprocess: Preprocess
    """Of the published weights."""
    typical_input: Size
    """The network's input for an ordinary image."""
    recipe: Recipe
    """To start from."""
    published: Score
    """What the published weights reach."""
    size_mb: float
    """Of the published inference model; 0 where none was published."""
    paper: str
    """Where it is described."""
    weights_url: str | None
    """All parameters, for `num_classes`."""
    backbone_url: str | None
    """The backbone's parameters alone, from classifying ImageNet; for PP-YOLOE_seg from detection on Objects365."""

    def build(self, num_classes: int | None = None, **options: Any) -> InstanceNetwork | SemanticNetwork:
        """See `build_model`; options are the builder's own."""
        module, _, function = self.builder.partition(":")
        build = getattr(importlib.import_module(f"rayseg.models.{module}"), function)
        network: InstanceNetwork | SemanticNetwork = build(self.num_classes if num_classes is None else num_classes, **options)
        return network


def build_model(name: str, num_classes: int | None = None) -> InstanceNetwork | SemanticNetwork:
    """A network with fresh weights.

    Args:
        name: from the table.
        num_classes: the published number unless given; without background for instance models.

    Raises:
        ModelError: the name is not in the table (the message shows the nearest one), or num_classes is less than 1.
    """
    row = find_model(name)
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"{name} needs at least one class, got num_classes={num_classes}.")
    return row.build(num_classes)


def find_model(name: str) -> ZooModel:
    """The row of a name.

    Raises:
        ModelError: see `build_model`.
    """
    if name in MODELS:
        return MODELS[name]
    by_lower = {known.lower(): known for known in MODELS}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    guess = f" Did you mean {by_lower[near[0]]!r}?" if near else ""
    raise ModelError(f"no model is called {name!r}.{guess} Known: {', '.join(MODELS)}.")


# ---- what rows share

_PADDLEX = "https://paddle-model-ecology.bj.bcebos.com/paddlex/official_pretrained_model"
_DET = "https://paddledet.bj.bcebos.com/models/pretrained"
_CLAS = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph/legendary_models"

_RCNN_INPUT = Preprocess(
    resize=Size(800, 1333), mean=IMAGENET_MEAN, std=IMAGENET_STD, interpolation="cubic", keep_ratio=True, pad_stride=32
)
_SOLO_INPUT = replace(_RCNN_INPUT, interpolation="linear", normalize_first=True)
_SQUARE_640 = Preprocess(resize=Size(640, 640), mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="cubic")
_HALF_CITYSCAPES = Size(512, 1024)
_SQUARE_512 = Preprocess(resize=Size(512, 512), mean=IMAGENET_MEAN, std=IMAGENET_STD)

_RCNN = Recipe(
    length=12,
    unit="epochs",
    batch_size=8,
    learning_rate=0.01,
    optimizer="momentum",
    weight_decay=1e-4,
    schedule=Schedule("step", milestones=(8 / 12, 11 / 12), warmup=Warmup(0.0057, start=0.001)),
    augmentation="short side 640 to 800 in steps of 32, long side at most 1333; flip",
)
_SOLO = replace(
    _RCNN,
    batch_size=16,
    schedule=replace(_RCNN.schedule, warmup=Warmup(0.0114)),
    augmentation="short side 800, long side at most 1333; flip",
)
_X101 = replace(_RCNN, length=24, schedule=Schedule("step", milestones=(16 / 24, 22 / 24), warmup=Warmup(0.0028, start=0.1)))
_DETR = Recipe(
    length=72,
    unit="epochs",
    batch_size=16,
    learning_rate=1e-4,
    optimizer="adamw",
    weight_decay=1e-4,
    schedule=Schedule("constant", warmup=Warmup(0.0038, start=0.001)),
    augmentation="colour distortion 0.8, expansion, crop by IoU 0.8, flip; square of 480 to 800 for each batch",
    clip=("global_norm", 0.1),
    ema=("exponential", 0.9999),
)
_YOLOE = Recipe(
    length=80,
    unit="epochs",
    batch_size=8,
    learning_rate=1e-3,
    optimizer="momentum",
    weight_decay=5e-4,
    schedule=Schedule("cosine", span=96 / 80, warmup=Warmup(5 / 80)),
    augmentation="colour distortion, expansion, crop by masks, flip; 640 x 640",
    ema=("threshold", 0.9998),
)
_SEG_AUGMENTATION = "scale 0.5 to 2 in steps of 0.25, crop of the training size, flip, colour distortion 0.4"
_SGD = Recipe(
    length=80_000,
    unit="iterations",
    batch_size=8,
    learning_rate=0.01,
    optimizer="momentum",
    weight_decay=4e-5,
    schedule=Schedule("poly", power=0.9),
    augmentation=_SEG_AUGMENTATION,
)
_OCR = replace(_SGD, length=160_000)
_LITESEG = replace(
    _SGD,
    length=160_000,
    batch_size=16,
    learning_rate=0.005,
    weight_decay=5e-4,
    schedule=Schedule("poly", power=0.9, warmup=Warmup(1000 / 160_000, start=1e-5 / 0.005)),
)
_SEGFORMER = Recipe(
    length=160_000,
    unit="iterations",
    batch_size=8,
    learning_rate=6e-5,
    optimizer="adamw",
    weight_decay=0.01,
    schedule=Schedule("poly", power=1.0),
    augmentation=_SEG_AUGMENTATION,
)
_SEAFORMER = replace(
    _SEGFORMER,
    batch_size=16,
    learning_rate=2.5e-4,
    schedule=Schedule("poly", power=1.0, warmup=Warmup(1500 / 160_000, start=1e-6 / 2.5e-4)),
    head_rate=10.0,
)
_MASKFORMER = replace(
    _SEGFORMER,
    batch_size=16,
    schedule=Schedule("poly", power=0.9, warmup=Warmup(1500 / 160_000, start=1e-6)),
    augmentation="short side 256 to 1024, crop of 512 x 512, colour distortion 0.125 / 0.5 / 0.5 / 18, flip",
    clip=("norm", 0.01),
)

_MASK_RCNN_PAPER = "He et al., Mask R-CNN, 2017, https://arxiv.org/abs/1703.06870"
_CASCADE_PAPER = "Cai and Vasconcelos, Cascade R-CNN, 2019, https://arxiv.org/abs/1906.09756"
_RTDETR_PAPER = "Zhao et al., DETRs Beat YOLOs on Real-time Object Detection, 2023, https://arxiv.org/abs/2304.08069"
_YOLOE_PAPER = "Xu et al., PP-YOLOE, 2022, https://arxiv.org/abs/2203.16250"
_SOLO_PAPER = "Wang et al., SOLOv2, 2020, https://arxiv.org/abs/2003.10152"
_DEEPLABV3_PAPER = "Chen et al., Rethinking Atrous Convolution, 2017, https://arxiv.org/abs/1706.05587"
_DEEPLABV3P_PAPER = "Chen et al., Encoder-Decoder with Atrous Separable Convolution, 2018, https://arxiv.org/abs/1802.02611"
_OCR_PAPER = "Yuan et al., Object-Contextual Representations, 2020, https://arxiv.org/abs/1909.11065"
_LITESEG_PAPER = "Peng et al., PP-LiteSeg, 2022, https://arxiv.org/abs/2204.02681"
_SEGFORMER_PAPER = "Xie et al., SegFormer, 2021, https://arxiv.org/abs/2105.15203"
_SEAFORMER_PAPER = "Wan et al., SeaFormer, 2023, https://arxiv.org/abs/2301.13156"
_MASKFORMER_PAPER = "Cheng et al., Per-Pixel Classification is Not All You Need, 2021, https://arxiv.org/abs/2107.06278"


def _instance(
    name: str,
    family: str,
    builder: str,
    *,
    ap: float,
    mb: float,
    backbone: str,
    recipe: Recipe,
    preprocess: Preprocess,
    paper: str,
    published: bool = True,
    typical: Size | None = None,
) -> ZooModel:
    return ZooModel(
        name,
        "instance",
        family,
        f"instance.{builder}",
        80,
        preprocess,
        typical or (preprocess.resize if not preprocess.keep_ratio and preprocess.resize else Size(800, 1344)),
        recipe,
        Score("mask AP", ap, "COCO val2017"),
        mb,
        paper,
        f"{_PADDLEX}/{name}_pretrained.pdparams" if published else None,
        backbone,
    )


def _semantic(
    name: str,
    family: str,
    builder: str,
    *,
    miou: float,
    mb: float,
    recipe: Recipe,
    paper: str,
    dataset: str = "Cityscapes val",
    num_classes: int = 19,
    preprocess: Preprocess = SEMANTIC,
    typical: Size = _HALF_CITYSCAPES,
    backbone: bool = True,
) -> ZooModel:
    return ZooModel(
        name,
        "semantic",
        family,
        f"semantic.{builder}",
        num_classes,
        preprocess,
        typical,
        recipe,
        Score("mean IoU", miou, dataset),
        mb,
        paper,
        f"{_PADDLEX}/{name}_pretrained.pdparams",
        f"{_PADDLEX}/{name}_backbone_imagenet_pretrained.pdparams" if backbone else None,
    )


def _mask_rcnn(
    name: str,
    function: str,
    *,
    family: str = "Mask R-CNN",
    recipe: Recipe = _RCNN,
    preprocess: Preprocess = _RCNN_INPUT,
    **facts: Any,
) -> ZooModel:
    return _instance(
        f"MaskRCNN-{name}",
        family,
        f"rcnn_builders:{function}",
        recipe=recipe,
        preprocess=preprocess,
        paper=_MASK_RCNN_PAPER,
        **facts,
    )


def _cascade(name: str, function: str, **facts: Any) -> ZooModel:
    return _instance(
        f"Cascade-MaskRCNN-{name}",
        "Cascade Mask R-CNN",
        f"rcnn_builders:{function}",
        recipe=replace(_RCNN, clip=("global_norm", 35.0)),
        preprocess=_RCNN_INPUT,
        paper=_CASCADE_PAPER,
        **facts,
    )


def _rtdetr(size: str, **facts: Any) -> ZooModel:
    return _instance(
        f"Mask-RT-DETR-{size}",
        "Mask-RT-DETR",
        f"mask_rtdetr:build_mask_rtdetr_{size.lower()}",
        recipe=_DETR,
        preprocess=_SQUARE_640,
        paper=_RTDETR_PAPER,
        **facts,
    )


def _segformer(size: int, **facts: Any) -> ZooModel:
    return _semantic(
        f"SegFormer-B{size}",
        "SegFormer",
        f"segformer:build_segformer_b{size}",
        recipe=_SEGFORMER,
        paper=_SEGFORMER_PAPER,
        dataset="Cityscapes val, windows of 1024 in steps of 768",
        **facts,
    )


def _seaformer(size: str, **facts: Any) -> ZooModel:
    return _semantic(
        f"SeaFormer_{size}",
        "SeaFormer",
        f"seaformer:build_seaformer_{size}",
        recipe=_SEAFORMER,
        paper=_SEAFORMER_PAPER,
        dataset="ADE20K val, resized to at most 2048 x 512",
        num_classes=150,
        typical=Size(512, 512),
        **facts,
    )


def _maskformer(size: str, **facts: Any) -> ZooModel:
    return _semantic(
        f"MaskFormer_{size}",
        "MaskFormer",
        f"maskformer:build_maskformer_{size}",
        recipe=_MASKFORMER,
        paper=_MASKFORMER_PAPER,
        dataset="ADE20K val",
        num_classes=150,
        preprocess=_SQUARE_512,
        typical=Size(512, 512),
        backbone=False,
        **facts,
    )


# ---- the table

_ROWS = (
    _rtdetr("S", ap=41.0, mb=51.8, backbone=f"{_CLAS}/PPHGNetV2_B1_ssld_stage1_pretrained.pdparams"),
    _rtdetr("M", ap=42.7, mb=66.6, backbone=f"{_CLAS}/PPHGNetV2_B2_ssld_stage1_pretrained.pdparams"),
    _rtdetr("L", ap=45.7, mb=113.6, backbone=f"{_DET}/PPHGNetV2_L_ssld_pretrained.pdparams"),
    _rtdetr("X", ap=47.5, mb=237.5, backbone=f"{_CLAS}/PPHGNetV2_B5_ssld_stage1_pretrained.pdparams"),
    _rtdetr("H", ap=50.6, mb=449.9, backbone=f"{_DET}/PPHGNetV2_H_ssld_pretrained.pdparams"),
    _mask_rcnn(
        "ResNet50",
        "maskrcnn_resnet50",
        family="Mask R-CNN C4",
        preprocess=replace(_RCNN_INPUT, pad_stride=None),
        typical=Size(800, 1333),
        ap=32.8,
        mb=128.7,
        backbone=f"{_DET}/ResNet50_cos_pretrained.pdparams",
    ),
    _mask_rcnn(
        "ResNet50-FPN",
        "maskrcnn_resnet50_fpn",
        ap=35.6,
        mb=157.5,
        backbone=f"{_DET}/ResNet50_cos_pretrained.pdparams",
    ),
    _mask_rcnn(
        "ResNet50-vd-FPN",
        "maskrcnn_resnet50_vd_fpn",
        ap=36.4,
        mb=157.5,
        backbone=f"{_DET}/ResNet50_vd_pretrained.pdparams",
    ),
    _mask_rcnn(
        "ResNet50-vd-SSLDv2-FPN",
        "maskrcnn_resnet50_vd_ssldv2_fpn",
        ap=38.2,
        mb=157.2,
        backbone=f"{_DET}/ResNet50_vd_ssld_v2_pretrained.pdparams",
        published=False,
    ),
    _mask_rcnn(
        "ResNet101-FPN",
        "maskrcnn_resnet101_fpn",
        ap=36.6,
        mb=225.4,
        backbone=f"{_DET}/ResNet101_pretrained.pdparams",
    ),
    _mask_rcnn(
        "ResNet101-vd-FPN",
        "maskrcnn_resnet101_vd_fpn",
        ap=38.1,
        mb=225.1,
        backbone=f"{_DET}/ResNet101_vd_pretrained.pdparams",
    ),
    _mask_rcnn(
        "ResNeXt101-vd-FPN",
        "maskrcnn_resnext101_vd_fpn",
        recipe=_X101,
        ap=39.5,
        mb=370.0,
        backbone=f"{_DET}/ResNeXt101_vd_64x4d_pretrained.pdparams",
    ),
    _cascade(
        "ResNet50-FPN",
        "cascade_maskrcnn_resnet50_fpn",
        ap=36.3,
        mb=254.8,
        backbone=f"{_DET}/ResNet50_cos_pretrained.pdparams",
    ),
    _cascade(
        "ResNet50-vd-SSLDv2-FPN",
        "cascade_maskrcnn_resnet50_vd_ssldv2_fpn",
        ap=39.1,
        mb=254.7,
        backbone=f"{_DET}/ResNet50_vd_ssld_v2_pretrained.pdparams",
    ),
    _instance(
        "PP-YOLOE_seg-S",
        "PP-YOLOE_seg",
        "ppyoloe_seg:build_ppyoloe_seg_s",
        ap=32.5,
        mb=31.5,
        backbone="https://bj.bcebos.com/v1/paddledet/models/pretrained/ppyoloe_crn_s_obj365_pretrained.pdparams",
        recipe=_YOLOE,
        preprocess=_SQUARE_640,
        paper=_YOLOE_PAPER,
    ),
    _instance(
        "SOLOv2",
        "SOLOv2",
        "solov2:build_solov2",
        ap=35.5,
        mb=179.1,
        backbone=f"{_DET}/ResNet50_cos_pretrained.pdparams",
        recipe=_SOLO,
        preprocess=_SOLO_INPUT,
        paper=_SOLO_PAPER,
    ),
    _semantic(
        "Deeplabv3-R50",
        "DeepLabV3",
        "deeplabv3:build_deeplabv3_r50",
        miou=79.90,
        mb=138.3,
        recipe=_SGD,
        paper=_DEEPLABV3_PAPER,
    ),
    _semantic(
        "Deeplabv3-R101",
        "DeepLabV3",
        "deeplabv3:build_deeplabv3_r101",
        miou=80.85,
        mb=205.9,
        recipe=_SGD,
        paper=_DEEPLABV3_PAPER,
    ),
    _semantic(
        "Deeplabv3_Plus-R50",
        "DeepLabV3+",
        "deeplabv3:build_deeplabv3_plus_r50",
        miou=80.36,
        mb=94.9,
        recipe=_SGD,
        paper=_DEEPLABV3P_PAPER,
    ),
    _semantic(
        "Deeplabv3_Plus-R101",
        "DeepLabV3+",
        "deeplabv3:build_deeplabv3_plus_r101",
        miou=81.10,
        mb=162.5,
        recipe=_SGD,
        paper=_DEEPLABV3P_PAPER,
    ),
    _semantic("OCRNet_HRNet-W18", "OCRNet", "ocrnet:build_ocrnet_hrnet_w18", miou=80.67, mb=43.1, recipe=_OCR, paper=_OCR_PAPER),
    _semantic("OCRNet_HRNet-W48", "OCRNet", "ocrnet:build_ocrnet_hrnet_w48", miou=82.15, mb=249.8, recipe=_OCR, paper=_OCR_PAPER),
    _semantic(
        "PP-LiteSeg-T",
        "PP-LiteSeg",
        "pp_liteseg:build_pp_liteseg_t",
        miou=73.10,
        mb=28.5,
        recipe=_LITESEG,
        paper=_LITESEG_PAPER,
        dataset="Cityscapes val, evaluated at half scale",
    ),
    _semantic(
        "PP-LiteSeg-B",
        "PP-LiteSeg",
        "pp_liteseg:build_pp_liteseg_b",
        miou=75.25,
        mb=47.0,
        recipe=_LITESEG,
        paper=_LITESEG_PAPER,
        dataset="Cityscapes val, evaluated at half scale",
    ),
    _segformer(0, miou=76.73, mb=13.2),
    _segformer(1, miou=78.35, mb=48.5),
    _segformer(2, miou=81.60, mb=96.9),
    _segformer(3, miou=82.47, mb=167.3),
    _segformer(4, miou=82.38, mb=226.7),
    _segformer(5, miou=82.58, mb=229.7),
    _seaformer("tiny", miou=34.58, mb=6.1),
    _seaformer("small", miou=38.73, mb=14.3),
    _seaformer("base", miou=40.92, mb=30.8),
    _seaformer("large", miou=43.66, mb=49.8),
    _maskformer("tiny", miou=46.69, mb=0),
    _maskformer("small", miou=49.70, mb=0),
)

MODELS: dict[str, ZooModel] = {row.name: row for row in _ROWS}
"""Every model by its name."""
