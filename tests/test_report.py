"""A run's folder and its page: what is written, what is shown, that nothing is fetched, and what cannot be read."""

from __future__ import annotations

import json
import os
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import xconv
from xconv import plots, report
from xconv.errors import ConfigError, FileError
from xconv.layers import Conv2D, Dense, Flatten, Layer

pytest.importorskip("matplotlib")
NAMES = ["<script>alert(1)</script>", '"quoted" & $x$', "plain"]
VOID = {"meta", "img", "br"}
URL = re.compile(r"\b(?:src|href|action|data|poster|srcset|background|cite|formaction|xlink:href)$")


class Page(HTMLParser):
    """The page as a browser reads it: balanced, its tables, pictures and texts, and what it would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.images: list[dict] = []
        self.addresses: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.said: list[str] = []
        self._cell = False
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.addresses += [value for name, value in attrs if URL.match(name)]
        if tag == "img":
            self.images.append(dict(attrs))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self._cell = True
        if tag == "br" and self._cell:
            self.tables[-1][-1][-1] += "\n"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self._cell = False

    def handle_data(self, text):
        if self.open[-1:] != ["style"]:
            self.said.append(text)
        if self._cell:
            self.tables[-1][-1][-1] += text

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.said).split())

    def row(self, name: str) -> list[str]:
        """The one row of that name among all tables."""
        (found,) = [row[1:] for table in self.tables for row in table if row and row[0] == name]
        return found


def network():
    net = xconv.Sequential(
        [Conv2D(4, 3, activation="relu", name="<b>conv</b>"), Flatten(), Dense(3, activation="softmax", name="last")],
        input_shape=(8, 8, 1),
        backend="numpy",
        name="small <i>net</i>",
    )
    net.compile(xconv.Adam(0.01), "sparse_categorical_crossentropy", ["accuracy"])
    return net


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A folder that `keep` wrote, its model, and what was given."""
    rng = np.random.default_rng(0)
    x, t = rng.random((60, 8, 8, 1)), rng.integers(0, 3, 60)
    net = network()
    before = plots.first_filters(net)
    net.fit(x, t, 20, 3, validation_data=(x[:30], t[:30]), verbose=0)
    folder = tmp_path_factory.mktemp("runs") / "run"
    notes = {"data": {"name": "noise & more", "test_images": 30}, "command": "xconv train --model 'a b' < c"}
    undrawn = report.keep(folder, net, test=(x[:30], t[:30]), classes=NAMES, before=before, notes=notes)
    assert undrawn == {}
    return folder, net


@pytest.fixture
def folder(kept, tmp_path):
    """A copy of it, to be spoiled."""
    shutil.copytree(kept[0], tmp_path / "run")
    return tmp_path / "run"


def page(folder: Path) -> Page:
    report.write(folder)
    return Page((folder / "report.html").read_text("utf-8"))


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


# ---------------------------------------------------------------------- the page


def test_the_page_fetches_nothing_and_runs_nothing(folder):
    shown = page(folder)
    text = (folder / "report.html").read_text("utf-8")
    assert "http" not in text.replace("http-equiv", "") and "//" not in re.sub(r"base64,[^\"]*", "", text)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form", "svg"} & set(shown.tags)
    assert shown.addresses and all(address.startswith("data:image/png;base64,") for address in shown.addresses)
    assert not [name for _, name, _ in shown.attributes if name.startswith("on") or name == "style"]
    assert "@import" not in text and "url(" not in text
    (policy,) = [v for tag, name, v in shown.attributes if tag == "meta" and name == "content" and "default-src" in v]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert text.index('<meta charset="utf-8">') < 100 and text.startswith("<!doctype html>")


def test_every_picture_is_inside_and_described(folder):
    import base64

    shown = page(folder)
    assert len(shown.images) == 5
    for image, name in zip(shown.images, report.PICTURES, strict=True):
        content = base64.b64decode(image["src"].partition("base64,")[2])
        assert content == (folder / name).read_bytes()
        assert len(image["alt"]) > 30 and int(image["width"]) > 100 and int(image["height"]) > 100


def test_hostile_names_are_texts(folder):
    shown = page(folder)
    assert shown.row("3 classes") == [", ".join(NAMES)]
    assert "small <i>net</i> on noise & more" in shown.text and "xconv train --model 'a b' < c" in shown.text
    assert "i" not in shown.tags and "b" not in shown.tags
    assert shown.row("<b>conv</b>") == ["Conv2D", "6 × 6 × 4", "40"]


