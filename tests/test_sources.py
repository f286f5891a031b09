"""Examples that are read when a batch needs them: files left on disk, bytes kept as bytes, sources of one's own."""

from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from xconv import Model, Sequential, data, layers, optimizers
from xconv.data import Pixels, Source
from xconv.data.sources import MappedSource, on_disk
from xconv.errors import ConfigError, DataError, DTypeError, FileError, RawPixelsWarning, ShapeError
from xconv.models.batches import Checked
from xconv.models.feed import StagedFeed

N, BATCH = 23, 5
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4, 3, 2)).astype("f4")
T = np.arange(N) % 7


def mapped(path, array, mode="r"):
    """The array as an np.memmap, behind a header of 3 bytes: aligned to nothing."""
    file = np.memmap(path, array.dtype, "w+", offset=3, shape=array.shape)
    file[...] = array
    file.flush()
    return np.memmap(path, array.dtype, mode, offset=3, shape=array.shape)


class Own(Source):
    """An array behind a source that notes what it is asked for."""

    def __init__(self, array):
        self.array, self.asked, self.threads = array, [], set()
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, indices):
        assert indices.dtype == np.int64 and np.all(np.diff(indices) > 0)  # as h5py asks for
        self.asked.append(indices.tolist())
        self.threads.add(threading.current_thread().name)
        return self.array[indices]


def network(backend="numpy", **settings):
    x = layers.Input((4, 3, 2))
    y = layers.Flatten()(layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 2)(x))))
    model = Model(x, layers.Dense(7, activation="softmax")(layers.Dropout(0.3)(y)), backend=backend, seed=5, **settings)
    model.compile(optimizers.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return model


def trained(x, t, backend="numpy", dtype="float32", **more):
    model = network(backend, dtype=dtype)
    history = model.fit(x, t, BATCH, 2, 0, **more).history
    return [w.tobytes() for w in model.get_weights()], {k: v for k, v in history.items() if "second" not in k}


# ---------------------------------------------------------------------- what a source gives


LAYOUTS = {
    "as it lies": lambda a: a,
    "a part": lambda a: a[4:19],
    "every other": lambda a: a[1::2],
    "backwards": lambda a: a[::-1],
    "channels last": lambda a: a.transpose(0, 2, 3, 1),
    "fewer columns": lambda a: a[:, :, 1:],
    "seen as an array": lambda a: np.asarray(a)[2:],
    "one number each": lambda a: a[:, 0, 0, 0],
    "none": lambda a: a[:0],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "f4", ">f8"])
def test_a_file_of_any_layout(tmp_path, layout, dtype):
    array = (X * 40).astype(dtype)
    view = LAYOUTS[layout](mapped(tmp_path / "x", array))
    source, expected = on_disk(view), LAYOUTS[layout](array)
    assert type(source) is MappedSource
    assert source.shape == expected.shape and source.dtype == dtype and len(source) == len(expected)
    n = len(expected)
    for chosen in (np.arange(n), np.arange(0, n, 3), RNG.permutation(n), RNG.integers(0, max(1, n), n), np.arange(0)):
        got = source.take(chosen)
        assert got.tobytes() == expected[chosen].tobytes() and got.dtype == dtype
    part = source[2 : n - 1]
    assert type(part) is MappedSource and np.asarray(part).tobytes() == expected[2 : n - 1].tobytes()
    assert np.asarray(source, "f8").dtype == "f8"


def test_numbers_of_a_file_that_lie_scattered(tmp_path):
    file = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape, order="F")
    file[...] = X
    source = MappedSource(file)
    assert source._file is None and source.take(np.array([4, 22, 4])).tobytes() == X[[4, 22, 4]].tobytes()


def test_a_file_is_read_from_where_it_is_now_and_not_from_what_has_its_name(tmp_path):
    first, second = mapped(tmp_path / "a\nb", X), mapped(tmp_path / "c", X + 1)
    (tmp_path / "a\nb").rename(tmp_path / "elsewhere")
    (tmp_path / "c").rename(tmp_path / "a\nb")
    for array, expected in ((first, X), (second, X + 1)):
        source = MappedSource(array)
        assert source._file is not None
        assert source.take(np.arange(N)).tobytes() == expected.tobytes()


