"""Recorded training steps: to the bit what steps one by one give."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import xconv
from tests import standin
from tests.recorded import NETWORKS, T, X, book, everything, images, on_device, replays, state, train, without
from tests.tolerances import TOLERANCES
from xconv import Model, optimizers, schedules
from xconv.callbacks import LambdaCallback
from xconv.errors import NonFiniteError, XconvError
from xconv.models.step import MOST


@pytest.fixture
def cupy(cupy, request, monkeypatch):
    if request.node.callspec.params["cupy"] == "standin":
        cupy.synchronize()
        monkeypatch.setattr(standin.state, "ordered", True)  # work that does not wait for another stream's is refused
    return cupy


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

    with pytest.raises(NonFiniteError, match=r"in epoch 3, step 1 of batches of 10"):
        train(model, callbacks=[LambdaCallback(on_epoch_begin=ruin)])
    assert model.recording == "recorded"
