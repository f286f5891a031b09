"""Model files that were damaged, or made to harm: FileError and nothing else, no code, no memory, nothing changed."""

from __future__ import annotations

import json
import random
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

import xconv
from xconv import Model, Sequential, checkpoint
from xconv.errors import FileError
from xconv.layers import (
    AveragePooling2D,
    BatchNormalization,
    Concatenate,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Input,
    LeakyReLU,
    MaxPooling2D,
    Reshape,
    Softmax,
    ZeroPadding2D,
)
from xconv.optimizers import Adam


def small() -> Sequential:
    model = Sequential([Dense(1, name="a"), Dense(1, name="b")], input_shape=(2,), backend="numpy")
    model.set_weights([np.full(w.shape, 0.5) for w in model.get_weights()])
    return model


def bits(model) -> list[bytes]:
    return [w.tobytes() for w in model.get_weights()]


def refused(path: Path, model: Model | None = None, match: str = "expected|network") -> None:
    with pytest.raises(FileError, match=match) as caught:
        xconv.load(path, backend="numpy")
    assert str(path) in str(caught.value) and "Received: " in str(caught.value)
    if model is not None:
        before = bits(model)
        with pytest.raises(FileError):
            model.load_weights(path)
        assert bits(model) == before


# ---------------------------------------------------------------------- damage


@pytest.fixture
def path(tmp_path) -> Path:
    small().save(tmp_path / "m")
    return tmp_path / "m"


def test_a_flipped_bit_at_every_byte(path):
    whole, model = path.read_bytes(), small()
    model.set_weights([w + 1 for w in model.get_weights()])
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << i % 8
        path.write_bytes(damaged)
        refused(path, model)
    path.write_bytes(whole)
    model.load_weights(path)
    assert bits(model) == bits(small()) == bits(xconv.load(path, backend="numpy"))


def test_every_beginning_and_any_end(path):
    whole, model = path.read_bytes(), small()
    for piece in (*(whole[:length] for length in range(len(whole))), whole + b"\0", whole * 2, b"\0" + whole):
        path.write_bytes(piece)
        refused(path, model)


# ---------------------------------------------------------------------- sealed again, so that every hash holds


def network() -> Model:
    """One of each, with a shared layer and two outputs."""
    image, side = Input((6, 6, 1), name="image"), Input((2,), name="side")
    conv = Conv2D(1, 3, padding="same", activation="relu", kernel_regularizer="l2", name="conv")
    y = MaxPooling2D(2)(BatchNormalization(name="bn")(conv(conv(image))))
    y = AveragePooling2D(2)(ZeroPadding2D(((1, 0), (0, 1)))(Softmax()(LeakyReLU()(Dropout(0.2)(y)))))
    y = Concatenate(name="cat")([Flatten()(Reshape((2, 2, 1))(y)), side])
    outputs = [Dense(3, activation="softmax", name="a")(y), Dense(1, name="b")(y)]
    model = Model([image, side], outputs, backend="numpy")
    losses = {"a": "categorical_crossentropy", "b": "mse"}
    model.compile(Adam(0.1, clipnorm=1.0), losses, {"a": ["accuracy"]}, {"a": 1.0, "b": 0.5})
    return model


def told(model: Model, path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    model.save(path)
    return checkpoint.load(path)


def nested(depth: int) -> list[Any]:
    deep: list[Any] = []
    for _ in range(depth):
        deep = [deep]
    return deep


HOSTILE: list[Any] = [
    None, True, False, 0, -1, 1, 2, 2**31, 2**63, 2**64, 10**30, 10**400, 1.5, -0.0, 1e308, "", "os.system", "Lambda",
    "../../etc/passwd", "__import__('os').abort()", "Conv2D", "conv", "softmax", "\0", "a" * 3000, [], {}, [0], [[1]],
    [2**40, 2**40], [1, 2, 3, 4, 5], ["a"], {"kind": "os.system"}, {"kind": ["L2"]}, {"kind": "L2", "l2": 10**400},
    nested(300),
]  # fmt: skip


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if at:
        yield at
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*at, key))


