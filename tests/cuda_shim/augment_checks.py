"""The check of augment.cu: pictures moved by maps of their own, to the bit."""

from __future__ import annotations

import itertools

import numpy as np

from tests import reference_augment
from tests.cuda_shim.checks import NAME, Guarded

SHAPES = [(3, 4, 5, 3), (2, 1, 6, 1), (6, 3, 1, 2)]  # N, H, W, C
GRIDS = [((2, 2, 2), (8, 4)), ((1, 1, 1), (1, 3)), ((9, 4, 1), (32, 2))]


def maps_for(n):
    """Turned, mirrored, moved by whole pixels and not, also out of the picture; boxes that stick out, or are none."""
    one = 1 << 16
    choice = np.array(
        [
            (60_000, -26_123, 40_001, 26_123, 60_000, -50_003, -1, 2, 1, 9),
            (-one, 0, 3 * one, 0, one, -one, 0, 0, 0, 0),
            (one, 0, one // 2, 0, one, 3 * one // 2, 1, 2, 0, 1),
            (one, 0, 100 * one, 0, one, -70 * one, 1, 3, 1, 2),
            (0, -one, 3 * one, one, 0, 0, 2, 1, 0, 4),
            (one, 0, 0, 0, one, 3 * one // 4, 0, 0, 0, 0),
        ],
        "i8",
    )
    return choice[np.arange(n) % len(choice)]


def check_warp(module, source, dtype, name):
    for kind in ("u1", dtype):
        for (n, h, w, c), edge in itertools.product(SHAPES, (0, 1)):
            rng = np.random.default_rng(5)
            x = rng.integers(0, 256, (n, h, w, c)).astype(kind) if kind == "u1" else rng.normal(size=(n, h, w, c))
            x, fill, maps = x.astype(kind), np.arange(7, 7 + c).astype(kind), maps_for(n)
            expected = reference_augment.warp(x, maps, fill, bool(edge))
            for (grid, block), last in itertools.product(GRIDS, (False, True)):
                guarded = Guarded()
                given, right = (a if last else np.ascontiguousarray(a.transpose(0, 3, 1, 2)) for a in (x, expected))
                y = guarded.empty(given.shape, kind)
                sizes = (n, 1, h, w, c) if last else (n, c, h, w, 1)
                args = (guarded(given), guarded(maps), guarded(fill), edge, y, *sizes)
                module.get_function(f"{name}_{'u8' if kind == 'u1' else NAME[kind]}")(grid, block, args)
                guarded.check()
                assert y.tobytes() == right.tobytes(), (kind, n, h, w, c, edge, grid, last)


CHECKS = {"warp_affine": ("augment", check_warp)}  # kernel -> (its file, its check)
