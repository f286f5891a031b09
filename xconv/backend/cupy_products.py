"""Matrix products on the CuPy backend, by cuBLAS, in the precision asked for."""

from __future__ import annotations

import numpy as np

from xconv.backend.base import EVERYTHING, Array, Need
from xconv.backend.cupy_arrays import CupyArrays
from xconv.backend.precision import PRECISIONS
from xconv.shapes import same_shape


class CupyProducts(CupyArrays):
    """Part of CupyBackend."""

    precisions = PRECISIONS

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """See Backend.matmul; by cuBLAS, transposed views without a copy."""
        self._suffix("matmul", a, b)
        out = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
        self._gemm(a, b, out)
        return out

    def _gemm(self, a: Array, b: Array, out: Array, accumulate: bool = False) -> None:
        """out = a @ b, added to `out` where `accumulate`; float32 in the precision asked for."""
        if a.dtype == np.float32 and self.precision == "bf16":
            a, b = self._bf16(a), self._bf16(b)
        self._cublas.gemm(a, b, out, accumulate, tf32=self.precision == "tf32")

    def _bf16(self, a: Array) -> Array:
        """a as bfloat16, which CuPy has no dtype for: as uint16; a transposed view stays one."""
        turned = a.ndim == 2 and not a.flags.c_contiguous and a.T.flags.c_contiguous
        a = self._flat(a.T if turned else a)
        out = self.empty(a.shape, np.uint16)
        self._kernels.each("layout", "cast_bf16", a.size, a, out, a.size)
        return out.T if turned else out

    def dense(self, x: Array, w: Array, b: Array, activation: str | None = None) -> Array:
        suffix = self._suffix("dense", x, w, b)
        same_shape(b.shape, w.shape[1:], "dense: b")
        y = self.matmul(x, w)
        self._kernels.each(
            "elementwise", f"add_bias_{suffix}", y.size, y, self._flat(b), *y.shape, int(activation == "relu")
        )
        return y

    def dense_backward(
        self, dy: Array, x: Array, w: Array, need: Need = EVERYTHING, y: Array | None = None
    ) -> tuple[Array, Array, Array]:
        suffix = self._suffix("dense_backward", dy, x, w)
        dy = dy if y is None else self.relu_backward(dy, y)
        dx = self.matmul(dy, w.T) if need.x else None
        if not need.params:
            return dx, None, None
        return dx, self.matmul(x.T, dy, need.dw), self._column_sums(dy, suffix)

    def _column_sums(self, x: Array, suffix: str) -> Array:
        """x[R,L] -> [L]."""
        rows, columns = x.shape
        sums = self.empty((columns,), x.dtype)
        blocks, lanes = (-(-columns // 32),), min(32, 1 << max(0, rows - 1).bit_length())  # 32 columns a block
        args = (self._flat(x), sums, rows, columns)
        self._kernels.blocks("reduce", f"column_sums_{suffix}", blocks, (32, lanes), *args)
        return sums
