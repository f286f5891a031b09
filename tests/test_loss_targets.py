"""What targets a loss takes, what it makes of them, and what it says of those it cannot take."""

from __future__ import annotations

import numpy as np
import pytest

from tests.mistakes import OnAnotherDevice, message
from xconv import losses
from xconv.errors import BackendError, ConfigError, DataError, DTypeError, ShapeError


def test_forms_of_targets_that_mean_the_same():
    labels = np.array([0, 2, 1])
    one_hot = np.eye(3)[labels]
    cce, sparse, ours = (losses.get(name) for name in (
        "categorical_crossentropy", "sparse_categorical_crossentropy", "softmax_cross_entropy"))  # fmt: skip
    for form in (one_hot, one_hot.astype("uint8"), one_hot.astype(bool), one_hot.astype(">f4"), one_hot.tolist()):
        for loss in (cce, ours):
            got = loss.targets(form, 3, (3,), "t")
            assert got.dtype == np.int64 and got.tolist() == [0, 2, 1]
    for form in (labels, labels.astype("uint8"), labels.tolist(), labels[:, None]):
        assert sparse.targets(form, 3, (3,), "t").tolist() == [0, 2, 1]
    assert ours.targets(labels, 3, (3,), "t").tolist() == [0, 2, 1]
    assert sparse.targets(np.zeros((2, 3, 4, 1), int), 2, (3, 4, 5), "t").shape == (2, 3, 4)
    for loss in (losses.get("mse"), losses.get("binary_crossentropy")):
        for form in ([0, 1, 1], [[0], [1], [1]], np.array([0, 1, 1], bool), np.array([0, 1, 1], "float16")):
            assert loss.targets(form, 3, (1,), "t").tolist() == [[0], [1], [1]]
    assert losses.get("mse").targets(np.zeros((2, 4, 4)), 2, (4, 4, 1), "t").shape == (2, 4, 4, 1)


def test_float_targets_lose_nothing():
    mse = losses.MeanSquaredError()
    for dtype, kept in (
        *((small, "float32") for small in ("bool", "uint8", "int16", "float16", "float32")),
        *((large, "float64") for large in ("int32", "int64", "float64", "longdouble")),
    ):
        given = np.array([[0], [100]]).astype(dtype)
        got = mse.targets(given, 2, (1,), "t")
        assert got.dtype == kept and (got == given).all()
    # Rows of probabilities stay what they are, within 1e-4 of a sum of 1.
    rows = np.array([[0.30004, 0.7], [1.0, 0.0]])
    np.testing.assert_array_equal(losses.CategoricalCrossentropy().targets(rows, 2, (2,), "t"), rows)


def test_targets_for_metrics_are_those_that_were_given(backend):
    y = backend.asarray(np.zeros((2, 3), "float32"))
    for name, given, dtype in (
        ("categorical_crossentropy", np.eye(3)[[2, 0]], "float32"),
        ("categorical_crossentropy", np.array([[0.5, 0.25, 0.25], [0, 0, 1]]), "float32"),
        ("sparse_categorical_crossentropy", np.array([2, 0]), "int64"),
        ("softmax_cross_entropy", np.array([2, 0]), "int64"),
        ("binary_crossentropy", np.array([[0, 1, 1], [1, 0, 0]]), "float32"),
        ("mse", np.array([[0.5, 1, 1], [1, 0, 0]]), "float32"),
    ):
        loss = losses.get(name)
        seen = loss.as_given(backend.xp, y, backend.asarray(loss.targets(given, 2, (3,), "t")))
        assert seen.dtype == dtype and backend.to_numpy(seen).tolist() == given.tolist(), name


def test_names_and_configs():
    for name, kind in {
        "categorical_crossentropy": "CategoricalCrossentropy",
        "sparse_categorical_crossentropy": "SparseCategoricalCrossentropy",
        "binary_crossentropy": "BinaryCrossentropy",
        "mean_squared_error": "MeanSquaredError",
        "mse": "MeanSquaredError",
        "mean_absolute_error": "MeanAbsoluteError",
        "mae": "MeanAbsoluteError",
        "huber": "Huber",
        "softmax_cross_entropy": "SoftmaxCrossEntropy",
    }.items():
        loss = losses.get(name)
        assert type(loss) is getattr(losses, kind)
        assert loss.name == name or name in ("mse", "mae")
        assert losses.get(loss) is loss
        for other in (name.upper(), kind, kind.lower()):
            assert type(losses.get(other)) is type(loss), other
    assert losses.Huber().delta == 1.0 and losses.Huber(2).config() == {"kind": "Huber", "delta": 2.0}


