"""A step whose loss is not finite changes nothing, to the bit; nor do those after it in the same `fit`."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest

import xconv
from tests import standin
from tests.recorded import NETWORKS, T, X, book, everything, images, labels, on_device, replays, state, train, without
from tests.test_optimizers import RULES
from xconv import Sequential, optimizers, schedules
from xconv.callbacks import LambdaCallback, TerminateOnNaN
from xconv.errors import NonFiniteError, RecordingWarning
from xconv.layers import BatchNormalization, Conv2D, Dense, Flatten, Layer, ReLU
from xconv.models import rescue, training

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the overflows that are provoked here


def pixels(value=1e38):
    """Finite, so that they are taken, and far too large."""
    return np.full((10, 12, 12, 1), value, np.float32)


def spoilt(model):
    """A batch whose loss overflows, on the device."""
    x, t = pixels(3e38), T[:10]
    x = x.transpose(0, 3, 1, 2) if model.data_format == "channels_first" else x
    target = {"digit": t, "size": np.full((10, 1), 3e38, "f4")}
    x = model.backend.asarray(x)
    if len(model.outputs) > 1:
        return x, [model.backend.asarray(target[name]) for name in ("digit", "size")]
    return x, model.backend.asarray(t)


def sound(model, i=0):
    x, t = on_device(model, i)
    return (x, [t, model.backend.asarray(T[i : i + 10, None].astype("f4") / 10)]) if len(model.outputs) > 1 else (x, t)


def small(backend, optimizer, **settings):
    """The loss of an image of 1e38 overflows; that of one below 1 never does."""
    layers = [Flatten(), Dense(6, activation="relu"), Dense(10, activation="softmax")]
    model = Sequential(layers, input_shape=(12, 12, 1), backend=backend, seed=1, **settings)
    model.compile(optimizer, "sparse_categorical_crossentropy", ["accuracy"])
    return model


def counted(model):
    """The state, without where a schedule is: `train_step` by itself leaves that to whoever meets the host next."""
    kept = state(model)
    del kept["count"]
    return kept


# ---------------------------------------------------------------------- one step


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_leaves_all_as_it_is(backend, rule):
    optimizer = RULES[rule][0]()
    optimizer.lr = 0.01
    model = small(backend, optimizer)
    for i in (0, 10):
        model.train_step(*on_device(model, i))
    before = counted(model)
    values = model.train_step(*spoilt(model))
    assert not np.isfinite(backend.to_numpy(values[0])).any()
    assert counted(model) == before
    other = small(backend, RULES[rule][0]())
    other.optimizer.lr = 0.01
    for trained in (model, other):
        if trained is other:
            for i in (0, 10):
                other.train_step(*on_device(other, i))
        trained.train_step(*on_device(trained, 20))
    assert counted(model) == counted(other) != before  # as if it had not been


@pytest.mark.parametrize("network", NETWORKS)
def test_statistics_masks_and_counters_stay(backend, network):
    """Batch normalisation, dropout's counter, penalties, clipping, several losses."""
    model, other = (NETWORKS[network](backend) for _ in range(2))
    for i in (0, 10, 20):
        if i == 10:
            before = counted(model)
            assert not np.isfinite(backend.to_numpy(model.train_step(*spoilt(model))[0])).any()
            assert counted(model) == before
        for trained in (model, other):
            trained.optimizer.lr = 0.01
            trained.train_step(*sound(trained, i))
    assert counted(model) == counted(other) != before


def test_any_layer_without_fusion(backend):
    """The same without fused layers, and with a first layer that is frozen and moves no statistics."""
    layers = [Conv2D(3, 3), BatchNormalization(), ReLU(), BatchNormalization(trainable=False), Flatten(), Dense(10)]
    model = Sequential(layers, input_shape=(12, 12, 1), backend=backend, fuse=False)
    model.compile("adam", "mse")
    t = np.zeros((10, 10), "f4")
    model.train_on_batch(X[:10], t)
    before = state(model)
    assert not np.isfinite(model.train_on_batch(pixels(), t))
    assert state(model) == before
    assert np.isfinite(model.train_on_batch(X[:10], t)) and state(model) != before


def test_a_batch_by_hand_takes_back_the_place_in_a_schedule(backend):
    model = small(backend, optimizers.SGD(schedules.StepDecay(0.1, every=1)))
    rates = []
    for x in (X[:10], pixels(), pixels(), X[:10], X[:10]):
        model.train_on_batch(x, T[:10])
        rates.append(model.optimizer.lr)
    assert model.optimizer.steps == 3 == backend.to_numpy(model.optimizer.state_arrays()["hyper"])[1]
    reference = schedules.StepDecay(0.1, every=1)
    assert rates == [reference(0), reference(0), reference(0), reference(1), reference(2)]


