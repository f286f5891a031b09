"""A batch out of a data set, on every backend, one number at a time; and in a recorded step."""

from __future__ import annotations

import numpy as np
import pytest

from tests import standin
from xconv.errors import BackendError, DTypeError, ShapeError

ORDER = np.array([3, 0, 6, 2, 5, 1, 4, 3])


def examples(kind, *shape):
    rng = np.random.default_rng(1)
    return rng.normal(size=shape).astype(kind) if kind.startswith("float") else rng.integers(0, 256, shape).astype(kind)


@pytest.mark.parametrize("kind", ["uint8", "int64", "float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 3, 4, 5), (7, 300), (7, 2, 1, 1), (7,)])
@pytest.mark.parametrize(("first", "count"), [(0, 8), (2, 3), (7, 1), (8, 0)])
def test_takes_the_examples_in_order(backend, dtype, kind, shape, first, count):
    data = examples(kind, *shape)
    expected = np.array([data[ORDER[first + i]] for i in range(count)], dtype).reshape(count, *shape[1:])
    there, order = backend.asarray(data), backend.asarray(ORDER)
    given = backend.empty((count, *shape[1:]), dtype)
    for y in (
        backend.gather(there, order, first, count, dtype),
        backend.gather(there, order, backend.asarray(np.array([first])), count, dtype, given),
    ):
        assert isinstance(y, backend.array_type) and y.dtype == dtype and y.flags.c_contiguous
        assert backend.to_numpy(y).tobytes() == expected.tobytes()
    assert np.array_equal(backend.to_numpy(given), expected)
    if kind == "int64":
        labels = backend.gather(there, order, first, count, "int64")
        assert labels.dtype == np.int64 and np.array_equal(backend.to_numpy(labels), expected.astype("int64"))


@pytest.mark.parametrize("shape", [(7, 3, 4, 5), (7, 6)])
def test_normalises_each_channel(backend, dtype, shape):
    data, (shift, scale) = examples("uint8", *shape), np.random.default_rng(2).normal(size=(2, shape[1]))
    args = [backend.asarray(a) for a in (data, ORDER)]
    y = backend.gather(*args, 1, 5, dtype, None, backend.asarray(shift), backend.asarray(scale))
    expected = np.empty((5, *shape[1:]))
    for at in np.ndindex(*expected.shape):
        expected[at] = (float(data[(ORDER[1 + at[0]], *at[1:])]) - shift[at[1]]) * scale[at[1]]
    assert backend.to_numpy(y).tobytes() == expected.astype(dtype).tobytes()


def test_bytes_become_what_division_by_255_gives(backend):
    data = np.arange(256, dtype="uint8")[:, None]
    norm = [backend.asarray(np.array([v])) for v in (0.0, 1 / 255)]
    y = backend.gather(backend.asarray(data), backend.asarray(np.arange(256)), 0, 256, "float32", None, *norm)
    assert backend.to_numpy(y).tobytes() == np.divide(data, 255, dtype="float32").tobytes()


def test_wrong_arguments_are_refused(backend):
    data, order = backend.asarray(examples("uint8", 7, 3, 2, 2)), backend.asarray(ORDER)
    two = backend.asarray(np.ones(2))
    for first, count in [(0, 9), (-1, 2), (8, 1), (3, -1)]:
        with pytest.raises(ShapeError, match=r"order\[first : first \+ count\].*Received"):
            backend.gather(data, order, first, count, "float32")
    for wrong, message in [
        ({"out": backend.empty((2, 3, 2, 1), "float32")}, "out must have shape"),
        ({"shift": two}, "go together"),
        ({"shift": two, "scale": two}, "one entry for each"),
        ({"first": backend.asarray(np.array([1, 2]))}, "first must be"),
    ]:
        given = {"first": 0, **wrong}
        with pytest.raises(ShapeError, match=message):
            backend.gather(data, order, count=2, dtype="float32", **given)


@pytest.fixture
def cupy():
    return pytest.skip(standin.MISSING) if standin.MISSING else standin.real() or standin.install()


def test_the_device_refuses_other_dtypes(cupy):
    data, order = cupy.asarray(examples("float32", 7, 3)), cupy.asarray(ORDER)
    for wrong in [(data, order, 0, 2, "int64"), (data, order, 0, 2, "float32", cupy.empty((2, 3), "float64"))]:
        with pytest.raises(DTypeError, match="gather"):
            cupy.gather(*wrong)
    with pytest.raises(DTypeError, match="order must be int64"):
        cupy.gather(data, order.astype("int32"), 0, 2, "float32")
    with pytest.raises(BackendError, match=r"backend\.asarray"):
        cupy.gather(data, ORDER, 0, 2, "float32")
    with pytest.raises(BackendError, match="C-contiguous"):
        cupy.gather(data, order, 0, 3, "float32", cupy.empty((3, 3), "float32").T)


def test_the_device_shows_an_example_that_is_not_there(cupy):
    """Nothing is read outside: it is NaN, which the loss shows, or a label of no class."""
    data, order = cupy.asarray(examples("int64", 3)), cupy.asarray(np.array([1, 5, -1]))
    assert np.isnan(cupy.to_numpy(cupy.gather(data, order, 0, 3, "float32"))).tolist() == [False, True, True]
    late = cupy.asarray(np.array([2]))
    assert cupy.to_numpy(cupy.gather(data, order, late, 3, "int64")).tolist() == [-1, -1, -1]


def test_a_recorded_step_goes_through_the_epoch(cupy):
    data = examples("uint8", 7, 2, 3, 3)
    there, order, first = cupy.asarray(data), cupy.asarray(ORDER), cupy.asarray(np.array([0]))
    batch = cupy.empty((2, 2, 3, 3), "float32")

    def step():
        cupy.gather(there, order, first, 2, "float32", batch)
        first[...] = first + 2

    launch, _ = standin.record(cupy, step, warm_up=1)
    first.fill(0)
    for start in (0, 2, 4, 6):
        launch()
        assert np.array_equal(cupy.to_numpy(batch), data[ORDER[start : start + 2]])
