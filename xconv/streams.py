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
    DROPOUT = 3
    AUGMENT = 4
    HELD_OUT = 5


def check_seed(seed: int) -> int:
    """`seed` as an int in [0, 2**64), or ConfigError."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or not 0 <= seed < 2**64:
        raise ConfigError(f"seed must be an integer from 0 to 2**64 - 1. Received: {described(seed)}")
    return int(seed)


def philox(
    seed: int, purpose: Purpose, *, step: int = 0, node: int = 0, index: int = 0, block: int = 0
) -> np.random.Philox:
    """The bit generator for one purpose at one place, from the given block of four words on."""
    key = np.array([seed, purpose], np.uint64)
    return np.random.Philox(key=key, counter=np.array([block, index, node, step], np.uint64))


def weights(seed: int, node: int, index: int) -> np.random.Generator:
    """Generator for the initial values of parameter number `index` of node number `node`."""
    return np.random.Generator(philox(seed, Purpose.WEIGHTS, node=node, index=index))


def permutation(seed: int, epoch: int, n: int) -> np.ndarray:
    """The order of `n` examples in one epoch: int64[n].

    Sorting raw Philox words needs none of NumPy's distributions, whose streams may change from version to version.
    """
    return np.argsort(philox(seed, Purpose.SHUFFLE, step=epoch).random_raw(n), kind="stable")


def dropout_threshold(rate: float) -> int:
    """A 32-bit word of `mask_words` at least this large keeps its entry; ConfigError for rates not in [0, 1)."""
    if isinstance(rate, bool) or not isinstance(rate, int | float | np.number) or not 0 <= rate < 1:
        raise ConfigError(f"rate must be a number from 0 to 1, and less than 1. Received: {described(rate)}")
    return round(float(rate) * 2**32)


def mask_words(seed: int, step: int, node: int, n: int, first: int = 0) -> np.ndarray:
    """What decides over `n` entries of one mask, from entry `first` on, a multiple of 8: uint32[n].

    Entry i has half i % 2, the low half first, of raw word i // 2: a block of Philox decides over eight entries.
    """
    bits = philox(seed, Purpose.DROPOUT, step=step, node=node, block=first // 8)
    return bits.random_raw((n + 1) // 2).astype("<u8", copy=False).view("<u4")[:n]


def augment_words(seed: int, epoch: int, first: int, count: int) -> np.ndarray:
    """Numbers for the pictures at places first .. first + count of an epoch's order: uint32[count, 16].

    Two blocks of Philox a picture, each of its eight raw words in halves, the low half first.
    """
    bits = philox(seed, Purpose.AUGMENT, step=epoch, block=2 * first)
    return bits.random_raw(8 * count).astype("<u8", copy=False).view("<u4").reshape(count, 16)


def held_out_order(seed: int, index: int, n: int) -> np.ndarray:
    """The order in which the `n` examples of class number `index` are held out for testing: int64[n]."""
    return np.argsort(philox(seed, Purpose.HELD_OUT, index=index).random_raw(n), kind="stable")
