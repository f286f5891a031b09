"""`--data`: names, folders of pictures, and what each network takes where it is not given; the names of classes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xconv
from tests.cli import ENV, one_json_line, shell
from xconv import data, zoo
from xconv.errors import FileError
from xconv.layers import Dense, Flatten

CLASSES = ("[dark]", "bright", "striped")  # brackets are no markup


def draw(root: Path, counts: tuple[int, int, int] = (20, 20, 20), size: int = 32) -> Path:
    """Pictures in colour that any network tells apart, with some noise."""
    rng = np.random.default_rng(0)
    for name, count in zip(CLASSES, counts, strict=True):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 40, (size, size + 8, 3))
            if name == "bright":
                pixels += 200
            elif name == "striped":
                pixels[::4] += 200
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return draw(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def colour(tmp_path) -> Path:
    """The file of a network for pictures of 8x8 in colour and three classes, as it begins."""
    net = xconv.Sequential(
        [Flatten(), Dense(3, activation="softmax")], name="colour", input_shape=(8, 8, 3), backend="numpy"
    )
    net.compile("sgd", "sparse_categorical_crossentropy", ["accuracy"])
    (tmp_path / "run").mkdir()
    net.save(tmp_path / "run" / "model.safetensors")
    return tmp_path / "run" / "model.safetensors"


def mistake(run, *args: str) -> str:
    code, out, err = run(*args, "--backend", "numpy")
    assert code == 2 and not out, err
    return err


# ---------------------------------------------------------------------- folders


def test_a_folder_from_training_to_prediction(run, pictures, tmp_path):
    """The network gets the folder's classes, and its pictures the network's size and its one channel."""
    train = ("train", "--model", "mnist-dropout", "--data", str(pictures), "--epochs", "12", "--batch-size", "8")
    code, out, err = run(*train, "--backend", "numpy", "--out", "run", "--json")
    assert code == 0 and f"training mnist-dropout on {pictures.name}, 12 epochs" in err, err
    assert run("report", "run")[0] == 0
    assert f"<h1>mnist-dropout on {pictures.name}</h1>" in (tmp_path / "run" / "report.html").read_text("utf-8")
    result = one_json_line(out)
    assert result["data"] == str(pictures) and result["test_accuracy"] == 1.0
    file = tmp_path / "run" / "model.safetensors"
    net = xconv.load(file, backend="numpy")
    assert net.input_shape == (28, 28, 1) and net.classes == 3
    code, out, _ = run("evaluate", str(file), "--data", str(pictures), "--backend", "numpy", "--json")
    judged = one_json_line(out)
    assert code == 0 and judged["images"] == 12  # a fifth of each class: what training held out
    assert judged["loss"] == pytest.approx(result["test_loss"], rel=1e-4) and judged["accuracy"] == 1.0
    said = mistake(run, "evaluate", str(file))
    assert f"was trained on pictures in './{pictures.name}': name them by --data" in said
    shown = [str(pictures / name / "3.png") for name in CLASSES]
    code, out, err = run("predict", str(file), *shown, "--backend", "numpy", "--json")
    assert code == 0 and "--invert" not in err  # not of MNIST's kind
    found = one_json_line(out)
    assert [entry["classes"][0]["name"] for entry in found] == list(CLASSES)
    assert [entry["classes"][0]["class"] for entry in found] == [0, 1, 2]
    code, out, _ = run("predict", str(file), shown[0], "--top", "1", "--backend", "numpy")
    assert code == 0 and "[dark]: " in out and "0: " not in out


def test_names_that_are_not_utf8_from_training_to_prediction(tmp_path, monkeypatch):
    """In processes of their own, whose stdout refuses what is not UTF-8."""
    monkeypatch.setitem(ENV, "PYTHONIOENCODING", "utf-8:strict")
    root = draw(tmp_path / os.fsdecode(b"pict\xe9"), (2, 2, 2), 28)
    try:
        (root / "bright").rename(root / os.fsdecode(b"caf\xe9"))
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    out, small = os.fsdecode(b"run\xe9"), ("--model", "mnist-dropout", "--epochs", "1", "--backend", "numpy")
    done = shell("train", *small, "--data", str(root), "--out", out, cwd=tmp_path)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "mnist-dropout on pict\\xe9, numpy" in done.stdout and "run\\udce9" in done.stdout
    told = json.loads((tmp_path / out / "run.json").read_text("utf-8"))
    assert told["classes"] == ["[dark]", "caf\\xe9", "striped"] and told["data"]["name"] == "./pict\\xe9"
    file = f"{out}/model.safetensors"
    for args in (("evaluate", file, "--data", str(root)), ("predict", file, str(root / "striped" / "0.png"))):
        done = shell(*args, "--backend", "numpy", cwd=tmp_path)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "caf\\xe9: " in " ".join(done.stdout.split())
    assert shell("report", out, cwd=tmp_path).returncode == 0
    assert "caf\\xe9" in (tmp_path / out / "report.html").read_text("utf-8")


def test_train_and_test_in_a_folder(run, tmp_path, colour):
    draw(tmp_path / "both" / "train", (2, 2, 2), 8)
    draw(tmp_path / "both" / "test", (3, 4, 5), 8)
    code, out, _ = run("evaluate", str(colour), "--data", "both", "--backend", "numpy", "--json")
    assert code == 0 and one_json_line(out)["images"] == 12


def test_what_a_folder_lacks_is_one_line(run, tmp_path, colour):
    (tmp_path / "empty").mkdir()
    for command in (("train",), ("evaluate", str(colour))):
        said = mistake(run, *command, "--data", "empty")
        assert said.count("\n") == 1 and "expected a sub-folder for each class" in said
    broken = draw(tmp_path / "broken", (2, 2, 2), 8)
    (broken / "bright" / "1.png").write_text("no picture")
    assert "1 of 6 that cannot be: broken/bright/1.png: expected a picture" in mistake(run, "train", "--data", "broken")
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_folder_of_other_classes_is_refused(run, tmp_path, colour):
    four = draw(tmp_path / "four", (2, 2, 2), 8)
    (four / "bright").rename(four / "light")
    args = ("evaluate", str(colour), "--data", "four")
    assert run(*args, "--backend", "numpy")[0] == 0  # nobody knows what its classes were called
    (colour.parent / "run.json").write_text(json.dumps({"classes": CLASSES}))
    assert "trained on, [dark], bright, striped. Received: [dark], light, striped" in mistake(run, *args)
    (colour.parent / "run.json").unlink()
    draw(tmp_path / "more", (2, 2, 2), 8)
    (tmp_path / "more" / "bright").rename(four / "bright")
    assert "colour knows 3 classes. Received: four, which has 4" in mistake(run, *args)
    assert "colour knows 3 classes. Received: more, which has 2" in mistake(run, *args[:-1], "more")


def test_a_picture_larger_than_pillow_likes_is_one_line(run, tmp_path, colour):
    Image.new("1", (12_000, 8_000)).save(tmp_path / "large.png")
    said = mistake(run, "predict", str(colour), "large.png")
    assert said.count("\n") == 1 and "at most 89,478,485 pixels. Received: 12000x8000" in said


# ---------------------------------------------------------------------- names


@pytest.mark.parametrize("command", [("train",), ("evaluate", "run/model.safetensors")])
def test_what_is_neither_a_name_nor_a_folder(run, tmp_path, command):
    (tmp_path / "cifar.bin").write_bytes(b"x")
    for value, what in (("cifar-10", "neither a known name nor a folder"), ("cifar.bin", "a file"), ("", "neither")):
        said = mistake(run, *command, "--data", value)
        assert "expected one of 'mnist-sample', 'mnist', 'fashion-mnist', 'cifar10', or a folder of pictures" in said
        assert f"Received: {value!r}, {what}" in said


def test_a_name_comes_before_a_folder_so_called(run, tmp_path, few, monkeypatch):
    (tmp_path / "mnist").mkdir()
    monkeypatch.setattr("xconv.data.folder", lambda *_, **__: pytest.fail("read the folder"))
    assert run("train", "--data", "mnist", "--epochs", "1", "--backend", "numpy")[0] == 0
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert "an empty folder" in mistake(run, "train", "--data", "./mnist")


@pytest.mark.parametrize("name", [name for name, entry in zoo.ZOO.items() if entry.data is not None])
def test_each_network_begins_with_the_data_it_was_published_on(run, monkeypatch, name):
    asked = []

    def load(wanted: str) -> None:
        asked.append(wanted)
        raise FileError("no further. Received: a test")

    monkeypatch.setattr("xconv.data.load", load)
    mistake(run, "train", "--model", name)
    assert asked == [zoo.entry(name).data] and asked[0] in data.NAMES
    assert name != "vgg16-bn-cifar10" or asked == ["cifar10"]


def test_a_network_whose_data_is_not_here_asks_for_some(run):
    assert "vgg16 needs --data" in mistake(run, "train", "--model", "vgg16")


def test_evaluate_takes_the_data_of_the_network(run, monkeypatch, tmp_path, colour):
    asked = []
    sample = data.load()
    monkeypatch.setattr("xconv.data.load", lambda name: asked.append(name) or sample)
    assert "takes images of shape (8, 8, 3). Received: mnist-sample" in mistake(run, "evaluate", str(colour))
    net = xconv.Sequential([Flatten(), Dense(10)], name="resnet20-cifar10", input_shape=(8, 8, 3), backend="numpy")
    net.compile("sgd", "mse")
    net.save(tmp_path / "other.safetensors")
    assert "Received: cifar10" in mistake(run, "evaluate", str(tmp_path / "other.safetensors"))
    (colour.parent / "run.json").write_text(json.dumps({"data": {"name": "fashion-mnist"}}))
    assert "Received: fashion-mnist" in mistake(run, "evaluate", str(colour))
    assert asked == ["mnist-sample", "cifar10", "fashion-mnist"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "expected JSON"),
        ("[]", "expected a JSON object"),
        ('{"classes": "abc"}', "expected a list of names. Received: 'abc'"),
        ('{"classes": ["a", 1, "c"]}', "expected a list of names"),
        ('{"classes": ["a", "b", "\\u001b[2J"]}', "expected a list of names"),
        ('{"classes": ["a", "b"]}', "expected names of 3 classes. Received: 2"),
        ("[" * 100_000, "recursion"),
        (" " * (1 << 20) + "{}", "at most 1,048,576 bytes"),
    ],
    ids=["no JSON", "list", "string", "number", "escape", "few", "deep", "large"],
)
def test_names_that_cannot_be_used_are_told_and_numbers_shown(run, pictures, colour, text, why):
    (colour.parent / "run.json").write_text(text)
    code, out, err = run("predict", str(colour), str(pictures / "bright" / "0.png"), "--backend", "numpy", "--json")
    assert code == 0 and [set(k) for k in one_json_line(out)[0]["classes"]] == [{"class", "probability"}] * 3
    assert (
        err.count("\n") == 1
        and "classes are shown by number, since what trained the network is not known: " in err
        and why in err
    )


def test_without_a_run_beside_it_classes_are_numbers(run, pictures, colour):
    code, out, err = run("predict", str(colour), str(pictures / "bright" / "0.png"), "--backend", "numpy")
    assert code == 0 and not err and "0: " in out
