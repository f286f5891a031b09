"""$XCONV_WORKSPACE: how it is read and shown, that results do not depend on it, and that scratch memory keeps to it."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests import reference, standin
from tests.checks import close, draw
from tests.standin.device import MemoryPool, using_allocator
from xconv import backend as backends
from xconv.backend import Need
from xconv.backend.hostpool import HostPool
from xconv.backend.numpy_backend import NumpyBackend
from xconv.backend.threads import Team
from xconv.backend.workspace import DEFAULT, shown, workspace_bytes
from xconv.errors import ConfigError

# ---------------------------------------------------------------------- the setting


@pytest.mark.parametrize(
    ("setting", "size"),
    [
        ("1000000", 10**6),
        ("64MB", 64 * 10**6),
        (" 64 mb ", 64 * 10**6),
        ("2048KiB", 2 << 20),
        ("1.5 GiB", 3 << 29),
        ("1GB", 10**9),
        ("1.0000005MB", 1000000),
        ("12345678B", 12345678),
        ("", DEFAULT),
    ],
)
def test_sizes(monkeypatch, setting, size):
    monkeypatch.setenv("XCONV_WORKSPACE", setting)
    assert workspace_bytes() == size


def test_the_default_is_256_mb(monkeypatch):
    monkeypatch.delenv("XCONV_WORKSPACE", raising=False)
    assert workspace_bytes() == 256_000_000 and shown(workspace_bytes()) == "256 MB"
    assert shown(1_500_000_000) == "1.5 GB"


@pytest.mark.parametrize(
    "setting", ["all", "-1", "64 M", "MB", "1e9", "1,000,000", "64MB!", "nan", "²MB", "0x100000", " "]
)
def test_no_size(monkeypatch, setting):
    monkeypatch.setenv("XCONV_WORKSPACE", setting)
    with pytest.raises(
        ConfigError, match=r"XCONV_WORKSPACE must be .* such as '64MB'; or unset for 256 MB\. Received: '"
    ):
        workspace_bytes()


@pytest.mark.parametrize("setting", ["0", "256", "999999", "512 KiB", "0.9MB"])
def test_too_small(monkeypatch, setting):
    monkeypatch.setenv("XCONV_WORKSPACE", setting)
    with pytest.raises(ConfigError, match=f"at least 1 MB.* without a unit it is bytes. Received: '{setting}'$"):
        workspace_bytes()


def test_a_backend_reads_it_when_it_is_made(monkeypatch):
    monkeypatch.setenv("XCONV_WORKSPACE", "3MB")
    backend = NumpyBackend()
    monkeypatch.setenv("XCONV_WORKSPACE", "5MB")
    assert backend.workspace == backend.describe()["workspace"] == 3_000_000


def test_a_wrong_setting_is_told_and_not_passed_over(monkeypatch):
    monkeypatch.setattr(backends, "_made", {})
    monkeypatch.setattr(backends, "_chosen", None)
    monkeypatch.setenv("XCONV_WORKSPACE", "plenty")
    for name in ("numpy", "auto"):
        with pytest.raises(ConfigError, match=r"XCONV_WORKSPACE.*'plenty'"):
            backends.get_backend(name)
    row = next(info for info in backends.backends() if info.name == "numpy")
    assert not row.usable and "XCONV_WORKSPACE" in row.reason


def test_the_command_shows_it(run, monkeypatch):
    monkeypatch.setattr(backends.get_backend("numpy"), "workspace", 7_000_000)
    code, out, _ = run("backends")
    assert code == 0 and "7 MB" in out and "workspace" in out


def test_every_backend_describes_it(backend):
    assert backend.describe()["workspace"] == backend.workspace == workspace_bytes()


# ---------------------------------------------------------------------- results

# x shape, filters, groups, kernel, stride, pads, dilation
CASES = [
    ((5, 3, 6, 7), 4, 1, (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((7, 2, 7, 5), 3, 1, (3, 3), (2, 1), (1, 0, 2, 1), (1, 1)),
    ((4, 2, 8, 7), 5, 1, (2, 3), (1, 2), (1, 1, 1, 1), (2, 2)),
    ((5, 4, 6, 6), 6, 2, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1)),
    ((3, 3, 5, 5), 3, 3, (2, 2), (2, 1), (0, 1, 0, 0), (1, 1)),
]


def grouped(x, w, b, groups, *window):
    """Group after group, by the naive loops."""
    xs, ws, bs = np.split(x, groups, axis=1), np.split(w, groups), np.split(b, groups)
    return np.concatenate([reference.conv2d(*args, *window) for args in zip(xs, ws, bs, strict=True)], axis=1)


def grouped_backward(dy, x, w, groups, *window):
    parts = zip(np.split(dy, groups, axis=1), np.split(x, groups, axis=1), np.split(w, groups), strict=True)
    dx, dw, db = zip(*(reference.conv2d_backward(*args, *window) for args in parts), strict=True)
    return np.concatenate(dx, axis=1), np.concatenate(dw), np.concatenate(db)


@pytest.fixture
def parts(backend, monkeypatch):
    """The parts in which the backend has gone through its batches since."""
    seen: list[int] = []
    real = {name: getattr(backend, name) for name in ("_parts", "_block", "_grouped") if hasattr(backend, name)}

    def spied(name):
        def spy(*args):
            found = real[name](*args)
            if name == "_parts":
                seen.append(len(found))
            elif name == "_grouped":
                seen.append(len(found[0]))
            else:  # of a batch by the blocks of one thread
                seen.append(-(-args[0][0] // found[0]))
            return found

        return spy

    for name in real:
        monkeypatch.setattr(backend, name, spied(name))
    return seen


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize(("shape", "filters", "groups", "kernel", "stride", "pads", "dilation"), CASES)
def test_convolution_in_parts(
    backend, dtype, monkeypatch, parts, shape, filters, groups, kernel, stride, pads, dilation, activation
):
    x, b = draw(*shape, dtype=dtype), draw(filters, dtype=dtype, seed=1)
    w = draw(filters, shape[1] // groups, *kernel, dtype=dtype, seed=2)
    window = stride, pads, dilation
    there = [backend.asarray(a) for a in (x, w, b)]
    with backend.running():
        y, saved = backend.conv2d(*there, *window, activation, groups)
        dy = draw(*y.shape, dtype=dtype, seed=3)
        whole = y, *backend.conv2d_backward(backend.asarray(dy), saved)
        assert max(parts, default=1) == 1
        monkeypatch.setattr(backend, "workspace", 1)  # one image is the least
        y, saved = backend.conv2d(*there, *window, activation, groups)
        got = y, *backend.conv2d_backward(backend.asarray(dy), saved)
        direct = backend.name == "numba" and activation == "relu" and groups == 1 and dilation == (1, 1)
        assert max(parts, default=1) == (1 if direct else shape[0])
        expected = grouped(x, w, b, groups, *window)
        opened = dy * (expected > 0) if activation else dy
        expected = np.maximum(expected, 0) if activation else expected
        for name, a, one, e in zip(
            ("y", "dx", "dw", "db"),
            got,
            whole,
            (expected, *grouped_backward(opened, x, w, groups, *window)),
            strict=True,
        ):
            close(backend, a, e, "sum", name, scale=np.abs(opened).sum() if name == "db" else 0.0)
            close(backend, a, backend.to_numpy(one).astype("f8"), "sum", name, scale=np.abs(e).max())
        for need in (Need(x=False), Need(params=False)):
            some = backend.conv2d_backward(backend.asarray(dy), saved, need)
            assert [a is None for a in some] == [not need.x, not need.params, not need.params]
        into = backend.asarray(np.full(w.shape, 7, dtype))
        assert all(
            np.array_equal(backend.to_numpy(a), backend.to_numpy(g))
            for a, g in zip(backend.conv2d_backward(backend.asarray(dy), saved, Need(dw=into)), got[1:], strict=True)
        )


@pytest.mark.parametrize(("size", "step"), [((2, 2), (2, 2)), ((3, 2), (1, 2))])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 1, 2)])
def test_convolution_and_pooling_in_parts(backend, dtype, monkeypatch, parts, size, step, pads):
    x, w, b = draw(5, 2, 8, 7, dtype=dtype), draw(4, 2, 3, 3, dtype=dtype, seed=1), draw(4, dtype=dtype, seed=2)
    monkeypatch.setattr(backend, "workspace", 1)
    with backend.running():
        y, saved = backend.conv2d_relu_max_pool(*(backend.asarray(a) for a in (x, w, b)), (1, 1), pads, size, step)
        dy = draw(*y.shape, dtype=dtype, seed=3)
        got = y, *backend.conv2d_relu_max_pool_backward(backend.asarray(dy), saved)
    assert max(parts, default=1) == (1 if backend.name == "numba" else 5)
    conv = reference.conv2d(x, w, b, (1, 1), pads)
    expected, argmax = reference.max_pool(np.maximum(conv, 0), size, step, (0, 0, 0, 0))
    dconv = reference.max_pool_backward(dy * (expected > 0), argmax, conv.shape, size, step, (0, 0, 0, 0))
    expected = expected, *reference.conv2d_backward(dconv, x, w, (1, 1), pads)
    for name, a, e in zip(("y", "dx", "dw", "db"), got, expected, strict=True):
        close(backend, a, e, "sum", name, scale=np.abs(dy).sum() if name == "db" else 0.0)


@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 1, 1)])
def test_columns_and_pooling_in_parts(backend, dtype, monkeypatch, pads):
    monkeypatch.setattr(backend, "workspace", 1)
    x, window = np.round(draw(4, 2, 6, 5, dtype=dtype), 1), ((2, 3), (2, 1), pads)
    there = backend.asarray(x)
    close(backend, backend.im2col(there, *window), reference.im2col(x, *window), "copy")
    col = draw(*reference.im2col(x, *window).shape, dtype=dtype, seed=1)
    close(
        backend, backend.col2im(backend.asarray(col), x.shape, *window), reference.col2im(col, x.shape, *window), "sum"
    )
    y, argmax = backend.max_pool(there, *window)
    expected, where = reference.max_pool(x, *window)
    close(backend, y, expected, "copy")
    close(backend, argmax, where, "copy")
    dy = draw(*expected.shape, dtype=dtype, seed=2)
    dx = backend.max_pool_backward(backend.asarray(dy), argmax, x.shape, *window)
    close(backend, dx, reference.max_pool_backward(dy, where, x.shape, *window), "sum")
    close(backend, backend.avg_pool(there, *window), reference.avg_pool(x, *window), "sum")
    dx = backend.avg_pool_backward(backend.asarray(dy), x.shape, *window)
    close(backend, dx, reference.avg_pool_backward(dy, x.shape, *window), "sum")


@pytest.mark.parametrize("groups", [1, 2])
def test_no_images_at_all(backend, monkeypatch, groups):
    x, w = (
        backend.asarray(draw(0, 2, 6, 6, dtype="float32")),
        backend.asarray(draw(4, 2 // groups, 3, 3, dtype="float32")),
    )
    b = backend.asarray(draw(4, dtype="float32"))
    for workspace in (1, 10**6):
        monkeypatch.setattr(backend, "workspace", workspace)
        y, saved = backend.conv2d(x, w, b, (1, 1), (1, 1, 1, 1), groups=groups)
        dx, dw, db = backend.conv2d_backward(y, saved)
        assert (y.shape, dx.shape) == ((0, 4, 6, 6), (0, 2, 6, 6))
        assert dw.shape == w.shape and not backend.to_numpy(dw).any() and not backend.to_numpy(db).any()


# ---------------------------------------------------------------------- memory


@pytest.fixture(params=["numpy", "numba", "standin"])
def watched(request, monkeypatch):
    """A backend whose memory can be watched: nothing idle is kept of it."""
    if request.param == "standin":
        return pytest.skip(standin.MISSING) if standin.MISSING else standin.install()
    backend = backends.get_backend(request.param)
    monkeypatch.setattr(backend, "pool", HostPool(limit=0))
    if request.param == "numba":
        monkeypatch.setattr(backend, "team", Team(6))
    return backend


class WatchedPool(MemoryPool):
    """The stand-in's memory, with the most that was in use at once."""

    most = 0

    def malloc(self, size):
        memory = super().malloc(size)
        self.most = max(self.most, self.used_bytes())
        return memory


