"""Convolution by cuDNN on the CuPy backend: which shapes it takes, in what parts, and what it reads and writes."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from xconv.backend import cudnn
from xconv.backend.arrays import most
from xconv.backend.base import Array, ConvMemory, Need
from xconv.backend.cuda_kernels import BLOCK, MOST_BLOCKS
from xconv.backend.cudnn_plans import ALIGNMENT, OPERATIONS, B, Conv, Plan, W, X, Y
from xconv.backend.cupy_products import CupyProducts
from xconv.shapes import Pads, Pair, same_shape

TILE = 32  # of layout.cu: a block is TILE x 8 threads
_SUM_PART = 8192  # entries of a channel that one block sums, up to _MOST_SUM_PARTS blocks a channel
_MOST_SUM_PARTS = 64


class Route(NamedTuple):
    """How cuDNN goes through a batch: the parts, and for each size of them the plans by operation."""

    conv: Conv
    parts: list[slice]
    plans: dict[int, dict[str, Plan]]

    def workspace(self, *operations: str) -> int:
        """The most bytes that a plan for one of these needs."""
        return max(plans[operation].workspace for plans in self.plans.values() for operation in operations)


class CudnnSaved(NamedTuple):
    """What conv2d keeps: x and w as cuDNN read them, so that the way back does not convert them again."""

    route: Route
    x: Array
    w: Array
    y: Array | None  # kept only where an activation needs it


class CupyCudnn(CupyProducts):
    """Part of CupyBackend."""

    algorithm: str | None = None  # "im2col" leaves cuDNN out, whatever it has plans for

    def __init__(self, device: int = 0) -> None:
        super().__init__(device)
        with self._here:
            self._cudnn, self._about_cudnn = cudnn.find(self.xp)
        self._routes: dict[tuple[Any, ...], Route | None] = {}

    def describe(self) -> dict[str, Any]:
        """Device, versions and settings; `convolution` tells what computes it, and without cuDNN what gives it."""
        by = f"cuDNN {self._about_cudnn}" if self._cudnn else f"im2col and cuBLAS (cuDNN is {self._about_cudnn})"
        return {**super().describe(), "convolution": by}

    def notes(self) -> list[tuple[str, str | None]]:
        """Where cuDNN is not used: why, with the line that gives it."""
        if self._cudnn:
            return super().notes()
        why, _, fix = self._about_cudnn.rpartition(": ")
        return [(f"cuDNN is {why}: convolutions run by own kernels and cuBLAS", fix), *super().notes()]

    # ------------------------------------------------------------------ the rule

    def _route(
        self,
        x_shape: tuple[int, ...],
        w_shape: tuple[int, ...],
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        itemsize: int,
    ) -> Route | None:
        """By cuDNN where it is there and has plans for all three operations, which are built here; else None.

        A fixed rule on shapes, precision and the workspace: half of that is for plans, the other half for maps in
        their layout. float64 is our own kernels' and cuBLAS's, and so is an empty batch.
        """
        if self._cudnn is None or self.algorithm == "im2col" or itemsize != 4 or 0 in x_shape:
            return None
        conv = Conv(x_shape, w_shape, stride, pads, dilation, self.precision)
        key = conv, self.workspace
        if key not in self._routes:
            self._routes[key] = self._find_route(self._cudnn, conv)
        return self._routes[key]

    def _find_route(self, library: cudnn.Cudnn, conv: Conv) -> Route | None:
        x_image, y_image = (math.prod(shape[1:]) * _itemsize(conv) for shape in (conv.x, conv.y))
        parts = self._parts(conv.x[0], 2 * (x_image + y_image if conv.nhwc else y_image))
        found: dict[int, dict[str, Plan]] = {}
        for size in {part.stop - part.start for part in parts}:
            found[size] = {}
            for operation in OPERATIONS:
                plan = library.plan(operation, conv._replace(x=(size, *conv.x[1:])), self.workspace // 2)
                if plan is None:
                    return None
                found[size][operation] = plan
        return Route(conv, parts, found)

    def _route_memory(self, route: Route, activation: str | None) -> ConvMemory:
        """What a convolution by cuDNN takes, in bytes."""
        conv, size, largest = route.conv, _itemsize(route.conv), most(route.parts)
        x, y = (largest * math.prod(shape[1:]) * size for shape in (conv.x, conv.y))
        w, workspaces = math.prod(conv.w) * size, [route.workspace("fprop"), route.workspace("dgrad", "wgrad")]
        several = [math.prod(conv.w) * 4] * (len(route.parts) > 1)
        if not conv.nhwc:
            masked = [y] * bool(activation)
            return ConvMemory([workspaces[0]], [*masked, workspaces[1], *several], keeps_y=bool(activation))
        kept = math.prod(conv.x) * size + w
        return ConvMemory(
            [y, workspaces[0]], [y, workspaces[1], max(x, w), *several], keeps_y=bool(activation), kept=kept
        )

    # ------------------------------------------------------------------ forward and backward

    def _cudnn_conv2d(
        self, x: Array, w: Array, b: Array, route: Route, activation: str | None
    ) -> tuple[Array, CudnnSaved]:
        conv, relu = route.conv, activation == "relu"
        y = self.empty(conv.y, x.dtype)
        if conv.nhwc:
            x, w = self._to_nhwc(x, conv), self._to_nhwc(w, conv)
        for part in route.parts:
            plan = route.plans[part.stop - part.start]["fprop"]
            if conv.nhwc:
                maps = self._nhwc(y[part].shape, conv)
                self._run(plan, {X: x[part], W: w}, Y, maps)
                self._from_nhwc(maps, y[part], b, relu)
                del maps  # before the next part's are made
            else:
                self._run(plan, {X: x[part], W: w, B: b}, Y, y[part])
        if relu and not conv.nhwc:  # by a kernel of ours, which keeps NaN: training must find it in the loss
            self._kernels.each("channels", "relu_in_place_f32", y.size, y, y.size)
        return y, CudnnSaved(route, x, w, y if relu else None)

    def _cudnn_conv2d_backward(
        self, dy: Array, saved: CudnnSaved, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        route, x, w, y = saved
        conv = route.conv
        same_shape(dy.shape, conv.y, "conv2d_backward: dy")
        dy = self._flat(dy)
        dx = self.empty(conv.x, dy.dtype) if need.x else None
        dw = db = None
        if need.params:
            dw = self.empty(conv.w, dy.dtype) if need.dw is None else need.dw
            db = self._bias_gradient(dy, y)
        for part in route.parts:
            plans = route.plans[part.stop - part.start]
            maps = self._masked(dy[part], None if y is None else y[part], conv)
            if dw is not None:
                into = dw if part.start == 0 else self.empty(dw.shape, dw.dtype)
                self._gradient(plans["wgrad"], {X: x[part], Y: maps}, W, into, conv)
                if part.start:
                    dw += into
                del into
            if dx is not None:
                self._gradient(plans["dgrad"], {Y: maps, W: w}, X, dx[part], conv)
            del maps
        return dx, dw, db

    def _gradient(self, plan: Plan, given: dict[int, Array], uid: int, out: Array, conv: Conv) -> None:
        """A plan's result in `out`, whose axes are those of x or of w."""
        if conv.nhwc:
            made = self._nhwc(out.shape, conv)
            self._run(plan, given, uid, made)
            self._from_nhwc(made, out)
        else:
            self._run(plan, given, uid, out)

    def _masked(self, dy: Array, y: Array | None, conv: Conv) -> Array:
        """dy of some images as cuDNN reads it, 0 where the ReLU was shut."""
        if conv.nhwc:
            return self._to_nhwc(dy, conv, y)
        return dy if y is None else self.relu_backward(dy, y)

    def _run(self, plan: Plan, given: dict[int, Array], uid: int, out: Array) -> None:
        """The plan on contiguous arrays; those at an address that cuDNN cannot read, such as a batch's part or a weight
        in the middle of a buffer, through a copy.
        """
        assert self._cudnn is not None
        arrays = {name: array if _aligned(array) else array.copy() for name, array in given.items()}
        arrays[uid] = out if _aligned(out) else self.empty(out.shape, out.dtype)
        workspace = self.empty((max(1, plan.workspace),), np.uint8)
        self._cudnn.run(plan, arrays, workspace)
        if arrays[uid] is not out:
            out[...] = arrays[uid]

    # ------------------------------------------------------------------ layouts and sums

    def _nhwc(self, shape: tuple[int, ...], conv: Conv) -> Array:
        """Memory for [N,C,H,W] that lies as [N,H,W,C]; bfloat16, which CuPy has no dtype for, as uint16."""
        n, c, h, w = shape
        return self.empty((n, h, w, c), np.uint16 if conv.precision == "bf16" else np.float32)

    def _to_nhwc(self, maps: Array, conv: Conv, mask: Array | None = None) -> Array:
        """[N,C,H,W] -> [N,H,W,C], rounded where the precision is bf16; 0 where `mask` is not positive."""
        out = self._nhwc(maps.shape, conv)
        self._over_tiles("maps_to_nhwc", maps.shape, out, maps, mask, out)
        return out

    def _from_nhwc(self, maps: Array, out: Array, bias: Array | None = None, relu: bool = False) -> None:
        """[N,H,W,C] -> out[N,C,H,W], plus the bias and after a ReLU where asked for."""
        self._over_tiles("nhwc_to_maps", out.shape, maps, maps, bias, out, then=(int(relu),))

    def _over_tiles(
        self, kernel: str, shape: tuple[int, ...], nhwc: Array, *args: Any, then: tuple[int, ...] = ()
    ) -> None:
        """A kernel of layout.cu, over maps of this shape [N,C,H,W]; the NHWC array's dtype tells which one."""
        n, c, p = shape[0], shape[1], shape[2] * shape[3]
        suffix = "bf16" if nhwc.dtype == np.uint16 else "f32"
        blocks = (min(n * -(-c // TILE) * -(-p // TILE), MOST_BLOCKS),)
        self._kernels.blocks("layout", f"{kernel}_{suffix}", blocks, (TILE, 8), *args, n, c, p, *then)

    def _bias_gradient(self, dy: Array, mask: Array | None) -> Array:
        """dy[N,C,H,W] -> [C]; only where `mask` is positive. Cut by shapes alone: a sum never changes its order."""
        n, c, h, w = dy.shape
        parts = max(1, min(n, _MOST_SUM_PARTS, n * h * w // _SUM_PART))
        sums = self.empty((parts, c), dy.dtype)
        self._kernels.blocks("channels", "channel_sums_f32", (c, parts), (BLOCK,), dy, mask, sums, n, h * w)
        return sums.reshape(c) if parts == 1 else self._column_sums(sums, "f32")


def _itemsize(conv: Conv) -> int:
    """Bytes of an entry as cuDNN reads it."""
    return 2 if conv.precision == "bf16" else 4


def _aligned(array: Array) -> bool:
    return int(array.data.ptr) % ALIGNMENT == 0
