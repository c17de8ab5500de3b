"""PP-YOLOE_seg: one-stage instance segmentation with anchor-free boxes and mask prototypes.

Paper: Xu et al., "PP-YOLOE: An evolved version of YOLO", 2022 (https://arxiv.org/abs/2203.16250); the mask branch
follows YOLACT (Bolya et al., 2019). Code: PaddleDetection, ppdet/modeling/architectures/ppyoloe.py and the files named
in our ppyoloe_seg_*.py, Apache-2.0.
Changed: any input size that is a multiple of 32 and any number of prototypes; a lean forward that stops at
low-resolution numbers and takes any batch size; the rest is said at the top of each file. Parameter names and shapes
are those of published weights.
"""

from __future__ import annotations

from typing import Any

import paddle
from paddle import nn
from paddle.static import InputSpec

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.backbones.cspresnet import CSPResNet
from rayseg.models.blocks.boxes import boxes_from_distances
from rayseg.models.blocks.rep_vgg import deployed_copy
from rayseg.models.instance.ppyoloe_seg_finish import Nms, masks_of_one_image
from rayseg.models.instance.ppyoloe_seg_head import PPYOLOESegHead
from rayseg.models.instance.ppyoloe_seg_loss import LossWeights, ppyoloe_seg_loss
from rayseg.models.instance.ppyoloe_seg_neck import CSPPAN
from rayseg.models.network import InstanceNetwork
from rayseg.models.preprocess import Preprocess

COARSEST_STRIDE = 32


