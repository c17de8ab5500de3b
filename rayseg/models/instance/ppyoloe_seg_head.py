"""The head of PP-YOLOE_seg: class scores, box distributions, mask coefficients for every anchor, and mask prototypes.

Papers: Xu et al., "PP-YOLOE", 2022 (https://arxiv.org/abs/2203.16250); Li et al., "Generalized Focal Loss", 2020, for
boxes as distributions over distances; Bolya et al., "YOLACT", 2019, for masks as sums of prototypes.
Code: PaddleDetection, ppdet/modeling/heads/ppyoloe_ins_head.py, Apache-2.0.
Changed: one pass gives the raw maps that both the loss and the decoding start from; anchors are made from the maps at
hand, so nothing fixes the input size; fresh mask coefficients are near 0, so that training from scratch starts with
undecided masks instead of large wrong ones. What the numbers mean for an image (NMS, masks) is in
ppyoloe_seg_finish.py, the loss in ppyoloe_seg_loss.py.
"""

from __future__ import annotations

from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.attention import TaskAttention
from rayseg.models.blocks.conv_bn import ConvBN, normal_init

STRIDES = (32, 16, 8)
PRIOR_SCORE = 0.01


class RawOutputs(NamedTuple):
    """What the head computes before any decoding; A = 32 x 32, 16 x 16 and 8 x 8 pixel cells of the input, in this
    order.

    Attributes:
        scores: float32 [N, A, num_classes], probabilities.
        distributions: float32 [N, A, 4 * bins], logits over distances 0..bins-1 in strides; left, top, right, bottom.
        coefficients: float32 [N, A, P], weights of the prototypes in an anchor's mask.
        prototypes: float32 [N, P, H / 4, W / 4].
        points: float32 [A, 2], centres x, y in input pixels.
        strides: float32 [A, 1].
        level_sizes: number of anchors of each level; sums to A.
    """

    scores: paddle.Tensor
    distributions: paddle.Tensor
    coefficients: paddle.Tensor
    prototypes: paddle.Tensor
    points: paddle.Tensor
    strides: paddle.Tensor
    level_sizes: list[int]


