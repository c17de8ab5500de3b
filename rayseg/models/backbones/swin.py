"""Swin Transformer: attention within small windows, which every second block shifts by half a window.

Paper: Z. Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows", ICCV 2021,
https://arxiv.org/abs/2103.14030.
Original code: https://github.com/microsoft/Swin-Transformer (MIT). Parameter names are those of PaddleSeg's version
(https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: padding, shifting and cutting into windows are one gather by a computed index instead of four rearrangements,
with nothing that depends on the size of the map decided in Python, so one exported program takes any size; dropout,
which the published models have at 0, is left out.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.drop_path import DropPath, drop_path_rates

WINDOW = 7
"""Side of a window, in tokens."""
SHIFT = WINDOW // 2
"""By which every second block moves the windows."""
AREA = WINDOW * WINDOW
PATCH = 4
"""Side of the square of pixels that becomes one token."""
MLP_RATIO = 4
CUT = -100.0
"""Added to the attention between tokens that only the wrapping around of the shifted map brought together."""

Length: TypeAlias = int | paddle.Tensor
"""A side of a map: a number, or a scalar tensor inside a program for any size."""


def swin_tiny() -> SwinTransformer:
    """Blocks 2, 2, 6, 2."""
    return SwinTransformer(depths=(2, 2, 6, 2))


def swin_small() -> SwinTransformer:
    """Blocks 2, 2, 18, 2."""
    return SwinTransformer(depths=(2, 2, 18, 2))


class SwinTransformer(nn.Layer):
    """Four feature maps of one image, at strides 4, 8, 16 and 32.

    Args:
        depths: number of blocks at each stride.
        heads: of the attention at each stride.
        channels: of the first map; each further one has twice as many.
        drop_path: rate of stochastic depth of the last block; it rises evenly from 0 at the first.
    """

    def __init__(
        self,
        *,
        depths: tuple[int, ...],
        heads: tuple[int, ...] = (3, 6, 12, 24),
        channels: int = 96,
        drop_path: float = 0.3,
    ) -> None:
        super().__init__()
        self.out_channels = tuple(channels << stage for stage in range(len(depths)))
        rates = drop_path_rates(drop_path, sum(depths))
        self.patch_embed = _PatchEmbed(channels)
        self.layers = nn.LayerList()
        for stage, (depth, width) in enumerate(zip(depths, self.out_channels, strict=True)):
            start = sum(depths[:stage])
            last = stage == len(depths) - 1
            self.layers.append(_Stage(width, heads[stage], rates[start : start + depth], merge=not last))
        for stage, width in enumerate(self.out_channels):
            self.add_sublayer(f"norm{stage}", nn.LayerNorm(width))

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """(N, 3, H, W) -> for each stage (N, out_channels[k], ceil(H / s), ceil(W / s)) with s = 4, 8, 16, 32."""
        x = self.patch_embed(x)
        height, width = x.shape[2], x.shape[3]
        tokens = x.flatten(2).transpose([0, 2, 1])
        maps = []
        for index, stage in enumerate(self.layers):
            seen, tokens = stage(tokens, height, width)
            seen = getattr(self, f"norm{index}")(seen)
            maps.append(seen.reshape([-1, height, width, self.out_channels[index]]).transpose([0, 3, 1, 2]))
            height, width = (height + 1) // 2, (width + 1) // 2
        return maps


class _PatchEmbed(nn.Layer):
    """One token for each square of 4 x 4 pixels. (N, 3, H, W) -> (N, C, ceil(H / 4), ceil(W / 4))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Zeros to a multiple of 4: three always suffice, and what is over makes no token.
        self.proj = nn.Conv2D(3, channels, PATCH, stride=PATCH, padding=[0, PATCH - 1, 0, PATCH - 1])
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.proj(x)
        tokens = self.norm(x.flatten(2).transpose([0, 2, 1]))
        return tokens.transpose([0, 2, 1]).reshape([-1, self.norm.weight.shape[0], x.shape[2], x.shape[3]])


