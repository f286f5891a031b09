"""One flat buffer seen by name: live views, assignments that copy, gaps that stay zero."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.checks import draw
from xconv import SimpleConvNet, get_backend, optimizers
from xconv.errors import ShapeError, XconvError
from xconv.parameters import Parameters

SHAPES = {"w": (3, 5), "b": (5,), "scale": (), "long": (2, 3, 4)}


@pytest.fixture
def parameters(backend, dtype):
    made = Parameters(backend, SHAPES, dtype)
    for seed, (name, shape) in enumerate(SHAPES.items()):
        made[name] = draw(*shape, dtype=dtype, seed=seed) if shape else np.array(0.5, dtype)
    return made


def gaps(parameters):
    """The entries of the flat buffer that belong to nobody."""
    flat = parameters.backend.to_numpy(parameters.flat).copy()
    owned = np.zeros(flat.shape, bool)
    for name, shape in parameters.shapes.items():
        at = parameters._at[name]
        assert not owned[at : at + math.prod(shape)].any(), "two parameters share memory"
        owned[at : at + math.prod(shape)] = True
    return flat[~owned]


def test_it_is_a_mapping(parameters, dtype):
    assert list(parameters) == list(parameters.keys()) == list(SHAPES)
    assert len(parameters) == 4 and "w" in parameters and "v" not in parameters
    for name, array in parameters.items():
        assert isinstance(array, parameters.backend.array_type) and array.dtype == dtype
        assert array.shape == SHAPES[name] and array.flags.c_contiguous
    assert repr(parameters) == (
        f"Parameters(w: (3, 5), b: (5,), scale: (), long: (2, 3, 4); {dtype}, {parameters.backend.name})"
    )
    with pytest.raises(KeyError):
        parameters["v"]


def test_each_starts_on_a_line_of_its_own(parameters, dtype):
    assert all(at * np.dtype(dtype).itemsize % 64 == 0 for at in parameters._at.values())
    assert parameters.flat.ndim == 1 and gaps(parameters).size and not gaps(parameters).any()


def test_views_are_live_both_ways(parameters):
    to_numpy = parameters.backend.to_numpy
    w = parameters["w"]
    parameters.flat[...] = 7.0
    assert (to_numpy(w) == 7).all() and parameters["w"] is w
    w[1, 2] = -1.0
    assert np.count_nonzero(to_numpy(parameters.flat) == -1) == 1


def test_every_way_to_change_one_keeps_the_view(parameters, dtype):
    to_numpy, w = parameters.backend.to_numpy, parameters["w"]
    start = to_numpy(w).copy()
    parameters["w"] -= 0.5 * parameters["w"]
    np.testing.assert_allclose(to_numpy(w), 0.5 * start, rtol=1e-6)
    parameters["w"] *= 2.0
    parameters["w"] = parameters["w"] + 1.0  # a new array, copied into the view
    np.testing.assert_allclose(to_numpy(w), start + 1, rtol=1e-6)
    for given in (start, start.astype("f8"), start.tolist(), np.asfortranarray(start), start.astype(">f4")):
        parameters["w"] = 0 * start
        parameters["w"] = given
        assert np.array_equal(to_numpy(w), np.asarray(given).astype(dtype))
    parameters.update({"w": np.ones((3, 5)), "b": np.arange(5)})
    assert (to_numpy(w) == 1).all() and to_numpy(parameters["b"]).tolist() == [0, 1, 2, 3, 4]
    assert parameters["w"] is w and not gaps(parameters).any()


def test_what_is_assigned_is_copied(parameters):
    source = np.ones((3, 5))
    parameters["w"] = source
    source[...] = 9
    assert (parameters.backend.to_numpy(parameters["w"]) == 1).all()


def test_nothing_else_is_taken(parameters):
    before = parameters.backend.to_numpy(parameters.flat).tobytes()
    with pytest.raises(ShapeError, match=r"^parameter 'w': expected shape \(3, 5\)\. Received: shape \(5, 3\)$"):
        parameters["w"] = np.zeros((5, 3))
    with pytest.raises(ShapeError, match=r"Received: shape \(\)$"):
        parameters["b"] = 0.0  # no broadcasting: it would hide mistakes
    with pytest.raises(XconvError, match=r"one of \['w', 'b', 'scale', 'long'\]\. Received: 'v'$"):
        parameters["v"] = np.zeros(3)
    for remove in (lambda: parameters.pop("w"), parameters.clear, lambda: parameters.__delitem__("w")):
        with pytest.raises(XconvError, match="cannot be deleted"):
            remove()
    assert parameters.backend.to_numpy(parameters.flat).tobytes() == before


def test_like_is_empty_and_apart(parameters):
    twin = parameters.like()
    assert twin.shapes == parameters.shapes and twin.flat.dtype == parameters.flat.dtype
    assert not twin.backend.to_numpy(twin.flat).any()
    twin.flat[...] = 3.0
    assert not (parameters.backend.to_numpy(parameters.flat) == 3).any()


def test_copies_on_the_host_stay(parameters):
    host = parameters.to_numpy()
    assert all(isinstance(array, np.ndarray) and array.shape == SHAPES[name] for name, array in host.items())
    kept = {name: array.copy() for name, array in host.items()}
    parameters.flat[...] = 0.0
    assert all(np.array_equal(host[name], array) for name, array in kept.items())
    host["w"][...] = 5
    assert not parameters.backend.to_numpy(parameters.flat).any()


@pytest.mark.parametrize("there", ["numpy", "numba", "cupy"])
def test_moving_keeps_every_bit(parameters, there, request):
    from tests.conftest import load

    target = load(there)
    moved = parameters.to(target)
    assert moved.backend is target and isinstance(moved["w"], target.array_type)
    assert target.to_numpy(moved.flat).tobytes() == parameters.backend.to_numpy(parameters.flat).tobytes()
    moved.flat[...] = 0.0
    assert parameters.backend.to_numpy(parameters.flat).any()
    back = moved.to(parameters.backend)
    assert back.shapes == parameters.shapes and not parameters.backend.to_numpy(back.flat).any()


def test_other_names_for_the_same_memory(parameters):
    alias = parameters.renamed({"W1": "w", "b1": "b"})
    assert list(alias) == ["W1", "b1"] and alias["W1"] is parameters["w"] and alias.flat is parameters.flat
    alias["b1"] = np.full(5, 2.0)
    assert (parameters.backend.to_numpy(parameters["b"]) == 2).all()
    with pytest.raises(XconvError, match="no parameter of that name"):
        alias["b"] = np.zeros(5)


@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_no_optimizer_writes_into_the_gaps(parameters, rule):
    grads = parameters.like()
    optimizer = optimizers.get(rule, lr=0.1)
    for step in range(3):
        for seed, (name, shape) in enumerate(SHAPES.items(), 10 * step):
            grads[name] = draw(*shape, seed=seed) if shape else np.array(0.1)
        optimizer.update(parameters, grads)
    assert not gaps(parameters).any() and np.isfinite(parameters.backend.to_numpy(parameters.flat)).all()


@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_by_name_and_in_one_pass_give_the_same_bits(parameters, rule, monkeypatch):
    """A dict of the same arrays goes through the same formula, entry by entry."""
    monkeypatch.setenv("XCONV_BACKEND", parameters.backend.name)  # NumPy arrays of nobody go to the best backend
    apart = {name: parameters.backend.asarray(array) for name, array in parameters.to_numpy().items()}
    grads, rules = parameters.like(), [optimizers.get(rule, lr=0.1) for _ in range(2)]
    for step in range(4):
        for seed, (name, shape) in enumerate(SHAPES.items(), 10 * step):
            grads[name] = draw(*shape, seed=seed) if shape else np.array(0.1)
        rules[0].update(parameters, grads)
        rules[1].update(apart, {name: grads[name] for name in reversed(SHAPES)})
        if step == 1:
            rules[0].lr = rules[1].lr = 0.03
    for name, array in parameters.to_numpy().items():
        assert parameters.backend.to_numpy(apart[name]).tobytes() == array.tobytes(), name


def test_a_models_parameters_are_what_it_computes_with(backend):
    net = SimpleConvNet((1, 6, 6), {"filter_num": 2, "filter_size": 3}, 3, 4, "he", backend=backend)
    x = draw(2, 1, 6, 6)
    assert net.params is net.params and list(net.params) == ["W1", "b1", "W2", "b2", "W3", "b3"]
    before = net.predict(x)
    net.params["b3"][...] += 1.0
    np.testing.assert_allclose(net.predict(x), before + 1, rtol=1e-5)
    net.to("numpy").to(backend)
    np.testing.assert_allclose(net.predict(x), before + 1, rtol=1e-5)
    net.params["W3"] = np.zeros((3, 4))
    np.testing.assert_allclose(net.predict(x), np.ones((2, 4)))


def test_numpy_arrays_of_one_host_backend_serve_the_other(backend):
    if backend.name == "cupy":
        pytest.skip("its arrays are not NumPy's")
    other = Parameters(get_backend("numpy"), {"w": (2,)}, "float32")
    mine = Parameters(backend, {"w": (2,)}, "float32")
    other["w"] = np.array([1, 2])
    mine["w"] = other["w"]
    other["w"] = np.zeros(2)
    assert mine.to_numpy()["w"].tolist() == [1, 2]
