"""Batches of training data: the same bits whether taken on the host, out of the device's memory, or sent in turn."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from tests import standin
from tests.standin import state
from xconv import data, get_backend, layers, optimizers, streams
from xconv.book import SimpleConvNet
from xconv.callbacks import Callback
from xconv.data import Augmentation, Pixels
from xconv.errors import ConfigError, ShapeError
from xconv.models import Model, feed
from xconv.models.batches import Examples
from xconv.models.entry import Augmented
from xconv.models.feed import Batch, HostFeed, ResidentFeed, StagedFeed

N, BATCH = 13, 5
RNG = np.random.default_rng(0)
SEED = 3
IMAGES = {
    "uint8": RNG.integers(0, 256, (N, 2, 3, 3)).astype("u1"),
    "bool": RNG.integers(0, 2, (N, 2, 3, 3)).astype(bool),
    "int8": RNG.integers(-128, 128, (N, 4)).astype("i1"),
    "int64": RNG.integers(-(2**40), 2**40, (N, 4)),
    "uint64": RNG.integers(0, 2**63, (N, 4)).astype("u8") * 2 + 1,
    "float16": RNG.normal(size=(N, 3)).astype("f2"),
    "float32": RNG.normal(size=(N, 2, 3, 3)).astype("f4"),
    "float64": RNG.normal(size=(N, 2, 3, 3)),
    "big endian": RNG.normal(size=(N, 3)).astype(">f4"),
    "every other": RNG.normal(size=(2 * N, 3, 2)).astype("f4")[::2].transpose(0, 2, 1),
}
ON_DEVICE = {"resident": ResidentFeed, "staged": StagedFeed}
WAYS = {"host": HostFeed, **ON_DEVICE}


def a_model(backend, dtype="float32"):
    return SimpleNamespace(backend=backend, dtype=dtype, seed=SEED)


def made(kind, backend, xs, ts, weights=None, *, dtype="float32", size=BATCH, shuffle=True, augmented=None):
    return kind(a_model(backend, dtype), Examples(xs, ts, weights), size, shuffle, augmented)


def batches(fed, backend, epoch=1):
    """Each batch of an epoch, as NumPy arrays; of the last few examples the shorter one."""
    with fed.epoch(epoch) as parts:
        for part in parts:
            xs, ts, weights = fed.batch(part)
            yield [backend.to_numpy(a) for a in (*xs, *ts, *(() if weights is None else (weights,)))]


def expected(arrays, dtypes, epoch=1):
    """By NumPy's own index and cast."""
    order = streams.permutation(SEED, epoch, N) if epoch else np.arange(N)
    for first in range(0, N, BATCH):
        yield [np.ascontiguousarray(a[order[first : first + BATCH]].astype(d)) for a, d in zip(arrays, dtypes)]  # noqa: B905