def changed(about: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """`about` with another value at a place; without it where the value is `changed` itself."""
    other = json.loads(json.dumps(about))
    inside: Any = other
    for key in at[:-1]:
        inside = inside[key]
    if value is changed:
        del inside[at[-1]]
    else:
        inside[at[-1]] = value
    return other


def attempt(path: Path, tensors: Any, about: Any) -> bool:
    """Whether the file is loaded; FileError alone may say that it is not."""
    checkpoint.save(path, tensors, about)
    try:
        model = xconv.load(path, backend="numpy")
    except FileError as error:
        assert str(path) in str(error)
        return False
    assert sum(w.nbytes for w in model.get_weights()) < 10_000
    return True


def test_mutations_of_the_header(tmp_path):
    """At random places of architecture and training settings: another value, of another type, or none."""
    tensors, about = told(network(), tmp_path / "m")
    rng = random.Random(2)
    everywhere = list(places(about))
    assert len(everywhere) > 200 and attempt(tmp_path / "m", tensors, about)
    modules, loaded = set(sys.modules), 0
    tracemalloc.start()
    try:
        for i in range(600):
            if i == 100:  # it is slow
                peak = tracemalloc.get_traced_memory()[1]
                tracemalloc.stop()
            other = about
            for _ in range(rng.choice([1, 1, 1, 2, 3])):
                at = rng.choice(everywhere if other is about else list(places(other)))
                other = changed(other, at, rng.choice([*HOSTILE, changed]))
            loaded += attempt(tmp_path / "m", tensors, other)
    finally:
        tracemalloc.stop()
    assert peak < 20e6
    assert set(sys.modules) == modules
    assert loaded < 300  # the names of models, say, may be anything


@pytest.mark.parametrize(
    "value", [10**400, 2**80, -(2**63), nested(300), "os.system", {}, None], ids=lambda v: repr(v)[:12]
)
def test_one_value_at_every_place(tmp_path, value):
    tensors, about = told(small(), tmp_path / "m")
    for at in places(about["architecture"]):
        attempt(tmp_path / "m", tensors, changed(about, ("architecture", *at), value))


@pytest.mark.parametrize(
    ("at", "value", "message"),
    [
        (("layers", 0, "kind"), "os.system", r"layer 'a' is of kind 'os.system', which a file cannot make"),
        (("layers", 0, "kind"), "Layer", r"of kind 'Layer', which a file cannot make"),
        (("layers", 0, "kind"), "Lambda", r"of kind 'Lambda', which a file cannot make"),
        (("layers", 0, "kind"), ["Dense"], r"does not make a network. Received: TypeError"),
        (("layers", 0, "kind"), "Conv2D", r"does not make a network"),
        (("layers", 0, "config", "units"), 2**60, r"a.w: expected \(2, 1152921504606846976\). Received: \(2, 1\)"),
        (("layers", 0, "config", "units"), -1, r"does not make a network. Received: ConfigError.*a \(Dense\): units"),
        (("layers", 0, "config", "bias"), 1, r"no such argument.*Received: bias"),
        (("layers", 0, "config", "name"), "b", r"does not make a network. Received: TypeError.*'name'"),
        (("layers", 0, "config", "kernel_initializer"), "os.system", r"ConfigError"),
        (("layers", 0, "config", "activation"), {"kind": "Dense"}, r"activation: expected a config"),
        (("layers", 1, "name"), "a", r"b.w|a.w|does not make"),
        (("layers",), [], r"does not make a network"),
        (("layers",), {}, r"does not make a network"),
        (("calls", 1, "inputs"), [5], r"IndexError"),
        (("calls", 1, "inputs"), [-9], r"IndexError"),
        (("calls", 1, "inputs"), [], r"IndexError"),
        (("calls", 1, "layer"), "zzz", r"KeyError"),
        (("inputs",), [], r"does not make a network"),
        (("inputs", 0, "shape"), [3], r"a.w: expected \(3, 1\). Received: \(2, 1\)"),
        (("inputs", 0, "shape"), [2**62] * 3, r"a.w: expected"),
        (("dtype",), "object", r"dtype must be"),
        (("seed",), -1, r"seed must be"),
        (("aliases",), {"W": "c.w"}, r"expected aliases of parameters"),
        (("aliases",), ["W"], r"does not make a network"),
    ],
)
def test_architectures_that_cannot_be(tmp_path, at, value, message):
    tensors, about = told(small(), tmp_path / "m")
    checkpoint.save(tmp_path / "m", tensors, changed(about, ("architecture", *at), value))
    refused(tmp_path / "m", match=message)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (("optimizer", "kind"), "os.system"),
        (("optimizer", "lr"), -1),
        (("optimizer", "lr"), {"kind": "Nice"}),
        (("optimizer",), []),
        (("loss", "a"), {"kind": "os.system"}),
        (("loss",), {"zzz": {"kind": "MeanSquaredError"}}),
        (("loss_weights", "a"), "heavy"),
        (("metrics",), 7),
        ((), "sgd"),
    ],
)
def test_training_settings_that_cannot_be(tmp_path, at, value):
    tensors, about = told(network(), tmp_path / "m")
    checkpoint.save(tmp_path / "m", tensors, changed(about, ("training", *at), value))
    refused(tmp_path / "m", match="training settings cannot be used")


