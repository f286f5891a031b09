"""Learning rates by step against numbers worked out by hand and the papers' formulas; configs; mistakes."""

from __future__ import annotations

import json
import math

import pytest

from tests.mistakes import message
from xconv import schedules
from xconv.errors import ConfigError
from xconv.schedules import CosineDecay, ExponentialDecay, PiecewiseConstant, Schedule, StepDecay, WarmUp

ROOT_HALF = math.sqrt(0.5)
TABLE: list[tuple[Schedule, dict[int, float]]] = [  # schedule, {step: rate}
    (StepDecay(0.8, 0.5, 10), {0: 0.8, 9: 0.8, 10: 0.4, 19: 0.4, 20: 0.2, 35: 0.1, 10**6: 0.0}),
    (StepDecay(0.8), {0: 0.8, 999: 0.8, 1000: 0.4, 2000: 0.2}),
    (StepDecay(0.8, 1.0, 1), {0: 0.8, 7: 0.8}),
    (StepDecay(0.8, 0.0, 2), {1: 0.8, 2: 0.0}),
    (CosineDecay(2.0, 8), {0: 2.0, 2: 1 + ROOT_HALF, 4: 1.0, 6: 1 - ROOT_HALF, 8: 0.0, 9: 0.0, 10**9: 0.0}),
    (CosineDecay(2.0, 8, 1.0), {0: 2.0, 2: 1.5 + ROOT_HALF / 2, 4: 1.5, 8: 1.0, 100: 1.0}),
    (CosineDecay(0.0, 4, 1.0), {0: 0.0, 2: 0.5, 4: 1.0}),
    (ExponentialDecay(0.1, 0.25, 10), {0: 0.1, 5: 0.05, 10: 0.025, 20: 0.00625, 10**6: 0.0}),
    (PiecewiseConstant([3, 5], [0.3, 0.2, 0.1]), {0: 0.3, 2: 0.3, 3: 0.2, 4: 0.2, 5: 0.1, 10**6: 0.1}),
    (PiecewiseConstant((), (0.7,)), {0: 0.7, 50: 0.7}),
    (WarmUp(4, 0.8), {0: 0.0, 1: 0.2, 2: 0.4, 3: 0.6, 4: 0.8, 5: 0.8, 10**6: 0.8}),
    (WarmUp(4, 0.5, 0.1), {0: 0.1, 1: 0.2, 3: 0.4, 4: 0.5}),
    (WarmUp(2, 0.1, 0.5), {0: 0.5, 1: 0.3, 2: 0.1}),
    (WarmUp(5, CosineDecay(2.0, 8)), {0: 0.0, 1: 0.4, 4: 1.6, 5: 2.0, 7: 1 + ROOT_HALF, 9: 1.0, 13: 0.0, 14: 0.0}),
    (WarmUp(1, WarmUp(2, 0.4, 0.2), 0.1), {0: 0.1, 1: 0.2, 2: 0.3, 3: 0.4}),
]


@pytest.mark.parametrize(("schedule", "expected"), TABLE, ids=[repr(schedule) for schedule, _ in TABLE])
def test_rates(schedule, expected):
    for step, rate in expected.items():
        got = schedule(step)
        assert type(got) is float and got == pytest.approx(rate, rel=1e-14, abs=1e-16), step


@pytest.mark.parametrize(("schedule", "expected"), TABLE, ids=[repr(schedule) for schedule, _ in TABLE])
def test_configs_are_plain_and_make_the_same(schedule, expected):
    again = schedules.get(json.loads(json.dumps(schedule.config())))
    assert type(again) is type(schedule) and again == schedule and again.config() == schedule.config()
    assert [again(step) for step in expected] == [schedule(step) for step in expected]


def test_what_configs_say():
    assert CosineDecay(1, 8).config() == {"kind": "CosineDecay", "lr": 1.0, "steps": 8, "final": 0.0}
    assert PiecewiseConstant([3], [1, 0.5]).config() == {
        "kind": "PiecewiseConstant",
        "boundaries": [3],
        "values": [1.0, 0.5],
    }
    assert WarmUp(2, StepDecay(1, 0.1, 5)).config() == {
        "kind": "WarmUp",
        "steps": 2,
        "then": {"kind": "StepDecay", "lr": 1.0, "drop": 0.1, "every": 5},
        "start": 0.0,
    }
    assert set(schedules.CLASSES) == {type(schedule).__name__ for schedule, _ in TABLE}
    assert repr(WarmUp(2, 0.5)) == "WarmUp(steps=2, then=0.5, start=0.0)"


