"""Optimizers: `optimizer.update(params, grads)` changes the parameters in place.

With a model's own parameters and gradients that is one fused pass over one flat buffer; any other mapping of names to
arrays is updated name by name by the backend that owns them ($XCONV_BACKEND, or the best, for NumPy arrays), to the
same bits as on that backend.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from xconv.backend import Array, Backend, backend_of
from xconv.errors import ConfigError, ShapeError, described
from xconv.parameters import Parameters


def _rate(value: Any, what: str, below: float = math.inf, least: float = 0.0) -> float:
    """`value` as a float in [least, below)."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not least <= value < below:
        limit = f">= {least:g}" if below == math.inf else f"from {least:g} to below {below:g}"
        raise ConfigError(f"{what} must be a number {limit}. Received: {described(value)}")
    return float(value)


class Optimizer:
    """Parent of the optimizers. `slots` names the state arrays kept beside each parameter."""

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, lr: float) -> None:
        self._lr = _rate(lr, f"{type(self).__name__}: lr")
        self._backend: Backend | None = None
        self._hyper: Array = None  # float64[2] on the device: learning rate, steps done
        self._state: dict[str, dict[str, Array]] = {}

    def __repr__(self) -> str:
        settings = {name: value for name, value in self.__dict__.items() if not name.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v:g}' for k, v in {'lr': self._lr, **settings}.items())})"

    @property
    def lr(self) -> float:
        """The learning rate; may be changed between steps."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        self._lr = _rate(value, f"{type(self).__name__}: lr")
        if self._backend is not None:
            self._hyper[:1] = self._backend.asarray(np.array([self._lr]))

    def update(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        """One step: each params[name] is changed in place by its grads[name]."""
        if isinstance(params, Parameters) and isinstance(grads, Parameters) and _same_buffer_layout(params, grads):
            self._bind(params.backend)
            pairs = {"": (params.flat, grads.flat)}
        else:
            pairs = {name: (p, grads[name]) for name, p in params.items()}
            self._bind(params.backend if isinstance(params, Parameters) else backend_of(next(iter(pairs.values()))[0]))
        assert self._backend is not None
        self._hyper[1:] += 1.0
        for name, (p, g) in pairs.items():
            if p.shape != g.shape:
                raise ShapeError(
                    f"optimizer: the gradient of {name!r} must have the parameter's shape {p.shape}. "
                    f"Received: {described(g)}"
                )
            if p.ndim == 0:
                p, g = p[None], g[None]  # a view: the formulas take the learning rate as an array of one entry
            if name not in self._state:
                self._state[name] = {slot: self._backend.xp.zeros_like(p) for slot in self.slots}
            self.step(self._backend, p, g, self._hyper, **self._state[name])

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        """The formula, for one array."""
        raise NotImplementedError

    def fresh(self) -> Optimizer:
        """A new one with the same settings and no memory."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _backend=None, _hyper=None, _state={})
        return twin

    def _bind(self, backend: Backend) -> None:
        """Keep the state where the parameters are: a model that moves takes its optimizer along."""
        if self._backend is backend:
            return
        old, hyper = self._backend, np.array([self._lr, 0.0])
        if old is not None:
            hyper = old.to_numpy(self._hyper)
            self._state = {
                name: {slot: backend.asarray(old.to_numpy(a)) for slot, a in slots.items()}
                for name, slots in self._state.items()
            }
        self._backend, self._hyper = backend, backend.asarray(hyper)


def _same_buffer_layout(params: Parameters, grads: Parameters) -> bool:
    return params.flat.shape == grads.flat.shape and params.shapes == grads.shapes


class SGD(Optimizer):
    """p -= lr g."""

    def __init__(self, lr: float = 0.01) -> None:
        super().__init__(lr)

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.sgd(p, g, hyper)


class Momentum(Optimizer):
    """v = momentum v - lr g; p += v."""

    slots = ("v",)
    nesterov: ClassVar[bool] = False

    def __init__(self, lr: float = 0.01, momentum: float = 0.9) -> None:
        super().__init__(lr)
        self.momentum = _rate(momentum, f"{type(self).__name__}: momentum", below=1)

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.momentum(p, g, state["v"], hyper, self.momentum, self.nesterov)


class Nesterov(Momentum):
    """v = momentum v - lr g; p += momentum v - lr g."""

    nesterov = True


class AdaGrad(Optimizer):
    """h += g^2; p -= lr g / (sqrt(h) + eps), h from zero, as in the book and PyTorch."""

    slots = ("h",)

    def __init__(self, lr: float = 0.01, eps: float = 1e-7) -> None:
        super().__init__(lr)
        self.eps = _rate(eps, "AdaGrad: eps")

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.adagrad(p, g, state["h"], hyper, self.eps)


class RMSprop(Optimizer):
    """h = rho h + (1 - rho) g^2; p -= lr g / (sqrt(h) + eps)."""

    slots = ("h",)

    def __init__(self, lr: float = 0.001, rho: float = 0.9, eps: float = 1e-7) -> None:
        super().__init__(lr)
        self.rho = _rate(rho, "RMSprop: rho", below=1)
        self.eps = _rate(eps, "RMSprop: eps")

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.rmsprop(p, g, state["h"], hyper, self.rho, self.eps)


class Adam(Optimizer):
    """p -= lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps), m and v running means of g and g^2.

    The form of the book and Keras; PyTorch divides by sqrt(v / (1 - beta2^t)) + eps instead.
    """

    slots = ("m", "v")

    def __init__(self, lr: float = 0.001, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-7) -> None:
        super().__init__(lr)
        self.beta1 = _rate(beta1, "Adam: beta1", below=1)
        self.beta2 = _rate(beta2, "Adam: beta2", below=1)
        self.eps = _rate(eps, "Adam: eps")

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        backend.adam(p, g, state["m"], state["v"], hyper, self.beta1, self.beta2, self.eps)


NAMED: dict[str, type[Optimizer]] = {
    cls.__name__.lower(): cls for cls in (SGD, Momentum, Nesterov, AdaGrad, RMSprop, Adam)
}


def get(name: str | Optimizer, **settings: Any) -> Optimizer:
    """An optimizer by its name in any case ("adam", "AdaGrad"), or itself."""
    if isinstance(name, Optimizer):
        return name
    if not isinstance(name, str) or name.lower() not in NAMED:
        raise ConfigError(f"unknown optimizer: expected one of {', '.join(NAMED)}. Received: {described(name)}")
    try:
        return NAMED[name.lower()](**settings)
    except TypeError as error:
        raise ConfigError(f"optimizer {name!r}: {error}. Received: {described(settings)}") from None
