"""A run's folder: what is kept, and what cannot be read."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xconv
from tests.reports import NAMES, network, page
from xconv import report
from xconv.errors import ConfigError, FileError
from xconv.layers import Dense, Flatten

pytest.importorskip("matplotlib")


# ---------------------------------------------------------------------- the folder


def test_what_is_kept(kept):
    folder, net = kept
    assert sorted(os.listdir(folder)) == sorted(["model.safetensors", "history.csv", "run.json", *report.PICTURES])
    told = json.loads((folder / "run.json").read_text("utf-8"), parse_constant=pytest.fail)
    assert told["format"] == 1 and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", told["date"])
    assert (told["model"], told["seed"], told["dtype"], told["epochs"]) == ("small <i>net</i>", 0, "float32", 3)
    assert told["optimizer"] == net.optimizer.config() and told["classes"] == NAMES
    assert told["backend"] == net.backend.describe() and told["versions"]["numpy"] == np.__version__
    assert told["throughput"]["steps"] == 9 and told["throughput"]["images_per_second"] > 0
    history = net.history.history
    assert told["results"]["test"] == {"loss": history["val_loss"][-1], "accuracy": history["val_accuracy"][-1]}
    assert told["results"]["training_as_it_went"]["loss"] == history["loss"][-1]
    again = xconv.load(folder / "model.safetensors", backend="numpy")
    assert all(np.array_equal(a, b) for a, b in zip(again.get_weights(), net.get_weights(), strict=True))
    assert (folder / "history.csv").read_text().count("\n") == 4


def test_no_run_tells_where_or_whose_it_is(kept):
    text = (kept[0] / "run.json").read_text("utf-8")
    secrets = [
        str(kept[0]),
        str(Path.home()),
        os.sep + "tmp",
        os.uname().nodename,
        *filter(None, [os.environ.get("USER")]),
    ]
    assert not [word for word in secrets if len(word) > 3 and word in text]


def test_a_run_replaces_another_with_all_its_pictures(folder, monkeypatch):
    report.write(folder)
    (folder / "notes.txt").write_text("mine")
    fresh = network()
    undrawn = report.keep(folder, fresh)
    assert sorted(os.listdir(folder)) == ["filters.png", "history.csv", "model.safetensors", "notes.txt", "run.json"]
    assert undrawn["curves.png"] == "no epoch was finished" and undrawn["confusion.png"] == "no test images were given"
    assert json.loads((folder / "run.json").read_text())["not_drawn"] == undrawn


def test_networks_of_other_kinds_keep_what_there_is(tmp_path):
    net = xconv.Sequential([Flatten(), Dense(1)], input_shape=(4, 4, 1), backend="numpy")
    net.compile("sgd", "mse")
    x = np.random.default_rng(0).random((8, 4, 4, 1))
    net.fit(x, x.mean((1, 2)), epochs=2, verbose=0)
    undrawn = report.keep(tmp_path, net, test=(x, x.mean((1, 2))))
    assert set(undrawn) == {"filters.png", "features.png", "predictions.png", "confusion.png"}
    assert "a convolution" in undrawn["filters.png"] and "tells classes apart" in undrawn["confusion.png"]
    shown = page(tmp_path)
    assert len(shown.images) == 1 and "a convolution" in shown.text


def test_examples_that_are_read_when_needed(tmp_path, kept):
    raw, t = np.random.default_rng(1).integers(0, 256, (40, 8, 8, 1), np.uint8), np.arange(40) % 3
    for name, x in (("bytes", xconv.data.Pixels(raw)), ("floats", raw / 255)):
        (tmp_path / name).mkdir()
        assert report.keep_pictures(tmp_path / name, kept[1], test=(x, t)) == {}
    for name in ("features.png", "predictions.png", "confusion.png"):
        shown = [np.asarray(Image.open(tmp_path / kind / name)) for kind in ("bytes", "floats")]
        assert np.array_equal(*shown), name


def test_values_that_json_lacks(tmp_path):
    report.keep_about(tmp_path, {"a": float("nan"), "b": np.float32(0.5), "c": (1, np.int64(2)), 3: None})
    assert json.loads((tmp_path / "run.json").read_text()) == {"a": None, "b": 0.5, "c": [1, 2], "3": None}
    with pytest.raises(ConfigError, match="plain JSON values"):
        report.keep_about(tmp_path, {"a": object()})


CYCLE: dict = {}
CYCLE["in"] = CYCLE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"notes": {"data": "cifar folder"}}, r"run\.json: data: expected a mapping\. Received: 'cifar folder'"),
        ({"notes": {"recipe": ["sgd"]}}, "recipe: expected a mapping"),
        ({"notes": {"throughput": 3.0}}, "throughput: expected a mapping"),
        ({"notes": {"results": {"test": 0.5}}}, "results: test: expected a mapping"),
        ({"notes": {"epochs": "five"}}, r"epochs: expected a whole number\. Received: 'five'"),
        ({"notes": {"command": ["xconv", "train"]}}, "command: expected a text"),
        ({"notes": {"mine": object()}}, "expected plain JSON values"),
        ({"notes": {"mine": CYCLE}}, "expected plain JSON values"),
        ({"notes": {"mine": "a" * (1 << 20)}}, "expected at most 1,048,576 bytes"),
        ({"notes": "text"}, "notes: expected a mapping"),
        ({"classes": "abc"}, "classes: expected names"),
        ({"classes": 3}, "classes: expected names"),
        ({"before": "random"}, "before: expected the array"),
        ({"test": np.zeros((30, 8, 8, 1))}, r"test: expected a pair \(x, labels\)\. Received: .*30"),
        ({"test": (np.zeros((30, 8, 8, 1)), None)}, "test: expected an array of labels"),
        ({"test": (iter(()), np.zeros(3, int))}, "test: expected an array of examples"),
        ({"test": (np.zeros((3, 8, 8, 1)), np.zeros(2, int))}, "Received: 3 examples, 2 labels"),
        ({"test": (np.zeros((0, 8, 8, 1)), np.zeros(0, int))}, "Received: 0 examples, 0 labels"),
    ],
)
def test_what_cannot_be_kept_leaves_the_earlier_run(folder, kept, given, message):
    report.write(folder)
    earlier = {entry.name: entry.read_bytes() for entry in folder.iterdir()}
    with pytest.raises(ConfigError, match=message):
        report.keep(folder, kept[1], **given)
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == earlier


def test_folder_and_model_in_the_other_order(folder, kept):
    with pytest.raises(ConfigError, match="folder: expected a path; it stands before the model"):
        report.keep(kept[1], folder)
    with pytest.raises(ConfigError, match=r"model: expected a model\. Received: 'net'"):
        report.keep(folder, "net")
    assert "report.html" not in os.listdir(folder) and "curves.png" in os.listdir(folder)


@pytest.mark.parametrize("epochs", [4, 5])
def test_results_are_of_the_last_epoch_that_was_tested(tmp_path, epochs):
    net = network()
    x, t = np.random.default_rng(0).random((12, 8, 8, 1)), np.arange(12) % 3
    net.fit(x, t, 6, epochs, validation_data=(x, t), validation_freq=2, verbose=0)
    report.keep(tmp_path / "run", net)
    history = net.history.history
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    expected = {"loss": history["val_loss"][3], "accuracy": history["val_accuracy"][3]}
    assert results["test"] == (expected if epochs == 4 else {**expected, "epoch": 4})
    assert results["training_as_it_went"] == {name: history[name][-1] for name in ("loss", "accuracy")}
    shown = page(tmp_path / "run")
    assert shown.row("loss")[1] == f"{expected['loss']:.4f}"
    assert ("test loss after epoch 4" in shown.text) == (epochs == 5)
    assert (["epoch", "", "4"] in [row for table in shown.tables for row in table]) == (epochs == 5)


# ---------------------------------------------------------------------- what cannot be read


def test_no_folder_or_no_run(tmp_path):
    with pytest.raises(FileError, match=r"nowhere: expected the folder .* Received: no such folder"):
        report.write(tmp_path / "nowhere")
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="Received: a file"):
        report.write(tmp_path / "file")
    with pytest.raises(
        FileError, match=r"expected a run, with run\.json, history\.csv, model\.safetensors .* with file"
    ):
        report.write(tmp_path)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected JSON"),
        (b'{"model": "a"', "expected JSON"),
        (b"[1]", "expected a JSON object"),
        (b'"text"', "expected a JSON object"),
        (b'{"results": 3}', "results: expected an object"),
        (b'{"results": {"test": 0.5}}', "results: test: expected an object"),
        (b'{"backend": []}', "backend: expected an object"),
        (b"\xff\xfe{}", "expected UTF-8"),
        (b"[" * 100_000, "expected JSON"),
        (b" " * (1 << 20) + b"{}", "expected at most 1,048,576 bytes"),
    ],
)
def test_a_damaged_run_json(folder, content, message):
    (folder / "run.json").write_bytes(content)
    with pytest.raises(FileError, match=rf"run\.json: {message}.*Received: "):
        report.write(folder)
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a first line with 'epoch'"),
        ("loss\n1\n", "a first line with 'epoch'"),
        ("epoch,loss\n1,high\n", "line 2: expected numbers"),
        ("epoch,loss\n1\n", "line 2: expected 2 cells"),
        ("epoch,loss\n1,2,3\n", "line 2: expected 2 cells"),
    ],
)
def test_a_damaged_history(folder, content, message):
    (folder / "history.csv").write_text(content)
    with pytest.raises(FileError, match=rf"history\.csv: .*{message}.*Received: "):
        report.write(folder)


def test_a_damaged_model_is_said_in_the_page(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    text = page(folder).text
    assert "model.safetensors cannot be shown: " in text and str(folder) not in text


def test_every_prefix_of_run_json_is_read_or_refused(folder):
    whole = (folder / "run.json").read_bytes().rstrip()
    for length in range(0, len(whole), 37):
        (folder / "run.json").write_bytes(whole[:length])
        with pytest.raises(FileError, match=r"run\.json"):
            report.read(folder)
    (folder / "run.json").write_bytes(whole)
    assert report.read(folder).about["seed"] == 0


def test_a_page_that_cannot_be_written_leaves_the_old_one(folder, monkeypatch):
    report.write(folder)
    before = (folder / "report.html").read_bytes()
    monkeypatch.setattr("xconv.files.os.replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(FileError, match="the disk is full"):
        report.write(folder)
    assert (folder / "report.html").read_bytes() == before
