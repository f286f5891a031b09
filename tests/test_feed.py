"""Batches of training data: the same bits whether taken on the host, out of the device's memory, or sent in turn."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tests import standin
from tests.standin import state
from xconv import get_backend, layers, optimizers
from xconv.book import SimpleConvNet
from xconv.callbacks import Callback
from xconv.models import Model, feed
from xconv.models.feed import Batch, HostFeed, ResidentFeed, StagedFeed

N, BATCH = 13, 5
RNG = np.random.default_rng(0)
ORDER = RNG.permutation(N)
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
ON_DEVICE = {"resident": ResidentFeed, "staged": lambda *given: StagedFeed(*given, BATCH)}


def batches(fed, backend, order=ORDER):
    """Each batch of an epoch, as NumPy arrays; of the last few examples the shorter one."""
    fed.start(order)
    for first in range(0, N, BATCH):
        xs, ts, weights = fed.batch(first, min(BATCH, N - first))
        yield [backend.to_numpy(a) for a in (*xs, *ts, *(() if weights is None else (weights,)))]


def expected(arrays, dtypes, order=ORDER):
    """By NumPy's own index and cast."""
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
    model = SimpleNamespace(backend=cupy, dtype=dtype)
    fed = ON_DEVICE[way](model, [x, x[:, :1]], [labels, x.astype("f4")], weights)
    arrays, dtypes = [x, x[:, :1], labels, x.astype("f4"), weights], [dtype, dtype, "int64", "float32", dtype]
    for order in (ORDER, ORDER[::-1].copy(), np.arange(N)):  # an epoch each
        same(batches(fed, cupy, order), expected(arrays, dtypes, order))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_host_feed_is_an_index_and_a_cast(name):
    backend, x, t = get_backend(name), IMAGES["float64"], np.arange(N)
    fed = feed.feed(SimpleNamespace(backend=backend, dtype="float32"), [x], [t], None, BATCH)
    assert type(fed) is HostFeed
    same(batches(fed, backend), expected([x, t], ["float32", "int64"]))


@pytest.mark.parametrize("way", ["host", *ON_DEVICE])
def test_batches_go_into_memory_that_is_given(cupy, way):
    x, t, w = IMAGES["uint8"], np.arange(N), RNG.random(N)
    fed = {**ON_DEVICE, "host": HostFeed}[way](SimpleNamespace(backend=cupy, dtype="float32"), [x], [t], w)
    into = Batch([cupy.empty((BATCH, *x.shape[1:]), "f4")], [cupy.empty((BATCH,), "i8")], cupy.empty((BATCH,), "f4"))
    fed.start(ORDER)
    for first in (0, BATCH):
        got = fed.batch(first, BATCH, into)
        assert got.xs[0] is into.xs[0] and got.ts[0] is into.ts[0] and got.weights is into.weights
        chosen = ORDER[first : first + BATCH]
        for a, b in zip((*got.xs, *got.ts, got.weights), (x.astype("f4"), t, w.astype("f4")), strict=True):
            assert cupy.to_numpy(a).tobytes() == b[chosen].tobytes()


def test_bytes_stay_bytes_and_an_epoch_needs_nothing_from_the_host(cupy):
    x, t = IMAGES["uint8"], np.arange(N)
    fed = ResidentFeed(SimpleNamespace(backend=cupy, dtype="float32"), [x], [t], None)
    assert [a.dtype for a in fed._data] == ["uint8", "int64"]
    fed.start(ORDER)
    if standin.real() is cupy:
        return
    before = state.transfers
    for first in (0, 5, 8):
        fed.batch(first, BATCH)
    assert state.transfers == before


def test_the_kind_of_feed_follows_from_sizes_by_a_fixed_rule(cupy, monkeypatch):
    x, t = IMAGES["float64"], np.arange(N)
    model = SimpleNamespace(backend=cupy, dtype="float32")
    size = x.size * 4 + N * 8  # as float32, and labels of 8 bytes
    assert type(feed.feed(model, [x], [t], None, BATCH)) is ResidentFeed
    for free, budget, kind in [
        (size / feed.SHARE, size, ResidentFeed),
        (size / feed.SHARE - 8, size, StagedFeed),
        (size / feed.SHARE, size - 1, StagedFeed),
    ]:
        monkeypatch.setattr(cupy, "free_bytes", lambda free=free: free)
        monkeypatch.setattr(feed, "BUDGET", budget)
        assert type(feed.feed(model, [x], [t], None, BATCH)) is kind
    short = t.astype("i4")  # a loss of one's own may ask for that, and the kernel has it not
    assert type(feed.feed(model, [x], [short], None, BATCH)) is HostFeed


def test_large_sets_are_put_there_in_pieces(cupy, monkeypatch):
    monkeypatch.setattr(feed, "PIECE", 300)
    x, t = IMAGES["float64"], np.arange(N)
    fed = ResidentFeed(SimpleNamespace(backend=cupy, dtype="float32"), [x], [t], None)
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
    fed = StagedFeed(SimpleNamespace(backend=backend, dtype="float32"), [x], [t], None, 2)
    fed.start(ORDER)
    for first in range(0, N, 2):
        fed.batch(first, min(2, N - first))
    assert set(order.broken) == ({told} if told else set())
    assert len(order.copies) == 2 and not any(stream == id(order.main) for stream in order.copies)


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
    for kind in (HostFeed, ResidentFeed, lambda *a: StagedFeed(*a, BATCH)):

        def made(model, xs, ts, weights, batch_size, kind=kind):
            kinds.append(kind(model, xs, ts, weights))
            return kinds[-1]

        monkeypatch.setattr("xconv.models.training.feed", made)
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
