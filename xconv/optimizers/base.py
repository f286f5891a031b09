"""What every optimizer has: its rate, its state, clipping, and the way from parameters by name to the formula."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np

from xconv.backend import Array, Backend, backend_of
from xconv.errors import ConfigError, ShapeError, described
from xconv.parameters import Parameters
from xconv.schedules import Schedule

OTHER_NAMES = {"learning_rate": "lr", "beta_1": "beta1", "beta_2": "beta2", "epsilon": "eps"}  # Keras's: ours
CLIPPING = ("clipvalue", "clipnorm", "global_clipnorm")
CLASSES: dict[str, type[Optimizer]] = {}  # those that a file can make, by name: see `rules`


def _other_names(init: Callable[..., None]) -> Callable[..., None]:
    """`init`, which now takes its arguments by Keras's names, too, and whose refusals are ConfigErrors."""
    signature = inspect.signature(init)
    named = [p.name for p in signature.parameters.values() if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)][1:]

    @functools.wraps(init)
    def renaming(self: Optimizer, *args: Any, **given: Any) -> None:
        kind = type(self).__name__
        for other, name in OTHER_NAMES.items():
            if other in given and name in named:
                if name in given:
                    raise ConfigError(
                        f"{kind}: {name} and {other} are one argument: give one of them. "
                        f"Received: {described(given[name])} and {described(given[other])}"
                    )
                given[name] = given.pop(other)
        try:
            signature.bind(self, *args, **given)
        except TypeError as error:
            received = ", ".join([*map(described, args), *(f"{name}={described(v)}" for name, v in given.items())])
            raise ConfigError(f"{kind}: {error}: expected {', '.join(named)}. Received: {received}") from None
        init(self, *args, **given)

    return renaming


def _number(value: Any, what: str, below: float = math.inf, or_else: str = "") -> float:
    """`value` as a float in [0, below)."""
    plain = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
    if not plain or not 0 <= value < below:
        limit = ">= 0" if below == math.inf else f"from 0 to below {below:g}"
        raise ConfigError(f"{what} must be a number {limit}{or_else}. Received: {described(value)}")
    return float(value)


