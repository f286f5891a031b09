"""Pictures moved about for augmentation, by the team: each thread has some of them."""

from __future__ import annotations

import numpy as np

from xconv.backend.base import Array
from xconv.backend.base_augment import by_planes, check_warp
from xconv.backend.numba_team import NumbaTeam
from xconv.kernels.cpu import augment


class NumbaAugment(NumbaTeam):
    """Part of NumbaBackend."""

    def warp_affine(self, x: Array, maps: Array, fill: Array, edge: bool = False, channels_last: bool = False) -> Array:
        check_warp(x, maps, fill, channels_last)
        y = self.empty(x.shape, x.dtype)
        source, maps, fill = (self.asarray(self.contiguous(a)) for a in (x, maps, fill))
        half = 0.5 if x.dtype == np.uint8 else -0.0  # bytes are rounded half up, and -0.0 changes no float
        given = by_planes(source, channels_last), maps, fill, edge, half, by_planes(y, channels_last)
        self._over(len(y), 2.0 * y.size, augment.warp_affine, *given)
        return y
