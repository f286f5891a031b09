"""Random numbers that are the same bits on every backend, in every order of asking.

Philox4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a key and a counter into
random words, so a draw depends only on what it is for. The key is (seed, purpose); the counter's upper words are
(index, node, step) and its lowest word counts the draws. A resumed run so draws what the unbroken run would.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from xconv.errors import ConfigError, described


class Purpose(IntEnum):
    """What a stream is drawn for; part of its key."""

    WEIGHTS = 1
    SHUFFLE = 2


def check_seed(seed: int) -> int:
    """`seed` as an int in [0, 2**64), or ConfigError."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be an integer from 0 to 2**64 - 1. Received: {described(seed)}")
    return int(seed)


def philox(seed: int, purpose: Purpose, *, step: int = 0, node: int = 0, index: int = 0) -> np.random.Philox:
    """The bit generator for one purpose at one place."""
    key = np.array([seed, purpose], np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, index, node, step], np.uint64))


def weights(seed: int, node: int, index: int) -> np.random.Generator:
    """Generator for the initial values of parameter number `index` of node number `node`."""
    return np.random.Generator(philox(seed, Purpose.WEIGHTS, node=node, index=index))


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `n` examples in one epoch: int64[n].

    Sorting raw Philox words needs none of NumPy's distributions, whose streams may change from version to version.
    """
    return np.argsort(philox(seed, Purpose.SHUFFLE, step=epoch).random_raw(n), kind="stable")