class PPYOLOESegHead(nn.Layer):
    """Turn the three maps of the neck into predictions for every anchor.

    Args:
        channels: of the maps, coarsest first.
        num_classes: without background.
        num_protos: prototypes, and so coefficients of an anchor.
        proto_channels: inside the prototype branch.
        max_distance: largest distance from an anchor to a side of its box, in strides; there is one bin more.
    """

    def __init__(
        self, channels: list[int], *, num_classes: int, num_protos: int, proto_channels: int, max_distance: int = 16
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_protos = num_protos
        self.bins = max_distance + 1
        self.stem_cls = nn.LayerList([TaskAttention(c, act=F.silu) for c in channels])
        self.stem_reg = nn.LayerList([TaskAttention(c, act=F.silu) for c in channels])
        self.stem_ins = nn.LayerList([TaskAttention(c, act=F.silu) for c in channels])
        rare = -float(paddle.log(paddle.to_tensor((1 - PRIOR_SCORE) / PRIOR_SCORE)))
        self.pred_cls = nn.LayerList([_flat_start(c, num_classes, bias=rare) for c in channels])
        self.pred_reg = nn.LayerList([_flat_start(c, 4 * self.bins, bias=1.0) for c in channels])
        self.pred_ins = nn.LayerList(
            [nn.Conv2D(c, num_protos, 3, padding=1, weight_attr=normal_init(std=0.001)) for c in channels]
        )
        # Never trained: it takes the mean distance of a distribution. A layer because published weights hold it.
        self.proj_conv = nn.Conv2D(self.bins, 1, 1, bias_attr=False)
        self.proj_conv.weight.set_value(paddle.arange(self.bins, dtype="float32").reshape([1, self.bins, 1, 1]))
        self.proj_conv.weight.stop_gradient = True
        self.proto = Prototypes(channels[-1], proto_channels, num_protos)

    def forward(self, maps: list[paddle.Tensor]) -> tuple[paddle.Tensor, ...]:
        """Decode for inference, one level at a time.

        Returns:
            scores [N, num_classes, A]; distances left, top, right, bottom [N, A, 4] in strides; coefficients [N, P, A];
            prototypes [N, P, H / 4, W / 4]; anchor centres [A, 2] in strides; strides [A, 1].
        """
        prototypes = self.proto(maps[-1])
        scores, distances, coefficients = [], [], []
        for level, x in enumerate(maps):
            logits, distribution, coefficient = self._predict(level, x)
            scores.append(F.sigmoid(logits).flatten(2))
            distribution = distribution.flatten(2).reshape([0, 4, self.bins, -1]).transpose([0, 2, 3, 1])
            distances.append(self.proj_conv(F.softmax(distribution, axis=1)).squeeze(1))
            coefficients.append(coefficient.flatten(2))
        cells, strides = anchor_cells(maps)
        return (
            paddle.concat(scores, axis=-1),
            paddle.concat(distances, axis=1),
            paddle.concat(coefficients, axis=-1),
            prototypes,
            cells,
            strides,
        )

    def raw(self, maps: list[paddle.Tensor]) -> RawOutputs:
        """Undecoded outputs, for the loss."""
        prototypes = self.proto(maps[-1])
        scores, distributions, coefficients = [], [], []
        for level, x in enumerate(maps):
            logits, distribution, coefficient = self._predict(level, x)
            scores.append(_anchors_first(F.sigmoid(logits)))
            distributions.append(_anchors_first(distribution))
            coefficients.append(_anchors_first(coefficient))
        cells, strides = anchor_cells(maps)
        return RawOutputs(
            scores=paddle.concat(scores, axis=1),
            distributions=paddle.concat(distributions, axis=1),
            coefficients=paddle.concat(coefficients, axis=1),
            prototypes=prototypes,
            points=cells * strides,
            strides=strides,
            level_sizes=[int(x.shape[2] * x.shape[3]) for x in maps],
        )

    def mean_distances(self, distributions: paddle.Tensor) -> paddle.Tensor:
        """Expected distance of every distribution: logits [N, A, 4 * bins] -> [N, A, 4] in strides."""
        anchors = distributions.shape[1]
        weights = F.softmax(distributions.reshape([-1, anchors, 4, self.bins]))
        return self.proj_conv(weights.transpose([0, 3, 1, 2])).squeeze(1)

    def _predict(self, level: int, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        average = F.adaptive_avg_pool2d(x, (1, 1))
        logits = self.pred_cls[level](self.stem_cls[level](x, average) + x)
        distribution = self.pred_reg[level](self.stem_reg[level](x, average))
        coefficient = self.pred_ins[level](self.stem_ins[level](x, average) + x)
        return logits, distribution, coefficient


class Prototypes(nn.Layer):
    """The finest map at twice its size, as `num_protos` mask prototypes. [N, C, H, W] -> [N, P, 2H, 2W]."""

    def __init__(self, channels_in: int, channels: int, num_protos: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels_in, channels, 3, act=F.silu)
        self.upsample = nn.Conv2DTranspose(channels, channels, 2, stride=2)
        self.conv2 = ConvBN(channels, channels, 3, act=F.silu)
        self.conv3 = ConvBN(channels, num_protos, 1, act=F.silu)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.conv3(self.conv2(self.upsample(self.conv1(x))))


def anchor_cells(maps: list[paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Centres (x, y) of all cells in strides [A, 2], and the strides [A, 1]; row by row, coarsest level first."""
    cells, strides = [], []
    for level, stride in enumerate(STRIDES):
        height, width = maps[level].shape[2:]
        ys = paddle.arange(height, dtype="float32") + 0.5
        xs = paddle.arange(width, dtype="float32") + 0.5
        grid_y, grid_x = paddle.meshgrid(ys, xs)
        cells.append(paddle.stack([grid_x, grid_y], axis=-1).reshape([-1, 2]))
        strides.append(paddle.full([height * width, 1], float(stride), dtype="float32"))
    return paddle.concat(cells), paddle.concat(strides)


def _anchors_first(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, H, W] -> [N, H * W, C]."""
    return x.flatten(2).transpose([0, 2, 1])


def _flat_start(channels_in: int, channels_out: int, *, bias: float) -> nn.Conv2D:
    """A 3 x 3 convolution that at first gives the same value everywhere."""
    constant = nn.initializer.Constant
    return nn.Conv2D(
        channels_in,
        channels_out,
        3,
        padding=1,
        weight_attr=paddle.ParamAttr(initializer=constant(0.0)),
        bias_attr=paddle.ParamAttr(initializer=constant(bias)),
    )
