"""What optimizers are told: names of arguments, rules of one's own, configs, states that go on, mistakes."""

from __future__ import annotations

import json

import numpy as np
import pytest

import xconv
from tests.buffers import SHAPES, filled, numbers
from tests.conftest import load
from tests.mistakes import message
from xconv import optimizers, schedules
from xconv.errors import BackendError, ConfigError, ShapeError
from xconv.optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSprop
from xconv.schedules import CosineDecay, StepDecay, WarmUp

# ---------------------------------------------------------------------- names of arguments


@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_learning_rate_is_lr(rule):
    assert optimizers.get(rule, learning_rate=0.25).lr == optimizers.NAMED[rule](0.25).lr == 0.25


def test_other_names():
    same = Adam(lr=0.1, beta1=0.5, beta2=0.6, eps=0.25, clipnorm=2.0)
    assert repr(same) == "Adam(lr=0.1, beta1=0.5, beta2=0.6, eps=0.25, clipnorm=2)"
    assert repr(Adam(learning_rate=0.1, beta_1=0.5, beta_2=0.6, epsilon=0.25, clipnorm=2)) == repr(same)
    assert repr(AdamW(beta_2=0.5, weight_decay=1)) == "AdamW(lr=0.001, weight_decay=1, beta1=0.9, beta2=0.5, eps=1e-07)"
    assert AdaGrad(epsilon=0.5).eps == RMSprop(epsilon=0.5).eps == 0.5
    assert xconv.book.RMSprop(learning_rate=0.5, decay_rate=0.25).rho == 0.25
    assert repr(SGD(1)) == "SGD(lr=1)" and repr(SGD(0, 0.5, True)) == "SGD(lr=0, momentum=0.5, nesterov=True)"
    assert repr(Nesterov(CosineDecay(1, 5))) == "Nesterov(lr=CosineDecay(lr=1.0, steps=5, final=0.0), momentum=0.9)"


class Lion(Optimizer):
    """As a user writes one (Chen et al. 2023)."""

    slots = ("m",)
    settings = ("beta1",)

    def __init__(self, lr=1e-4, beta1=0.9, **common):
        super().__init__(lr, **common)
        self.beta1 = beta1

    def step(self, backend, p, g, hyper, m):
        p -= hyper[:1].astype(p.dtype) * backend.xp.sign(self.beta1 * m + (1 - self.beta1) * g)
        m *= 0.99
        m += 0.01 * g


def test_one_of_your_own(backend):
    params = filled(backend, {"w": np.zeros(3)}, "float64", ())
    optimizer = Lion(learning_rate=StepDecay(0.5, 0.5, 1), beta_1=0.5, clipvalue=1.0)
    for g in ([4, -4, 0], [-1, -1, 1]):
        optimizer.update(params, filled(backend, {"w": np.array(g)}, "float64"))
    assert params.to_numpy()["w"].tolist() == [-0.25, 0.75, -0.25]
    np.testing.assert_allclose(backend.to_numpy(optimizer.state_arrays()["m"])[:3], [-0.0001, -0.0199, 0.01])
    assert optimizer.config() is None  # no file can make it
    assert repr(Lion()) == "Lion(lr=0.0001, beta1=0.9)"
    message(
        ConfigError,
        "Lion: no such argument: expected lr, beta1, clipvalue, clipnorm, global_clipnorm. Received: beta",
        lambda: Lion(beta=1),
    )


# ---------------------------------------------------------------------- configs and state


@pytest.mark.parametrize(
    "optimizer",
    [
        SGD(0.1, 0.5, True),
        SGD(),
        Momentum(WarmUp(5, CosineDecay(0.1, 10)), clipvalue=1),
        Nesterov(momentum=0.5),
        AdaGrad(eps=0.5),
        RMSprop(0.1, 0.5, 0.25, clipnorm=2.5),
        Adam(schedules.PiecewiseConstant([5], [1, 0.5]), beta2=0.5),
        AdamW(0.1, 0.2, 0.3, 0.4, 0.5, global_clipnorm=3),
    ],
    ids=lambda optimizer: repr(optimizer),
)
def test_a_config_makes_the_same_optimizer(optimizer):
    config = json.loads(json.dumps(optimizer.config()))
    again = optimizers.from_config(config)
    assert type(again) is type(optimizer) and repr(again) == repr(optimizer) and again.config() == optimizer.config()
    assert (
        [again._schedule(k) for k in range(9)] == [optimizer._schedule(k) for k in range(9)]
        if "Decay" in repr(again)
        else again.lr == optimizer.lr
    )


