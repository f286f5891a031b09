"""One check for every CUDA kernel: it runs on guarded memory and must equal naive loops in float64."""

from __future__ import annotations

import itertools
import math
import re

import numpy as np

from tests.cuda_shim import SANITIZED

TOLERANCE = {"f4": 1e-5, "f8": 1e-12}  # of the largest entry
NAME = {"f4": "f32", "f8": "f64"}
GRID, BLOCK = (3,), (32,)  # fewer threads than entries: the loops over the rest run too

# x_shape, kernel, stride, pads (top, bottom, left, right), dilation
WINDOWS = [
    ((2, 3, 5, 4), (3, 2), (1, 1), (0, 0, 0, 0), (1, 1)),
    ((2, 2, 7, 6), (3, 3), (2, 1), (1, 2, 0, 1), (1, 1)),
    ((1, 2, 8, 9), (2, 3), (3, 2), (0, 1, 2, 1), (2, 1)),
    ((1, 1, 3, 3), (3, 3), (1, 1), (2, 2, 2, 2), (1, 1)),
    ((1, 2, 9, 9), (2, 2), (4, 3), (0, 0, 0, 0), (1, 1)),
    ((2, 1, 6, 6), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1)),
]
POOLS = [window[:4] for window in WINDOWS if window[4] == (1, 1)]