def test_a_step_in_halves(backend):
    model = small(backend, "adam")
    model.compile(model.optimizer, record=False)
    model.train_step(*on_device(model))
    before = counted(model)
    x, t = spoilt(model)
    rescue.halves(model, [x], [t], None)
    assert counted(model) == before
    x, t = on_device(model)
    mixed = np.concatenate([backend.to_numpy(x)[:5], pixels()[:5]])
    rescue.halves(model, [backend.asarray(mixed)], [t], None)  # one half alone
    assert counted(model) == before
    rescue.halves(model, [x], [t], None)
    assert counted(model) != before


# ---------------------------------------------------------------------- code of one's own


class Signs(optimizers.Optimizer):
    """By plain operations, with state."""

    slots = ("m",)

    def step(self, backend, p, g, hyper, m):
        m *= 0.5
        m += g
        p -= hyper[:1].astype(p.dtype) * backend.xp.sign(m)


class Counting(Layer):
    """Counts its steps in a parameter, by plain operations."""

    def param_specs(self, in_shape):
        from xconv.layers import ParamSpec

        return {"count": ParamSpec((1,), xconv.initializers.zeros, trainable=False)}

    def forward(self, x, ctx):
        return x * 1.0, x.sum()

    def backward(self, dy, saved, need):
        return dy, {}

    def update(self, saved):
        count = self.params["count"]
        count += 1.0
        count += saved * 0


@pytest.mark.parametrize("record", [None, True])
@pytest.mark.parametrize("rule", ["sgd", Signs(0.01)])
def test_code_of_ones_own(backend, rule, record):
    """Recorded too, where there is something to record."""
    if record and backend.recorder() is None:
        pytest.skip(f"{backend.name} records nothing")
    layers = [Flatten(), Counting(name="counting"), Dense(4, activation="relu"), Dense(10, activation="softmax")]
    model = Sequential(layers, input_shape=(12, 12, 1), backend=backend, seed=1)
    model.compile(rule if rule == "sgd" else rule.fresh(), "sparse_categorical_crossentropy", record=record)
    with pytest.warns(RecordingWarning) if not record and backend.recorder() else contextlib.nullcontext():
        for _ in range(6):
            model.train_step(*on_device(model))
    assert (replays(model) > 0) == bool(record)
    before = counted(model)
    model.train_step(*spoilt(model))
    assert counted(model) == before
    model.train_step(*on_device(model))
    assert counted(model) != before and backend.to_numpy(model.params["counting.count"]) == [7.0]


# ---------------------------------------------------------------------- fit


def ruined(at=(2, 2), more=None):
    """A callback that makes the loss of one step overflow, counted from 0, by parameters that it puts back at once."""
    kept = {}

    def begin(batch, logs=None):
        model = callback.model
        if (kept.get("epoch"), batch) == at and not kept.get("done"):
            kept["done"], kept["before"] = True, {**state(model), "lr": model.optimizer.lr}
            kept["values"] = [np.array(w) for w in model.get_weights()]
            with model.backend.running():
                model._parameters.flat[...] *= np.inf

    def end(batch, logs=None):
        if kept.get("values"):
            callback.model.set_weights(kept.pop("values"))

    def epoch(number, logs=None):
        kept["epoch"] = number

    callback = LambdaCallback(on_epoch_begin=epoch, on_train_batch_begin=begin, on_train_batch_end=end)
    return callback, kept


@pytest.mark.parametrize("record", [None, False])
@pytest.mark.parametrize("network", NETWORKS)
def test_fit_ends_where_it_was_before(backend, network, record):
    """The steps after it have finite losses again, and are not done either."""
    model = NETWORKS[network](backend)
    model.compile(model.optimizer, record=record)
    callback, kept = ruined()
    with pytest.raises(
        NonFiniteError,
        match=r"^the loss became (nan|inf) in epoch 3, step 3 of batches of 10, and the model is as it was before that "
        r"step; try a smaller learning rate, or smaller numbers.*\. Received: \w+\(lr=",
    ):
        train(model, callbacks=[callback])
    assert {**state(model), "lr": model.optimizer.lr} == kept["before"]
    assert (replays(model) > 0) == (record is None and backend.recorder() is not None)


@pytest.mark.parametrize("network", NETWORKS)
def test_training_goes_on(backend, network):
    """After the error, with another rate or the same, as if nothing had been."""
    model, other = (NETWORKS[network](backend) for _ in range(2))
    train(other, 2)
    callback, _ = ruined(at=(2, 0))
    with pytest.raises(NonFiniteError, match=r"epoch 3, step 1 of"):
        train(model, 4, callbacks=[callback])
    assert state(model) == state(other)
    for trained in (model, other):
        trained.optimizer.lr = 0.001
    assert train(model, 4, first=2) == train(other, 4, first=2)
    assert state(model) == state(other)


