"""How fresh weights start where Paddle's own start would not do."""

from __future__ import annotations

import math

from paddle import nn


def start_convolutions_by_fan_out(network: nn.Layer) -> None:
    """Draw the weights of every convolution in `network` anew: normal, deviation sqrt(2 / fan_out).

    Fan-out is kernel height x kernel width x output channels / groups (He et al., 2015, https://arxiv.org/abs/1502.01852,
    section 2.2). Paddle's start counts all input channels even of a depthwise convolution, whose weights are then too small.
    """
    for layer in network.sublayers():
        if isinstance(layer, nn.Conv2D):
            channels_out, _, height, width = layer.weight.shape
            fan_out = height * width * channels_out // layer._groups
            nn.initializer.Normal(std=math.sqrt(2 / fan_out))(layer.weight)
