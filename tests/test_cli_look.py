"""`xconv summary`, `evaluate` and `predict`: by name and from files, in tables and in JSON, and what they refuse."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xconv
from tests.cli import one_json_line
from xconv import data, zoo
from xconv.layers import Conv2D, Dense, Flatten

PUBLISHED = {  # total, trainable, non-trainable
    "keras-mnist": (93_322, 93_322, 0),
    "mnist-dropout": (56_714, 56_714, 0),
    "vgg16-bn-cifar10": (33_655_114, 33_646_666, 8_448),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file of keras-mnist, trained for a moment, and the digits it was trained on."""
    x, t, _, _ = data.load().arrays(data_format="channels_last")
    net = zoo.entry("keras-mnist").build(zoo.recipe("keras-mnist"), backend="numba")
    net.fit(x[:2000], t[:2000], 64, 3, verbose=0)
    path = tmp_path_factory.mktemp("trained") / "digits.safetensors"
    net.save(path)
    return path, x[:20], t[:20], net


@pytest.fixture
def pictures(trained, tmp_path):
    """Five of the digits as files of several kinds."""
    paths = []
    for i, suffix in enumerate(["png", "png", "bmp", "gif", "png"]):
        pixels = (trained[1][i, :, :, 0] * 255).round().astype(np.uint8)
        paths.append(tmp_path / f"{i}.{suffix}")
        Image.fromarray(pixels).save(paths[-1])
    return [str(path) for path in paths]


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts(run, name):
    code, out, _ = run("summary", name, "--json", "--backend", "numpy")
    result = one_json_line(out)
    assert code == 0 and result["model"] == name
    assert tuple(result[f"{kind}_params"] for kind in ("total", "trainable", "non_trainable")) == PUBLISHED[name]
    assert sum(layer["params"] for layer in result["layers"]) == PUBLISHED[name][0]
    assert result["peak_bytes"] > 4 * PUBLISHED[name][0] and result["batch_size"] == zoo.recipe(name).batch_size


def test_the_layers_of_keras_mnist(run):
    layers = one_json_line(run("summary", "keras-mnist", "--json", "--backend", "numpy")[1])["layers"]
    assert [layer["output_shape"] for layer in layers] == [
        [None, 28, 28, 1], [None, 26, 26, 32], [None, 13, 13, 32], [None, 11, 11, 64], [None, 5, 5, 64],
        [None, 3, 3, 64], [None, 576], [None, 64], [None, 10],
    ]  # fmt: skip
    assert sum(layer["params"] for layer in layers if layer["kind"] == "Conv2D") == 55_744
    code, out, _ = run("summary", "keras-mnist", "--backend", "numpy", "--batch-size", "512")
    assert code == 0
    for text in ("conv1 (Conv2D)", "(None, 26, 26, 32)", "Total params: 93,322", "A training step of 512: "):
        assert text in out


def test_a_larger_batch_takes_more(run):
    small, large = (
        one_json_line(run("summary", "keras-mnist", "--json", "--batch-size", str(n), "--backend", "numpy")[1])
        for n in (64, 512)
    )
    assert large["peak_bytes"] > 5 * small["peak_bytes"] and small["total_params"] == large["total_params"]


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_file_is_described_and_judged(run, trained, backend):
    path, _, _, net = trained
    result = one_json_line(run("summary", str(path), "--json", "--backend", backend)[1])
    assert (result["model"], result["total_params"], result["batch_size"]) == (str(path), 93_322, 32)
    code, out, _ = run("evaluate", str(path), "--backend", backend, "--json")
    result = one_json_line(out)
    _, _, x, t = data.load().arrays(data_format="channels_last")
    assert code == 0 and result["images"] == 10_000 and result["backend"] == backend
    assert result["accuracy"] == pytest.approx(np.mean(net.predict(x).argmax(1) == t), abs=1e-3)
    assert result["accuracy"] > 0.85
    code, out, _ = run("evaluate", str(path), "--backend", backend)
    assert code == 0 and "accuracy" in out and f"{result['accuracy']:.4f}" in out