def test_a_rate_that_is_too_large_is_cured(backend):
    """A run that diverges by itself: the weights stay finite, and a smaller rate goes on from there."""
    model = small(backend, optimizers.SGD(1e20))
    with pytest.raises(NonFiniteError):
        train(model, 3)
    assert all(np.isfinite(w).all() for w in model.get_weights())
    model.set_weights(small(backend, "sgd").get_weights())
    model.optimizer.lr = 0.01
    assert np.isfinite(train(model, 2)["loss"]).all()


def overflowing(backend, record=None):
    """Weights of zero: the loss is that of the labels whatever the image, by which the gradients are multiplied."""
    model = Sequential([Flatten(), Dense(3, kernel_initializer="zeros")], input_shape=(4, 4, 1), backend=backend)
    model.compile("adam", "mse", record=record)
    return model


@pytest.mark.parametrize("record", [None, False])
def test_gradients_that_overflow_though_the_loss_does_not(backend, record):
    x, t = np.zeros((40, 4, 4, 1), "f4"), np.full((40, 3), 1e10, "f4")
    x[:30, 0, 0], x[30:, 3, 3] = 1, 1e35  # a pixel whose weights are zero still
    model, other = overflowing(backend, record), overflowing(backend, record)
    with pytest.raises(NonFiniteError, match=r"the loss became nan in epoch 1, step 4 .* a gradient overflows"):
        model.fit(x, t, 10, 3, 0, shuffle=False)
    other.fit(x[:30], t[:30], 10, 1, 0, shuffle=False)
    assert state(model) == state(other)
    before = state(model)
    assert np.isnan(model.train_on_batch(x[30:], t[30:])) and state(model) == before
    assert np.isfinite(model.train_on_batch(x[:10], t[:10])) and state(model) != before


def test_gradients_of_a_step_in_halves_that_overflow(backend):
    model = overflowing(backend, False)
    x, t = np.ones((10, 4, 4, 1), "f4"), np.full((10, 3), 1e10, "f4")
    model.train_on_batch(x, t)
    before = counted(model)
    x[8:] = 1e35
    for w in model.layers[-1].params.values():
        w.fill(0)
    zeros = counted(model)
    loss, *_ = rescue.halves(model, [backend.asarray(x)], [backend.asarray(t)], None)
    assert np.isnan(backend.to_numpy(loss)).all() and counted(model) == zeros != before


def test_terminate_on_nan(backend, capsys):
    model = everything(backend)
    callback, kept = ruined(at=(1, 1))
    history = model.fit(images(model), labels(model), 10, 3, 0, callbacks=[TerminateOnNaN(), callback])
    assert history.epoch == [0, 1] and history.steps == 5 + 2 and not np.isfinite(history.history["loss"][1])
    assert "batch 2: the loss became" in capsys.readouterr().err
    assert {**state(model), "lr": model.optimizer.lr} == kept["before"]


def test_callbacks_find_it_settled_at_the_end(backend):
    """One that saves in on_train_end saves the model as it was."""
    model = everything(backend)
    callback, kept = ruined(at=(1, 1))
    save = LambdaCallback(on_train_end=lambda logs=None: kept.update(saved={**state(model), "lr": model.optimizer.lr}))
    train(model, callbacks=[save, TerminateOnNaN(), callback])
    assert kept["saved"] == kept["before"]


def test_an_interrupted_run_is_settled_too(backend, monkeypatch):
    """Ctrl-C while steps are left undone: the host forgets them."""
    monkeypatch.setattr(training, "READ_EVERY", 1e9)  # seconds
    model = everything(backend)
    callback, kept = ruined(at=(1, 1))

    def interrupt(batch, logs=None):
        if kept.get("done") and batch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(model, callbacks=[callback, LambdaCallback(on_train_batch_end=interrupt)])
    assert {**state(model), "lr": model.optimizer.lr} == kept["before"]
    model.train_step(*on_device(model))  # nothing holds it back
    assert state(model)["steps"] != kept["before"]["steps"]


def test_a_model_that_moves_takes_the_guard_along(backend):
    model = small(backend, "sgd")
    model.train_step(*spoilt(model))
    model.train_step(*spoilt(model))
    assert model.optimizer.steps == 2
    model.to("numpy")
    train(model, 1)
    assert model.optimizer.steps == 5


# ---------------------------------------------------------------------- that the host need not know


@pytest.fixture
def cupy():
    if standin.MISSING:
        pytest.skip(standin.MISSING)
    return standin.install()


