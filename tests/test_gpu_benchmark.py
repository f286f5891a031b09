"""benchmarks/gpu.py without a GPU: its cases, its time, what it writes, and that a failure stops nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests import standin
from xconv import data
from xconv.errors import FileError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def gpu(script):
    return script("gpu")


@pytest.fixture
def cases(script):
    return script("gpu_cases")


class Clock:
    """Time that passes when somebody works."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def fake(clock, seconds, loss=2.3):
    """A maker of contestants whose step takes so many seconds."""

    def make(case, batch_size):
        def step():
            clock.now += seconds

        return SimpleNamespace(
            step=step, wait=lambda: None, loss=lambda: loss, about=lambda: {"steps_are": "fake"}, close=lambda: None
        )

    return make


def broken(case, batch_size):
    raise RuntimeError("no\nkernel")


def test_the_cases_are_those_that_were_asked_for(gpu, cases):
    asked = {("vgg16-bn-cifar10", n, p) for n in (64, 256, 1024) for p in ("tf32", "bf16")}
    plain = {(c.model, c.batch_size, c.precision) for c in cases.CASES if cases.EAGER in c.names}
    assert plain == asked | {("simple-convnet", 100, "tf32")}
    assert all({cases.RECORDED, cases.TORCH} <= set(c.names) for c in cases.CASES)
    compiled = {(c.model, c.batch_size, c.precision) for c in cases.CASES if cases.COMPILED in c.names}
    assert compiled == {("simple-convnet", 100, "tf32"), ("vgg16-bn-cifar10", 64, "bf16")}
    names = [name for name, _, _ in gpu.jobs()]
    assert len(set(names)) == len(names) == 2 + 9 and names[0] == gpu.SUITE
    assert [name for name, _, _ in gpu.jobs([names[3], gpu.RUNS])] == [gpu.RUNS, names[3]]
    assert gpu.MINUTES < 8


def test_contestants_take_turns_and_ratios_are_of_the_same_round(cases):
    clock, used = Clock(), iter(range(0, 10**9, 5 * 10**6))
    makers = {
        cases.RECORDED: fake(clock, 0.001),
        cases.EAGER: fake(clock, 0.002),
        cases.TORCH: fake(clock, 0.004),
        cases.COMPILED: broken,
    }
    case = cases.Case("some", 50, "tf32", tuple(makers))
    found = cases.measure(case, 12.0, makers, lambda release: next(used), clock)
    assert clock.now == pytest.approx(12.0, rel=0.2)
    rows = found["contestants"]
    assert rows[cases.COMPILED] == {"error": "RuntimeError: no kernel"}
    for name, seconds in ((cases.RECORDED, 0.001), (cases.EAGER, 0.002), (cases.TORCH, 0.004)):
        assert rows[name]["seconds"] == pytest.approx([seconds] * cases.ROUNDS)
        assert rows[name]["images_per_second"] == pytest.approx(50 / seconds)
        assert rows[name]["steps"] >= 100 and rows[name]["device_mb"] == 5.0
        assert rows[name]["first_loss"] == rows[name]["last_loss"] == 2.3
    over = found["over"][cases.RECORDED]
    assert over[cases.TORCH]["speed"] == pytest.approx(4.0) and over[cases.TORCH]["memory"] == 1.0
    assert found["over"][cases.EAGER][cases.RECORDED]["speed"] == pytest.approx(0.5)
    assert json.loads(json.dumps(found)) == found


def test_a_case_in_which_all_fail_says_so(cases):
    case = cases.Case("some", 50, "tf32", (cases.RECORDED,))
    found = cases.measure(case, 5.0, {cases.RECORDED: broken}, lambda release: 0, Clock())
    assert found["over"] == {} and set(found["contestants"][cases.RECORDED]) == {"error"}


