"""`xconv report`, and the folder that `xconv train --out` writes for it."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cli import FILES, QUICK, one_json_line
from xconv import __version__, checkpoint, zoo
from xconv.cli.keep import _source, title
from xconv.cli.watch import Brake
from xconv.data import Augmentation
from xconv.schedules import PiecewiseConstant

pytest.importorskip("matplotlib")


def told(folder: str = "run") -> dict:
    return json.loads(Path(folder, "run.json").read_text("utf-8"), parse_constant=pytest.fail)


@pytest.fixture
def undrawn(monkeypatch):
    """No pictures, which take longer than these trainings."""
    monkeypatch.setattr("xconv.report.keep_pictures", lambda *_, **__: {})


def test_a_run_and_its_page(run, few, tmp_path):
    code, out, _ = run(*QUICK, "--out", str(tmp_path / "run"), "--batch-size", "50", "--lr", "0.002", "--json")
    result = one_json_line(out)
    assert code == 0 and sorted(os.listdir("run")) == FILES
    about = told()
    assert (about["model"], about["data"]["name"]) == ("simple-convnet", few.name)
    assert about["data"]["training_images"] == 600 and about["data"]["test_images"] == 200
    assert about["classes"] == [str(k) for k in range(10)] and about["versions"]["xconv"] == __version__
    plan = zoo.recipe("simple-convnet")
    assert about["recipe"]["name"] == "default" and about["recipe"]["lr"] == plan.lr
    entry = zoo.entry("simple-convnet")
    assert about["recipe"]["settings"] == dict(plan.settings)
    assert about["source"] == f"{entry.source}; published {entry.published}"
    assert (about["epochs"], about["batch_size"], about["seed"]) == (1, 50, 0)
    assert about["optimizer"]["lr"] == 0.002 and about["backend"]["backend"] == "numpy"
    for part in ("training", "test"):
        kind = "train" if part == "training" else part
        assert about["results"][part] == {name: result[f"{kind}_{name}"] for name in ("loss", "accuracy")}
    assert about["throughput"]["train_seconds"] == result["train_seconds"]
    assert about["throughput"]["compile_seconds"] == result["compile_seconds"]
    assert "not_drawn" not in about and "interrupted" not in about

    code, out, err = run("report", "run")
    assert (code, err) == (0, "") and out.startswith(f"written to {Path('run', 'report.html')}: ")
    page = Path("run/report.html").read_text("utf-8")
    assert page.count("data:image/png;base64,") == 5 and f"{100 * result['test_accuracy']:.2f} %" in page
    assert "it is not in the folder" not in page
    machine = [str(tmp_path), str(Path.home()), os.uname().nodename]
    for text in (json.dumps(about), re.sub(r"base64,[^\"]*", "", page)):
        assert not [word for word in machine if len(word) > 3 and word in text]
    entry = one_json_line(run("report", "run", "--json")[1])
    assert entry == {"file": str(Path("run", "report.html")), "bytes": len(page.encode()), "missing": {}}


def test_the_command_repeats_the_run(run, few, undrawn):
    options = ("--recipe", "book", "--seed", "7", "--no-record", "--optimizer", "sgd", "--batch-size", "60")
    assert run(*QUICK, *options, "--out", "one", "--overwrite")[0] == 0
    command = shlex.split(told("one")["command"])
    assert command[:2] == ["xconv", "train"] and "one" not in command
    assert run(*command[1:], "--out", "two")[0] == 0
    first, second = (checkpoint.load(Path(name, "model.safetensors"))[0] for name in ("one", "two"))
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert told("two")["command"] == told("one")["command"]
    assert run(*QUICK, "--out", "three")[0] == 0
    expected = (
        "xconv train --model simple-convnet --data mnist-sample --backend numpy --epochs 1 --batch-size 100 --seed 0"
    )
    assert sorted(shlex.split(told("three")["command"])) == sorted(expected.split())


def test_filters_before_training_are_the_initial_ones(run, few, monkeypatch):
    seen = {}
    for name in ("curves", "feature_maps", "predictions", "confusion"):
        monkeypatch.setattr(f"xconv.plots.save_{name}", lambda *_, **__: None)
    monkeypatch.setattr(
        "xconv.plots.save_filters", lambda path, after, before, **_: seen.update(after=after, before=before)
    )
    assert run(*QUICK, "--out", "run", "--seed", "5")[0] == 0
    fresh = zoo.entry("simple-convnet").build(zoo.recipe("simple-convnet"), backend="numpy", seed=5)
    assert np.array_equal(seen["before"], fresh.params["W1"]) and not np.array_equal(seen["after"], seen["before"])


def test_interrupted_in_the_second_epoch(run, few, monkeypatch):
    original = Brake.on_train_batch_end

    def step(self, batch, *args):
        if self.epoch == 2:
            os.kill(os.getpid(), 2)
        original(self, batch, *args)

    monkeypatch.setattr(Brake, "on_train_batch_end", step)
    code, out, err = run("train", "--backend", "numpy", "--epochs", "3", "--out", "run")
    assert (code, out) == (130, "") and "interrupted in epoch 2 after step 1" in err
    assert sorted(os.listdir("run")) == FILES
    about = told()
    assert (
        about["interrupted"] == "in epoch 2 after step 1" and about["epochs"] == 1 and "--epochs 3" in about["command"]
    )
    assert set(about["results"]) == {"training_as_it_went", "test"}
    assert run("report", "run")[0] == 0
    assert "Training was interrupted in epoch 2 after step 1." in Path("run/report.html").read_text("utf-8")


def test_all_of_a_recipe_is_used_and_kept(run, few, monkeypatch, undrawn):
    recipe = zoo.Recipe(
        "sgd", PiecewiseConstant([2], [0.05, 0.01]), 100, 1, {}, {"momentum": 0.5}, Augmentation(crop=2)
    )
    original = zoo.recipe
    monkeypatch.setattr("xconv.zoo.recipe", lambda name, which="default": recipe if which == "book" else original(name))
    assert run(*QUICK, "--recipe", "book", "--out", "run")[0] == 0
    about = told()
    assert about["optimizer"]["momentum"] == 0.5 and about["optimizer"]["lr"] == recipe.lr.config()
    assert about["augmentation"] == about["recipe"]["augmentation"] == recipe.augmentation.config()
    assert about["recipe"]["rule"] == {"momentum": 0.5} and "--recipe book" in about["command"]
    plain = replace(recipe, augmentation=None)
    monkeypatch.setattr("xconv.zoo.recipe", lambda *_: plain)
    assert run(*QUICK, "--recipe", "book", "--out", "plain")[0] == 0
    assert told("plain")["results"]["test"]["loss"] != about["results"]["test"]["loss"]
    assert run(*QUICK, "--recipe", "book", "--optimizer", "adam", "--out", "other")[0] == 0
    assert told("other")["optimizer"]["kind"] == "Adam"  # whose rate is its own, and which has no momentum


def test_a_picture_that_cannot_be_drawn_is_told(run, few, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    code, _, err = run(*QUICK, "--out", "run")
    assert code == 0 and sorted(told()["not_drawn"]) == sorted(name for name in FILES if name.endswith(".png"))
    assert err.count("pip install 'xconv[plot]'") == 1  # all five in one line
    code, _, err = run("report", "run")
    assert code == 0 and err.count("not in the page: ") == 5
    assert "pip install &#x27;xconv[plot]&#x27;" in Path("run/report.html").read_text("utf-8")


def test_more_classes_than_the_data_has(run, few, monkeypatch, undrawn):
    named = replace(few, classes=tuple("abcdefgh"), t_train=few.t_train % 8, t_test=few.t_test % 8)
    monkeypatch.setattr("xconv.data.load", lambda name: named)
    assert run(*QUICK, "--out", "run")[0] == 0
    assert told()["classes"] == [*"abcdefgh", "8", "9"]


@pytest.mark.parametrize("model", zoo.ZOO)
def test_a_published_figure_stands_only_beside_its_own_data(model):
    entry = zoo.ZOO[model]
    for data in ("mnist-sample", "mnist", "fashion-mnist", "cifar10", "pictures"):
        source = _source(entry, data)
        if data == entry.data or (data, entry.data) == ("mnist", "mnist-sample"):
            assert source == entry.source + (f"; published {entry.published}" if entry.published else "")
        else:
            assert source == entry.source and "published" not in source
    assert bool(entry.published) == (model not in ("mnist-dropout", "vgg16"))


def test_one_title():
    """Where a folder lies is nobody's concern; ./ is only for the command line."""
    assert title("vgg16", "cifar10") == "vgg16 on cifar10"
    assert title("vgg16", "./pets") == title("vgg16", "pets/") == title("vgg16", "/a/b/pets") == "vgg16 on pets"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ("report", "nowhere"),
            "nowhere: expected the folder that 'xconv train --out' wrote. Received: no such folder",
        ),
        (("report", "empty"), "empty: expected a run, with run.json"),
        (("report",), "Missing argument"),
    ],
)
def test_mistakes_are_one_line(run, args, message):
    os.mkdir("empty")
    code, out, err = run(*args)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err and "Traceback" not in err


def test_a_damaged_run_is_one_line(run, tmp_path):
    Path("run").mkdir()
    Path("run/run.json").write_text("{")
    code, out, err = run("report", "run")
    assert (code, out) == (2, "") and err.count("\n") == 1 and "run.json: expected JSON" in err
    assert os.listdir("run") == ["run.json"]