def test_pictures_are_told(run, trained, pictures):
    path, x, _, net = trained
    code, out, _ = run("predict", str(path), *pictures, "--json", "--backend", "numpy")
    found = one_json_line(out)
    assert code == 0 and [entry["image"] for entry in found] == pictures
    expected = net.predict(x[:5])
    for entry, row in zip(found, expected, strict=True):
        assert [k["class"] for k in entry["classes"]] == np.argsort(-row, kind="stable")[:3].tolist()
        assert entry["classes"][0]["probability"] == pytest.approx(row.max(), abs=1e-3)
    code, out, _ = run("predict", str(path), pictures[0], "--top", "2", "--backend", "numpy")
    assert code == 0 and f"{found[0]['classes'][0]['class']}: " in out and " %" in out


def test_a_drawing_in_ink_is_inverted(run, trained, pictures, tmp_path):
    path = trained[0]
    with Image.open(pictures[0]) as image:
        ink = Image.fromarray(255 - np.asarray(image)).convert("RGB").resize((56, 56), Image.Resampling.NEAREST)
    ink.save(tmp_path / "ink.png")
    results = [
        one_json_line(run("predict", str(path), *args, "--json", "--backend", "numpy")[1])[0]["classes"][0]
        for args in ([pictures[0]], [str(tmp_path / "ink.png"), "--invert"])
    ]
    assert results[0]["class"] == results[1]["class"]


def test_logits_become_probabilities(run, tmp_path, pictures):
    net = xconv.SimpleConvNet(conv_param={"filter_num": 2}, hidden_size=5, backend="numpy")  # channels first
    net.save(tmp_path / "book.safetensors")
    code, out, _ = run("predict", str(tmp_path / "book.safetensors"), *pictures, "--top", "10", "--json")
    assert code == 0
    for entry in one_json_line(out):
        assert sum(k["probability"] for k in entry["classes"]) == pytest.approx(1)


def mistake(run, *args: str) -> str:
    code, out, err = run(*args, "--backend", "numpy")
    assert code == 2 and not out and err.count("\n") == 1, err
    return err


