"""SOLOv2: instance segmentation without boxes; each cell of a grid makes the mask of the object centred in it.

Paper: Wang et al., "SOLOv2: Dynamic and Fast Instance Segmentation", NeurIPS 2020 (https://arxiv.org/abs/2003.10152).
Code: PaddleDetection, ppdet/modeling/architectures/solov2.py and the files named in our solov2_*.py, Apache-2.0.
Changed: the width of full-size masks follows the image's own factor of width, where the original uses that of height for
both and may be off by many pixels in long narrow images; a lean forward that stops at masks of a quarter of the size and
takes any batch. Parameter names and shapes are those of published weights.
"""

from __future__ import annotations

import copy
from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.static import InputSpec

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.backbones.resnet import ResNet
from rayseg.models.blocks.fpn import FPN
from rayseg.models.instance.solov2_head import GRIDS, SOLOv2Head, SOLOv2MaskHead
from rayseg.models.instance.solov2_loss import solov2_loss
from rayseg.models.instance.solov2_select import MASK_THRESHOLD, Found, MatrixNms, peaks_of, select
from rayseg.models.instance.solov2_targets import MASK_STRIDE
from rayseg.models.network import InstanceNetwork
from rayseg.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

SMALLEST_AREA = (8, 8, 16, 32, 32)
"""A mask must have more pixels, at a quarter of the size, one number a grid."""


