"""SeaFormer's backbone: a small convolutional network whose coarse stages attend along rows and columns.

Paper: Q. Wan et al., "SeaFormer: Squeeze-enhanced Axial Transformer for Mobile Semantic Segmentation", ICLR 2023,
https://arxiv.org/abs/2301.13156.
Original code: https://github.com/fudan-zvg/SeaFormer (Apache-2.0). Parameter names are those of PaddleSeg's version
(https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: PaddleSeg draws fresh convolutions with deviation fan_out where the original says sqrt(2 / fan_out); this does as the
original.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.drop_path import DropPath, drop_path_rates
from rayseg.models.blocks.init import start_convolutions_by_fan_out
from rayseg.models.semantic.layers import ConvBN

DROP_PATH_RATE = 0.1
VALUE_RATIO = 2
"""Channels of a value, relative to those of its key."""
POSITIONS = 16
"""Length of the learnt tables of positions, whatever the size of the map."""


@dataclass(frozen=True)
class Conv:
    """One inverted residual block."""

    kernel: int
    """Side of its depthwise convolution."""
    expand: int
    """Channels inside, as a multiple of those that come in."""
    channels: int
    """That come out."""
    stride: int
    """1 or 2."""


@dataclass(frozen=True)
class Attention:
    """One stage of transformer blocks."""

    depth: int
    """Number of blocks."""
    key_channels: int
    """Of one head."""
    mlp_ratio: int
    """Channels inside the feed-forward part, as a multiple of those that come in."""


class SeaFormer(nn.Layer):
    """Maps of one image: the details at stride 8, then one behind each stage of attention.

    Args:
        stem_channels: of the first convolution.
        stages: convolutions of the five stages, at strides 4, 8, 16, 32 and 64.
        attention: of the last stages, as many as there are entries.
        heads: of every attention.
    """

    def __init__(
        self,
        *,
        stem_channels: int,
        stages: Sequence[Sequence[Conv]],
        attention: Sequence[Attention],
        heads: int,
    ) -> None:
        super().__init__()
        self.num_stages, self.first_attending = len(stages), len(stages) - len(attention)
        channels = stem_channels
        for index, convs in enumerate(stages, start=1):
            setattr(self, f"smb{index}", _ConvStage(channels, convs, with_stem=index == 1))
            channels = convs[-1].channels
        widths = [convs[-1].channels for convs in stages]
        for index, (settings, width) in enumerate(zip(attention, widths[self.first_attending :], strict=True), start=1):
            setattr(self, f"trans{index}", _AttentionStage(width, settings, heads=heads))
        self.out_channels = (widths[1], *widths[self.first_attending :])
        start_convolutions_by_fan_out(self)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Maps [N, channels, H', W'], finest first.

        Args:
            x: float32 [N, 3, H, W], any height and width.
        """
        maps = []
        for stage in range(self.num_stages):
            x = getattr(self, f"smb{stage + 1}")(x)
            if stage == 1:
                maps.append(x)
            if stage >= self.first_attending:
                x = getattr(self, f"trans{stage - self.first_attending + 1}")(x)
                maps.append(x)
        return maps


class _ConvStage(nn.Layer):
    def __init__(self, in_channels: int, convs: Sequence[Conv], *, with_stem: bool) -> None:
        super().__init__()
        if with_stem:
            self.stem_block = nn.Sequential(ConvBN(3, in_channels, 3, stride=2), nn.ReLU())
        self.with_stem, self.depth = with_stem, len(convs)
        for index, conv in enumerate(convs, start=1):
            setattr(self, f"layer{index}", _InvertedResidual(in_channels, conv))
            in_channels = conv.channels

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.with_stem:
            x = self.stem_block(x)
        for index in range(1, self.depth + 1):
            x = getattr(self, f"layer{index}")(x)
        return x


class _InvertedResidual(nn.Layer):
    """Widen, filter each channel by itself, narrow (MobileNetV2, https://arxiv.org/abs/1801.04381)."""

    def __init__(self, in_channels: int, conv: Conv) -> None:
        super().__init__()
        inside = in_channels * conv.expand
        widen = [ConvBN(in_channels, inside, 1), nn.ReLU()] if conv.expand > 1 else []
        self.conv = nn.Sequential(
            *widen,
            ConvBN(inside, inside, conv.kernel, stride=conv.stride, groups=inside),
            nn.ReLU(),
            ConvBN(inside, conv.channels, 1),
        )
        self.keeps_shape = conv.stride == 1 and in_channels == conv.channels

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return x + self.conv(x) if self.keeps_shape else self.conv(x)


