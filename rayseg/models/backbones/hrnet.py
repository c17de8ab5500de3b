"""HRNet: branches at strides 4, 8, 16 and 32 run side by side and exchange what they see; the backbone of OCRNet.

Paper: J. Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2020,
https://arxiv.org/abs/1908.07919.
Original code: https://github.com/HRNet/HRNet-Semantic-Segmentation (MIT). Parameter names, and the padding of the strided
convolutions, are those of PaddleSeg's version (https://github.com/PaddlePaddle/PaddleSeg, Apache-2.0), so its weights load.
Changed: convolutions start from Paddle's default (He) instead of a normal distribution of width 0.001, which matters only
where training starts without weights.
"""

from __future__ import annotations

import paddle
import paddle.nn.functional as F
from paddle import nn

from rayseg.models.semantic.layers import ConvBN, ConvBNReLU, resize_like

STEM_CHANNELS = 64
STEM_BLOCKS = 4
EXPANSION = 4
BLOCKS_PER_BRANCH = 4
# How often the branches exchange, in the stages of two, three and four branches.
EXCHANGES = (1, 4, 3)


def hrnet_w18() -> HRNet:
    """Branches 18, 36, 72 and 144 channels wide."""
    return HRNet(width=18)


def hrnet_w48() -> HRNet:
    """Branches 48, 96, 192 and 384 channels wide."""
    return HRNet(width=48)


class HRNet(nn.Layer):
    """One map at stride 4, the concatenation of all four branches: `out_channels` deep.

    Args:
        width: channels of the finest branch; each coarser one has twice as many.
    """

    def __init__(self, *, width: int) -> None:
        super().__init__()
        widths = [width * 2**k for k in range(4)]
        self.out_channels = sum(widths)
        stem_out = STEM_CHANNELS * EXPANSION
        self.conv_layer1_1 = ConvBNReLU(3, STEM_CHANNELS, 3, stride=2, padding="same")
        self.conv_layer1_2 = ConvBNReLU(STEM_CHANNELS, STEM_CHANNELS, 3, stride=2, padding="same")
        self.la1 = nn.Sequential(
            *[
                (f"bb_layer2_{k + 1}", _Bottleneck(STEM_CHANNELS if k == 0 else stem_out, STEM_CHANNELS))
                for k in range(STEM_BLOCKS)
            ]
        )
        self.tr1 = _Transition([stem_out], widths[:2], tag="tr1")
        self.st2 = _stage(widths[:2], EXCHANGES[0], tag="st2")
        self.tr2 = _Transition(widths[:2], widths[:3], tag="tr2")
        self.st3 = _stage(widths[:3], EXCHANGES[1], tag="st3")
        self.tr3 = _Transition(widths[:3], widths, tag="tr3")
        self.st4 = _stage(widths, EXCHANGES[2], tag="st4")

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """float32 [N, out_channels, H / 4, W / 4], rounded up.

        Args:
            x: float32 [N, 3, H, W], any height and width.
        """
        maps = [self.la1(self.conv_layer1_2(self.conv_layer1_1(x)))]
        maps = self.st2(self.tr1(maps))
        maps = self.st3(self.tr2(maps))
        finest, *coarser = self.st4(self.tr3(maps))
        return paddle.concat([finest, *[resize_like(x, finest) for x in coarser]], axis=1)


def _stage(widths: list[int], exchanges: int, *, tag: str) -> nn.Sequential:
    names = [f"{tag}_{k + 1}" for k in range(exchanges)]
    return nn.Sequential(*[(f"stage_{name}", _Exchange(widths, tag=name)) for name in names])


class _Exchange(nn.Layer):
    """Each branch on its own, then every branch receives from all others."""

    def __init__(self, widths: list[int], *, tag: str) -> None:
        super().__init__()
        self.branches_func = _Branches(widths, tag=tag)
        self.fuse_func = _Fusion(widths, tag=tag)

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        return self.fuse_func(self.branches_func(maps))


class _Branches(nn.Layer):
    def __init__(self, widths: list[int], *, tag: str) -> None:
        super().__init__()
        self._names = [
            [f"bb_{tag}_branch_layer_{branch + 1}_{k + 1}" for k in range(BLOCKS_PER_BRANCH)] for branch in range(len(widths))
        ]
        for names, width in zip(self._names, widths, strict=True):
            for name in names:
                self.add_sublayer(name, _BasicBlock(width))

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        out = []
        for branch, x in enumerate(maps):
            for name in self._names[branch]:
                x = getattr(self, name)(x)
            out.append(x)
        return out


class _Fusion(nn.Layer):
    """Every branch plus what reaches it from the others.

    From a coarser branch: 1 x 1 convolution, enlarged; from a finer one: as many strided convolutions as there are halvings.
    """

    def __init__(self, widths: list[int], *, tag: str) -> None:
        super().__init__()
        self._names: dict[tuple[int, int], list[str]] = {}
        for to, to_width in enumerate(widths):
            for source, width in enumerate(widths):
                if source == to:
                    continue
                stem = f"residual_{tag}_layer_{to + 1}_{source + 1}"
                if source > to:
                    names = [stem]
                    self.add_sublayer(stem, ConvBN(width, to_width, 1))
                else:
                    names = [f"{stem}_{k + 1}" for k in range(to - source)]
                    for name in names[:-1]:
                        self.add_sublayer(name, ConvBNReLU(width, width, 3, stride=2, padding="same"))
                    self.add_sublayer(names[-1], ConvBN(width, to_width, 3, stride=2, padding="same"))
                self._names[to, source] = names

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        return [F.relu(self._receive(maps, to)) for to in range(len(maps))]

    def _receive(self, maps: list[paddle.Tensor], to: int) -> paddle.Tensor:
        total = maps[to]
        for source, x in enumerate(maps):
            if source != to:
                for name in self._names[to, source]:
                    x = getattr(self, name)(x)
                total = total + (resize_like(x, total) if source > to else x)
        return total


class _Transition(nn.Layer):
    """One branch more, halved from the coarsest; those there already are changed only where their width does."""

    def __init__(self, in_widths: list[int], out_widths: list[int], *, tag: str) -> None:
        super().__init__()
        self._names: list[str | None] = []
        for k, out in enumerate(out_widths):
            new = k >= len(in_widths)
            width = in_widths[-1] if new else in_widths[k]
            name = f"transition_{tag}_layer_{k + 1}" if new or width != out else None
            if name is not None:
                self.add_sublayer(name, ConvBNReLU(width, out, 3, stride=2 if new else 1, padding="same"))
            self._names.append(name)

    def forward(self, maps: list[paddle.Tensor]) -> list[paddle.Tensor]:
        out = []
        for k, name in enumerate(self._names):
            x = maps[min(k, len(maps) - 1)]
            out.append(x if name is None else getattr(self, name)(x))
        return out


class _Bottleneck(nn.Layer):
    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        out_channels = width * EXPANSION
        self.conv1 = ConvBNReLU(in_channels, width, 1)
        self.conv2 = ConvBNReLU(width, width, 3)
        self.conv3 = ConvBN(width, out_channels, 1)
        self.conv_down = ConvBN(in_channels, out_channels, 1) if in_channels != out_channels else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.conv3(self.conv2(self.conv1(x)))
        return F.relu(y + (x if self.conv_down is None else self.conv_down(x)))


class _BasicBlock(nn.Layer):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = ConvBNReLU(width, width, 3)
        self.conv2 = ConvBN(width, width, 3)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return F.relu(self.conv2(self.conv1(x)) + x)
