"""Batch norm over the batches of all workers, so that two workers with b images each train as one with 2b.

On GPUs Paddle's own kernel does it (`paddle.nn.SyncBatchNorm`, over NCCL). Paddle has none for CPUs, so `SharedBatchNorm` here
says the same in plain operators over any backend. It is also the definition that the kernel is compared with.

The algebra of merging counts, means and sums of squares of parts: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise
Algorithm for Computing Sample Variances", 1979. The gradient: Ioffe, Szegedy, "Batch Normalization", 2015, section 3, with its
two sums taken over all workers.
"""

from __future__ import annotations

from typing import Any, TypeVar

import paddle
from paddle import distributed, nn
from paddle.autograd import PyLayer
from paddle.nn.layer.norm import _BatchNormBase

L = TypeVar("L", bound=nn.Layer)


class SharedBatchNorm(nn.Layer):
    """A batch norm that takes mean and variance over the workers' batches together. Channels first, any number of axes.

    Shares weight, bias and running statistics with the layer it stands for, under the same names. In evaluation it does what
    that layer does. The workers may hold batches of different size. All workers must come by here equally often: one that
    skips this layer leaves the others waiting.
    """

    def __init__(self, layer: _BatchNormBase) -> None:
        super().__init__()
        self.weight, self.bias = layer.weight, layer.bias
        self._mean, self._variance = layer._mean, layer._variance
        self._momentum, self._epsilon = layer._momentum, layer._epsilon
        self.training = layer.training

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """Float (N, C, ...) to the same shape and dtype; statistics are float32 whatever comes in."""
        if not self.training:
            return nn.functional.batch_norm(
                x, self._mean, self._variance, self.weight, self.bias, training=False, epsilon=self._epsilon
            )
        with paddle.amp.auto_cast(enable=False):
            normal, mean, variance = _Normalise.apply(x.astype("float32"), self._epsilon)
            with paddle.no_grad():
                # Paddle's rule: the share `momentum` of the old stays, and the variance is that of the batch, uncorrected
                for kept, new in ((self._mean, mean), (self._variance, variance)):
                    kept.set_value(kept * self._momentum + new * (1 - self._momentum))
            shape = [1, -1] + [1] * (x.ndim - 2)
            if self.weight is not None:
                normal = normal * self.weight.astype("float32").reshape(shape)
            if self.bias is not None:
                normal = normal + self.bias.astype("float32").reshape(shape)
            return normal.astype(x.dtype)


def share_batch_norms(network: L) -> L:
    """Replace, in place, every batch norm that looks at its batch by one that looks at all workers' batches.

    Layers with `use_global_stats` (frozen ones) stay: they look at no batch. Names in `state_dict` do not change.

    Raises:
        NotImplementedError: a batch norm with channels last; the zoo has none.
    """
    if _follows_batch(network):
        return _shared(network)
    for parent in network.sublayers(include_self=True):
        for name, child in list(parent.named_children()):
            if _follows_batch(child):
                setattr(parent, name, _shared(child))
    return network


def _follows_batch(layer: nn.Layer) -> bool:
    return isinstance(layer, _BatchNormBase) and not isinstance(layer, nn.SyncBatchNorm) and not layer._use_global_stats


def _shared(layer: Any) -> Any:
    if layer._data_format[1] != "C":
        raise NotImplementedError(f"{layer}: batch norm over workers is written for channels first")
    if distributed.get_backend() != "NCCL":
        return SharedBatchNorm(layer)
    kernel = nn.SyncBatchNorm(layer._num_features, layer._momentum, layer._epsilon, data_format=layer._data_format)
    kernel.weight, kernel.bias, kernel._mean, kernel._variance = layer.weight, layer.bias, layer._mean, layer._variance
    kernel.training = layer.training
    return kernel


class _Normalise(PyLayer):
    """(x - mean) / sqrt(variance + epsilon) over all workers; also returns mean and variance, which carry no gradient."""

    @staticmethod
    def forward(ctx: Any, x: paddle.Tensor, epsilon: float) -> tuple[paddle.Tensor, paddle.Tensor, paddle.Tensor]:
        axes = [0, *range(2, x.ndim)]
        shape = [1, -1] + [1] * (x.ndim - 2)
        count = x.size // x.shape[1]
        mine = x.mean(axes)
        # Sums of squares about each worker's own mean: about zero they would cancel where means are large.
        spread = ((x - mine.reshape(shape)) ** 2).sum(axes)
        parts = _gathered(paddle.concat([paddle.full([1], count, "float32"), mine, spread]))
        counts, (means, spreads) = parts[:, :1], parts[:, 1:].split(2, axis=1)
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (spreads + counts * (means - mean) ** 2).sum(0) / total
        scale = (variance + epsilon).rsqrt()
        normal = (x - mean.reshape(shape)) * scale.reshape(shape)
        ctx.save_for_backward(normal, scale, total)
        ctx.mark_non_differentiable(mean, variance)
        return normal, mean, variance

    @staticmethod
    def backward(ctx: Any, gradient: paddle.Tensor, *_: paddle.Tensor) -> paddle.Tensor:
        normal, scale, total = ctx.saved_tensor()
        axes = [0, *range(2, gradient.ndim)]
        shape = [1, -1] + [1] * (gradient.ndim - 2)
        sums = paddle.concat([gradient.sum(axes), (gradient * normal).sum(axes)])
        distributed.all_reduce(sums)
        of_gradient, of_product = (part.reshape(shape) for part in (sums / total).split(2))
        return scale.reshape(shape) * (gradient - of_gradient - normal * of_product)


def _gathered(row: paddle.Tensor) -> paddle.Tensor:
    """The rows of all workers, stacked by rank."""
    rows: list[paddle.Tensor] = []
    distributed.all_gather(rows, row)
    return paddle.stack(rows)
