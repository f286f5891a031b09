"""A run's page: what is shown, and that nothing is fetched."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest

import xconv
from tests.reports import NAMES, Page, page
from xconv import report
from xconv.errors import FileError
from xconv.layers import Conv2D, Dense, Flatten, Layer

pytest.importorskip("matplotlib")


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
