"""All parameters of a model in one flat buffer, seen by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from typing import Any

import numpy as np

from xconv import checks
from xconv.backend import Array, Backend
from xconv.errors import XconvError, described
from xconv.shapes import same_shape

_ALIGN = 16  # entries: each parameter starts on a 64-byte line (float32), as BLAS and wide loads like it


class Parameters(MutableMapping[str, Array]):
    """Name -> array, each a live view of `flat`, which an optimizer updates in one pass.

    Assigning copies into the view (``params["W1"] = values``), so the model sees it. Gradients come as the same class.
    `fixed` names those that an optimizer leaves alone: frozen ones, and moving statistics.
    """

    def __init__(
        self, backend: Backend, shapes: Mapping[str, tuple[int, ...]], dtype: Any, fixed: Iterable[str] = ()
    ) -> None:
        self.backend = backend
        self.shapes = dict(shapes)
        self.fixed = frozenset(fixed)
        self._at: dict[str, int] = {}
        size = 0
        for name, shape in self.shapes.items():
            self._at[name] = size
            size += -(-math.prod(shape) // _ALIGN) * _ALIGN
        # The gaps stay zero in parameters and gradients alike, so a pass over everything leaves them zero.
        with backend.running():
            self.flat: Array = backend.zeros((size,), dtype)
        self._views = {
            name: self.flat[at : at + math.prod(self.shapes[name])].reshape(self.shapes[name])
            for name, at in self._at.items()
        }

    def like(self, backend: Backend | None = None) -> Parameters:
        """The same names and shapes, all zero, here or on another backend."""
        return Parameters(backend or self.backend, self.shapes, self.flat.dtype, self.fixed)

    def layout(self) -> dict[str, tuple[int, tuple[int, ...]]]:
        """Where in `flat` each parameter begins, and its shape."""
        return {name: (self._at[name], tuple(shape)) for name, shape in self.shapes.items()}

    def trained(self) -> list[slice]:
        """The stretches of `flat` that an optimizer updates: everything, cut where something is fixed."""
        stretches: list[slice] = []
        start = 0
        names = list(self._at)
        ends = [self._at[name] for name in names[1:]] + [self.flat.size]
        for name, end in zip(names, ends, strict=True):
            if name in self.fixed:
                if self._at[name] > start:
                    stretches.append(slice(start, self._at[name]))
                start = end
        return [*stretches, slice(start, self.flat.size)] if start < self.flat.size else stretches

    def to(self, backend: Backend) -> Parameters:
        """A copy on another backend."""
        there = self.like(backend)
        values = backend.asarray(self.backend.to_numpy(self.flat))
        with backend.running():
            there.flat[...] = values
        return there

    def renamed(self, names: Mapping[str, str]) -> Parameters:
        """The same views under other names (`names` maps new to old), over the same buffer."""
        alias = object.__new__(Parameters)
        alias.backend, alias.flat = self.backend, self.flat
        alias.fixed = frozenset(new for new, old in names.items() if old in self.fixed)
        alias.shapes = {new: self.shapes[old] for new, old in names.items()}
        alias._at = {new: self._at[old] for new, old in names.items()}
        alias._views = {new: self._views[old] for new, old in names.items()}
        return alias

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Copies on the host."""
        return {name: np.array(self.backend.to_numpy(view)) for name, view in self._views.items()}

    def __getitem__(self, name: str) -> Array:
        return self._views[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._views:
            raise XconvError(
                f"no parameter of that name: expected one of {list(self._views)}. Received: {described(name)}"
            )
        view = self._views[name]
        if value is view:  # `params[k] -= ...` ends in an assignment of the view to itself
            return
        on_device = isinstance(value, self.backend.array_type) and not isinstance(value, np.ndarray)
        if not on_device:
            value = checks.host_array(value, f"parameter {name!r}")
        turned = len(view.shape) == 4 and tuple(value.shape) == tuple(view.shape[i] for i in (2, 3, 1, 0))
        cure = "; this looks like Keras's order: give w.transpose(3, 2, 0, 1)" if turned else ""
        same_shape(value.shape, view.shape, f"parameter {name!r}", cure)
        if self.backend.owner_of(value) != self.backend.address or not on_device:
            value = self.backend.asarray(value, view.dtype)
        with self.backend.running():
            view[...] = value

    def __delitem__(self, name: str) -> None:
        raise XconvError(f"a model's parameters cannot be deleted. Received: del params[{name!r}]")

    def __iter__(self) -> Iterator[str]:
        return iter(self._views)

    def __len__(self) -> int:
        return len(self._views)

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {tuple(shape)}" for name, shape in self.shapes.items())
        return f"Parameters({inside}; {self.flat.dtype}, {self.backend.name})"