class Optimizer:
    """Parent of the optimizers.

    One of your own overrides `step`; `slots` names the state arrays kept beside each parameter, and `settings` the
    arguments that it keeps as attributes.

    Args:
        lr: the learning rate, a number or a Schedule; `learning_rate` is another name of it.
        clipvalue: each entry of the gradient is cut to -clipvalue .. clipvalue.
        clipnorm: each parameter's gradient is scaled down to this Euclidean norm, where it is longer.
        global_clipnorm: all gradients together are (Pascanu et al. 2013). At most one of the three, as in Keras.
    """

    slots: tuple[str, ...] = ()
    settings: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        if "__init__" in vars(cls):
            cls.__init__ = _other_names(cls.__init__)  # type: ignore[method-assign]

    @_other_names
    def __init__(
        self,
        lr: float | Schedule,
        *,
        clipvalue: float | None = None,
        clipnorm: float | None = None,
        global_clipnorm: float | None = None,
        **unknown: Any,
    ) -> None:
        kind = type(self).__name__
        if unknown:
            known = ", ".join(("lr", *self.settings, *CLIPPING))
            raise ConfigError(f"{kind}: no such argument: expected {known}. Received: {', '.join(unknown)}")
        self.clipvalue = self._limit("clipvalue", clipvalue)
        self.clipnorm = self._limit("clipnorm", clipnorm)
        self.global_clipnorm = self._limit("global_clipnorm", global_clipnorm)
        clipping = [name for name in CLIPPING if getattr(self, name) is not None]
        if len(clipping) > 1:
            raise ConfigError(f"{kind}: expected at most one of {', '.join(CLIPPING)}. Received: {', '.join(clipping)}")
        self.steps = 0  # steps begun, counted on the host: where a schedule is
        self._backend: Backend | None = None
        self._hyper: Array = None  # float64[2] on the device: learning rate, steps done
        self._state: dict[str, dict[str, Array]] = {}  # by name, "" for a flat buffer: slot -> array
        self._layout: dict[str, tuple[int, tuple[int, ...]]] = {}  # of that buffer: where each name begins, its shape
        self._beside: Parameters | None = None  # whose buffer it is
        self._schedule: Schedule | None = None
        self._lr = 0.0
        self.lr = lr

    def _checked(self, name: str, value: Any, below: float = math.inf) -> float:
        return _number(value, f"{type(self).__name__}: {name}", below)

    def _limit(self, name: str, value: Any) -> float | None:
        if value is not None and not self._checked(name, value):
            raise ConfigError(
                f"{type(self).__name__}: {name} must be above 0, or None not to clip. Received: {value!r}"
            )
        return None if value is None else float(value)

    def __repr__(self) -> str:
        """With the settings that are not 0, False or None."""
        shown = {"lr": self._schedule or self._lr}
        shown |= {name: value for name in (*self.settings, *CLIPPING) if (value := getattr(self, name, None))}
        inside = (f"{k}={v:g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in shown.items())
        return f"{type(self).__name__}({', '.join(inside)})"

    # ------------------------------------------------------------------ the learning rate

    @property
    def lr(self) -> float:
        """The learning rate of the step begun last; may be changed between steps. A number replaces a schedule."""
        return self._lr

    @lr.setter
    def lr(self, value: float | Schedule) -> None:
        if isinstance(value, Schedule):
            rate = self._scheduled(value, self.steps)
        else:
            rate = _number(value, f"{type(self).__name__}: lr", or_else=" or a Schedule")
        self._schedule = value if isinstance(value, Schedule) else None
        self._set_rate(rate)

    learning_rate = lr

    def _scheduled(self, schedule: Schedule, step: int) -> float:
        return _number(schedule(step), f"{type(self).__name__}: the rate of {schedule!r} for step {step}")

    def _set_rate(self, rate: float) -> None:
        if rate != self._lr and self._backend is not None:
            with self._backend.running():
                self._hyper[:1] = self._backend.asarray(np.array([rate]))
        self._lr = rate

    # ------------------------------------------------------------------ one step

    def update(self, params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        """One step: each params[name] is changed in place by its grads[name], which stays as it is.

        What a `Parameters` has as `fixed` is left alone.
        """
        self.tick()
        named = None if isinstance(params, Parameters) else next(iter(params.values()), None)
        backend = params.backend if isinstance(params, Parameters) else None if named is None else backend_of(named)
        with nullcontext() if backend is None else backend.running():
            self.apply(params, grads)

    def tick(self) -> None:
        """The host's part of a step: counts it, and sets its rate where a schedule says so. Not to be recorded."""
        if self._schedule is not None:
            self._set_rate(self._scheduled(self._schedule, self.steps))
        self.steps += 1

    def untick(self, steps: int = 1) -> None:
        """Takes the last ticks back, whose steps were not done."""
        self.steps -= steps
        if self._schedule is not None:
            self._set_rate(self._scheduled(self._schedule, max(0, self.steps - 1)))

    def ready(self, params: Parameters) -> None:
        """Make the state of these parameters, if it is not there: what `apply` does before it changes anything."""
        self._bind(params.backend)
        self._flat_state(params)

    def apply(self, params: Mapping[str, Array], grads: Mapping[str, Array], going: Array | None = None) -> None:
        """The device's part of a step: all of the rest. Once done, it can be recorded and replayed.

        Inside of Backend.when, `going` is what that takes: 1 on the device, or 0 where the step is not to count.
        """
        if isinstance(params, Parameters) and isinstance(grads, Parameters) and _same_layout(params, grads):
            backend = params.backend
            self._bind(backend)
            parts = params.trained()
            whole = self._flat_state(params)
            state = [{slot: a[part] for slot, a in whole.items()} for part in parts]
            ps = [params.flat[part] for part in parts]
            if self.clipnorm is None:
                gs = self._clipped([grads.flat[part] for part in parts])
            else:
                clipped = self._by_own_norm(params, grads)
                gs = [clipped.flat[part] for part in parts]
        else:
            fixed = params.fixed if isinstance(params, Parameters) else ()
            names = [name for name in params if name not in fixed]
            if not names and not isinstance(params, Parameters):
                raise ConfigError(f"{type(self).__name__}: expected parameters by name. Received: {described(params)}")
            backend = params.backend if isinstance(params, Parameters) else backend_of(params[names[0]])
            self._check(names, params, grads)
            self._bind(backend)
            # Of a number alone a view: the formulas take the learning rate as an array of one entry.
            ps, gs = ([a[name][None] if a[name].ndim == 0 else a[name] for name in names] for a in (params, grads))
            self._by_name()
            state = [self._state_of(name, p) for name, p in zip(names, ps, strict=True)]
            gs = self._clipped(gs)
        self._hyper[1:] += 1.0 if going is None else going
        for p, g, arrays in zip(ps, gs, state, strict=True):
            self.step(backend, p, g, self._hyper, **arrays)

    def step(self, backend: Backend, p: Array, g: Array, hyper: Array, **state: Array) -> None:
        """The formula, for one array."""
        raise NotImplementedError(f"{type(self).__name__}: no step")

    def _check(self, names: list[str], params: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
        missing = [name for name in names if name not in grads]
        if missing:
            raise ConfigError(
                f"{type(self).__name__}: no gradient of {', '.join(map(repr, missing))}: expected one for each "
                f"parameter. Received: gradients of {', '.join(map(repr, grads)) or 'nothing'}"
            )
        for name in names:
            if getattr(grads[name], "shape", None) != params[name].shape:
                raise ShapeError(
                    f"optimizer: the gradient of {name!r} must have the parameter's shape {params[name].shape}. "
                    f"Received: {described(grads[name])}"
                )

    # ------------------------------------------------------------------ clipping, on copies

    def _clipped(self, gs: list[Array]) -> list[Array]:
        """The gradients as clipping leaves them."""
        if self.clipvalue is not None:
            return [self._xp.clip(g, -self.clipvalue, self.clipvalue) for g in gs]
        if self.clipnorm is not None:
            return [scaled for g in gs for scaled in self._shortened([g], self.clipnorm)]
        if self.global_clipnorm is not None and gs:
            return self._shortened(gs, self.global_clipnorm)
        return gs

    def _shortened(self, gs: list[Array], longest: float) -> list[Array]:
        """g min(1, longest / norm), where norm^2 is the sum of all entries' squares, in float64 lest one overflows."""
        norm = self._xp.sqrt(sum(self._xp.square(g, dtype="float64").sum() for g in gs))
        scale = longest / self._xp.maximum(norm, longest)
        return [g * scale.astype(g.dtype) for g in gs]

    def _by_own_norm(self, params: Parameters, grads: Parameters) -> Parameters:
        """A copy of the gradients, each clipped by its own norm."""
        clipped = grads.like()
        for name in params:
            if name not in params.fixed:
                (clipped[name],) = self._clipped([grads[name]])
        return clipped

    # ------------------------------------------------------------------ state

    @property
    def _home(self) -> Backend:
        assert self._backend is not None
        return self._backend

    @property
    def _xp(self) -> Any:
        return self._home.xp

    def _flat_state(self, params: Parameters) -> dict[str, Array]:
        """The state beside the flat buffer, brought into its layout where it was in another, or by name."""
        if params is self._beside and "" in self._state:
            return self._state_of("", params.flat)
        layout = params.layout()
        moved = self._layout and [*self._layout.values()] != [*layout.values()]
        if moved or any(name for name in self._state):
            self._by_name()
            before, self._state = self._state, {}
            try:
                whole = self._state_of("", params.flat)
            except MemoryError:
                self._state = before
                raise
            fits = [n for n in before if n in params and all(a.size == params[n].size for a in before[n].values())]
            if before and not fits:
                self._state = before
                raise ConfigError(
                    self._of_others(params.flat, next(a for state in before.values() for a in state.values()))
                )
            for name in fits:
                at, shape = layout[name]
                for slot, array in before[name].items():
                    whole[slot][at : at + math.prod(shape)] = array.reshape(-1)
        self._layout, self._beside = layout, params
        return self._state_of("", params.flat)

    def _by_name(self) -> None:
        """The state beside a flat buffer as that of each of its parameters."""
        if self._layout and "" in self._state:
            whole = self._state.pop("")
            for name, (at, shape) in self._layout.items():
                part = slice(at, at + math.prod(shape))
                self._state[name] = {slot: a[part].reshape(shape or (1,)) for slot, a in whole.items()}
        self._layout, self._beside = {}, None

    def _of_others(self, p: Array, state: Any) -> str:
        return (
            f"{type(self).__name__}: its state is that of other parameters; give each model its own optimizer, "
            f"as optimizer.fresh() is. Received: parameters, {described(p)}; state, {described(state)}"
        )

    def _state_of(self, name: str, p: Array) -> dict[str, Array]:
        slots = self._state.setdefault(name, {})
        for slot in self.slots:
            if slot not in slots:
                slots[slot] = self._home.zeros(p.shape, p.dtype)
            elif (slots[slot].shape, slots[slot].dtype) != (p.shape, p.dtype):
                raise ConfigError(self._of_others(p, slots[slot]))
        return slots

    def _bind(self, backend: Backend) -> None:
        """Keep the state where the parameters are: a model that moves takes its optimizer along."""
        if self._backend is not backend:
            arrays = {"hyper": np.array([self._lr, 0.0])}
            if self._backend is not None:
                arrays = {name: self._backend.to_numpy(a) for name, a in self.state_arrays().items()}
            self._place(arrays, backend)

    def _place(self, arrays: Mapping[str, Any], backend: Backend) -> None:
        there = {key: backend.asarray(array) for key, array in arrays.items()}  # all, or out of memory and none
        self._hyper = there.pop("hyper")
        self._backend, self._state, self._beside = backend, {}, None
        for key, array in there.items():
            name, _, slot = key.rpartition(":")
            self._state.setdefault(name, {})[slot] = array

    def state_arrays(self) -> dict[str, Array]:
        """The live arrays on the device: "hyper" and each slot, for arrays given by name as "name:slot"."""
        if self._backend is None:
            return {}
        slots = {
            f"{name}:{slot}" if name else slot: array
            for name, arrays in self._state.items()
            for slot, array in arrays.items()
        }
        return {"hyper": self._hyper, **slots}

    def load_state(self, arrays: Mapping[str, np.ndarray], backend: Backend) -> None:
        """Go on where the optimizer was whose `state_arrays` these are, copied to the host."""
        slots = {key.rpartition(":")[2] for key in arrays} - {"hyper"}
        if "hyper" not in arrays or np.shape(arrays["hyper"]) != (2,) or not slots <= set(self.slots):
            expected = ", ".join(("'hyper' of shape (2,)", *map(repr, self.slots)))
            raise ConfigError(
                f"{type(self).__name__}: expected the state of one: {expected}. Received: {described(dict(arrays))}"
            )
        self._place({name: np.array(a) for name, a in arrays.items()}, backend)
        self._lr, self.steps = float(arrays["hyper"][0]), int(arrays["hyper"][1])

    def fresh(self) -> Optimizer:
        """A new one with the same settings and no memory."""
        twin = object.__new__(type(self))
        twin.__dict__.update(self.__dict__, _backend=None, _hyper=None, _state={}, _layout={}, _beside=None, steps=0)
        if twin._schedule is not None:
            twin._lr = twin._scheduled(twin._schedule, 0)
        return twin

    def config(self) -> dict[str, Any] | None:
        """Plain JSON that `from_config` makes the same settings from; None for a rule or schedule of your own."""
        kind, lr = self._kind(), self._lr if self._schedule is None else self._schedule.config()
        if kind is None or lr is None:
            return None
        clipping = {name: getattr(self, name) for name in CLIPPING if getattr(self, name) is not None}
        return {"kind": kind.__name__, "lr": lr, **{name: getattr(self, name) for name in kind.settings}, **clipping}

    def _kind(self) -> type[Optimizer] | None:
        """Which of xconv's rules this one is; None for a rule of one's own."""
        known = (CLASSES[cls.__name__] for cls in type(self).__mro__ if CLASSES.get(cls.__name__) is cls)
        kind = next(known, None)
        return None if kind is None or kind.step is not type(self).step else kind

    def written(self, params: Parameters) -> list[Array]:
        """What a rule of one's own writes to with operations that Backend.when does not know of; [] for xconv's."""
        return [] if self._kind() is not None else [params.flat, *self.state_arrays().values()]


def _same_layout(params: Parameters, grads: Parameters) -> bool:
    """Whether each name is at the same place of both flat buffers."""
    return params.flat.shape == grads.flat.shape and params.shapes == grads.shapes and params._at == grads._at
