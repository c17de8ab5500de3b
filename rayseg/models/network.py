"""What every network of the zoo is: the methods that training, exporting and predicting rely on.

A family derives from one of the two classes and fills in what is left open; nothing outside asks which family it is.
"""

from __future__ import annotations

import copy
from typing import Any, ClassVar, Literal

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.static import InputSpec

from rayseg.geometry import Size
from rayseg.models.preprocess import Preprocess

Flavour = Literal["lean", "paddlex", "probabilities"]
LABELS_IN_A_BYTE = 256


class InstanceNetwork(nn.Layer):
    """A network that finds objects.

    Attributes:
        family: how its outputs are finished; a key of `rayseg.predict.families.FAMILIES`.
        arch: what PaddleX's inference.yml calls the family.
        min_subgraph_size: goes into that file; only TensorRT reads it.
        num_classes: without background.
        preprocess: what its input went through.
    """

    family: ClassVar[str]
    arch: ClassVar[str]
    min_subgraph_size: ClassVar[int]
    num_classes: int
    preprocess: Preprocess

    def forward(self, inputs: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Segment, with the inputs and outputs of PaddleX's exported programs.

        Args:
            inputs: `image` float32 [N, 3, H, W], normalised RGB; `im_shape` float32 [N, 2], height and width after
                resizing and before padding; `scale_factor` float32 [N, 2], resized / original.
        """
        raise NotImplementedError

    def loss(self, inputs: dict[str, paddle.Tensor], targets: dict[str, paddle.Tensor]) -> dict[str, paddle.Tensor]:
        """Scalars: the terms of the training loss, and `loss`, their total.

        Args:
            inputs: as for `forward`.
            targets: padded to the G objects of the fullest image, G may be 0:
                `gt_bbox` float32 [N, G, 4], xyxy in pixels of `image`, zeros for padding;
                `gt_class` int64 [N, G, 1], 0 for padding;
                `pad_gt_mask` float32 [N, G, 1], 1 for an object, 0 for padding;
                `gt_segm` uint8, bool or float32 [N, G, h, w], 0 or 1, at the size of `image` or at a quarter of it.
        """
        raise NotImplementedError

    def paddlex_program(self) -> tuple[nn.Layer, list[Any]]:
        """A layer in eval mode that gives PaddleX's outputs in PaddleX's order, and its input specification.

        The layer is a copy, so the network can go on training.
        """
        raise NotImplementedError

    def lean_program(self) -> tuple[nn.Layer, list[Any]]:
        """A layer in eval mode that stops where the numbers are small and takes any batch; see `paddlex_program`."""
        raise NotImplementedError


class SemanticNetwork(nn.Layer):
    """A network that gives each pixel a class.

    Attributes:
        family: see `InstanceNetwork`.
        num_classes: background included.
        preprocess: what its input went through.
    """

    family: ClassVar[str]
    num_classes: int
    preprocess: Preprocess

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        """Logits float32 [N, C, H, W] at the size of the input; the first are those that predict.

        Args:
            x: float32 [N, 3, H, W], normalised RGB.
        """
        raise NotImplementedError

    def loss(self, inputs: paddle.Tensor, targets: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Scalars: the terms of the training loss, and `loss`, their total.

        Args:
            inputs: as for `forward`.
            targets: label map, integer [N, H, W]; 255 marks pixels that do not count.
        """
        raise NotImplementedError

    def forward_paddlex(self, x: paddle.Tensor) -> paddle.Tensor:
        """Label map int32 [N, H, W], as a program exported by PaddleX gives it."""
        return paddle.argmax(self.forward(x)[0], axis=1, dtype="int32")

    def forward_lean(self, x: paddle.Tensor) -> paddle.Tensor:
        """Label map [N, H, W] in the smallest type that holds it: uint8 up to 256 classes, int32 above."""
        labels = self.forward_paddlex(x)
        return labels.astype("uint8") if self.num_classes <= LABELS_IN_A_BYTE else labels

    def forward_probabilities(self, x: paddle.Tensor) -> paddle.Tensor:
        """Probabilities uint8 [N, C, H, W] in 255ths, rounded."""
        return paddle.round(self.to_probabilities(self.forward(x)[0]) * 255).astype("uint8")

    @staticmethod
    def to_probabilities(scores: paddle.Tensor) -> paddle.Tensor:
        """What `forward` gives first, float32 [N, C, H, W], so that the classes of a pixel sum to 1."""
        return F.softmax(scores, axis=1)

    def program(self, flavour: Flavour, size: Size | None = None) -> tuple[nn.Layer, list[Any]]:
        """A layer in eval mode that ends in a label map or in probabilities, and its input specification, for any batch.

        The layer is a copy, so the network can go on training.

        Args:
            size: of the input; None takes any.
        """
        height, width = size.hw if size else (None, None)
        return _Deployed(self, flavour), [InputSpec([None, 3, height, width], "float32", "x")]


class _Deployed(nn.Layer):
    """A copy of a semantic network whose forward ends as a flavour says."""

    def __init__(self, network: SemanticNetwork, flavour: Flavour) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.flavour = flavour
        self.eval()

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.flavour == "probabilities":
            return self.network.forward_probabilities(x)
        return self.network.forward_lean(x) if self.flavour == "lean" else self.network.forward_paddlex(x)
