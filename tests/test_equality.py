"""Equal across backends: initial weights and batches to the bit, ten steps within tolerance, and runs that repeat."""

from __future__ import annotations

import numpy as np
import pytest

from tests.conftest import load
from tests.tolerances import TOLERANCES
from xconv import data, optimizers, streams
from xconv.book import SimpleConvNet

RULES = {"sgd": 0.01, "adagrad": 0.06, "adam": 1e-3}


@pytest.fixture(scope="module")
def images():
    x, t, _, _ = data.load("mnist-sample").arrays("float64")
    return x, t


def weights(net):
    return {name: np.array(w) for name, w in net.params.to_numpy().items()}


def train(backend, images, rule, lr, dtype, *, steps=10, batch=100, seed=0, small=False, fuse=True):
    """(first weights, last weights, losses) of a number of steps over the first epoch's order."""
    sizes = {"conv_param": {"filter_num": 6}, "hidden_size": 20} if small else {}
    net = SimpleConvNet(**sizes, backend=backend, seed=seed, dtype=dtype, fuse=fuse)
    net.compile(optimizers.get(rule, lr=lr))
    first, losses = weights(net), []
    order = streams.permutation(seed, 1, len(images[0]))
    for step in range(steps):
        chosen = order[step * batch : (step + 1) * batch]
        x, t = net.backend.asarray(images[0][chosen], dtype), net.backend.asarray(images[1][chosen])
        loss, _ = net.train_step(x, t)
        losses.append(float(net.backend.to_numpy(loss)[0]))
    return first, weights(net), losses


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["numba", "cupy"])
def test_ten_steps_as_numpy(name, images, dtype, rule):
    backend = load(name)
    # Kernels of the stand-in run one thread after another: a small network and batch there, the book's on Numba.
    size = {"small": True, "batch": 10} if backend.name == "cupy" else {}
    mine = train(backend, images, rule, RULES[rule], dtype, **size)
    theirs = train("numpy", images, rule, RULES[rule], dtype, **size)
    for name, start in theirs[0].items():
        assert mine[0][name].tobytes() == start.tobytes(), f"first {name}"
    if rule == "sgd" or dtype == "float64":
        limit = TOLERANCES["trajectory" if rule == "sgd" else "adaptive trajectory", dtype]
        for name, end in theirs[1].items():
            assert np.abs(mine[1][name] - end).max() <= limit * np.abs(end).max(), name
    else:
        flat = [np.concatenate([w.ravel() for w in run[1].values()]).astype("f8") for run in (mine, theirs)]
        assert np.linalg.norm(flat[0] - flat[1]) <= TOLERANCES["adaptive trajectory", dtype] * np.linalg.norm(flat[1])
        np.testing.assert_allclose(mine[2], theirs[2], rtol=TOLERANCES["loss", dtype])
    assert any(not np.array_equal(theirs[0][name], theirs[1][name]) for name in theirs[0]), "nothing was learnt"


def test_the_seed_is_alive_at_step_100(images):
    _, _, losses = train("numba", images, "adagrad", 0.06, "float32", steps=100)
    assert losses[-1] < 1.0 < losses[0]


def test_runs_repeat_to_the_bit(backend, images, dtype):
    size = {"small": True, "batch": 10, "steps": 5}
    one, two = (train(backend, images, "adam", 1e-3, dtype, **size) for _ in range(2))
    assert one[2] == two[2]
    assert all(one[1][name].tobytes() == two[1][name].tobytes() for name in one[1])


def test_fused_and_unfused_agree(backend, images, dtype):
    size = {"small": True, "batch": 10}
    one, two = (train(backend, images, "sgd", 0.01, dtype, fuse=fuse, **size) for fuse in (True, False))
    for name, end in two[1].items():
        assert np.abs(one[1][name] - end).max() <= TOLERANCES["trajectory", dtype] * np.abs(end).max(), name


def test_batches_are_the_same_bits_in_fit(backend, images, monkeypatch):
    seen = {}
    for name in ("numpy", backend):
        net = SimpleConvNet(conv_param={"filter_num": 2}, hidden_size=5, backend=name, seed=7)
        batches, inner = [], net.train_step

        def step(x, t, weights, net=net, batches=batches, inner=inner):
            batches.append(b"".join(net.backend.to_numpy(a).tobytes() for a in (*x, *t)))
            return inner(x, t, weights)

        monkeypatch.setattr(net, "train_step", step)
        net.compile(optimizers.SGD())
        net.fit(images[0][:25], images[1][:25], 10, 2, verbose=0)
        seen[name if name == "numpy" else "other"] = batches
    assert len(seen["numpy"]) == 6 and seen["numpy"] == seen["other"]
    assert seen["numpy"][:3] != seen["numpy"][3:], "the second epoch is shuffled anew"