def test_tensors_that_are_not_the_networks(tmp_path):
    tensors, about = told(small(), tmp_path / "m")
    model = small()
    for other, message in (
        (
            {**{n: a for n, a in tensors.items() if n != "b.b"}, "b.c": tensors["b.b"]},
            r"b.b: expected \(1,\). Received: no",
        ),
        ({**tensors, "b.w": np.zeros((1, 2), np.float32)}, r"b.w: expected \(1, 1\). Received: \(1, 2\)"),
        ({**tensors, "b.w": np.zeros((), np.float32)}, r"b.w: expected \(1, 1\). Received: \(\)"),
        ({n: a for n, a in tensors.items() if n != "a.b"}, r"a.b: expected \(1,\). Received: no such parameter"),
        ({**tensors, "c": np.zeros(1)}, r"c: expected no such parameter. Received: \(1,\)"),
        ({}, r"a.w: expected \(2, 1\). Received: no such parameter"),
    ):
        checkpoint.save(tmp_path / "m", other, about)
        refused(tmp_path / "m", model, match=message)


@pytest.mark.parametrize("about", [{}, {"architecture": None}, {"architecture": []}, {"architecture": "x"}])
def test_headers_without_an_architecture(tmp_path, about):
    checkpoint.save(tmp_path / "m", {}, about)
    refused(tmp_path / "m", small(), match="does not make a network")


@pytest.mark.parametrize("depth", [500, 5_000, 200_000])
def test_headers_nested_without_end(tmp_path, depth):
    """Deeper than Python's own stack, written past our own writer, which would refuse."""
    header = json.dumps({"format": "1", "metadata": {"architecture": 0}, "tensors": {}}, separators=(",", ":"))
    text = header.replace('"architecture":0', '"architecture":' + "[" * depth + "]" * depth)
    sealed = checkpoint.hashlib.sha256(text.encode()).hexdigest()
    save_file({}, tmp_path / "m", {"xconv": text[:-1] + f',"sha256":"{sealed}"}}'})
    with safe_open(tmp_path / "m", framework="numpy") as file:
        assert len(file.metadata()["xconv"]) > 2 * depth
    refused(tmp_path / "m", small())


def test_many_layers_take_no_time(tmp_path):
    """A thousand layers, each read by the next: linear work."""
    tensors, about = told(small(), tmp_path / "m")
    architecture = about["architecture"]
    names = [f"l{i}" for i in range(1000)]
    architecture["layers"] = [{"name": n, "kind": "Identity", "config": {}, "trainable": True} for n in names]
    architecture["calls"] = [{"layer": n, "inputs": [i - 1]} for i, n in enumerate(names)]
    architecture["outputs"] = [999]
    assert attempt(tmp_path / "m", {}, {"architecture": architecture})
    refused_for = {"architecture": {**architecture, "outputs": [1000]}}
    assert not attempt(tmp_path / "m", tensors, refused_for)
