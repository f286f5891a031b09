"""Where batches come from, on the host: examples in arrays and Sources, or batches that somebody makes."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np

from xconv import checks, streams
from xconv.data.sources import Pixels, Source
from xconv.errors import ConfigError, DataError, XconvError, described
from xconv.shapes import positive


class Late:
    """What a thread finds out about examples that are read late, for the caller's own thread to tell."""

    def __init__(self, what: str) -> None:
        self.what = what
        self._raw: np.dtype | None = None
        self._told = False

    def raw_pixels(self, what: str, dtype: np.dtype) -> None:
        """Images hold numbers like those of raw pixels."""
        self._raw = dtype

    def tell(self) -> None:
        """Warn once of what was found."""
        if self._raw is not None and not self._told:
            self._told = True
            checks.raw_pixels(self.what, self._raw)


class Part(NamedTuple):
    """Some examples: inputs, labels, and a weight for each or None, each on the host or where its feed has put it.

    In place of an array that the feed has, and takes them out of later, there is None.
    """

    epoch: int  # from 1; 0 where nobody counts
    first: int  # the place of the first of them in the epoch's order
    size: int
    xs: list[Any]
    ts: list[Any]
    weights: Any = None
    chosen: Any = None  # their numbers, or a slice of these

    def some(self, first: int, last: int) -> Part:
        """Those from `first` to last - 1, by their places in here."""
        xs, ts = [x[first:last] for x in self.xs], [t[first:last] for t in self.ts]
        weights = None if self.weights is None else self.weights[first:last]
        return Part(self.epoch, self.first + first, min(last, self.size) - first, xs, ts, weights)


class Checked(Source):
    """A source whose values are looked at as they are read, and may become others; errors name the example."""

    def __init__(self, source: Source, what: str, check: Callable[[np.ndarray, str], np.ndarray]) -> None:
        self._source, self._what, self._check = source, what, check
        self.shape, self.dtype = source.shape, np.dtype(source.dtype)

    def read(self, indices: np.ndarray) -> np.ndarray:
        return self.take(indices)

    def take(self, chosen: np.ndarray) -> np.ndarray:
        given = self._source.take(chosen)
        try:
            return self._check(given, self._what)
        except XconvError:
            for k, i in enumerate(chosen.tolist()):
                self._check(given[k : k + 1], f"{self._what}[{i}:{i + 1}]")
            raise


def is_lazy(data: Any) -> bool:
    """Whether examples are read when a batch needs them."""
    return isinstance(data.bytes if isinstance(data, Pixels) else data, Source)


def copied(data: np.ndarray | Pixels) -> Any:
    """The same in memory of its own: a batch waits for its step, and who made it may refill its array meanwhile."""
    return Pixels(np.array(data.bytes)) if isinstance(data, Pixels) else np.array(data)


def taken(data: np.ndarray | Source, chosen: np.ndarray | slice) -> Any:
    """Examples by their numbers, or a slice of them: an array, or Pixels of one."""
    if isinstance(data, Pixels):
        return Pixels(taken(data.bytes, chosen))
    if isinstance(data, Source):
        return data.take(np.arange(chosen.start, chosen.stop) if isinstance(chosen, slice) else chosen)
    return data[chosen]