def scratch(backend, operation, *args, **kwargs):
    """(result, the most bytes that were held at once beside what is left in the end)."""
    with backend.running():
        operation(*args, **kwargs)  # compiles
        if backend.name == "cupy":
            pool = WatchedPool()
            with using_allocator(pool.malloc):
                result = operation(*args, **kwargs)
            return result, pool.most - pool.used_bytes()
        tracemalloc.start()
        try:
            result = operation(*args, **kwargs)
            left, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    return result, most - left


SLACK = 120_000  # bytes of objects, of what is rounded up, and of NumPy's own buffers for adding across memory
BUDGET = 400_000


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("kernel", "pads"), [((3, 3), (1, 1, 1, 1)), ((5, 5), (0, 0, 0, 0)), ((1, 1), (0, 0, 0, 0))])
def test_convolution_stays_in_its_budget(watched, monkeypatch, kernel, pads, groups):
    x, w = draw(32, 8, 24, 24, dtype="float32"), draw(24, 8 // groups, *kernel, dtype="float32", seed=1)
    x, w, b = (watched.asarray(a) for a in (x, w, draw(24, dtype="float32")))
    shapes = x.shape, w.shape, (1, 1), pads, (1, 1), None, 4
    one = watched.conv_scratch((1, *x.shape[1:]), *shapes[1:])
    for budget in (BUDGET, 10 * BUDGET):
        monkeypatch.setattr(watched, "workspace", budget)
        (y, saved), forward = scratch(watched, watched.conv2d, x, w, b, (1, 1), pads, groups=groups)
        dy = watched.asarray(draw(*y.shape, dtype="float32", seed=2))
        _, backward = scratch(watched, watched.conv2d_backward, dy, saved)
        told = watched.conv_scratch(*shapes)
        for way, used in enumerate((forward, backward)):
            assert used <= told.most(way) + SLACK, (budget, way)
            assert told.most(way) <= max(budget, one.most(way)), (budget, way)
    monkeypatch.setattr(watched, "workspace", 1 << 40)
    _, free = scratch(watched, watched.conv2d_backward, dy, saved)
    if watched.name == "numba":  # whose threads may well take turns, and then hold less
        free = watched.conv_scratch(*shapes).most(1)
    assert free > BUDGET + SLACK  # or nothing was shown


def test_relu_and_pooling_stay_in_their_budget(watched, monkeypatch):
    x, w, b = (watched.asarray(draw(*s, dtype="float32")) for s in ((32, 4, 24, 24), (8, 4, 3, 3), (8,)))
    window, pool = ((1, 1), (1, 1, 1, 1)), ((2, 2), (2, 2))
    for budget in (BUDGET, 1 << 40):
        monkeypatch.setattr(watched, "workspace", budget)
        (y, saved), forward = scratch(watched, watched.conv2d, x, w, b, *window, activation="relu")
        dy = watched.asarray(draw(*y.shape, dtype="float32", seed=2))
        _, backward = scratch(watched, watched.conv2d_backward, dy, saved)
        (y, saved), pooled = scratch(watched, watched.conv2d_relu_max_pool, x, w, b, *window, *pool)
        dy = watched.asarray(draw(*y.shape, dtype="float32", seed=2))
        _, unpooled = scratch(watched, watched.conv2d_relu_max_pool_backward, dy, saved)
        most = max(forward, backward, pooled, unpooled)
        if budget == BUDGET:
            assert most <= BUDGET + SLACK
    if watched.name != "numba":  # the direct algorithm needs no more than its blocks in any case
        assert most > 5 * BUDGET


def test_pooling_stays_in_its_budget(monkeypatch):
    backend = NumpyBackend()
    backend.pool = HostPool(limit=0)
    x, window = draw(64, 8, 24, 24, dtype="float32"), ((3, 3), (2, 2), (1, 1, 1, 1))
    for budget in (BUDGET, 1 << 40):
        monkeypatch.setattr(backend, "workspace", budget)
        (y, argmax), most = scratch(backend, backend.max_pool, x, *window)
        dy = draw(*y.shape, dtype="float32", seed=1)
        used = [most, scratch(backend, backend.max_pool_backward, dy, argmax, x.shape, *window)[1]]
        used += [scratch(backend, backend.avg_pool, x, *window)[1]]
        used += [scratch(backend, backend.avg_pool_backward, dy, x.shape, *window)[1]]
        used += [scratch(backend, backend.im2col, x, *window)[1]]
        col = backend.im2col(x, *window)
        used += [scratch(backend, backend.col2im, col, x.shape, *window)[1]]
        assert all(size <= BUDGET + SLACK for size in used) if budget == BUDGET else min(used) > 2 * BUDGET


def test_few_threads_where_the_blocks_of_many_do_not_fit(monkeypatch):
    backend = backends.get_backend("numba")
    monkeypatch.setattr(backend, "team", Team(6))
    x, w = draw(64, 16, 6, 6, dtype="float32"), draw(64, 16, 3, 3, dtype="float32")
    counts = []
    real = backend.team.each
    monkeypatch.setattr(
        backend.team, "each", lambda function, tasks: counts.append(len(tasks)) or real(function, tasks)
    )
    for activation in (None, "relu"):
        for budget, fewer in ((1 << 40, False), (180_000, True)):
            monkeypatch.setattr(backend, "workspace", budget)
            counts.clear()
            with backend.running():
                y, saved = backend.conv2d(x, w, draw(64, dtype="float32"), (1, 1), (0, 0, 0, 0), (1, 1), activation)
                backend.conv2d_backward(y, saved)
            assert counts[-1] < 6 if fewer else counts == [6, 6], (activation, budget)
            told = backend.conv_scratch(x.shape, w.shape, (1, 1), (0, 0, 0, 0), (1, 1), activation, 4)
            assert (told.most(1) > 180_000) is not fewer or counts[-1] == 1


def test_the_direct_algorithm_has_small_blocks():
    backend = backends.get_backend("numba")
    told = backend.conv_scratch((256, 64, 112, 112), (64, 64, 3, 3), (1, 1), (1, 1, 1, 1), (1, 1), "relu", 4)
    weights = 64 * 64 * 9 * 4
    assert told.most(0) <= weights + backend.team.threads * 3 * (1 << 18)
    assert told.most(1) <= 2 * weights + backend.team.threads * (weights + 3 * (1 << 18))
    assert (told.keeps_y, told.kept) == (False, 256 * 64 * 112 * 112)