class _Stage(nn.Layer):
    """The blocks of one stride. Tokens (N, h * w, C) -> themselves seen by all blocks, and merged for the next stage.

    The last stage has nothing to merge and gives the same twice.
    """

    def __init__(self, channels: int, heads: int, rates: list[float], *, merge: bool) -> None:
        super().__init__()
        self.blocks = nn.LayerList([_Block(channels, heads, rate) for rate in rates])
        self.downsample = _PatchMerging(channels) if merge else None

    def forward(self, x: paddle.Tensor, height: Length, width: Length) -> tuple[paddle.Tensor, paddle.Tensor]:
        straight = _Windows(height, width, shift=0)
        shifted = _Windows(height, width, shift=SHIFT)
        for index, block in enumerate(self.blocks):
            x = block(x, shifted if index % 2 else straight)
        return x, x if self.downsample is None else self.downsample(x, height, width)


class _Block(nn.Layer):
    """Attention within windows, then a perceptron for each token, each added to its input. (N, h * w, C) -> the same."""

    def __init__(self, channels: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = _WindowAttention(channels, heads)
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = _MLP(channels)

    def forward(self, x: paddle.Tensor, windows: _Windows) -> paddle.Tensor:
        attended = windows.join(self.attn(windows.cut(self.norm1(x)), windows.mask))
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _WindowAttention(nn.Layer):
    """Attention of each token to those of its window, with a learned bias for each offset. (M, 49, C) -> the same."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = self.create_parameter(
            [(2 * WINDOW - 1) ** 2, heads], default_initializer=nn.initializer.TruncatedNormal(std=0.02)
        )
        self.register_buffer("relative_position_index", paddle.to_tensor(_offset_numbers()))
        self.qkv = _linear(channels, 3 * channels)
        self.proj = _linear(channels, channels)

    def forward(self, x: paddle.Tensor, mask: paddle.Tensor | None) -> paddle.Tensor:
        """Attend.

        Args:
            x: (N * number of windows, 49, C).
            mask: (number of windows, 1, 49, 49), added to the scores of every head; None adds nothing.
        """
        channels = self.proj.weight.shape[0]
        head_channels = channels // self.heads
        qkv = self.qkv(x).reshape([-1, AREA, 3, self.heads, head_channels]).transpose([2, 0, 3, 1, 4])
        query, key, value = qkv[0] * head_channels**-0.5, qkv[1], qkv[2]
        scores = paddle.matmul(query, key, transpose_y=True) + self._bias()
        if mask is not None:
            by_window = scores.reshape([-1, mask.shape[0], self.heads, AREA, AREA]) + mask
            scores = by_window.reshape([-1, self.heads, AREA, AREA])
        seen = paddle.matmul(F.softmax(scores, axis=-1), value)
        return self.proj(seen.transpose([0, 2, 1, 3]).reshape([-1, AREA, channels]))

    def _bias(self) -> paddle.Tensor:
        """(heads, 49, 49)."""
        rows = paddle.index_select(self.relative_position_bias_table, self.relative_position_index.flatten())
        return rows.reshape([AREA, AREA, self.heads]).transpose([2, 0, 1])


class _MLP(nn.Layer):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = _linear(channels, MLP_RATIO * channels)
        self.fc2 = _linear(MLP_RATIO * channels, channels)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _PatchMerging(nn.Layer):
    """Each square of 2 x 2 tokens becomes one of twice the width. (N, h * w, C) -> (N, ceil(h/2) * ceil(w/2), 2 C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * channels, 2 * channels, weight_attr=_truncated_normal(), bias_attr=False)
        self.norm = nn.LayerNorm(4 * channels)

    def forward(self, x: paddle.Tensor, height: Length, width: Length) -> paddle.Tensor:
        # Order of the published weights: down first, then right.
        rows = paddle.arange((height + 1) // 2 * 2, dtype="int64").reshape([-1, 1, 1, 2])
        columns = paddle.arange((width + 1) // 2 * 2, dtype="int64").reshape([1, -1, 2, 1])
        index = _token_numbers(rows, columns, height, width)
        return self.reduction(self.norm(_take(x, index).reshape([-1, index.size // 4, self.norm.weight.shape[0]])))


# In what follows no sum or product of two integer tensors is multiplied by a number or clipped: Paddle Inference with
# oneDNN merges the two (operator_scale_onednn_fuse_pass and its like) and forgets the second. Numbers go in first, and
# `minimum` clips.


class _Windows:
    """How a map of h x w tokens, zeros added at the right and the bottom, falls into windows of 7 x 7.

    With a shift the map is first rolled up and left by it; where that brings opposite borders together, `mask` parts
    them again.
    """

    def __init__(self, height: Length, width: Length, *, shift: int) -> None:
        down, across = _windows_along(height), _windows_along(width)
        self.tokens = down * (across * AREA)
        rows, columns = _places(down, shift), _places(across, shift)
        self._to_windows = _token_numbers(rows.reshape([-1, 1, WINDOW, 1]), columns.reshape([1, -1, 1, WINDOW]), height, width)
        row = (paddle.arange(height, dtype="int64") + (down * WINDOW - shift)) % (down * WINDOW)
        column = (paddle.arange(width, dtype="int64") + (across * WINDOW - shift)) % (across * WINDOW)
        in_row = row // WINDOW * (across * AREA) + row % WINDOW * WINDOW
        in_column = column // WINDOW * AREA + column % WINDOW
        self._to_tokens = (in_row.unsqueeze(1) + in_column.unsqueeze(0)).flatten()
        self.mask = _mask(down, across) if shift else None

    def cut(self, tokens: paddle.Tensor) -> paddle.Tensor:
        """(N, h * w, C) -> (N * number of windows, 49, C), window by window, row by row."""
        return _take(tokens, self._to_windows).reshape([-1, AREA, tokens.shape[2]])

    def join(self, windows: paddle.Tensor) -> paddle.Tensor:
        """The inverse of `cut`."""
        tokens = windows.reshape([-1, self.tokens, windows.shape[2]])
        return paddle.index_select(tokens, self._to_tokens, axis=1)


def _windows_along(length: Length) -> Length:
    return (length + WINDOW - 1) // WINDOW


def _places(count: Length, shift: int) -> paddle.Tensor:
    """Which row (or column) of the padded map each row of the rolled one is; int64 (7 * count)."""
    return (paddle.arange(count * WINDOW, dtype="int64") + shift) % (count * WINDOW)


def _token_numbers(rows: paddle.Tensor, columns: paddle.Tensor, height: Length, width: Length) -> paddle.Tensor:
    """Flat numbers of the tokens at rows x columns; h * w, one behind the last, for a place outside the map."""
    beside = (columns >= width).astype("int64") * (height * width)
    behind = paddle.ones([1], dtype="int64") * (height * width)
    return paddle.minimum(rows * width + (columns + beside), behind).flatten()


def _take(tokens: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Tokens by number; the number behind the last one gives zeros. (N, L, C), (M) -> (N, M, C)."""
    return paddle.index_select(F.pad(tokens, [0, 1], data_format="NLC"), index, axis=1)


def _mask(down: Length, across: Length) -> paddle.Tensor:
    """`CUT` between tokens of different parts of the rolled map, else 0; float32 (down * across, 1, 49, 49)."""
    parts = _parts(down, step=3).reshape([-1, 1, WINDOW, 1]) + _parts(across, step=1).reshape([1, -1, 1, WINDOW])
    parts = parts.reshape([-1, 1, AREA])
    apart = parts.unsqueeze(2) != parts.unsqueeze(3)
    return apart.astype("float32") * CUT


def _parts(count: Length, *, step: int) -> paddle.Tensor:
    """0, 1 or 2 steps along one side: before the last window, in it, and what was rolled around from the other border."""
    place = paddle.arange(count * WINDOW, dtype="int64")
    last = (count - 1) * WINDOW
    return (place >= last).astype("int64") * step + (place >= last + WINDOW - SHIFT).astype("int64") * step


def _offset_numbers() -> np.ndarray:
    """Row of the bias table for each pair of tokens of a window; int64 (49, 49)."""
    row, column = np.divmod(np.arange(AREA, dtype="int64"), WINDOW)
    down = row[:, None] - row[None, :] + WINDOW - 1
    right = column[:, None] - column[None, :] + WINDOW - 1
    return down * (2 * WINDOW - 1) + right


def _linear(channels_in: int, channels_out: int) -> nn.Linear:
    return nn.Linear(channels_in, channels_out, weight_attr=_truncated_normal())


def _truncated_normal() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.TruncatedNormal(std=0.02))