class Examples:
    """n examples: inputs, labels and weights in arrays, which have been checked, or in Sources.

    `weigh` gives the weights of a batch from its labels, where these are read late; `late` is told what is found then.
    """

    def __init__(
        self,
        xs: Sequence[np.ndarray | Source],
        ts: Sequence[np.ndarray | Source] = (),
        weights: np.ndarray | None = None,
        weigh: Callable[[Sequence[np.ndarray], np.ndarray | None], np.ndarray | None] | None = None,
        late: Late | None = None,
    ) -> None:
        self.xs, self.ts, self.weights, self.weigh, self.late = list(xs), list(ts), weights, weigh, late
        self.lazy = any(is_lazy(a) for a in (*xs, *ts))

    def __len__(self) -> int:
        return len(self.xs[0])

    def some(self, first: int, last: int) -> Examples:
        """Those from `first` to last - 1."""
        weights = None if self.weights is None else self.weights[first:last]
        return Examples(
            [x[first:last] for x in self.xs], [t[first:last] for t in self.ts], weights, self.weigh, self.late
        )

    def steps(self, batch_size: int) -> int:
        """Batches in an epoch."""
        return -(-len(self) // batch_size)

    def ended(self) -> None:
        """An epoch is over."""

    def order(self, epoch: int, seed: int | None) -> np.ndarray | None:
        """The number of each example once, int64[n], as that epoch takes them; None, as they come, without a seed."""
        return None if seed is None else streams.permutation(seed, epoch, len(self))

    def parts(
        self, batch_size: int, epoch: int = 0, seed: int | None = None, *, only_lazy: bool = False
    ) -> Generator[Part]:
        """The batches of an epoch; `only_lazy` leaves out what lies in arrays."""
        order = self.order(epoch, seed)
        for first in range(0, len(self), batch_size):
            last = min(first + batch_size, len(self))
            yield self._part(epoch, first, last, slice(first, last) if order is None else order[first:last], only_lazy)

    def _part(self, epoch: int, first: int, last: int, chosen: Any, only_lazy: bool) -> Part:
        def take(data: Any) -> Any:
            return None if only_lazy and not is_lazy(data) else taken(data, chosen)

        xs, ts = [take(x) for x in self.xs], [take(t) for t in self.ts]
        weights = None if self.weights is None or only_lazy else self.weights[chosen]
        if self.weigh is not None:
            weights = self.weigh(ts, None if self.weights is None else self.weights[chosen])
        return Part(epoch, first, last - first, xs, ts, weights, chosen)


def is_stream(x: Any) -> bool:
    """Whether x gives batches: a generator, another iterable that is no array or list of arrays, or a Sequence."""
    if isinstance(x, np.ndarray | Source | list | tuple | Mapping | str | bytes):
        return False
    if any(hasattr(x, name) for name in ("shape", "dtype", "__array__", "__array_interface__", "__dlpack__")):
        return False
    return _is_sequence(x) or hasattr(x, "__next__") or hasattr(x, "__iter__")


def _is_sequence(x: Any) -> bool:
    """One of ours, or of another library, which has the same methods."""
    return all(callable(getattr(type(x), name, None)) for name in ("__len__", "__getitem__", "on_epoch_end"))


def _length(x: Any) -> int | None:
    """How many batches there are, where that is known; some iterables have a length only to say that they have none."""
    try:
        return len(x)
    except TypeError:
        return None


class Stream:
    """Batches that somebody makes: a generator, another iterable, or a `xconv.utils.Sequence`.

    Each is (x, y) or (x, y, sample_weight) where it is to be `labelled`, else x or (x, ...). `steps`, an argument of
    the name `steps_name`, is how many make an epoch (None: all there are), and `rounds` how often one is asked for. No
    more are pulled than that. What comes is copied: the same arrays may be filled anew for each batch. Messages begin
    with `what` and call the arguments `role` x and y.
    """

    lazy = True

    def __init__(
        self,
        model: Any,
        given: Any,
        what: str,
        role: str = "",
        *,
        labelled: bool = True,
        steps: Any = None,
        steps_name: str = "steps",
        rounds: int = 1,
        weigh: Callable[[Sequence[np.ndarray], Any, str], np.ndarray | None] | None = None,
    ) -> None:
        self._model, self._given, self._labelled, self._weigh = model, given, labelled, weigh
        self._what = f"{what}: {role}"
        self._steps_name, self._rounds, self._pulled = steps_name, rounds, 0
        self.late = Late(f"{self._what}x")
        self._batches: Any = given  # what is left to pull from
        self._making = False  # whether batches are being made, by whichever thread
        self._is_sequence, self._once = _is_sequence(given), hasattr(given, "__next__")
        length = None if self._once else _length(given)
        self._wanted = length if steps is None else positive(steps, f"{what}: {steps_name}")
        if self._wanted == 0 or (self._is_sequence and length is not None and length < (self._wanted or 1)):
            raise ConfigError(
                f"{self._what}x: expected at least {self._wanted or 1} batches. "
                f"Received: {type(given).__name__} of {length}"
            )
        if self._wanted is None and self._once and rounds > 1:
            raise ConfigError(
                f"{self._what}x: a generator gives its batches once, and they are asked for {rounds} times: expected "
                f"{steps_name}, how many for each. Received: {described(given)} and {steps_name}=None"
            )

    def steps(self, batch_size: Any = None) -> int | None:
        """Batches in an epoch; None where only its end will tell."""
        return self._wanted

    def peek(self) -> Any:
        """The inputs of the first batch, which is not lost; None where there is none."""
        if self._is_sequence:
            return self._unpacked(self._given[0], f"{self._what}batch 0")[0]
        batches = iter(self._batches)
        items = list(islice(batches, 1))
        if self._once:
            self._batches = chain(items, batches)
        return self._unpacked(items[0], f"{self._what}step 1")[0] if items else None

    def ended(self) -> None:
        """An epoch is over; a Sequence hears of it, unless it still makes a batch that nobody waits for any more."""
        if self._is_sequence and not self._making:
            self._given.on_epoch_end()

    def parts(self, batch_size: Any = None, epoch: int = 0, seed: int | None = None, **_: Any) -> Generator[Part]:
        """The batches of an epoch, checked. Those of a Sequence are shuffled by the seed, where there is one."""
        first = step = 0
        self._making = True
        try:
            for step, item in enumerate(self._items(epoch, seed), 1):
                self._pulled += 1
                part = self._part(item, epoch, first, f"step {step} of epoch {epoch}" if epoch else f"step {step}")
                first += part.size
                yield part
                del item, part  # nobody but the caller holds a batch while the next one is made
        finally:
            self._making = False
        if step < (self._wanted or 1):
            self._too_few(step + 1, epoch)

    def _items(self, epoch: int, seed: int | None) -> Iterator[Any]:
        if not self._is_sequence:
            return islice(self._batches, self._wanted)  # never pulls one more to see whether there is one
        n = len(self._given)
        order = range(n) if seed is None else streams.permutation(seed, epoch, n).tolist()
        return (self._given[i] for i in order[: self._wanted])

    def _part(self, item: Any, epoch: int, first: int, where: str) -> Part:
        model, what = self._model, self._what
        x, y, weights = self._unpacked(item, f"{what}{where}")
        xs = [copied(part) for part in model._images(x, f"{what}x of {where}", tell=self.late.raw_pixels)]
        n = len(xs[0])
        if not self._labelled:
            return Part(epoch, first, n, xs, [])
        ts = [copied(part) for part in model._targets(y, n, f"{what}y of {where}")]
        if self._weigh is not None:
            weights = self._weigh(ts, weights, f"{what}{where}")
        return Part(epoch, first, n, xs, ts, weights)

    def _unpacked(self, item: Any, where: str) -> tuple[Any, Any, Any]:
        """(x, y, sample_weight) of what came, None for what is not there."""
        if not self._labelled:
            return (item[0] if isinstance(item, tuple) and item else item), None, None
        if not isinstance(item, tuple | list) or not 2 <= len(item) <= 3:
            alone = "; y is missing" if not isinstance(item, tuple | list) or len(item) == 1 else ""
            raise DataError(f"{where}: expected (x, y) or (x, y, sample_weight){alone}. Received: {described(item)}")
        x, y, *rest = item
        return x, y, rest[0] if rest else None

    def _too_few(self, step: int, epoch: int) -> None:
        wanted, rounds = self._wanted, self._rounds
        if wanted is None:
            raise DataError(f"{self._what}x: expected at least one batch. Received: {described(self._given)}, and none")
        where = f"step {step}" + (f" of epoch {epoch}" if epoch else "")
        whole = f" in each of {rounds} epochs, {wanted * rounds} in all" if rounds > 1 else ""
        cure = (
            f"let it go on for ever (while True), or give a smaller {self._steps_name}"
            if self._once
            else f"give a smaller {self._steps_name}"
        )
        raise DataError(
            f"{self._what}x: the batches ended before {where}: expected {wanted}{whole}; {cure}. "
            f"Received: {self._pulled} from {described(self._given)}"
        )