def same(got, wanted):
    got, wanted = list(got), list(wanted)
    assert len(got) == len(wanted) == 3
    for batch, other in zip(got, wanted, strict=True):
        for a, b in zip(batch, other, strict=True):
            assert (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("way", ON_DEVICE)
def test_batches_have_the_bits_of_numpys_cast(cupy, way, kind, dtype):
    x, labels, weights = IMAGES[kind], np.arange(N) % 7, RNG.random(N)
    given = [x, x[:, :1]], [labels, x.astype("f4")], weights
    arrays, dtypes = [*given[0], *given[1], weights], [dtype, dtype, "int64", "float32", dtype]
    fed = made(ON_DEVICE[way], cupy, *given, dtype=dtype)
    for epoch in (1, 2):
        same(batches(fed, cupy, epoch), expected(arrays, dtypes, epoch))
    same(batches(made(ON_DEVICE[way], cupy, *given, dtype=dtype, shuffle=False), cupy), expected(arrays, dtypes, 0))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_host_feed_is_an_index_and_a_cast(name):
    backend, x, t = get_backend(name), IMAGES["float64"], np.arange(N)
    fed = feed.feed(a_model(backend), Examples([x], [t]), BATCH)
    assert type(fed) is HostFeed and not fed.prepared
    same(batches(fed, backend), expected([x, t], ["float32", "int64"]))


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_batches_go_into_memory_that_is_given(cupy, way, scaled):
    x, t, w = IMAGES["uint8"], np.arange(N), RNG.random(N)
    fed = made(WAYS[way], cupy, [Pixels(x) if scaled else x], [t], w)
    into = Batch([cupy.empty((BATCH, *x.shape[1:]), "f4")], [cupy.empty((BATCH,), "i8")], cupy.empty((BATCH,), "f4"))
    order, seen = streams.permutation(SEED, 1, N), x / np.float32(255) if scaled else x.astype("f4")
    with fed.epoch(1) as parts:
        for first, part in zip((0, BATCH), parts, strict=False):
            got = fed.batch(part, into)
            assert got.xs[0] is into.xs[0] and got.ts[0] is into.ts[0] and got.weights is into.weights
            chosen = order[first : first + BATCH]
            for a, b in zip((*got.xs, *got.ts, got.weights), (seen, t, w.astype("f4")), strict=True):
                assert cupy.to_numpy(a).tobytes() == b[chosen].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", WAYS)
def test_pixels_are_the_bits_of_a_division(cupy, way, dtype):
    every = np.arange(N * 20, dtype=np.uint8).reshape(N, 4, 5)  # each byte
    fed = made(WAYS[way], cupy, [Pixels(every), every], [np.arange(N)], dtype=dtype)
    divided = np.divide(every, 255, dtype=dtype)
    same(batches(fed, cupy), expected([divided, every, np.arange(N)], [dtype, dtype, "int64"]))


def test_memory_of_another_shape_or_dtype_is_left_alone(cupy):
    """A file's labels may be rows in one batch, and classes in the next."""
    x, t = IMAGES["float32"], np.arange(N)
    fed = made(HostFeed, cupy, [x], [t], RNG.random(N))
    into = Batch([cupy.empty((BATCH, *x.shape[1:]), "f4")], [cupy.empty((BATCH, 7), "f4")], cupy.empty((BATCH,), "f8"))
    with fed.epoch(1) as parts:
        got = fed.batch(next(parts), into)
    assert got.xs[0] is into.xs[0] and got.ts[0] is not into.ts[0] and got.weights is not into.weights
    assert cupy.to_numpy(got.ts[0]).tolist() == streams.permutation(SEED, 1, N)[:BATCH].tolist()


def test_bytes_stay_bytes_and_an_epoch_needs_nothing_from_the_host(cupy):
    x, t = IMAGES["uint8"], np.arange(N)
    fed = made(ResidentFeed, cupy, [x, Pixels(x)], [t])
    assert [a.dtype for a in (*fed._xs, *fed._ts)] == ["uint8", "uint8", "int64"]
    for epoch in (1, 2):
        with fed.epoch(epoch) as parts:
            for i, part in enumerate(parts):
                before = state.transfers
                fed.batch(part)
                if i or epoch > 1:  # the very first brings what Pixels are divided by
                    assert standin.real() is cupy or state.transfers == before


def test_the_kind_of_feed_follows_from_sizes_by_a_fixed_rule(cupy, monkeypatch):
    x, t = IMAGES["float64"], np.arange(N)
    model, given = a_model(cupy), Examples([x], [t])
    size = x.size * 4 + N * 8  # as float32, and labels of 8 bytes
    assert type(feed.feed(model, given, BATCH)) is ResidentFeed
    for free, budget, kind in [
        (size / feed.SHARE, size, ResidentFeed),
        (size / feed.SHARE - 8, size, StagedFeed),
        (size / feed.SHARE, size - 1, StagedFeed),
    ]:
        monkeypatch.setattr(cupy, "free_bytes", lambda free=free: free)
        monkeypatch.setattr(feed, "BUDGET", budget)
        assert type(feed.feed(model, given, BATCH)) is kind
    short = t.astype("i4")  # a loss of one's own may ask for that, and the kernel has it not
    assert type(feed.feed(model, Examples([x], [short]), BATCH)) is HostFeed


def test_large_sets_are_put_there_in_pieces(cupy, monkeypatch):
    monkeypatch.setattr(feed, "PIECE", 300)
    x, t = IMAGES["float64"], np.arange(N)
    fed = made(ResidentFeed, cupy, [x], [t])
    same(batches(fed, cupy), expected([x, t], ["float32", "int64"]))


# ---------------------------------------------------------------------- the order of copies, kernels and the host


class Order:
    """What is ordered after what: copies on the stages' streams, kernels on the main one, and the host's writing.

    Kernels are counted, and copies on each stream; an event remembers both, and who waits for it knows of them.
    """

    def __init__(self, monkeypatch, backend, without):
        from tests.standin import array, device
        from xconv.backend.cupy_stage import Stage

        self.broken, self.kernels, self.main = [], 0, state.stream
        self.copies, self.read_at, self.events = {}, {}, {}
        self.main_knows, self.host_knows, self.copier_knows = {}, {}, {}
        wait, record, synchronize = device.Stream.wait_event, device.Event.record, device.Event.synchronize
        host, gather = Stage.host, backend.gather

        def waited(stream, event):
            about, copies, kernels = self.events.get(id(event), (None, 0, 0))
            if stream is self.main and without != "send":
                self.main_knows[about] = copies
            elif stream is not self.main:
                self.copier_knows[id(stream)] = kernels
            wait(stream, event)

        def recorded(event, stream=None):
            record(event, stream)
            about = id(stream or state.stream)
            self.events[id(event)] = about, self.copies.get(about, 0), self.kernels

        def met(event):
            about, copies, _ = self.events.get(id(event), (None, 0, 0))
            self.host_knows[about] = copies
            synchronize(event)

        def copied(a, values, stream=None):
            about = id(stream)
            if self.copier_knows.get(about, -1) < self.read_at.get(a.data.ptr, 0):
                self.broken.append("copied over what a kernel may still read")
            self.copies[about] = self.copies.get(about, 0) + 1
            a._host[...] = values
            self.stream_of = {**getattr(self, "stream_of", {}), a.data.ptr: about}

        def gathered(data, *rest):
            about = self.stream_of[data.data.ptr]
            if self.main_knows.get(about, 0) < self.copies[about]:
                self.broken.append("a kernel reads what may not be there yet")
            self.kernels += 1
            self.read_at[data.data.ptr] = self.kernels
            return gather(data, *rest)

        def written(stage):
            given = stage._pinned if without == "host" else host(stage)
            about = id(stage._stream)
            if self.host_knows.get(about, 0) < self.copies.get(about, 0):
                self.broken.append("the host writes what may still be copied")
            return given

        monkeypatch.setattr(device.Stream, "wait_event", waited)
        monkeypatch.setattr(device.Event, "record", recorded)
        monkeypatch.setattr(device.Event, "synchronize", met)
        monkeypatch.setattr(array.ndarray, "set", copied)
        monkeypatch.setattr(backend, "gather", gathered)
        monkeypatch.setattr(Stage, "host", written)
        if without == "read":
            monkeypatch.setattr(Stage, "read", lambda stage: None)


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
@pytest.mark.parametrize(
    ("without", "told"),
    [
        (None, None),
        ("send", "a kernel reads what may not be there yet"),
        ("read", "copied over what a kernel may still read"),
        ("host", "the host writes what may still be copied"),
    ],
)
def test_copies_kernels_and_the_host_wait_for_one_another(monkeypatch, without, told):
    backend = standin.install()
    order = Order(monkeypatch, backend, without)
    x, t = IMAGES["float32"], np.arange(N)
    fed = made(StagedFeed, backend, [x], [t], size=2)
    with fed.epoch(1) as parts:
        for part in parts:
            fed.batch(part)
    assert set(order.broken) == ({told} if told else set())
    assert len(order.copies) == 2 and not any(stream == id(order.main) for stream in order.copies)


# ---------------------------------------------------------------------- augmentation


class Stub:
    """Adds to each image what depends on where it comes in the epoch; bytes wrap around."""

    def __init__(self):
        self.calls = []

    def __call__(self, backend, x, *, seed, epoch, first, data_format):
        self.calls.append((x.dtype.name, seed, epoch, first, len(x), data_format, threading.current_thread().name))
        places = backend.asarray(self.added(np.arange(first, first + len(x)), epoch, x.ndim), x.dtype)
        return x + places

    @staticmethod
    def added(places, epoch, ndim):
        return (places * 10 + epoch).reshape(-1, *[1] * (ndim - 1))


def augmented(backend, augmentation, dtype="float32", shapes=((2, 3, 3), (4,))):
    model = a_model(backend, dtype)
    model.name, model.data_format, model.graph = "net", "channels_first", SimpleNamespace(inputs=range(len(shapes)))
    model._given_shape = lambda i: shapes[i]
    return Augmented(model, augmentation)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["uint8", "Pixels", "bool", "int64", "float32", "float64"])
