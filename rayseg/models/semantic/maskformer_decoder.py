"""The two decoders of MaskFormer: pixels get features, queries get a class and a mask each.

What becomes of them is `maskformer.py`'s; paper and code are named there.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.backbones.swin import Length

QUERIES = 100
WIDTH = 256
"""Channels of the pixel features, the queries and all between."""
HEADS = 8
LAYERS = 6
"""Of the transformer decoder."""
INNER_WIDTH = 2048
"""Between the two linear layers of a decoder layer."""
DROPOUT = 0.1
GROUPS = 32
TEMPERATURE = 10_000
"""Of the sine positions."""


class QueryMasks(NamedTuple):
    """What the queries say after one layer of the decoder."""

    classes: paddle.Tensor
    """Logits float32 (N, 100, C + 1); the last class is "no object"."""
    masks: paddle.Tensor
    """Logits float32 (N, 100, h, w) at the size of the finest map."""


class MaskFormerHead(nn.Layer):
    """Feature maps -> what the queries say.

    Args:
        in_channels: of the maps, finest first; the transformer sees the last.
        num_classes: C, background included.
    """

    def __init__(self, in_channels: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.pixel_decoder = _PixelDecoder(in_channels)
        self.predictor = _Predictor(in_channels[-1], num_classes)

    def forward(self, maps: list[paddle.Tensor], *, all_layers: bool) -> list[QueryMasks]:
        """The last decoder layer's word, after `all_layers` followed by those of the earlier ones, first to last."""
        return self.predictor(maps[-1], self.pixel_decoder(maps), all_layers=all_layers)


class _PixelDecoder(nn.Layer):
    """A feature pyramid: from the coarsest map to the finest, each is added to what came from below."""

    def __init__(self, in_channels: tuple[int, ...]) -> None:
        super().__init__()
        coarse_to_fine = in_channels[::-1]
        # No lateral convolution at the coarsest map, whose number is 0.
        self.lateral_convs = nn.LayerDict(
            {str(k): _Conv(width, 1, relu=False) for k, width in enumerate(coarse_to_fine) if k > 0}
        )
        self.output_convs = nn.LayerList([_Conv(WIDTH if k else width, 3) for k, width in enumerate(coarse_to_fine)])
        self.mask_features = _Conv(WIDTH, 3, norm=False, relu=False)

    def forward(self, maps: list[paddle.Tensor]) -> paddle.Tensor:
        """Maps, finest first -> float32 (N, 256, h, w) at the size of the finest."""
        x = self.output_convs[0](maps[-1])
        for k in range(1, len(maps)):
            lateral = self.lateral_convs[str(k)](maps[-1 - k])
            x = lateral + F.interpolate(x, size=lateral.shape[2:], mode="nearest")
            x = self.output_convs[k](x)
        return self.mask_features(x)


class _Predictor(nn.Layer):
    """Queries look at the coarsest map and come back with a class and a mask embedding each."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.transformer = _Transformer()
        self.query_embed = nn.Embedding(QUERIES, WIDTH, weight_attr=paddle.ParamAttr(initializer=nn.initializer.Normal(0.0, 1.0)))
        self.input_proj = nn.Conv2D(in_channels, WIDTH, 1, weight_attr=_conv_init(), bias_attr=_zero())
        self.class_embed = _linear(WIDTH, num_classes + 1)
        self.mask_embed = _MLP()

    def forward(self, coarsest: paddle.Tensor, features: paddle.Tensor, *, all_layers: bool) -> list[QueryMasks]:
        said = self.transformer(self.input_proj(coarsest), self.query_embed.weight)
        classes, embeddings = self.class_embed(said), self.mask_embed(said)
        flat, height, width = features.flatten(2), features.shape[2], features.shape[3]
        order = [LAYERS - 1, *range(LAYERS - 1)] if all_layers else [LAYERS - 1]
        return [QueryMasks(classes[k], paddle.matmul(embeddings[k], flat).reshape([-1, QUERIES, height, width])) for k in order]


class _Transformer(nn.Layer):
    """Image tokens as they are (no encoder), then the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = _Decoder()

    def forward(self, x: paddle.Tensor, query_positions: paddle.Tensor) -> paddle.Tensor:
        """(N, 256, h, w) and (Q, 256) -> (layers, N, Q, 256)."""
        position = sine_positions(x.shape[2], x.shape[3])
        values = x.flatten(2).transpose([0, 2, 1])
        keys = values + position.flatten(2).transpose([0, 2, 1])
        return self.decoder(keys, values, query_positions.unsqueeze(1)).transpose([0, 2, 1, 3])


