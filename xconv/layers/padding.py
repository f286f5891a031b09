"""Padding as Keras names it, for everything that slides a window."""

from __future__ import annotations

from typing import Any

from xconv.errors import ConfigError, described
from xconv.shapes import Pads, Pair, paddings, pooling_pads, same_pads

Padding = str | Pads  # "valid", "same" or (top, bottom, left, right)


def padding_of(value: Any, label: str, pool_size: Pair | None = None) -> Padding:
    """ "valid", "same", or numbers as (top, bottom, left, right); with `pool_size` no window may see padding alone."""
    if isinstance(value, str) and value.lower() in ("valid", "same"):  # Keras takes "SAME", too
        return value.lower()
    if isinstance(value, str):
        raise ConfigError(
            f"{label}: padding must be 'valid', 'same', an integer >= 0, (height, width) or (top, bottom, left, "
            f"right). Received: {described(value)}"
        )
    if pool_size is not None:
        return pooling_pads(value, pool_size, label, word="padding")
    return paddings(value, f"{label}: padding")


def pads_of(padding: Padding, size: Pair, kernel: Pair, strides: Pair, dilation: Pair = (1, 1)) -> Pads:
    """(top, bottom, left, right) for images of `size` = (H, W)."""
    if padding == "same":
        return same_pads(size, kernel, strides, dilation)
    return (0, 0, 0, 0) if isinstance(padding, str) else padding


def plain(padding: Padding) -> str | list[int]:
    """As JSON has it."""
    return padding if isinstance(padding, str) else list(padding)
