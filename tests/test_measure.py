"""What `xconv bench` compares and how: contestants, turns, ratios, memory, tables and charts. No timing is asserted."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.contestants import Broken, Fake, Gone, Hungry
from xconv import zoo
from xconv.measure import charts, compare, comparison, contestants, demands, memory, pytorch, referee, save, sweeps
from xconv.measure.comparison import memory_ratio, ratio, ratios
from xconv.measure.contestants import Data, Entrant, Network, XconvRun, arithmetic, batches, chw, recipe_of, seen
from xconv.measure.tables import disturbance, duration, report, stem_of, table

PNG = b"\x89PNG\r\n\x1a\n"


def silent(text: str) -> None:
    """Says nothing."""


def network(name: str = "simple-convnet", **other: int | None) -> Network:
    return Network(name, recipe_of(name), **other)


# ---------------------------------------------------------------------- networks


@pytest.mark.parametrize("name", list(zoo.ZOO))
def test_pytorch_starts_as_the_same_network(name):
    torch = pytest.importorskip("torch")
    model = network(name, image=32 if name == "vgg16" else None).build("numpy")  # in full it is 2 GB of weights
    x, t = (part[0] for part in batches(3, model))
    with torch.inference_mode():
        theirs = pytorch.torch_net(torch, model).eval()(torch.from_numpy(x)).numpy()
    mine = seen(x, model)
    ours = model.predict(mine)
    if model.graph.nodes[-1].hidden:  # probabilities
        theirs = np.exp(theirs - theirs.max(axis=1, keepdims=True))
        theirs /= theirs.sum(axis=1, keepdims=True)
    assert np.abs(theirs - ours).max() <= 1e-5 * np.abs(ours).max()
    assert model.loss(mine, t) > 0


@pytest.mark.parametrize("name", ["simple-convnet", "keras-mnist"])  # dropout masks are each library's own
def test_pytorch_takes_the_same_steps(name):
    pytest.importorskip("torch")
    steps = [
        contestants.Xconv(16, "numpy", network=network(name)),
        pytorch.PyTorch(16, network=network(name)),
        pytorch.PyTorch(16, channels_last=True, network=network(name)),
    ]
    ours, *theirs = (contestant.ready()["first_loss"] for contestant in steps)
    assert theirs == pytest.approx([ours, ours], rel=2e-3)


def test_pytorchs_epochs_are_fits(monkeypatch, few):
    """Loss and accuracy of two epochs, evaluated on the test images: the last batch of an epoch is a smaller one."""
    pytest.importorskip("torch")
    monkeypatch.setattr("xconv.measure.contestants.datasets.load", lambda name: few)
    settings = {"network": network(), "data": Data("mnist-sample"), "evaluated": True}
    told = []
    for contestant in (XconvRun(70, backend="numpy", **settings), pytorch.PyTorchRun(70, **settings)):
        assert contestant.ready()["compile_seconds"] >= 0
        for _ in range(2):
            seconds, used = contestant.turn("book", 0.0)
            assert seconds > 0 and used > 0
        told.append(contestant.last())
    ours, theirs = told
    assert theirs == pytest.approx(ours, rel=1e-3)
    assert 0 < ours["accuracy"] <= 1


def test_a_resized_network():
    plain, wide, large = (network("keras-mnist", **size).build("numpy") for size in ({}, {"filters": 8}, {"image": 56}))
    filters = [layer.filters for layer in wide.layers if hasattr(layer, "filters")]
    assert filters == [8, 16, 16] and wide.input_shape == plain.input_shape
    assert large.input_shape == (56, 56, 1) and chw(large) == (1, 56, 56)
    x, t = (part[0] for part in batches(2, wide))
    assert wide.loss(seen(x, wide), t) > 0  # its loss is that of probabilities
    book = network(image=14).build("numpy")
    x, t = (part[0] for part in batches(2, book))
    assert chw(book) == (1, 14, 14)
    logits = book.predict(x)
    expected = np.mean(np.log(np.exp(logits).sum(1)) - logits[[0, 1], t])
    assert book.loss(x, t) == pytest.approx(expected, rel=1e-5)


def test_arithmetic_counts_multiply_adds():
    assert arithmetic(network().build("numpy")) == 30 * 25 * 24 * 24 + 30 * 12 * 12 * 100 + 100 * 10
    assert arithmetic(network(filters=60).build("numpy")) == 2 * (30 * 25 * 24 * 24 + 30 * 12 * 12 * 100) + 100 * 10


def test_batches_are_fewer_where_they_are_large():
    few_images, labels = batches(100, network().build("numpy"))
    assert few_images.shape == (20, 100, 1, 28, 28) and labels.shape == (20, 100)
    many = batches(64, network(image=448).build("numpy"))[0]
    assert many.shape == (2, 64, 1, 448, 448)


# ---------------------------------------------------------------------- ratios


def test_ratios_pair_the_turns_of_a_round():
    results = {
        "ours": {"train": [1.0, 2.0, 4.0], "step_mb": 4.0},
        "peer": {"train": [3.0, 4.0, 20.0], "step_mb": 6.0},
        "failed": {"error": "none here"},
    }
    measured = {"median": 3.0, "least": 2.0, "most": 5.0, "best_turns": 3.0, "in_all": 27 / 7}
    assert ratio(results, "train", ("peer", "failed"), "ours") == measured
    assert ratio(results, "infer", ("peer",), "ours") is None
    assert ratio(results, "train", ("peer",), "failed") is None
    asked = demands(["ours", "failed"], ["peer"], "the peer")
    found = ratios(results, asked, ("train", "infer"))
    assert [(row["what"], row["task"]) for row in found] == [
        ("ours over the peer's best", "train"),
        ("ours over the peer's best", "memory"),
    ]
    assert found[1]["measured"] == {"median": 1.5}


def test_the_better_peer_of_the_whole_run_counts():
    results = {"a": {"train": [9.0, 1.0, 9.0]}, "b": {"train": [8.0, 8.0, 8.0]}, "ours": {"train": [4.0, 4.0, 4.0]}}
    assert ratio(results, "train", ("a", "b"), "ours")["median"] == 2.0


def test_the_peer_of_least_memory_counts():
    results = {"a": {"step_mb": 9.0}, "b": {"step_mb": 6.0}, "c": {"step_mb": None}, "ours": {"step_mb": 12.0}}
    assert memory_ratio(results, ("a", "b", "c"), "ours") == {"median": 0.5}
    assert memory_ratio(results, ("c",), "ours") is None


# ---------------------------------------------------------------------- turns


class Pipe:
    """A contestant that answers with the next of `answers`: (median seconds, processor seconds used)."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def send(self, request):
        pass

    def recv(self):
        return self.answers.pop(0)


