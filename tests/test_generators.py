"""Batches that the user makes, in fit, evaluate and predict: generators, iterables and Sequences."""

from __future__ import annotations

import time
from itertools import pairwise, repeat

import numpy as np
import pytest

from tests.batches import BATCH, RNG, STEPS, After, Anew, N, Parts, T, W, X, batches, ended, for_ever, network, small
from xconv import Model, Sequential, layers, streams, utils
from xconv.data import Pixels
from xconv.errors import ConfigError

# ---------------------------------------------------------------------- the same as arrays


@pytest.mark.parametrize("way", ["generator", "iterable", "sequence", "list iterator"])
def test_batches_train_as_the_arrays_do(backend, way):
    whole, parts = network(backend), network(backend)
    expected = ended(whole, whole.fit(X, T, BATCH, 2, 0, shuffle=False, sample_weight=W, class_weight={2: 3.0}))
    given = {
        "generator": lambda: for_ever(X, T, W),
        "iterable": lambda: Anew(X, T, W),
        "sequence": lambda: Parts(X, T, W),
        "list iterator": lambda: iter([*batches(X, T, W), *batches(X, T, W)]),
    }[way]()
    steps = None if way in ("iterable", "sequence") else STEPS
    history = parts.fit(given, None, None, 2, 0, shuffle=False, steps_per_epoch=steps, class_weight={2: 3.0})
    assert ended(parts, history) == expected
    assert history.images == 2 * N and history.steps == 2 * STEPS


def test_batches_are_augmented_by_their_places_in_the_epoch(backend):
    def change(backend, x, *, seed, epoch, first, data_format):
        return x + backend.asarray(np.arange(first, first + len(x)) * epoch + seed, x.dtype).reshape(-1, 1, 1, 1)

    got = []
    for given in ((X, T, BATCH), (for_ever(X, T),)):
        model = network(backend)
        steps = STEPS if len(given) == 1 else None
        history = model.fit(*given, epochs=2, verbose=0, shuffle=False, steps_per_epoch=steps, augmentation=change)
        got.append(ended(model, history))
    plain = network(backend)
    assert got[0] == got[1] != ended(plain, plain.fit(X, T, BATCH, 2, 0, shuffle=False))


def test_evaluate_and_predict_take_batches(backend):
    model = network(backend)
    model.fit(X, T, BATCH, verbose=0)
    expected = model.predict(X, BATCH)
    for given in (batches(X), batches(X, T), ((x,) for x in batches(X)), Anew(X), Parts(X, T)):
        assert model.predict(given).tobytes() == expected.tobytes()
    assert model.predict(for_ever(X), steps=2).tobytes() == expected[: 2 * BATCH].tobytes()
    for weights in ({}, {"sample_weight": W}):
        whole = model.evaluate(X, T, BATCH, **weights)
        arrays = X, T, *weights.values()
        for given, steps in ((batches(*arrays), None), (for_ever(*arrays), STEPS), (Parts(*arrays), None)):
            assert model.evaluate(given, steps=steps) == whole
        assert model.evaluate(for_ever(*arrays), steps=2) != whole
    assert model.evaluate(X, T, BATCH, sample_weight=np.full(N, 2.0))[0] == pytest.approx(2 * model.evaluate(X, T)[0])
    assert model.evaluate(batches(X, T), return_dict=True) == dict(
        zip(model.metrics_names, model.evaluate(X, T, BATCH), strict=True)
    )


def test_several_inputs_and_outputs_in_dicts_and_lists(backend):
    a, b = layers.Input((4, 3, 2), name="a"), layers.Input((3,), name="b")
    y = layers.Concatenate()([layers.Flatten()(a), b])
    outs = [layers.Dense(2, name="one")(y), layers.Dense(1, name="two")(y)]
    other, one, two = RNG.normal(size=(N, 3)), RNG.normal(size=(N, 2)), RNG.normal(size=(N, 1))
    got = []
    for make in (
        lambda i: ([X[i], other[i]], [one[i], two[i]]),
        lambda i: ({"b": other[i], "a": X[i]}, {"two": two[i], "one": one[i]}),
        None,
    ):
        model = Model([a, b], outs, backend=backend)
        model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
        model.compile("sgd", "mse")
        if make is None:
            got.append(model.fit([X, other], [one, two], BATCH, verbose=0, shuffle=False).history)
        else:
            rounds = (make(slice(first, first + BATCH)) for first in range(0, N, BATCH))
            got.append(model.fit(rounds, verbose=0).history)
            assert [p.shape for p in model.predict(make(slice(0, 4))[0] for _ in range(3))] == [(12, 2), (12, 1)]
    assert got[0] == got[1] == got[2]


