"""Feature pyramid: the coarse maps of a backbone flow down into the fine ones.

Paper: Lin et al., "Feature Pyramid Networks", CVPR 2017 (https://arxiv.org/abs/1612.03144). Code: PaddleDetection,
ppdet/modeling/necks/fpn.py, Apache-2.0; parameter names are the same.
Changed: four maps in, five out, without norms or extra convolutions, as in every model we publish; the coarser map is
enlarged to the size of the finer one, so image sides need not be multiples of 32.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn
from paddle.nn.initializer import XavierUniform


class FPN(nn.Layer):
    """Maps at strides 4, 8, 16, 32 in; maps of equal width at strides 4, 8, 16, 32, 64 out.

    Args:
        channels_in: of the four maps, finest first.
        channels: of each output.

    Attributes:
        channels_out: of the five outputs.
        strides: of the five outputs.
    """

    def __init__(self, channels_in: list[int], *, channels: int = 256) -> None:
        super().__init__()
        self.channels_out = [channels] * 5
        self.strides = [4, 8, 16, 32, 64]
        self._laterals = [f"fpn_inner_res{k}_sum_lateral" for k in (2, 3, 4)] + ["fpn_inner_res5_sum"]
        self._outputs = [f"fpn_res{k}_sum" for k in (2, 3, 4, 5)]
        for wide, lateral, output in zip(channels_in, self._laterals, self._outputs, strict=True):
            self.add_sublayer(lateral, nn.Conv2D(wide, channels, 1, weight_attr=_xavier(fan_out=wide)))
            self.add_sublayer(output, nn.Conv2D(channels, channels, 3, padding=1, weight_attr=_xavier()))

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        """Four maps, finest first -> five maps, finest first; the last is every second pixel of the one before."""
        merged = [getattr(self, name)(maps[k]) for k, name in enumerate(self._laterals)]
        for level in (2, 1, 0):
            fine = merged[level]
            coarse = F.interpolate(merged[level + 1], size=[fine.shape[2], fine.shape[3]], mode="nearest")
            merged[level] = fine + coarse
        outs = [getattr(self, name)(merged[k]) for k, name in enumerate(self._outputs)]
        return [*outs, F.max_pool2d(outs[-1], kernel_size=1, stride=2)]


def _xavier(*, fan_out: int | None = None) -> paddle.ParamAttr:
    return paddle.ParamAttr(initializer=XavierUniform(fan_out=fan_out))