def test_what_configs_say():
    assert Momentum(0.1, clipnorm=1).config() == {"kind": "Momentum", "lr": 0.1, "momentum": 0.9, "clipnorm": 1.0}
    assert AdamW(CosineDecay(1, 2)).config() == {
        "kind": "AdamW",
        "lr": {"kind": "CosineDecay", "lr": 1.0, "steps": 2, "final": 0.0},
        "weight_decay": 0.004,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-7,
    }
    book = xconv.book.RMSprop(decay_rate=0.5)  # the same rule under the book's words
    assert book.config() == {"kind": "RMSprop", "lr": 0.01, "rho": 0.5, "eps": 1e-7}

    class Adam(optimizers.Adam):
        def step(self, backend, p, g, hyper, m, v):
            backend.sgd(p, g, hyper)

    assert Adam().config() is None


@pytest.mark.parametrize("way", ["flat", "by name"])
@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_state_goes_on_elsewhere(backend, rule, way):
    schedule = StepDecay(0.1, 0.5, 2)
    whole = filled(backend, numbers(0, "float64"), "float64")
    straight, first = (optimizers.get(rule, lr=schedule) for _ in range(2))
    gs = [filled(backend, numbers(1 + step, "float64"), "float64") for step in range(6)]
    pieces = filled(backend, numbers(0, "float64"), "float64")

    def step(optimizer, params, g):
        optimizer.update(params, g if way == "flat" else dict(g))

    for g in gs:
        step(straight, whole, g)
    for g in gs[:3]:
        step(first, pieces, g)
    kept = {name: np.array(backend.to_numpy(a)) for name, a in first.state_arrays().items()}
    slots = {slot if way == "flat" else f"{name}:{slot}" for slot in first.slots for name in SHAPES}
    assert set(kept) == {"hyper", *slots}
    second = optimizers.from_config(first.config())
    before = {name: a.copy() for name, a in kept.items()}
    second.load_state(kept, backend)
    assert second.steps == 3 and second.lr == first.lr
    first.update(pieces.like(), pieces.like())  # has nothing to do with the second any more
    for g in gs[3:]:
        step(second, pieces, g)
    assert backend.to_numpy(pieces.flat).tobytes() == backend.to_numpy(whole.flat).tobytes()
    assert straight.lr == second.lr == 0.025
    assert all(a.tobytes() == before[name].tobytes() for name, a in kept.items()), "the caller's arrays were written to"


# ---------------------------------------------------------------------- mistakes