def test_a_disturbed_turn_is_repeated_while_patience_lasts(monkeypatch):
    monkeypatch.setattr(referee, "PAUSE", 1e-3)
    read = iter([0.0, 1e6, 1e6, 1e6])  # others used a million seconds during the first turn, none in the second
    monkeypatch.setattr(referee, "busy_seconds", lambda: next(read))
    judge = referee.Referee(patience=60)
    assert judge.turn(Pipe((3.0, 0.0), (2.0, 0.0)), "train", 0.0) == 2.0
    assert (judge.turns, judge.disturbed) == (1, 0)


def test_a_disturbed_turn_that_is_kept_is_counted(monkeypatch):
    read = iter([0.0, 1e6])
    monkeypatch.setattr(referee, "busy_seconds", lambda: next(read))
    judge = referee.Referee(patience=0)
    assert judge.turn(Pipe((3.0, 0.0)), "train", 0.0) == 3.0
    assert (judge.turns, judge.disturbed) == (1, 1)


def test_a_turn_that_comes_once_waits_for_quiet_and_is_not_repeated(monkeypatch):
    monkeypatch.setattr(referee, "PAUSE", 1e-3)
    read = iter([0.0, 1e6, 1e6, 1e6, 1e6, 2e6])  # busy, then quiet; others come back during the turn itself
    monkeypatch.setattr(referee, "busy_seconds", lambda: next(read))
    judge = referee.Referee(patience=60)
    assert judge.once(Pipe((3.0, 0.0)), "fit") == 3.0
    assert (judge.turns, judge.disturbed) == (1, 1) and 59 < judge.patience < 60
    assert list(read) == []


def test_a_turn_is_the_median_of_enough_steps():
    contestant, steps = Fake(1), []
    contestant.train = lambda: steps.append(1)
    seconds, _ = contestant.turn("train", 0.0)
    assert len(steps) == contestants.WARM_STEPS + contestants.LEAST_STEPS and 0 <= seconds < 1


@pytest.fixture(scope="module")
def whole():
    """A comparison of fakes in processes of their own, one of which cannot start and one of which ends early."""
    entrants = {
        "xconv fake float32": Entrant(Fake, 4, {"mb": 20}),
        "PyTorch fake float32": Entrant(Fake, 4, {"mb": 60}, threads=1),
        "PyTorch broken float32": Entrant(Broken, 4),
        "PyTorch gone float32": Entrant(Gone, 4),
    }
    before, said = dict(os.environ), []
    asked = demands(["xconv fake float32"], [name for name in entrants if "PyTorch" in name], "PyTorch")
    result = compare(
        entrants, asked, task="step", rounds=2, seconds=0.0, patience=0.0, say=said.append, model="fake", batch_size=4
    )
    assert dict(os.environ) == before
    return result, said