class _Decoder(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.decoder_list = nn.LayerList([_DecoderLayer() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, keys: paddle.Tensor, values: paddle.Tensor, query_positions: paddle.Tensor) -> paddle.Tensor:
        """Image (N, h * w, 256) twice and queries (Q, 1, 256) -> (layers, Q, N, 256)."""
        x = paddle.zeros([QUERIES, values.shape[0], WIDTH], dtype=values.dtype)
        said = []
        for layer in self.decoder_list:
            x = layer(x, keys, values, query_positions)
            said.append(self.norm(x))
        return paddle.stack(said)


class _DecoderLayer(nn.Layer):
    """Queries attend to each other, then to the image, then think alone; each step is added and normalised."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.MultiHeadAttention(WIDTH, HEADS, DROPOUT)
        self.multihead_attn = nn.MultiHeadAttention(WIDTH, HEADS, DROPOUT)
        self.linear1 = nn.Linear(WIDTH, INNER_WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.linear2 = nn.Linear(INNER_WIDTH, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.norm3 = nn.LayerNorm(WIDTH)
        self.dropout1 = nn.Dropout(DROPOUT)
        self.dropout2 = nn.Dropout(DROPOUT)
        self.dropout3 = nn.Dropout(DROPOUT)

    def forward(self, x: paddle.Tensor, keys: paddle.Tensor, values: paddle.Tensor, positions: paddle.Tensor) -> paddle.Tensor:
        """Queries (Q, N, 256), image (N, h * w, 256) twice, positions of the queries (Q, 1, 256) -> (Q, N, 256)."""
        query = _swap(x + positions)
        x = self.norm1(x + self.dropout1(_swap(self.self_attn(query, query, _swap(x)))))
        query = _swap(x + positions)
        x = self.norm2(x + self.dropout2(_swap(self.multihead_attn(query, keys, values))))
        thought = self.linear2(self.dropout(F.relu(self.linear1(x))))
        return self.norm3(x + self.dropout3(thought))


class _MLP(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LayerList([_linear(WIDTH, WIDTH) for _ in range(3)])

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        for layer in list(self.layers)[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class _Conv(nn.Layer):
    """(N, in_channels, h, w) -> (N, 256, h, w): a convolution, perhaps a group norm, perhaps max(x, 0)."""

    def __init__(self, in_channels: int, kernel: int, *, norm: bool = True, relu: bool = True) -> None:
        super().__init__()
        self._conv = nn.Conv2D(
            in_channels,
            WIDTH,
            kernel,
            padding=kernel // 2,
            weight_attr=_conv_init(),
            bias_attr=False if norm else _zero(),
        )
        self._norm = nn.GroupNorm(GROUPS, WIDTH) if norm else None
        self.relu = relu

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self._conv(x)
        if self._norm is not None:
            x = self._norm(x)
        return F.relu(x) if self.relu else x


def sine_positions(height: Length, width: Length) -> paddle.Tensor:
    """Where each token of a map lies, as sines and cosines; float32 (1, 256, h, w), rows first.

    Carion et al., "End-to-End Object Detection with Transformers", ECCV 2020, appendix A.4: rows and columns, counted from
    1, are scaled to end at 2 pi.
    """
    half = WIDTH // 2
    wavelengths = paddle.to_tensor([TEMPERATURE ** (2 * k / half) for k in range(half // 2)], dtype="float32")
    rows = _waves(height, wavelengths).reshape([1, -1, 1, half])
    columns = _waves(width, wavelengths).reshape([1, 1, -1, half])
    rows = rows.expand([1, height, width, half])
    columns = columns.expand([1, height, width, half])
    return paddle.concat([rows, columns], axis=3).transpose([0, 3, 1, 2])


def _waves(length: Length, wavelengths: paddle.Tensor) -> paddle.Tensor:
    """(length, 128): sine and cosine by turns."""
    place = paddle.arange(1, length + 1, dtype="float32")
    angle = (place * (2 * math.pi) / (place[-1] + 1e-6)).unsqueeze(1) / wavelengths
    return paddle.stack([paddle.sin(angle), paddle.cos(angle)], axis=2).flatten(1)


def _swap(x: paddle.Tensor) -> paddle.Tensor:
    """Queries first <-> images first."""
    return x.transpose([1, 0, 2])


def _linear(channels_in: int, channels_out: int) -> nn.Linear:
    """Weights and biases start within 1 / sqrt(channels_in)."""
    bound = channels_in**-0.5

    def attr() -> paddle.ParamAttr:
        return paddle.ParamAttr(initializer=nn.initializer.Uniform(-bound, bound))

    return nn.Linear(channels_in, channels_out, weight_attr=attr(), bias_attr=attr())


def _conv_init() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.KaimingUniform(negative_slope=1.0, nonlinearity="leaky_relu"))


def _zero() -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=nn.initializer.Constant(0.0))
