"""Checks of backends: every operation against the plain definitions."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np

from xconv import checks
from xconv.backend import Array, Backend, Need, get_backend
from xconv.testing.compare import TOLERANCES, check, close

_WINDOWS: list[tuple[tuple[int, ...], Any, Any, Any, Any]] = [  # x shape, kernel, stride, pads, dilation
    ((2, 1, 6, 6), (3, 3), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((1, 3, 5, 8), (2, 3), (2, 1), (1, 0, 1, 2), (1, 1)),
    ((3, 2, 9, 7), (3, 2), (1, 2), (1, 1, 1, 0), (2, 1)),
    ((2, 2, 4, 4), (4, 4), (1, 1), (0, 0, 0, 0), (1, 1)),
]


def check_backend(backend: Backend | str) -> None:
    """Every operation of a backend against the plain definitions, and its methods against theirs.

    The same names, parameters and defaults; results of the same shape and dtype, C-contiguous, on this backend, within
    TOLERANCES of the largest entry, and the very bits for dropout and for pictures that are moved; inputs left alone;
    the same bits when asked again.
    """
    mine, plain = get_backend(backend), Backend()
    _check_signatures(mine)
    for dtype in checks.DTYPES:
        for operation, args in _calls(dtype):
            _check_call(mine, plain, operation, args, dtype)


def _check_signatures(backend: Backend) -> None:
    for name, method in inspect.getmembers(Backend, inspect.isfunction):
        if name.startswith("_"):
            continue
        mine = [(p.name, p.default) for p in inspect.signature(getattr(type(backend), name)).parameters.values()]
        base = [(p.name, p.default) for p in inspect.signature(method).parameters.values()]
        check(mine == base, f"{backend.name}.{name} takes {mine}, the interface says {base}")


def _calls(dtype: str) -> list[tuple[str, tuple[Any, ...]]]:
    """(operation, arguments), host arrays standing for the backend's."""
    rng = np.random.default_rng(1)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(dtype)

    calls: list[tuple[str, tuple[Any, ...]]] = []
    for shape, kernel, stride, pads, dilation in _WINDOWS:
        x = draw(*shape)
        calls.append(("im2col", (x, kernel, stride, pads, dilation)))
        col = Backend().im2col(x, kernel, stride, pads, dilation)
        calls.append(("col2im", (draw(*col.shape), shape, kernel, stride, pads, dilation)))
        for activation in (None, "relu"):
            weights = draw(4, shape[1], *kernel), draw(4)
            calls.append(("conv2d", (x, *weights, stride, pads, dilation, activation)))
        for pool in (None, ((1, 1), (1, 2))):
            calls.append(("conv2d_relu_inference", (x, *weights, stride, pads, dilation, pool)))
        if max(pads) < min(kernel):
            ties = np.round(2 * x)
            ties.flat[::17] = np.nan
            for values in (x, ties):
                calls.append(("max_pool", (values, kernel, stride, pads)))
            y, argmax = Backend().max_pool(x, kernel, stride, pads)
            calls.append(("max_pool_backward", (draw(*y.shape), argmax, shape, kernel, stride, pads)))
            calls.append(("avg_pool", (x, kernel, stride, pads)))
            calls.append(("avg_pool_backward", (draw(*y.shape), shape, kernel, stride, pads)))
        if dilation == (1, 1) and kernel != (4, 4):
            args = x, draw(4, shape[1], *kernel), draw(4), stride, pads, (2, 2), (2, 2)
            calls.append(("conv2d_relu_max_pool", args))
            calls.append(("conv2d_relu_inference", (*args[:5], (1, 1), args[5:])))
    for groups in (2, 4):  # of 4 channels: the last is depthwise
        grouped = draw(2, 4, 6, 5), draw(8, 4 // groups, 3, 2), draw(8), (2, 1), (1, 0, 1, 1), (1, 1)
        calls += [("conv2d", (*grouped, activation, groups)) for activation in (None, "relu")]
    for shape in ((2, 3, 11, 13), (5, 6, 3, 2), (9, 7, 1, 1)):
        x, *params, var = draw(*shape), *(draw(shape[1]) for _ in range(3)), np.abs(draw(shape[1]))
        calls += [("batch_norm", (x + 3, *params[:2], 1e-3))]
        calls += [("batch_norm_inference", (x, *params, var, 1e-3))]
    for rate, seed, at in ((0.0, 0, 0), (0.3, 2**64 - 1, 2**64 - 1), (0.9, 7, 1)):
        calls += [
            (f"dropout{way}", (draw(3, 37), rate, seed, np.array([at], np.uint64), 5)) for way in ("", "_backward")
        ]
    x, w, b = draw(5, 7), draw(7, 3), draw(3)
    calls += [("matmul", (x, w)), ("dense", (x, w, b)), ("dense_backward", (draw(5, 3), x, w))]
    calls += [("dense", (x, w, b, "relu")), ("dense_backward", (draw(5, 3), x, w, Need(), draw(5, 3)))]
    calls += [("relu", (x,)), ("relu_backward", (draw(5, 7), x)), ("add", (x, draw(5, 7)))]
    calls += [("softmax_cross_entropy", (draw(6, 4), np.array([0, 3, 1, 2, 2, 0])))]
    pixels, order = rng.integers(0, 256, (5, 2, 3, 4)).astype(np.uint8), np.array([4, 0, 3, 1, 2])
    calls += [("gather", (pixels, order, 1, 3, dtype, None, np.array([0.5, 0.0]), np.array([2.0, 1 / 255])))]
    calls += [
        ("guard", (np.array(state, np.uint64), np.array([loss], dtype)))
        for state in ((1, 0, 0), (0, 0, 2), (1, 1, 0), (0, 1, 5))
        for loss in (0.5, np.nan)
    ]
    bad = draw(1000)
    bad[777] = np.inf
    calls += [("judged_loss", (np.array([loss], dtype), g)) for loss in (0.5, np.nan) for g in (draw(1000), bad)]
    calls += [("moving_statistics", (*(draw(7) for _ in range(4)), 0.9))]
    moved = np.array([[60_000, 26_000, -90_000, -26_000, 60_000, 70_000, 1, 3, -2, 2]] * 5, np.int64)
    moved[::2, :6] = -65536, 0, 3 << 16, 0, 65536, -1 << 16  # mirrored and moved by whole pixels
    pictures = pixels if dtype == "float32" else pixels.astype(dtype), draw(5, 2, 3, 4)
    for x, edge in zip(pictures, (True, False), strict=True):
        for last in (False, True):
            calls += [("warp_affine", (x, moved, draw(4 if last else 2).astype(x.dtype), edge, last))]
    hyper, p, g, s = np.array([0.1, 3.0]), draw(1000), draw(1000), np.abs(draw(1000))
    calls += [("sgd", (p, g, hyper)), ("momentum", (p, g, s, hyper, 0.9, False))]
    calls += [("momentum", (p, g, s, hyper, 0.9, True)), ("adagrad", (p, g, s, hyper, 1e-7))]
    calls += [("rmsprop", (p, g, s, hyper, 0.9, 1e-7)), ("adam", (p, g, draw(1000), s, hyper, 0.9, 0.999, 1e-7, 0.0))]
    calls += [("adam", (p, g, draw(1000), s, hyper, 0.9, 0.999, 1e-7, 0.05))]
    return calls


def _check_call(mine: Backend, plain: Backend, operation: str, args: tuple[Any, ...], dtype: str) -> None:
    what = f"{operation} on {mine.name}, {dtype}"
    tolerance = 0.0 if operation.startswith(("dropout", "warp")) else TOLERANCES[dtype]
    runs = []
    for backend in (plain, mine, mine):
        given = [backend.asarray(np.array(a)) if isinstance(a, np.ndarray) else a for a in args]
        before = [np.array(backend.to_numpy(a)) for a in given if isinstance(a, backend.array_type)]
        with backend.running(), np.errstate(all="ignore"):
            result = getattr(backend, operation)(*given)
            arrays = _arrays(result, backend)
            if operation in ("conv2d", "conv2d_relu_max_pool", "batch_norm"):
                y, saved = result
                dy = backend.asarray(np.cos(np.arange(y.size)).reshape(y.shape), dtype)
                arrays = [y, *getattr(backend, f"{operation}_backward")(dy, saved, Need())]
                if operation == "batch_norm":  # these a layer reads, for its running statistics
                    arrays += [saved.mean, saved.var]
        after = [np.array(backend.to_numpy(a)) for a in given if isinstance(a, backend.array_type)]
        if result is None:  # an optimizer: its first arrays are what changes
            arrays = [a for a in given if isinstance(a, backend.array_type)]
        else:
            for old, new in zip(before, after, strict=True):
                check(old.tobytes() == new.tobytes(), f"{what}: an input was written to")
        for array in arrays:
            check(bool(array.flags.c_contiguous), f"{what}: a result is not C-contiguous")
        runs.append([np.array(backend.to_numpy(a)) for a in arrays])
    check(len(runs[0]) == len(runs[1]), f"{what}: {len(runs[1])} results, expected {len(runs[0])}")
    for reference, got, again in zip(*runs, strict=True):
        check(got.dtype == reference.dtype, f"{what}: dtype {got.dtype}, expected {reference.dtype}")
        check(got.tobytes() == again.tobytes(), f"{what}: differs when computed again")
        close(got, reference, tolerance, what)


def _arrays(result: Any, backend: Backend) -> list[Array]:
    results = result if isinstance(result, tuple) else (result,)
    return [a for a in results if isinstance(a, backend.array_type)]