def test_a_file_that_was_deleted_is_not_taken_for_another(tmp_path):
    x = mapped(tmp_path / "x", X)
    (tmp_path / "x").unlink()
    mapped(tmp_path / "x", X + 1), mapped(tmp_path / "x (deleted)", X + 2)
    assert MappedSource(x).take(np.arange(N)).tobytes() == X.tobytes()


def test_a_file_that_was_cut_off_since_is_an_error(tmp_path):
    x = mapped(tmp_path / "x", np.tile(X, (200, 1, 1, 1)))
    os.truncate(tmp_path / "x", 96 * 1000 + 3)
    with pytest.raises(FileError, match=r"x: expected 480 more bytes of example 1000 at 96003\. Received: the end of"):
        network().fit(x, np.zeros(len(x), int), BATCH, verbose=0, shuffle=False)


def test_what_is_no_file_stays_what_it_is(tmp_path):
    file = mapped(tmp_path / "x", X)
    for array in (X, file + 1, file[[1, 2]], np.array(file), file.astype("f8"), [1, 2], None):
        assert on_disk(array) is array
    with pytest.raises(ConfigError, match=r"MappedSource: expected an np\.memmap of examples\. Received: array"):
        MappedSource(X)


def resident(path):
    """Bytes of a file's mappings that are in this process's memory."""
    found, mine = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            mine = line.removesuffix(" (deleted)").endswith(str(path))
        elif mine and line.startswith("Rss:"):
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.parametrize("mode", ["r", "r+", "c", "deleted"])
def test_a_file_does_not_come_to_lie_in_memory(tmp_path, mode):
    if not Path("/proc/self/smaps").exists():
        pytest.skip("what is resident is read from /proc/self/smaps, which Linux has")
    path = tmp_path / "x"
    file = np.memmap(path, np.uint8, "w+", shape=(4096, 4096))
    file[:, 0] = np.arange(4096) % 251
    file.flush()
    del file
    file = np.memmap(path, np.uint8, "r+" if mode == "deleted" else mode, shape=(4096, 4096))
    if mode == "deleted":
        path.unlink()
    if mode != "r":
        file[7, 7] = 99  # written by the user, and not on disk yet
    source, most = MappedSource(file), 0
    for i, chosen in enumerate(RNG.permutation(4096).reshape(-1, 8)):
        got = source.take(chosen)
        assert np.array_equal(got[:, 0], chosen % 251)
        if 7 in chosen and mode != "r":
            assert got[chosen == 7, 7] == 99
        if i % 64 in (0, 63):
            most = max(most, resident(path))
    assert file[7, 7] == (0 if mode == "r" else 99)
    if mode == "c":  # what was written to it would be lost
        assert most >= 16 << 20
    else:
        assert most <= 2 << 20


def test_a_source_of_ones_own_is_asked_for_each_example_once_and_in_order():
    source = Own(X)
    assert np.array_equal(source.take(np.array([4, 1, 4, 9])), X[[4, 1, 4, 9]])
    assert np.array_equal(source[3:9].take(np.array([5, 0])), X[[8, 3]])
    assert np.array_equal(source[3:9][1:].take(np.array([0])), X[[4]])
    assert source.asked == [[1, 4, 9], [3, 8], [4]]
    assert source[5:].shape == (N - 5, 4, 3, 2) and len(source[9:2]) == 0 and source.ndim == 4
    assert np.array_equal(np.asarray(source), X)
    assert repr(source) == "<Own of shape (23, 4, 3, 2), dtype float32>"
    for wrong in (3, slice(0, 9, 2)):
        with pytest.raises(ConfigError, match=r"Own: expected a slice.* Received: "):
            source[wrong]
    with pytest.raises(ValueError, match="no array to share"):
        np.asarray(source, copy=False)


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        (lambda a: a[:-1], ShapeError, r"Own.read: expected 5 examples, of shape \(5, 4, 3, 2\). Received: .*\(4, "),
        (lambda a: a[..., 0], ShapeError, r"Own.read: expected 5 examples, .* Received: array of shape \(5, 4, 3\)"),
        (lambda a: a.astype("f8"), DTypeError, "Own.read: expected float32, its dtype. Received: .*float64"),
        (lambda a: None, ShapeError, "Own.read: expected 5 examples"),
    ],
)
def test_a_source_that_does_not_give_what_it_says(wrong, kind, text):
    source = Own(X)
    source.read = lambda indices: wrong(X[indices])
    with pytest.raises(kind, match=text):
        network().fit(source, T, BATCH, verbose=0)