def test_compare(whole):
    result, said = whole
    assert json.loads(json.dumps(result)) == result
    assert list(result["contestants"]) == [
        "xconv fake float32", "PyTorch fake float32", "PyTorch broken float32", "PyTorch gone float32",
    ]  # fmt: skip
    for name in ("xconv fake float32", "PyTorch fake float32"):
        row = result["contestants"][name]
        assert list(row) == ["about", "train", "infer", "last_loss", "step_mb"]
        assert len(row["train"]) == len(row["infer"]) == 2
        assert row["last_loss"] == 0.5
    threads = [result["contestants"][name]["about"]["threads"] for name in list(result["contestants"])[:2]]
    assert threads == [result["threads"], 1]
    error = "RuntimeError: this one has no compiler, and says so at length"
    assert result["contestants"]["PyTorch broken float32"] == {"error": error}
    assert result["contestants"]["PyTorch gone float32"] == {"error": "its process ended in round 1"}
    assert f"PyTorch broken float32 cannot compete: {error}" in said
    assert result["turns"] == 8 and [row["task"] for row in result["ratios"]][:2] == ["train", "infer"]


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="needs Linux's /proc")
def test_memory_is_what_the_steps_take_at_once(whole):
    results = whole[0]["contestants"]
    for name, mb in (("xconv fake float32", 20), ("PyTorch fake float32", 60)):
        assert mb - 1 <= results[name]["step_mb"] <= mb + 4, name
    assert whole[0]["ratios"][-1]["measured"]["median"] == pytest.approx(3, rel=0.2)
    # A pool of memory that the small twin has filled hides what the contestant then takes: it is measured alone.
    assert 19 <= memory.added_mb(Entrant(Hungry, 100), 1, silent) <= 24
    said: list[str] = []
    assert memory.added_mb(Entrant(Broken, 4), 1, said.append, 3) is None
    assert len(said) == 1 and "RuntimeError: this one has no compiler" in said[0]


def test_memory_of_a_training_step_holds_the_gradients():
    if not memory.CLEAR.exists():
        pytest.skip("needs Linux's /proc")
    mb = memory.added_mb(Entrant(contestants.Xconv, 10, {"backend": "numpy", "network": network()}), 1, silent)
    parameters = network().build("numpy").count_params() * 4 / 1e6
    assert 2 * parameters < mb < 40  # gradients, AdaGrad's sums, and the maps of ten images


def test_the_report(whole):
    result, _ = whole
    text = report(result)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 130
    for words in (
        "fake, batch 4, 2 rounds",
        "| training step ",
        "| prediction ",
        "xconv fake over PyTorch's best",
        "memory of a training step: ",
        "PyTorch broken did not compete: RuntimeError: this one has no compiler",
        "PyTorch gone did not compete: its process ended in round 1",
        "xconv fake: ",
    ):
        assert words in text, words
    for row in lines:
        if row.startswith("|"):
            assert row.endswith("|") and row.count("|") >= 4


def test_a_report_of_which_nobody_ran():
    result = {
        **comparison.about(),
        "model": "fake", "batch_size": 4, "task": "step", "tasks": ["train", "infer"], "rounds": 1, "turns": 0,
        "disturbed_turns": 0, "ratios": [], "contestants": {"xconv fake": {"error": "no luck"}},
    }  # fmt: skip
    assert report(result).endswith("xconv fake did not compete: no luck")


def test_the_charts_are_written(whole, tmp_path):
    pytest.importorskip("matplotlib")
    result, said = whole[0], []
    save(tmp_path / "a" / "b", stem_of(result), result, charts.comparison, said.append)
    folder = tmp_path / "a" / "b"
    assert sorted(os.listdir(folder)) == ["peers-fake.json", "peers-fake.png"]
    assert json.loads((folder / "peers-fake.json").read_text()) == result
    assert (folder / "peers-fake.png").read_bytes().startswith(PNG)
    assert len(said) == 2


def test_no_chart_without_matplotlib(tmp_path):
    def draw(path: Path, result: object) -> None:
        raise ImportError("matplotlib")

    said: list[str] = []
    save(tmp_path, "peers", {"a": 1}, draw, said.append)
    assert os.listdir(tmp_path) == ["peers.json"] and "pip install 'xconv[plot]'" in said[-1]


# ---------------------------------------------------------------------- sweeps


@pytest.fixture
def fakes(monkeypatch):
    """Sweeps of fakes instead of networks on a backend."""

    def entrants(made, batch_size, names):
        return {"xconv fake float32": Entrant(Fake, batch_size, {"mb": batch_size})}

    monkeypatch.setattr("xconv.measure.sweeps.contestants.entrants", entrants)


