"""Pictures moved about for augmentation, by one thread: the feed prepares a batch beside the team that trains."""

from __future__ import annotations

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
        augment.warp_affine(by_planes(source, channels_last), maps, fill, edge, by_planes(y, channels_last))
        return y
