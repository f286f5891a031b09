"""The way of a batch onto a backend: augmented, and in the dtype of the step."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from xconv.backend import Array, Backend
from xconv.data.augment import Augmentation
from xconv.data.sources import Pixels, pixels
from xconv.errors import ConfigError, ShapeError, described
from xconv.models.batches import Part

if TYPE_CHECKING:
    from xconv.models.network import Network

SOURCES = ("uint8", "int64", "float32", "float64")  # what Backend.gather casts from on every backend

Change = Callable[[Array], Array]


class Augmented:
    """`fit`'s augmentation: applied to each input whose examples are images, the same draws to all of them.

    `beside`: whether a thread does well to do it while the step before runs.
    """

    def __init__(self, model: Network, augmentation: Any) -> None:
        if not callable(augmentation) or isinstance(augmentation, type):
            raise ConfigError(
                "fit: augmentation must be an xconv.data.Augmentation, or a function (backend, x, *, seed, epoch, "
                f"first, data_format) that gives x anew. Received: {described(augmentation)}"
            )
        shapes = [model._given_shape(i) for i in model.graph.inputs]
        self.on = [len(shape) == 3 for shape in shapes]
        if not any(self.on):
            raise ConfigError(
                "fit: augmentation needs images, an input with three axes beside the batch's. "
                f"Received: {model.name}, whose inputs are of shapes {', '.join(map(str, shapes))}"
            )
        self._of, self._model = augmentation, model
        self.beside = model.backend.on_host and not isinstance(augmentation, Augmentation)

    def change(self, place: int, part: Part, backend: Backend) -> Change | None:
        """What is done to input number `place` of a batch, in its own dtype; None where nothing is."""
        return partial(self._changed, part, backend) if self.on[place] else None

    def _changed(self, part: Part, backend: Backend, x: Array) -> Array:
        model = self._model
        about: dict[str, Any] = {
            "seed": model.seed,
            "epoch": part.epoch,
            "first": part.first,
            "data_format": model.data_format,
        }
        with nullcontext() if backend.on_host else backend.running():  # a thread may do this beside the step
            y: Any = self._of(backend, x, **about)
        kind: Any = backend.array_type
        if not isinstance(y, kind) or y.shape != x.shape or y.dtype != x.dtype:
            raise ShapeError(
                f"fit: augmentation: expected an array of shape {x.shape}, dtype {x.dtype}, as it was given. "
                f"Received: {described(y)}"
            )
        return y


class Entry:
    """The way of a batch onto a backend, in the dtype of the step, Pixels as numbers from 0 to 1.

    Bytes stay bytes until they have been augmented, and until they are on the device.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._rows: Array | None = None
        self._norm: tuple[Array, Array] | None = None

    def __call__(
        self, x: Any, dtype: Any, place: Array | None = None, change: Change | None = None, whole: Any = None
    ) -> Array:
        """A batch of an input that is on the host, in `place` where that is given, after `change`, which may write to
        what it is given, though not to `whole`, the caller's array that the batch was taken out of.
        """
        backend, scaled = self.backend, isinstance(x, Pixels)
        raw: Any = np.asarray(x.bytes) if scaled else x
        if not backend.on_host:
            return self.cast(backend.asarray(raw, kept(raw.dtype, dtype)), dtype, scaled, place, change)
        if change is not None:
            raw = backend.asarray(raw, np.uint8 if raw.dtype.name in ("uint8", "bool") else dtype)
            raw = change(np.array(raw) if isinstance(whole, np.ndarray) and np.may_share_memory(raw, whole) else raw)
        return self.written(pixels(raw, dtype) if scaled else backend.asarray(raw, dtype), place)

    def cast(
        self,
        there: Array,
        dtype: Any,
        scaled: bool,
        place: Array | None = None,
        change: Change | None = None,
        *,
        lent: bool = False,
    ) -> Array:
        """The same of a batch that is on the device, and does not stay there if it is `lent`."""
        if change is not None:
            if there.dtype != np.uint8:
                there, lent = self.cast(there, dtype, False, lent=lent), False
            there = change(there)
        if there.dtype == dtype and not scaled and not lent:
            return self.written(there, place)
        n = len(there)
        if self._rows is None or len(self._rows) < n:
            self._rows = self.backend.asarray(np.arange(n))
        return self.gather(there, self._rows, 0, n, dtype, scaled, place)

    def gather(
        self, data: Array, order: Array, first: int, count: int, dtype: Any, scaled: bool, place: Array | None = None
    ) -> Array:
        """Backend.gather; `scaled`, of bytes: x / 255 to the bit."""
        backend = self.backend
        with backend.running():
            if not scaled:
                return backend.gather(data, order, first, count, dtype, place)
            y = backend.empty((count, *data.shape[1:]), dtype) if place is None else place
            if np.dtype(dtype) == np.float32:
                if self._norm is None:
                    self._norm = backend.asarray(np.zeros(1)), backend.asarray(np.full(1, 1.0 / 255.0))
                one = 1, math.prod(data.shape[1:])  # all have one factor, as if there were one channel
                flat, into = data.reshape(len(data), *one), y.reshape(count, *one)
                backend.gather(flat, order, first, count, dtype, into, *self._norm)
            else:  # in float64, x times 1 / 255 is not always x / 255
                backend.gather(data, order, first, count, dtype, y)
                y /= 255.0
        return y

    def written(self, there: Array, place: Array | None) -> Array:
        """In a place where it fits: a file's labels may be classes in one batch, and rows in the next."""
        if place is None or place is there or place.shape != there.shape or place.dtype != there.dtype:
            return there
        with self.backend.running():
            place[...] = there
        return place


def kept(own: np.dtype, dtype: Any) -> np.dtype:
    """The dtype in which an array lies on the device: its own where the device can cast it, and that is no larger."""
    wanted = np.dtype(dtype)
    own = np.dtype(np.uint8) if own == np.bool_ else own
    fits = own.isnative and own.name in SOURCES and own.itemsize <= wanted.itemsize
    return own if fits and (own.kind in "iu" or wanted.kind == "f") else wanted