def test_the_folder_of_a_run_stands_for_its_network(run, trained, pictures, tmp_path):
    shutil.copy(trained[0], tmp_path / "model.safetensors")
    for command in (["predict", "{}", pictures[0], "--json"], ["summary", "{}", "--batch-size", "8"]):
        outs = [
            run(*[part.format(place) for part in command], "--backend", "numpy")[1] for place in (trained[0], tmp_path)
        ]
        assert outs[0] == outs[1] != ""
    result = one_json_line(run("evaluate", str(tmp_path), "--backend", "numba", "--json")[1])
    assert result["accuracy"] > 0.85 and result["file"].endswith("model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    assert "expected a file, or a folder that xconv train --out made" in mistake(run, "evaluate", str(tmp_path))


def test_what_cannot_be_read_is_one_line(run, trained, pictures, tmp_path):
    path = str(trained[0])
    text = tmp_path / "text.png"
    text.write_text("no picture")
    assert "text.png: expected a picture, such as a PNG" in mistake(run, "predict", path, str(text))
    assert "no such file" in mistake(run, "predict", path, "nowhere.png")
    assert "which is neither" in mistake(run, "summary", "keras-minst")
    assert "which is neither" in mistake(run, "evaluate", "nowhere.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(trained[0].read_bytes()[:-7])
    assert "damaged.safetensors" in mistake(run, "predict", str(damaged), pictures[0])
    half = tmp_path / "half.png"
    half.write_bytes(Path(pictures[0]).read_bytes()[:90])
    assert "half.png: expected a picture" in mistake(run, "predict", path, str(half))


def test_networks_that_do_not_fit_are_named(run, pictures, tmp_path):
    colour = xconv.Sequential([Conv2D(2, 3), Flatten(), Dense(10)], input_shape=(8, 8, 3), backend="numpy")
    colour.compile("sgd", "mse")
    colour.save(tmp_path / "colour.safetensors")
    said = mistake(run, "evaluate", str(tmp_path / "colour.safetensors"))
    assert "takes images of shape (8, 8, 3). Received: mnist-sample, whose images are of shape (28, 28, 1)" in said
    few = xconv.Sequential([Flatten(), Dense(3)], input_shape=(28, 28, 1), backend="numpy")
    few.compile("sgd", "mse")
    few.save(tmp_path / "few.safetensors")
    assert "knows 3 classes. Received: mnist-sample, which has 10" in mistake(
        run, "evaluate", str(tmp_path / "few.safetensors")
    )
    code, out, _ = run("predict", str(tmp_path / "colour.safetensors"), pictures[0], "--json", "--backend", "numpy")
    assert code == 0 and len(one_json_line(out)[0]["classes"]) == 3  # grey becomes colour


def test_a_picture_in_place_of_the_network_is_told_as_one(run, trained, pictures):
    assert "Received: a PNG picture" in mistake(run, "predict", pictures[0], str(trained[0]))
    assert "Received: a GIF picture" in mistake(run, "evaluate", pictures[3])


def test_a_network_of_colours_takes_bright_pictures_as_they_are(run, tmp_path):
    colour = xconv.Sequential([Flatten(), Dense(10)], input_shape=(8, 8, 3), backend="numpy")
    colour.compile("sgd", "mse")
    colour.save(tmp_path / "colour.safetensors")
    Image.fromarray(np.full((28, 28), 255, np.uint8)).save(tmp_path / "paper.png")
    code, _, err = run(
        "predict", str(tmp_path / "colour.safetensors"), str(tmp_path / "paper.png"), "--backend", "numpy"
    )
    assert code == 0 and not err


def test_a_network_that_was_never_compiled_says_so(run, tmp_path):
    net = xconv.Sequential([Flatten(), Dense(10)], input_shape=(28, 28, 1), backend="numpy")
    net.save(tmp_path / "bare.safetensors")
    assert "needs a loss" in mistake(run, "evaluate", str(tmp_path / "bare.safetensors"))


def test_a_name_is_no_trained_network(run, pictures):
    for command in ("evaluate", "predict"):
        said = mistake(run, command, "keras-mnist", *(pictures[:1] if command == "predict" else ()))
        assert "train it first, as in xconv train --model keras-mnist --out run" in said


def test_what_is_transparent_is_white_and_bright_pictures_are_noticed(run, trained, tmp_path):
    ink = np.zeros((28, 28, 4), np.uint8)
    ink[8:20, 12:16, 3] = 255  # a black stroke on nothing
    Image.fromarray(ink).save(tmp_path / "clear.png")
    paper = np.full((28, 28), 255, np.uint8)
    paper[8:20, 12:16] = 0
    Image.fromarray(paper).save(tmp_path / "paper.png")
    found = []
    for name in ("clear.png", "paper.png"):
        code, out, err = run("predict", str(trained[0]), str(tmp_path / name), "--json", "--backend", "numpy")
        assert code == 0 and "--invert" in err
        assert err.count("\n") == 1 and f"{name} is mostly bright" in err
        found.append(one_json_line(out)[0]["classes"])
    assert found[0] == found[1]
    both = [str(tmp_path / name) for name in ("paper.png", "clear.png")]
    _, _, err = run("predict", str(trained[0]), *both, "--json", "--backend", "numpy")
    assert err.count("\n") == 1 and "2 images, such as" in err
    Image.fromarray(255 - paper).save(tmp_path / "night.png")
    for name in ("paper.png", "night.png"):  # asked for, it is not suggested, whatever comes of it
        _, _, err = run("predict", str(trained[0]), str(tmp_path / name), "--invert", "--json", "--backend", "numpy")
        assert not err


def test_images_that_do_not_fit_are_told_before_anything_is_compiled(run, monkeypatch):
    monkeypatch.setattr("xconv.models.Model.warm_up", lambda self: pytest.fail("compiled before the check"))
    code, out, err = run("train", "--model", "vgg16-bn-cifar10", "--data", "mnist-sample", "--backend", "numpy")
    assert code == 2 and not out
    assert "takes images of shape (32, 32, 3). Received: mnist-sample, whose images are of shape (28, 28, 1)" in err