class _AttentionStage(nn.Layer):
    def __init__(self, channels: int, settings: Attention, *, heads: int) -> None:
        super().__init__()
        self.transformer_blocks = nn.LayerList(
            [
                _Block(channels, settings, heads=heads, drop_path_rate=rate)
                for rate in drop_path_rates(DROP_PATH_RATE, settings.depth)
            ]
        )

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for block in self.transformer_blocks:
            x = block(x)
        return x


class _Block(nn.Layer):
    def __init__(self, channels: int, settings: Attention, *, heads: int, drop_path_rate: float) -> None:
        super().__init__()
        self.attn = _SeaAttention(channels, settings.key_channels, heads=heads)
        self.drop_path = DropPath(drop_path_rate)
        self.mlp = _FeedForward(channels, channels * settings.mlp_ratio)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


class _SeaAttention(nn.Layer):
    """Squeeze-enhanced axial attention: among the averages of rows and of columns, gating a map of local detail."""

    def __init__(self, channels: int, key_channels: int, *, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, key_channels**-0.5
        keys, values = key_channels * heads, key_channels * heads * VALUE_RATIO
        detail = keys * 2 + values
        self.to_q = ConvBN(channels, keys, 1)
        self.to_k = ConvBN(channels, keys, 1)
        self.to_v = ConvBN(channels, values, 1)
        self.proj = nn.Sequential(nn.ReLU6(), ConvBN(values, channels, 1))
        self.proj_encode_row = nn.Sequential(nn.ReLU6(), ConvBN(values, values, 1))
        self.pos_emb_rowq = _Positions(keys)
        self.pos_emb_rowk = _Positions(keys)
        self.proj_encode_column = nn.Sequential(nn.ReLU6(), ConvBN(values, values, 1))
        self.pos_emb_columnq = _Positions(keys)
        self.pos_emb_columnk = _Positions(keys)
        self.dwconv = ConvBN(detail, detail, 3, groups=detail)
        self.act = nn.ReLU6()
        self.pwconv = ConvBN(detail, channels, 1)
        self.sigmoid = nn.Hardsigmoid()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        query, key, value = self.to_q(x), self.to_k(x), self.to_v(x)
        detail = self.pwconv(self.act(self.dwconv(paddle.concat([query, key, value], axis=1))))
        rows = self._attend(self.pos_emb_rowq(query.mean(3)), self.pos_emb_rowk(key.mean(3)), value.mean(3))
        columns = self._attend(self.pos_emb_columnq(query.mean(2)), self.pos_emb_columnk(key.mean(2)), value.mean(2))
        seen = self.proj_encode_row(rows.unsqueeze(3)) + self.proj_encode_column(columns.unsqueeze(2))
        return self.sigmoid(self.proj(value + seen)) * detail

    def _attend(self, query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
        """[N, heads * c, L] each -> [N, heads * channels of a value, L]."""
        query, key, value = (self._split(x) for x in (query, key, value))
        weights = F.softmax(paddle.matmul(query, key, transpose_x=True) * self.scale, axis=-1)
        return paddle.matmul(value, weights, transpose_y=True).flatten(1, 2)

    def _split(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, heads * c, L] -> [N, heads, c, L]."""
        return x.reshape([0, self.heads, x.shape[1] // self.heads, -1])


class _Positions(nn.Layer):
    """Adds a learnt table, stretched to the length of a line. (N, C, L) -> (N, C, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        start = paddle.ParamAttr(initializer=nn.initializer.Normal(std=1.0))
        self.pos_embed = self.create_parameter([1, channels, POSITIONS], attr=start)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        # Not as a one-row picture: Paddle's bilinear resizing to one pixel takes the first instead of the middle.
        return x + F.interpolate(self.pos_embed, size=[x.shape[2]], mode="linear", align_corners=False, data_format="NCW")


class _FeedForward(nn.Layer):
    def __init__(self, channels: int, inside: int) -> None:
        super().__init__()
        self.fc1 = ConvBN(channels, inside, 1)
        self.dwconv = nn.Conv2D(inside, inside, 3, padding=1, groups=inside)
        self.act = nn.ReLU6()
        self.fc2 = ConvBN(inside, channels, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x))))
