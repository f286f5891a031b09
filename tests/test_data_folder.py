"""Pictures in folders, one for each class."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xconv import data, streams
from xconv.data import folders
from xconv.errors import ConfigError, FileError, OutOfMemoryError


def picture(path: Path, shade: int, size: tuple[int, int] = (6, 4)) -> Path:
    """A grey picture of (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, shade).save(path)
    return path


def classes(root: Path, counts: dict[str, int], first: int = 0) -> dict[int, str]:
    """So many pictures of each class, every one of another shade from `first` on; their labels' names by shade."""
    named, shade = {}, first
    for name, count in counts.items():
        for i in range(count):
            picture(root / name / f"{i:03}.png", shade)
            named[shade] = name
            shade += 1
    return named


def shades(x: np.ndarray) -> list[int]:
    """The one shade of each picture, which is the same everywhere in it."""
    assert (x == x[:, :1, :1, :1]).all()
    return x[:, 0, 0, 0].tolist()


# ---------------------------------------------------------------------- what is found


def test_train_and_test(tmp_path):
    classes(tmp_path / "train", {"dog": 3, "Cat": 2, "ant": 1})
    classes(tmp_path / "test", {"ant": 1, "dog": 2, "Cat": 1}, 100)
    found = data.folder(tmp_path, (4, 5))
    assert found.classes == ("Cat", "ant", "dog")  # as Python sorts, and as torchvision and Keras do
    assert shades(found.x_train) == [3, 4, 5, 0, 1, 2] and found.t_train.tolist() == [0, 0, 1, 2, 2, 2]
    assert shades(found.x_test) == [103, 100, 101, 102] and found.t_test.tolist() == [0, 1, 2, 2]
    assert found.x_train.shape == (6, 3, 4, 5) and found.x_train.dtype == np.uint8 and found.t_test.dtype == np.int64
    assert found.name == tmp_path.name and found.source == str(tmp_path) and not found.x_test.flags.writeable


@pytest.mark.parametrize("layout", ["split", "shared"])
def test_one_half_may_be_left_unread(tmp_path, layout):
    if layout == "split":
        classes(tmp_path / "train", {"a": 3, "b": 2})
        classes(tmp_path / "test", {"a": 1, "b": 2}, 100)
    else:
        classes(tmp_path, {"a": 6, "b": 9})
    both, train, test = (data.folder(tmp_path, (4, 5), subset=subset) for subset in ("both", "train", "test"))
    assert np.array_equal(train.x_train, both.x_train) and np.array_equal(train.t_train, both.t_train)
    assert np.array_equal(test.x_test, both.x_test) and np.array_equal(test.t_test, both.t_test)
    assert train.x_test.shape == test.x_train.shape == (0, 3, 4, 5) and train.t_test.shape == (0,)
    assert train.classes == test.classes == ("a", "b")


@pytest.mark.parametrize(("names", "taken"), [(["val"], "val"), (["test", "val"], "test")])
def test_val_stands_in_for_test(tmp_path, names, taken):
    classes(tmp_path / "train", {"a": 1, "b": 1})
    for i, name in enumerate(["test", "val"]):
        if name in names:
            classes(tmp_path / name, {"a": 1, "b": 1}, 100 * (i + 1))
    assert shades(data.folder(tmp_path, 4).x_test)[0] == {"test": 100, "val": 200}[taken]


def test_a_share_of_each_class_is_held_out(tmp_path):
    named = classes(tmp_path, {"a": 10, "b": 2, "c": 21})
    found = data.folder(str(tmp_path), 3, channels=1)
    assert found.image_shape == (1, 3, 3)
    assert np.bincount(found.t_train).tolist() == [8, 1, 17] and np.bincount(found.t_test).tolist() == [2, 1, 4]
    for x, t in ((found.x_train, found.t_train), (found.x_test, found.t_test)):
        assert [named[shade] for shade in shades(x)] == [found.classes[k] for k in t]
        assert shades(x) == sorted(shades(x))
    assert sorted(shades(found.x_train) + shades(found.x_test)) == list(range(33))
    again, other = data.folder(tmp_path, 3), data.folder(tmp_path, 3, seed=1)
    assert shades(again.x_test) == shades(found.x_test) != shades(other.x_test)
    most = data.folder(tmp_path, 3, test_share=0.99)
    assert np.bincount(most.t_train).tolist() == [1, 1, 1] and np.bincount(most.t_test).tolist() == [9, 1, 20]
    assert len(data.folder(tmp_path, 3, test_share=0.01).t_test) == 3


