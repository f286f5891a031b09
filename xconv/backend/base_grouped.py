"""Convolution with groups (Krizhevsky et al. 2012), on every backend: group by group, by its plain convolution."""

from __future__ import annotations

from typing import Any

from xconv.backend.base_scratch import ConvScratch
from xconv.backend.saved import Array, ConvSaved, Need
from xconv.errors import ShapeError
from xconv.shapes import Pads, Pair, same_shape, window_output


class GroupedConv(ConvScratch):
    """Part of Backend."""

    conv2d: Any
    conv2d_backward: Any

    def _grouped_conv2d(
        self,
        x: Array,
        w: Array,
        b: Array,
        stride: Pair,
        pads: Pads,
        dilation: Pair,
        activation: str | None,
        groups: int,
    ) -> tuple[Array, Any]:
        """conv2d group by group, on every backend. Right for any `groups`, C (depthwise) too, but one call a group is
        not the fast way to do that.
        """
        (n, c), f = x.shape[:2], w.shape[0]
        if c % groups or f % groups:
            raise ShapeError(f"conv2d: groups must divide channels and filters. Received: {groups}, of {c} and {f}")
        same_shape(w.shape[1:2], (c // groups,), "conv2d: channels of w, which sees one group")
        y = self.empty((n, f, *window_output(x.shape[2:], w.shape[2:], stride, pads, dilation)), x.dtype)
        for part in self._grouped(x.shape, w.shape, stride, pads, dilation, activation, x.itemsize)[0]:
            for channels, filters in _groups(c, f, groups):
                seen = self.contiguous(x[part, channels])
                y[part, filters] = self.conv2d(seen, w[filters], b[filters], stride, pads, dilation, activation)[0]
                del seen
        return y, ConvSaved(x, w, y if activation else None, stride, pads, dilation, groups)

    def _grouped_conv2d_backward(
        self, dy: Array, saved: Any, need: Need
    ) -> tuple[Array | None, Array | None, Array | None]:
        x, w, y, stride, pads, dilation, groups = saved
        dx = self.empty(x.shape, x.dtype) if need.x else None
        dw, db = (self.empty(s, w.dtype) if need.params else None for s in (w.shape, w.shape[:1]))
        if need.dw is not None:
            dw, need = need.dw, need._replace(dw=None)
        activation = None if y is None else "relu"
        for part in self._grouped(x.shape, w.shape, stride, pads, dilation, activation, x.itemsize)[0]:
            for channels, filters in _groups(x.shape[1], w.shape[0], groups):
                opened = None if y is None else self.contiguous(y[part, filters])
                group = ConvSaved(self.contiguous(x[part, channels]), w[filters], opened, stride, pads, dilation)
                got = self.conv2d_backward(self.contiguous(dy[part, filters]), group, need)
                if dx is not None:
                    dx[part, channels] = got[0]
                if dw is not None and db is not None:
                    if part.start:
                        dw[filters] += got[1]
                        db[filters] += got[2]
                    else:
                        dw[filters], db[filters] = got[1:]
                del opened, group, got
        return dx, dw, db


def _groups(c: int, f: int, groups: int) -> list[tuple[slice, slice]]:
    """The channels and the filters of each group."""
    c, f = c // groups, f // groups
    return [(slice(g * c, (g + 1) * c), slice(g * f, (g + 1) * f)) for g in range(groups)]
