"""`xconv train` as its users meet it: what it prints, what it writes, and how it is interrupted."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import xconv
from tests.cli import COMMAND, ENV, FILES, PICTURES, QUICK, one_json_line, shell
from xconv import checkpoint, data
from xconv.cli.watch import Brake, Stopped

TRAIN_KEYS = [
    "backend", "device", "model", "data", "epochs", "steps", "train_loss", "test_loss", "train_accuracy",
    "test_accuracy", "train_seconds", "compile_seconds", "images_per_second", "peak_rss_mb", "out",
]  # fmt: skip
COLUMNS = ["epoch", "loss", "accuracy", "val_loss", "val_accuracy", "seconds", "images_per_second"]


def test_train_on_the_sample(tmp_path):
    done = shell("train", "--epochs", "1", "--out", "run/one", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = one_json_line(done.stdout)
    assert list(result) == TRAIN_KEYS
    assert result["backend"] in ("numpy", "numba", "cupy")
    assert (result["model"], result["data"], result["epochs"]) == ("simple-convnet", "mnist-sample", 1)
    assert result["steps"] == 100 and result["out"] == "run/one"
    assert 0.9 < result["test_accuracy"] < 1 and 0.9 < result["train_accuracy"] < 1
    assert 0 < result["test_loss"] < 0.4 and 0 < result["train_loss"] < 0.4
    assert result["images_per_second"] == pytest.approx(10_000 / result["train_seconds"])
    assert result["compile_seconds"] >= 0 and result["peak_rss_mb"] > 50

    folder = tmp_path / "run" / "one"
    assert sorted(os.listdir(folder)) == FILES
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in PICTURES)
    (row,) = csv.DictReader((folder / "history.csv").read_text().splitlines())
    assert list(row) == COLUMNS
    assert float(row["val_accuracy"]) == result["test_accuracy"]
    net = xconv.SimpleConvNet(backend="numpy")
    net.load_weights(folder / "model.safetensors")
    _, _, x, t = data.load().arrays()
    assert net.accuracy(x, t) == pytest.approx(result["test_accuracy"], abs=2e-4)

    assert "getting ready" in done.stderr and "ready after" in done.stderr
    assert re.search(
        r"epoch 1/1: loss 0\.\d{4}  accuracy 0\.\d{4}  val_loss 0\.\d{4}  val_acc\w+ 0\.\d{4}  [\d,]+ images/s",
        done.stderr,
    )
    assert "\r" not in done.stderr  # no bar where nobody looks


def test_table(run, few):
    code, out, err = run(*QUICK, "--out", "here")
    assert code == 0 and "simple-convnet on mnist-sample, numpy" in out
    assert re.search(r"accuracy +0\.\d{4} +0\.\d{4}", out)
    assert "1 epoch, 6 steps in" in out and "compilation" in out
    assert f"written to here: {', '.join(FILES)} to see it all on one page: xconv report here" in " ".join(out.split())
    assert "{" not in out and all(len(line) <= 80 for line in out.splitlines())
    assert all(len(line) <= 120 for line in err.splitlines())


def test_options_reach_the_training(run, few):
    code, out, err = run(*QUICK, "--batch-size", "100", "--optimizer", "SGD", "--seed", "3", "--json")
    assert code == 0 and "batches of 100, SGD 0.01" in err  # its own rate, since the recipe's is Adam's
    other = one_json_line(run(*QUICK, "--optimizer", "sgd", "--lr", "0.02", "--seed", "3", "--json")[1])
    assert other["test_loss"] != one_json_line(out)["test_loss"]
    assert "AdaGrad 0.06" in run(*QUICK, "--recipe", "book")[2]


def test_backend_from_the_environment(run, few, monkeypatch):
    monkeypatch.setenv("XCONV_BACKEND", "numpy")
    assert one_json_line(run("train", "--epochs", "1", "--json")[1])["backend"] == "numpy"


def test_one_seed_gives_one_file(run, few):
    for name in "ab":
        assert run(*QUICK, "--out", name)[0] == 0
    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


def test_a_second_run_replaces_the_first_and_leaves_other_files(run, few):
    assert run(*QUICK, "--out", "run")[0] == 0
    before = Path("run/model.safetensors").read_bytes()
    Path("run/notes.txt").write_text("mine")
    again = *QUICK, "--out", "run", "--seed", "1"
    code, out, err = run(*again)
    assert (code, out) == (2, "") and Path("run/model.safetensors").read_bytes() == before
    received = "Received: a folder that holds a run"
    assert err.endswith(f"--overwrite to replace what is there. {received} of simple-convnet on mnist-sample\n")
    Path("run/run.json").unlink()
    assert run(*again)[2].endswith(f"{received}\n")
    assert run(*again, "--overwrite")[0] == 0
    assert Path("run/model.safetensors").read_bytes() != before
    assert sorted(os.listdir("run")) == sorted([*FILES, "notes.txt"])


def test_without_matplotlib_there_are_no_pictures(run, few, monkeypatch):
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.ticker"):
        monkeypatch.setitem(sys.modules, name, None)
    code, out, err = run(*QUICK, "--out", "run")
    assert code == 0 and sorted(os.listdir("run")) == ["history.csv", "model.safetensors", "run.json"]
    assert err.count("matplotlib") == 1 and "pip install 'xconv[plot]'" in err
    assert "written to run: history.csv, model.safetensors, run.json\n" in out


def test_a_dead_network_is_told_once(run, few):
    code, _, err = run("train", "--backend", "numpy", "--recipe", "book", "--lr", "50", "--epochs", "3")
    assert code == 0
    (line,) = [line for line in err.splitlines() if "warning" in line]
    assert line.startswith("xconv: warning: the network is dead: ") and "Cure: " in line


def test_a_loss_that_explodes_leaves_the_last_finite_network(run, few):
    code, out, err = run(*QUICK, "--optimizer", "sgd", "--lr", "1e30", "--out", "run")
    (said,) = [line for line in err.splitlines() if "smaller learning rate" in line]
    assert (code, out) == (2, "") and "is as it was before that step" in said
    assert said == err.splitlines()[-1] and said.endswith("; what there is was written to run")
    assert {"model.safetensors", "history.csv", "run.json"} <= set(os.listdir("run"))
    told = json.loads(Path("run/run.json").read_text())
    assert told["interrupted"] == "in epoch 1: numbers became NaN or infinite"
    tensors, _ = checkpoint.load("run/model.safetensors")
    assert all(np.isfinite(w).all() for name, w in tensors.items() if not name.startswith("training/"))
    assert run("report", "run")[0] == 0
    assert "interrupted in epoch 1: numbers became" in Path("run/report.html").read_text()


def test_a_loss_that_explodes_later_keeps_the_epochs_before(run, few, monkeypatch):
    def finite_once(self, epoch, logs=None):
        if epoch:
            self.model.optimizer.lr = 1e30

    monkeypatch.setattr(Brake, "on_epoch_begin", finite_once)
    code, _, err = run(*QUICK[:-1], "3", "--optimizer", "sgd", "--out", "run")
    assert code == 2 and "in epoch 2, step " in err.splitlines()[-1]
    assert [row["epoch"] for row in csv.DictReader(Path("run/history.csv").read_text().splitlines())] == ["1"]
    tensors, _ = checkpoint.load("run/model.safetensors")
    assert all(np.isfinite(w).all() for name, w in tensors.items() if not name.startswith("training/"))


def test_a_loss_that_explodes_without_out_or_room(run, few, monkeypatch):
    code, out, err = run(*QUICK, "--optimizer", "sgd", "--lr", "1e30")
    assert (code, out) == (2, "") and err.splitlines()[-1].endswith("; nothing was written, since there was no --out")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xconv.files.os.replace", full)
    code, out, err = run(*QUICK, "--optimizer", "sgd", "--lr", "1e30", "--out", "run")
    last = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert re.search("No space left on device.*Before that, the loss became .* in epoch 1", last)


def test_a_disk_that_is_full_at_the_end(run, few, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("xconv.files.os.replace", full)
    code, out, err = run(*QUICK, "--out", "run")
    assert code == 2 and out == "" and not os.path.exists("run")
    assert "model.safetensors: could not be written" in err.splitlines()[-1]


# ---------------------------------------------------------------------- Ctrl-C, SIGTERM


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_while_training(tmp_path, signum, code):
    process = subprocess.Popen(
        [*COMMAND, "train", "--backend", "numba", "--epochs", "500", "--out", "run", "--json"],
        cwd=tmp_path,
        env=ENV,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "epoch 1/500" in line:
            time.sleep(0.2)
            process.send_signal(signum)
            break
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, "".join(lines) + err
    assert out == "" and "Traceback" not in err
    assert re.fullmatch(
        r"xconv: interrupted in epoch \d+ after step \d+; what there is was written to run", err.splitlines()[-1]
    )
    assert sorted(os.listdir(tmp_path / "run")) == FILES
    tensors, metadata = checkpoint.load(tmp_path / "run" / "model.safetensors")
    assert sum(not name.startswith("training/") for name in tensors) == 6 and "training/optimizer/hyper" in tensors
    assert metadata["architecture"]["model"] == "SimpleConvNet"
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) >= 2


def test_interrupted_in_the_first_epoch(run, few, monkeypatch):
    original = Brake.on_train_batch_end

    def step(self, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    monkeypatch.setattr(Brake, "on_train_batch_end", step)
    before = signal.getsignal(signal.SIGTERM)
    code, out, err = run(*QUICK, "--out", "run")
    assert (code, out) == (143, "") and "interrupted in epoch 1 after step 1" in err
    assert sorted(os.listdir("run")) == [name for name in FILES if name != "curves.png"]  # no epoch to draw
    assert "not drawn: curves.png: no epoch was finished" in err
    assert Path("run/history.csv").read_text().startswith("epoch,loss,accuracy")
    assert signal.getsignal(signal.SIGTERM) is before
    code, out, err = run(*QUICK)
    assert code == 143 and err.splitlines()[-1].endswith("nothing was written, since there was no --out")


def test_interrupted_before_training(run, monkeypatch):
    monkeypatch.setattr("xconv.data.load", lambda _: os.kill(os.getpid(), signal.SIGINT))
    code, out, err = run(*QUICK, "--out", "run")
    assert (code, out) == (130, "") and "before training began; nothing was written" in err
    assert not os.path.exists("run")


def test_asked_twice_it_stops_at_once():
    with Brake() as brake:
        brake.on_train_begin()
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(Stopped):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("last", [False, True])
def test_asked_while_testing_the_epoch_is_kept(last):
    with Brake() as brake:
        brake.on_train_begin()
        brake.on_epoch_begin(0)
        brake.on_train_batch_end(6)
        os.kill(os.getpid(), signal.SIGTERM)
        brake.on_epoch_end(0, {})  # callbacks that come later hear of this epoch
        with pytest.raises(Stopped) as stopped:
            brake.on_train_end() if last else brake.on_epoch_begin(1)
        assert (stopped.value.code, brake.epoch, brake.step) == (143, 1, 7)
        brake.on_train_end()  # says it once
