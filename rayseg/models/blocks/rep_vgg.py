"""RepVGG convolution: two branches while training, one equal 3 x 3 convolution when deployed.

Paper: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021 (https://arxiv.org/abs/2101.03697).
Code of the variant with the learned branch weight: PaddleDetection, ppdet/modeling/backbones/cspresnet.py, Apache-2.0.
Changed: the branch weight multiplies the 1 x 1 branch at every value; the original skips it when it is exactly 0, which
adds the branch at full strength instead. Fusion is a function that returns a new model and leaves the given one alone.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.blocks.conv_bn import Activation, ConvBN

Model = TypeVar("Model", bound=nn.Layer)


class RepVgg(nn.Layer):
    """act(conv3x3(x) + alpha * conv1x1(x)), each branch with its batch norm. (N, C, H, W) -> (N, C, H, W).

    Args:
        channels: of input and output.
        act: applied to the sum.
        use_alpha: learn alpha (starts at 1); otherwise the branches are summed as they are.
    """

    def __init__(self, channels: int, *, act: Activation, use_alpha: bool) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 3, act=None)
        self.conv2 = ConvBN(channels, channels, 1, act=None)
        self.act = act
        self.use_alpha = use_alpha
        if use_alpha:
            self.alpha = self.create_parameter([1], default_initializer=nn.initializer.Constant(1.0))
        self.deployed = False

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.deployed:
            return self.act(self.conv(x))
        narrow = self.conv2(x)
        return self.act(self.conv1(x) + (self.alpha * narrow if self.use_alpha else narrow))

    def deploy(self) -> None:
        """Replace both branches by the one convolution that equals them in evaluation mode. Cannot be undone."""
        if self.deployed:
            return
        wide_kernel, wide_bias = _fold_batch_norm(self.conv1)
        narrow_kernel, narrow_bias = _fold_batch_norm(self.conv2)
        alpha = self.alpha if self.use_alpha else 1.0
        channels = wide_kernel.shape[0]
        self.conv = nn.Conv2D(channels, channels, 3, padding=1)
        self.conv.weight.set_value(wide_kernel + alpha * F.pad(narrow_kernel, [1, 1, 1, 1]))
        self.conv.bias.set_value(wide_bias + alpha * narrow_bias)
        del self.conv1, self.conv2
        if self.use_alpha:
            del self.alpha
        self.deployed = True


class RepResidual(nn.Layer):
    """A 3 x 3 ConvBN followed by a RepVgg, with or without the input added. (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, *, act: Activation, shortcut: bool, use_alpha: bool) -> None:
        super().__init__()
        self.conv1 = ConvBN(channels, channels, 3, act=act)
        self.conv2 = RepVgg(channels, act=act, use_alpha=use_alpha)
        self.shortcut = shortcut

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


def deployed_copy(model: Model) -> Model:
    """A copy of a model in evaluation mode whose RepVgg layers are single convolutions.

    Its outputs equal the model's own in evaluation mode up to float32 rounding (relative 1e-5); its parameters have
    other names, so it is for export and inference, not for saving weights. The given model is not touched.
    """
    fused = copy.deepcopy(model)
    fused.eval()
    with paddle.no_grad():
        for layer in fused.sublayers(include_self=True):
            if isinstance(layer, RepVgg):
                layer.deploy()
    return fused


def _fold_batch_norm(branch: ConvBN) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Kernel and bias of the convolution that equals conv followed by batch norm with its running statistics."""
    bn = branch.bn
    assert bn.weight is not None and bn.bias is not None
    gain = bn.weight / paddle.sqrt(bn._variance + bn._epsilon)
    return branch.conv.weight * gain.reshape([-1, 1, 1, 1]), bn.bias - bn._mean * gain