@pytest.mark.parametrize("way", [*WAYS, "numpy", "numba"])
def test_images_are_augmented_as_bytes_or_in_the_models_dtype(cupy, way, kind, dtype):
    backend = cupy if way in WAYS else get_backend(way)
    x = {**IMAGES, "Pixels": IMAGES["uint8"], "int64": IMAGES["uint8"].astype("i8")}[kind]
    other, stub = RNG.random((N, 4)), Stub()
    given = Pixels(x) if kind == "Pixels" else x
    change = augmented(backend, stub, dtype)
    fed = made(WAYS.get(way, HostFeed), backend, [given, other], [np.arange(N)], dtype=dtype, augmented=change)
    seen = x.astype(kept := "uint8" if kind in ("uint8", "Pixels", "bool") else dtype)
    order = streams.permutation(SEED, 2, N)
    with np.errstate(over="ignore"):
        changed = np.empty_like(seen)
        changed[order] = seen[order] + Stub.added(np.arange(N), 2, 4).astype(kept)
    if kind == "Pixels":
        changed = np.divide(changed, 255, dtype=dtype)
    got = list(batches(fed, backend, 2))
    same(got, expected([changed, other, np.arange(N)], [dtype, dtype, "int64"], 2))
    aside = fed.prepared
    assert aside == (way in ("numpy", "numba"))
    name = "xconv-batches" if aside else threading.current_thread().name
    sizes = [(first, min(BATCH, N - first)) for first in range(0, N, BATCH)]
    assert stub.calls == [(kept, SEED, 2, first, n, "channels_first", name) for first, n in sizes]
    with pytest.raises(AssertionError):  # and it would be seen
        same(got, expected([seen, other, np.arange(N)], [dtype, dtype, "int64"], 2))


