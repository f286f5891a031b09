"""conv2d with groups on every backend, against one plain convolution with zeros between the groups."""

from __future__ import annotations

import numpy as np
import pytest

from tests import reference
from tests.checks import close, draw
from xconv.backend import Need
from xconv.errors import ShapeError

# x shape, filters, groups, kernel, stride, pads, dilation
CASES = [
    ((2, 4, 5, 6), 6, 2, (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 6, 7, 5), 3, 3, (2, 3), (2, 1), (1, 0, 1, 2), (1, 1)),
    ((3, 4, 6, 6), 4, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),  # depthwise
    ((2, 3, 8, 7), 6, 3, (2, 2), (1, 2), (0, 1, 0, 0), (2, 3)),  # depthwise, two filters a channel
    ((2, 2, 3, 3), 2, 2, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1)),
]


def spread(w, channels, groups):
    """w[F,C/groups,KH,KW] -> [F,C,KH,KW]: zero where a filter does not see a channel."""
    f, seen, kh, kw = w.shape
    out = np.zeros((f, channels, kh, kw))
    for filter_ in range(f):
        group = filter_ // (f // groups)
        for k in range(seen):
            out[filter_, group * seen + k] = w[filter_, k]
    return out


def gathered(dw, groups):
    """The way back: the entries of dw[F,C,KH,KW] that belong to w."""
    f, channels = dw.shape[:2]
    seen = channels // groups
    return np.stack([dw[i, i // (f // groups) * seen :][:seen] for i in range(f)])


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("shape", "filters", "groups", "kernel", "stride", "pads", "dilation"), CASES)
def test_grouped_conv2d(backend, dtype, shape, filters, groups, kernel, stride, pads, dilation, activation):
    x, b = draw(*shape, dtype=dtype), draw(filters, dtype=dtype, seed=2)
    w = draw(filters, shape[1] // groups, *kernel, dtype=dtype, seed=1)
    given = [backend.asarray(a) for a in (x, w, b)]
    y, saved = backend.conv2d(*given, stride, pads, dilation, activation, groups)
    wide = spread(w, shape[1], groups)
    expected = reference.conv2d(x, wide, b, stride, pads, dilation)
    close(backend, y, np.maximum(expected, 0) if activation else expected, "sum", "y")
    dy = draw(*y.shape, dtype=dtype, seed=3)
    dx, dw, db = backend.conv2d_backward(backend.asarray(dy), saved)
    opened = np.where(expected > 0, dy, 0) if activation else dy
    wanted = reference.conv2d_backward(opened, x, wide, stride, pads, dilation)
    close(backend, dx, wanted[0], "sum", "dx")
    close(backend, dw, gathered(wanted[1], groups), "sum", "dw")
    close(backend, db, wanted[2], "sum", "db")
    for result in (y, dx, dw, db):
        assert result.flags.c_contiguous
    assert [backend.to_numpy(a).tobytes() for a in given] == [x.tobytes(), w.tobytes(), b.tobytes()]


@pytest.mark.parametrize("need", [Need(), Need(x=False), Need(params=False)])
def test_only_what_is_needed(backend, need):
    x, w, b = (backend.asarray(draw(*s)) for s in [(2, 4, 5, 5), (4, 2, 2, 2), (4,)])
    y, saved = backend.conv2d(x, w, b, (1, 1), (0, 0, 0, 0), groups=2)
    dx, dw, db = backend.conv2d_backward(y, saved, need)
    assert (dx is not None, dw is not None, db is not None) == (need.x, need.params, need.params)


def test_one_group_is_a_plain_convolution_to_the_bit(backend, dtype):
    x, w, b = (backend.asarray(draw(*s, dtype=dtype)) for s in [(2, 3, 6, 6), (4, 3, 3, 3), (4,)])
    plain, _ = backend.conv2d(x, w, b, (1, 1), (0, 0, 0, 0))
    grouped, saved = backend.conv2d(x, w, b, (1, 1), (0, 0, 0, 0), groups=1)
    assert backend.to_numpy(plain).tobytes() == backend.to_numpy(grouped).tobytes() and saved.groups == 1


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "groups", "said"),
    [
        ((1, 6, 4, 4), (4, 3, 2, 2), 4, "groups must divide.*Received: 4, of 6 and 4"),
        ((1, 6, 4, 4), (4, 2, 2, 2), 3, "groups must divide.*Received: 3, of 6 and 4"),
        ((1, 6, 4, 4), (4, 2, 2, 2), 2, r"one group: expected shape \(3,\)\. Received: shape \(2,\)"),
    ],
)
def test_groups_that_do_not_fit(backend, x_shape, w_shape, groups, said):
    x, w, b = (backend.asarray(draw(*s)) for s in (x_shape, w_shape, w_shape[:1]))
    with pytest.raises(ShapeError, match=said):
        backend.conv2d(x, w, b, (1, 1), (0, 0, 0, 0), groups=groups)
