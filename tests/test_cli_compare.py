"""`xconv compare`: what it prints and writes, its exit codes, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.cli import one_json_line
from tests.test_agreement import Twin, WrongGradient
from xconv.backend import BackendInfo, get_backend
from xconv.cli import compare
from xconv.errors import BackendError

QUICK = ("compare", "--steps", "1,2", "--batch-size", "10")
KEYS = [
    "cpu", "processors", "threads", "python", "system", "versions", "load_average", "date", "model", "data", "images",
    "reference", "batch_size", "dtype", "seed", "optimizer", "steps", "epsilon", "start", "layers", "tolerance",
    "backends", "comparisons", "rounding", "twin", "turns", "disturbed_turns",
]  # fmt: skip


@pytest.fixture
def beside(monkeypatch):
    """beside(backend): it is compared with NumPy."""
    return lambda other: monkeypatch.setattr(compare, "_chosen", lambda names: [get_backend("numpy"), other])


def test_compare(run, beside):
    pytest.importorskip("matplotlib")
    beside(Twin())
    code, out, err = run(*QUICK, "--out", "a/b")
    assert code == 0 and sorted(os.listdir("a/b")) == ["compare-simple-convnet.json", "compare-simple-convnet.png"]
    whole = json.loads(Path("a/b/compare-simple-convnet.json").read_text())
    assert list(whole) == KEYS and whole["data"] == "mnist-sample" and whole["images"] == 10_000
    for words in (
        "simple-convnet on mnist-sample, batches of 10, float32, SGD(lr=0.01), seed 0",
        f"the same 433,890 weights (SHA-256 {whole['start']['sha256'][:16]})",
        "twin beside numpy: differences by layer",
        "numpy beside itself in float64: what rounding alone does",
        "Throughput of training",
        "twin: within the published tolerance: at most 0.0e+00 (",
    ):
        assert words in " ".join(out.split()), words
    lines = [line.split() for line in out.splitlines()]
    assert ["conv1", "im2col", "0", "0", "0"] in lines and ["the", "loss", "0", "0"] in lines
    assert "dropout" not in out
    assert max(map(len, out[out.index("simple-convnet on") :].splitlines())) <= 80
    assert "xconv: wrote a/b/compare-simple-convnet.png" in err


def test_check_exits_with_1_where_something_is_apart(run, beside):
    beside(WrongGradient())
    code, out, _ = run(*QUICK, "--no-rounding")
    assert code == 0 and "twin: BEYOND TOLERANCE: 1.9e-02 (the first gradient of W3 of affine2, over" in out
    assert "rounding alone" not in out
    assert run(*QUICK, "--no-rounding", "--check")[0] == 1
    beside(Twin())
    assert run(*QUICK, "--no-rounding", "--check")[0] == 0


def test_json(run, beside):
    beside(Twin())
    options = ("--model", "mnist-dropout", "--optimizer", "recipe", "--dtype", "float64", "--seed", "7")
    code, out, _ = run(*QUICK, *options, "--json")
    whole = one_json_line(out)
    assert code == 0 and list(whole) == KEYS and os.listdir() == []
    assert (whole["dtype"], whole["seed"]) == ("float64", 7) and whole["optimizer"].startswith("Adam(lr=0.001, ")
    assert whole["start"]["dropout_layers"] == ["dropout"] and whole["rounding"] is None
    assert whole["comparisons"][0]["verdict"]["status"] == "within"


def test_the_first_named_is_the_reference(run):
    pytest.importorskip("numba")
    code, out, err = run(*QUICK, "--backends", "numba, numpy", "--no-rounding", "--lr", "0.1", "--json")
    whole = one_json_line(out)
    assert code == 0 and whole["reference"] == "numba" and list(whole["backends"]) == ["numba", "numpy"]
    assert whole["optimizer"] == "SGD(lr=0.1)"
    assert err.index("xconv: numba on") < err.index("xconv: numpy on")


def infos(monkeypatch, *usable):
    told = {True: (None, None), False: ("its cause", "its cure")}
    rows = [
        BackendInfo(name, name in usable, None, None, None, *told[name in usable])
        for name in ("cupy", "numba", "numpy")
    ]
    monkeypatch.setattr(compare, "backends", lambda: rows)


def test_by_default_all_that_are_usable(monkeypatch, capsys):
    infos(monkeypatch, "numba", "numpy")
    monkeypatch.setattr(compare, "get_backend", lambda name: name)
    assert compare._chosen(None) == ["numpy", "numba"]
    assert "without cupy: its cause (xconv backends cupy tells more)" in capsys.readouterr().err


def test_one_that_is_usable_is_not_enough(monkeypatch, run):
    infos(monkeypatch, "numpy")
    code, out, err = run(*QUICK)
    assert (code, out) == (2, "")
    assert err == (
        "xconv: compare needs two backends. Received: numpy alone (numba: its cause; cupy: its cause). "
        "To mend it: for numba: its cure; for cupy: its cure\n"
    )


def test_a_named_backend_that_cannot_run(run, monkeypatch):
    def absent(name):
        raise BackendError(f"backend {name!r} cannot run here: no GPU", reason="no GPU", fix="install one")

    monkeypatch.setattr(compare, "get_backend", absent)
    code, out, err = run(*QUICK, "--backends", "cupy:1,numpy")
    assert (code, out, err) == (2, "", "xconv: backend 'cupy:1' cannot run here: no GPU. To mend it: install one\n")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--backends", "numpy"], "--backends: expected at least two, each once. Received: numpy"),
        (["--backends", "numpy,numpy"], "each once. Received: numpy,numpy"),
        (["--backends", "numpy,tpu"], "'tpu' is not one of 'numpy', 'numba', 'cupy', nor 'cupy:1'"),
        (["--backends", ""], "'' is not one of"),
        (["--steps", "0,1"], "whole numbers from 1 up"),
        (["--steps", "ten"], "Received: 'ten'"),
        (["--dtype", "float16"], "'float32', 'float64'"),
        (["--optimizer", "lion"], "'adamw', 'recipe'"),
        (["--lr", "-1"], "SGD: lr must be a number >= 0"),
        (["--seed", "-1"], "seed must be an integer from 0"),
        (["--data", "noise"], "'mnist-sample'"),
        (["--batch-size", "10001"], "a batch of 1 to 10000, the examples there are. Received: 10001"),
        (["--model", "vgg16"], "vgg16 needs --data"),
        (["--model", "vgg16-bn-cifar10", "--data", "mnist-sample"], "takes images of shape (32, 32, 3)"),
        (["--out", "file"], "a file is in the way"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(run, beside, args, words):
    if "--backends" not in args:
        beside(Twin())
    with open("file", "w"):
        pass
    code, out, err = run("compare", *args)
    assert (code, out) == (2, "") and words in err.splitlines()[-1] and "Traceback" not in err
    assert os.listdir() == ["file"]


def test_what_lies_ahead_is_announced(capsys, monkeypatch):
    times = iter([0.0, 3.0, 3.0, 3.5, 4.0, 5.0])
    monkeypatch.setattr(compare.time, "perf_counter", lambda: next(times))
    with compare._Progress(2, [1, 10, 100]) as progress:
        for name in ("numpy", "numba"):
            progress(name, 0)
            progress(name, 1)
        assert "xconv: about 6 min to go; --steps 1,10 takes about 35 s" in capsys.readouterr().err
        progress("numpy", 1)
        progress("numpy", 2)
        assert progress.bar.n == 3 or progress.bar.disable
    assert capsys.readouterr().err == ""


def test_the_verdict_tells_the_limit_that_decided():
    """Where rounding allows more than what is published, that is what a backend beyond tolerance is beyond of."""
    found = {
        "status": "beyond", "what": "parameter", "place": "conv1.w", "steps": 10, "value": 5e-2, "published": 1e-4,
        "rounding": 1e-3, "allowed": 1e-2, "unpromised": [], "stopped": None,
    }  # fmt: skip
    row = {"backend": "twin", "verdict": found}
    said = compare.verdict(row, {"layers": [], "reference": "numpy"})
    assert said.endswith("5.0e-02 (conv1.w after 10 steps), where rounding alone gives 1.0e-03; 1e-02 is allowed")
