"""Window arithmetic against counting by hand, and what its messages say."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from xconv.errors import ConfigError, ShapeError
from xconv.shapes import paddings, pair, positive, same_shape, window_output


def counted(size: int, kernel: int, stride: int, before: int, after: int, dilation: int) -> int:
    """How many windows fit, by trying every start."""
    places = range(before + size + after)
    return sum(
        all(start + tap * dilation in places for tap in range(kernel))
        for start in range(0, before + size + after, stride)
    )


def test_output_size_is_the_number_of_windows_that_fit():
    for size, kernel, stride, before, after, dilation in itertools.product(
        range(1, 8), range(1, 5), range(1, 4), range(3), range(3), range(1, 4)
    ):
        expected = counted(size, kernel, stride, before, after, dilation)
        # The other axis stands still: a mistake that mixes the axes shows.
        for axis in (0, 1):

            def both(value, still, axis=axis):
                return (value, still) if axis == 0 else (still, value)

            pads = (before, after, 0, 0) if axis == 0 else (0, 0, before, after)
            window = both(size, 5), both(kernel, 2), both(stride, 1), pads, both(dilation, 1)
            if expected:
                assert window_output(*window) == both(expected, 4)
            else:
                with pytest.raises(ShapeError, match="no output is left"):
                    window_output(*window)


def test_sizes_beyond_64_bits_are_counted_exactly():
    big = 2**70
    assert window_output((big, big + 1), (3, 3), (1, 2), (1, 1, 0, 0)) == (big, big // 2)
    with pytest.raises(ShapeError, match=f"= {6 - big}, and"):
        window_output((3, 3), (big, 1), (1, 1), (1, 1, 0, 0), what="conv")
    assert positive(big, "n") == big


def test_the_message_holds_the_formula_and_every_number():
    with pytest.raises(ShapeError) as caught:
        window_output((4, 9), (3, 5), (2, 1), (0, 0, 1, 2), (1, 3), what="conv1 (Conv2D)")
    assert str(caught.value) == (
        "conv1 (Conv2D): no output is left: OW = (W + pads - (dilation * (kernel - 1) + 1)) // stride + 1 "
        "= (9 + 3 - 13) // 1 + 1 = 0, and must be >= 1. "
        "Received: input 4x9, kernel 3x5, stride 2x1, pads (0, 0, 1, 2)"
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, (0, 0, 0, 0)),
        (2, (2, 2, 2, 2)),
        ((1, 2), (1, 1, 2, 2)),
        ([1, 2, 3, 4], (1, 2, 3, 4)),
        (np.int8(1), (1,) * 4),
    ],
)
def test_paddings(value, expected):
    got = paddings(value, "pad")
    assert got == expected
    assert all(type(v) is int for v in got)


def test_pairs():
    assert pair(3, "kernel") == (3, 3)
    assert pair([np.int64(1), 2], "kernel") == (1, 2)
    assert pair(0, "pad", least=0) == (0, 0)
    assert type(pair(np.uint8(3), "kernel")[0]) is int


@pytest.mark.parametrize(
    "value", [-1, 1.0, True, None, "2", (1,), (1, 2, 3), (1, -1), (-1, 0, 0, 0), (1, 2.0), (1, True)]
)
def test_paddings_that_cannot_be(value):
    with pytest.raises(ConfigError, match=r"^pad must be an integer >= 0.*Received: "):
        paddings(value, "pad")


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "22", (1,), (1, 2, 3), (1, 0), (1, 2.0)])
def test_pairs_that_cannot_be(value):
    with pytest.raises(ConfigError, match=r"^stride must be an integer >= 1 or a pair of them\. Received: "):
        pair(value, "stride")


@pytest.mark.parametrize("value", [0, -3, 2.0, False, None, "3", (3,)])
def test_counts_that_cannot_be(value):
    with pytest.raises(ConfigError, match=r"^epochs must be an integer >= 1\. Received: "):
        positive(value, "epochs")


def test_same_shape():
    same_shape([2, 3], (2, 3), "b")
    with pytest.raises(ShapeError, match=r"^b: expected shape \(2, 3\)\. Received: shape \(3, 2\)$"):
        same_shape((3, 2), (2, 3), "b")