@pytest.mark.parametrize(
    ("name", "value", "kind", "text"),
    [
        ("shape", None, ConfigError, "fit: x: Own must say its shape, a tuple"),
        ("shape", [N, 4, 3, 2], ConfigError, "fit: x: Own must say its shape, a tuple"),
        ("shape", (N, 4, 3), ShapeError, r"fit: x: expected shape \(N, 4, 3, 2\)"),
        ("shape", (0, 4, 3, 2), DataError, "fit: x: expected at least one example"),
        ("dtype", None, DTypeError, "fit: x: Own must say the dtype"),
        ("dtype", "complex64", DTypeError, "fit: x: Own must say the dtype"),
    ],
)
def test_a_source_that_does_not_say_what_it_has(name, value, kind, text):
    source = Own(X)
    setattr(source, name, value)
    with pytest.raises(kind, match=text + ".*Received: "):
        network().fit(source, T, verbose=0)


# ---------------------------------------------------------------------- Pixels


BYTES = RNG.integers(0, 256, (N, 4, 3, 2), dtype=np.uint8)


@pytest.mark.parametrize(
    ("kind", "dtype"), [("array", "float32"), ("array", "float64"), ("file", "float32"), ("own", "float64")]
)
def test_pixels_train_and_predict_as_the_division_does(backend, tmp_path, kind, dtype):
    given = {"array": BYTES, "file": mapped(tmp_path / "x", BYTES), "own": Own(BYTES)}[kind]
    divided, seen = Pixels(given), np.divide(BYTES, 255, dtype=dtype)
    assert trained(divided, T, backend, dtype, validation_split=0.3) == trained(
        seen, T, backend, dtype, validation_split=0.3
    )
    model = network(backend, dtype=dtype)
    assert model.predict(divided, 4).tobytes() == model.predict(seen, 4).tobytes()
    assert model.evaluate(divided, T, 4) == model.evaluate(seen, T, 4)
    assert model.accuracy(divided, T, 4) == model.accuracy(seen, T, 4)
    assert model.loss(divided, T) == model.loss(seen, T)
    assert model.train_on_batch(divided, T) == network(backend, dtype=dtype).train_on_batch(seen, T)


def test_bytes_cross_to_a_device_as_bytes(cupy, monkeypatch):
    sent = []
    inner = type(cupy).asarray
    monkeypatch.setattr(
        type(cupy), "asarray", lambda self, a, dtype=None: sent.append(inner(self, a, dtype)) or sent[-1]
    )
    model = network(cupy)
    expected = model.predict(np.divide(BYTES, 255, dtype="f4"))
    assert {a.dtype.name for a in sent if a.shape == BYTES.shape} == {"float32"}
    sent.clear()
    assert model.predict(Pixels(BYTES)).tobytes() == expected.tobytes()
    assert {a.dtype.name for a in sent if a.shape == BYTES.shape} == {"uint8"}


def test_pixels_are_an_array_of_numbers_to_who_asks():
    pixels = Pixels(BYTES)
    assert np.asarray(pixels).tobytes() == np.divide(BYTES, 255, dtype="f4").tobytes()
    assert np.asarray(pixels[2:5], "f8").tobytes() == np.divide(BYTES[2:5], 255, dtype="f8").tobytes()
    assert pixels.take(np.array([3, 0])).tobytes() == BYTES[[3, 0]].tobytes()
    assert pixels.shape == BYTES.shape and pixels.dtype == np.uint8 and len(pixels) == N


@pytest.mark.parametrize("wrong", [X, BYTES.tolist(), None, "x", np.uint8(3), BYTES.astype("i1"), Own(X)])
def test_pixels_are_of_bytes(wrong):
    with pytest.raises(DTypeError, match=r"Pixels: expected a uint8 array, np\.memmap or Source\. Received: "):
        Pixels(wrong)


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_a_data_set_gives_its_images_as_bytes(data_format):
    sample = data.load()
    for given, numbers in zip(sample.pixels(data_format), sample.arrays("f4", data_format), strict=True):
        assert np.asarray(given).tobytes() == numbers.tobytes() and given.shape == numbers.shape
    assert np.shares_memory(sample.pixels()[0].bytes, sample.x_train)
    with pytest.raises(ConfigError, match=r"pixels.*channels"):
        sample.pixels("NCHW")


# ---------------------------------------------------------------------- training and asking, from files and sources