def test_the_draw_is_philox_by_seed_and_class(tmp_path):
    """Which pictures are held out is part of what a run repeats: it may not change from version to version."""
    classes(tmp_path, {"a": 10, "b": 10})
    expected = []
    for number in range(2):
        words = np.random.Philox(
            key=np.array([7, streams.Purpose.HELD_OUT], np.uint64), counter=np.array([0, number, 0, 0], np.uint64)
        ).random_raw(10)
        expected += [10 * number + i for i in sorted(np.argsort(words)[:3].tolist())]
    assert shades(data.folder(tmp_path, 2, test_share=0.3, seed=7).x_test) == expected
    assert streams.Purpose.HELD_OUT == 5


def test_pictures_of_many_kinds_and_sizes_in_folders_below(tmp_path):
    classes(tmp_path, {"b": 2})
    picture(tmp_path / "a" / "x" / "deep" / "1.jpeg", 11, (30, 10))
    picture(tmp_path / "a" / "x" / "2.BMP", 12, (10, 30))
    Image.new("RGB", (3, 3), (13, 13, 13)).save(tmp_path / "a" / "0", format="png")  # without a suffix
    elsewhere = picture(tmp_path.parent / f"{tmp_path.name}-elsewhere" / "3.png", 14)
    (tmp_path / "a" / "z").symlink_to(elsewhere.parent)
    found = data.folder(tmp_path, (4, 6))
    assert sorted(shades(found.x_train)[:3] + shades(found.x_test)[:1]) == [11, 12, 13, 14]


def test_what_clearly_is_no_picture_is_left_alone(tmp_path):
    classes(tmp_path, {"a": 2, "b": 2})
    for name in ("a/.DS_Store", "a/Thumbs.db", "a/desktop.ini", "a/notes.TXT", "b/labels.csv", "b/._000.png", "readme"):
        (tmp_path / name).write_text("no picture")
    picture(tmp_path / ".cache" / "1.png", 9)
    picture(tmp_path / "__MACOSX" / "1.png", 9)
    picture(tmp_path / "a" / ".thumbs" / "1.png", 9)
    picture(tmp_path / "loose.png", 9)
    found = data.folder(tmp_path, 4)
    assert found.classes == ("a", "b") and sorted(shades(found.x_train) + shades(found.x_test)) == [0, 1, 2, 3]


def test_train_may_be_a_class(tmp_path):
    named = classes(tmp_path, {"plane": 2, "train": 2, "test": 2})
    assert data.folder(tmp_path, 4).classes == ("plane", "test", "train") and len(named) == 6


def test_names_that_are_not_utf8_are_text(tmp_path):
    """Each stays one of its own; what UTF-8 has is left alone."""
    names = [b"caf\xe8", b"caf\xe9", "café".encode()]
    try:
        for i, name in enumerate(names):
            os.mkdir(os.fsencode(tmp_path) + b"/" + name)
            for k in range(2):
                picture(tmp_path / os.fsdecode(name) / f"{k}.png", 10 * i + k)
    except OSError as error:
        pytest.skip(f"this file system has no such names: {error}")
    found = data.folder(tmp_path, (4, 5))
    assert sorted(found.classes) == sorted(["caf\\xe8", "caf\\xe9", "café"])
    shown = {found.classes[t]: x // 10 for t, x in zip(found.t_train, shades(found.x_train), strict=True)}
    assert shown == {"caf\\xe8": 0, "caf\\xe9": 1, "café": 2}


def test_fit_and_channels(tmp_path):
    for name in "ab":
        for i in range(2):
            pixels = np.zeros((4, 8, 3), np.uint8)
            pixels[:, 2:6] = 200
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    assert (data.folder(tmp_path, 4, channels=1).x_train == 200).all()
    squeezed = data.folder(tmp_path, 4, channels=4, fit="squeeze").x_train
    assert squeezed.shape == (2, 4, 4, 4) and squeezed[0, 0, 0, 0] < 100 < squeezed[0, 0, 0, 1]
    assert (squeezed[:, 3] == 255).all()


def test_one_thread_and_four_give_the_same(tmp_path, monkeypatch):
    classes(tmp_path, {"a": 20, "b": 20})
    found = []
    for threads in (1, 4):
        monkeypatch.setattr(folders, "default_threads", lambda n=threads: n)
        found.append(data.folder(tmp_path, 4))
    assert np.array_equal(found[0].x_train, found[1].x_train) and np.array_equal(found[0].x_test, found[1].x_test)


# ---------------------------------------------------------------------- what is refused


def refused(path: Path, *said: str, **settings) -> str:
    with pytest.raises(FileError) as caught:
        data.folder(path, 4, **settings)
    text = str(caught.value)
    assert text.startswith(str(path)) and "Received: " in text and "\n" not in text
    for part in said:
        assert part in text, text
    return text


def test_no_such_folder_a_file_and_an_empty_folder(tmp_path):
    refused(tmp_path / "nowhere", "expected a folder. Received: no such folder")
    refused(picture(tmp_path / "picture.png", 1), "expected a folder. Received: a file")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "expected a sub-folder for each class, or train/ and test/ with these in them. Received: an empty")
    for i in range(5):
        picture(empty / f"{i}.png", 1)
    refused(empty, "Received: no folder, but '0.png', '1.png', '2.png' and 2 more")


