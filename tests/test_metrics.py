"""Metrics against counting by hand, example by example, on logits and on probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import xconv
from tests import standin
from tests.checks import draw
from tests.mistakes import message
from xconv import losses, metrics
from xconv.errors import ConfigError, ShapeError

N, K = 7, 6


def total(backend: Any, metric: metrics.Metric, y: np.ndarray, t: Any, from_logits: bool = False) -> float:
    """The metric of a batch whose targets the loss has checked, over N."""
    assert metric.loss is not None
    t = backend.asarray(metric.loss.targets(t, len(y), y.shape[1:], "t"))
    found = metric.total(backend, backend.asarray(y), t, from_logits)
    assert found.shape == ()
    return float(backend.to_numpy(found)) / len(y)


def first_largest(row: Any) -> int:
    return max(range(len(row)), key=lambda k: (row[k], -k))


def counted(y: np.ndarray, labels: np.ndarray, k: int = 1) -> float:
    """The fraction of positions whose label is among the k largest (the first of equals, for k = 1)."""
    right = []
    for row, label in zip(y.reshape(-1, y.shape[-1]).tolist(), labels.ravel().tolist(), strict=True):
        right.append(first_largest(row) == label if k == 1 else sum(v > row[label] for v in row) < k)
    return sum(right) / len(right)


@pytest.mark.parametrize("shape", [(N, K), (N, 2, 3, K)])
@pytest.mark.parametrize("spec", ["accuracy", "top_k", metrics.TopKAccuracy(2)], ids=["accuracy", "top_k", "top 2"])
def test_accuracy_among_classes(backend, dtype, shape, spec):
    y = draw(*shape, dtype=dtype, seed=3)
    y[0] = 1.0  # all equal: the first is the largest
    labels = np.random.default_rng(0).integers(0, K, shape[:-1])
    labels[:2] = 0
    k = spec.k if isinstance(spec, metrics.Metric) else 5 if spec == "top_k" else 1
    expected = counted(y, labels, k)
    assert 0 < expected < 1
    soft = np.full((*shape[:-1], K), 0.1)
    np.put_along_axis(soft, labels[..., None], 0.5, axis=-1)
    for loss, t in (
        (losses.SparseCategoricalCrossentropy(), labels),
        (losses.CategoricalCrossentropy(), np.eye(K)[labels]),
        (losses.CategoricalCrossentropy(), soft),
        (losses.CategoricalCrossentropy(label_smoothing=0.3), np.eye(K)[labels]),
    ):
        metric = metrics.get(spec, loss, shape[1:])
        assert total(backend, metric, y, t) == total(backend, metric, y, t, True) == pytest.approx(expected, abs=1e-15)
    if len(shape) == 2:
        metric = metrics.get(spec, losses.SoftmaxCrossEntropy(), shape[1:])
        assert total(backend, metric, y, labels, True) == pytest.approx(expected, abs=1e-15)


def test_top_k_counts_ties_and_never_nan(backend):
    y = np.array([[1.0, 1.0, 1.0], [3.0, 2.0, 1.0], [np.nan, 1.0, 0.0], [0.0, np.nan, np.nan]])
    labels = np.array([2, 2, 0, 0])
    for k, expected in ((1, 1), (2, 1), (3, 3)):  # by hand: the tie; all three; none with the label's own value NaN
        metric = metrics.get(metrics.TopKAccuracy(k), losses.SparseCategoricalCrossentropy(), (3,))
        assert total(backend, metric, y, labels) * 4 == expected


@pytest.mark.parametrize("shape", [(N, 1), (N, 4), (N, 2, 3, 1)])
def test_accuracy_of_yes_and_no(backend, dtype, shape):
    z = draw(*shape, dtype=dtype, seed=4)
    z[0] = 0.0  # exactly on the border counts as no
    t = np.random.default_rng(1).integers(0, 2, shape)
    expected = np.mean([(a > 0) == b for a, b in zip(z.ravel().tolist(), t.ravel().tolist(), strict=True)])
    p = 1 / (1 + np.exp(-z))
    for spec in ("accuracy", "acc", "binary_accuracy", metrics.BinaryAccuracy()):
        metric = metrics.get(spec, losses.BinaryCrossentropy(), shape[1:])
        assert total(backend, metric, p, t) == pytest.approx(expected, abs=1e-15)
        assert total(backend, metric, z, t, True) == pytest.approx(expected, abs=1e-15)
        metric = metrics.get(spec, losses.BinaryCrossentropy(from_logits=True), shape[1:])
        assert total(backend, metric, z, t) == total(backend, metric, z, t, True) == pytest.approx(expected, abs=1e-15)
    assert 0 < expected < 1


def test_binary_accuracy_of_rows_is_entry_by_entry(backend):
    """With a categorical loss: of the probabilities that `predict` gives and the rows that were given."""
    z = np.log(np.array([[0.6, 0.3, 0.1], [0.4, 0.35, 0.25]]))
    metric = metrics.get("binary_accuracy", losses.CategoricalCrossentropy(), (3,))
    for y, from_logits in ((z, True), (np.exp(z), False)):
        assert total(backend, metric, y, np.eye(3)[[0, 0]], from_logits) == pytest.approx((1 + 2 / 3) / 2)


@pytest.mark.parametrize(
    ("spec", "power"), [("mse", 2), ("mean_squared_error", 2), ("mae", 1), ("mean_absolute_error", 1)]
)
def test_errors(backend, dtype, spec, power):
    y, t = draw(N, 2, 3, dtype=dtype, seed=5), draw(N, 2, 3, seed=6)
    expected = (
        math.fsum(abs(a - b) ** power for a, b in zip(y.ravel().tolist(), t.ravel().tolist(), strict=True)) / 6 / N
    )
    metric = metrics.get(spec, losses.MeanSquaredError(), (2, 3))
    assert metric.name == spec
    assert total(backend, metric, y, t) == pytest.approx(expected, rel=1e-6 if dtype == "float32" else 1e-14)
    # Of probabilities, where the loss has taken the last activation in.
    z = draw(N, 3, dtype=dtype, seed=7)
    given = np.eye(3)[np.arange(N) % 3]
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    metric = metrics.get(spec, losses.CategoricalCrossentropy(), (3,))
    expected = np.mean(np.abs(p.astype("float64") - given) ** power)
    for y, from_logits in ((z, True), (p, False)):
        assert total(backend, metric, y, given, from_logits) == pytest.approx(expected, rel=3e-6)
    metric = metrics.get(spec, losses.CategoricalCrossentropy(from_logits=True), (3,))  # the model's outputs are logits
    expected = np.mean(np.abs(z.astype("float64") - given) ** power)
    assert total(backend, metric, z, given, True) == pytest.approx(expected, rel=3e-6)


def test_a_function_sees_what_predict_gives_and_what_was_given(backend):
    seen = {}

    def true_probability(xp, y, t):
        seen["t"] = t
        return (y * t).sum(axis=1)

    metric = metrics.get(true_probability, losses.CategoricalCrossentropy(), (2,))
    assert metric.name == "true_probability"
    z = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], "float32"))
    assert total(backend, metric, z, np.eye(2)[[1, 0]], True) == pytest.approx(0.625)
    assert total(backend, metric, np.exp(z), np.eye(2)[[1, 0]]) == pytest.approx(0.625)
    assert seen["t"].dtype == np.float32 and backend.to_numpy(seen["t"]).tolist() == [[0, 1], [1, 0]]


def test_a_function_as_keras_has_it(backend):
    """f(y_true, y_pred): values by example, by position, or one of the batch."""
    z = np.log(np.array([[0.25, 0.75], [0.5, 0.5], [0.75, 0.25]], "float32"))
    rows = np.eye(2)[[1, 0, 0]]

    def by_example(y_true, y_pred, scale=2.0):
        return (scale * y_true * y_pred - y_true).sum(axis=-1)

    def by_position(y_true, y_pred):
        return y_true > y_pred

    def of_batch(y_true, y_pred):
        return (y_true * y_pred).max() - y_pred.min()

    for function, expected in (
        (by_example, (0.5 + 0.0 + 0.5) / 3),  # 2 p - 1
        (by_position, 3 / 6),
        (of_batch, 0.75 - 0.25),
    ):
        metric = metrics.get(function, losses.CategoricalCrossentropy(), (2,))
        assert metric.name == function.__name__
        assert total(backend, metric, z, rows, True) == pytest.approx(expected, abs=1e-6)
        assert total(backend, metric, np.exp(z), rows) == pytest.approx(expected, abs=1e-6)
    assert type(metrics.get(lambda xp, y, t, k=1: y, losses.MeanSquaredError(), (1,))) is metrics.FunctionMetric


def test_a_function_as_keras_has_it_in_a_model(backend):
    def off_by(y_true, y_pred):
        return abs(y_true - y_pred)

    x, t = draw(10, 3), draw(10)
    model = xconv.Sequential([xconv.Dense(1)], input_shape=(3,), backend=backend)
    model.compile("sgd", "MeanAbsoluteError", metrics=[off_by, "MeanAbsoluteError"])
    history = model.fit(x, t, batch_size=4, verbose=0).history
    assert list(history) == ["loss", "off_by", "mean_absolute_error"]
    assert history["off_by"] == pytest.approx(history["loss"], rel=1e-5)
    expected = np.abs(model.predict(x)[:, 0] - t).mean()
    assert model.evaluate(x, t) == pytest.approx([expected] * 3, rel=1e-5)


def test_a_metric_of_your_own(backend):
    class Bias(metrics.Metric):
        name = "bias"

        def each(self, xp, y, t):
            return y - t

    mine = Bias()
    metric = metrics.get(mine, losses.MeanSquaredError(), (1,))
    assert metric.name == "bias" and mine.loss is None  # the user's own is not touched
    assert total(backend, metric, np.array([[1.0], [4.0]]), [0, 1]) == 2.0


def test_names():
    sparse, binary, mse = (losses.get(n) for n in ("sparse_categorical_crossentropy", "binary_crossentropy", "mse"))
    for spec, loss, out_shape, kind in (
        ("accuracy", sparse, (10,), metrics.CategoricalAccuracy),
        ("acc", losses.SoftmaxCrossEntropy(), (10,), metrics.CategoricalAccuracy),
        ("accuracy", sparse, (1,), metrics.CategoricalAccuracy),
        ("accuracy", binary, (10,), metrics.BinaryAccuracy),
        ("accuracy", mse, (1,), metrics.BinaryAccuracy),
        ("accuracy", mse, (10,), metrics.CategoricalAccuracy),
        ("categorical_accuracy", sparse, (10,), metrics.CategoricalAccuracy),
        ("sparse_categorical_accuracy", sparse, (10,), metrics.CategoricalAccuracy),
        ("binary_accuracy", binary, (10,), metrics.BinaryAccuracy),
        ("top_k", sparse, (10,), metrics.TopKAccuracy),
    ):
        metric = metrics.get(spec, loss, out_shape)
        assert type(metric) is kind and metric.name == spec and metric.loss is loss
    for spec, name, kind in (  # class names become names, as in Keras; names stay as they were given
        ("CategoricalAccuracy", "categorical_accuracy", metrics.CategoricalAccuracy),
        ("SparseCategoricalAccuracy", "sparse_categorical_accuracy", metrics.CategoricalAccuracy),
        ("binaryaccuracy", "binary_accuracy", metrics.BinaryAccuracy),
        ("MeanSquaredError", "mean_squared_error", metrics.MeanSquaredError),
        ("MeanAbsoluteError", "mean_absolute_error", metrics.MeanAbsoluteError),
        ("TopKAccuracy", "top_k", metrics.TopKAccuracy),
        ("MAE", "MAE", metrics.MeanAbsoluteError),
        ("Accuracy", "Accuracy", metrics.CategoricalAccuracy),
    ):
        metric = metrics.get(spec, sparse, (10,))
        assert type(metric) is kind and metric.name == name, spec
    assert metrics.TopKAccuracy(3).name == "top_3_accuracy" and metrics.TopKAccuracy(3, name="best").name == "best"


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
@pytest.mark.parametrize("loss", ["categorical_crossentropy", "binary_crossentropy", "mse"])
@pytest.mark.parametrize("spec", ["accuracy", "top_k", "binary_accuracy", "mse", "mae"])
def test_metrics_can_be_recorded_as_a_graph(spec, loss):
    backend = standin.install()
    loss = losses.get(loss)
    metric = metrics.get(spec, loss, (K,))
    y, t = backend.asarray(draw(N, K, dtype="float32")), np.eye(K)[np.arange(N) % K]
    t = backend.asarray(loss.targets(t, N, (K,), "t"))
    launch, result = standin.record(backend, lambda: metric.total(backend, y, t, loss.absorbs is not None))
    y[...] = y * -1.0
    launch()
    expected = metric.total(backend, y, t, loss.absorbs is not None)
    assert backend.to_numpy(result).tolist() == backend.to_numpy(expected).tolist()


# ---------------------------------------------------------------------- what cannot be

KNOWN = (
    "'accuracy', 'acc', 'categorical_accuracy', 'sparse_categorical_accuracy', 'binary_accuracy', 'top_k', 'mse', "
    "'mean_squared_error', 'mae', 'mean_absolute_error'"
)


def per_position(xp, y, t):
    return y - t


def of_one(y_pred, *rest):
    return y_pred


def of_four(xp, y, t, *, k):
    return y


FUNCTIONS = "a function f(xp, y, t), or f(y_true, y_pred) as in Keras"
Y, MSE = np.zeros((2, 3)), losses.MeanSquaredError()
MISTAKES = {
    "a name": (
        lambda b: metrics.get("auc", MSE, (1,)), ConfigError,
        f"metric: expected {KNOWN}, an instance of xconv.metrics.Metric or {FUNCTIONS}. Received: 'auc'",
    ),
    "a function of one": (
        lambda b: metrics.get(of_one, MSE, (1,)), ConfigError,
        f"metric: expected {FUNCTIONS}. Received: {of_one!r}, of arguments (y_pred, *rest)",
    ),
    "a function of four": (
        lambda b: metrics.get(of_four, MSE, (1,)), ConfigError,
        f"metric: expected {FUNCTIONS}. Received: {of_four!r}, of arguments (xp, y, t, *, k)",
    ),
    "a function that does not tell": (
        lambda b: metrics.get(max, MSE, (1,)), ConfigError,
        f"metric: expected {FUNCTIONS}. Received: <built-in function max>, which does not tell its arguments",
    ),
    "Keras's function of another batch": (
        lambda b: total(b, metrics.get(lambda y_true, y_pred: y_true[:1], MSE, (3,)), Y, Y), ShapeError,
        "metric '<lambda>': expected an array of shape (2, ...) or (). "
        "Received: array of shape (1, 3), dtype float64",
    ),
    "Keras's function on the host": (
        lambda b: total(b, metrics.get(lambda y_true, y_pred: 0.5, MSE, (3,)), Y, Y), ShapeError,
        "metric '<lambda>': expected an array of shape (2, ...) or (). Received: 0.5",
    ),
    "a class": (
        lambda b: metrics.get(metrics.TopKAccuracy, MSE, (1,)), ConfigError,
        "metric: expected an instance, as TopKAccuracy(), not the class. "
        "Received: <class 'xconv.metrics.TopKAccuracy'>",
    ),
    "k of 0": (
        lambda b: metrics.TopKAccuracy(0), ConfigError, "TopKAccuracy: k must be an integer >= 1. Received: 0",
    ),
    "a function of every position": (
        lambda b: total(b, metrics.get(per_position, MSE, (3,)), Y, Y), ShapeError,
        "metric 'per_position': expected one value per example, an array of shape (2,). "
        "Received: array of shape (2, 3), dtype float64",
    ),
    "a function of the batch": (
        lambda b: total(b, metrics.get(lambda xp, y, t: 0.5, MSE, (3,)), Y, Y), ShapeError,
        "metric '<lambda>': expected one value per example, an array of shape (2,). Received: 0.5",
    ),
    "an error of labels": (
        lambda b: total(b, metrics.get("mae", losses.SparseCategoricalCrossentropy(), (3,)), Y, [0, 1]), ShapeError,
        "mae: expected targets of the outputs' shape (2, 3). Received: array of shape (2,), dtype int64",
    ),
    "yes or no of labels": (
        lambda b: total(b, metrics.get("binary_accuracy", losses.SoftmaxCrossEntropy(), (3,)), Y, [0, 1]), ShapeError,
        "binary_accuracy: expected targets of the outputs' shape (2, 3). Received: array of shape (2,), dtype int64",
    ),
    "a column of labels": (
        lambda b: metrics.CategoricalAccuracy().total(b, b.asarray(Y), b.asarray([[0], [1]]), False), ShapeError,
        "categorical_accuracy: expected labels of shape (2,) or rows of (2, 3). "
        "Received: array of shape (2, 1), dtype int64",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_metrics_that_cannot_be(backend, mistake):
    act, kind, text = MISTAKES[mistake]
    message(kind, text, lambda: act(backend))


def test_a_subclass_of_an_accuracy_sees_probabilities(backend):
    """What is left out for ours, because it changes no order, is there for others."""

    class Confident(metrics.CategoricalAccuracy):
        name = "confident"

        def each(self, xp, y, t):
            return super().each(xp, y, t) & (y.max(axis=-1) > 0.9)

    loss = losses.get("sparse_categorical_crossentropy")
    metric = metrics.get(Confident(), loss, (3,))
    logits = np.array([[5.0, 0.0, 0.0], [0.5, 0.0, 0.0], [0.0, 5.0, 0.0]])
    total = metric.total(backend, backend.asarray(logits), backend.asarray(np.array([0, 0, 0])), True)
    assert float(backend.to_numpy(total)) == 1.0
