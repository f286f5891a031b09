"""Out of memory: what is idle goes back, the work is tried again, a step at last in two halves; else what fits is told.

A training step changes nothing before its gradients are complete, so one that fails can be done again, or left undone.
In halves a step gives the same mean of gradients, but for the order of sums. It is only cut where examples do not know
of one another: not where batch normalisation takes statistics or dropout counts its entries, nor where there is code
of one's own. Predictions can always be cut.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from xconv.backend import Array
from xconv.backend.workspace import shown
from xconv.errors import OutOfMemoryError, OutOfMemoryWarning
from xconv.layers import BatchNormalization, Dropout
from xconv.models.memory import fitting_batch, training_step_bytes
from xconv.models.step import own_code

if TYPE_CHECKING:
    from xconv.models.model import Model
    from xconv.models.network import Network


SMALLER = "take a smaller batch_size"

_Made = TypeVar("_Made")


class Rescue:
    """What a model remembers of memory that was short: batches of `most` examples or more go in halves."""

    def __init__(self) -> None:
        self.most: int | None = None

    def step(self, model: Model, xs: Sequence[Array], ts: Sequence[Array], weights: Array | None) -> Sequence[Array]:
        """One training step, whole or in halves; OutOfMemoryError, and nothing changed, where neither has room."""
        n = len(xs[0])
        if self.most is None or n < self.most:
            for _ in range(2):  # once more with the memory that was kept for reuse
                try:
                    return model._recorded(model, xs, ts, weights)
                except OutOfMemoryError:
                    raise
                except MemoryError:
                    pass  # in the handler the failed step's arrays would still be held
                release(model)
        why = undivided(model, n)
        if not why:
            try:
                values = halves(model, xs, ts, weights)
            except OutOfMemoryError:
                raise
            except MemoryError:
                pass
            else:
                if self.most is None:
                    warnings.warn(
                        f"{model.name}: memory is short: steps of {n} examples run in two halves, which is slower and "
                        f"sums in another order; {_fits(model, n)}",
                        OutOfMemoryWarning,
                        stacklevel=4,
                    )
                self.most = n if self.most is None else min(n, self.most)
                return values
            release(model)
        raise OutOfMemoryError(
            f"{model.name}: a training step of {n} examples does not fit into memory{why and ', nor can it be cut: '}"
            f"{why}; {_fits(model, n)}. The model is as it was before the step. Received: a batch of {n}"
        )


def release(model: Any) -> None:
    """Give back what a model's backend keeps for reuse. Recordings hold memory of their own."""
    model._recorded.forget()
    model.backend.release()


def with_room(model: Any, make: Callable[[], _Made], what: str, cure: str) -> _Made:
    """make(), tried again once idle memory was given back; else OutOfMemoryError: `what` does not fit, and the cure."""
    for _ in range(2):
        try:
            return make()
        except OutOfMemoryError:
            raise
        except MemoryError as error:
            told = str(error)  # in the handler what failed would still be held
        release(model)
    free = model.backend.free_bytes()
    left = "" if free is None else f"; {shown(free)} are free"
    raise OutOfMemoryError(f"{model.name}: {what} does not fit into memory{left}: {cure}. Received: {told}")


@contextmanager
def told(model: Any, what: str) -> Iterator[None]:
    """Makes an OutOfMemoryError of any MemoryError: `what` ran out of it."""
    try:
        yield
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"{model.name}: {what}: out of memory; {SMALLER}. Received: {error}") from error


def _fits(model: Network, n: int) -> str:
    """What to do about a training step of n examples."""
    needed, free = training_step_bytes(model, n), model.backend.free_bytes()
    if free is None:
        return f"it needs about {shown(needed)}: {SMALLER}"
    most = fitting_batch(model, n - 1, free)
    told = f"it needs about {shown(needed)}, and {shown(free)} are free"
    return f"{told}: batch_size={most} would fit" if most else f"{told}, too little for a batch of 1, too"


def undivided(model: Model, n: int) -> str:
    """Why a step cannot be done in two halves with the same result; "" where it can."""
    if n < 2:
        return "it is a single example"
    for node in model.graph.nodes:
        if isinstance(node.layer, BatchNormalization) and node.layer.trainable:
            return f"{node.layer.label} normalises by the whole batch"
        if isinstance(node.layer, Dropout):
            return f"{node.layer.label} draws its mask for the whole batch"
    own = own_code(model)
    return f"{', '.join(own)}: code of your own may see the whole batch" if own else ""


def halves(model: Model, xs: Sequence[Array], ts: Sequence[Array], weights: Array | None) -> list[Array]:
    """What `model.eager_step` does, with the gradient as the mean of those of two halves, weighted by their sizes."""
    n = len(xs[0])
    gradient, scratch = model._grads, model._grads.like()
    heads = len(model._compiled("train_step"))
    means = 1 + (heads if heads > 1 else 0)
    sums: list[Array] = []
    with model.backend.running():
        model._optimizer("train_step").ready(model._parameters)
        for part, into in ((slice(0, n // 2), gradient), (slice(n // 2, n), scratch)):
            some, count = None if weights is None else weights[part], part.stop - part.start
            values = model._forward_backward([a[part] for a in xs], [a[part] for a in ts], some, into)
            found = model.as_sums(values, count)
            into.flat *= count / n
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
        gradient.flat += scratch.flat
        sums[0] = model.judged_by_gradients(sums[0])
        values = [value * (1.0 / n) for value in sums[:means]] + sums[means:]
        model.changed_by(sums)
    return values