@pytest.mark.parametrize("way", ["file", "own", "labels too", "one-hot"])
def test_what_is_read_late_trains_as_arrays_do(backend, tmp_path, monkeypatch, way):
    labels = np.eye(7, dtype="f4")[T] if way == "one-hot" else T
    x = Own(X) if way == "own" else mapped(tmp_path / "x", X)
    t = labels if way in ("file", "own") else mapped(tmp_path / "t", labels)
    loss = "categorical_crossentropy" if way == "one-hot" else "sparse_categorical_crossentropy"
    kinds = []
    inner = __import__("xconv.models.feed", fromlist=["feed"]).feed
    monkeypatch.setattr("xconv.models.training.feed", lambda *a: kinds.append(inner(*a)) or kinds[-1])
    ended = []
    weights = {"class_weight": {3: 2.0}, "sample_weight": RNG.random(N)}
    for x_, t_ in ((X, labels), (x, t)):
        model = network(backend)
        model.compile("adam", loss, ["accuracy"])
        history = model.fit(x_, t_, BATCH, 2, 0, validation_split=0.3, **weights).history
        ended.append((history, [w.tobytes() for w in model.get_weights()]))
        ended[-1] += model.evaluate(x_, t_, 4), model.accuracy(x_, t_, 4), model.predict(x_, 4).tobytes()
    assert ended[0] == ended[1]
    assert [kind.prepared for kind in kinds] == [False, True]
    if not backend.on_host:
        assert type(kinds[1]) is StagedFeed
    if way == "own":
        assert x.threads == {"xconv-batches"}
        first = [i for batch in x.asked[:4] for i in batch]  # the first epoch, each once
        assert sorted(first) == list(range(int(N * 0.7)))


class Refilling(Source):
    """Gives each batch in the same memory."""

    def __init__(self, array):
        self.array, self.shape, self.dtype, self.room = array, array.shape, array.dtype, np.empty_like(array)

    def read(self, indices):
        room = self.room[: len(indices)]
        room[...] = self.array[indices]
        return room


