"""Penalties on weights: what they add to the loss, and to the gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from xconv import checks
from xconv.backend import Array
from xconv.errors import ConfigError, described


class Regularizer(Protocol):
    """A penalty on one parameter, part of the loss. One of your own needs these two; `config` only to be saved."""

    def penalty(self, xp: Any, w: Array) -> Array:
        """What it adds to the loss: an array of shape ()."""

    def gradient(self, xp: Any, w: Array) -> Array:
        """The penalty's gradient, in the shape of w."""


class L1:
    """penalty = l1 sum |w|; gradient = l1 sign(w), 0 where w is 0 (lasso, Tibshirani 1996): drives weights to zero."""

    def __init__(self, l1: float = 0.01) -> None:
        self.l1 = checks.number(l1, "L1: l1", least=0.0)

    def penalty(self, xp: Any, w: Array) -> Array:
        return xp.absolute(w).sum() * self.l1

    def gradient(self, xp: Any, w: Array) -> Array:
        return xp.sign(w) * self.l1

    def config(self) -> dict[str, Any]:
        """Plain JSON that `get` takes."""
        return {"kind": "L1", "l1": self.l1}


class L2:
    """penalty = l2 sum w^2; gradient = 2 l2 w (ridge, Hoerl and Kennard 1970): keeps weights small.

    No factor 1/2, as in Keras; PyTorch's weight_decay of d is l2 = d / 2.
    """

    def __init__(self, l2: float = 0.01) -> None:
        self.l2 = checks.number(l2, "L2: l2", least=0.0)

    def penalty(self, xp: Any, w: Array) -> Array:
        return (w * w).sum() * self.l2

    def gradient(self, xp: Any, w: Array) -> Array:
        return w * (2.0 * self.l2)

    def config(self) -> dict[str, Any]:
        """Plain JSON that `get` takes."""
        return {"kind": "L2", "l2": self.l2}


class L1L2:
    """penalty = l1 sum |w| + l2 sum w^2 (elastic net, Zou and Hastie 2005)."""

    def __init__(self, l1: float = 0.0, l2: float = 0.0) -> None:
        self.l1 = checks.number(l1, "L1L2: l1", least=0.0)
        self.l2 = checks.number(l2, "L1L2: l2", least=0.0)

    def penalty(self, xp: Any, w: Array) -> Array:
        return xp.absolute(w).sum() * self.l1 + (w * w).sum() * self.l2

    def gradient(self, xp: Any, w: Array) -> Array:
        return xp.sign(w) * self.l1 + w * (2.0 * self.l2)

    def config(self) -> dict[str, Any]:
        """Plain JSON that `get` takes."""
        return {"kind": "L1L2", "l1": self.l1, "l2": self.l2}


def l1(l1: float = 0.01) -> L1:
    """`L1(l1)`."""
    return L1(l1)


def l2(l2: float = 0.01) -> L2:
    """`L2(l2)`."""
    return L2(l2)


def l1_l2(l1: float = 0.01, l2: float = 0.01) -> L1L2:
    """`L1L2(l1, l2)`. Its defaults are not the class's zeros, so that the name "l1_l2" alone does something."""
    return L1L2(l1, l2)


NAMED: dict[str, Callable[..., Regularizer]] = {"l1": l1, "l2": l2, "l1_l2": l1_l2}
CLASSES: dict[str, Callable[..., Regularizer]] = {"L1": L1, "L2": L2, "L1L2": L1L2}


def get(spec: str | Mapping[str, Any] | Regularizer | None) -> Regularizer | None:
    """A regularizer from its name (with 0.01 for every factor), its config, or itself; None stays None."""
    if spec is None:
        return None
    if isinstance(spec, Mapping):
        return checks.from_config(spec, CLASSES, "regularizer")
    if isinstance(spec, str) and spec in NAMED:
        return NAMED[spec]()
    if isinstance(spec, str | type) or not (hasattr(spec, "penalty") and hasattr(spec, "gradient")):
        raise ConfigError(
            f"regularizer: expected {', '.join(map(repr, NAMED))}, None, or an instance with penalty and gradient, as "
            f"regularizers.L2(1e-4). Received: {described(spec)}"
        )
    return spec
