"""Pictures moved about for augmentation, on the device by one kernel."""

from __future__ import annotations

from xconv.backend.base import Array
from xconv.backend.base_augment import by_planes, check_warp
from xconv.backend.cuda_kernels import BLOCK
from xconv.backend.cupy_arrays import CupyArrays

_NAMES = {"uint8": "u8", "float32": "f32", "float64": "f64"}
MOST_PICTURES, MOST_PLANES, MOST_PARTS = 1 << 16, 1 << 10, 1 << 10  # of a grid; the kernel loops over the rest


class CupyAugment(CupyArrays):
    """Part of CupyBackend."""

    def warp_affine(self, x: Array, maps: Array, fill: Array, edge: bool = False, channels_last: bool = False) -> Array:
        """See Backend.warp_affine. Maps and fill may lie on the host, where they are drawn."""
        self._mine("warp_affine", x)
        check_warp(x, maps, fill, channels_last)
        y = self.empty(x.shape, x.dtype)
        n, planes, h, w, k = by_planes(y, channels_last).shape
        across = min(BLOCK, 1 << max(0, w * k - 1).bit_length())
        down = BLOCK // across
        grid = min(n, MOST_PICTURES), min(planes, MOST_PLANES), min(-(-h // down), MOST_PARTS)
        given = self._flat(x), self._flat(self.asarray(maps)), self._flat(self.asarray(fill))
        name = f"warp_affine_{_NAMES[x.dtype.name]}"
        self._kernels.blocks("augment", name, grid, (across, down), *given, int(edge), y, n, planes, h, w, k)
        return y