class Late(data.Source):
    def __init__(self, x):
        self.shape, self.dtype, self._x = x.shape, x.dtype, x

    def read(self, indices):
        return self._x[indices]


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_ours_takes_every_processor_and_so_no_thread(name):
    backend, x = get_backend(name), IMAGES["uint8"]
    one = Augmentation(flip=True, crop=1)
    for given, aside in ((x, False), (Late(x), True)):  # what is read late is read, and changed, beside the step
        change = augmented(backend, one)
        fed = made(HostFeed, backend, [given, RNG.random((N, 4))], [np.arange(N)], augmented=change)
        assert fed.prepared == aside
        order = streams.permutation(SEED, 2, N)
        expected = one(
            backend, np.ascontiguousarray(x[order]), seed=SEED, epoch=2, first=0, data_format="channels_first"
        )
        got = np.concatenate([batch[0] for batch in batches(fed, backend, 2)])
        assert got.tobytes() == expected.astype("f4").tobytes()


@pytest.mark.parametrize("way", WAYS)
def test_an_augmentation_that_gives_back_what_it_got_changes_nothing(cupy, way):
    x, t = IMAGES["float32"], np.arange(N)
    fed = made(WAYS[way], cupy, [x, x[:, 0, 0]], [t], augmented=augmented(cupy, lambda backend, x, **about: x))
    same(list(batches(fed, cupy)), expected([x, x[:, 0, 0], t], ["float32", "float32", "int64"]))


@pytest.mark.parametrize("wrong", [lambda x: x[:1], lambda x: x.astype("f8"), lambda x: x.tolist(), lambda x: None])
def test_an_augmentation_that_gives_something_else(wrong):
    backend = get_backend("numpy")
    change = augmented(backend, lambda backend, x, **about: wrong(x))
    fed = made(HostFeed, backend, [IMAGES["float32"], IMAGES["int8"]], [np.arange(N)], augmented=change)
    told = r"fit: augmentation: expected an array of shape \(5, 2, 3, 3\), dtype float32, as it was given. Received: "
    with pytest.raises(ShapeError, match=told):
        list(batches(fed, backend))


def test_what_cannot_be_augmented():
    with pytest.raises(ConfigError, match=r"fit: augmentation must be an xconv.data.Augmentation, .*Received: 'flip'"):
        augmented(None, "flip")
    with pytest.raises(ConfigError, match=r"fit: augmentation must be .*Received: <class .*Stub'>"):
        augmented(None, Stub)
    with pytest.raises(
        ConfigError, match=r"needs images, .* Received: net, whose inputs are of shapes \(4,\), \(5, 6\)"
    ):
        augmented(None, Stub(), shapes=((4,), (5, 6)))


