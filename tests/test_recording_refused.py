"""Where a training step cannot be recorded nothing is lost; and recordings among threads and on the command line."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests import standin
from tests.recorded import LATER, X, book, everything, on_device, state, train, without
from xconv import Model, Sequential
from xconv.errors import ConfigError, RecordingError, RecordingWarning
from xconv.layers import (
    Conv2D,
    Dense,
    Flatten,
    Lambda,
    Layer,
    ReLU,
)


@pytest.fixture
def cupy(cupy, request, monkeypatch):
    if request.node.callspec.params["cupy"] == "standin":
        cupy.synchronize()
        monkeypatch.setattr(standin.state, "ordered", True)  # work that does not wait for another stream's is refused
    return cupy


# ---------------------------------------------------------------------- what cannot be recorded


class Own(Layer):
    """y = x, and something else besides."""

    def __init__(self, besides, **base):
        super().__init__(**base)
        self.besides = besides

    def forward(self, x, ctx):
        self.besides(self, x)
        return x, None

    def backward(self, dy, saved, need):
        return dy, {}


KEPT = []


def counts(layer, x):
    layer.calls = getattr(layer, "calls", 0) + 1


def rebinds(layer, x):
    layer.total = getattr(layer, "total", 0.0) + x.sum()


REFUSED = {  # by CUDA, by CuPy, or by xconv, which sees that something else than the recording's is meant
    "reading": (lambda layer, x: layer.backend.to_numpy(x), "capturing"),
    "deciding": (lambda layer, x: bool(x.sum() > 0), "capturing"),
    "sending": (lambda layer, x: layer.backend.asarray(np.ones(2)), "capturing"),
    "waiting": (lambda layer, x: layer.backend.synchronize(), "synchronize|apturing"),
    "CuPy's cuBLAS": (
        lambda layer, x: layer.backend.xp.matmul(x.reshape(len(x), -1).T, x.reshape(len(x), -1)),
        "cuBLAS",
    ),
    "rebinding": (rebinds, "replaced from step to step"),
    "counting": (counts, "replaced from step to step"),
    "taking more memory": (lambda layer, x: KEPT.append(x + 1.0), "memory pool grows"),
}


def with_own(backend, besides, **settings):
    layers = [Conv2D(3, 3), Own(besides, name="own"), ReLU(), Flatten(), Dense(10, activation="softmax")]
    model = Sequential(layers, input_shape=(12, 12, 1), backend=backend, seed=1)
    model.compile("momentum", "sparse_categorical_crossentropy", ["accuracy"], **settings)
    return model


@pytest.fixture
def kept():
    yield KEPT
    KEPT.clear()


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_recorded_is_refused_and_nothing_lost(cupy, what, kept):
    if what == "taking more memory" and cupy is standin.real():
        pytest.skip("a device lets a capture take more")
    besides, why = REFUSED[what]
    model, eager = with_own(cupy, besides, record=True), with_own(cupy, besides, record=False)
    for i in range(14):
        before = state(model)
        try:
            model.train_step(*on_device(model, i))
        except RecordingError as error:
            assert i >= 4 and "compile(record=None)" in str(error)
            with pytest.raises(RecordingError, match=why):  # not only once
                model.train_step(*on_device(model, i))
            break
        eager.train_step(*on_device(eager, i))
    else:
        pytest.fail("it was recorded")
    assert state(model) == before == state(eager)
    assert model.recording.startswith("eager: the step cannot be recorded: ")
    model.compile(model.optimizer)
    with pytest.warns(RecordingWarning, match=r"own \(Own\): code of your own.*record=True") as caught:
        for i in range(6):
            model.train_step(*on_device(model, i))
            eager.train_step(*on_device(eager, i))
    assert len(caught) == 1 and state(model) == state(eager)


def test_code_of_your_own_is_recorded_where_you_say_so(cupy):
    def network(record):
        halves = Lambda(lambda xp, x: x * 0.5, lambda xp, dy, x, y: dy * 0.5, name="halves")
        layers = [Conv2D(3, 3), halves, Flatten(), Dense(10, activation="softmax")]
        model = Sequential(layers, input_shape=(12, 12, 1), backend=cupy, seed=1)
        model.compile("adam", "sparse_categorical_crossentropy", [lambda xp, y, t: y.max(axis=1)], record=record)
        return model

    recorded, eager, unsaid = (network(record) for record in (True, False, None))
    assert train(recorded) == train(eager)
    with pytest.warns(RecordingWarning, match=r"halves \(Lambda\), metric <lambda>: code of your own"):
        train(unsaid)
    assert (recorded.recording, unsaid.recording[:22]) == ("recorded", "eager: halves (Lambda)")
    assert state(recorded) == state(eager) == state(unsaid)
    unsaid.compile(unsaid.optimizer)
    train(unsaid)  # said once


def capturing(cupy):
    return cupy.xp.cuda.get_current_stream().is_capturing()


def test_a_capture_that_fails_costs_nothing(cupy, monkeypatch):
    """As it would where an operation of xconv's own met the host: one warning, and steps go on one by one."""
    inner, model, eager = cupy.softmax_cross_entropy, book(cupy), without(book(cupy))

    def meets_the_host(logits, labels):
        cupy.to_numpy(logits)
        return inner(logits, labels)

    monkeypatch.setattr(cupy, "softmax_cross_entropy", meets_the_host)
    with pytest.warns(RecordingWarning, match=r"cannot be recorded: .*capturing") as caught:
        assert train(model) == train(eager)
    assert len(caught) == 1 and state(model) == state(eager)
    assert model.recording.startswith("eager: the step cannot be recorded: ")
    monkeypatch.undo()
    train(model), train(eager)
    assert model.recording.startswith("eager: ")  # it is not tried again and again
    model.compile(model.optimizer)
    assert train(model) == train(eager) and model.recording == "recorded"


