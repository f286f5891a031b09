"""Training steps and predictions of SimpleConvNet on every usable backend, grouped so that they stand side by side.

    python -m pytest benchmarks/bench_training.py --benchmark-columns=min,median,iqr,ops

At the published batch of 100. For ratios between backends run peers.py: here one backend runs after the other, and on a
machine that others use too its load has changed meanwhile.
"""

from __future__ import annotations

import pytest

from xconv.measure.contestants import Xconv

BATCH = 100


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_train_step(timed, backend, dtype):
    timed(Xconv(BATCH, backend.name, dtype).train, BATCH)


def test_predict(timed, backend):
    timed(Xconv(BATCH, backend.name, "float32").infer, BATCH)
