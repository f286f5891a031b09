"""Contestants that do next to nothing, at module level so that a fresh process can make them."""

from __future__ import annotations

import os

import numpy as np

from xconv.backend.threads import default_threads
from xconv.measure.contestants import Steps


class Fake(Steps):
    """A step takes `mb` of memory for a moment."""

    def __init__(self, batch_size: int, mb: int = 0) -> None:
        asked = os.environ.get("XCONV_NUM_THREADS")
        self.about = {"threads": int(asked) if asked else default_threads(), "blas": "none"}
        taken = mb if batch_size != 2 else 1  # the twin is a small one

        def train() -> None:
            np.ones(taken * 125_000)  # float64

        self.train, self.infer, self.loss = train, lambda: None, lambda: 0.5


class Broken(Steps):
    """Cannot be made."""

    def __init__(self, batch_size: int) -> None:
        raise RuntimeError("this one has no compiler,\n\n  and says so at length")


class Gone(Fake):
    """Its process ends in its first turn."""

    def turn(self, task: str, seconds: float) -> tuple[float, float]:
        os._exit(1)

    @staticmethod
    def without_a_word(pipe: object, argument: object) -> None:
        os._exit(1)


class Hungry(Steps):
    """Keeps 20 MB in a pool that all of its kind share, unless it is alone."""

    pool: list[np.ndarray] = []  # noqa: RUF012
    alone = {"own": True}  # noqa: RUF012

    def __init__(self, batch_size: int, own: bool = False) -> None:
        pool: list[np.ndarray] = [] if own else Hungry.pool

        def train() -> None:
            if not pool:
                pool.append(np.ones(2_500_000))
            pool[0][:] = 1.0

        self.train, self.infer, self.loss, self.about = train, lambda: None, lambda: 0.0, {}
