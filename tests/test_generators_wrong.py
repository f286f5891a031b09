"""Batches that are wrong, that end early or fail: typed errors at the right place, and no thread is left behind."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from itertools import count, islice

import numpy as np
import pytest

from tests.batches import BATCH, After, Anew, Parts, T, W, X, batches, for_ever, small
from xconv import Sequential, layers
from xconv.errors import ConfigError, DataError, DTypeError, NonFiniteError, RawPixelsWarning, ShapeError
from xconv.models import ahead
from xconv.models.ahead import Ahead


def running():
    return [thread for thread in threading.enumerate() if thread.name == "xconv-batches"]


@pytest.fixture(autouse=True)
def no_thread_left():
    yield
    assert not running()


# ---------------------------------------------------------------------- what is wrong


def fit(given, **more):
    return small().fit(given, verbose=0, **more)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (
            lambda: fit(for_ever(X, T), batch_size=5),
            "fit: batch_size is for arrays; .* leave it out. Received: batch_size=5",
        ),
        (
            lambda: fit(for_ever(X, T), validation_split=0.2),
            "fit: validation_split is for arrays; .*validation_data",
        ),
        (lambda: fit(for_ever(X, T), y=T), "fit: y comes with each batch .* leave it out. Received: array"),
        (lambda: fit(for_ever(X, T), sample_weight=W), "fit: sample_weight comes with each batch .* Received: array"),
        (
            lambda: fit(for_ever(X, T), epochs=3),
            r"fit: x: a generator .* 3 times: expected steps_per_epoch, .* Received: ",
        ),
        (lambda: fit(for_ever(X, T), steps_per_epoch=0), "fit: steps_per_epoch must be an integer >= 1. Received: 0"),
        (lambda: fit(X, y=T, steps_per_epoch=3), r"fit: steps_per_epoch is for generators; .* x\[:1000\]. Received: "),
        (lambda: fit(X), "fit: expected y, the labels. Received: None"),
        (lambda: fit(Parts(X, T), steps_per_epoch=6), "fit: x: expected at least 6 batches. Received: Parts of 5"),
        (lambda: fit(Parts(X[:0], T[:0], size=99)), None),
        (lambda: fit(X, y=T, validation_freq=0), "fit: validation_freq must be an integer >= 1. Received: 0"),
        (lambda: fit(X, y=T, validation_freq="1"), "fit: validation_freq must be an integer >= 1. Received: '1'"),
        (
            lambda: fit(X, y=T, epochs=2, validation_data=for_ever(X, T)),
            "fit: validation x: a generator .* 2 times: expected validation_steps",
        ),
        (
            lambda: fit(X, y=T, validation_data=for_ever(X, T), validation_batch_size=3, validation_steps=1),
            "fit: validation_batch_size is for arrays",
        ),
        (lambda: fit(X, y=T, validation_data=(X, T), validation_steps=3), "fit: validation_steps is for generators"),
        (lambda: small().evaluate(for_ever(X, T), batch_size=3), "evaluate: batch_size is for arrays"),
        (lambda: small().evaluate(X, T, steps=3), "evaluate: steps is for generators"),
        (lambda: small().evaluate(for_ever(X, T), T), "evaluate: y comes with each batch"),
        (lambda: small().predict(for_ever(X), 3), "predict: batch_size is for arrays"),
        (lambda: small().predict(X, steps=3), "predict: steps is for generators"),
    ],
)
def test_arguments_that_do_not_go_together(act, text):
    if text is None:
        with pytest.raises(DataError):
            act()
        return
    with pytest.raises(ConfigError, match=f"^{text}"):
        act()


def second(batch):
    """A good batch, and then this one."""
    yield X[:BATCH], T[:BATCH]
    yield batch


@pytest.mark.parametrize(
    ("batch", "kind", "text"),
    [
        (
            X[:5],
            DataError,
            r"fit: step 2 of epoch 1: expected \(x, y\) or \(x, y, sample_weight\); y is missing\. Received: ",
        ),
        ((X[:5],), DataError, "fit: step 2 of epoch 1: expected .*; y is missing. Received: tuple of"),
        (
            (X[:5], T[:5], W[:5], 1),
            DataError,
            r"fit: step 2 of epoch 1: expected \(x, y\) or \(x, y, sample_weight\)\. Rec",
        ),
        (None, DataError, "fit: step 2 of epoch 1: .* Received: None"),
        ((X[:5, 1:], T[:5]), ShapeError, r"fit: x of step 2 of epoch 1: expected shape \(N, 4, 3, 2\)"),
        ((X[:0], T[:0]), DataError, "fit: x of step 2 of epoch 1: expected at least one example"),
        ((X[:5], T[:4]), ShapeError, "fit: y of step 2 of epoch 1: expected labels for 5 examples"),
        ((X[:5], T[:5] + 7), DataError, "fit: y of step 2 of epoch 1: expected labels from 0 to 6. .* at index 0"),
        ((X[:5], T[:5] / 2), DTypeError, "fit: y of step 2 of epoch 1: expected integer labels"),
        ((X[:5], None), DTypeError, "fit: y of step 2 of epoch 1: expected real numbers"),
        ((np.full_like(X[:5], np.inf), T[:5]), DataError, "fit: x of step 2 of epoch 1: expected finite numbers"),
        ((X[:5], T[:5], W[:4]), ShapeError, "fit: step 2 of epoch 1: sample_weight: expected a weight for each of 5"),
    ],
)
def test_a_batch_that_is_wrong_is_named(batch, kind, text):
    model = small()
    with np.errstate(all="ignore"), pytest.raises(kind, match=f"^{text}"):
        model.fit(second(batch), verbose=0)
    with (
        np.errstate(all="ignore"),
        pytest.raises(kind, match="^" + text.replace("fit", "evaluate").replace(" of epoch 1", "")),
    ):
        model.evaluate(second(batch))


@pytest.mark.parametrize(
    ("given", "more", "text"),
    [
        (
            lambda: iter(list(batches(X, T)) * 2),
            {"steps_per_epoch": 4, "epochs": 3},
            r"fit: x: the batches ended before step 3 of epoch 3: expected 4 in each of 3 epochs, 12 in all; let it go "
            r"on for ever \(while True\), or give a smaller steps_per_epoch\. Received: 10 from <list_iterator",
        ),
        (
            lambda: Anew(X, T),
            {"steps_per_epoch": 6},
            r"fit: x: the batches ended before step 6 of epoch 1: expected 6; give a smaller steps_per_epoch\. Rec",
        ),
        (lambda: iter(()), {}, "fit: x: expected at least one batch. Received: <tuple_iterator.*, and none"),
    ],
)
def test_batches_that_end_early(given, more, text):
    with pytest.raises(DataError, match=f"^{text}"):
        fit(given(), **more)


def test_a_validation_that_ends_early():
    text = "fit: validation x: the batches ended before step 3: expected 4 in each of 2 epochs, 8 in all; .*: 6 from "
    with pytest.raises(DataError, match=f"^{text}"):
        fit(X, y=T, epochs=2, validation_data=islice(for_ever(X, T), 6), validation_steps=4)
    text = "evaluate: x: the batches ended before step 3: expected 4; .* Received: 2 from "
    with pytest.raises(DataError, match=f"^{text}"):
        small().evaluate(islice(for_ever(X, T), 2), steps=4)


def test_one_example_is_too_few_for_batch_normalisation():
    model = Sequential(
        [layers.Flatten(), layers.BatchNormalization(), layers.Dense(7)], backend="numpy", input_shape=(4, 3, 2)
    )
    model.compile("sgd", "softmax_cross_entropy")
    parts = [(X[:4], T[:4]), (X[:1], T[:1])]
    with pytest.raises(DataError, match=r"one value for each channel .* a batch of one example, at step 2 of epoch 1"):
        model.fit(iter(parts), verbose=0)


def test_raw_pixels_are_told_once_and_in_the_users_line():
    raw = (np.abs(X) * 90).astype("u1")
    with pytest.warns(RawPixelsWarning, match="^fit: x holds whole numbers above 1") as told:
        small().fit(batches(raw, T), verbose=0)
    assert len(told) == 1 and told[0].filename == __file__


# ---------------------------------------------------------------------- how it ends


def broken_after(good, error):
    yield from islice(for_ever(X, T), good)
    raise error


@pytest.mark.parametrize("error", [KeyError("lost"), OSError("disk"), KeyboardInterrupt(), SystemExit(3)])
@pytest.mark.parametrize("act", ["fit", "evaluate", "predict", "validation"])
def test_an_error_in_a_generator_comes_where_its_batch_would(act, error):
    model, seen = small(), After(0, lambda model: None)
    given = broken_after(3, error)
    with pytest.raises(type(error)) as told:
        if act == "fit":
            model.fit(given, steps_per_epoch=9, verbose=0, callbacks=[seen])
        elif act == "validation":
            model.fit(X, T, verbose=0, validation_data=given)
        else:
            getattr(model, act)(given, steps=9)
    assert told.value is error
    assert "broken_after" in [entry.name for entry in told.traceback]  # where it arose
    assert seen.seen == (3 if act == "fit" else 0)


def test_ctrl_c_while_a_batch_is_waited_for(monkeypatch):
    monkeypatch.setattr(ahead, "PATIENCE", 0.01)
    go_on = threading.Event()

    def slow():
        yield X[:5], T[:5]
        os.kill(os.getpid(), signal.SIGINT)
        go_on.wait(10)

    with pytest.warns(RuntimeWarning, match="its thread ends once it is"), pytest.raises(KeyboardInterrupt):
        fit(slow(), steps_per_epoch=9)
    (thread,) = running()
    go_on.set()
    thread.join(10)


class Interrupt(Exception):
    pass


@pytest.mark.parametrize("error", [KeyboardInterrupt(), Interrupt(), MemoryError()])
def test_an_error_in_training_ends_the_thread(error):
    def fail(model):
        raise error

    with pytest.raises(type(error)):
        fit(for_ever(X, T), steps_per_epoch=99, callbacks=[After(2, fail)])


def test_a_loss_that_is_not_finite_ends_the_thread():
    model = small()
    model.compile("sgd", "mse")
    huge = np.full((BATCH, 7), 3e38)
    with pytest.raises(NonFiniteError, match=r"the loss became inf in epoch 1, step 1, and the model is as it was"):
        model.fit(((X[:BATCH], huge) for _ in count()), steps_per_epoch=2, verbose=0)


def test_an_error_in_evaluation_ends_the_thread(monkeypatch):
    model = small()
    model.predict(X)

    def fail(a, *more):
        if threading.current_thread() is threading.main_thread():
            raise Interrupt
        return a

    monkeypatch.setattr(model, "_judged", fail)
    monkeypatch.setattr(model.backend, "to_numpy", fail)
    for act in (model.evaluate, model.predict):
        with pytest.raises(Interrupt) as told:
            act(for_ever(X, T), steps=99)
        assert not running(), told  # which holds every frame


# ---------------------------------------------------------------------- the thread


def test_two_items_ahead_at_most():
    made, two_more = [], threading.Event()

    def items():
        for i in range(10):
            made.append(i)
            if len(made) == 5:
                two_more.set()
            yield i

    with Ahead(items()) as ready:
        assert [next(ready) for _ in range(3)] == [0, 1, 2]
        assert two_more.wait(10)
        two_more.clear()
        assert not two_more.wait(0.05) and made == [0, 1, 2, 3, 4]
        assert list(ready) == list(range(3, 10)) and list(ready) == []
    assert list(ready) == []


def test_it_runs_in_the_callers_context_and_lets_go_of_what_it_gave():
    import gc
    import weakref

    class Item:
        pass

    def items():
        with pytest.raises(FloatingPointError):
            np.float64(1e300) * np.float64(1e300)
        for _ in range(9):
            yield Item()

    with np.errstate(over="raise"), Ahead(items()) as ready:
        item = weakref.ref(next(ready))
        next(ready)
        gc.collect()
        assert item() is None
        assert running()
    assert not running()


def test_what_is_done_with_goes_while_the_next_is_being_made():
    import weakref

    class Item:
        pass

    making, go_on = threading.Event(), threading.Event()

    def items():
        yield Item()
        making.set()
        go_on.wait(10)

    with Ahead(items()) as ready:
        item = weakref.ref(next(ready))
        assert making.wait(10) and item() is None
        go_on.set()


def test_the_generator_is_closed_where_it_stands():
    closed = []

    def items():
        try:
            yield from count()
        finally:
            closed.append(threading.current_thread().name)

    with Ahead(items()) as ready:
        next(ready)
    assert closed == ["xconv-batches"]
    with pytest.raises(ZeroDivisionError), Ahead(1 // i for i in (1, 0)) as ready:
        assert list(ready)


def test_a_generator_that_hangs_does_not_hold_the_caller(monkeypatch):
    monkeypatch.setattr(ahead, "PATIENCE", 0.01)
    go_on = threading.Event()

    def items():
        yield 1
        go_on.wait(10)

    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        with Ahead(items()) as ready:
            next(ready)
    assert "is not done after 0.01 s; its thread ends once it is" in str(told[0].message)
    assert told[0].filename == __file__
    let_go(go_on)


def let_go(go_on):
    (thread,) = running()
    go_on.set()
    thread.join(10)
    assert not thread.is_alive()


def test_an_epoch_does_not_end_for_a_sequence_that_still_makes_a_batch(monkeypatch):
    """Its `on_epoch_end` may change what `__getitem__` reads."""
    monkeypatch.setattr(ahead, "PATIENCE", 0.01)
    go_on, hangs = threading.Event(), threading.Event()

    class Slow(Parts):
        def __getitem__(self, i):
            if len(self.asked) == 2:
                hangs.set()
                go_on.wait(10)
            return super().__getitem__(i)

    def stop(model):
        assert hangs.wait(10)
        model.stop_training = True

    given = Slow(X, T)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        small().fit(given, epochs=3, verbose=0, callbacks=[After(0, stop)])
    assert given.epochs == 0
    assert [(w.category, w.filename) for w in told] == [(RuntimeWarning, __file__)]
    let_go(go_on)
    assert given.epochs == 0
    given.asked.append("another")  # it no longer hangs
    small().fit(given, verbose=0, callbacks=[After(0, lambda model: setattr(model, "stop_training", True))])
    assert given.epochs == 1
