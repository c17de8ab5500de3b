"""Mask-RT-DETR: a real-time detection transformer that gives each of its objects a mask.

Paper: Lv et al., "DETRs Beat YOLOs on Real-time Object Detection", 2023 (https://arxiv.org/abs/2304.08069); the masks
follow Li et al., "Mask DINO", CVPR 2023 (https://arxiv.org/abs/2206.02777). Code: PaddleDetection,
ppdet/modeling/architectures/detr.py and configs/mask_rtdetr, Apache-2.0.
Changed: inputs need not be square, and images of a batch may have different sizes (see the decoder's, the encoder's and
the finishing file); on square inputs and single images the numbers are the original's. Parameter names and shapes are
those of published weights.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.backbones.hgnetv2 import SIZES, HGNetV2, HGNetV2Size
from rayseg.models.blocks.rep_vgg import deployed_copy
from rayseg.models.instance.mask_rtdetr_decoder import Denoising, QueryTransformer, TrainingOutputs, combine
from rayseg.models.instance.mask_rtdetr_encoder import MaskHybridEncoder
from rayseg.models.instance.mask_rtdetr_finish import best_objects, full_size_masks, original_sizes
from rayseg.models.instance.mask_rtdetr_loss import mask_rtdetr_loss
from rayseg.models.network import InstanceNetwork
from rayseg.models.preprocess import Preprocess

COARSEST_STRIDE = 32
KEEP = 100
"""Objects of an image, however unlikely the last of them are."""


class MaskRTDETR(InstanceNetwork):
    """Backbone, neck and decoder of Mask-RT-DETR, with its loss. Built by `build_mask_rtdetr_s` and the like."""

    family = "mask_rtdetr"
    arch = "DETR"
    min_subgraph_size = 3

    def __init__(self, backbone: HGNetV2, transformer: QueryTransformer, neck: MaskHybridEncoder, *, input_size: Size) -> None:
        super().__init__()
        self.backbone = backbone
        self.transformer = transformer
        self.neck = neck
        self.num_classes = transformer.num_classes
        self.input_size = input_size
        self.preprocess = Preprocess(resize=input_size, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="cubic")

    def forward(self, inputs: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Segment, with the inputs and outputs of PaddleX's exported programs.

        Args:
            inputs: see `InstanceNetwork.forward`; `image` is RGB / 255 without padding, H and W multiples of 32.

        Returns:
            `bbox` float32 [N * 100, 6]: class, score, x0, y0, x1, y1 in original pixels, not clipped, image by image,
            best first; `bbox_num` int32 [N], 100 each; `mask` int32 [N * 100, H0, W0] of zeros and ones, where H0 and W0
            are the largest of the batch and each image's masks begin at the top left.
        """
        objects, embeddings, prototypes = self._objects(inputs["image"])
        sizes = original_sizes(inputs["im_shape"], inputs["scale_factor"])
        masks = full_size_masks(combine(embeddings, prototypes), sizes)
        edges = objects[:, :, 2:] * sizes.flip(1).tile([1, 2]).unsqueeze(1)
        bbox = paddle.concat([objects[:, :, :2], edges], axis=-1)
        return {"bbox": bbox.flatten(0, 1), "bbox_num": _counts(objects), "mask": masks.flatten(0, 1)}

    def forward_lean(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Find the objects of any number of images and leave the masks as prototypes.

        Args:
            image: float32 [N, 3, H, W], RGB / 255; H and W multiples of 32.

        Returns:
            float32 [N * 100, 6]: class, score, x0, y0, x1, y1 in input pixels, image by image, best first; int32 [N], 100
            each; float32 [N * 100, P]: mask embeddings; float32 [N, P, H / 4, W / 4]: prototypes. The mask of a row is
            where embedding . prototypes, enlarged to the image, is above 0.
        """
        objects, embeddings, prototypes = self._objects(image)
        height, width = image.shape[2:]
        rows = objects * paddle.to_tensor([1.0, 1.0, width, height, width, height], dtype="float32")
        return rows.flatten(0, 1), _counts(objects), embeddings.flatten(0, 1), prototypes

    def training_outputs(self, image: paddle.Tensor, denoising: Denoising | None = None) -> TrainingOutputs:
        """What all stages predict; for the loss.

        Args:
            image: float32 [N, 3, H, W], RGB / 255; H and W multiples of 32.
            denoising: queries made from known objects.
        """
        return self.transformer.all_stages(*self._features(image), denoising)

    def loss(
        self, inputs: dict[str, paddle.Tensor], targets: dict[str, paddle.Tensor], **options: Any
    ) -> dict[str, paddle.Tensor]:
        """The training loss of a batch; see `InstanceNetwork.loss`, and `mask_rtdetr_loss` for the options."""
        return mask_rtdetr_loss(self, inputs, targets, **options)

    def paddlex_program(self) -> tuple[nn.Layer, list[Any]]:
        """See `InstanceNetwork.paddlex_program`; any batch, fixed input size."""
        height, width = self.input_size.hw
        spec = {
            "image": InputSpec([None, 3, height, width], "float32", "image"),
            "im_shape": InputSpec([None, 2], "float32", "im_shape"),
            "scale_factor": InputSpec([None, 2], "float32", "scale_factor"),
        }
        return _PaddleX(self), [spec]

    def lean_program(self) -> tuple[nn.Layer, list[Any]]:
        """See `InstanceNetwork.lean_program`; any batch, fixed input size."""
        height, width = self.input_size.hw
        return _Lean(self), [InputSpec([None, 3, height, width], "float32", "image")]

    def _objects(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Boxes in [0, 1] with class and score, mask embeddings, prototypes; see `best_objects`."""
        maps, prototypes = self._features(image)
        return *best_objects(self.transformer(maps, prototypes), keep=KEEP), prototypes

    def _features(self, image: paddle.Tensor) -> tuple[list[paddle.Tensor], paddle.Tensor]:
        height, width = image.shape[2:]
        if height % COARSEST_STRIDE or width % COARSEST_STRIDE:
            raise ModelError(
                f"Mask-RT-DETR takes images whose height and width are multiples of {COARSEST_STRIDE}, got {height} x "
                f"{width}; resize them to {self.input_size}, as in its preprocessing"
            )
        return self.neck(self.backbone(image))


def build_mask_rtdetr_s(num_classes: int = 80) -> MaskRTDETR:
    """Mask-RT-DETR-S: 14.7 M numbers, 640 x 640 input."""
    return build_mask_rtdetr(SIZES["S"], num_classes, attended=1, expansion=0.5, mask_channels=(64, 32), backbone_lr_mult=0.1)


def build_mask_rtdetr_m(num_classes: int = 80) -> MaskRTDETR:
    """Mask-RT-DETR-M: 18.8 M numbers, 640 x 640 input."""
    return build_mask_rtdetr(SIZES["M"], num_classes, attended=1, expansion=0.5, backbone_lr_mult=0.1)


def build_mask_rtdetr_l(num_classes: int = 80) -> MaskRTDETR:
    """Mask-RT-DETR-L: 32.9 M numbers, 640 x 640 input; the only one with 32 prototypes."""
    return build_mask_rtdetr(SIZES["L"], num_classes, prototypes=32, backbone_lr_mult=0.05)


def build_mask_rtdetr_x(num_classes: int = 80) -> MaskRTDETR:
    """Mask-RT-DETR-X: 68.8 M numbers, 640 x 640 input."""
    return build_mask_rtdetr(
        SIZES["X"],
        num_classes,
        channels=384,
        encoder_feedforward=2048,
        mask_channels=(128, 128),
        backbone_lr_mult=0.01,
    )


def build_mask_rtdetr_h(num_classes: int = 80) -> MaskRTDETR:
    """Mask-RT-DETR-H: 130 M numbers, 640 x 640 input."""
    return build_mask_rtdetr(
        SIZES["H"],
        num_classes,
        channels=512,
        attention_layers=2,
        encoder_feedforward=2048,
        mask_channels=(256, 128),
        backbone_lr_mult=0.01,
    )


def build_mask_rtdetr(
    backbone: HGNetV2Size,
    num_classes: int,
    *,
    channels: int = 256,
    decoder_channels: int = 256,
    attended: int = 2,
    attention_layers: int = 1,
    encoder_feedforward: int = 1024,
    decoder_feedforward: int = 1024,
    expansion: float = 1.0,
    mask_channels: tuple[int, int] = (64, 64),
    prototypes: int = 128,
    num_queries: int = 300,
    input_size: int = 640,
    backbone_lr_mult: float = 1.0,
) -> MaskRTDETR:
    """A Mask-RT-DETR of any width and depth.

    Args:
        backbone: its size.
        num_classes: without background.
        channels: of the neck, a multiple of 8.
        decoder_channels: of the queries, a multiple of 8.
        attended: which of the strides 8, 16, 32 the neck's attention works on: 0, 1 or 2.
        attention_layers: of the neck.
        encoder_feedforward: channels inside the layers of the neck's attention.
        decoder_feedforward: channels inside the layers of the decoder.
        expansion: width of the neck's blocks as a share of `channels`.
        mask_channels: of the mask branch, before and after its levels are added up.
        prototypes: mask prototypes.
        num_queries: objects that are looked for; no more than there are places on the three maps.
        input_size: side of the square input it is meant for, a multiple of 32. Export uses it; weights do not depend
            on it.
        backbone_lr_mult: factor on the learning rate of the backbone's convolutions.

    Raises:
        ModelError: input_size is not a positive multiple of 32, or too small for the queries; or num_classes is less
            than 1.
    """
    if input_size < COARSEST_STRIDE or input_size % COARSEST_STRIDE:
        raise ModelError(f"Mask-RT-DETR needs an input side that is a multiple of {COARSEST_STRIDE}, got {input_size}")
    places = sum((input_size // stride) ** 2 for stride in (8, 16, 32))
    if places < num_queries:
        raise ModelError(
            f"an input of {input_size} has {places} places on the three maps, not enough for {num_queries} queries; "
            "choose a larger input_size or a smaller num_queries"
        )
    if num_classes < 1:
        raise ModelError(f"Mask-RT-DETR needs at least one class, got num_classes={num_classes}")
    body = HGNetV2(backbone, lr_mult=backbone_lr_mult)
    transformer = QueryTransformer(
        channels,
        channels=decoder_channels,
        num_classes=num_classes,
        num_queries=num_queries,
        prototypes=prototypes,
        feedforward=decoder_feedforward,
    )
    neck = MaskHybridEncoder(
        body.channels_out,
        channels=channels,
        attended=attended,
        attention_layers=attention_layers,
        feedforward=encoder_feedforward,
        expansion=expansion,
        mask_channels=mask_channels,
        prototypes=prototypes,
    )
    return MaskRTDETR(body, transformer, neck, input_size=Size(height=input_size, width=input_size))


def _counts(objects: paddle.Tensor) -> paddle.Tensor:
    """How many of each image have a class, which all have: [N, K, 6] -> int32 [N], K each."""
    return (objects[:, :, 0] > -1).astype("int32").sum(1, dtype="int32")


class _PaddleX(nn.Layer):
    """`forward` with its outputs in the order that PaddleX relies on."""

    def __init__(self, model: MaskRTDETR) -> None:
        super().__init__()
        self.model = deployed_copy(model)
        self.eval()

    def forward(self, inputs: dict[str, paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        found = self.model(inputs)
        return found["bbox"], found["bbox_num"], found["mask"]


class _Lean(nn.Layer):
    """`forward_lean` as a forward, which is what exporting needs."""

    def __init__(self, model: MaskRTDETR) -> None:
        super().__init__()
        self.model = deployed_copy(model)
        self.eval()

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        return self.model.forward_lean(image)