ROWS = np.array([[0.5, 0.5, 0, 0], [0, 0, 0.25, 0.75]])
MISTAKES = {
    "labels for rows": (
        "categorical_crossentropy", [1, 2], (4,), ShapeError,
        "t: categorical_crossentropy expects targets of shape (2, 4) for outputs of shape (2, 4); for integer labels "
        "use 'sparse_categorical_crossentropy'. Received: array of shape (2,), dtype int64",
    ),
    "a column of labels for rows": (
        "categorical_crossentropy", [[1], [2]], (4,), ShapeError,
        "t: categorical_crossentropy expects targets of shape (2, 4) for outputs of shape (2, 4); for integer labels "
        "use 'sparse_categorical_crossentropy'. Received: array of shape (2, 1), dtype int64",
    ),
    "rows of other length": (
        "categorical_crossentropy", np.eye(3)[[0, 1]], (4,), ShapeError,
        "t: categorical_crossentropy expects targets of shape (2, 4) for outputs of shape (2, 4). "
        "Received: array of shape (2, 3), dtype float64",
    ),
    "rows with NaN": (
        "categorical_crossentropy", ROWS * [np.nan, 1, 1, 1], (4,), DataError,
        "t: expected finite numbers. Received: 2 NaN or infinite values, the first at index (0, 0): nan",
    ),
    "rows below 0": (
        "categorical_crossentropy", ROWS - 0.25, (4,), DataError,
        "t: categorical_crossentropy expects probabilities >= 0. Received: -0.25 at index (0, 2)",
    ),
    "rows that do not sum to 1": (
        "categorical_crossentropy", ROWS * [[1], [1.001]], (4,), DataError,
        "t: categorical_crossentropy expects rows that sum to 1; where several classes hold at once use "
        "'binary_crossentropy'. Received: a sum of 1.001 at index 1",
    ),
    "rows for labels": (
        "sparse_categorical_crossentropy", np.eye(4)[[0, 1]], (4,), ShapeError,
        "t: sparse_categorical_crossentropy expects targets of shape (2,) for outputs of shape (2, 4); for one-hot "
        "labels use 'categorical_crossentropy'. Received: array of shape (2, 4), dtype float64",
    ),
    "labels too few": (
        "sparse_categorical_crossentropy", [1], (4,), ShapeError,
        "t: expected labels for 2 examples, as many as there are inputs. Received: labels for 1",
    ),
    "labels for maps": (
        "sparse_categorical_crossentropy", [1, 2], (5, 5, 4), ShapeError,
        "t: sparse_categorical_crossentropy expects targets of shape (2, 5, 5) for outputs of shape (2, 5, 5, 4). "
        "Received: array of shape (2,), dtype int64",
    ),
    "label too large": (
        "sparse_categorical_crossentropy", [1, 4], (4,), DataError,
        "t: expected labels from 0 to 3. Received: 4 at index 1",
    ),
    "label negative, in a map": (
        "sparse_categorical_crossentropy", [[[0, 1]], [[-1, 0]]], (1, 2, 4), DataError,
        "t: expected labels from 0 to 3. Received: -1 at index (1, 0, 0)",
    ),
    "labels as floats": (
        "sparse_categorical_crossentropy", [1.0, 2.0], (4,), DTypeError,
        "t: expected integer labels; give t.astype(int). Received: array of shape (2,), dtype float64",
    ),
    "labels with NaN": (
        "sparse_categorical_crossentropy", [1.0, np.nan], (4,), DataError,
        "t: expected finite numbers. Received: 1 NaN or infinite values, the first at index (1,): nan",
    ),
    "no numbers": (
        "mse", ["a", "b"], (1,), DTypeError,
        "t: expected real numbers (float, int or bool). Received: ['a', 'b'], of which NumPy makes <U1",
    ),
    "ours for maps": (
        "softmax_cross_entropy", [1, 2], (2, 3, 3), ShapeError,
        "t: labels need logits (N, classes); end the network with Flatten and Dense. "
        "Received: a network whose output is (N, 2, 3, 3)",
    ),
    "binary out of range": (
        "binary_crossentropy", [0, 2], (1,), DataError,
        "t: binary_crossentropy expects targets from 0 to 1. Received: 2 at index (1, 0)",
    ),
    "binary below 0": (
        "binary_crossentropy", [[-0.5, 1], [0, 0]], (2,), DataError,
        "t: binary_crossentropy expects targets from 0 to 1. Received: -0.5 at index (0, 0)",
    ),
    "binary NaN": (
        "binary_crossentropy", [0, np.nan], (1,), DataError,
        "t: expected finite numbers. Received: 1 NaN or infinite values, the first at index (1, 0): nan",
    ),
    "binary labels": (
        "binary_crossentropy", [0, 1], (4,), ShapeError,
        "t: binary_crossentropy expects targets of shape (2, 4) for outputs of shape (2, 4). "
        "Received: array of shape (2,), dtype int64",
    ),
    "squares of other shape": (
        "mse", np.zeros((2, 3)), (4,), ShapeError,
        "t: mean_squared_error expects targets of shape (2, 4) for outputs of shape (2, 4). "
        "Received: array of shape (2, 3), dtype float64",
    ),
    "squares of infinity": (
        "mse", [0, np.inf], (1,), DataError,
        "t: expected finite numbers. Received: 1 NaN or infinite values, the first at index (1, 0): inf",
    ),
    "of a GPU": (
        "mse", OnAnotherDevice((2, 1)), (1,), BackendError,
        "t: expected a NumPy array. Received: array of shape (2, 1), dtype float32 on a GPU; call its .get(), or move "
        "the model there with model.to('cupy')",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_targets_that_are_wrong(mistake):
    name, t, out_shape, kind, text = MISTAKES[mistake]
    message(kind, text, lambda: losses.get(name).targets(t, 2, out_shape, "t"))


KNOWN = (
    "'categorical_crossentropy', 'sparse_categorical_crossentropy', 'binary_crossentropy', 'mean_squared_error', "
    "'mean_absolute_error', 'huber', 'softmax_cross_entropy', 'mse', 'mae'"
)
CALLS = {
    "a class": (
        lambda: losses.get(losses.MeanSquaredError),
        "loss: expected an instance, as MeanSquaredError(), not the class. "
        "Received: <class 'xconv.losses.MeanSquaredError'>",
    ),
    "a name": (
        lambda: losses.get("hinge"),
        f"loss: expected {KNOWN} or an instance of xconv.losses.Loss. Received: 'hinge'",
    ),
    "nothing": (
        lambda: losses.get(None),
        f"loss: expected {KNOWN} or an instance of xconv.losses.Loss. Received: None",
    ),
    "smoothing": (
        lambda: losses.CategoricalCrossentropy(label_smoothing=1.5),
        "categorical_crossentropy: label_smoothing must be a finite number from 0 to 1. Received: 1.5",
    ),
    "smoothing by name": (
        lambda: losses.BinaryCrossentropy(label_smoothing="much"),
        "binary_crossentropy: label_smoothing must be a finite number from 0 to 1. Received: 'much'",
    ),
    "logits": (
        lambda: losses.SparseCategoricalCrossentropy(from_logits=0.1),
        "sparse_categorical_crossentropy: from_logits must be True or False. Received: 0.1",
    ),
    "config of another": (
        lambda: losses.from_config({"kind": "Hinge"}),
        "loss: expected a config whose 'kind' is 'CategoricalCrossentropy', 'SparseCategoricalCrossentropy', "
        "'BinaryCrossentropy', 'MeanSquaredError', 'MeanAbsoluteError', 'Huber', 'SoftmaxCrossEntropy'. "
        "Received: {'kind': 'Hinge'}",
    ),
    "a delta of nothing": (
        lambda: losses.Huber(0),
        "huber: delta must be above 0. Received: 0",
    ),
    "a negative delta": (
        lambda: losses.Huber(-1.0),
        "huber: delta must be a finite number >= 0. Received: -1.0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("mistake", CALLS)
def test_losses_that_cannot_be(mistake):
    act, text = CALLS[mistake]
    message(ConfigError, text, act)


def test_a_config_with_an_argument_too_many():
    with pytest.raises(ConfigError, match=r"^loss: .*'reduction'\. Received: \{'kind': 'BinaryCrossentropy'"):
        losses.from_config({"kind": "BinaryCrossentropy", "reduction": "none"})


@pytest.mark.parametrize("one_hot", [False, True])
def test_the_wrong_number_of_labels_is_told_as_that(one_hot):
    loss = losses.CategoricalCrossentropy() if one_hot else losses.SparseCategoricalCrossentropy()
    t = np.eye(4)[[0, 1, 2]] if one_hot else np.array([0, 1, 2])
    with pytest.raises(ShapeError, match=r"^t: expected labels for 2 examples, .* Received: labels for 3$"):
        loss.targets(t, 2, (4,), "t")
