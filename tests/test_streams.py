"""Random numbers: known answers, and that a draw depends only on what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from xconv import streams
from xconv.errors import ConfigError
from xconv.streams import Purpose


def by_hand(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x64-10 as the paper writes it."""
    for i in range(10):
        keys = [(key[0] + i * 0x9E3779B97F4A7C15) % 2**64, (key[1] + i * 0xBB67AE8584CAA73B) % 2**64]
        high0, low0 = divmod(counter[0] * 0xD2E7470EE14C6C93, 2**64)
        high1, low1 = divmod(counter[2] * 0xCA5A826395121157, 2**64)
        counter = [high1 ^ counter[1] ^ keys[0], low1, high0 ^ counter[3] ^ keys[1], low0]
    return counter


def words(seed: int, purpose: Purpose, **place: int) -> list[int]:
    return streams.philox(seed, purpose, **place).random_raw(4).tolist()


def test_philox_gives_its_authors_known_answers():
    assert by_hand([0] * 4, [0] * 2) == [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]
    # NumPy counts up before it draws.
    for seed, purpose, step, node, index in [(0, 1, 0, 0, 0), (2**64 - 1, 2, 3, 2, 1), (7, 1, 2**63, 5, 0)]:
        expected = by_hand([1, index, node, step], [seed, purpose])
        assert words(seed, Purpose(purpose), step=step, node=node, index=index) == expected


def test_the_numbers_stay_what_they_were():
    """Published results are reproduced only where these hold: weights, shuffles and masks must never change."""
    assert words(0, Purpose.WEIGHTS) == [0xD037F8C3F9A1D176, 0xC057419B4C210765, 0xABF13115117B0065, 0x7BAE035DEA6EA5C0]
    assert streams.permutation(0, 1, 12).tolist() == [2, 7, 10, 5, 11, 4, 0, 8, 1, 9, 3, 6]
    assert streams.permutation(5, 3, 12).tolist() == [1, 4, 6, 9, 11, 0, 2, 7, 10, 3, 5, 8]
    assert streams.mask_words(7, 3, 2, 5).tolist() == [3093606871, 2444248727, 385972108, 3990350574, 1582888104]
    assert streams.weights(7, 2, 1).standard_normal(5).tolist() == [
        -1.1239808469429267,
        -0.7641848667325798,
        -1.6458066925978254,
        1.0019799236140212,
        -1.367525023879251,
    ]


def test_a_draw_does_not_depend_on_what_was_drawn_before():
    places = [(node, index) for node in range(3) for index in range(2)]
    forward = {place: streams.weights(1, *place).standard_normal(50) for place in places}
    backward = {}
    for place in reversed(places):
        streams.permutation(1, 1, 100)
        backward[place] = streams.weights(1, *place).standard_normal(50)
    for place in places:
        assert np.array_equal(forward[place], backward[place])
    # A long draw starts with the short one.
    assert np.array_equal(streams.weights(1, 0, 0).standard_normal(10), forward[0, 0][:10])


def test_streams_of_different_places_share_nothing():
    """Long draws too: the counter's lowest word has room for 2**64 of them."""
    places = [
        {"seed": 0, "purpose": Purpose.WEIGHTS},
        {"seed": 1, "purpose": Purpose.WEIGHTS},
        {"seed": 0, "purpose": Purpose.SHUFFLE},
        {"seed": 0, "purpose": Purpose.DROPOUT},
        {"seed": 0, "purpose": Purpose.WEIGHTS, "step": 1},
        {"seed": 0, "purpose": Purpose.WEIGHTS, "node": 1},
        {"seed": 0, "purpose": Purpose.WEIGHTS, "index": 1},
    ]
    drawn = np.concatenate([streams.philox(**place).random_raw(10_000) for place in places])
    assert len(np.unique(drawn)) == len(drawn)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000])
def test_a_permutation_holds_every_example_once(n):
    order = streams.permutation(0, 1, n)
    assert order.dtype == np.int64
    assert np.array_equal(np.sort(order), np.arange(n))


def test_permutations_differ_by_seed_and_epoch():
    orders = {tuple(streams.permutation(seed, epoch, 100)) for seed in range(10) for epoch in range(1, 11)}
    assert len(orders) == 100
    assert np.array_equal(streams.permutation(3, 2, 100), streams.permutation(3, 2, 100))


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "0"])
def test_seeds_that_cannot_be(seed):
    with pytest.raises(ConfigError, match=r"^seed must be an integer from 0 to 2\*\*64 - 1\. Received: "):
        streams.check_seed(seed)


@pytest.mark.parametrize("seed", [0, 2**64 - 1, np.uint64(2**64 - 1)])
def test_every_seed_of_64_bits_may_be(seed):
    assert streams.check_seed(seed) == int(seed)
    assert type(streams.check_seed(seed)) is int