class PPYOLOESeg(InstanceNetwork):
    """Backbone, neck and head of PP-YOLOE_seg, with its loss.

    Built by `build_ppyoloe_seg`; the arguments are the parts. `set_epoch` chooses how anchors are assigned in training.
    """

    family = "ppyoloe_seg"
    arch = "PPYOLOE"
    min_subgraph_size = 3

    def __init__(
        self,
        backbone: CSPResNet,
        neck: CSPPAN,
        head: PPYOLOESegHead,
        *,
        input_size: Size,
        nms: Nms,
        loss_weights: LossWeights,
        atss_epochs: int,
        truncate_size: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.yolo_head = head
        self.num_classes = head.num_classes
        self.input_size = input_size
        self.preprocess = Preprocess(resize=input_size, mean=(0.0,) * 3, std=(1.0,) * 3, interpolation="cubic")
        self.nms = nms
        self.loss_weights = loss_weights
        self.atss_epochs = atss_epochs
        self.truncate_size = truncate_size
        self.epoch = 0

    def forward(self, inputs: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Segment one image, with the inputs and outputs of PaddleX's exported programs.

        Args:
            inputs: `image` float32 [1, 3, H, W], RGB / 255; `im_shape` float32 [1, 2], height and width after resizing;
                `scale_factor` float32 [1, 2], resized / original.

        Returns:
            `bbox` float32 [M, 6]: class, score, x0, y0, x1, y1 in original pixels, not clipped; `bbox_num` int32 [1]:
            M; `mask` float32 [M, H0, W0] of zeros and ones. When nothing is found, one row of zeros with an empty mask.

        Raises:
            ModelError: for more than one image, since masks of several sizes do not fit one tensor.
        """
        image, im_shape, scale_factor = inputs["image"], inputs["im_shape"], inputs["scale_factor"]
        if image.shape[0] != 1:
            raise ModelError(
                f"PP-YOLOE_seg makes full-size masks for one image at a time, got a batch of {image.shape[0]}. "
                "Run the images one by one, or use forward_lean, which takes any batch."
            )
        rows, count, coefficients, prototypes = self.forward_lean(image)
        found = count.sum().clip(min=1)
        rows = paddle.concat([rows, paddle.zeros([1, 6])])[:found]
        coefficients = paddle.concat([coefficients, paddle.zeros([1, self.yolo_head.num_protos])])[:found]
        masks = masks_of_one_image(
            rows,
            coefficients,
            prototypes[0],
            im_shape[0],
            scale_factor[0],
            input_hw=(image.shape[2], image.shape[3]),
            truncate_size=self.truncate_size,
        )
        to_original = scale_factor[0].flip(0).tile([2])
        bbox = paddle.concat([rows[:, :2], rows[:, 2:] / to_original], axis=1)
        return {"bbox": bbox, "bbox_num": count.clip(min=1), "mask": masks}

    def forward_lean(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Find the objects of any number of images and leave the masks as prototypes.

        Args:
            image: float32 [N, 3, H, W], RGB / 255; H and W multiples of 32.

        Returns:
            float32 [M, 6]: class, score, x0, y0, x1, y1 in input pixels, image by image; int32 [N]: rows of each image;
            float32 [M, P]: coefficients of the rows; float32 [N, P, H / 4, W / 4]: prototypes. The mask of a row is
            sigmoid(coefficients . prototypes) inside its box. M may be 0.
        """
        scores, distances, coefficients, prototypes, cells, strides = self.predictions(image)
        boxes = boxes_from_distances(cells, distances) * strides
        rows, index, count = self.nms(boxes, scores)
        flat = coefficients.transpose([0, 2, 1]).reshape([-1, self.yolo_head.num_protos])
        return rows, count, paddle.gather(flat, index), prototypes

    def predictions(self, image: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """What the head predicts for every anchor, decoded; see `PPYOLOESegHead.forward`."""
        return self.yolo_head(self.neck(self.backbone(image)))

    def loss(
        self, inputs: dict[str, paddle.Tensor], targets: dict[str, paddle.Tensor], *, box_frame: Size | None = None
    ) -> dict[str, paddle.Tensor]:
        """The training loss of a batch.

        Args:
            inputs: `image` float32 [N, 3, H, W], RGB / 255; other keys are ignored.
            targets: padded to the G objects of the fullest image, G may be 0:
                `gt_bbox` float32 [N, G, 4], xyxy in pixels of `image`, zeros for padding;
                `gt_class` int64 [N, G, 1], 0 for padding;
                `pad_gt_mask` float32 [N, G, 1], 1 for an object, 0 for padding;
                `gt_segm` uint8, bool or float32 [N, G, h, w], 0 or 1, at the size of `image` or at a quarter of it
                (then every fourth row and column, which is all the loss looks at, in a sixteenth of the memory).
            box_frame: the size `gt_bbox` is divided by before it is laid over the prototypes; the true size of `image`
                unless a test wants the reference's numbers for a frame that does not match.

        Returns:
            Scalars `loss` (the total), `loss_cls`, `loss_iou`, `loss_dfl`, `loss_mask`, and `loss_l1`, only reported.
        """
        image = inputs["image"]
        return ppyoloe_seg_loss(
            self.yolo_head,
            self.yolo_head.raw(self.neck(self.backbone(image))),
            targets,
            input_size=box_frame or Size(height=image.shape[2], width=image.shape[3]),
            use_atss=self.epoch < self.atss_epochs,
            weights=self.loss_weights,
        )

    def set_epoch(self, epoch: int) -> None:
        """Tell the loss which epoch it is, counted from 0: the first `atss_epochs` assign anchors by position."""
        self.epoch = epoch

    def paddlex_program(self) -> tuple[nn.Layer, list[Any]]:
        """Batch 1, fixed input size; a fused copy."""
        height, width = self.input_size.hw
        spec = {
            "image": InputSpec([1, 3, height, width], "float32", "image"),
            "im_shape": InputSpec([1, 2], "float32", "im_shape"),
            "scale_factor": InputSpec([1, 2], "float32", "scale_factor"),
        }
        return _PaddleX(deployed_copy(self)), [spec]

    def lean_program(self) -> tuple[nn.Layer, list[Any]]:
        """`forward_lean` for any batch, fixed input size; a fused copy."""
        height, width = self.input_size.hw
        return _Lean(deployed_copy(self)), [InputSpec([None, 3, height, width], "float32", "image")]


def build_ppyoloe_seg_s(num_classes: int = 80, *, truncate_size: bool = False) -> PPYOLOESeg:
    """PP-YOLOE_seg-S: 9.0 M numbers, 640 x 640 input.

    Args:
        num_classes: without background.
        truncate_size: give masks the size the reference gives them, a column or row short for some images.
    """
    return build_ppyoloe_seg(num_classes, width_mult=0.5, depth_mult=0.33, truncate_size=truncate_size)


def build_ppyoloe_seg(
    num_classes: int,
    *,
    width_mult: float,
    depth_mult: float,
    input_size: int = 640,
    num_protos: int = 32,
    proto_channels: int | None = None,
    nms: Nms | None = None,
    loss_weights: LossWeights | None = None,
    atss_epochs: int = 0,
    truncate_size: bool = False,
) -> PPYOLOESeg:
    """A PP-YOLOE_seg of any width, depth and input size.

    Args:
        num_classes: without background.
        width_mult: factor on all channels: 0.5 is S; 0.25 gives about 2.3 M numbers, 9 MB.
        depth_mult: factor on the number of blocks: 0.33 is S.
        input_size: side of the square input it is meant for, a multiple of 32. Export uses it; weights do not depend
            on it.
        num_protos: mask prototypes.
        proto_channels: inside the prototype branch; 256 * width_mult unless given.
        nms: how boxes are selected.
        loss_weights: of the terms.
        atss_epochs: first epochs that assign anchors by position. The published recipe, which starts from detection
            weights, has none; from scratch a few help.
        truncate_size: see `build_ppyoloe_seg_s`.

    Raises:
        ModelError: input_size is not a positive multiple of 32, or num_classes is less than 1.
    """
    if input_size < COARSEST_STRIDE or input_size % COARSEST_STRIDE:
        raise ModelError(f"PP-YOLOE_seg needs an input side that is a multiple of {COARSEST_STRIDE}, got {input_size}.")
    if num_classes < 1:
        raise ModelError(f"PP-YOLOE_seg needs at least one class, got num_classes={num_classes}.")
    backbone = CSPResNet(width_mult=width_mult, depth_mult=depth_mult)
    neck = CSPPAN(backbone.channels_out, width_mult=width_mult, depth_mult=depth_mult)
    head = PPYOLOESegHead(
        neck.channels_out,
        num_classes=num_classes,
        num_protos=num_protos,
        proto_channels=proto_channels or int(256 * width_mult),
    )
    return PPYOLOESeg(
        backbone,
        neck,
        head,
        input_size=Size(height=input_size, width=input_size),
        nms=nms or Nms(),
        loss_weights=loss_weights or LossWeights(),
        atss_epochs=atss_epochs,
        truncate_size=truncate_size,
    )


class _PaddleX(nn.Layer):
    """`forward` with its outputs in the order that PaddleX relies on."""

    def __init__(self, model: PPYOLOESeg) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, inputs: dict[str, paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        found = self.model(inputs)
        return found["bbox"], found["bbox_num"], found["mask"]


class _Lean(nn.Layer):
    """`forward_lean` as a forward, which is what exporting needs."""

    def __init__(self, model: PPYOLOESeg) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, image: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        return self.model.forward_lean(image)