@pytest.mark.parametrize("kind", ["float32", "pixels"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_source_may_read_into_the_same_memory_each_time(backend, monkeypatch, kind, shuffle):
    x = RNG.integers(0, 256, X.shape, "u1") if kind == "pixels" else X.astype(kind)
    targets = RNG.normal(size=(N, 7)).astype("f4")
    ended = []
    for make in (np.array, Refilling):
        given = Pixels(make(x)) if kind == "pixels" else make(x)
        model, t = network(backend), make(targets)
        model.compile("sgd", "mse")
        for name in ("train_step", "_here"):  # late, so that the thread gets as far ahead as it goes
            inner = getattr(model, name)
            monkeypatch.setattr(model, name, lambda *a, inner=inner: time.sleep(0.005) or inner(*a))
        history = model.fit(given, t, BATCH, 2, 0, shuffle=shuffle).history
        ended.append((history, [w.tobytes() for w in model.get_weights()]))
        ended[-1] += model.evaluate(given, t, 4), model.predict(given[2:], 4).tobytes()
    assert ended[0] == ended[1]


def test_several_inputs_and_targets_of_their_own_shape(backend, tmp_path):
    a, b = layers.Input((4, 3, 2), name="a"), layers.Input((3,), name="b")
    y = layers.Dense(2)(layers.Concatenate()([layers.Flatten()(a), b]))
    other, targets = RNG.integers(0, 2, (N, 3)), RNG.normal(size=(N, 2))
    files = {name: mapped(tmp_path / name, array) for name, array in {"a": X, "b": other, "t": targets}.items()}
    ended = []
    for x, t in (([X, other], targets), ({"b": files["b"], "a": files["a"]}, files["t"])):
        model = Model([a, b], y, backend=backend)
        model.set_weights([np.full(w.shape, 0.1) for w in model.get_weights()])
        model.compile("sgd", "mse")
        ended.append((model.fit(x, t, BATCH, 2, 0).history["loss"], model.predict(x, 4).tobytes()))
    assert ended[0] == ended[1]


def test_values_are_checked_as_they_come_and_errors_name_the_example(backend, tmp_path):
    x, t = X.copy(), T.copy()
    x[17, 3, 0, 1] = np.nan
    t[11] = 7
    bad = mapped(tmp_path / "x", x)
    told = (
        r"x\[17:18\]: expected finite numbers\. Received: 1 NaN or infinite values, "
        r"the first at index \(0, 3, 0, 1\): nan"
    )
    model = network(backend)
    for what, act in {
        "fit": lambda: model.fit(bad, T, BATCH, verbose=0),
        "evaluate": lambda: model.evaluate(bad, T, BATCH),
        "predict": lambda: model.predict(bad, BATCH),
        "accuracy": lambda: model.accuracy(bad, T, BATCH),
    }.items():
        with pytest.raises(DataError, match=f"^{what}: {told}$"):
            act()
    with pytest.raises(DataError, match=f"^fit: validation {told}$"):
        model.fit(X, T, BATCH, verbose=0, validation_data=(bad, T))
    with pytest.raises(DataError, match=f"^fit: {told}$"):  # numbers of the file, not of what is put aside
        model.fit(mapped(tmp_path / "y", x)[:], T, BATCH, verbose=0, validation_split=0.5)
    model.predict(bad[:17])
    labels = mapped(tmp_path / "t", t)
    with pytest.raises(DataError, match=r"^fit: y\[11:12\]: expected labels from 0 to 6\. Received: 7 at index 0$"):
        model.fit(X, labels, BATCH, verbose=0)
    with pytest.raises(DTypeError, match=r"^fit: y\[0:1\]: expected integer labels"):
        model.fit(X, mapped(tmp_path / "f", T.astype("f4")), BATCH, verbose=0)
    with pytest.raises(ShapeError, match=r"^fit: y: expected labels for 23 examples, .* Received: labels for 22$"):
        model.fit(X, labels[:-1], BATCH, verbose=0)
    with pytest.raises(ShapeError, match=r"^fit: x: expected shape \(N, 4, 3, 2\).*channels_first"):
        model.fit(mapped(tmp_path / "z", X.transpose(0, 3, 1, 2)), T, verbose=0)
    assert threading.active_count() == len([a for a in threading.enumerate() if a.name != "xconv-batches"])


def test_too_large_for_the_models_dtype(tmp_path):
    x = X.astype("f8")
    x[3] = 1e200
    with pytest.raises(DataError, match=r"fit: x\[3:4\]: .* 24 values too large for float32, the first at index"):
        network().fit(mapped(tmp_path / "x", x), T, BATCH, verbose=0)


@pytest.mark.parametrize("what", ["fit", "evaluate", "predict"])
def test_raw_pixels_in_a_file_are_told_once_and_in_the_users_line(tmp_path, what):
    file, model = mapped(tmp_path / "x", BYTES), network()
    given = (file,) if what == "predict" else (file, T)
    with pytest.warns(
        RawPixelsWarning, match=rf"^{what}: x holds whole numbers above 1 \(dtype uint8\).*Pixels\(x\)"
    ) as told:
        getattr(model, what)(*given, 4, verbose=0)
    assert len(told) == 1 and told[0].filename == __file__


def test_a_file_whose_labels_are_rows_now_and_classes_then(backend, tmp_path):
    """Strictly one-hot rows become classes: a batch at a time, where labels are read late."""
    rows = np.eye(7, dtype="f4")[T]
    rows[9:] = 1 / 7
    model = network(backend)
    model.compile("sgd", "categorical_crossentropy", ["accuracy"])
    history = model.fit(X, mapped(tmp_path / "t", rows), 3, 3, 0, shuffle=False).history
    other = network(backend)
    other.compile("sgd", "categorical_crossentropy", ["accuracy"])
    expected = other.fit(X, rows, 3, 3, 0, shuffle=False).history
    np.testing.assert_allclose(history["loss"], expected["loss"], rtol=1e-5)


def test_an_unbuilt_model_learns_its_shape_from_a_file(tmp_path):
    model = Sequential([layers.Flatten(), layers.Dense(7, activation="softmax")], backend="numpy")
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(mapped(tmp_path / "x", X), T, BATCH, verbose=0)
    assert model.input_shape == (4, 3, 2)


def test_checked_names_what_each_part_of_a_part_is():
    def check(part, where):
        if (part == 5).any():
            raise DataError(where)
        return part

    source = Checked(Own(np.arange(20)), "x", check)[3:][1:]
    assert source.take(np.array([4, 2])).tolist() == [8, 6]
    with pytest.raises(DataError, match=r"^x\[5:6\]$"):
        source.take(np.array([4, 1]))