def test_a_class_without_pictures(tmp_path):
    classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "c").mkdir()
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "notes.txt").write_text("no picture")
    refused(tmp_path, "expected pictures of each class. Received: none in 'c', 'd'")


def test_fewer_than_two_classes_or_pictures(tmp_path):
    classes(tmp_path, {"a": 2})
    refused(tmp_path, "at least two classes. Received: 'a'")
    classes(tmp_path, {"b": 1})
    assert refused(tmp_path, "expected at least 2 pictures").startswith(str(tmp_path / "b"))


def test_classes_must_be_the_same_in_train_and_test(tmp_path):
    classes(tmp_path / "train", {"a": 1, "b": 1, "c": 1})
    refused(tmp_path, "expected test/ or val/ beside train/", "Received: 'train'")
    classes(tmp_path / "test", {"a": 1, "b": 1})
    assert refused(tmp_path, "Received: no 'c'").startswith(f"{tmp_path / 'test'}: ")
    classes(tmp_path / "test", {"c": 1, "d": 1})
    assert refused(tmp_path, "Received: no 'd'").startswith(f"{tmp_path / 'train'}: ")
    (tmp_path / "train" / "d").mkdir()
    assert refused(tmp_path, "none in 'd'").startswith(f"{tmp_path / 'train'}: ")


def test_pictures_that_cannot_be_read_are_counted_and_named(tmp_path):
    classes(tmp_path, {"a": 6, "b": 6})
    (tmp_path / "b" / "003.png").write_bytes((tmp_path / "b" / "003.png").read_bytes()[:50])
    text = refused(tmp_path, "Received: 1 of 12 that cannot be: ")
    assert f"{tmp_path / 'b' / '003.png'}: expected a picture" in text
    for i in range(4):
        (tmp_path / "a" / f"{i:03}.png").write_text("no picture")
    text = refused(tmp_path, "Received: 5 of 12 that cannot be, such as ")
    assert text.count("expected a picture, such as a PNG") == 3
    (tmp_path / "a" / "000.png").unlink()
    (tmp_path / "a" / "000.png").symlink_to("nowhere")
    refused(tmp_path, "Received: no such file")


def test_a_link_round_in_a_circle(tmp_path):
    classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a")
    refused(tmp_path, "Too many levels of symbolic links")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_may_not_be_read(tmp_path):
    classes(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "a").chmod(0)
    try:
        refused(tmp_path, "Permission denied")
    finally:
        (tmp_path / "a").chmod(0o700)


def test_arguments_that_cannot_be(tmp_path):
    classes(tmp_path, {"a": 2, "b": 2})
    for settings, said in (
        ({"image_size": 0}, "image_size"),
        ({"channels": 2}, "channels must be 1, 3 or 4"),
        ({"fit": "pad"}, "fit must be"),
        ({"seed": -1}, "seed must be"),
        ({"subset": "training"}, "subset must be 'both', 'train' or 'test'"),
        *(({"test_share": share}, "test_share must be") for share in (0, 1, -0.5, 2, "half", float("nan"), True)),
    ):
        with pytest.raises(ConfigError, match=said):
            data.folder(tmp_path, **{"image_size": 4, **settings})
    classes(tmp_path / "both" / "train", {"a": 1, "b": 1})
    classes(tmp_path / "both" / "val", {"a": 1, "b": 1})
    with pytest.raises(ConfigError, match=r"no test_share where there is .*val\. Received: 0\.2"):
        data.folder(tmp_path / "both", 4, test_share=0.2)


def test_more_than_memory_holds(tmp_path):
    classes(tmp_path, {"a": 2, "b": 2})
    with pytest.raises(OutOfMemoryError, match=r"4 pictures of 9999999x9999999 .* smaller image_size"):
        data.folder(tmp_path, 9_999_999)


def test_ctrl_c_does_not_wait_for_all_the_others(tmp_path, monkeypatch):
    classes(tmp_path, {"a": 100, "b": 100})
    begun: list[Path] = []
    go_on = threading.Event()

    def slow(path: Path, *_) -> np.ndarray:
        begun.append(path)
        if len(begun) == 3:
            os.kill(os.getpid(), signal.SIGINT)
        go_on.wait(0.2)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(folders, "decoded", slow)
    monkeypatch.setattr(folders, "default_threads", lambda: 2)
    with pytest.raises(KeyboardInterrupt):
        data.folder(tmp_path, 4)
    assert len(begun) < 50


def test_names_in_messages_are_few():
    def listed(names: Iterable[str]) -> str:
        return folders._listed(list(names))

    assert listed("ab") == "'a', 'b'" and listed("abcde") == "'a', 'b', 'c' and 2 more"
