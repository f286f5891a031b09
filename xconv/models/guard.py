"""A step whose loss or gradients are not finite changes nothing: what decides that, on the device, and for the host.

The gradients of such a step are NaN, and one update by them spoils every parameter for good. The device knows before
the update, and nobody waits for it to tell: each step leaves the model alone by itself (Backend.guard, Backend.when).
Within `fit` so do all steps after the first such one, for the host hears of it later; then the model is, to the bit,
what it was before. A loss counts as NaN where a gradient is not finite though it is (a square root's at 0, an overflow
on the way back). What a rule makes of finite numbers may still overflow (lr g, or Adam's g^2 from 2e19 in float32).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv.backend import Array, Backend
from xconv.layers import BatchNormalization, Layer
from xconv.layers.fused import NormReLU

if TYPE_CHECKING:
    from xconv.models.model import Model

_GUARDED = (BatchNormalization.update, NormReLU.update)  # write by an operation of the backend's that knows the guard


class Guard:
    """One model's. On the device it is uint64[3] = [going, latched, undone], as Backend.guard has it."""

    def __init__(self) -> None:
        self._state: tuple[Backend, Array] | None = None

    def on(self, backend: Backend) -> Array:
        """The state, where the model is now."""
        if self._state is None:
            self._state = backend, backend.asarray(np.array([1, 0, 0], np.uint64))
        elif self._state[0] is not backend:
            self._state = backend, backend.asarray(self._state[0].to_numpy(self._state[1]))
        return self._state[1]

    @contextmanager
    def latched(self, model: Model) -> Iterator[None]:
        """Steps in here stop at the first whose loss is not finite."""
        self.settle(model)
        self._set(model, 1, 1)
        try:
            yield
        finally:
            self.settle(model)
            self._set(model, 1, 0)

    def settle(self, model: Model) -> int:
        """Let the host forget the steps that the device left undone since this was asked last; how many they were.

        Waits for the device.
        """
        state = self.on(model.backend)
        undone = int(model.backend.to_numpy(state)[2])
        if undone:
            model._optimizer("train_step").untick(undone)
            with model.backend.running():
                state[2:].fill(0)
        return undone

    def _set(self, model: Model, going: int, latched: int) -> None:
        state = self.on(model.backend)
        with model.backend.running():  # in place and by numbers, which needs no memory
            state[:1].fill(going)
            state[1:2].fill(latched)


def written(model: Model, learnt: Sequence[tuple[Layer, Any]]) -> list[Array]:
    """What a step writes to in code of one's own, past the operations that know the guard."""
    layers = [layer for layer, _ in learnt if type(layer).update not in _GUARDED]
    found = model._optimizer("train_step").written(model._parameters)
    return found or [array for layer in layers for array in layer.params.values()]