def test_batches_of_different_sizes_count_by_their_examples(backend):
    ends = [0, 2, 9, 10 + 2, 20, N]
    parts = [(X[i:j], T[i:j]) for i, j in pairwise(ends)]
    model, other = small(backend), small(backend)
    history = model.fit(iter(parts), verbose=0).history
    values = [np.array(other.train_on_batch(*part)) * len(part[0]) for part in parts]
    np.testing.assert_allclose([history["loss"][0], history["accuracy"][0]], np.sum(values, axis=0) / N, rtol=1e-6)
    np.testing.assert_allclose(model.evaluate(iter(parts)), other.evaluate(X, T), rtol=1e-5)


def test_validation_from_batches_and_with_weights(backend):
    expected = network(backend).fit(X, T, BATCH, 2, 0, validation_data=(X[:10], T[:10], W[:10])).history
    whole = X[:10], T[:10], W[:10]
    sequence = Parts(*whole)
    sequence.made = [whole]
    for given, more in (
        (sequence, {}),
        (repeat(whole), {"validation_steps": 1}),
        (repeat(whole, 2), {"validation_steps": 1}),
        (list(whole), {"validation_batch_size": 250}),
    ):
        assert network(backend).fit(X, T, BATCH, 2, 0, validation_data=given, **more).history == expected
    unweighted = network(backend).fit(X, T, BATCH, 2, 0, validation_data=(X[:10], T[:10])).history
    assert unweighted["val_loss"] != expected["val_loss"] and unweighted["loss"] == expected["loss"]


@pytest.mark.parametrize(("freq", "after"), [(1, [1, 2, 3, 4, 5]), (2, [2, 4]), (9, []), ([1, 5], [1, 5]), ((3,), [3])])
def test_validation_now_and_then(freq, after):
    seen = Parts(X, T)
    history = small().fit(X, T, BATCH, 5, 0, validation_data=seen, validation_freq=freq).history
    values = history.get("val_loss", [np.nan] * 5)
    assert [epoch for epoch, value in enumerate(values, 1) if np.isfinite(value)] == after
    assert seen.epochs == len(after) and len(history["loss"]) == 5


def test_callbacks_that_watch_what_is_measured_now_and_then(tmp_path):
    from xconv.callbacks import EarlyStopping, ModelCheckpoint, ReduceLROnPlateau

    stop = EarlyStopping("val_loss", patience=2, min_delta=99.0)
    rest = [ReduceLROnPlateau("val_loss"), ModelCheckpoint(tmp_path / "{epoch}.safetensors", save_best_only=True)]
    data = {"validation_data": (X, T), "validation_freq": 3}
    history = small().fit(X, T, BATCH, 20, 0, callbacks=[stop, *rest], **data)
    assert len(history.epoch) == 9 and stop.stopped_epoch == 8  # the third time that it was measured
    assert {int(path.stem) % 3 for path in tmp_path.iterdir()} == {0}
    with pytest.raises(ConfigError, match="EarlyStopping: expected monitor among"):
        small().fit(X, T, verbose=0, callbacks=[EarlyStopping("val_loss")])


# ---------------------------------------------------------------------- how much is asked for, and by whom


def test_a_generator_gives_no_more_than_is_needed():
    pulled = []
    given = for_ever(X, T, pulled=pulled)
    model = small()
    model.fit(given, steps_per_epoch=3, epochs=4, initial_epoch=1, verbose=0)
    assert len(pulled) == 9 and set(pulled) == {"xconv-batches"}
    next(given)  # it is the user's still, and goes on where it was
    assert len(pulled) == 10
    model.evaluate(given, steps=2)
    model.predict(given, steps=3)
    assert len(pulled) == 15


def test_training_that_stops_early_is_two_batches_ahead_at_most():
    pulled, stop = [], After(4, lambda model: setattr(model, "stop_training", True))
    small().fit(for_ever(X, T, pulled=pulled), steps_per_epoch=50, epochs=3, verbose=0, callbacks=[stop])
    assert stop.seen == 5 and 5 <= len(pulled) <= 7


def test_the_order_of_a_sequence_is_philoxs(backend):
    seen = Parts(X, T)
    small(backend).fit(seen, epochs=3, initial_epoch=1, verbose=0)
    expected = [[*streams.permutation(0, epoch, STEPS).tolist(), "end"] for epoch in (2, 3)]
    assert seen.asked == expected[0] + expected[1] and expected[0] != expected[1]
    some = Parts(X, T)
    small(backend).fit(some, epochs=1, steps_per_epoch=2, verbose=0)
    assert some.asked == [*streams.permutation(0, 1, STEPS).tolist()[:2], "end"]
    ordered = Parts(X, T)
    small(backend).fit(ordered, shuffle=False, verbose=0)
    assert ordered.asked == [*range(STEPS), "end"]
    asked = Parts(X, T)
    small(backend).predict(asked, steps=2)
    assert asked.asked == [0, 1]