class Guarded:
    """Arrays with poisoned memory on both sides: what reads there gets NaN, what writes there is found out.

    Under AddressSanitizer, which watches the memory itself, arrays are exactly as large as they must be.
    """

    MARGIN = 0 if SANITIZED else 256

    def __init__(self) -> None:
        self._buffers: list[tuple[np.ndarray, np.ndarray]] = []

    def __call__(self, values: np.ndarray) -> np.ndarray:
        buffer = np.full(values.nbytes + 2 * self.MARGIN, 0xFF, np.uint8)
        inside = buffer[self.MARGIN : self.MARGIN + values.nbytes].view(values.dtype).reshape(values.shape)
        inside[...] = values
        self._buffers.append((buffer, inside))
        return inside

    def empty(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        made = self(np.empty(shape, dtype))
        made.view(np.uint8)[...] = 0xFF
        return made

    def check(self) -> None:
        for buffer, inside in self._buffers:
            end = self.MARGIN + inside.nbytes
            assert (buffer[: self.MARGIN] == 0xFF).all() and (buffer[end:] == 0xFF).all(), "written out of bounds"


def struct(source: str, name: str, **fields: int) -> np.ndarray:
    """The struct `name` as the source declares it, all its fields long long."""
    body = re.search(rf"struct {name} {{(.*?)}};", source, re.DOTALL)[1]
    names = re.findall(r"\w+", " ".join(re.findall(r"i64 ([^;]*);", body)))
    assert set(names) == set(fields), f"fields of {name}: {names}"
    return np.array(tuple(fields[n] for n in names), [(n, np.int64) for n in names])


def near(got: np.ndarray, expected: np.ndarray, dtype: str) -> None:
    expected = np.asarray(expected, np.float64)
    assert got.shape == expected.shape
    assert np.array_equal(np.isnan(got), np.isnan(expected)), "NaN in other places"
    finite = np.isfinite(expected)
    assert np.array_equal(got[~finite & ~np.isnan(got)], expected[~finite & ~np.isnan(expected)])
    if finite.any():
        assert np.abs(got[finite] - expected[finite]).max() <= TOLERANCE[dtype] * max(
            1.0, np.abs(expected[finite]).max()
        )


def draw(seed: int, *shape: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def outputs(x_shape, kernel, stride, pads, dilation=(1, 1)):
    return tuple(
        (x_shape[2 + a] + pads[2 * a] + pads[2 * a + 1] - dilation[a] * (kernel[a] - 1) - 1) // stride[a] + 1
        for a in (0, 1)
    )


def taps(x_shape, kernel, stride, pads, dilation=(1, 1)):
    """Every (n, c, oy, ox, ky, kx, h, w), with h or w outside the image where the tap is in the padding."""
    oh, ow = outputs(x_shape, kernel, stride, pads, dilation)
    for n, c, oy, ox, ky, kx in itertools.product(*map(range, (*x_shape[:2], oh, ow, *kernel))):
        h = oy * stride[0] + ky * dilation[0] - pads[0]
        w = ox * stride[1] + kx * dilation[1] - pads[2]
        yield n, c, oy, ox, ky, kx, (h, w) if 0 <= h < x_shape[2] and 0 <= w < x_shape[3] else None


def fields(x_shape, kernel, stride, pads):
    oh, ow = outputs(x_shape, kernel, stride, pads)
    sizes = dict(zip("nchw", x_shape, strict=True), oh=oh, ow=ow, top=pads[0], left=pads[2])
    return sizes | dict(zip(("kh", "kw", "sy", "sx"), (*kernel, *stride), strict=True))


# ---------------------------------------------------------------------- columns


def check_columns(module, source, dtype, name):
    for (x_shape, kernel, stride, pads, dilation), transposed in itertools.product(WINDOWS, (False, True)):
        oh, ow = outputs(x_shape, kernel, stride, pads, dilation)
        m, k = x_shape[0] * oh * ow, x_shape[1] * kernel[0] * kernel[1]
        window = struct(
            source, "Window", **fields(x_shape, kernel, stride, pads) | {"oh": oh, "ow": ow},
            dy=dilation[0], dx=dilation[1], by_place=1 if transposed else k, by_tap=m if transposed else 1,
        )  # fmt: skip
        guarded, x, col = Guarded(), draw(1, *x_shape, dtype=dtype), draw(2, m, k, dtype=dtype)
        expected = np.zeros((m, k) if name == "im2col" else x_shape)
        for n, c, oy, ox, ky, kx, at in taps(x_shape, kernel, stride, pads, dilation):
            place, tap = (n * oh + oy) * ow + ox, (c * kernel[0] + ky) * kernel[1] + kx
            if at and name == "im2col":
                expected[place, tap] = x[n, c, *at]
            elif at:
                expected[n, c, *at] += col[place, tap]
        given = guarded(x if name == "im2col" else np.ascontiguousarray(col.T if transposed else col))
        out = guarded.empty((k, m) if name == "im2col" and transposed else expected.shape, dtype)
        module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, (given, out, window))
        guarded.check()
        near(out.T if name == "im2col" and transposed else out, expected, dtype)


# ---------------------------------------------------------------------- pooling


def pool_input(x_shape, dtype):
    """Ties everywhere, some NaN, a few infinities."""
    rng = np.random.default_rng(3)
    x = rng.integers(-2, 3, x_shape).astype(dtype)
    x[rng.random(x_shape) < 0.03] = np.nan
    x[rng.random(x_shape) < 0.05] = -np.inf
    x[rng.random(x_shape) < 0.02] = np.inf
    return x


def naive_max_pool(x, kernel, stride, pads):
    """The first maximum wins, the first NaN over all; padding never."""
    oh, ow = outputs(x.shape, kernel, stride, pads)
    y, argmax = np.full((*x.shape[:2], oh, ow), np.nan), np.full((*x.shape[:2], oh, ow), -1)
    for n, c, oy, ox, ky, kx, at in taps(x.shape, kernel, stride, pads):
        if at is None:
            continue
        best = y[n, c, oy, ox] if argmax[n, c, oy, ox] >= 0 else None
        value = x[n, c, *at]
        if best is None or (not math.isnan(best) and (math.isnan(value) or value > best)):
            y[n, c, oy, ox], argmax[n, c, oy, ox] = value, ky * kernel[1] + kx
    return y, argmax


def strides(x_shape, product):
    """Strides by image and by channel of maps [N,C,H,W], or of [C,N,H,W] as a matrix product leaves them."""
    n, c, h, w = x_shape
    return {"image": h * w, "channel": n * h * w} if product else {"image": c * h * w, "channel": h * w}


def laid(x, product):
    return np.ascontiguousarray(x.transpose(1, 0, 2, 3) if product else x)


def check_max_pool(module, source, dtype, name):
    for (x_shape, kernel, stride, pads), product, index in itertools.product(POOLS, (False, True), ("u1", "i4")):
        guarded, x, bias = Guarded(), pool_input(x_shape, dtype), draw(4, x_shape[1], dtype=dtype)
        pool = struct(source, "Pool", **fields(x_shape, kernel, stride, pads), **strides(x_shape, product))
        seen = np.maximum(x + bias[:, None, None], 0) if product else x
        expected, where = naive_max_pool(seen, kernel, stride, pads)
        if (where < 0).any():
            continue  # a window of nothing but padding has no maximum
        y, argmax = guarded.empty(expected.shape, dtype), guarded.empty(expected.shape, index)
        args = (guarded(laid(x, product)), guarded(bias) if product else 0, y, argmax, pool)
        module.get_function(f"{name}_{NAME[dtype]}_{'u8' if index == 'u1' else 'i32'}")(GRID, BLOCK, args)
        guarded.check()
        near(y, expected, dtype)
        assert np.array_equal(argmax, where)


def check_max_pool_backward(module, source, dtype, name):
    for (x_shape, kernel, stride, pads), product, index in itertools.product(POOLS, (False, True), ("u1", "i4")):
        oh, ow = outputs(x_shape, kernel, stride, pads)
        guarded, x = Guarded(), np.round(draw(5, *x_shape, dtype=dtype))
        y, argmax = naive_max_pool(x, kernel, stride, pads)
        dy = draw(6, *x_shape[:2], oh, ow, dtype=dtype)
        expected = np.zeros(x_shape)
        for n, c, oy, ox, ky, kx, at in taps(x_shape, kernel, stride, pads):
            if at and argmax[n, c, oy, ox] == ky * kernel[1] + kx and (not product or y[n, c, oy, ox] > 0):
                expected[n, c, *at] += dy[n, c, oy, ox]
        pool = struct(source, "Pool", **fields(x_shape, kernel, stride, pads), **strides(x_shape, product))
        dx = guarded.empty(laid(x, product).shape, dtype)
        y = guarded(np.nan_to_num(y).astype(dtype)) if product else 0
        args = (guarded(dy), y, guarded(argmax.astype(index)), dx, pool)
        module.get_function(f"{name}_{NAME[dtype]}_{'u8' if index == 'u1' else 'i32'}")(GRID, BLOCK, args)
        guarded.check()
        near(laid(dx, product), expected, dtype)


def check_avg_pool(module, source, dtype, name):
    for x_shape, kernel, stride, pads in POOLS:
        oh, ow = outputs(x_shape, kernel, stride, pads)
        guarded, y_shape = Guarded(), (*x_shape[:2], oh, ow)
        forward = name == "avg_pool"
        given = draw(7, *(x_shape if forward else y_shape), dtype=dtype)
        expected = np.zeros(y_shape if forward else x_shape)
        for n, c, oy, ox, _, _, at in taps(x_shape, kernel, stride, pads):
            if at and forward:
                expected[n, c, oy, ox] += given[n, c, *at] / (kernel[0] * kernel[1])
            elif at:
                expected[n, c, *at] += given[n, c, oy, ox] / (kernel[0] * kernel[1])
        pool = struct(source, "Pool", **fields(x_shape, kernel, stride, pads), **strides(x_shape, False))
        out = guarded.empty(expected.shape, dtype)
        module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, (guarded(given), out, pool))
        guarded.check()
        near(out, expected, dtype)