@pytest.mark.parametrize(("axis", "sizes"), [("batch", [1, 4]), ("channels", [4, 8]), ("image", [2, 28])])
def test_a_sweep(axis, sizes, fakes, tmp_path):
    pytest.importorskip("matplotlib")
    said: list[str] = []
    result = sweeps.sweep(
        axis, network(), "fake", batch_size=8, sizes=sizes, rounds=1, seconds=0.0, patience=0.0, say=said.append
    )
    kept = sizes if axis != "image" else [28]  # images of 2x2 are smaller than the window
    assert result["sizes"] == kept and [row["size"] for row in result["rows"]] == kept
    assert any("image 2 is left out: " in line for line in said) == (axis == "image")
    assert json.loads(json.dumps(result)) == result
    for row in result["rows"]:
        batch = row["size"] if axis == "batch" else 8
        for task in ("train", "infer"):
            assert row[f"{task}_ms_per_image"] == pytest.approx(row[f"{task}_ms"] / batch)
        if memory.CLEAR.exists():
            assert row["mb_per_image"] == pytest.approx(row["step_mb"] / batch)
    for task in ("train", "infer"):
        over = [row[f"{task}_over_best"] for row in result["rows"]]
        assert min(over) == pytest.approx(1.0)
    line = result["arithmetic_ms_per_image"]
    assert result["work"] == pytest.approx([ms / line[0] for ms in line])
    assert result["work"] == {"batch": [1, 1], "channels": [1, pytest.approx(2, rel=0.01)], "image": [1]}[axis]
    text = sweeps.report(result)
    assert f"| {axis} " in text and "over best" in text and max(map(len, text.splitlines())) <= 120
    charts.growth(tmp_path / "sweep.png", result)
    assert (tmp_path / "sweep.png").read_bytes().startswith(PNG)


def test_threads_are_those_of_the_processes(fakes):
    result = sweeps.sweep(
        "threads", network(), "fake", batch_size=8, sizes=[1, 3], rounds=1, seconds=0.0, patience=0.0, say=silent
    )
    assert [row["threads"] for row in result["rows"]] == [1, 3]
    first, second = result["arithmetic_ms_per_image"]
    assert first == pytest.approx(3 * second)


def test_few_processes_live_at_once(fakes, monkeypatch):
    monkeypatch.setattr(sweeps, "AT_ONCE", 2)
    said: list[str] = []
    result = sweeps.sweep(
        "batch", network(), "fake", batch_size=8, sizes=[1, 2, 4], rounds=1, seconds=0.0, patience=0.0, say=said.append
    )
    assert result["sizes"] == [1, 2, 4] == [row["size"] for row in result["rows"]]
    assert [line for line in said if line.startswith("batch")] == ["batch 1, 2", "batch 4"]


def test_the_sizes_of_an_axis(monkeypatch):
    assert sweeps.default_sizes("batch") == (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
    for threads, sizes in ((1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))):
        monkeypatch.setattr(sweeps, "default_threads", lambda threads=threads: threads)
        assert sweeps.default_sizes("threads") == sizes


# ---------------------------------------------------------------------- small pieces


def test_table():
    assert table(["a", "b"], [["x", "1.5"], ["long", "22"]]) == (
        "| a    |   b |\n| :--- | --: |\n| x    | 1.5 |\n| long |  22 |"
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.214, "3.21 s"), (0.00541, "5.41 ms"), (5.4e-5, "0.054 ms"), (1.0, "1.00 s")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_disturbed_turns_are_told():
    assert disturbance({"disturbed_turns": 0, "turns": 20}) == []
    assert disturbance({"disturbed_turns": 2, "turns": 20}) == ["2 of 20 turns were disturbed by other programs."]
    (loud,) = disturbance({"disturbed_turns": 3, "turns": 20})
    assert loud.startswith("3 OF 20 TURNS") and "run again" in loud


def test_files_have_the_networks_and_the_tasks_name():
    assert stem_of({"model": "simple-convnet", "task": "step"}) == "peers"
    assert stem_of({"model": "simple-convnet", "task": "book"}) == "peers-book"
    assert stem_of({"model": "keras-mnist", "task": "fit"}) == "peers-keras-mnist-fit"


def test_an_error_is_one_line():
    error = RuntimeError("backend='inductor' raised:\nInvalidCxxCompiler: no compiler\n" + "x" * 1000)
    text = referee.in_short(error)
    assert text.startswith("RuntimeError: backend='inductor' raised: InvalidCxxCompiler: no compiler x")
    assert "\n" not in text and len(text) < 330


def test_a_process_that_says_nothing_is_an_error():
    with ExitStack() as stack:
        _, told = referee.start(stack, Gone.without_a_word, None, 1)
    assert told == {"error": "its process ended without a word"}


def test_torch_compile_without_a_compiler(monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytorch.ConfigError, match=r"C\+\+ compiler .* Received: none on PATH"):
        pytorch.PyTorch(4, compiled=True)
