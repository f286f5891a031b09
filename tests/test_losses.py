"""Losses against their definitions in plain Python, gradients against differences, PyTorch as a third opinion."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np
import pytest

from tests import standin
from tests.checks import close, draw
from tests.mistakes import message
from tests.reference import numerical_gradient
from xconv import losses
from xconv.errors import ConfigError

EPS = 1e-7


# ---------------------------------------------------------------------- the definitions, entry by entry


def categorical(y: list[float], t: list[float], logits: bool, smoothing: float) -> float:
    """-sum t log p of one row."""
    t = [v * (1 - smoothing) + smoothing / len(t) for v in t]
    if logits:
        top = max(y)
        log_sum = top + math.log(math.fsum(math.exp(v - top) for v in y))
        return math.fsum(b * (log_sum - a) for a, b in zip(y, t, strict=True))
    total = math.fsum(y)
    return -math.fsum(b * math.log(min(max(a / total, EPS), 1 - EPS)) for a, b in zip(y, t, strict=True))


def binary(y: float, t: float, logits: bool, smoothing: float) -> float:
    t = t * (1 - smoothing) + smoothing / 2
    p = 1 / (1 + math.exp(-y)) if logits else min(max(y, EPS), 1 - EPS)
    return -(t * math.log(p) + (1 - t) * math.log(1 - p))


HUBER_DELTA = 0.7


def huber(d: float, delta: float) -> float:
    return d * d / 2 if abs(d) <= delta else delta * (abs(d) - delta / 2)


def defined(
    kind: str, y: np.ndarray, t: np.ndarray, weights: np.ndarray | None, logits: bool, smoothing: float
) -> float:
    """The loss of a batch; t as the user gives it."""
    total = []
    for n in range(len(y)):
        if kind == "binary":
            each = [binary(a, b, logits, smoothing) for a, b in zip(y[n].ravel(), t[n].ravel(), strict=True)]
        elif kind == "squared":
            each = [(a - b) ** 2 for a, b in zip(y[n].ravel(), t[n].ravel(), strict=True)]
        elif kind == "absolute":
            each = [abs(a - b) for a, b in zip(y[n].ravel(), t[n].ravel(), strict=True)]
        elif kind == "huber":
            each = [huber(a - b, HUBER_DELTA) for a, b in zip(y[n].ravel(), t[n].ravel(), strict=True)]
        else:
            rows = y[n].reshape(-1, y.shape[-1]).tolist()
            if kind == "labels":
                given = [[float(k == label) for k in range(y.shape[-1])] for label in t[n].ravel()]
            else:
                given = t[n].reshape(-1, y.shape[-1]).tolist()
            each = [categorical(a, b, logits, smoothing) for a, b in zip(rows, given, strict=True)]
        total.append(math.fsum(each) / len(each) * (1.0 if weights is None else float(weights[n])))
    return math.fsum(total) / len(y)


# ---------------------------------------------------------------------- cases


class Case(NamedTuple):
    loss: losses.Loss
    kind: str
    out_shape: tuple[int, ...]
    rows: bool = False  # targets are probabilities, not one-hot
    logits: bool = False
    smoothing: float = 0.0


CASES = {}
for _shape in ((4,), (2, 3, 5)):
    for _logits in (False, True):
        _of = f"{'logits' if _logits else 'probabilities'} {len(_shape)}"
        CASES[f"sparse, {_of}"] = Case(
            losses.SparseCategoricalCrossentropy(from_logits=_logits), "labels", _shape, logits=_logits
        )
        for _smoothing in (0.0, 0.2):
            _cce = losses.CategoricalCrossentropy(from_logits=_logits, label_smoothing=_smoothing)
            _bce = losses.BinaryCrossentropy(from_logits=_logits, label_smoothing=_smoothing)
            for _rows in (False, True):
                _name = f"{_of}, smoothing {_smoothing}, {'soft' if _rows else 'hard'}"
                CASES[f"categorical, {_name}"] = Case(_cce, "rows", _shape, _rows, _logits, _smoothing)
                CASES[f"binary, {_name}"] = Case(_bce, "binary", _shape, _rows, _logits, _smoothing)
    CASES[f"squared {len(_shape)}"] = Case(losses.MeanSquaredError(), "squared", _shape)
    CASES[f"absolute {len(_shape)}"] = Case(losses.MeanAbsoluteError(), "absolute", _shape)
    CASES[f"huber {len(_shape)}"] = Case(losses.Huber(HUBER_DELTA), "huber", _shape)
CASES["binary, one output"] = Case(losses.BinaryCrossentropy(from_logits=True), "binary", (1,), logits=True)
CASES["ours"] = Case(losses.SoftmaxCrossEntropy(), "labels", (4,), logits=True)
N = 3
ERRORS = ("squared", "absolute", "huber")


def outputs(case: Case, dtype: str) -> np.ndarray:
    y = draw(N, *case.out_shape, seed=1)
    if case.logits or case.kind in ERRORS:
        return (2 * y).astype(dtype)
    return np.random.default_rng(1).uniform(0.2, 0.9, y.shape).astype(dtype)  # rows need not sum to 1


def targets(case: Case) -> np.ndarray:
    """As a user gives them."""
    rng = np.random.default_rng(2)
    shape = (N, *case.out_shape)
    if case.kind in ERRORS:
        return rng.standard_normal(shape)
    if case.kind == "binary":
        return rng.random(shape) if case.rows else rng.integers(0, 2, shape)
    labels = rng.integers(0, shape[-1], shape[:-1])
    if case.kind == "labels":
        return labels
    return rng.dirichlet(np.ones(shape[-1]), shape[:-1]) if case.rows else np.eye(shape[-1])[labels]


@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_loss_and_gradient_are_the_definition_s(backend, dtype, case, weighted):
    y, t = outputs(case, dtype), targets(case)
    weights = np.array([0.5, 0.0, 3.0], dtype) if weighted else None
    loss_of = lambda y: defined(case.kind, y, t, weights, case.logits, case.smoothing)  # noqa: E731
    checked = case.loss.targets(t, N, case.out_shape, "t")
    given = [backend.asarray(y), backend.asarray(checked), None if weights is None else backend.asarray(weights)]
    loss, dy = case.loss(backend, *given)
    assert loss.dtype == dy.dtype == y.dtype
    close(backend, loss, np.array([loss_of(y.astype("float64"))]), "elementwise", "loss")
    # Differences of step 1e-5 in float64 know some ten digits.
    expected = numerical_gradient(loss_of, y)
    assert (
        np.abs(backend.to_numpy(dy) - expected).max() <= (1e-8 if dtype == "float64" else 3e-6) * np.abs(expected).max()
    )
    for now, before in zip(given, (y, checked, weights), strict=True):
        if before is not None:
            np.testing.assert_array_equal(backend.to_numpy(now), before, "an argument was written to")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_weights_of_one_change_nothing(backend, case):
    y, t = backend.asarray(outputs(case, "float64")), case.loss.targets(targets(case), N, case.out_shape, "t")
    t = backend.asarray(t)
    plain, weighted = case.loss(backend, y, t), case.loss(backend, y, t, backend.asarray(np.ones(N)))
    for got, expected in zip(weighted, plain, strict=True):
        close(backend, got, backend.to_numpy(expected), "elementwise")


@pytest.mark.parametrize(
    "loss", [losses.CategoricalCrossentropy, losses.SparseCategoricalCrossentropy, losses.BinaryCrossentropy]
)
def test_from_logits_is_the_loss_of_the_activation(loss):
    """On probabilities that are not clipped, through softmax or sigmoid and back."""
    numpy = standin.backends.get_backend("numpy")
    z = draw(N, 4, seed=5)
    t = np.array([1, 3, 0]) if loss is losses.SparseCategoricalCrossentropy else np.eye(4)[[1, 3, 0]]
    made = loss()
    assert made.absorbs == made.activation and made.from_logits().absorbs is None
    t = made.targets(t, N, (4,), "t")
    p = made.probabilities(np, z)
    if made.absorbs == "softmax":
        np.testing.assert_allclose(p, np.exp(z) / np.exp(z).sum(axis=1, keepdims=True), rtol=1e-14)
    else:
        np.testing.assert_allclose(p, 1 / (1 + np.exp(-z)), rtol=1e-14)
    value, dp = made(numpy, p, t)
    dz = p * (dp - (dp * p).sum(axis=1, keepdims=True)) if made.absorbs == "softmax" else dp * p * (1 - p)
    exact, expected = made.from_logits()(numpy, z, t)
    np.testing.assert_allclose(value, exact, rtol=1e-13)
    np.testing.assert_allclose(dz, expected, atol=1e-14)


def test_from_logits_keeps_the_other_settings():
    smooth = losses.CategoricalCrossentropy(label_smoothing=0.1).from_logits()
    assert smooth.config() == {"kind": "CategoricalCrossentropy", "from_logits": True, "label_smoothing": 0.1}
    assert smooth.from_logits() is smooth
    assert losses.SoftmaxCrossEntropy().absorbs is None and losses.MeanSquaredError().absorbs is None
    message(
        ConfigError,
        "mean_squared_error: this loss takes no final activation in. Received: from_logits()",
        losses.MeanSquaredError().from_logits,
    )


# ---------------------------------------------------------------------- extremes


def test_extreme_logits(backend, dtype):
    z = np.array([[1e4, -1e4, 0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], dtype)
    for loss, t in (
        (losses.SparseCategoricalCrossentropy(from_logits=True), np.array([1, 0, 0])),
        (losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[[1, 0, 0]]),
        (losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[[1, 0, 0]] * (1 - 3e-9) + 1e-9),
        (losses.SoftmaxCrossEntropy(), np.array([1, 0, 0])),
    ):
        value, dz = loss(backend, backend.asarray(z), backend.asarray(loss.targets(t, 3, (3,), "t")))
        given = np.asarray(t, "float64") if np.ndim(t) > 1 else np.eye(3)[t]
        close(backend, value, np.array([defined("rows", z.astype("float64"), given, None, True, 0.0)]), "elementwise")
        expected = np.array([[1, -1, 0], [-2 / 3, 1 / 3, 1 / 3], [-1 / 2, 1 / 2, 0]]) / 3
        assert np.abs(backend.to_numpy(dz) - expected).max() < 1e-8 + 1e-6 * (dtype == "float32")
    loss = losses.BinaryCrossentropy(from_logits=True)
    z, t = np.array([[1e4], [1e4], [-1e4], [-1e4], [0.0]], dtype), np.array([1, 0, 1, 0, 1])
    value, dz = loss(backend, backend.asarray(z), backend.asarray(loss.targets(t, 5, (1,), "t")))
    close(backend, value, np.array([(2e4 + math.log(2)) / 5]), "loss")
    close(backend, dz, np.array([[0], [1], [-1], [0], [-0.5]]) / 5, "elementwise")


def test_extreme_probabilities_are_clipped(backend, dtype):
    low, high = -math.log(EPS), -math.log(1 - EPS)
    y = np.array([[0, 1], [1, 0]], dtype)
    rounding = 2e-7 if dtype == "float32" else 1e-14  # 1 - 1e-7 is no float32
    for loss, t in (
        (losses.SparseCategoricalCrossentropy(), np.array([0, 0])),
        (losses.CategoricalCrossentropy(), np.eye(2)[[0, 0]]),
        (losses.BinaryCrossentropy(), np.array([[1, 0], [1, 0]])),
    ):
        value, dy = loss(backend, backend.asarray(y), backend.asarray(loss.targets(t, 2, (2,), "t")))
        np.testing.assert_allclose(backend.to_numpy(value), [(low + high) / 2], rtol=2 * rounding)
        assert not backend.to_numpy(dy).any()


def test_errors_of_nothing_and_of_much(backend, dtype):
    """No gradient where there is no error; no overflow where the square of an error is no float32."""
    y, t = np.array([[2.0], [2.0], [1e30], [-1e30]], dtype), np.array([2.0, 1.5, 0.0, 0.0])
    for loss, value, dy in (
        (losses.MeanAbsoluteError(), 0.5e30, [0, 1, 1, -1]),
        (losses.Huber(), 0.5e30, [0, 0.5, 1, -1]),
        (losses.Huber(0.25), 0.125e30, [0, 0.25, 0.25, -0.25]),
    ):
        got, gradient = loss(backend, backend.asarray(y), backend.asarray(loss.targets(t, 4, (1,), "t")))
        close(backend, got, np.array([value]), "elementwise")
        np.testing.assert_array_equal(backend.to_numpy(gradient)[:, 0] * 4, np.array(dy, dtype))


def test_nan_of_a_model_is_a_nan_loss(backend, dtype):
    for case in CASES.values():
        y = outputs(case, dtype)
        y[0].flat[0] = np.nan
        t = backend.asarray(case.loss.targets(targets(case), N, case.out_shape, "t"))
        value, _ = case.loss(backend, backend.asarray(y), t)
        assert np.isnan(backend.to_numpy(value)[0]), case


# ---------------------------------------------------------------------- how it runs


class Watched:
    """A backend that counts calls of its fused loss."""

    def __init__(self, backend: Any) -> None:
        self._backend, self.calls = backend, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def softmax_cross_entropy(self, *args: Any) -> Any:
        self.calls += 1
        return self._backend.softmax_cross_entropy(*args)


@pytest.mark.parametrize("out_shape", [(4,), (2, 3, 4)])
def test_one_hot_logits_go_through_the_fused_operation(backend, out_shape):
    labels = np.random.default_rng(0).integers(0, 4, (N, *out_shape[:-1]))
    y = backend.asarray(draw(N, *out_shape, dtype="float32"))
    for loss, t, fused in (
        (losses.CategoricalCrossentropy(from_logits=True), np.eye(4)[labels], True),
        (losses.CategoricalCrossentropy(from_logits=True), np.eye(4, dtype=bool)[labels], True),
        (losses.SparseCategoricalCrossentropy(from_logits=True), labels, True),
        (losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), np.eye(4)[labels], False),
        (losses.CategoricalCrossentropy(from_logits=True), np.full((N, *out_shape), 0.25), False),
        (losses.CategoricalCrossentropy(), np.eye(4)[labels], False),
    ):
        watched = Watched(backend)
        loss(watched, y, backend.asarray(loss.targets(t, N, out_shape, "t")))
        assert watched.calls == fused, (loss, fused)


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_can_be_recorded_as_a_graph(case):
    """Nothing in them waits for the host; a replay reads the arrays anew."""
    backend = standin.install()
    y = backend.asarray(outputs(case, "float32"))
    t = backend.asarray(case.loss.targets(targets(case), N, case.out_shape, "t"))
    weights = backend.asarray(np.array([1, 2, 3], "float32"))
    launch, results = standin.record(backend, lambda: (*case.loss(backend, y, t), *case.loss(backend, y, t, weights)))
    y[...] = y * 0.5
    launch()
    expected = (*case.loss(backend, y, t), *case.loss(backend, y, t, weights))
    for got, fresh in zip(results, expected, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(got), backend.to_numpy(fresh))


def test_a_loss_of_your_own(backend, dtype):
    class Huber(losses.Loss):
        name = "huber"

        def each(self, xp, y, t):
            d = y - t.astype(y.dtype, copy=False)
            size = xp.absolute(d)
            return xp.where(size < 1, 0.5 * d * d, size - 0.5), xp.clip(d, -1.0, 1.0)

    y, t = np.array([[0.5], [3.0]], dtype), [0, 0]
    loss = losses.get(Huber())
    value, dy = loss(backend, backend.asarray(y), backend.asarray(loss.targets(t, 2, (1,), "t")))
    assert value.dtype == dtype
    close(backend, value, np.array([(0.125 + 2.5) / 2]), "elementwise")
    close(backend, dy, np.array([[0.25], [0.5]]), "elementwise")


def test_a_loss_comes_back_from_its_config():
    for case in CASES.values():
        config = json.loads(json.dumps(case.loss.config()))
        again = losses.from_config(config)
        assert type(again) is type(case.loss) and again.config() == config and again.logits == case.logits
        assert repr(again).startswith(config["kind"] + "(")


# ---------------------------------------------------------------------- a third opinion


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_pytorch_agrees(backend, case):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the third opinion: pip install 'xconv[bench]'")
    F = torch.nn.functional
    y, t = outputs(case, "float64"), targets(case)
    z = torch.tensor(y, requires_grad=True)
    given = torch.tensor(np.asarray(t, "int64" if case.kind == "labels" else "float64"))
    if case.kind == "squared":
        expected = F.mse_loss(z, given)
    elif case.kind == "absolute":
        expected = F.l1_loss(z, given)
    elif case.kind == "huber":
        expected = F.huber_loss(z, given, delta=HUBER_DELTA)
    elif case.kind == "binary":
        smooth = given * (1 - case.smoothing) + case.smoothing / 2
        expected = (F.binary_cross_entropy_with_logits if case.logits else F.binary_cross_entropy)(z, smooth)
    else:
        classes = y.shape[-1]
        given = given.reshape(-1) if case.kind == "labels" else given.reshape(-1, classes)
        rows = z.reshape(-1, classes)
        if case.logits:
            expected = F.cross_entropy(rows, given, label_smoothing=case.smoothing)
        else:  # the log of normalised rows is a logit like any other
            expected = F.cross_entropy(torch.log(rows / rows.sum(dim=1, keepdim=True)), given,
                                       label_smoothing=case.smoothing)  # fmt: skip
    expected.backward()
    t = backend.asarray(case.loss.targets(t, N, case.out_shape, "t"))
    value, dy = case.loss(backend, backend.asarray(y), t)
    close(backend, value, np.array([expected.item()]), "loss")
    close(backend, dy, z.grad.numpy(), "loss")
