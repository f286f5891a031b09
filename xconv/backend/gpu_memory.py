"""$XCONV_GPU_MEMORY: the most memory that xconv takes of a GPU, for those who share one; and what is left of it."""

from __future__ import annotations

import os
import re
from typing import Any

from xconv.backend.workspace import SIZE, UNITS, shown
from xconv.errors import ConfigError

LEAST = 64 * 10**6  # cuBLAS's workspace, and something to compute with


def limit_bytes(total: int) -> int | None:
    """$XCONV_GPU_MEMORY in bytes: a size, or a share of the device's `total`; None where it is not set.

    ConfigError where it is neither, or too little to run anything.
    """
    asked = os.environ.get("XCONV_GPU_MEMORY")
    if not asked:
        return None
    text = asked.strip().lower()
    share = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%|(0?\.\d+|1\.0*)", text, re.ASCII)
    if share is not None:
        part = float(share[1]) / 100 if share[1] else float(share[2])
        size = int(part * total) if part <= 1 else None
    else:
        found = SIZE.fullmatch(text)
        size = int(float(found[1]) * UNITS[found[2]]) if found is not None and found[2] in UNITS else None
    if size is None:
        raise ConfigError(
            "XCONV_GPU_MEMORY must be a number of bytes, one with a unit such as '20GB', or a share of the GPU's "
            f"memory such as '50%' or '0.5'; or unset for no limit. Received: {asked!r}"
        )
    if size < LEAST:
        raise ConfigError(
            f"XCONV_GPU_MEMORY must be at least {shown(LEAST)}; without a unit it is bytes. Received: {asked!r}"
        )
    return size


def set_limit(cupy: Any) -> int | None:
    """Keep CuPy's pool on the current device to $XCONV_GPU_MEMORY; the limit that holds, CuPy's own one included."""
    pool = cupy.get_default_memory_pool()
    limit = limit_bytes(cupy.cuda.runtime.memGetInfo()[1])
    if limit is not None:
        pool.set_limit(size=limit)
    return pool.get_limit() or None


def free_bytes(cupy: Any) -> int:
    """What can still be taken on the current device: free there, or idle in CuPy's pool, within the pool's limit."""
    pool = cupy.get_default_memory_pool()
    free = int(cupy.cuda.runtime.memGetInfo()[0]) + int(pool.free_bytes())
    limit = int(pool.get_limit())
    return max(0, min(free, limit - int(pool.used_bytes())) if limit else free)
