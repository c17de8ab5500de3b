"""The decoder of Mask-RT-DETR: places of the maps become 300 queries, which six layers refine to boxes and masks.

Paper: Lv et al., "DETRs Beat YOLOs on Real-time Object Detection", 2023 (https://arxiv.org/abs/2304.08069), section 4.3;
Li et al., "Mask DINO", CVPR 2023 (https://arxiv.org/abs/2206.02777), for masks and for boxes that start from them.
Code: PaddleDetection, ppdet/modeling/transformers/mask_rtdetr_transformer.py, Apache-2.0; names and shapes of
parameters are those of published weights.
Changed: nothing but the boxes that queries start from, see mask_rtdetr_boxes.py.
How queries are matched with objects, and the noisy ones that training adds, are left to the loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import no_weight_decay, normal_init
from rayseg.models.blocks.deformable_attention import DeformableAttention
from rayseg.models.blocks.transformer import Perceptron, SelfAttention, linear
from rayseg.models.instance.mask_rtdetr_boxes import boxes_of_masks, first_boxes, inverse_sigmoid

LAYERS = 6
HEADS = 8
LEVELS = 3
FIRST_SCORE = 0.01
"""Of every class, where training starts."""


@dataclass(frozen=True)
class Predictions:
    """What one stage says of Q queries.

    Attributes:
        logits: float32 [N, Q, C], before the sigmoid.
        boxes: float32 [N, Q, 4]: centre x and y, width, height, in [0, 1] of the input.
        masks: float32 [N, Q, H / 4, W / 4], before the sigmoid.
    """

    logits: paddle.Tensor
    boxes: paddle.Tensor
    masks: paddle.Tensor


@dataclass(frozen=True)
class Denoising:
    """Queries made from known objects, which training puts before those the network found.

    Attributes:
        queries: float32 [N, K, D].
        boxes: float32 [N, K, 4], as in `Predictions`, but before the sigmoid.
        attention: bool [K + Q, K + Q], True where the query of the row may look at that of the column.
    """

    queries: paddle.Tensor
    boxes: paddle.Tensor
    attention: paddle.Tensor


@dataclass(frozen=True)
class TrainingOutputs:
    """All stages.

    Attributes:
        encoder: the Q chosen places, before the decoder.
        initial: what enters the decoder, K + Q queries; None without denoising.
        layers: of the decoder, K + Q queries each.
    """

    encoder: Predictions
    initial: Predictions | None
    layers: list[Predictions]


@dataclass(frozen=True)
class FinalQueries:
    """What the last layer says.

    Attributes:
        logits, boxes: as in `Predictions`.
        embeddings: float32 [N, Q, P]; times the prototypes they are the masks.
    """

    logits: paddle.Tensor
    boxes: paddle.Tensor
    embeddings: paddle.Tensor


@dataclass(frozen=True)
class _Chosen:
    """The places that become queries; tensors as in `Predictions`."""

    queries: paddle.Tensor
    logits: paddle.Tensor
    boxes: paddle.Tensor
    masks: paddle.Tensor


class QueryTransformer(nn.Layer):
    """From three maps and prototypes to objects.

    Args:
        channels_in: of the maps.
        channels: of the queries.
        num_classes: without background.
        num_queries: Q.
        prototypes: P.
        feedforward: channels inside the layers of the decoder.
    """

    def __init__(
        self,
        channels_in: int,
        *,
        channels: int,
        num_classes: int,
        num_queries: int,
        prototypes: int,
        feedforward: int,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_queries = num_queries
        self.input_proj = nn.LayerList(
            [
                nn.Sequential(
                    (
                        "conv",
                        nn.Conv2D(
                            channels_in,
                            channels,
                            1,
                            weight_attr=paddle.ParamAttr(initializer=nn.initializer.XavierUniform()),
                            bias_attr=False,
                        ),
                    ),
                    ("norm", nn.BatchNorm2D(channels, weight_attr=no_weight_decay(), bias_attr=no_weight_decay())),
                )
                for _ in range(LEVELS)
            ]
        )
        self.decoder = _Decoder(channels, feedforward)
        self.denoising_class_embed = nn.Embedding(num_classes, channels, weight_attr=normal_init(std=1.0))
        self.query_pos_head = Perceptron(4, 2 * channels, channels, 2)
        self.mask_query_head = Perceptron(channels, channels, prototypes, 3)
        self.enc_output = nn.Sequential(nn.Linear(channels, channels), _layer_norm(channels))
        self.dec_norm = _layer_norm(channels)
        self.score_head = linear(channels, num_classes)
        self.bbox_head = Perceptron(channels, channels, 4, 3)
        self._start()

    def forward(self, maps: list[paddle.Tensor], prototypes: paddle.Tensor) -> FinalQueries:
        """Evaluate.

        Args:
            maps: float32 [N, D, h, w], strides 8, 16 and 32.
            prototypes: float32 [N, P, H / 4, W / 4].
        """
        memory, sizes = self._memory(maps)
        chosen = self._choose(memory, sizes, prototypes)
        queries, boxes = chosen.queries, F.sigmoid(inverse_sigmoid(boxes_of_masks(chosen.masks)))
        for layer in self.decoder.layers:
            queries = layer(queries, self.query_pos_head(boxes), boxes, memory, sizes)
            boxes = F.sigmoid(self.bbox_head(queries) + inverse_sigmoid(boxes))
        logits, embeddings = self._classes_and_embeddings(queries)
        return FinalQueries(logits, boxes, embeddings)

    def all_stages(
        self, maps: list[paddle.Tensor], prototypes: paddle.Tensor, denoising: Denoising | None = None
    ) -> TrainingOutputs:
        """Everything the loss looks at; arguments as in `forward`.

        Boxes are cut off from the gradient between layers, but a layer's box also depends on the one before through the
        box that layer started from ("look forward twice", Zhang et al., "DINO", ICLR 2023, section 3.5).
        """
        memory, sizes = self._memory(maps)
        chosen = self._choose(memory, sizes, prototypes)
        encoder = Predictions(chosen.logits, chosen.boxes, chosen.masks)
        queries, start = chosen.queries.detach(), inverse_sigmoid(boxes_of_masks(chosen.masks))
        initial, allowed = None, None
        if denoising is not None:
            queries = paddle.concat([denoising.queries, queries], axis=1)
            start = paddle.concat([denoising.boxes, start], axis=1)
            initial = self._predictions(queries, F.sigmoid(start), prototypes)
            allowed = denoising.attention
        boxes = F.sigmoid(start.detach())
        before, layers = boxes, []
        for layer in self.decoder.layers:
            queries = layer(queries, self.query_pos_head(boxes), boxes, memory, sizes, allowed=allowed)
            change = self.bbox_head(queries)
            layers.append(self._predictions(queries, F.sigmoid(change + inverse_sigmoid(before)), prototypes))
            before = F.sigmoid(change + inverse_sigmoid(boxes))
            boxes = before.detach()
        return TrainingOutputs(encoder, initial, layers)

    def _memory(self, maps: list[paddle.Tensor]) -> tuple[paddle.Tensor, list[tuple[int, int]]]:
        """All places of all maps [N, L, D], and height and width of the maps."""
        projected = [layer(maps[level]) for level, layer in enumerate(self.input_proj)]
        sizes = [(x.shape[2], x.shape[3]) for x in projected]
        return paddle.concat([x.flatten(2).transpose([0, 2, 1]) for x in projected], axis=1), sizes

    def _choose(self, memory: paddle.Tensor, sizes: list[tuple[int, int]], prototypes: paddle.Tensor) -> _Chosen:
        """The places whose best class is most certain."""
        first, usable = first_boxes(sizes)
        places = self.enc_output(memory * usable.astype(memory.dtype))
        logits = self.score_head(places)
        boxes = self.bbox_head(places) + first
        _, best = paddle.topk(logits.max(-1), self.num_queries, axis=1)
        queries, boxes = take_rows(places, best), F.sigmoid(take_rows(boxes, best))
        logits, embeddings = self._classes_and_embeddings(queries)
        return _Chosen(queries, logits, boxes, combine(embeddings, prototypes))

    def _predictions(self, queries: paddle.Tensor, boxes: paddle.Tensor, prototypes: paddle.Tensor) -> Predictions:
        logits, embeddings = self._classes_and_embeddings(queries)
        return Predictions(logits, boxes, combine(embeddings, prototypes))

    def _classes_and_embeddings(self, queries: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        normed = self.dec_norm(queries)
        return self.score_head(normed), self.mask_query_head(normed)

    def _start(self) -> None:
        """First classes are unlikely, first boxes stay where they are."""
        nn.initializer.Constant(-math.log((1 - FIRST_SCORE) / FIRST_SCORE))(self.score_head.bias)
        for parameter in self.bbox_head.layers[-1].parameters():
            nn.initializer.Constant(0.0)(parameter)
        for layer in self.query_pos_head.layers:
            nn.initializer.XavierUniform()(layer.weight)


class _Decoder(nn.Layer):
    """Holds the layers under the name published weights give them."""

    def __init__(self, channels: int, feedforward: int) -> None:
        super().__init__()
        self.layers = nn.LayerList([_DecoderLayer(channels, feedforward) for _ in range(LAYERS)])


class _DecoderLayer(nn.Layer):
    """Queries look at each other, then at the maps, then each passes two linear layers. [N, Q, D] -> [N, Q, D]."""

    def __init__(self, channels: int, feedforward: int) -> None:
        super().__init__()
        self.self_attn = SelfAttention(channels, HEADS)
        self.norm1 = _layer_norm(channels)
        self.cross_attn = DeformableAttention(channels, HEADS, LEVELS)
        self.norm2 = _layer_norm(channels)
        self.linear1 = nn.Linear(channels, feedforward)
        self.linear2 = nn.Linear(feedforward, channels)
        self.norm3 = _layer_norm(channels)

    def forward(
        self,
        x: paddle.Tensor,
        positions: paddle.Tensor,
        boxes: paddle.Tensor,
        memory: paddle.Tensor,
        sizes: list[tuple[int, int]],
        *,
        allowed: paddle.Tensor | None = None,
    ) -> paddle.Tensor:
        x = self.norm1(x + self.self_attn(x, positions, allowed=allowed))
        x = self.norm2(x + self.cross_attn(x + positions, boxes, memory, sizes))
        return self.norm3(x + self.linear2(F.relu(self.linear1(x))))


def combine(embeddings: paddle.Tensor, prototypes: paddle.Tensor) -> paddle.Tensor:
    """Masks: [N, Q, P] and [N, P, h, w] -> [N, Q, h, w]."""
    height, width = prototypes.shape[2:]
    masks = paddle.bmm(embeddings, prototypes.flatten(2))
    return masks.reshape([-1, embeddings.shape[1], height, width])


def take_rows(x: paddle.Tensor, index: paddle.Tensor) -> paddle.Tensor:
    """Rows of each image: [N, L, D] and int64 [N, K] -> [N, K, D]."""
    return paddle.take_along_axis(x, index.unsqueeze(-1).tile([1, 1, x.shape[-1]]), axis=1, broadcast=False)


def _layer_norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, weight_attr=no_weight_decay(), bias_attr=no_weight_decay())
