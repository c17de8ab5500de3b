"""Mask R-CNN: proposals, then for each a class, a box and a small mask.

Papers: He et al., "Mask R-CNN", ICCV 2017 (https://arxiv.org/abs/1703.06870); Ren et al., "Faster R-CNN", NeurIPS 2015;
Lin et al., "Feature Pyramid Networks", CVPR 2017. Code: PaddleDetection, ppdet/modeling/architectures/mask_rcnn.py and
the files named in our rcnn_*.py, Apache-2.0. Parameter names and shapes are those of published weights.
Changed: both exported programs take any batch, without loops or branches (the original's, exported with Paddle 3.3,
fails with more than one image); RoIAlign is aligned, see blocks/roi_align.py; the row that stands for "nothing found"
has an empty mask. The rest is said at the top of each file.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import paddle
from paddle import nn
from paddle.static import InputSpec

from rayseg.errors import ModelError
from rayseg.geometry import Size
from rayseg.models.backbones.resnet import Res5Head, ResNet
from rayseg.models.blocks.anchors import AnchorGenerator
from rayseg.models.blocks.fpn import FPN
from rayseg.models.blocks.roi_align import RoIAlign
from rayseg.models.instance.rcnn_cascade_head import CascadeHead
from rayseg.models.instance.rcnn_detect import PLACEHOLDER, in_original_pixels, paste_masks, select, with_placeholders
from rayseg.models.instance.rcnn_heads import BBoxHead, TwoFCHead
from rayseg.models.instance.rcnn_mask_head import MaskHead
from rayseg.models.instance.rpn import ProposalLimits, RPNHead
from rayseg.models.network import InstanceNetwork
from rayseg.models.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocess

RATIOS = (0.5, 1.0, 2.0)
"""Height / width of the anchors."""
SIDES = (32, 64, 128, 256, 512)
"""Of the anchors in input pixels; in a pyramid one for each level."""


class MaskRCNN(InstanceNetwork):
    """Backbone, neck and heads of Mask R-CNN.

    Built by the functions below; the arguments are the parts. `neck` is None where one map is enough.
    """

    family: ClassVar[str] = "rcnn"
    arch: ClassVar[str] = "RCNN"
    min_subgraph_size: ClassVar[int] = 40

    def __init__(
        self, backbone: ResNet, neck: FPN | None, rpn_head: RPNHead, bbox_head: BBoxHead | CascadeHead, mask_head: MaskHead
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn_head = rpn_head
        self.bbox_head = bbox_head
        self.mask_head = mask_head
        self.num_classes = mask_head.num_classes
        self.preprocess = _preprocess(pad_stride=None if neck is None else 32)

    def forward(self, inputs: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Segment, with the inputs and outputs of PaddleX's exported programs, for any number of images.

        Args:
            inputs: see `InstanceNetwork.forward`; H and W are any.

        Returns:
            `bbox` float32 [M, 6]: class, score, x0, y0, x1, y1 in original pixels, clipped; class -1 for a box that
            clipping emptied. `bbox_num` int32 [N]; an image where nothing is found has one row, class 0, score 0.
            `mask` int32 [M, H0, W0], the size of the largest original image: 1 for the object, 0 for the rest of its
            image, -1 beyond it.
        """
        im_shape, scale_factor = inputs["im_shape"], inputs["scale_factor"]
        features = self.features(inputs["image"])
        rows, counts = with_placeholders(*self.detect(features, im_shape))
        probabilities = self.masks(features, rows, counts) * (rows[:, 1:2] > 0).astype("float32").unsqueeze(2)
        bbox, sizes = in_original_pixels(rows, counts, im_shape, scale_factor)
        return {"bbox": bbox, "bbox_num": counts, "mask": paste_masks(probabilities, bbox[:, 2:], sizes)}

    def forward_lean(self, image: paddle.Tensor, im_shape: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        """Find the objects of any number of images and leave the masks small.

        Args:
            image: float32 [N, 3, H, W], normalised RGB, zero-padded at the right and bottom.
            im_shape: float32 [N, 2], height and width of each image in it, without padding. Boxes are clipped to it
                before they compete, so it cannot be left to those who read the outputs.

        Returns:
            float32 [M, 6]: class, score, x0, y0, x1, y1 in input pixels, clipped to the image; int32 [N]: rows of each
            image; float32 [M, s, s]: probabilities inside the box. M may be 0.
        """
        features = self.features(image)
        rows, counts = self.detect(features, im_shape)
        # One more row, of the last image, is cut off again: operators do not take nothing.
        placeholder = paddle.to_tensor([PLACEHOLDER])
        padded_counts = paddle.concat([counts[:-1], counts[-1:] + 1])
        probabilities = self.masks(features, paddle.concat([rows, placeholder]), padded_counts)
        return rows, counts, probabilities[:-1]

    def features(self, image: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps the heads read, finest first: float32 [N, 3, H, W] -> [N, C, h, w] each."""
        maps = self.backbone(image)
        return maps if self.neck is None else self.neck(maps)

    def detect(self, features: list[paddle.Tensor], im_shape: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        """Objects of every image, without masks; see `select`."""
        rois, counts = self.rpn_head(features, im_shape)
        candidates = self.bbox_head.candidates(features, rois, counts, im_shape)
        return select(candidates, counts, im_shape, self.bbox_head.last_weights)

    def masks(self, features: list[paddle.Tensor], rows: paddle.Tensor, counts: paddle.Tensor) -> paddle.Tensor:
        """Masks of objects, each of its class.

        Args:
            rows: float32 [M, 6] as `detect` gives them; M >= 1.
            counts: int32 [N], rows of each image.

        Returns:
            float32 [M, s, s], probabilities.
        """
        found = self.mask_head.features(features, rows[:, 2:], counts)
        if self.mask_head.share_box_features:
            found = self.bbox_head.head(found)
        return self.mask_head(found, rows[:, 0].astype("int64"))

    def loss(self, inputs: dict[str, paddle.Tensor], targets: dict[str, Any], **options: Any) -> dict[str, paddle.Tensor]:
        """See `InstanceNetwork.loss`; `options` are those of `rcnn_loss.mask_rcnn_loss`."""
        from rayseg.models.instance.rcnn_loss import mask_rcnn_loss

        return mask_rcnn_loss(self, inputs, targets, **options)

    def paddlex_program(self) -> tuple[nn.Layer, list[Any]]:
        """See `InstanceNetwork`; any batch, any size."""
        spec = {
            "image": InputSpec([None, 3, None, None], "float32", "image"),
            "im_shape": InputSpec([None, 2], "float32", "im_shape"),
            "scale_factor": InputSpec([None, 2], "float32", "scale_factor"),
        }
        return _PaddleX(self), [spec]

    def lean_program(self) -> tuple[nn.Layer, list[Any]]:
        """See `InstanceNetwork` and `forward_lean`; any batch, any size."""
        image = InputSpec([None, 3, None, None], "float32", "image")
        return _Lean(self), [image, InputSpec([None, 2], "float32", "im_shape")]


def build_mask_rcnn_c4(num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """MaskRCNN-ResNet50: one map at stride 16; the last stage of the backbone runs on every region.

    Args:
        num_classes: without background.
        aligned: see `RoIAlign`.
    """
    check_classes(num_classes)
    backbone = ResNet(50, return_idx=(2,))
    channels, stride = backbone.channels_out[0], backbone.strides[0]
    rpn_head = RPNHead(
        channels,
        AnchorGenerator([SIDES], RATIOS, [stride]),
        train_limits=ProposalLimits(before_nms=12000, after_nms=2000, keep=2000),
        test_limits=ProposalLimits(before_nms=6000, after_nms=1000, keep=1000),
    )
    res5 = Res5Head()
    return MaskRCNN(
        backbone,
        None,
        rpn_head,
        BBoxHead(res5, RoIAlign(14, [stride], aligned=aligned), num_classes=num_classes),
        MaskHead(
            res5.channels_out,
            256,
            convs=0,
            roi_extractor=RoIAlign(14, [stride], aligned=aligned),
            num_classes=num_classes,
            share_box_features=True,
        ),
    )


def build_mask_rcnn_fpn(backbone: ResNet, num_classes: int = 80, *, aligned: bool = True) -> MaskRCNN:
    """Mask R-CNN on a pyramid of all four maps of a backbone.

    Args:
        backbone: which one is all that the published models differ in.
        num_classes: without background.
        aligned: see `RoIAlign`.
    """
    check_classes(num_classes)
    neck = FPN(backbone.channels_out)
    head = TwoFCHead(neck.channels_out[0], 1024, side=7)
    return MaskRCNN(
        backbone,
        neck,
        pyramid_rpn(neck, train_keep=1000),
        BBoxHead(head, RoIAlign(7, neck.strides[:-1], aligned=aligned), num_classes=num_classes),
        pyramid_mask_head(neck, num_classes, aligned=aligned),
    )


def pyramid_rpn(neck: FPN, *, train_keep: int) -> RPNHead:
    """The proposal network of a pyramid; `train_keep` proposals an image are trained on."""
    return RPNHead(
        neck.channels_out[0],
        AnchorGenerator([(side,) for side in SIDES], RATIOS, neck.strides),
        train_limits=ProposalLimits(before_nms=2000, after_nms=2000, keep=train_keep),
        test_limits=ProposalLimits(before_nms=1000, after_nms=1000, keep=1000),
    )


def pyramid_mask_head(neck: FPN, num_classes: int, *, aligned: bool) -> MaskHead:
    """The mask head of a pyramid; regions do not read its coarsest map."""
    return MaskHead(
        neck.channels_out[0],
        256,
        convs=4,
        roi_extractor=RoIAlign(14, neck.strides[:-1], aligned=aligned),
        num_classes=num_classes,
        share_box_features=False,
    )


def check_classes(num_classes: int) -> None:
    """Raise ModelError unless there is at least one class."""
    if num_classes < 1:
        raise ModelError(f"Mask R-CNN needs at least one class, got num_classes={num_classes}.")


def _preprocess(*, pad_stride: int | None) -> Preprocess:
    return Preprocess(
        resize=Size(height=800, width=1333),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        interpolation="cubic",
        keep_ratio=True,
        pad_stride=pad_stride,
    )


class _PaddleX(nn.Layer):
    """A copy whose forward gives the outputs in the order that PaddleX relies on."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.eval()

    def forward(self, inputs: dict[str, paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        found = self.network(inputs)
        return found["bbox"], found["bbox_num"], found["mask"]


class _Lean(nn.Layer):
    """A copy with `forward_lean` as its forward, which is what exporting needs."""

    def __init__(self, network: MaskRCNN) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.eval()

    def forward(self, image: paddle.Tensor, im_shape: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        return self.network.forward_lean(image, im_shape)