def test_an_interrupt_while_recording(cupy, monkeypatch):
    inner, model, eager = cupy.softmax_cross_entropy, book(cupy), without(book(cupy))

    def interrupted(logits, labels):
        if capturing(cupy):
            raise KeyboardInterrupt
        return inner(logits, labels)

    for i in range(4):
        model.train_step(*on_device(model, i)), eager.train_step(*on_device(eager, i))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(cupy, "softmax_cross_entropy", interrupted)
        model.train_step(*on_device(model))
    assert gc.isenabled() and not capturing(cupy)
    for i in range(7):
        model.train_step(*on_device(model, i)), eager.train_step(*on_device(eager, i))
    assert model.recording == "recorded" and {**state(model), "count": 0} == {**state(eager), "count": 0}


def test_an_error_in_a_step_that_warms_up(cupy, monkeypatch):
    model, eager = book(cupy), without(book(cupy))

    def broken(logits, labels):
        raise ValueError("not today")

    for i in range(3):
        model.train_step(*on_device(model, i)), eager.train_step(*on_device(eager, i))
    with monkeypatch.context() as patch, pytest.raises(ValueError, match="not today"):
        patch.setattr(cupy, "softmax_cross_entropy", broken)
        model.train_step(*on_device(model))
    for i in range(7):
        model.train_step(*on_device(model, i)), eager.train_step(*on_device(eager, i))
    assert model.recording == "recorded" and {**state(model), "count": 0} == {**state(eager), "count": 0}


def test_settings(backend):
    model = book(backend)
    with pytest.raises(ConfigError, match=r"record must be True, False or None\. Received: 'yes'"):
        model.compile("sgd", record="yes")
    assert model.recording.startswith("eager")
    if backend.recorder() is not None:
        return
    assert model.recording == f"eager: backend {backend.name!r} records no steps"
    train(model, 1)  # without a word
    before, rule = state(model), model.optimizer
    with pytest.raises(RecordingError, match=f"{backend.name!r} records no steps.*Received: record=True"):
        model.compile("adam", record=True)
    assert model.optimizer is rule
    train(model, 2, first=1)  # as it was
    assert state(model) != before


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
def test_a_model_that_moves_to_where_nothing_is_recorded():
    model = book(standin.install())
    model.compile(model.optimizer, record=True)
    model.to("numpy")
    with pytest.raises(RecordingError, match=r"'numpy' records no steps.*Received: record=True"):
        train(model)


# ---------------------------------------------------------------------- threads


def threads(cupy, monkeypatch):
    monkeypatch.setattr(standin.state, "ordered", False)  # between threads there is no order
    return ThreadPoolExecutor(2)


def test_predictions_while_steps_are_recorded(cupy, monkeypatch):
    model, alone = everything(cupy), everything(cupy)
    expected, done = train(alone), threading.Event()
    other = book(cupy)
    predicted = other.predict(X.transpose(0, 3, 1, 2)).tobytes()

    def predict():
        seen = []
        while not done.is_set() or not seen:
            cupy.synchronize()
            y = model.predict(LATER)
            seen.append(other.predict(X.transpose(0, 3, 1, 2)).tobytes() == predicted and bool(np.isfinite(y).all()))
        return seen

    with threads(cupy, monkeypatch) as pool:
        asked = pool.submit(predict)
        try:
            got = train(model)
        finally:
            done.set()
        assert all(asked.result())
    assert got == expected and model.recording == "recorded" and state(model) == state(alone)


def test_two_models_in_two_threads(cupy, monkeypatch):
    alone = [train(network(cupy)) for network in (book, everything)]
    models = [network(cupy) for network in (book, everything)]
    gate = threading.Barrier(2)

    def run(model):
        gate.wait()
        return train(model)

    with threads(cupy, monkeypatch) as pool:
        assert list(pool.map(run, models)) == alone
    assert [model.recording for model in models] == ["recorded"] * 2


# ---------------------------------------------------------------------- the command line


@pytest.mark.parametrize("options", [(), ("--no-record",)])
def test_the_command(run, few, monkeypatch, options):
    asked = []

    def fit(model, *args, **kwargs):
        asked.append((model.recording, model.optimizer.lr))
        return inner(model, *args, **kwargs)

    inner = Model.fit
    monkeypatch.setattr(Model, "fit", fit)
    code, _, err = run("train", "--backend", "numpy", "--epochs", "1", "--lr", "0.002", *options)
    why = "record=False" if options else "backend 'numpy' records no steps"
    assert code == 0 and asked == [(f"eager: {why}", 0.002)], err
