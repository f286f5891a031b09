"""Threads, forks and memory: results stay what a lone caller gets, and memory comes back."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from tests.conftest import load
from xconv import Model, SimpleConvNet
from xconv.backend import Backend
from xconv.backend.threads import OneBlasThread, Team

ROOT = Path(__file__).parent.parent
THREADS = 8


@pytest.fixture(params=["numpy", "numba"])
def host(request: pytest.FixtureRequest) -> Backend:
    """The backends whose threads are this process's own."""
    return load(request.param)


def network(backend: Backend, seed: int = 0) -> SimpleConvNet:
    return SimpleConvNet((1, 12, 12), {"filter_num": 8, "filter_size": 3}, 20, 10, "he", backend=backend, seed=seed)


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 1, 12, 12), np.float32)


def together(*work: Callable[[], object]) -> list[object]:
    """Each in a thread of its own, all starting at once."""
    gate = threading.Barrier(len(work))

    def run(function: Callable[[], object]) -> object:
        gate.wait()
        return function()

    with ThreadPoolExecutor(len(work)) as pool:
        return [future.result() for future in [pool.submit(run, function) for function in work]]


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


# ---------------------------------------------------------------------- one model, many threads


def test_predictions_from_many_threads_are_those_of_one(host):
    model = network(host)
    batches = [images(n, seed=n) for n in (1, 7, 40)]
    alone = [model.predict(x).tobytes() for x in batches]

    def ask() -> int:
        return sum(model.predict(batches[i % 3]).tobytes() != alone[i % 3] for i in range(100))

    assert together(*[ask] * THREADS) == [0] * THREADS


def test_gradients_from_many_threads_are_those_of_one(host):
    model = network(host)
    x, t = images(60), np.arange(60) % 10
    alone = host.to_numpy(model.gradient(x, t).flat).tobytes()

    def ask() -> int:
        return sum(host.to_numpy(model.gradient(x, t).flat).tobytes() != alone for _ in range(20))

    assert together(*[ask] * 4) == [0] * 4


def test_two_models_train_side_by_side_as_they_do_alone(host):
    x, t = images(300), np.arange(300) % 10

    def train(seed: int) -> bytes:
        model = network(host, seed)
        history = model.fit(x, t, 50, 2, verbose=0)
        return model.backend.to_numpy(model._parameters.flat).tobytes() + repr(history.history["loss"]).encode()

    alone = [train(0), train(1)]
    assert alone[0] != alone[1]
    assert together(lambda: train(0), lambda: train(1)) == alone


def test_arithmetic_in_other_threads_warns_no_more_and_no_less():
    """The settings that hold while kernels run are those of the thread that runs them."""
    for name in ("numpy", "numba"):
        with load(name).running():
            (state,) = together(np.geterr)
        assert state == np.geterr()


# ---------------------------------------------------------------------- the team of threads


def test_the_team_gives_results_in_order_and_the_first_error():
    team = Team(4)
    assert team.each(lambda i: i * i, [(i,) for i in range(50)]) == [i * i for i in range(50)]

    def half(i: int) -> int:
        if i % 2:
            raise ValueError(i)
        return i

    with pytest.raises(ValueError, match=r"^\d$"):
        team.each(half, [(i,) for i in range(8)])
    assert team.each(half, [(0,), (2,)]) == [0, 2]  # the workers are alive


@pytest.mark.parametrize(("n", "work"), [(0, 0.0), (1, 1e9), (3, 1e9), (10, 1e9), (10, 1.0)])
def test_ranges_cover_everything_once(n, work):
    ranges = Team(4).ranges(n, work)
    assert [i for first, last in ranges for i in range(first, last)] == list(range(n))
    assert 1 <= len(ranges) <= 4


# ---------------------------------------------------------------------- BLAS


def test_blas_gets_back_the_threads_it_had():
    backend = load("numba")
    with threadpool_limits(2, "blas"):
        before = blas_threads()
        model = network(backend)
        model.gradient(images(20), np.arange(20) % 10)
        model.predict(images(20))
        assert blas_threads() == before
        with backend.running():
            assert set(blas_threads()) <= {1}
            with backend.running():
                assert set(blas_threads()) <= {1}
            assert set(blas_threads()) <= {1}
        assert blas_threads() == before
        with pytest.raises(ZeroDivisionError), backend.running():
            raise ZeroDivisionError
        assert blas_threads() == before