# ---------------------------------------------------------------------- elementwise, reductions, loss


def with_nan(values):
    values.flat[1], values.flat[-2] = np.nan, 0
    return values


def check_product_to_maps(module, source, dtype, name):
    for (n, f, p), relu in itertools.product([(1, 1, 4), (3, 2, 5), (2, 7, 30)], (0, 1)):
        guarded, product, bias = Guarded(), with_nan(draw(8, f, n, p, dtype=dtype)), draw(9, f, dtype=dtype)
        y = guarded.empty((n, f, p), dtype)
        expected = [[[product[j, i, at] + bias[j] for at in range(p)] for j in range(f)] for i in range(n)]
        if relu:
            expected = [[[0 if v < 0 else v for v in plane] for plane in image] for image in expected]
        args = (guarded(product), guarded(bias), y, n, f, p, relu)
        module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, args)
        guarded.check()
        near(y, expected, dtype)


def check_maps_to_product(module, source, dtype, name):
    for (n, f, p), masked in itertools.product([(1, 1, 4), (3, 2, 5), (2, 7, 30)], (False, True)):
        guarded, dy, y = Guarded(), draw(10, n, f, p, dtype=dtype), draw(11, n, f, p, dtype=dtype)
        y.flat[0] = 0
        out = guarded.empty((f, n, p), dtype)
        expected = np.zeros((f, n, p))
        for i, j, at in np.ndindex(n, f, p):
            expected[j, i, at] = dy[i, j, at] if not masked or y[i, j, at] > 0 else 0
        args = (guarded(dy), guarded(y) if masked else 0, out, n, f, p)
        module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, args)
        guarded.check()
        near(out, expected, dtype)


def check_add_bias(module, source, dtype, name):
    for n, o, relu in [(1, 211, 0), (7, 31, 0), (5, 43, 0), (7, 31, 1), (5, 43, 1)]:
        guarded, given, bias = Guarded(), with_nan(draw(12, n * o, dtype=dtype)).reshape(n, o), draw(13, o, dtype=dtype)
        y = guarded(given)
        module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, (y, guarded(bias), n, o, relu))
        guarded.check()
        sums = [[float(given[i, j]) + float(bias[j]) for j in range(o)] for i in range(n)]
        near(y, [[0 if relu and v < 0 else v for v in row] for row in sums], dtype)


