"""$XCONV_PRECISION: in what the matrix products and convolutions of float32 arrays are computed.

Arrays, weights and optimizers are float32 whatever it says, and float64 arrays are always computed in float64:

- "float32": strictly so. The default.
- "tf32": tensor cores read float32 with a mantissa cut to 10 bits, and add up in float32.
- "bf16": mixed precision. Inputs are rounded to bfloat16 (float32's range, 7 bits of mantissa) on their way into a
  product, which adds up in float32; a convolution's results are rounded to bfloat16 once more. Weights stay float32.
"""

from __future__ import annotations

import os
from typing import Any

from xconv.backend.arrays import Arrays
from xconv.errors import ConfigError, described

PRECISIONS = ("float32", "tf32", "bf16")


def asked_precision() -> str:
    """$XCONV_PRECISION, or "float32"; ConfigError where it is none of the three."""
    return _known(os.environ.get("XCONV_PRECISION") or "float32", "XCONV_PRECISION")


def _known(name: str, what: str) -> str:
    if name not in PRECISIONS:
        raise ConfigError(f"{what} must be one of {', '.join(map(repr, PRECISIONS))}. Received: {described(name)}")
    return name


class Precision(Arrays):
    """Part of Backend: the switch `backend.precision`."""

    precisions: tuple[str, ...] = ("float32",)  # those that this backend has

    def __init__(self) -> None:
        super().__init__()
        self._set(asked_precision(), "XCONV_PRECISION", "unset it")

    @property
    def precision(self) -> str:
        """ "float32", "tf32" or "bf16"; to be set before a model is built or a step is recorded."""
        return self._precision

    @precision.setter
    def precision(self, name: str) -> None:
        self._set(name, "precision", 'leave it at "float32"')

    def _set(self, name: str, what: str, cure: str) -> None:
        if _known(name, what) not in self.precisions:
            raise ConfigError(
                f"{what}: backend {self.name!r} computes float32 arrays in float32 alone; {cure}, or take backend "
                f"'cupy', which has tensor cores to use. Received: {described(name)}"
            )
        self._precision = name

    def describe(self) -> dict[str, Any]:
        """Device, versions and settings, for reports."""
        return {**super().describe(), "precision": self.precision}