def test_blas_gets_its_threads_back_when_the_last_one_leaves():
    guard, inside, leave = OneBlasThread(), threading.Barrier(3), threading.Event()

    def stay() -> None:
        with guard:
            inside.wait()
            leave.wait()

    with threadpool_limits(2, "blas"):
        before = blas_threads()
        threads = [threading.Thread(target=stay, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        inside.wait()
        with guard:
            pass
        while_inside = blas_threads()  # two still are
        leave.set()
        for thread in threads:
            thread.join()
        assert set(while_inside) <= {1}
        assert blas_threads() == before


def test_the_thread_that_limited_blas_need_not_be_the_one_that_frees_it():
    """Newer threadpoolctl obeys only the thread that came first."""
    guard, steps = OneBlasThread(), [threading.Event() for _ in range(3)]
    seen: list[list[int]] = []

    def first() -> None:
        with guard:
            steps[0].set()
            steps[1].wait()

    def last() -> None:
        steps[0].wait()
        with guard:
            steps[1].set()
            steps[2].wait()
            seen.append(blas_threads())

    with threadpool_limits(2, "blas"):
        before = blas_threads()
        threads = [threading.Thread(target=work, daemon=True) for work in (first, last)]
        for thread in threads:
            thread.start()
        threads[0].join()
        steps[2].set()
        threads[1].join()
        assert set(seen[0]) <= {1}
        assert blas_threads() == before


# ---------------------------------------------------------------------- memory


def test_saved_values_outlive_other_predictions(host):
    """What a caller holds is never overwritten by a later call."""
    model = network(host)
    x, t = images(400), np.arange(400) % 10
    grads, logits = model.gradient(x, t), model.predict(x)
    kept = host.to_numpy(grads.flat).copy(), logits.copy()
    for seed in range(3):
        model.gradient(images(400, seed + 1), t)
        model.predict(images(400, seed + 1))
    assert np.array_equal(host.to_numpy(grads.flat), kept[0])
    assert np.array_equal(logits, kept[1])


# ---------------------------------------------------------------------- processes of their own


def run(code: str, timeout: int = 120) -> str:
    """The last line that a fresh Python prints; no warning may appear."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


FORK = """
import multiprocessing, warnings
import numpy as np, xconv
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # that is what is tested
x, t = np.random.default_rng(0).random((200, 1, 28, 28), np.float32), np.arange(200) % 10
net = xconv.SimpleConvNet(weight_init_std="he", backend=BACKEND)
want = net.predict(x).tobytes(), net.gradient(x, t).to_numpy()["W1"].tobytes()

def child(queue):
    queue.put((net.predict(x).tobytes(), net.gradient(x, t).to_numpy()["W1"].tobytes()) == want)

context = multiprocessing.get_context("fork")
queue = context.Queue()
children = [context.Process(target=child, args=(queue,)) for _ in range(2)]
for c in children: c.start()
got = [queue.get(timeout=60) for c in children]
for c in children: c.join(60)
again = (net.predict(x).tobytes(), net.gradient(x, t).to_numpy()["W1"].tobytes()) == want
print(got, again, [c.exitcode for c in children])
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_forked_child_computes_as_its_parent_did(name):
    load(name)
    assert run(f"BACKEND = {name!r}\n{FORK}") == "[True, True] True [0, 0]"


MEMORY = """
import re, xconv, numpy as np
def held(field):
    return int(re.search(field + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024 / 1e6
net = xconv.SimpleConvNet(weight_init_std="he", backend=BACKEND)
"""
ACCURACY = """
x = np.random.default_rng(0).integers(0, 2, (60_000, 1, 28, 28), np.uint8)
t = np.arange(60_000) % 10
open("/proc/self/clear_refs", "w").write("5")
before = held("VmRSS")
net.accuracy(x, t)
print(held("VmHWM") - before)
"""
PREDICT = """
x = np.random.default_rng(0).random((1, 1, 28, 28), np.float32)
for i in range(10_000):
    if i == 1_000: before = held("VmRSS")
    net.predict(x)
print(held("VmRSS") - before)
"""
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is read from /proc, which only Linux has"
)


@needs_proc
def test_accuracy_over_60_000_images_adds_little_memory():
    load("numba")
    assert float(run(f"BACKEND = 'numba'\n{MEMORY}{ACCURACY}")) < 200


@needs_proc
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_predictions_leave_memory_flat(name):
    """10,000 calls with one image each; benchmarks/memory.py makes them with more."""
    load(name)
    assert float(run(f"BACKEND = {name!r}\n{MEMORY}{PREDICT}")) < 5


def test_models_that_are_dropped_give_their_memory_back():
    backend = load("numba")

    def make() -> Model:
        model = network(backend)
        model.fit(images(50), np.arange(50) % 10, verbose=0)
        return model

    model = make()
    watch = weakref.ref(model)
    del model
    gc.collect()
    assert watch() is None