def test_fit_augments_training_images_alone_and_the_same_on_every_backend(backend):
    x, t = RNG.integers(0, 256, (N, 3, 3, 2), dtype=np.uint8), np.arange(N) % 7
    ours, plain = network(backend), network("numpy")
    mine, other = Stub(), Stub()
    told = trained(ours, Pixels(x), t, augmentation=mine, validation_data=(Pixels(x), t))[1]
    reference = trained(plain, Pixels(x), t, augmentation=other, validation_data=(np.divide(x, 255, dtype="f4"), t))[1]
    assert [call[:6] for call in mine.calls] == [call[:6] for call in other.calls]
    assert [call[2:5] for call in mine.calls] == [(e, f, min(BATCH, N - f)) for e in (1, 2, 3) for f in (0, 5, 10)]
    np.testing.assert_allclose(told["loss"], reference["loss"], rtol=1e-3)
    np.testing.assert_allclose(told["val_loss"], reference["val_loss"], rtol=1e-2)


def test_the_real_one(backend):
    sample = data.load()
    x, t, *_ = sample.pixels("channels_first")
    histories = []
    for given in (x[:40], np.asarray(x[:40])):
        model = SimpleConvNet(backend=backend, conv_param={"filter_num": 2, "filter_size": 5}, hidden_size=4)
        model.compile("sgd")
        change = data.Augmentation(flip=True, crop=2, rotate=10 if isinstance(given, Pixels) else 0)
        histories.append(model.fit(given, t[:40], 20, 1, 0, augmentation=change).history["loss"])
    assert np.isfinite(histories).all() and histories[0] != histories[1]


# ---------------------------------------------------------------------- whole trainings


def trained(model, x, t, **kwargs):
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    history = model.fit(x, t, BATCH, 3, verbose=0, **kwargs)
    told = {key: values for key, values in history.history.items() if "per_second" not in key}
    return [w.tobytes() for w in model.get_weights()], told


def network(backend):
    x = layers.Input((3, 3, 2))
    y = layers.Flatten()(layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 2)(x))))
    return Model(x, layers.Dense(7, activation="softmax")(layers.Dropout(0.3)(y)), backend=backend, seed=5)


@pytest.mark.parametrize("weighted", [False, True])
def test_fit_gives_the_same_bits_through_every_feed(cupy, monkeypatch, weighted):
    x, t = RNG.random((N, 3, 3, 2)), np.arange(N) % 7
    given = {"sample_weight": RNG.random(N), "validation_data": (x[:4], t[:4])} if weighted else {}
    ended, kinds = [], []
    for kind in (HostFeed, ResidentFeed, StagedFeed):

        def chosen(*given, kind=kind):
            kinds.append(kind(*given))
            return kinds[-1]

        monkeypatch.setattr("xconv.models.training.feed", chosen)
        ended.append(trained(network(cupy), x, t, **given))
    assert ended[0] == ended[1] == ended[2]
    assert [type(k) for k in kinds] == [HostFeed, ResidentFeed, StagedFeed]


def test_fit_takes_the_feed_of_its_data(cupy, monkeypatch):
    seen = []
    inner = feed.feed
    monkeypatch.setattr("xconv.models.training.feed", lambda *a: seen.append(inner(*a)) or seen[-1])
    x, t = RNG.random((N, 1, 28, 28)), np.arange(N) % 10
    for backend in (cupy, "numpy"):
        model = SimpleConvNet(backend=backend)
        model.compile("sgd")
        model.fit(x, t, BATCH, verbose=0)
    assert [type(fed) for fed in seen] == [ResidentFeed, HostFeed]


def test_a_model_that_moves_between_epochs_goes_on(cupy):
    class Move(Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.to("numpy")

    x, t = RNG.random((N, 3, 3, 2)), np.arange(N) % 7
    weights, history = trained(network(cupy), x, t, callbacks=[Move()])
    stayed, other = trained(network("numpy"), x, t)
    assert len(history["loss"]) == 3
    np.testing.assert_allclose(history["loss"], other["loss"], rtol=1e-3)
    assert len(weights) == len(stayed)