CLIPPING = "clipvalue, clipnorm, global_clipnorm"
MISTAKES = {
    "text": (lambda: SGD("0.1"), "SGD: lr must be a number >= 0 or a Schedule. Received: '0.1'"),
    "None": (lambda: Adam(None), "Adam: lr must be a number >= 0 or a Schedule. Received: None"),
    "True": (lambda: Adam(True), "Adam: lr must be a number >= 0 or a Schedule. Received: True"),
    "negative": (lambda: AdamW(-0.1), "AdamW: lr must be a number >= 0 or a Schedule. Received: -0.1"),
    "a function": (
        lambda: Adam(len),
        "Adam: lr must be a number >= 0 or a Schedule. Received: <built-in function len>",
    ),
    "learning_rate": (
        lambda: RMSprop(learning_rate=-1),
        "RMSprop: lr must be a number >= 0 or a Schedule. Received: -1",
    ),
    "twice": (
        lambda: SGD(lr=0.1, learning_rate=0.2),
        "SGD: lr and learning_rate are one argument: give one of them. Received: 0.1 and 0.2",
    ),
    "twice, once by place": (
        lambda: SGD(0.1, learning_rate=0.2),
        "SGD: multiple values for argument 'lr': expected lr, momentum, nesterov. Received: 0.1, lr=0.2",
    ),
    "epsilon twice": (
        lambda: Adam(epsilon=0.1, eps=0.2),
        "Adam: eps and epsilon are one argument: give one of them. Received: 0.2 and 0.1",
    ),
    "unknown": (
        lambda: Adam(beta3=1),
        f"Adam: no such argument: expected lr, beta1, beta2, eps, {CLIPPING}. Received: beta3",
    ),
    "another's": (
        lambda: SGD(beta_1=0.9, amsgrad=True),
        f"SGD: no such argument: expected lr, momentum, nesterov, {CLIPPING}. Received: beta_1, amsgrad",
    ),
    "too many": (
        lambda: SGD(0.1, 0.2, True, 4),
        "SGD: too many positional arguments: expected lr, momentum, nesterov. Received: 0.1, 0.2, True, 4",
    ),
    "the book's": (
        lambda: xconv.book.RMSprop(rho=0.9),
        "RMSprop: got an unexpected keyword argument 'rho': expected lr, decay_rate. Received: rho=0.9",
    ),
    "nesterov twice": (
        lambda: Momentum(0.1, nesterov=True),
        "Momentum: multiple values for argument 'nesterov': expected lr, momentum, nesterov. "
        "Received: 0.1, 0.9, False, nesterov=True",
    ),
    "nesterov": (lambda: SGD(nesterov=1), "SGD: nesterov must be True or False. Received: 1"),
    "momentum": (lambda: SGD(momentum=1), "SGD: momentum must be a number from 0 to below 1. Received: 1"),
    "weight decay": (lambda: AdamW(weight_decay=-1), "AdamW: weight_decay must be a number >= 0. Received: -1"),
    "AdamW's beta": (lambda: AdamW(beta_1=1.0), "AdamW: beta1 must be a number from 0 to below 1. Received: 1.0"),
    "two clippings": (
        lambda: SGD(clipnorm=1, clipvalue=2),
        f"SGD: expected at most one of {CLIPPING}. Received: clipvalue, clipnorm",
    ),
    "clipvalue 0": (
        lambda: SGD(clipvalue=0),
        "SGD: clipvalue must be above 0, or None not to clip. Received: 0",
    ),
    "clipnorm": (lambda: Adam(clipnorm="1"), "Adam: clipnorm must be a number >= 0. Received: '1'"),
    "global_clipnorm": (
        lambda: Adam(global_clipnorm=-1),
        "Adam: global_clipnorm must be a number >= 0. Received: -1",
    ),
    "a class": (
        lambda: optimizers.get(Adam),
        "optimizer: expected an instance, not its class: give xconv.Adam(1e-3), an instance. "
        "Received: <class 'xconv.optimizers.rules.Adam'>",
    ),
    "a class of one's own": (
        lambda: optimizers.get(Lion),
        f"optimizer: expected an instance, not its class: give Lion(1e-3), an instance. Received: {Lion!r}",
    ),
    "another class": (
        lambda: optimizers.get(dict),
        "unknown optimizer: expected one of sgd, momentum, nesterov, adagrad, rmsprop, adam, adamw. "
        "Received: <class 'dict'>",
    ),
    "no config": (
        lambda: optimizers.from_config("adam"),
        "optimizer: expected a config whose 'kind' is 'SGD', 'Momentum', 'Nesterov', 'AdaGrad', 'RMSprop', 'Adam', "
        "'AdamW'. Received: 'adam'",
    ),
    "another kind": (  # nothing is imported by a name that comes from a file
        lambda: optimizers.from_config({"kind": "os.system", "lr": 1}),
        "optimizer: expected a config whose 'kind' is 'SGD', 'Momentum', 'Nesterov', 'AdaGrad', 'RMSprop', 'Adam', "
        "'AdamW'. Received: {'kind': 'os.system', 'lr': 1}",
    ),
    "another schedule": (
        lambda: optimizers.from_config({"kind": "SGD", "lr": {"kind": "Lion"}}),
        "schedule: expected a config whose 'kind' is 'StepDecay', 'CosineDecay', 'ExponentialDecay', "
        "'PiecewiseConstant', 'WarmUp'. Received: {'kind': 'Lion'}",
    ),
    "another argument": (
        lambda: optimizers.from_config({"kind": "SGD", "lr": 1, "eps": 1}),
        f"SGD: no such argument: expected lr, momentum, nesterov, {CLIPPING}. Received: eps",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_settings_that_cannot_be(mistake):
    act, text = MISTAKES[mistake]
    message(ConfigError, text, act)


def test_gradients_that_do_not_fit_change_nothing(backend):
    start = {"W": np.ones((2, 3)), "b": np.ones(3)}
    params, optimizer = filled(backend, start, "float64"), Momentum(0.1)
    g = filled(backend, start, "float64")
    optimizer.update(params, g)
    before = backend.to_numpy(params.flat).tobytes()
    for given, kind, text in (
        (
            {"W9": g["W"]},
            ConfigError,
            "Momentum: no gradient of 'W', 'b': expected one for each parameter. Received: gradients of 'W9'",
        ),
        (
            {},
            ConfigError,
            "Momentum: no gradient of 'W', 'b': expected one for each parameter. Received: gradients of nothing",
        ),
        (
            {"W": g["W"], "b": g["W"]},
            ShapeError,
            "optimizer: the gradient of 'b' must have the parameter's shape (3,). "
            "Received: array of shape (2, 3), dtype float64",
        ),
        (
            {"W": g["W"], "b": None},
            ShapeError,
            "optimizer: the gradient of 'b' must have the parameter's shape (3,). Received: None",
        ),
    ):
        message(kind, text, lambda given=given: optimizer.update(params, given))
    other = filled(backend, {"b": np.ones(3), "W": np.ones((2, 3))}, "float64")
    assert other.flat.shape == params.flat.shape
    assert backend.to_numpy(params.flat).tobytes() == before
    assert backend.to_numpy(optimizer.state_arrays()["hyper"])[1] == 1


def test_gradients_in_another_order_go_where_they_belong(backend):
    params = filled(backend, {"a": np.zeros(3), "b": np.zeros(3)}, "float64")
    grads = filled(backend, {"b": np.array([1.0, 2, 3]), "a": np.array([4.0, 5, 6])}, "float64")
    assert grads.flat.shape == params.flat.shape
    SGD(1.0).update(params, grads)
    assert {name: w.tolist() for name, w in params.to_numpy().items()} == {"a": [-4, -5, -6], "b": [-1, -2, -3]}


def test_parameters_that_are_none():
    message(
        ConfigError,
        "SGD: expected parameters by name. Received: {}",
        lambda: SGD(0.1).update({}, {"W9": np.zeros(3)}),
    )
    with pytest.raises(BackendError, match="expected an array of backend"):
        SGD(0.1).update({"w": [1.0]}, {"w": [1.0]})


def test_an_optimizer_of_another_model_is_refused(backend):
    optimizer = Adam()
    one, other = (filled(backend, {"w": np.ones(n)}, "float64") for n in (3, 30))
    optimizer.update(one, one.like())
    message(
        ConfigError,
        "Adam: its state is that of other parameters; give each model its own optimizer, as optimizer.fresh() is. "
        "Received: parameters, array of shape (32,), dtype float64; state, array of shape (3,), dtype float64",
        lambda: optimizer.update(other, other.like()),
    )
    assert other.to_numpy()["w"].tolist() == [1.0] * 30
    optimizer.fresh().update(other, other.like())


@pytest.mark.parametrize("arrays", [{}, {"hyper": np.zeros(3)}, {"hyper": np.zeros(2), "w:h": np.zeros(3)}])
def test_a_state_that_cannot_be(arrays):
    with pytest.raises(ConfigError, match=r"^Adam: expected the state of one: 'hyper' of shape \(2,\), 'm', 'v'\. "):
        Adam().load_state(arrays, load("numpy"))
