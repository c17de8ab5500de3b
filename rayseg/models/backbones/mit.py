"""MiT, the backbone of SegFormer: a transformer of four stages whose keys and values are a coarser map.

Paper: E. Xie et al., "SegFormer: Simple and Efficient Design for Semantic Segmentation with Transformers", NeurIPS 2021,
https://arxiv.org/abs/2105.15203.
Original code: https://github.com/NVlabs/SegFormer (NVIDIA's own licence, non-commercial); nothing of it is here. Parameter
names are those of PaddleSeg's version (https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: a map smaller than one cell of the coarser map is padded with zeros instead of failing, so images under 29 pixels
work; dropout, which the published settings leave at 0, is not here.
"""

from __future__ import annotations

from collections.abc import Sequence

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.drop_path import DropPath, drop_path_rates
from rayseg.models.blocks.init import start_convolutions_by_fan_out

MLP_RATIO = 4
DROP_PATH_RATE = 0.1
BLOCK_EPSILON = 1e-6
"""Of the layer norms in blocks and at the end of a stage; those after a convolution keep Paddle's 1e-5."""
WEIGHTS_AT_A_TIME = 2**26
"""Attention weights held at once, 256 MB of them; all of a picture of 4000 x 4000 would take 60 GB."""


class MiT(nn.Layer):
    """Four feature maps of one image, at strides 4, 8, 16 and 32.

    Args:
        channels: of each map.
        depths: number of blocks of each stage.
        heads: of the attention of each stage.
        reductions: side of the square of each stage's map that becomes one key and one value.
    """

    def __init__(
        self,
        *,
        channels: tuple[int, int, int, int],
        depths: tuple[int, int, int, int],
        heads: tuple[int, int, int, int] = (1, 2, 5, 8),
        reductions: tuple[int, int, int, int] = (8, 4, 2, 1),
    ) -> None:
        super().__init__()
        self.out_channels = channels
        for stage, (before, after) in enumerate(zip((3, *channels), channels, strict=False), start=1):
            kernel, stride = (7, 4) if stage == 1 else (3, 2)
            setattr(self, f"patch_embed{stage}", _PatchEmbedding(before, after, kernel=kernel, stride=stride))
        rates = iter(drop_path_rates(DROP_PATH_RATE, sum(depths)))
        for stage, (width, depth) in enumerate(zip(channels, depths, strict=True), start=1):
            blocks = [
                _Block(width, heads=heads[stage - 1], reduction=reductions[stage - 1], drop_path_rate=next(rates))
                for _ in range(depth)
            ]
            setattr(self, f"block{stage}", nn.LayerList(blocks))
            setattr(self, f"norm{stage}", nn.LayerNorm(width, epsilon=BLOCK_EPSILON))
        start_convolutions_by_fan_out(self)

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Four maps [N, channels, H', W'], finest first; sides are those of the image / 4, 8, 16, 32, rounded up.

        Args:
            x: float32 [N, 3, H, W], any height and width.
        """
        maps = []
        for stage in range(1, len(self.out_channels) + 1):
            x, size = getattr(self, f"patch_embed{stage}")(x)
            for block in getattr(self, f"block{stage}"):
                x = block(x, size)
            x = to_map(getattr(self, f"norm{stage}")(x), size)
            maps.append(x)
        return maps


class _PatchEmbedding(nn.Layer):
    """Overlapping patches as tokens, and the height and width of their grid."""

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int) -> None:
        super().__init__()
        self.proj = nn.Conv2D(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, Sequence[int]]:
        x = self.proj(x)
        return self.norm(to_tokens(x)), x.shape[2:]


class _Block(nn.Layer):
    def __init__(self, channels: int, *, heads: int, reduction: int, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, epsilon=BLOCK_EPSILON)
        self.attn = ReducedAttention(channels, heads=heads, reduction=reduction)
        self.drop_path = DropPath(drop_path_rate)
        self.norm2 = nn.LayerNorm(channels, epsilon=BLOCK_EPSILON)
        self.mlp = _MixFFN(channels, channels * MLP_RATIO)

    def forward(self, x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x), size))
        return x + self.drop_path(self.mlp(self.norm2(x), size))


class ReducedAttention(nn.Layer):
    """Every token asks a map that is `reduction` times coarser in height and width.

    Rows and columns left over where `reduction` does not divide the map are asking, but not asked.

    Attributes:
        at_once: weigh all tokens in one go, however much memory it takes: an exported program then has no loop, which
            not every engine can run.
    """

    def __init__(self, channels: int, *, heads: int, reduction: int) -> None:
        super().__init__()
        self.heads, self.head_channels, self.reduction = heads, channels // heads, reduction
        self.at_once = False
        self.q = _linear(channels, channels)
        self.kv = _linear(channels, channels * 2)
        self.proj = _linear(channels, channels)
        if reduction > 1:
            self.sr = nn.Conv2D(channels, channels, reduction, stride=reduction)
            self.norm = nn.LayerNorm(channels)

    def forward(self, x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
        query = self._split(self.q(x)) * self.head_channels**-0.5
        asked = x if self.reduction == 1 else self.norm(to_tokens(self.sr(self._at_least_one_cell(to_map(x, size)))))
        key, value = (self._split(half) for half in self.kv(asked).chunk(2, axis=-1))
        seen = _attend(query, key, value) if self.at_once else _attend_in_parts(query, key, value)
        return self.proj(seen.transpose([0, 2, 1, 3]).flatten(2))

    def _split(self, tokens: paddle.Tensor) -> paddle.Tensor:
        """[N, L, heads * c] -> [N, heads, L, c]."""
        return tokens.reshape([0, -1, self.heads, self.head_channels]).transpose([0, 2, 1, 3])

    def _at_least_one_cell(self, x: paddle.Tensor) -> paddle.Tensor:
        """Zeros at the right and the bottom of a map that is smaller than the kernel of the reduction."""
        missing = paddle.clip(self.reduction - paddle.shape(x)[2:], min=0).astype("int32")
        none = paddle.zeros([1], dtype="int32")
        return F.pad(x, paddle.concat([none, missing[1:], none, missing[:1]]))


def _attend(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """[N, heads, L, c], [N, heads, K, c], [N, heads, K, c] -> [N, heads, L, c]."""
    return paddle.matmul(F.softmax(paddle.matmul(query, key, transpose_y=True), axis=-1), value)


def _attend_in_parts(query: paddle.Tensor, key: paddle.Tensor, value: paddle.Tensor) -> paddle.Tensor:
    """`_attend`, so many queries at a time as keep to `WEIGHTS_AT_A_TIME`."""
    batch, heads, keys, _ = paddle.shape(key).astype("int64").unbind()
    part = paddle.clip(paddle.full([], WEIGHTS_AT_A_TIME, "int64") // (batch * heads * keys), min=1)
    seen, start = _attend(query[:, :, :part], key, value), part
    while start < query.shape[2]:  # in an exported program a loop, since `start` is a tensor
        seen = paddle.concat([seen, _attend(query[:, :, start : start + part], key, value)], axis=2)
        start = start + part
    return seen


class _MixFFN(nn.Layer):
    """Two linear layers with a depthwise 3 x 3 convolution between them, which tells tokens where they are."""

    def __init__(self, channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.fc1 = _linear(channels, hidden_channels)
        self.dwconv = _TokenConv(hidden_channels)
        self.act = nn.GELU()
        self.fc2 = _linear(hidden_channels, channels)

    def forward(self, x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
        return self.fc2(self.act(self.dwconv(self.fc1(x), size)))


class _TokenConv(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2D(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
        return to_tokens(self.dwconv(to_map(x, size)))


def _linear(channels_in: int, channels_out: int) -> nn.Linear:
    start = paddle.ParamAttr(initializer=nn.initializer.TruncatedNormal(std=0.02))
    return nn.Linear(channels_in, channels_out, weight_attr=start)


def to_tokens(x: paddle.Tensor) -> paddle.Tensor:
    """[N, C, H, W] -> [N, H * W, C]."""
    return x.flatten(2).transpose([0, 2, 1])


def to_map(x: paddle.Tensor, size: Sequence[int]) -> paddle.Tensor:
    """[N, H * W, C] -> [N, C, H, W]."""
    height, width = size
    return x.transpose([0, 2, 1]).reshape([0, x.shape[2], height, width])