class SOLOv2(InstanceNetwork):
    """Backbone, neck and the two heads of SOLOv2, with its loss.

    Built by `build_solov2`; the arguments are the parts.
    """

    family = "solov2"
    arch = "SOLOv2"
    min_subgraph_size = 60

    def __init__(self, backbone: ResNet, neck: FPN, head: SOLOv2Head, mask_head: SOLOv2MaskHead, *, nms: MatrixNms) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.solov2_head = head
        self.mask_head = mask_head
        self.num_classes = head.num_classes
        self.nms = nms
        self.preprocess = Preprocess(
            resize=Size(height=800, width=1333),
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            keep_ratio=True,
            pad_stride=32,
            normalize_first=True,
        )

    def forward(self, inputs: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Segment one image, with the inputs and outputs of PaddleX's exported programs.

        Args:
            inputs: `image` float32 [1, 3, H, W], normalised RGB; `im_shape` float32 [1, 2], height and width after
                resizing and before padding; `scale_factor` float32 [1, 2], resized / original.

        Returns:
            `segm` uint8 [M, H0, W0] of zeros and ones; `cate_label` int64 [M]; `cate_score` float32 [M], falling;
            `bbox_num` int64 [], M. When fewer than the most objects are found the last row is a made-up one of score 0
            without pixels, so M is never 0.

        Raises:
            ModelError: for more than one image, since masks of several sizes do not fit one tensor.
        """
        image, im_shape, scale_factor = inputs["image"], inputs["im_shape"][0], inputs["scale_factor"][0]
        if image.shape[0] != 1:
            raise ModelError(
                f"SOLOv2 makes full-size masks for one image at a time, got a batch of {image.shape[0]}. "
                "Run the images one by one, or use forward_lean, which takes any batch."
            )
        found = self.objects(image)
        scores = paddle.concat([found.scores, paddle.zeros([1])])[: self.nms.keep]
        classes = paddle.concat([found.classes, paddle.zeros([1], dtype="int64")])[: self.nms.keep]
        masks = paddle.concat([found.masks, found.masks.sum(0, keepdim=True) * 0.0])[: self.nms.keep]
        return {
            "bbox_num": paddle.shape(scores)[0].astype("int64"),
            "cate_label": classes,
            "cate_score": scores,
            "segm": _full_size(masks, im_shape, scale_factor),
        }

    def forward_lean(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Find the objects of any number of images.

        Args:
            image: float32 [N, 3, H, W], normalised RGB; H and W multiples of 4.

        Returns:
            float32 [M, 2]: class and score, image by image, the best first; int32 [N]: rows of each image; float32
            [M, H / 4, W / 4]: probability of each pixel. M may be 0.
        """
        found = self.objects(image)
        rows = paddle.stack([found.classes.astype("float32"), found.scores], axis=1)
        return rows, found.count, found.masks

    def objects(self, image: paddle.Tensor) -> Found:
        """What is found in the images, masks at a quarter of their size."""
        logits, kernels, features = self._maps(image)
        smallest = [paddle.full([side * side], SMALLEST_AREA[k], dtype="float32") for k, side in enumerate(GRIDS)]
        peaks = paddle.concat([peaks_of(x) for x in logits], axis=1)
        return select(peaks, _cells_last(kernels), features, paddle.concat(smallest), self.nms)

    def loss(self, inputs: dict[str, paddle.Tensor], targets: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """The training loss of a batch; see `InstanceNetwork.loss`.

        Args:
            inputs: `image` float32 [N, 3, H, W], sides multiples of 4; other keys are ignored.
            targets: see `InstanceNetwork.loss`.

        Returns:
            Scalars `loss` (the total), `loss_ins` (masks), `loss_cate` (classes).

        Raises:
            ModelError: masks that have neither the size of the image nor a quarter of it.
        """
        image = inputs["image"]
        size = Size(*image.shape[2:])
        given = tuple(targets["gt_segm"].shape[2:])
        quarter = (size.height // MASK_STRIDE, size.width // MASK_STRIDE)
        if given not in (size.hw, quarter):
            raise ModelError(f"gt_segm is {given}; masks for an input of {size.hw} are of that size or of {quarter}.")
        logits, kernels, features = self._maps(image)
        return solov2_loss(_cells_last(logits), _cells_last(kernels), features, targets, image=size, grids=GRIDS)

    def paddlex_program(self) -> tuple[nn.Layer, list[Any]]:
        """`forward` for any height and width, outputs in PaddleX's order; a copy."""
        spec = {
            "image": InputSpec([1, 3, None, None], "float32", "image"),
            "im_shape": InputSpec([1, 2], "float32", "im_shape"),
            "scale_factor": InputSpec([1, 2], "float32", "scale_factor"),
        }
        return _PaddleX(copy.deepcopy(self)), [spec]

    def lean_program(self) -> tuple[nn.Layer, list[Any]]:
        """`forward_lean` for any batch, height and width; a copy."""
        return _Lean(copy.deepcopy(self)), [InputSpec([None, 3, None, None], "float32", "image")]

    def _maps(self, image: paddle.Tensor) -> tuple[list[paddle.Tensor], list[paddle.Tensor], paddle.Tensor]:
        """Class logits and kernels of every grid, and the features kernels are applied to."""
        maps = self.neck(self.backbone(image))
        features = self.mask_head(maps)
        logits, kernels = self.solov2_head(maps)
        return logits, kernels, features


def build_solov2(num_classes: int = 80, *, head_channels: int = 512, nms: MatrixNms | None = None) -> SOLOv2:
    """SOLOv2 with ResNet-50 and a feature pyramid: 46.6 M numbers, sides up to 800 x 1333.

    Args:
        num_classes: without background.
        head_channels: inside the head, whose cost does not depend on the image: 150 billion multiplications at 512.
            A multiple of 32; the published weights have 512.
        nms: how objects are selected.

    Raises:
        ModelError: num_classes is less than 1.
    """
    if num_classes < 1:
        raise ModelError(f"SOLOv2 needs at least one class, got num_classes={num_classes}.")
    backbone = ResNet(50)
    neck = FPN(backbone.channels_out)
    channels = neck.channels_out[0]
    head = SOLOv2Head(channels, num_classes=num_classes, kernel_channels=256, channels=head_channels)
    return SOLOv2(backbone, neck, head, SOLOv2MaskHead(channels, channels=256), nms=nms or MatrixNms())


def _cells_last(maps: list[paddle.Tensor]) -> paddle.Tensor:
    """Maps [N, C, S, S] of all grids as rows [N, L, C]."""
    return paddle.concat([x.flatten(2).transpose([0, 2, 1]) for x in maps], axis=1)


def _full_size(masks: paddle.Tensor, im_shape: paddle.Tensor, scale_factor: paddle.Tensor) -> paddle.Tensor:
    """Probabilities float32 [M, h, w] at a quarter of the input -> uint8 [M, H0, W0] at the size of the image.

    They are enlarged to the input, cut to the part that shows the image, resized to its own size and compared, in this
    order.
    """
    masks = masks.unsqueeze(0)
    height, width = masks.shape[2] * MASK_STRIDE, masks.shape[3] * MASK_STRIDE
    masks = F.interpolate(masks, size=[height, width], mode="bilinear", align_corners=False)
    resized = im_shape.astype("int32")
    original = (im_shape / scale_factor + 0.5).astype("int32")
    masks = masks[:, :, : resized[0], : resized[1]]
    masks = F.interpolate(masks, size=[original[0], original[1]], mode="bilinear", align_corners=False)
    return (masks[0] > MASK_THRESHOLD).astype("uint8")


class _PaddleX(nn.Layer):
    """`forward` with its outputs in the order that PaddleX relies on."""

    def __init__(self, model: SOLOv2) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, inputs: dict[str, paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        found = self.model(inputs)
        return found["bbox_num"], found["cate_label"], found["cate_score"], found["segm"]


class _Lean(nn.Layer):
    """`forward_lean` as a forward, which is what exporting needs."""

    def __init__(self, model: SOLOv2) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        return self.model.forward_lean(image)
