"""Work on batches that runs beside the training step: one thread, never more than two batches ahead."""

from __future__ import annotations

import contextvars
import threading
import warnings
from collections.abc import Generator, Iterator
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

from xconv import checks

T = TypeVar("T")
MOST = 2  # batches that are ready, or being made, before anyone has asked for them
PATIENCE = 10.0  # seconds that leaving waits for the batch that is being made


class Ahead(Generic[T]):
    """The items of a generator, made by a thread while the caller works: ``with Ahead(items) as made: for x in made``.

    The same items in the same order; an error comes to the caller at its place, with the traceback of where it arose.
    The thread runs in the caller's context (np.errstate and such). It is there inside `with` only: whoever leaves,
    by whatever way, waits until the item that is being made is done, and nothing is asked of the generator any more.
    Where that takes longer than `PATIENCE`, a RuntimeWarning tells, and the thread ends by itself when it is done.
    """

    def __init__(self, items: Generator[T]) -> None:
        self._items = items
        self._room = threading.Semaphore(MOST)
        self._made: SimpleQueue[tuple[T] | BaseException | None] = SimpleQueue()
        self._left = self._begun = False
        self._over = threading.Event()
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._run,), name="xconv-batches", daemon=True)

    def _run(self) -> None:
        last: BaseException | None = None
        try:
            while True:
                self._room.acquire()
                if self._left:
                    break
                item = next(self._items, self)
                if item is self:
                    break
                self._made.put((item,))  # type: ignore[arg-type]
                del item  # nobody but the caller holds a batch
        except BaseException as error:
            last = error
        try:
            self._items.close()
        except BaseException as error:
            last = last or error
        self._made.put(last)
        self._over.set()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        if self._left:
            raise StopIteration
        if not self._begun:
            self._begin()
        found = self._made.get()
        if isinstance(found, tuple):
            self._room.release()
            return found[0]
        self._left = True
        try:
            raise StopIteration if found is None else found
        finally:
            del found  # else the error would hold this frame, and the frame the error

    def _begin(self) -> None:
        """Not on entering: a Ctrl-C that came just then would leave nobody to end the thread."""
        self._begun = True
        try:
            self._thread.start()
        except RuntimeError:  # there can be no more threads
            self._begun = False
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._left = True
        if not self._begun:
            return
        self._room.release()
        if self._over.wait(PATIENCE):
            self._thread.join()
        else:
            warnings.warn(
                f"the batch that was being made when training ended is not done after {PATIENCE:g} s; its thread ends "
                "once it is, and until then holds the generator",
                RuntimeWarning,
                stacklevel=checks.users_level(),
            )
