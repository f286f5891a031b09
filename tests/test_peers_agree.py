"""The book's recipe, 100 steps in float64, against two implementations that share nothing with xconv."""

from __future__ import annotations

import numpy as np
import pytest

from xconv import data, optimizers, streams
from xconv.book import SimpleConvNet

STEPS, BATCH = 100, 100


@pytest.fixture(scope="module")
def batches():
    x, t, _, _ = data.load("mnist-sample").arrays("float64")
    order = streams.permutation(0, 1, len(x))
    return [(x[order[i : i + BATCH]], t[order[i : i + BATCH]]) for i in range(0, STEPS * BATCH, BATCH)]


def losses(backend, batches):
    net = SimpleConvNet(backend=backend, dtype="float64", seed=0)
    net.compile(optimizers.AdaGrad(0.06))
    found = []
    for x, t in batches:
        loss, _ = net.train_step(net.backend.asarray(x), net.backend.asarray(t))
        found.append(float(loss[0]))
    return found


def first_weights():
    net = SimpleConvNet(backend="numpy", dtype="float64", seed=0)
    return {name: np.array(w) for name, w in net.params.items()}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_pytorch_for_a_hundred_steps(backend, batches):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the third opinion: pip install 'xconv[bench]'")
    F = torch.nn.functional
    p = {k: torch.tensor(w, requires_grad=True) for k, w in first_weights().items()}
    rule = torch.optim.Adagrad(p.values(), lr=0.06, eps=1e-7)
    expected = []
    for x, t in batches:
        pooled = F.max_pool2d(F.relu(F.conv2d(torch.tensor(x), p["W1"], p["b1"])), 2).flatten(1)
        logits = F.relu(pooled @ p["W2"] + p["b2"]) @ p["W3"] + p["b3"]
        loss = F.cross_entropy(logits, torch.tensor(t))
        rule.zero_grad()
        loss.backward()
        rule.step()
        expected.append(loss.item())
    assert expected[-1] < 1.0, "the network died"
    np.testing.assert_allclose(losses(backend, batches), expected, rtol=1e-8)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_einsum_for_ten_steps(backend, batches):
    p = first_weights()
    h = {k: np.zeros_like(w) for k, w in p.items()}
    expected = []
    for x, t in batches[:10]:
        n = len(x)
        seen = np.lib.stride_tricks.sliding_window_view(x[:, 0], (5, 5), axis=(1, 2))  # n, 24, 24, 5, 5
        conv = np.einsum("nyxkl,fkl->nfyx", seen, p["W1"][:, 0], optimize=True) + p["b1"][:, None, None]
        blocks = np.maximum(conv, 0).reshape(n, 30, 12, 2, 12, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, 30, 12, 12, 4)
        flat = blocks.max(axis=-1).reshape(n, -1)
        hidden = np.maximum(flat @ p["W2"] + p["b2"], 0)
        z = hidden @ p["W3"] + p["b3"]
        z = z - z.max(axis=1, keepdims=True)
        log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
        expected.append(-log_p[np.arange(n), t].mean())
        dz = (np.exp(log_p) - np.eye(10)[t]) / n
        dhidden = (dz @ p["W3"].T) * (hidden > 0)
        dflat = (dhidden @ p["W2"].T) * (flat > 0)
        one = np.eye(4)[blocks.argmax(axis=-1)] * dflat.reshape(n, 30, 12, 12, 1)
        dconv = one.reshape(n, 30, 12, 12, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(n, 30, 24, 24)
        g = {
            "W1": np.einsum("nyxkl,nfyx->fkl", seen, dconv, optimize=True)[:, None],
            "b1": dconv.sum(axis=(0, 2, 3)),
            "W2": flat.T @ dhidden,
            "b2": dhidden.sum(axis=0),
            "W3": hidden.T @ dz,
            "b3": dz.sum(axis=0),
        }
        for k in p:
            h[k] += g[k] ** 2
            p[k] -= 0.06 * g[k] / (np.sqrt(h[k]) + 1e-7)
    np.testing.assert_allclose(losses(backend, batches[:10]), expected, rtol=1e-8)
