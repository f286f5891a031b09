"""`xconv bench` with --peer and --sweep: what it prints and writes, and what it refuses."""

from __future__ import annotations

import os

import pytest

from tests.cli import one_json_line
from tests.contestants import Broken, Fake
from xconv.measure.contestants import Data, Entrant

PEER = ("bench", "--peer", "torch", "--seconds", "0", "--rounds", "1")
SWEEP = ("bench", "--backend", "numpy", "--seconds", "0", "--rounds", "1", "--sweep")
KEYS = [
    "cpu", "processors", "threads", "python", "system", "versions", "load_average", "date", "model", "batch_size",
    "task", "tasks", "rounds", "turns", "disturbed_turns", "contestants", "ratios",
]  # fmt: skip
ROW = ["name", "size", "threads", "train_ms", "train_ms_by_round", "train_ms_per_image", "infer_ms"]


@pytest.fixture
def fakes(monkeypatch):
    """Instead of networks and of PyTorch, which need not be here."""

    def of(kind, *names):
        return lambda network, batch_size, *rest, **more: {
            f"{kind} {name}": Entrant(Fake, batch_size, {"mb": 2}) for name in names
        }

    def theirs(network, batch_size, compiled=False, **more):
        found = of("PyTorch", "eager NCHW float32")(network, batch_size)
        return found | ({"PyTorch compiled float32": Entrant(Broken, batch_size)} if compiled else {})

    monkeypatch.setattr("xconv.measure.contestants.entrants", of("xconv", "fake float32"))
    monkeypatch.setattr("xconv.measure.pytorch.entrants", theirs)
    monkeypatch.setattr("xconv.measure.pytorch.find_spec", lambda name: object())
    monkeypatch.setattr("xconv.measure.comparison.MEMORY_RUNS", 1)


def test_peer(run, fakes):
    pytest.importorskip("matplotlib")
    code, out, err = run(*PEER, "--compile", "--out", "a/b")
    assert code == 0 and os.listdir() == ["a"]
    assert sorted(os.listdir("a/b")) == ["peers.json", "peers.png"]
    assert "| training step " in out and "xconv fake over PyTorch's best" in out
    assert "PyTorch compiled did not compete: RuntimeError: this one has no compiler, and says so" in out
    assert "xconv: round 1 of 1" in err and "xconv: wrote a/b/peers.png" in err


def test_peer_json(run, fakes):
    code, out, _ = run(*PEER, "--batch-size", "7", "--json")
    result = one_json_line(out)
    assert code == 0 and list(result) == KEYS
    assert (result["model"], result["batch_size"], result["task"]) == ("simple-convnet", 7, "step")
    assert list(result["contestants"]) == ["xconv fake float32", "PyTorch eager NCHW float32"]
    assert os.listdir() == []


@pytest.mark.parametrize(("task", "epochs"), [("fit", 2), ("book", 2)])
def test_peer_of_whole_epochs(run, few, monkeypatch, task, epochs):
    """The real thing, on few images: both have trained the same network."""
    pytest.importorskip("torch")
    monkeypatch.setattr("xconv.cli.beside.data_of", lambda *_: (Data("noise", 200), 200))
    code, out, _ = run(
        "bench", "--peer", "torch", "--backend", "numpy", "--task", task, "--rounds", str(epochs), "--json"
    )
    result = one_json_line(out)
    assert code == 0 and result["tasks"] == [task] and (result["data"], result["images"]) == ("noise", 200)
    ours, *theirs = result["contestants"].values()
    assert len(theirs) == 2 and "step_mb" not in ours
    for row in (ours, *theirs):
        assert len(row[task]) == epochs and row["about"]["compile_seconds"] >= 0
        assert row["last_loss"] == pytest.approx(ours["last_loss"], rel=1e-3)
    assert [row["task"] for row in result["ratios"]] == [task]