def test_one_of_your_own():
    class Inverse(Schedule):
        def __call__(self, step):
            return 1.0 / (1 + step)

    mine = Inverse()
    assert schedules.get(mine) is mine
    assert [WarmUp(2, mine)(step) for step in range(5)] == [0.0, 0.5, 1.0, 0.5, 1 / 3]
    assert mine.config() is None and WarmUp(2, mine).config() is None  # no file can make it

    class StepDecay(schedules.StepDecay):  # the name of one that a file can make
        def __call__(self, step):
            return 5.0

    assert StepDecay(0.1).config() is None


def test_nothing_is_changed_after_it_was_checked():
    with pytest.raises(AttributeError):
        CosineDecay(1.0, 8).steps = 0


MISTAKES = {
    "negative rate": (lambda: StepDecay(-1), "StepDecay: lr must be a finite number >= 0. Received: -1"),
    "rate of text": (lambda: CosineDecay("0.1", 8), "CosineDecay: lr must be a finite number >= 0. Received: '0.1'"),
    "NaN": (
        lambda: ExponentialDecay(math.nan, 0.5, 1),
        "ExponentialDecay: lr must be a finite number >= 0. Received: nan",
    ),
    "infinite": (lambda: CosineDecay(math.inf, 8), "CosineDecay: lr must be a finite number >= 0. Received: inf"),
    "growing": (lambda: StepDecay(1, 1.5), "StepDecay: drop must be a finite number from 0 to 1. Received: 1.5"),
    "every 0": (lambda: StepDecay(1, 0.5, 0), "StepDecay: every must be an integer >= 1. Received: 0"),
    "steps 0": (lambda: CosineDecay(1, 0), "CosineDecay: steps must be an integer >= 1. Received: 0"),
    "steps 1.5": (
        lambda: ExponentialDecay(1, 0.5, 1.5),
        "ExponentialDecay: steps must be an integer >= 1. Received: 1.5",
    ),
    "rate 2": (
        lambda: ExponentialDecay(1, 2, 10),
        "ExponentialDecay: rate must be a finite number from 0 to 1. Received: 2",
    ),
    "final": (lambda: CosineDecay(1, 8, -1), "CosineDecay: final must be a finite number >= 0. Received: -1"),
    "boundaries": (
        lambda: PiecewiseConstant(3, [1, 2]),
        "PiecewiseConstant: boundaries must be a list. Received: 3",
    ),
    "boundaries fall": (
        lambda: PiecewiseConstant([5, 5], [1, 2, 3]),
        "PiecewiseConstant: boundaries must rise. Received: (5, 5)",
    ),
    "boundary 0": (
        lambda: PiecewiseConstant([0], [1, 2]),
        "PiecewiseConstant: each of boundaries must be an integer >= 1. Received: 0",
    ),
    "values": (
        lambda: PiecewiseConstant([5], [1]),
        "PiecewiseConstant: expected one value more than boundaries. Received: 1 values, 1 boundaries",
    ),
    "a value": (
        lambda: PiecewiseConstant([5], [1, -1]),
        "PiecewiseConstant: each of values must be a finite number >= 0. Received: -1",
    ),
    "then": (lambda: WarmUp(2, None), "WarmUp: then, if no schedule, must be a finite number >= 0. Received: None"),
    "start": (lambda: WarmUp(2, 1, -0.5), "WarmUp: start must be a finite number >= 0. Received: -0.5"),
    "warm-up of 0": (lambda: WarmUp(0, 1), "WarmUp: steps must be an integer >= 1. Received: 0"),
    "no config": (
        lambda: schedules.get("cosine"),
        "schedule: expected a config whose 'kind' is 'StepDecay', 'CosineDecay', 'ExponentialDecay', "
        "'PiecewiseConstant', 'WarmUp'. Received: 'cosine'",
    ),
    "another kind": (  # nothing is imported by a name that comes from a file
        lambda: schedules.get({"kind": "os.system", "command": "true"}),
        "schedule: expected a config whose 'kind' is 'StepDecay', 'CosineDecay', 'ExponentialDecay', "
        "'PiecewiseConstant', 'WarmUp'. Received: {'kind': 'os.system', 'command': 'true'}",
    ),
    "another argument": (
        lambda: schedules.get({"kind": "WarmUp", "steps": 1, "then": 1, "power": 2}),
        "schedule: WarmUp.__init__() got an unexpected keyword argument 'power'. "
        "Received: {'kind': 'WarmUp', 'steps': 1, 'then': 1, 'power': 2}",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_schedules_that_cannot_be(mistake):
    act, text = MISTAKES[mistake]
    message(ConfigError, text, act)
