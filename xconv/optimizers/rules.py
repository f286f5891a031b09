"""The update rules: each a formula, computed by the backend in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from xconv import checks, schedules
from xconv.backend import Array, Backend
from xconv.errors import ConfigError, described
from xconv.optimizers.base import CLASSES, Optimizer
from xconv.schedules import Schedule


class SGD(Optimizer):
    """p -= lr g; with momentum v = momentum v - lr g; p += v, or with `nesterov` p += momentum v - lr g."""

    settings: ClassVar[tuple[str, ...]] = ("momentum", "nesterov")

    def __init__(
        self, lr: float | Schedule = 0.01, momentum: float = 0.0, nesterov: bool = False, **common: Any
    ) -> None:
        super().__init__(lr, **common)
        self.momentum = self._checked("momentum", momentum, below=1)
        if not isinstance(nesterov, bool):
            raise ConfigError(f"{type(self).__name__}: nesterov must be True or False. Received: {described(nesterov)}")
        self.nesterov = nesterov
        self.slots = ("v",) if self.momentum else ()

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        if self.momentum:
            backend.momentum(p, g, state["v"], hyper, self.momentum, self.nesterov)
        else:
            backend.sgd(p, g, hyper)


class Momentum(SGD):
    """v = momentum v - lr g; p += v."""

    settings = ("momentum",)

    def __init__(self, lr: float | Schedule = 0.01, momentum: float = 0.9, **common: Any) -> None:
        super().__init__(lr, momentum, False, **common)


class Nesterov(SGD):
    """v = momentum v - lr g; p += momentum v - lr g."""

    settings = ("momentum",)

    def __init__(self, lr: float | Schedule = 0.01, momentum: float = 0.9, **common: Any) -> None:
        super().__init__(lr, momentum, True, **common)


class AdaGrad(Optimizer):
    """h += g^2; p -= lr g / (sqrt(h) + eps), h from zero, as in the book and PyTorch."""

    slots = ("h",)
    settings = ("eps",)

    def __init__(self, lr: float | Schedule = 0.01, eps: float = 1e-7, **common: Any) -> None:
        super().__init__(lr, **common)
        self.eps = self._checked("eps", eps)

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.adagrad(p, g, state["h"], hyper, self.eps)


class RMSprop(Optimizer):
    """h = rho h + (1 - rho) g^2; p -= lr g / (sqrt(h) + eps)."""

    slots = ("h",)
    settings = ("rho", "eps")

    def __init__(self, lr: float | Schedule = 0.001, rho: float = 0.9, eps: float = 1e-7, **common: Any) -> None:
        super().__init__(lr, **common)
        self.rho = self._checked("rho", rho, below=1)
        self.eps = self._checked("eps", eps)

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.rmsprop(p, g, state["h"], hyper, self.rho, self.eps)


class Adam(Optimizer):
    """p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps), m and v running means of g and g^2.

    The form of the book and Keras; PyTorch divides by sqrt(v / (1 - beta2^t)) + eps instead. `beta_1`, `beta_2` and
    `epsilon` are other names of beta1, beta2 and eps.
    """

    slots = ("m", "v")
    settings: ClassVar[tuple[str, ...]] = ("beta1", "beta2", "eps")
    weight_decay: float = 0.0

    def __init__(
        self,
        lr: float | Schedule = 0.001,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-7,
        **common: Any,
    ) -> None:
        super().__init__(lr, **common)
        self.beta1 = self._checked("beta1", beta1, below=1)
        self.beta2 = self._checked("beta2", beta2, below=1)
        self.eps = self._checked("eps", eps)

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        m, v = state["m"], state["v"]
        backend.adam(p, g, m, v, hyper, self.beta1, self.beta2, self.eps, self.weight_decay)


class AdamW(Adam):
    """p -= lr weight_decay p, then Adam's step (Loshchilov and Hutter 2019), as in Keras and PyTorch.

    Unlike a penalty on the weights, the decay goes past m and v: what Adam divides by does not weaken it.
    """

    settings = ("weight_decay", *Adam.settings)

    def __init__(
        self,
        lr: float | Schedule = 0.001,
        weight_decay: float = 0.004,
        beta1: float = 0.9,
        beta2: float = 0.999,
        eps: float = 1e-7,
        **common: Any,
    ) -> None:
        super().__init__(lr, beta1, beta2, eps, **common)
        self.weight_decay = self._checked("weight_decay", weight_decay)


CLASSES |= {cls.__name__: cls for cls in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam, AdamW)}
NAMED: dict[str, type[Optimizer]] = {name.lower(): cls for name, cls in CLASSES.items()}


def get(name: str | Optimizer, **settings: Any) -> Optimizer:
    """An optimizer by its name in any case ("adam", "AdaGrad"), or itself."""
    if isinstance(name, Optimizer):
        return name
    if isinstance(name, type) and issubclass(name, Optimizer):
        example = f"xconv.{name.__name__}" if CLASSES.get(name.__name__) is name else name.__name__
        raise ConfigError(
            f"optimizer: expected an instance, not its class: give {example}(1e-3), an instance. "
            f"Received: {described(name)}"
        )
    if not isinstance(name, str) or name.lower() not in NAMED:
        raise ConfigError(f"unknown optimizer: expected one of {', '.join(NAMED)}. Received: {described(name)}")
    return NAMED[name.lower()](**settings)


def from_config(config: Mapping[str, Any]) -> Optimizer:
    """An optimizer with the settings that `config` tells, and no memory."""
    if isinstance(config, Mapping) and isinstance(config.get("lr"), Mapping):
        config = {**config, "lr": schedules.get(config["lr"])}
    return checks.from_config(config, CLASSES, "optimizer")