def test_each_job_has_its_share_and_what_fails_stops_nothing(gpu):
    clock, saved, said = Clock(), [], []

    def takes(seconds, outcome):
        def work(given):
            clock.now += min(seconds, given)
            if seconds > given:
                raise subprocess.TimeoutExpired("job", given)
            if isinstance(outcome, Exception):
                raise outcome
            return dict(outcome)

        return work

    todo = [
        ("fits", 60.0, takes(50, {"a": 1})),
        ("fails", 60.0, takes(10, ValueError("it\nbroke"))),
        ("hangs", 60.0, takes(10**6, {})),
        ("tells", 60.0, takes(5, {"error": "one of them", "b": 2})),
        ("last", 60.0, takes(40, {"c": 3})),
    ]
    found = gpu.work_off(todo, 4.0, lambda results: saved.append(json.loads(json.dumps(results))), said.append, clock)
    assert list(found) == ["fits", "fails", "hangs", "tells", "last"]
    assert found["fits"] == {"a": 1, "took_seconds": 50.0}
    assert found["fails"]["error"] == "ValueError: it broke"
    assert found["hangs"]["error"].startswith("stopped after ") and found["tells"]["b"] == 2
    assert found["last"]["c"] == 3 and "error" not in found["last"]
    assert [len(results) for results in saved] == [1, 2, 3, 4, 5]  # a kill loses one job at most
    assert clock.now <= 240 and len(said) == 5 + 3


def test_nothing_begins_that_could_not_end_in_time(gpu):
    clock = Clock()

    def slow(given):
        clock.now += given
        return {"given": given}

    found = gpu.work_off([(str(i), 100.0, slow) for i in range(6)], 2.0, lambda results: None, lambda text: None, clock)
    assert clock.now <= 120
    assert "error" not in found["0"] and found["5"]["error"].startswith("not measured: ")


def test_a_process_that_fails_is_told(gpu, monkeypatch):
    done = SimpleNamespace(returncode=1, stdout="", stderr="Traceback\n  boom\n")
    monkeypatch.setattr(gpu.subprocess, "run", lambda command, **_: done)
    assert gpu.alone("x", 30.0) == {"error": "Traceback boom"}
    done.returncode, done.stdout = 0, 'noise\n{"contestants": {"a": {"error": "no"}, "b": {}}}\n'
    assert gpu.alone("x", 30.0)["error"] == "a: no"
    done.stdout = '{"equal_to_the_bit": false}'
    assert "other bits" in gpu.alone("x", 30.0)["error"]
    done.stdout = "3 failed, 2 passed"
    assert gpu.suite(30.0) == {"said": "3 failed, 2 passed"}
    done.returncode = 1
    assert gpu.suite(30.0)["error"] == "3 failed, 2 passed"


RESULTS = {
    "equivalence suite": {"said": "900 passed"},
    "full MNIST": {"images": 60000, "data": "mnist", "epochs": 10, "training_seconds": 1.5, "equal_to_the_bit": True},
    "net-100-tf32": {
        "batch_size": 100,
        "contestants": {
            "xconv recorded": {"images_per_second": 1e6, "device_mb": 90.0},
            "PyTorch eager": {"images_per_second": 2e5, "device_mb": 120.0},
            "xconv eager": {"error": "no"},
        },
        "over": {"xconv recorded": {"PyTorch eager": {"speed": 5.0}}},
        "error": "xconv eager: no",
    },
    "other": {"error": "not measured: 3 s of 450 were left"},
}


def test_report_and_chart(gpu, script, tmp_path):
    told = gpu.report(RESULTS)
    assert "5.00x PyTorch eager" in told and "1,000,000" in told and "equal to the bit: yes" in told
    assert "900 passed" in told and "other: FAILED: not measured" in told and "1.50 s of training" in told
    pytest.importorskip("matplotlib")
    chart = script("gpu_chart")
    for name, results in (("some", RESULTS), ("none", {"other": {"error": "x"}})):
        path = tmp_path / "new" / f"{name}.png"
        chart.draw(path, {"device": "a GPU", "date": "today", "results": results})
        assert path.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize("full", [True, False])
def test_whole_runs_are_the_same_twice(cases, monkeypatch, full):
    sample = data.load("mnist-sample")

    def found(name):
        if not full:
            raise FileError(f"no {name}")
        return sample

    monkeypatch.setattr(cases.datasets, "load", found)
    told = cases.whole_runs("numpy", epochs=1, images=200)
    assert told["equal_to_the_bit"] is True and told["training_seconds"] > 0 and len(told["runs"]) == 2
    assert (told["data"], told["images"]) == ("mnist" if full else "noise", 200)
    assert np.isfinite(told["runs"][0]["loss"])


def test_without_a_gpu_it_says_why_and_exits_with_2():
    if standin.real() is not None:
        pytest.skip("there is a GPU")
    if not BENCHMARKS.is_dir():
        pytest.skip("the benchmarks folder is not beside the tests")
    command, env = [sys.executable, str(BENCHMARKS / "gpu.py")], {**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("gpu: backend cupy is not usable: ") and done.stderr.count("\n") == 1