def test_nothing_waits_for_the_device(cupy):
    for model in (book(cupy), without(everything(cupy))):
        batch, bad = on_device(model), spoilt(model)
        for _ in range(6):
            model.train_step(*batch)
        before = standin.state.transfers
        model.optimizer.lr = model.optimizer.lr  # a number: no schedule that tells the device
        model.train_step(*bad)
        model.train_step(*batch)
        assert standin.state.transfers == before


def test_recordings_are_kept(cupy):
    """The flag changes, and nothing that a recording holds fast does."""
    model = book(cupy)
    for _ in range(6):
        model.train_step(*on_device(model))
    recordings, count = dict(model._recorded._recordings), replays(model)
    before = counted(model)
    for _ in range(3):
        model.train_step(*spoilt(model))
    assert counted(model) == before and model._recorded._recordings == recordings and replays(model) == count + 3


def test_threads_have_flags_of_their_own(cupy):
    """An optimizer of one thread knows nothing of a step that another is in the middle of."""
    import threading

    p, g, hyper = (cupy.asarray(np.array(a)) for a in ([1.0], [1.0], [0.5, 1.0]))
    stop = cupy.asarray(np.array([0], np.uint64))

    def both():
        cupy.sgd(p, g, hyper)  # stopped
        other = threading.Thread(target=cupy.sgd, args=(p, g, hyper))
        other.start()
        other.join()

    cupy.when(stop, both)
    assert cupy.to_numpy(p).tolist() == [0.5]
    with pytest.raises(ZeroDivisionError):
        cupy.when(stop, lambda: 1 / 0)
    cupy.sgd(p, g, hyper)  # nothing is left of it
    assert cupy.to_numpy(p).tolist() == [0.0]


@pytest.mark.parametrize("loss", [0.0, 1e300, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("shape", [(), (1,)])
def test_the_flag(backend, dtype, loss, shape):
    given = backend.asarray(np.full(shape, loss), dtype)
    for going, latched, undone in itertools.product((0, 1), (0, 1), (0, 3)):
        state = backend.asarray(np.array([going, latched, undone], np.uint64))
        with np.errstate(all="ignore"):
            backend.guard(state, given)
        goes = bool(np.isfinite(np.dtype(dtype).type(loss))) and not (latched and not going)
        assert backend.to_numpy(state).tolist() == [goes, latched, undone + (not goes)]


@pytest.mark.parametrize("loss", [0.5, np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("of", ["float32", "float64"])
def test_a_loss_counts_as_nan_where_a_gradient_is_not_finite(backend, dtype, loss, of):
    largest = np.finfo(dtype).max  # whose square overflows
    given = backend.asarray(np.array([loss]), of)
    for bad, at in itertools.product((None, np.nan, np.inf, -np.inf), (0, 70_000)):
        g = np.linspace(-1, 1, 70_001).astype(dtype)
        g[[3, -4]] = largest, -largest
        if bad is not None:
            g[at] = bad
        with np.errstate(all="ignore"):
            got = backend.judged_loss(given, backend.asarray(g))
        expected = np.nan if bad is not None and np.isfinite(loss) else loss
        assert np.array_equal(backend.to_numpy(got), np.array([expected], of), equal_nan=True) and got.dtype == of
    assert np.array_equal(backend.to_numpy(given), np.array([loss], of), equal_nan=True)  # it is not written to


def test_what_is_written_otherwise_is_put_back(backend):
    """Views, numbers of rank 0, several dtypes."""
    whole = backend.asarray(np.arange(6.0))
    arrays = [whole[2:4], backend.asarray(np.array(3.0, "f4")), backend.asarray(np.array([5], np.uint64))]

    def change():
        for a in arrays:
            a += a

    for going, expected in ((0, [0, 1, 2, 3, 4, 5]), (1, [0, 1, 4, 6, 4, 5])):
        backend.when(backend.asarray(np.array([going], np.uint64)), change, arrays)
        assert backend.to_numpy(whole).tolist() == expected
    assert [backend.to_numpy(a).tolist() for a in arrays[1:]] == [6.0, [10]]


def test_wrong_states_are_refused(cupy):
    loss = cupy.asarray(np.array([1.0]))
    for wrong in (np.zeros(3), np.zeros(2, np.uint64)):
        with pytest.raises(xconv.errors.DTypeError, match=r"^guard: state must be uint64\[3\]\. Received: "):
            cupy.guard(cupy.asarray(wrong), loss)
    with pytest.raises(xconv.errors.BackendError, match="expected arrays of backend 'cupy'"):
        cupy.guard(cupy.asarray(np.zeros(3, np.uint64)), np.array([1.0]))
