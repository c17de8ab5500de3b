"""The neck of Mask-RT-DETR: attention on one map, features down and up again, and mask prototypes at stride 4.

Paper: Lv et al., "DETRs Beat YOLOs on Real-time Object Detection", 2023 (https://arxiv.org/abs/2304.08069), section 4.2.
Code: PaddleDetection, ppdet/modeling/transformers/hybrid_encoder.py, Apache-2.0; names and shapes of parameters are
those of published weights.
Changed: the position of a token is computed from its row and column whatever the shape of the map; the original takes
width and height in an order that is right for squares only (where the numbers are the same). Maps are doubled to an
explicit size, because exported programs carry a scale factor as a list of doubles, which other engines misread.
Loops count, because Paddle's tracing does not know `zip(strict=True)`.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import ConvBN, no_weight_decay
from rayseg.models.blocks.rep_vgg import RepVgg
from rayseg.models.blocks.transformer import SelfAttention, linear

BLOCKS = 3
HEADS = 8
TEMPERATURE = 10_000.0
"""Ratio of the longest to the shortest wave of a position."""


class MaskHybridEncoder(nn.Layer):
    """Maps at strides 4, 8, 16, 32 in; maps at strides 8, 16, 32 and prototypes at stride 4 out.

    Args:
        channels_in: of the four maps.
        channels: of the three maps that leave.
        attended: which of the strides 8, 16, 32 gets the attention: 0, 1 or 2.
        attention_layers: on that map.
        feedforward: channels inside those layers.
        expansion: width of the blocks as a share of `channels`.
        mask_channels: while the levels are added up, and after.
        prototypes: mask prototypes.
    """

    def __init__(
        self,
        channels_in: list[int],
        *,
        channels: int,
        attended: int,
        attention_layers: int,
        feedforward: int,
        expansion: float,
        mask_channels: tuple[int, int],
        prototypes: int,
    ) -> None:
        super().__init__()
        finest, *coarser = channels_in
        self.attended = attended
        self.input_proj = nn.LayerList(
            [nn.Sequential(nn.Conv2D(c, channels, 1, bias_attr=False), _batch_norm(channels)) for c in coarser]
        )
        self.encoder = nn.LayerList([_Encoder(channels, feedforward, attention_layers)])
        joints = len(coarser) - 1
        inner = int(channels * expansion)
        self.lateral_convs = nn.LayerList([ConvBN(channels, channels, 1, act=F.silu) for _ in range(joints)])
        self.fpn_blocks = nn.LayerList([_CSPRep(2 * channels, inner, channels) for _ in range(joints)])
        self.downsample_convs = nn.LayerList([ConvBN(channels, channels, 3, stride=2, act=F.silu) for _ in range(joints)])
        self.pan_blocks = nn.LayerList([_CSPRep(2 * channels, inner, channels) for _ in range(joints)])
        self.mask_feat_head = _MaskFeatures(channels, *mask_channels, levels=len(coarser))
        self.enc_mask_lateral = ConvBN(finest, mask_channels[1], 3, act=F.silu)
        self.enc_mask_output = nn.Sequential(
            ConvBN(mask_channels[1], mask_channels[1], 3, act=F.silu), nn.Conv2D(mask_channels[1], prototypes, 1)
        )

    def forward(self, maps: list[paddle.Tensor]) -> tuple[list[paddle.Tensor], paddle.Tensor]:
        """Four maps, finest first -> three maps, finest first, and prototypes [N, P, H / 4, W / 4]."""
        finest, coarser = maps[0], maps[1:]
        projected = [layer(coarser[level]) for level, layer in enumerate(self.input_proj)]
        projected[self.attended] = self._attend(projected[self.attended])
        outs = self._up(self._down(projected))
        mask_features = _double(self.mask_feat_head(outs)) + self.enc_mask_lateral(finest)
        return outs, self.enc_mask_output(mask_features)

    def _attend(self, x: paddle.Tensor) -> paddle.Tensor:
        """Let all places of one map look at each other: [N, D, h, w] -> [N, D, h, w]."""
        channels, height, width = x.shape[1:]
        tokens = self.encoder[0](x.flatten(2).transpose([0, 2, 1]), sine_positions(height, width, channels))
        # In this order: Paddle's oneDNN passes join a reshape that follows a transpose, and then mistake its shape.
        return tokens.reshape([-1, height, width, channels]).transpose([0, 3, 1, 2])

    def _down(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """From the coarsest map to the finest; finest first."""
        outs = [maps[-1]]
        for index, block in enumerate(self.fpn_blocks):
            outs[0] = self.lateral_convs[index](outs[0])
            above = F.interpolate(outs[0], size=[2 * side for side in outs[0].shape[2:]], mode="nearest")
            outs.insert(0, block(paddle.concat([above, maps[-2 - index]], axis=1)))
        return outs

    def _up(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """From the finest map to the coarsest; finest first."""
        outs = [maps[0]]
        for index, block in enumerate(self.pan_blocks):
            outs.append(block(paddle.concat([self.downsample_convs[index](outs[-1]), maps[index + 1]], axis=1)))
        return outs


class _Encoder(nn.Layer):
    """Layers of attention between the places of one map: [N, L, D] and their positions [1, L, D] -> [N, L, D]."""

    def __init__(self, channels: int, feedforward: int, count: int) -> None:
        super().__init__()
        self.layers = nn.LayerList([_EncoderLayer(channels, feedforward) for _ in range(count)])

    def forward(self, x: paddle.Tensor, positions: paddle.Tensor) -> paddle.Tensor:
        for layer in self.layers:
            x = layer(x, positions)
        return x


class _EncoderLayer(nn.Layer):
    """Self-attention, then two linear layers; each is added and the sum normalised."""

    def __init__(self, channels: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(channels, HEADS)
        self.linear1 = linear(channels, feedforward)
        self.linear2 = linear(feedforward, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)

    def forward(self, x: paddle.Tensor, positions: paddle.Tensor) -> paddle.Tensor:
        x = self.norm1(x + self.self_attn(x, positions))
        return self.norm2(x + self.linear2(F.gelu(self.linear1(x))))


def sine_positions(height: int, width: int, channels: int) -> paddle.Tensor:
    """Sine and cosine waves of the row, then of the column, of each place of a map, row by row.

    Returns:
        float32 [1, height * width, channels]; the waves have `channels / 4` lengths.
    """
    count = channels // 4
    speeds = 1.0 / TEMPERATURE ** (paddle.arange(count, dtype="float32") / count)
    rows = (paddle.arange(height, dtype="float32").unsqueeze(1) * speeds).unsqueeze(1).tile([1, width, 1])
    columns = (paddle.arange(width, dtype="float32").unsqueeze(1) * speeds).unsqueeze(0).tile([height, 1, 1])
    waves = [rows.sin(), rows.cos(), columns.sin(), columns.cos()]
    return paddle.concat(waves, axis=-1).reshape([1, height * width, channels])


class _CSPRep(nn.Layer):
    """Half of the paths pass three RepVGG blocks, half pass by; both are added up."""

    def __init__(self, channels_in: int, inner: int, channels_out: int) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels_in, inner, 1, act=F.silu)
        self.conv2 = ConvBN(channels_in, inner, 1, act=F.silu)
        self.bottlenecks = nn.Sequential(*[RepVgg(inner, act=F.silu, use_alpha=False) for _ in range(BLOCKS)])
        self.widen = inner != channels_out
        if self.widen:
            self.conv3 = ConvBN(inner, channels_out, 1, act=F.silu)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.bottlenecks(self.conv1(x)) + self.conv2(x)
        return self.conv3(y) if self.widen else y


class _MaskFeatures(nn.Layer):
    """All levels brought to the finest and added up: level k is convolved and doubled k times."""

    def __init__(self, channels_in: int, channels: int, channels_out: int, *, levels: int) -> None:
        super().__init__()
        self.scale_heads = nn.LayerList()
        for level in range(levels):
            steps: list[nn.Layer] = []
            for step in range(max(level, 1)):
                conv = ConvBN(channels if step else channels_in, channels, 3, act=F.silu)
                # The reference wraps every convolution in a sequence of one, hence the ".0" in the names.
                steps += [nn.Sequential(conv), _Double()] if level else [nn.Sequential(conv)]
            self.scale_heads.append(nn.Sequential(*steps))
        self.output_conv = ConvBN(channels, channels_out, 3, act=F.silu)

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        total = self.scale_heads[0](maps[0])
        for level in range(1, len(maps)):
            total = total + self.scale_heads[level](maps[level])
        return self.output_conv(total)


class _Double(nn.Layer):
    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return _double(x)


def _double(x: paddle.Tensor) -> paddle.Tensor:
    return F.interpolate(x, size=[2 * side for side in x.shape[2:]], mode="bilinear", align_corners=False)


def _batch_norm(channels: int) -> nn.BatchNorm2D:
    return nn.BatchNorm2D(channels, weight_attr=no_weight_decay(), bias_attr=no_weight_decay())
