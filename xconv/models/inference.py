"""A network that can be asked: what comes in is checked, and goes through the layers a batch at a time."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from xconv import checks
from xconv.backend import Array
from xconv.data.sources import Pixels, Source, on_disk
from xconv.errors import ConfigError, described
from xconv.layers import Context
from xconv.models.ahead import Ahead
from xconv.models.batches import Checked, Examples, Late, Part, Stream, is_stream, taken
from xconv.models.entry import Entry
from xconv.models.halves import smaller
from xconv.models.network import Network
from xconv.plan import Plan
from xconv.shapes import positive

BATCH = 250  # examples at a time, where nobody says how many
WHOLE = 1 << 62  # a batch size for all examples at once


def _nobody(what: str, dtype: np.dtype) -> None:
    """To be told of raw pixels that are meant."""


class Inference(Network):
    """A network whose outputs can be had. `Model` is one that can be trained too."""

    # ------------------------------------------------------------------ in and out

    def _images(
        self,
        x: Any,
        what: str,
        *,
        empty_ok: bool = False,
        late: Late | None = None,
        tell: Callable[[str, np.dtype], None] | None = None,
    ) -> list[Any]:
        """Each input's examples, checked, on the host: arrays, and Pixels of arrays.

        With `late`, Sources and np.memmap arrays stay Sources, whose values are checked when they are read; it is told
        of raw pixels then, and `tell` of those in arrays, where the user is not to be warned of them at once.
        """
        self._shaped_by(x)
        graph = self.graph
        names = graph.input_names
        if isinstance(x, Mapping):
            missing = [name for name in names if name not in x]
            if missing or len(x) != len(names):
                raise ConfigError(f"{what}: expected the inputs {names}. Received: {list(x)}")
            x = [x[name] for name in names]
        elif len(names) == 1:
            x = x if isinstance(x, list | tuple) and len(x) == 1 and np.ndim(x[0]) == len(self.input_shape) + 1 else [x]
        if not isinstance(x, list | tuple) or len(x) != len(names):
            raise ConfigError(f"{what}: expected a list of {len(names)} inputs, {names}. Received: {described(x)}")
        out = []
        for name, given, i in zip(names, x, graph.inputs, strict=True):
            label = what if len(names) == 1 else f"{what}: {name}"
            shape = self._given_shape(i)
            meant = all(node.layer.takes_pixels for node in graph.nodes if i in node.sources)
            heard = _nobody if meant else tell
            given = self._on_host(given) if late is None else on_disk(self._on_host(given))
            if isinstance(given, Source):
                out.append(self._source(given, shape, label, empty_ok, late, heard))
            else:
                out.append(checks.images(given, shape, label, empty_ok=empty_ok, dtype=self.dtype, tell=heard))
        if len({len(array) for array in out}) > 1:
            raise ConfigError(
                f"{what}: expected as many examples in each input. Received: "
                + ", ".join(f"{len(array)} in {name}" for name, array in zip(names, out, strict=True))
            )
        return out

    def _source(
        self,
        source: Source,
        shape: tuple[int, ...],
        what: str,
        empty_ok: bool,
        late: Late | None,
        tell: Callable[[str, np.dtype], None] | None,
    ) -> np.ndarray | Source:
        checks.source(source, what)
        checks.examples(source, shape, what, empty_ok=empty_ok)
        whole = slice(0, len(source))
        if isinstance(source, Pixels):
            return source if late is not None else taken(source, whole)
        if late is None:
            return checks.images(taken(source, whole), shape, what, empty_ok=empty_ok, dtype=self.dtype, tell=tell)

        def check(part: np.ndarray, where: str) -> np.ndarray:
            return checks.images(part, shape, where, empty_ok=True, dtype=self.dtype, tell=tell or late.raw_pixels)

        return Checked(source, what, check)

    def _shaped_by(self, x: Any) -> None:
        """Where the shape of the input is not known yet, it may be learnt from examples."""

    def _on_host(self, a: Any) -> Any:
        """Arrays of this model's own backend come to the host, where all input is checked."""
        return self.backend.to_numpy(a) if isinstance(a, self.backend.array_type) else a

    def _here(self, arrays: Sequence[Any], entry: Entry | None = None) -> list[Array]:
        entry = entry or Entry(self.backend)
        return [entry(a, self.dtype) for a in arrays]

    def _enter(self, xs: Sequence[Array]) -> list[Array]:
        """Images as layers see them, [N,C,H,W]."""
        if self.data_format == "channels_first":
            return list(xs)
        return [self.backend.contiguous(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x for x in xs]

    def _leave(self, y: Array, *, back: bool = False) -> Array:
        """An output in the user's axis order; `back`: its gradient on the way back."""
        if self.data_format == "channels_first" or y.ndim != 4:
            return y
        return self.backend.contiguous(y.transpose(0, 3, 1, 2) if back else y.transpose(0, 2, 3, 1))

    def _batches(
        self, data: Examples | Stream, batch_size: Any, plan: Plan, verbose: Any = 0
    ) -> Generator[tuple[Part, list[Array]]]:
        """Each batch in turn, or parts of it, with its outputs in inference; with `verbose` 1 under a bar on stderr.

        To be closed by who leaves before its end: what is read late, a thread reads ahead.
        """
        entry, most, told = Entry(self.backend), self.backend.together or WHOLE, False
        parts = data.parts(batch_size)
        with Ahead(parts) if data.lazy else nullcontext(parts) as ready:
            if verbose == 1:
                ready = tqdm(ready, total=data.steps(batch_size), file=sys.stderr, leave=False, unit="batch")
            for part in ready:
                if data.late is not None:
                    data.late.tell()
                at, whole = 0, min(most, part.size)
                while at < part.size:
                    some = part if whole == part.size else part.some(at, min(at + whole, part.size))
                    ys = self._outputs(some.xs, plan, entry)
                    if ys is None:
                        most = whole = smaller(self, some.size, told)
                        told = True
                        continue
                    yield some, ys
                    at += some.size

    def _outputs(self, xs: Sequence[Any], plan: Plan, entry: Entry) -> list[Array] | None:
        """The outputs of one batch, in inference; None where there is no room for it, and nothing is held any more."""
        try:
            with self.backend.running():
                ys = plan.forward(self._enter(self._here(xs, entry)), Context(seed=self.seed))
                return [self._leave(y) for y in ys]
        except MemoryError:
            return None

    # ------------------------------------------------------------------ asking

    def predict_on_batch(self, x: Any) -> Any:
        """The outputs for one batch."""
        return self.predict(x, WHOLE)

    def predict(self, x: Any, batch_size: int | None = None, *, verbose: Any = 0, steps: int | None = None) -> Any:
        """The outputs for x as NumPy arrays, [N, *output_shape] each (a list where there are several).

        x is an array, an np.memmap or an `xconv.data.Source` (or several, in a list or dict), computed `batch_size`
        (250) examples at a time, so that memory stays bounded beside the outputs; or a generator, another iterable or
        an `xconv.utils.Sequence` of batches x or (x, ...), of which the first `steps` are taken. `verbose` 1 shows a
        bar.
        """
        if type(x) is np.ndarray and steps is None and not verbose and (batch_size is None or type(batch_size) is int):
            y = self._at_once(x, BATCH if batch_size is None else batch_size)
            if y is not None:
                return y
        data, size = self._unlabelled(x, "predict", steps, batch_size, empty_ok=True)
        shapes = [self._given_shape(i) for i in self.graph.outputs]
        known = len(data) if isinstance(data, Examples) else None
        outs: list[Any] = [[] if known is None else np.empty((known, *shape), self.dtype) for shape in shapes]
        with closing(self._batches(data, size, self._plan(), verbose)) as batches:
            for part, ys in batches:
                for out, y in zip(outs, ys, strict=True):
                    if known is None:
                        out.append(np.array(self.backend.to_numpy(y)))
                    else:
                        out[part.first : part.first + part.size] = self.backend.to_numpy(y)
        outs = [np.concatenate(out) for out in outs] if known is None else outs
        return outs if len(outs) > 1 else outs[0]

    def _at_once(self, x: np.ndarray, most: int) -> np.ndarray | None:
        """What `predict` gives for one batch that is as it should be, sooner; None for anything else."""
        graph = self._graph
        if graph is None or len(graph.inputs) + len(graph.outputs) > 2 or x.dtype != self.dtype:
            return None
        if x.shape[1:] != self._given_shape(graph.inputs[0]) or not x.shape or not 0 < len(x) <= most:
            return None
        if self.backend.together and len(x) > self.backend.together:
            return None
        checks.finite(x, "predict: x")
        ys = self._outputs([x], self._plan(), Entry(self.backend))
        return None if ys is None else np.array(self.backend.to_numpy(ys[0]))

    def _unlabelled(
        self, x: Any, what: str, steps: Any, batch_size: Any, *, empty_ok: bool = False
    ) -> tuple[Examples | Stream, int]:
        """Examples without labels, and how many at a time."""
        if is_stream(x):
            no_batch_size(batch_size, what)
            stream = Stream(self, x, what, labelled=False, steps=steps)
            self._shaped_by_first(stream)
            return stream, BATCH
        no_steps(steps, what, "steps")
        late = Late(f"{what}: x")
        xs = self._images(x, f"{what}: x", empty_ok=empty_ok, late=late)
        return Examples(xs, late=late), BATCH if batch_size is None else positive(batch_size, "batch_size")

    def _shaped_by_first(self, stream: Stream) -> None:
        """Where the shape of the input is not known yet, it may be learnt from the first batch."""
        if self._graph is None:
            self._shaped_by(stream.peek())


def no_batch_size(batch_size: Any, what: str, name: str = "batch_size") -> None:
    """ConfigError where batches have a size already."""
    if batch_size is not None:
        raise ConfigError(
            f"{what}: {name} is for arrays; a generator, iterable or Sequence makes its batches itself: leave it out. "
            f"Received: {name}={described(batch_size)}"
        )


def no_steps(steps: Any, what: str, name: str) -> None:
    """ConfigError where all examples are taken."""
    if steps is not None:
        raise ConfigError(
            f"{what}: {name} is for generators; of arrays all examples are taken: give some of them, as in x[:1000]. "
            f"Received: {name}={described(steps)}"
        )