def check_relu(module, source, dtype, name):
    guarded, x = Guarded(), with_nan(draw(14, 211, dtype=dtype))
    y = guarded.empty(x.shape, dtype)
    module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, (guarded(x), y, x.size))
    guarded.check()
    near(y, [0 if v < 0 else v for v in x], dtype)


def check_relu_backward(module, source, dtype, name):
    guarded, dy, y = Guarded(), draw(15, 211, dtype=dtype), with_nan(draw(16, 211, dtype=dtype))
    dx = guarded.empty(y.shape, dtype)
    module.get_function(f"{name}_{NAME[dtype]}")(GRID, BLOCK, (guarded(dy), guarded(y), dx, y.size))
    guarded.check()
    near(dx, [g if v > 0 else 0 for g, v in zip(dy, y, strict=True)], dtype)


def check_row_sums(module, source, dtype, name):
    for (rows, length), parts in itertools.product([(1, 1), (3, 0), (4, 255), (2, 1031)], (1, 3, 5)):
        guarded, x = Guarded(), draw(17, rows, length, dtype=dtype)
        out = guarded.empty((rows, parts), dtype)
        module.get_function(f"{name}_{NAME[dtype]}")((rows, parts), (256,), (guarded(x), out, length))
        guarded.check()
        near(out.sum(axis=1, dtype="f8"), [math.fsum(row) for row in x], dtype)
        again = guarded.empty((rows, parts), dtype)
        module.get_function(f"{name}_{NAME[dtype]}")((rows, parts), (256,), (guarded(x), again, length))
        assert out.tobytes() == again.tobytes()