def test_the_numbers_are_those_of_the_run(folder):
    shown = page(folder)
    told = json.loads((folder / "run.json").read_text("utf-8"))
    results = [told["results"][part] for part in ("training_as_it_went", "test")]
    assert shown.row("accuracy") == [f"{100 * part['accuracy']:.2f} %" for part in results]
    assert shown.row("loss") == [f"{part['loss']:.4f}" for part in results] and shown.row("images") == ["", "30"]
    assert shown.row("total") == ["", "", f"{40 + 3 * 145:,}"] and shown.row(
        "batch size" if "batch_size" in told else "seed"
    )
    assert shown.row("training steps") == ["9"] and shown.row("numpy") == [np.__version__]
    assert shown.row("images a second") == [f"{told['throughput']['images_per_second']:,.0f}"]
    assert "learning rate: 0.01" in shown.row("optimizer")[0]
    (epochs,) = [table for table in shown.tables if table[0][0] == "epoch"]
    assert epochs[0][:5] == ["epoch", "loss", "accuracy", "test loss", "test accuracy"] and len(epochs) == 4
    rows = [line.split(",") for line in (folder / "history.csv").read_text().splitlines()[1:]]
    assert [row[1] for row in epochs[1:]] == [f"{float(row[1]):.4f}" for row in rows]
    accuracies = [float(row[4]) for row in rows]
    best = max(accuracies)
    assert f"Best test accuracy: {100 * best:.2f} %, after epoch {accuracies.index(best) + 1} of 3." in shown.text


def test_what_is_missing_is_said(folder):
    (folder / "filters.png").unlink()
    (folder / "curves.png").write_bytes(b"GIF89a" * 10)
    (folder / "model.safetensors").unlink()
    run = report.write(folder)
    assert set(run.missing) == {"filters.png", "curves.png", "model.safetensors"}
    shown = Page((folder / "report.html").read_text("utf-8"))
    assert len(shown.images) == 3
    assert "filters.png: it is not in the folder" in shown.text.replace(" :", ":")
    assert "curves.png is not there: expected a PNG picture. Received: another kind of file." in shown.text
    assert "model.safetensors cannot be shown: it is not in the folder." in shown.text
    assert str(folder) not in shown.text


def test_text_that_is_no_unicode(folder, tmp_path):
    """Names of files that are not UTF-8 reach Python as half a surrogate pair each."""
    odd = "caf\udce9"
    net = xconv.Sequential([Flatten(), Dense(2)], input_shape=(3, 3, 1), backend="numpy")
    away = tmp_path / odd
    report.keep(away, net, classes=[odd, "b"], notes={odd: [odd]})
    told = json.loads((away / "run.json").read_text("utf-8"))
    assert told["classes"] == ["caf\\udce9", "b"] and told["caf\\udce9"] == ["caf\\udce9"]
    for name in ("run.json", "model.safetensors"):
        (away / name).unlink()
    assert "caf\\udce9" in page(away).text  # by its folder's name, as there is no other
    for text in ('{"model": "\\ud800"}', '{"data": {"\\udce9": 1}}'):
        (folder / "run.json").write_text(text)
        with pytest.raises(FileError, match=r"run\.json: expected JSON.*surrogates not allowed"):
            report.write(folder)


@pytest.mark.parametrize("only", ["run.json", "history.csv", "model.safetensors"])
def test_any_part_of_a_run_makes_a_page(folder, only):
    for name in os.listdir(folder):
        if name != only:
            (folder / name).unlink()
    shown = page(folder)
    assert not shown.images and "run" in shown.text
    assert ("run.json" in shown.text) == (only != "run.json")


def test_layers_of_ones_own(folder):
    class Twice(Layer):
        """2 x."""

        def forward(self, x, ctx):
            return 2 * x, None

        def backward(self, dy, saved, need):
            return 2 * dy, {}

    net = xconv.Sequential([Twice(name="twice"), Flatten(), Dense(2)], input_shape=(3, 3, 1), backend="numpy")
    net.save(folder / "model.safetensors")
    assert "custom_layers" in page(folder).text
    report.write(folder, custom_layers={"Twice": Twice})
    assert Page((folder / "report.html").read_text("utf-8")).row("twice") == ["Twice", "3 × 3 × 1", "0"]


def test_a_network_with_branches_shows_what_is_read(folder):
    x = xconv.Input((4, 4, 1))
    y = xconv.Add(name="sum")([Conv2D(2, 1, name="a")(x), Conv2D(2, 1, name="b")(x)])
    xconv.Model(x, Dense(2, name="end")(Flatten()(y)), backend="numpy").save(folder / "model.safetensors")
    assert page(folder).row("sum") == ["Add", "4 × 4 × 2", "0", "a, b"]


