"""Recorded training steps: to the bit what steps one by one give, and nothing lost where a step cannot be recorded."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import xconv
from tests import standin
from tests.tolerances import TOLERANCES
from xconv import Model, Sequential, optimizers, regularizers, schedules
from xconv.book import SimpleConvNet
from xconv.callbacks import LambdaCallback
from xconv.errors import ConfigError, NonFiniteError, RecordingError, RecordingWarning, XconvError
from xconv.layers import (
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    Lambda,
    Layer,
    MaxPool2D,
    ReLU,
)
from xconv.models.step import MOST

RNG = np.random.default_rng(5)
X, T = RNG.random((45, 12, 12, 1), np.float32), RNG.integers(0, 10, 45)
LATER = RNG.random((45, 12, 12, 1), np.float32)


@pytest.fixture(params=["standin", pytest.param("gpu", marks=pytest.mark.gpu)])
def cupy(request, monkeypatch):
    if request.param == "gpu":
        found = standin.real_or_reason()
        return pytest.skip(found) if isinstance(found, str) else found
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    backend = standin.install()
    backend.synchronize()
    monkeypatch.setattr(standin.state, "ordered", True)  # work that does not wait for that of another stream is refused
    return backend


def book(backend, **settings):
    model = SimpleConvNet(
        (1, 12, 12), {"filter_num": 4, "filter_size": 3}, 16, 10, "he", backend=backend, seed=3, **settings
    )
    model.compile(optimizers.Adam(0.003))
    return model


def everything(backend, **settings):
    """Batch normalisation, dropout, a schedule, a penalty, clipping, metrics."""
    layers = [
        Conv2D(4, 3, padding="same", kernel_regularizer=regularizers.L2(0.01)), BatchNormalization(), ReLU(),
        MaxPool2D(2), Dropout(0.3), Flatten(), Dense(10, activation="softmax", kernel_regularizer=regularizers.L1(0.1)),
    ]  # fmt: skip
    model = Sequential(layers, input_shape=(12, 12, 1), backend=backend, seed=4, **settings)
    rate = schedules.WarmUp(3, schedules.StepDecay(0.05, every=4))
    rule = optimizers.SGD(rate, momentum=0.9, nesterov=True, global_clipnorm=0.5)
    model.compile(rule, "sparse_categorical_crossentropy", ["accuracy", "top_k"])
    return model


def branches(backend, **settings):
    """Two outputs, each with a loss of its own weight."""
    x = Input((12, 12, 1), name="x")
    y = Flatten()(MaxPool2D(3)(Conv2D(3, 3, activation="relu")(x)))
    outs = [Dense(10, activation="softmax", name="digit")(y), Dense(1, name="size")(Concatenate()([y, Dense(4)(y)]))]
    model = Model([x], outs, backend=backend, seed=6, **settings)
    losses = {"digit": "sparse_categorical_crossentropy", "size": "mse"}
    model.compile("rmsprop", losses, {"size": ["mae"]}, {"size": 0.5})
    return model


NETWORKS = {"book": book, "everything": everything, "branches": branches}


def images(model):
    return X.transpose(0, 3, 1, 2) if model.data_format == "channels_first" else X


def labels(model):
    return {"digit": T, "size": T / 10.0} if len(model.outputs) > 1 else T


def train(model, epochs=4, batch=10, first=0, **more):
    return model.fit(images(model), labels(model), batch, epochs, 0, initial_epoch=first, **more).history


def without(model):
    """The same, its steps one by one."""
    model.compile(model.optimizer, record=False)
    return model


def state(model):
    """Everything that training changes, as bytes."""
    to_numpy = model.backend.to_numpy
    kept = {**model._parameters.to_numpy(), **model.optimizer.state_arrays(), "steps": model._steps}
    return {name: np.array(to_numpy(a)).tobytes() for name, a in kept.items()} | {"count": model.optimizer.steps}


def replays(model):
    return sum(shape.replays for shape in model._recorded._recordings.values())


def on_device(model, i=0, n=10):
    x, t = images(model)[i : i + n], T[i : i + n]
    return model.backend.asarray(x), model.backend.asarray(t)


# ---------------------------------------------------------------------- the same numbers


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_is_eager_to_the_bit(cupy, network, weighted):
    """Four epochs of four batches and a short one, which is never recorded."""
    more = {"sample_weight": np.linspace(0.5, 2.0, len(X))} if weighted else {}
    recorded, eager = NETWORKS[network](cupy), without(NETWORKS[network](cupy))
    first = state(eager)
    assert train(recorded, **more) == train(eager, **more)
    assert (recorded.recording, eager.recording) == ("recorded", "eager: record=False")
    assert replays(recorded) == 16 - 1 - 3  # the first by itself, three to warm up
    assert state(recorded) == state(eager) != first


@pytest.mark.parametrize("network", NETWORKS)
def test_recorded_follows_numpy(cupy, network):
    ended = []
    for backend in (cupy, "numpy"):
        model = NETWORKS[network](backend, dtype="float64")
        losses = train(model)["loss"]
        ended.append((np.concatenate([w.ravel() for w in model.get_weights()]), losses))
    (mine, my_losses), (theirs, their_losses) = ended
    assert np.linalg.norm(mine - theirs) <= TOLERANCES["adaptive trajectory", "float64"] * np.linalg.norm(theirs)
    np.testing.assert_allclose(my_losses, their_losses, rtol=TOLERANCES["loss", "float64"])


def test_values_of_each_step(cupy):
    recorded, eager = everything(cupy), without(everything(cupy))
    for i in (0, 5, 10, 15, 20, 25, 30):
        mine, theirs = recorded.train_step(*on_device(recorded, i)), eager.train_step(*on_device(eager, i))
        assert [cupy.to_numpy(v).tobytes() for v in mine] == [cupy.to_numpy(v).tobytes() for v in theirs]
    assert recorded.recording == "recorded"
    for i in (0, 10):
        sums = [model.train_on_batch(X[i : i + 10], T[i : i + 10]) for model in (recorded, eager)]
        assert sums[0] == sums[1] and len(sums[0]) == 3


def test_values_are_taken_before_the_next_step(cupy):
    model = book(cupy)
    kept = []
    for i in range(6):
        values = model.train_step(*on_device(model, i))
        kept.append(values[0])
    assert len({float(cupy.to_numpy(loss)[0]) for loss in kept}) == 6  # what was taken stays
    loss, accuracy = values
    assert len(values) == 2 and [v.shape for v in values[:2]] == [loss.shape, accuracy.shape]
    model.train_step(*on_device(model))
    with pytest.raises(XconvError, match=r"before the next step.*1 steps ago"):
        values[0]


def test_a_run_goes_on_from_a_file(cupy, tmp_path):
    unbroken, broken = everything(cupy), everything(cupy)
    expected = train(unbroken, 4)
    assert train(broken, 2)["loss"] == expected["loss"][:2]
    assert broken.recording == "recorded"
    broken.save(tmp_path / "run.safetensors")
    again = xconv.load(tmp_path / "run.safetensors", backend=cupy)
    assert train(again, 4, first=2)["loss"] == expected["loss"][2:]
    assert again.recording == "recorded" and state(again) == state(unbroken)
    later = train(broken, 4, first=2)["loss"]  # the file did nothing to the run itself
    assert later == expected["loss"][2:] and state(broken) == state(unbroken)


# ---------------------------------------------------------------------- what a recording holds fast


def freeze(model):
    model.layers[0].trainable = False


def another_optimizer(model):
    model.compile(optimizers.SGD(0.1, momentum=0.5), record=model._recorded.asked)


def other_metrics(model):
    model.compile(model.optimizer, "sparse_categorical_crossentropy", ["top_k"], record=model._recorded.asked)


def another_backend(model):
    backend = model.backend
    model.to("numpy").to(backend)


def replace_parameters(model):
    """As nobody should; but the same happens as where steps come one by one."""
    model.layers[-1].params["b"] = model.layers[-1].params["b"] + 1.0


def loaded_state(model):
    arrays = {name: model.backend.to_numpy(a) * 0.5 for name, a in model.optimizer.state_arrays().items()}
    model.optimizer.load_state(arrays, model.backend)


def set_attribute(name, value, of=lambda model: model.optimizer):
    return lambda model: setattr(of(model), name, value)


def halve(model):
    name = next(iter(model.params))
    model.params[name] *= 0.5


GOES_ON = {  # read from the device by each step
    "the rate": set_attribute("lr", 0.2),
    "a schedule": set_attribute("lr", schedules.ExponentialDecay(0.1, 0.5, 3)),
    "weights": lambda model: model.set_weights([0.5 * w for w in model.get_weights()]),
    "one weight": halve,
}
BEGINS_ANEW = {
    "an optimizer": another_optimizer,
    "its momentum": set_attribute("momentum", 0.5),
    "its clipping": set_attribute("global_clipnorm", 0.01),
    "its state": loaded_state,
    "freezing": freeze,
    "a backend and back": another_backend,
    "a dropout rate": set_attribute("rate", 0.6, lambda model: model.layers[4]),
    "a penalty": set_attribute("l2", 0.5, lambda model: model.layers[0].kernel_regularizer),
    "metrics": other_metrics,
    "a parameter's array": replace_parameters,
}


@pytest.mark.parametrize("change", [*GOES_ON, *BEGINS_ANEW])
def test_changes_between_steps(cupy, change):
    ended = []
    for model in (everything(cupy), without(everything(cupy))):
        for i in range(6):
            model.train_step(*on_device(model, i))
        before = list(model._recorded._recordings.values())
        {**GOES_ON, **BEGINS_ANEW}[change](model)
        for i in range(7):
            loss = model.train_step(*on_device(model, 7 + i))[0]
        ended.append((state(model), cupy.to_numpy(loss).tobytes()))
        if model.recording == "recorded":
            assert (list(model._recorded._recordings.values()) == before) is (change in GOES_ON)
            assert before and replays(model) == (2 + 7 if change in GOES_ON else 3)
        else:
            assert model.recording == "eager: record=False"
    assert ended[0] == ended[1]


def test_batches_are_put_where_the_recording_reads_them(cupy, monkeypatch):
    model, inner, came = everything(cupy), Model.train_step, []

    def train_step(self, x, t, weights=None):
        came.append((x[0].data.ptr, len(x[0])))
        return inner(self, x, t, weights)

    monkeypatch.setattr(Model, "train_step", train_step)
    train(model, 3)
    ours = [shape.given[0].data.ptr for shape in model._recorded._recordings.values()]
    assert [pointer in ours for pointer, n in came[-5:]] == [False, True, True, True, False]
    last = model._recorded._recordings[next(iter(model._recorded._recordings))].batch()
    model.train_step(last.xs, last.ts)
    assert model.room(last, 10) == last and model.room(last, 9) is model.room(None, 10) is None
    for other in (last._replace(weights=last.xs[0]), last._replace(ts=[last.ts[0].astype("float32")])):
        assert model.room(other, 10) is None


def test_only_some_shapes_are_kept(cupy):
    recorded, eager = book(cupy), without(book(cupy))
    for model in (recorded, eager):
        for n in [*range(1, MOST + 3), 3]:
            for i in range(6):
                model.train_step(*on_device(model, i, n))
    assert len(recorded._recorded._recordings) == MOST
    assert state(recorded) == state(eager)


def test_memory_comes_back(cupy):
    pool = cupy.xp.get_default_memory_pool()
    gc.collect()
    before = pool.used_bytes()
    model = book(cupy)
    for i in range(4):
        model.train_step(*on_device(model, i))
    eager = pool.used_bytes()
    model.train_step(*on_device(model))
    assert model.recording == "recorded" and pool.used_bytes() >= eager
    recorded = pool.used_bytes()
    model.compile(model.optimizer, record=False)
    assert pool.used_bytes() < recorded
    for i in range(6):
        model.compile(model.optimizer)
        for i in range(6):
            model.train_step(*on_device(model, i))
        assert pool.used_bytes() <= recorded
    del model
    gc.collect()
    assert pool.used_bytes() <= before + (33 << 20)  # cuBLAS keeps a workspace for the stream, which serves the next


def test_a_model_that_nobody_has_is_gone_at_once(cupy):
    """Not when the collector comes by: a recording holds much memory."""
    pool = cupy.xp.get_default_memory_pool()
    train(everything(cupy))  # the stream's cuBLAS
    gc.collect()
    gc.disable()
    try:
        before = pool.used_bytes()
        model = everything(cupy)
        train(model)
        assert model.recording == "recorded" and pool.used_bytes() > before
        gone, weights = weakref.ref(model), model._parameters.flat.nbytes
        del model
        assert gone() is None and pool.used_bytes() <= before + weights + 512  # layers and their tensors are a circle
    finally:
        gc.enable()


def test_recording_counts_as_compilation(cupy):
    model = book(cupy)
    history = model.fit(images(model), T, 10, 3, 0)
    assert 0 < model.recording_seconds <= history.compile_seconds
    before = model.recording_seconds
    model.fit(images(model), T, 10, 1, 0)
    assert model.recording_seconds == before


def test_a_loss_that_is_not_finite_is_told(cupy):
    model = book(cupy)

    def ruin(epoch, logs=None):
        if epoch == 2:
            model.params["W1"] *= np.inf

    with pytest.raises(NonFiniteError, match=r"in epoch 3, between steps 1 and . of batches of 10"):
        train(model, callbacks=[LambdaCallback(on_epoch_begin=ruin)])
    assert model.recording == "recorded"


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
    model.compile(model.optimizer, record=True)
    before = state(model)
    with pytest.raises(RecordingError, match=f"{backend.name!r} records no steps.*Received: record=True"):
        train(model)
    assert state(model) == before


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