def check_column_sums(module, source, dtype, name):
    for (n, o), lanes in itertools.product([(1, 1), (9, 10), (100, 33), (3, 64)], (1, 8, 32)):
        guarded, x = Guarded(), draw(18, n, o, dtype=dtype)
        out = guarded.empty((o,), dtype)
        module.get_function(f"{name}_{NAME[dtype]}")((-(-o // 32),), (32, lanes), (guarded(x), out, n, o))
        guarded.check()
        near(out, [math.fsum(x[:, j]) for j in range(o)], dtype)


def check_softmax_cross_entropy(module, source, dtype, name):
    for (n, k), threads in itertools.product([(1, 1), (5, 10), (4, 300)], (32, 256)):
        guarded, logits = Guarded(), draw(19, n, k, dtype=dtype)
        logits[0] *= 1000  # exp of these would overflow
        labels = np.random.default_rng(20).integers(0, k, n)
        loss, dlogits = guarded.empty((n,), dtype), guarded.empty((n, k), dtype)
        args = (guarded(logits), guarded(labels), loss, dlogits, n, k)
        module.get_function(f"{name}_{NAME[dtype]}")((3,), (threads,), args)
        guarded.check()
        expected, gradient = np.zeros(n), np.zeros((n, k))
        for i in range(n):
            z = [float(v) - float(max(logits[i])) for v in logits[i]]
            total = math.fsum(math.exp(v) for v in z)
            expected[i] = math.log(total) - z[labels[i]]
            gradient[i] = [(math.exp(v) / total - (j == labels[i])) / n for j, v in enumerate(z)]
        near(loss, expected, dtype)
        near(dlogits, gradient, dtype)


def check_mean_loss(module, source, dtype, name):
    for n in (1, 3, 100, 777):
        guarded, loss = Guarded(), draw(21, n, dtype=dtype)
        mean = guarded.empty((1,), dtype)
        module.get_function(f"{name}_{NAME[dtype]}")((1,), (256,), (guarded(loss), mean, n))
        guarded.check()
        near(mean, [math.fsum(loss) / n], dtype)


# ---------------------------------------------------------------------- optimizers


def naive_step(name, p, g, s, lr, t, settings):
    """One entry in Python floats: (parameter, state)."""
    if name == "sgd":
        return p - lr * g, s
    if name == "momentum":
        m, nesterov = settings
        v = m * s[0] - lr * g
        return p + (m * v - lr * g if nesterov else v), [v]
    if name == "adagrad":
        h = s[0] + g * g
        return p - lr * g / (math.sqrt(h) + settings[0]), [h]
    if name == "rmsprop":
        h = settings[0] * s[0] + (1 - settings[0]) * g * g
        return p - lr * g / (math.sqrt(h) + settings[1]), [h]
    b1, b2, eps, decay = settings
    p -= lr * decay * p
    m, v = b1 * s[0] + (1 - b1) * g, b2 * s[1] + (1 - b2) * g * g
    return p - lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (math.sqrt(v) + eps), [m, v]


SETTINGS = {
    "sgd": (0, [()]),
    "momentum": (1, [(0.9, 0), (0.9, 1)]),
    "adagrad": (1, [(1e-7,)]),
    "rmsprop": (1, [(0.9, 1e-7)]),
    "adam": (2, [(0.9, 0.999, 1e-7, 0.0), (0.9, 0.999, 1e-7, 0.2)]),
}


def check_optimizer(module, source, dtype, name):
    slots, choices = SETTINGS[name]
    for settings, size in itertools.product(choices, (1, 301)):
        guarded = Guarded()
        p, hyper = guarded(draw(22, size, dtype=dtype)), guarded(np.array([0.05, 0.0]))
        states = [guarded(np.zeros(size, dtype)) for _ in range(slots)]
        expected, kept = [float(v) for v in p], [[0.0] * slots for _ in range(size)]
        for t in (1, 2, 3):
            g, hyper[1] = draw(22 + t, size, dtype=dtype), t
            g[0] = 0  # adagrad's first division is by eps alone
            args = (p, guarded(g), *states, hyper, *settings, size)
            kernel = module.get_function(f"{name}_{NAME[dtype]}")
            before = [a.tobytes() for a in (p, *states)]
            kernel(GRID, BLOCK, (*args, guarded(np.array([0], "u8"))))
            assert [a.tobytes() for a in (p, *states)] == before
            kernel(GRID, BLOCK, (*args, guarded(np.array([7], "u8")) if t == 2 else 0))
            for i in range(size):
                expected[i], kept[i] = naive_step(name, expected[i], float(g[i]), kept[i], 0.05, t, settings)
        guarded.check()
        near(p, expected, dtype)
        for slot, array in enumerate(states):
            near(array, [state[slot] for state in kept], dtype)


def check_guard(module, source, dtype, name):
    for going, latched, undone in itertools.product((0, 1), (0, 1), (0, 6)):
        for loss in (0.0, -2.5, np.finfo(dtype).max, math.inf, -math.inf, math.nan):
            guarded = Guarded()
            state = guarded(np.array([going, latched, undone], "u8"))
            module.get_function(f"{name}_{NAME[dtype]}")((1,), (1,), (state, guarded(np.array([loss], dtype))))
            guarded.check()
            goes = math.isfinite(loss) and not (latched and not going)
            assert state.tolist() == [goes, latched, undone + (not goes)]


def check_spoil(module, source, dtype, name):
    for of, loss, bad, at in itertools.product(
        ("f4", "f8"), (-2.5, math.inf, -math.inf, math.nan), (None, math.nan, math.inf, -math.inf), (0, 299)
    ):
        g = draw(1, 300, dtype=dtype)
        g[7] = np.finfo(dtype).max
        if bad is not None:
            g[at] = bad
        guarded = Guarded()
        given, whole = guarded(np.array([loss], of)), guarded(g)
        module.get_function(f"{name}_{NAME[dtype]}_{NAME[of]}")(GRID, BLOCK, (whole, given, 300))
        guarded.check()
        expected = math.nan if bad is not None and math.isfinite(loss) else loss
        assert np.array_equal(given, np.array([expected], of), equal_nan=True)


CHECKS = {  # kernel -> (its file, its check)
    "im2col": ("columns", check_columns),
    "col2im": ("columns", check_columns),
    "max_pool": ("pool", check_max_pool),
    "max_pool_backward": ("pool", check_max_pool_backward),
    "avg_pool": ("pool", check_avg_pool),
    "avg_pool_backward": ("pool", check_avg_pool),
    "product_to_maps": ("elementwise", check_product_to_maps),
    "maps_to_product": ("elementwise", check_maps_to_product),
    "add_bias": ("elementwise", check_add_bias),
    "relu": ("elementwise", check_relu),
    "relu_backward": ("elementwise", check_relu_backward),
    "row_sums": ("reduce", check_row_sums),
    "column_sums": ("reduce", check_column_sums),
    "softmax_cross_entropy": ("softmax", check_softmax_cross_entropy),
    "mean_loss": ("softmax", check_mean_loss),
    "guard": ("optimizers", check_guard),
    "spoil": ("optimizers", check_spoil),
} | dict.fromkeys(SETTINGS, ("optimizers", check_optimizer))
