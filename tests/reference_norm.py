"""Batch normalisation and dropout in Python numbers, straight from the papers. Imports nothing of xconv."""

from __future__ import annotations

import math

import numpy as np


def batch_norm(
    x: np.ndarray, gamma: np.ndarray, beta: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ioffe and Szegedy 2015, algorithm 1, channel by channel: y, mean, biased variance."""
    y, mean, var = np.zeros(x.shape), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for c in range(x.shape[1]):
        values = [float(v) for v in x[:, c].ravel()]
        mean[c] = math.fsum(values) / len(values)
        var[c] = math.fsum((v - mean[c]) ** 2 for v in values) / len(values)
        for at in np.ndindex(x.shape[0], *x.shape[2:]):
            here = (at[0], c, *at[1:])
            y[here] = float(gamma[c]) * (float(x[here]) - mean[c]) / math.sqrt(var[c] + eps) + float(beta[c])
    return y, mean, var


def batch_norm_backward(
    dy: np.ndarray, x: np.ndarray, gamma: np.ndarray, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The chain rule of section 3, one derivative after the other: dx, dgamma, dbeta."""
    dx, dgamma, dbeta = np.zeros(x.shape), np.zeros(x.shape[1]), np.zeros(x.shape[1])
    _, mean, var = batch_norm(x, gamma, np.zeros_like(gamma), eps)
    for c in range(x.shape[1]):
        std, m = math.sqrt(var[c] + eps), x[:, c].size
        centred = [float(v) - mean[c] for v in x[:, c].ravel()]
        g = [float(v) for v in dy[:, c].ravel()]
        dbeta[c] = math.fsum(g)
        dgamma[c] = math.fsum(a * b / std for a, b in zip(g, centred, strict=True))
        dxhat = [v * float(gamma[c]) for v in g]
        dvar = math.fsum(a * b for a, b in zip(dxhat, centred, strict=True)) * -0.5 * std**-3
        dmean = -math.fsum(dxhat) / std - dvar * 2 * math.fsum(centred) / m
        values = [a / std + dvar * 2 * b / m + dmean / m for a, b in zip(dxhat, centred, strict=True)]
        dx[:, c] = np.array(values).reshape(dx[:, c].shape)
    return dx, dgamma, dbeta


def kept(rate: float, seed: int, step: int, node: int, n: int) -> list[bool]:
    """Which of n entries dropout keeps: Philox4x64-10 as the paper writes it, a half word an entry."""
    decisions: list[bool] = []
    block = 0
    while len(decisions) < n:
        block += 1  # counted up before it is drawn
        counter, key = [block, 0, node, step], [seed, 3]
        for _ in range(10):
            high0, low0 = divmod(counter[0] * 0xD2E7470EE14C6C93, 2**64)
            high1, low1 = divmod(counter[2] * 0xCA5A826395121157, 2**64)
            counter = [high1 ^ counter[1] ^ key[0], low1, high0 ^ counter[3] ^ key[1], low0]
            key = [(key[0] + 0x9E3779B97F4A7C15) % 2**64, (key[1] + 0xBB67AE8584CAA73B) % 2**64]
        for word in counter:
            decisions += [half >= round(rate * 2**32) for half in (word % 2**32, word // 2**32)]
    return decisions[:n]
