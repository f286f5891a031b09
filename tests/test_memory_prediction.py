"""What a summary says of the memory of a training step, against what a fresh process takes for it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from xconv import zoo
from xconv.models.summary import facts

ROOT = Path(__file__).parent.parent

# The kernels and the interpreter's own memory are paid for by a small network before the clock starts, and BLAS's own
# buffers (some MB a thread, whatever the network) by large products; the pool of memory is then empty but for small
# blocks. VmHWM is the most that was resident since clear_refs.
PROGRAM = """
import ctypes, gc, json, sys
import numpy as np
import xconv
from xconv import zoo
from xconv.layers import *
from xconv.models.summary import facts

name, backend, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])

def status(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

small = xconv.Sequential(
    [Conv2D(3, 3, padding="same", activation="relu"), MaxPool2D(2), Conv2D(9, 3), BatchNormalization(), ReLU(),
     Conv2D(8, 3, activation="relu"), Conv2D(8, 3, padding="same"), MaxPool2D(2), Dropout(0.2), Flatten(),
     Dense(300, activation="relu"), Dense(20, activation="relu"), Dense(10, activation="softmax")],
    input_shape=(20, 20, 3), backend=backend,
)
for rule in ("adam", "rmsprop"):
    small.compile(rule, "sparse_categorical_crossentropy", ["accuracy"])
    small.fit(np.random.rand(24, 20, 20, 3), np.arange(24) % 10, 12, verbose=0)

net = zoo.entry(name).build(zoo.recipe(name), backend=backend)
net.params  # built
tall, wide = np.ones((60000, 512), "f4"), np.ones((512, 64), "f4")
tall @ wide, tall.T @ tall, wide.T @ tall[:512]
del tall, wide
gc.collect()
ctypes.CDLL(None).malloc_trim(0)
images, labels = np.random.rand(batch, *net.input_shape).astype("f4"), np.zeros(batch, int)
open("/proc/self/clear_refs", "w").write("5")
before = status("VmRSS")
for _ in range(3):
    net.train_step(net.backend.asarray(images).copy(), net.backend.asarray(labels))
print(json.dumps({"measured": status("VmHWM") - before, "predicted": facts(net, batch)["peak_bytes"]}))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc to measure")
@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize(("name", "batch"), [("simple-convnet", 100), ("keras-mnist", 64), ("mnist-dropout", 128)])
def test_the_prediction_is_near_what_is_measured(name, batch, backend):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name, backend, str(batch)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["measured"] > 3e6
    assert 0.8 <= found["predicted"] / found["measured"] <= 1.2, found


def test_a_prediction_costs_nothing_and_grows_with_the_batch():
    net = zoo.entry("vgg16-bn-cifar10").build(zoo.recipe("vgg16-bn-cifar10"), backend="numpy")
    small, large = (facts(net, batch)["peak_bytes"] for batch in (1, 257))
    assert net._store is None  # no parameter was allocated
    parameters = 33_655_114 * 4
    assert small > 3 * parameters  # gradients, and Adam's two means
    # The maps that are kept for backward alone: each convolution's and each batch-norm's output but one.
    assert large - small > 256 * 4 * 2 * 64 * 32 * 32