def test_what_epochs_are_trained_on(monkeypatch):
    from xconv import zoo
    from xconv.cli.beside import data_of
    from xconv.measure import Network

    loaded = []
    monkeypatch.setattr(Data, "arrays", lambda self, net: loaded.append(self.name) or [range(3)])
    plain, vgg = (Network(name, zoo.recipe(name)) for name in ("keras-mnist", "vgg16-bn-cifar10"))
    monkeypatch.delenv("XCONV_DATA_DIR", raising=False)
    assert data_of(None, plain, 64) == (Data("mnist-sample"), 3)
    assert data_of("fashion-mnist", plain, 64) == (Data("fashion-mnist"), 3)
    monkeypatch.setenv("XCONV_DATA_DIR", "here")
    assert data_of(None, plain, 64) == (Data("mnist"), 3)
    assert loaded == ["mnist-sample", "fashion-mnist", "mnist"]
    assert data_of(None, vgg, 64) == (Data("noise", 640), 640)


def test_without_pytorch(run, monkeypatch):
    monkeypatch.setattr("xconv.measure.pytorch.find_spec", lambda name: None)
    for command in (PEER, (*SWEEP, "batch", "--peer", "torch")):
        code, out, err = run(*command, "--out", "a")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert 'pip install "xconv[bench]"' in err and "Received: no module named torch" in err
        assert os.listdir() == []


@pytest.mark.parametrize("axis", ["batch", "channels", "image", "threads"])
def test_sweep(run, fakes, axis):
    pytest.importorskip("matplotlib")
    sizes = {"batch": "8,1", "channels": "4", "image": "14", "threads": "1,2"}[axis]
    code, out, _ = run(*SWEEP, axis, "--sizes", sizes, "--peer", "torch", "--out", "a", "--json")
    result = one_json_line(out)
    assert code == 0 and sorted(os.listdir("a")) == [f"sweep-{axis}.json", f"sweep-{axis}.png"]
    assert result["sizes"] == sorted(map(int, sizes.split(",")))
    assert result["names"] == ["xconv fake float32", "PyTorch eager NCHW float32"]
    assert len(result["rows"]) == 2 * len(result["sizes"]) and list(result["rows"][0])[:7] == ROW


def test_a_sweep_of_a_real_network(run):
    code, out, _ = run(*SWEEP, "batch", "--sizes", "1,2")
    assert code == 0 and "xconv numpy float32" in out and "| batch | train ms | ms/image | over best |" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--rounds", "2"], "--rounds needs --peer torch or --sweep"),
        (["--out", "a"], "--out needs --peer torch or --sweep"),
        (["--task", "fit"], "--task needs --peer torch"),
        (["--sizes", "1"], "--sizes needs --sweep"),
        (["--peer", "torch", "--steps", "3"], "--steps does not go with --peer"),
        (["--peer", "torch", "--sizes", "3"], "--sizes needs --sweep"),
        (["--peer", "jax"], "'jax' is not 'torch'"),
        (["--peer", "torch", "--task", "train"], "'step', 'fit', 'book'"),
        (["--peer", "torch", "--task", "book", "--model", "keras-mnist"], "simple-convnet's run"),
        (["--peer", "torch", "--data", "mnist"], "--data needs --task fit or --task book"),
        (["--peer", "torch", "--task", "fit", "--model", "vgg16-bn-cifar10", "--data", "mnist"], "timed on noise"),
        (["--sweep", "depth"], "'batch', 'channels', 'image', 'threads'"),
        (["--sweep", "batch", "--sizes", "1,zero"], "such as 1,8,64. Received: '1,zero'"),
        (["--sweep", "batch", "--sizes", "0"], "from 1 up"),
        (["--sweep", "batch", "--batch-size", "3"], "give them with --sizes"),
        (["--sweep", "batch", "--compile"], "--compile does not go with --sweep"),
        (["--sweep", "image", "--sizes", "2"], "can have none of the sizes"),
        (["--sweep", "batch", "--out", "file"], "a file is in the way"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes(run, args, words, monkeypatch):
    monkeypatch.setattr("xconv.measure.pytorch.find_spec", lambda name: object())
    with open("file", "w"):
        pass
    code, out, err = run("bench", *args)
    assert (code, out) == (2, "") and words in err.splitlines()[-1]
    assert os.listdir() == ["file"]
