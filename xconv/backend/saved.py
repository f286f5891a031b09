"""What crosses the seam besides arrays: which gradients are needed, and what operations keep for their way back."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from xconv.shapes import Pads, Pair

Array = Any  # np.ndarray on NumPy and Numba, cupy.ndarray on CuPy


class Need(NamedTuple):
    """Which gradients a backward pass must give; those not needed come back as None.

    `dw` is memory for the gradient of w: an operation may write it there and give that very array, which spares a copy.
    """

    x: bool = True
    params: bool = True
    dw: Any = None


EVERYTHING = Need()


class ConvSaved(NamedTuple):
    """What conv2d keeps for its backward pass; the columns are rebuilt there, since they are the bulk of the memory."""

    x: Array
    w: Array
    y: Array | None  # kept only where an activation needs it
    stride: Pair
    pads: Pads
    dilation: Pair
    groups: int = 1


class ConvPoolSaved(NamedTuple):
    """What conv2d_relu_max_pool keeps: the pooled map and where each maximum was, never the unpooled map."""

    x: Array
    w: Array
    y: Array
    argmax: Array
    stride: Pair
    pads: Pads
    pool_kernel: Pair
    pool_stride: Pair


class ConvMemory(NamedTuple):
    """What a convolution takes beside its arguments and results, in bytes, told from shapes alone."""

    forward: list[int]  # the arrays of the backend's pool that it needs for a while: they stay in the pool
    backward: list[int]
    beside: Pair = (0, 0)  # what it needs for a while, forward and backward, that goes back to the system
    keeps_y: bool = False  # whether the way back needs y, which then lives until then, as x does
    kept: int = 0  # what else is kept until then

    def most(self, way: int) -> int:
        """All that is needed for a while on the way forward (0) or back (1)."""
        return sum((self.forward, self.backward)[way]) + self.beside[way]


class BatchNormSaved(NamedTuple):
    """What batch_norm keeps: x, from which the normalised map is rebuilt, and for each channel [C] its statistics."""

    x: Array
    gamma: Array
    mean: Array
    inv_std: Array  # 1 / sqrt(var + eps)
    var: Array  # of the batch, biased: for the running statistics of a layer


class NormReLUSaved(NamedTuple):
    """What batch_norm_relu keeps."""

    norm: BatchNormSaved
    beta: Array
    y: Any  # None where it is found again from x


def argmax_dtype(kernel: Pair) -> Any:
    """uint8 where every index of the window fits, else int32."""
    return np.uint8 if kernel[0] * kernel[1] <= 256 else np.int32