def test_settings_of_every_kind_are_shown(folder):
    path = folder / "run.json"
    told = json.loads(path.read_text("utf-8"))
    deep = {}
    for _ in range(400):
        deep = {"in": deep, "n": 1}
    told |= {
        "recipe": {"name": "book", "lr": {"kind": "Cosine", "rate": 0.1}, "rule": {}},
        "augmentation": [{"kind": "Flip"}, {"kind": "Crop", "pad": 4}],
    }
    told |= {
        "source": deep,
        "interrupted": "in epoch 2 after step 3",
        "peak_rss_mb": 1e400,
        "epochs": 10**300,
        "date": "soon",
    }
    path.write_text(json.dumps(told))
    shown = page(folder)
    assert shown.row("recipe") == ["name: book\nlearning rate: kind: Cosine; rate: 0.1"]
    assert shown.row("augmentation") == ["kind: Flip\nkind: Crop; pad: 4"]
    assert "Training was interrupted in epoch 2 after step 3." in shown.text


def changed(folder: Path, **entries) -> Page:
    """The page after entries of run.json were set."""
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | entries))
    return page(folder)


def test_schedules_and_augmentations_are_texts(folder):
    schedule = xconv.schedules.WarmUp(5, xconv.schedules.PiecewiseConstant((10, 20), (0.1, 0.01, 0.001)))
    plain, flipped = xconv.data.Augmentation().config(), xconv.data.Augmentation(flip=True, crop=4).config()
    recipe = {"name": "default", "lr": schedule.config(), "epochs": 5, "augmentation": flipped}
    optimizer = xconv.SGD(schedule, momentum=0.9).config()
    shown = changed(folder, recipe=recipe, optimizer=optimizer, augmentation=plain, epochs=2)
    said = shown.row("recipe")[0].split("\n")
    assert said[1:] == [f"learning rate: {schedule}", "epochs: 5", "augmentation: Augmentation(flip=True, crop=4)"]
    assert f"learning rate: {schedule}" in shown.row("optimizer")[0] and "kind: PiecewiseConstant" not in shown.text
    assert shown.row("augmentation") == ["Augmentation()"]
    assert shown.row("epochs trained") == ["2"]
    strange = {"lr": {"kind": "WarmUp", "steps": "many"}, "more": {"kind": []}, "augmentation": {**plain, "crop": "x"}}
    said = changed(folder, recipe=strange).row("recipe")[0]
    assert "steps: many" in said and "crop: x" in said


@pytest.mark.parametrize(
    ("loss", "said"), [(416.173512, "416.2"), (0.043217, "0.04322"), (12345.678, "12,346"), (2.5e9, "2.5e+09")]
)
def test_the_headline_has_four_digits_that_stay_together(folder, loss, said):
    changed(folder, results={"test": {"loss": loss}})
    text = (folder / "report.html").read_text("utf-8")
    assert f"<dt>test loss</dt><dd>{said}</dd>" in text
    (rule,) = re.findall(r"dl\.figures dd \{[^}]*\}", text)
    assert "nowrap" in rule


def test_when_training_values_were_taken_is_said(folder):
    shown = page(folder)
    assert "Training as it went: while training, with dropout and as the weights moved." in shown.text
    assert "means over each epoch, taken while training" in shown.text and "afterwards" not in shown.text
    shown = changed(folder, results={"training": {"accuracy": 0.9}, "test": {"accuracy": 0.8}})
    assert "Training and test images: evaluated afterwards" in shown.text and "as it went" not in shown.text


def test_what_never_changes_has_no_best(folder):
    (folder / "history.csv").write_text("epoch,val_loss,val_accuracy\n1,0.5,0.8\n2,0.4,0.8\n")
    assert "Best" not in page(folder).text
    (folder / "history.csv").write_text("epoch,val_loss,val_accuracy\n1,0.5,0.8\n2,0.4,0.9\n")
    assert "Best test accuracy: 90.00 %, after epoch 2 of 2." in page(folder).text


def test_pictures_fit_narrow_screens(folder):
    page(folder)
    text = (folder / "report.html").read_text("utf-8")
    rules = re.findall(r"figure img \{([^}]*)\}", text)
    assert len(rules) == 1 and "max-width: 100%" in rules[0] and "height: auto" in rules[0]
    assert re.search(r"h1, [^{]*\{ overflow-wrap: anywhere", text)


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
