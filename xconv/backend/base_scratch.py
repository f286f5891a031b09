"""The scratch memory of convolution, told from shapes: batches are cut by it, and what steps take is foretold."""

from __future__ import annotations

import math

import numpy as np

from xconv.backend.arrays import Arrays, cut, most
from xconv.backend.saved import ConvMemory, argmax_dtype
from xconv.shapes import Pads, Pair, window_output


class ConvScratch(Arrays):
    """Part of Backend."""

    def conv_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        itemsize: int,
        normalized: bool = False,
    ) -> ConvMemory:
        """What conv2d and conv2d_backward take; groups are told by the shapes, C channels and C/groups."""
        if x_shape[1] != w_shape[1]:
            return self._grouped(x_shape, w_shape, stride, pads, dilation, activation, itemsize)[1]
        image = self._conv_image(x_shape, w_shape, stride, pads, dilation, activation, itemsize)
        found = self._in_parts(x_shape[0], image, math.prod(w_shape) * itemsize)
        return found._replace(keeps_y=bool(activation))

    def conv_pool_scratch(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        pool_kernel: Pair,
        pool_stride: Pair,
        itemsize: int,
    ) -> ConvMemory:
        """What conv2d_relu_max_pool and its way back take."""
        unpooled = window_output((x_shape[2], x_shape[3]), (w_shape[2], w_shape[3]), stride, pads)
        pooled = window_output(unpooled, pool_kernel, pool_stride, (0, 0, 0, 0))
        argmax = x_shape[0] * w_shape[0] * math.prod(pooled) * np.dtype(argmax_dtype(pool_kernel)).itemsize
        image = self._conv_pool_image(x_shape, w_shape, stride, pads, pool_kernel, pool_stride, itemsize)
        return self._in_parts(x_shape[0], image, math.prod(w_shape) * itemsize)._replace(keeps_y=True, kept=argmax)

    def _in_parts(self, n: int, image: ConvMemory, dw: int) -> ConvMemory:
        """What a part of n images needs, from what one does; several parts add their dw to that of the first."""
        forward, backward = self._parts(n, image.most(0)), self._parts(n, image.most(1), dw)
        one, other = most(forward), most(backward)
        return ConvMemory(
            [one * size for size in image.forward],
            [*(other * size for size in image.backward), *[dw] * (len(backward) > 1)],
            (one * image.beside[0], other * image.beside[1]),
        )

    def _conv_image(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        itemsize: int,
    ) -> ConvMemory:
        """What conv2d and conv2d_backward need of one image: columns and product; pads, and dy where ReLU was open."""
        (_, c, h, w), (f, _, *kernel) = x_shape, w_shape
        places = math.prod(window_output((h, w), (kernel[0], kernel[1]), stride, pads, dilation))
        arrays = [places * math.prod(w_shape[1:]) * itemsize, places * f * itemsize]
        padded = c * (h + pads[0] + pads[1]) * (w + pads[2] + pads[3]) * itemsize if any(pads) else 0
        masked = places * f * (itemsize + 1) if activation else 0  # and the mask, of bytes
        return ConvMemory(arrays, arrays, (padded, padded + masked))

    def _conv_pool_image(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        pool_kernel: Pair,
        pool_stride: Pair,
        itemsize: int,
    ) -> ConvMemory:
        """The same of conv2d_relu_max_pool: the unpooled map is scratch, too, and so are masks for the pooling."""
        size = window_output((x_shape[2], x_shape[3]), (w_shape[2], w_shape[3]), stride, pads)
        unpooled = w_shape[0] * math.prod(size) * itemsize
        pooled = w_shape[0] * math.prod(window_output(size, pool_kernel, pool_stride, (0, 0, 0, 0)))
        conv = self._conv_image(x_shape, w_shape, stride, pads, (1, 1), None, itemsize)
        beside = conv.beside[0] + 4 * pooled, conv.beside[1] + 2 * pooled * (itemsize + 1)
        return ConvMemory([*conv.forward, unpooled], [*conv.backward, unpooled], beside)

    def _grouped(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        itemsize: int,
    ) -> tuple[list[slice], ConvMemory]:
        """The parts in which conv2d with groups goes through its batch, and what it takes.

        That is one group's channels and maps of a part, and what conv2d takes for these.
        """
        (n, c, h, w), (_, seen, *kernel) = x_shape, w_shape
        f = w_shape[0] * seen // c
        oh, ow = window_output((h, w), (kernel[0], kernel[1]), stride, pads, dilation)
        images = n
        while True:
            x, y = images * seen * h * w * itemsize, images * f * oh * ow * itemsize
            dw = f * math.prod(w_shape[1:]) * itemsize
            group = (images, seen, h, w), (f, *w_shape[1:]), stride, pads, dilation
            inner, plain = (self.conv_scratch(*group, relu, itemsize) for relu in (activation, None))
            forward = [x, y, inner.kept, *inner.forward]
            backward = [x, x, y, *[y, y] * bool(activation), dw, *plain.backward]
            found = ConvMemory(forward, backward, (inner.beside[0], plain.beside[1]), bool(activation))
            if images <= 1 or max(found.most(0), found.most(1)) <= self.workspace:
                return cut(n, images), found
            images = -(-images // 2)