def test_a_sequence_of_another_library():
    class Foreign:
        __len__, __getitem__ = Parts.__len__, Parts.__getitem__
        on_epoch_end = Parts.on_epoch_end

    seen = Foreign()
    seen.made, seen.asked, seen.epochs = list(batches(X, T)), [], 0
    small().fit(seen, epochs=2, verbose=0)
    assert seen.epochs == 2 and sorted(map(str, seen.asked)) == sorted(2 * [*map(str, range(STEPS)), "end"])


def test_sequences_have_kerass_names():
    assert utils.PyDataset is utils.Sequence and Parts(X, T).num_batches == STEPS

    class With(Parts):
        def __init__(self, **settings):
            utils.Sequence.__init__(self, **settings)

    With()
    with pytest.raises(ConfigError, match=r"With: expected no settings: one thread .* Received: workers"):
        With(workers=4)
    with pytest.raises(TypeError, match="abstract"):
        utils.Sequence()


def test_an_iterable_is_gone_through_anew_in_each_epoch():
    given = Anew(X, T)
    history = small().fit(given, epochs=3, verbose=0)
    assert given.rounds == 3 and history.images == 3 * N
    assert small().fit(given, epochs=2, steps_per_epoch=2, verbose=0).images == 4 * BATCH


def test_an_unbuilt_model_learns_its_shape_from_the_first_batch():
    for given, steps in ((batches(X, T), None), (for_ever(X, T), STEPS), (Parts(X, T), None), (Anew(X, T), None)):
        model = Sequential([layers.Flatten(), layers.Dense(7, activation="softmax")], backend="numpy")
        model.compile("sgd", "sparse_categorical_crossentropy")
        history = model.fit(given, steps_per_epoch=steps, shuffle=False, verbose=0)
        assert history.images == N and model.input_shape == (4, 3, 2)
    model = Sequential([layers.Flatten(), layers.Dense(7)], backend="numpy")
    assert model.predict(batches(X)).shape == (N, 7)


@pytest.mark.parametrize("steps", [None, STEPS])
def test_a_bar_and_lines_without_a_number_of_images(capsys, steps):
    for verbose in (1, 2):
        small().fit(batches(X, T), steps_per_epoch=steps, verbose=verbose)
    told = capsys.readouterr().err
    assert "batches/s" in told and "images/s" in told and "loss" in told


# ---------------------------------------------------------------------- arrays that are filled anew


class Refilled(utils.Sequence):
    """Whole batches of some arrays, each made in the same memory."""

    def __init__(self, *arrays, pixels):
        self.whole, self.room = arrays, [np.empty_like(a[:BATCH]) for a in arrays]
        self.pixels = pixels

    def __len__(self):
        return N // BATCH

    def __getitem__(self, i):
        for room, whole in zip(self.room, self.whole, strict=True):
            room[...] = whole[BATCH * i : BATCH * (i + 1)]
        x, *rest = self.room
        return (Pixels(x) if self.pixels else x, *rest)


class Separate(Refilled):
    """The same, each in memory of its own."""

    def __getitem__(self, i):
        self.room = [np.empty_like(room) for room in self.room]
        return super().__getitem__(i)


def late(model, monkeypatch):
    """Let the thread get as far ahead as it goes before each step."""

    def slowly(inner):
        return lambda *args: time.sleep(0.005) or inner(*args)

    for name in ("train_step", "_here"):
        monkeypatch.setattr(model, name, slowly(getattr(model, name)))
    return model


@pytest.mark.parametrize("kind", ["float32", "pixels"])
@pytest.mark.parametrize("way", ["generator", "sequence"])
def test_a_batch_may_come_in_the_memory_of_the_one_before(backend, monkeypatch, way, kind):
    """Inputs, labels and weights: each waits for its step while the next ones are made."""
    rng = np.random.default_rng(1)
    x = X.astype(kind) if kind.startswith("float") else rng.integers(0, 256 if kind == "pixels" else 2, X.shape, "u1")
    arrays = x, rng.normal(size=(N, 2)).astype("f4"), rng.random(N)
    got = []
    for make in (Separate, Refilled):
        given = make(*arrays, pixels=kind == "pixels")
        steps = len(given)

        def some(given=given, steps=steps):
            return given if way == "sequence" else (given[i % steps] for i in range(3 * steps))

        model = Sequential([layers.Flatten(), layers.Dense(2)], backend=backend, seed=3, input_shape=(4, 3, 2))
        model.compile("sgd", "mse")
        late(model, monkeypatch)
        history = model.fit(some(), epochs=2, steps_per_epoch=steps, verbose=0)
        got.append((ended(model, history), model.evaluate(some(), steps=steps)))
        got[-1] += (model.predict(some(), steps=steps).tobytes(),)
    assert got[0] == got[1]
