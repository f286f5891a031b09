"""$XCONV_WORKSPACE: how much memory an operation may take for a while, beside its arguments and its results.

Columns (im2col), products that are still to be transposed, padded copies and maps that are pooled at once are such
scratch. Where those of a whole batch would be more, the batch goes through in parts; one image is the least. So what a
layer takes does not grow with the batch, and results do not depend on the setting beyond the order of some sums.
"""

from __future__ import annotations

import os
import re
from fractions import Fraction

from xconv.errors import ConfigError

DEFAULT = 256 * 10**6  # bytes
LEAST = 10**6
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", re.ASCII)
UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}


def workspace_bytes() -> int:
    """$XCONV_WORKSPACE in bytes, 256 MB where it is not set. ConfigError where it is no size, or less than 1 MB."""
    asked = os.environ.get("XCONV_WORKSPACE")
    if not asked:
        return DEFAULT
    found = SIZE.fullmatch(asked.lower())
    if found is None or found[2] not in UNITS:
        raise ConfigError(
            "XCONV_WORKSPACE must be a number of bytes, or a number with one of the units KB, MB, GB, KiB, MiB and "
            f"GiB, such as '64MB'; or unset for {shown(DEFAULT)}. Received: {asked!r}"
        )
    size = int(Fraction(found[1]) * UNITS[found[2]])
    if size < LEAST:
        raise ConfigError(
            f"XCONV_WORKSPACE must be at least {shown(LEAST)}: one image's columns should fit; without a unit it is "
            f"bytes. Received: {asked!r}"
        )
    return size


def shown(size: int) -> str:
    """Bytes as people read them: 256 MB."""
    return f"{size / 1e6:.4g} MB" if size < 1e9 else f"{size / 1e9:.4g} GB"
