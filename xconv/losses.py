"""Losses: each gives its mean over the batch and the gradient of that mean."""

from __future__ import annotations

from xconv.backend import Array, Backend


class SoftmaxCrossEntropy:
    """loss = mean over n of -log softmax(logits[n])[labels[n]]; logits[N,K], labels int64[N].

    dlogits = (softmax(logits) - onehot(labels)) / N. The layer `softmax` is part of it, as in the book.
    """

    def __call__(self, backend: Backend, logits: Array, labels: Array) -> tuple[Array, Array]:
        """(loss as array[1] on the device, dlogits[N,K])."""
        return backend.softmax_cross_entropy(logits, labels)
