"""Update rules against their formulas in NumPy, clipping, entries that stay, schedules, names, configs, mistakes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import xconv
from tests import standin
from tests.checks import close, draw
from tests.conftest import load
from tests.mistakes import message
from xconv import optimizers, schedules
from xconv.errors import BackendError, ConfigError, ShapeError
from xconv.optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, Optimizer, RMSprop
from xconv.parameters import Parameters
from xconv.schedules import CosineDecay, Schedule, StepDecay, WarmUp

SHAPES = {"w": (3, 7), "b": (7,), "scale": (), "k": (2, 3, 2, 2)}
RATES = [0.05, 0.05, 0.02, 0.02, 0.3, 0.01]  # of each step


# ---------------------------------------------------------------------- the formulas, in float64


def plain(p, gs, rates):
    for g, lr in zip(gs, rates, strict=True):
        p = p - lr * g
    return p


def momentum(p, gs, rates, m=0.9):
    v = 0.0
    for g, lr in zip(gs, rates, strict=True):
        v = m * v - lr * g
        p = p + v
    return p


def nesterov(p, gs, rates, m=0.9):
    v = 0.0
    for g, lr in zip(gs, rates, strict=True):
        v = m * v - lr * g
        p = p + m * v - lr * g
    return p


def adagrad(p, gs, rates, eps=1e-7):
    h = 0.0
    for g, lr in zip(gs, rates, strict=True):
        h = h + g**2
        p = p - lr * g / (np.sqrt(h) + eps)
    return p


def rmsprop(p, gs, rates, rho=0.9, eps=1e-7):
    h = 0.0
    for g, lr in zip(gs, rates, strict=True):
        h = rho * h + (1 - rho) * g**2
        p = p - lr * g / (np.sqrt(h) + eps)
    return p


def adam(p, gs, rates, b1=0.9, b2=0.999, eps=1e-7, decay=0.0):
    m = v = 0.0
    for t, (g, lr) in enumerate(zip(gs, rates, strict=True), 1):
        p = p - lr * decay * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        p = p - lr * math.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)
    return p


RULES = {
    "SGD": (lambda: SGD(), plain, {}),
    "SGD momentum": (lambda: SGD(momentum=0.8), momentum, {"m": 0.8}),
    "SGD nesterov": (lambda: SGD(momentum=0.8, nesterov=True), nesterov, {"m": 0.8}),
    "SGD nesterov of nothing": (lambda: SGD(nesterov=True), plain, {}),
    "Momentum": (lambda: Momentum(), momentum, {}),
    "Momentum 0.5": (lambda: Momentum(momentum=0.5), momentum, {"m": 0.5}),
    "Nesterov": (lambda: Nesterov(), nesterov, {}),
    "AdaGrad": (lambda: AdaGrad(), adagrad, {}),
    "AdaGrad eps": (lambda: AdaGrad(eps=0.1), adagrad, {"eps": 0.1}),
    "RMSprop": (lambda: RMSprop(), rmsprop, {}),
    "RMSprop rho": (lambda: RMSprop(rho=0.5, eps=0.1), rmsprop, {"rho": 0.5, "eps": 0.1}),
    "Adam": (lambda: Adam(), adam, {}),
    "Adam betas": (lambda: Adam(beta1=0.5, beta2=0.7, eps=0.1), adam, {"b1": 0.5, "b2": 0.7, "eps": 0.1}),
    "AdamW": (lambda: AdamW(), adam, {"decay": 0.004}),
    "AdamW 0.5": (lambda: AdamW(weight_decay=0.5, beta2=0.9), adam, {"decay": 0.5, "b2": 0.9}),
    "AdamW without": (lambda: AdamW(weight_decay=0.0), adam, {}),
}


def numbers(seed, dtype, size=1.0):
    """An array of each shape."""
    return {
        name: size * draw(*shape, dtype=dtype, seed=100 * seed + i) if shape else np.array(0.5 - seed, dtype)
        for i, (name, shape) in enumerate(SHAPES.items())
    }


def filled(backend, arrays, dtype, fixed=()):
    made = Parameters(backend, {name: a.shape for name, a in arrays.items()}, dtype, fixed)
    made.update(arrays)
    return made


def wide(arrays):
    return {name: np.asarray(a, np.float64) for name, a in arrays.items()}


def compare(backend, params, expected, kind="sum"):
    for name, array in expected.items():
        got = backend.to_numpy(params[name])
        close(backend, backend.asarray(np.atleast_1d(got)), np.atleast_1d(array), kind, name)


@pytest.mark.parametrize("way", ["flat", "by name", "gradients in a dict"])
@pytest.mark.parametrize("rule", RULES)
def test_rules_follow_their_formulas(backend, dtype, rule, way):
    make, formula, settings = RULES[rule]
    start, gs = numbers(0, dtype), [numbers(1 + step, dtype) for step in range(len(RATES))]
    params, optimizer = filled(backend, start, dtype), make()
    for rate, g in zip(RATES, gs, strict=True):
        optimizer.lr = rate
        given = filled(backend, g, dtype)
        mine = {name: given[name] for name in reversed(SHAPES)}
        if way == "by name":
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("XCONV_BACKEND", backend.name)
                optimizer.update({name: params[name] for name in SHAPES}, mine)
        else:
            optimizer.update(params, given if way == "flat" else mine)
        for name, array in given.items():
            assert backend.to_numpy(array).tobytes() == g[name].tobytes(), "a gradient was written to"
    expected = {n: formula(p, [wide(g)[n] for g in gs], RATES, **settings) for n, p in wide(start).items()}
    compare(backend, params, expected)
    assert optimizer.steps == len(RATES)
    assert backend.to_numpy(optimizer.state_arrays()["hyper"]).tolist() == [RATES[-1], len(RATES)]


def test_defaults_are_those_of_keras_and_the_book():
    assert [(name, cls().lr) for name, cls in optimizers.NAMED.items()] == [
        ("sgd", 0.01),
        ("momentum", 0.01),
        ("nesterov", 0.01),
        ("adagrad", 0.01),
        ("rmsprop", 0.001),
        ("adam", 0.001),
        ("adamw", 0.001),
    ]
    assert AdamW().weight_decay == 0.004 and xconv.AdamW is AdamW
    assert SGD().slots == () and SGD(momentum=0.1).slots == Momentum().slots == Nesterov().slots == ("v",)


@pytest.mark.parametrize("name", ["numpy", "numba"])
@pytest.mark.parametrize("rule", ["adamw", "nesterov"])
def test_pytorch(name, rule):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the third opinion: pip install 'xconv[bench]'")
    backend, start = load(name), draw(40)
    theirs = torch.tensor(start, requires_grad=True)
    if rule == "adamw":  # an eps too small to matter, since PyTorch puts it at another place
        peer = torch.optim.AdamW([theirs], lr=0.05, betas=(0.8, 0.95), eps=1e-14, weight_decay=0.3)
        mine = AdamW(0.05, weight_decay=0.3, beta1=0.8, beta2=0.95, eps=1e-14)
    else:
        peer = torch.optim.SGD([theirs], lr=0.05, momentum=0.8, nesterov=True)
        mine = SGD(0.05, momentum=0.8, nesterov=True)
    params = filled(backend, {"w": start}, "float64")
    for step in range(30):
        g = draw(40, seed=step + 1)
        theirs.grad = torch.tensor(g)
        peer.step()
        mine.update(params, filled(backend, {"w": g}, "float64"))
    np.testing.assert_allclose(params.to_numpy()["w"], theirs.detach().numpy(), rtol=1e-10, atol=1e-12)
    assert np.abs(params.to_numpy()["w"] - start).max() > 0.1


# ---------------------------------------------------------------------- clipping


def cut(gs, how, limit):
    """The gradients {name: array} of one step, clipped, entry by entry."""
    if how == "clipvalue":
        return {n: np.vectorize(lambda v: max(-limit, min(limit, v)))(g) for n, g in gs.items()}

    def length(arrays):
        return math.sqrt(math.fsum(float(v) ** 2 for a in arrays for v in np.ravel(a)))

    norms = {n: length([g] if how == "clipnorm" else gs.values()) for n, g in gs.items()}
    return {n: g * (limit / norms[n] if norms[n] > limit else 1.0) for n, g in gs.items()}


@pytest.mark.parametrize("way", ["flat", "by name"])
@pytest.mark.parametrize("limit", [0.7, 4.0, 1000.0])  # cuts all, some, nothing
@pytest.mark.parametrize("how", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_clipping(backend, dtype, how, limit, way):
    start, g = numbers(0, dtype), numbers(1, dtype, size=2.0)
    params, grads = filled(backend, start, dtype, fixed=("k",)), filled(backend, g, dtype)
    SGD(0.5, **{how: limit}).update(params, grads if way == "flat" else dict(grads))
    kept = {name: a for name, a in wide(g).items() if name != "k"}  # what is fixed is in no norm
    expected = {name: p - 0.5 * cut(kept, how, limit)[name] for name, p in wide(start).items() if name != "k"}
    compare(backend, params, expected)
    assert params.to_numpy()["k"].tobytes() == start["k"].tobytes()
    for name, array in grads.to_numpy().items():
        assert array.tobytes() == g[name].tobytes(), "a gradient was written to"


@pytest.mark.parametrize("how", ["clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_every_rule_sees_clipped_gradients(backend, rule, how):
    start, g = numbers(0, "float64"), numbers(1, "float64", size=3.0)
    one, other = (filled(backend, start, "float64") for _ in range(2))
    first, second = optimizers.get(rule, lr=0.1, **{how: 0.5}), optimizers.get(rule, lr=0.1)
    for _ in range(3):
        first.update(one, filled(backend, g, "float64"))
        second.update(other, filled(backend, cut(wide(g), how, 0.5), "float64"))
    compare(backend, one, other.to_numpy())


@pytest.mark.parametrize("how", ["clipnorm", "global_clipnorm"])
def test_gradients_that_explode_are_clipped(backend, how):
    """Their squares are beyond float32."""
    g = np.array([3e25, -4e25], "float32")
    params = filled(backend, {"w": np.zeros(2, "float32")}, "float32")
    SGD(1.0, **{how: 2.0}).update(params, filled(backend, {"w": g}, "float32"))
    np.testing.assert_allclose(params.to_numpy()["w"], [-1.2, 1.6], rtol=1e-6)


@pytest.mark.parametrize("how", ["clipvalue", "clipnorm", "global_clipnorm"])
def test_clipping_nothing_changes_no_bit_and_hides_no_nan(backend, dtype, how):
    start, g = numbers(0, dtype), numbers(1, dtype)
    one, other = (filled(backend, start, dtype) for _ in range(2))
    Adam(0.1, **{how: 1e3}).update(one, filled(backend, g, dtype))
    Adam(0.1).update(other, filled(backend, g, dtype))
    assert backend.to_numpy(one.flat).tobytes() == backend.to_numpy(other.flat).tobytes()
    zero = {name: np.zeros_like(a) for name, a in g.items()}
    SGD(0.1, **{how: 1.0}).update(one, filled(backend, zero, dtype))
    assert backend.to_numpy(one.flat).tobytes() == backend.to_numpy(other.flat).tobytes()
    g["b"][2] = np.nan
    SGD(0.1, **{how: 1.0}).update(one, filled(backend, g, dtype))
    assert np.isnan(one.to_numpy()["b"][2])


# ---------------------------------------------------------------------- entries that stay


@pytest.mark.parametrize("way", ["flat", "by name"])
@pytest.mark.parametrize("fixed", [("w",), ("b", "k"), ("scale",), tuple(SHAPES)])
@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_what_is_fixed_stays_to_the_byte(backend, rule, fixed, way):
    start = numbers(0, "float32")
    start["b"][:3] = -0.0, np.nan, 1e-42
    free = {name: a for name, a in start.items() if name not in fixed}
    params = filled(backend, start, "float32", fixed)
    apart, alone = filled(backend, free, "float32"), optimizers.get(rule, lr=0.1)
    optimizer = optimizers.get(rule, lr=0.1)
    for step in range(3):
        g = numbers(step + 1, "float32")
        grads = filled(backend, g, "float32")
        given = {name: grads[name] for name in free}  # of what is fixed no gradient is asked for
        optimizer.update(params, grads if way == "flat" else given)
        if free:
            alone.update(apart, filled(backend, {name: g[name] for name in free}, "float32"))
    for name, array in params.to_numpy().items():
        expected = start[name] if name in fixed else apart.to_numpy()[name]
        assert array.tobytes() == expected.tobytes(), name
        assert name in fixed or array.tobytes() != start[name].tobytes()


def test_thawing_keeps_the_state(backend):
    g, params = numbers(1, "float64"), filled(backend, numbers(0, "float64"), "float64")
    optimizer = Momentum(0.1, 0.5)
    for fixed in ((), ("w",), ()):
        params.fixed = frozenset(fixed)
        optimizer.update(params, filled(backend, g, "float64"))
    start = wide(numbers(0, "float64"))
    expected = {name: momentum(p, [g[name]] * 3, [0.1] * 3, 0.5) for name, p in start.items()}
    expected["w"] = momentum(start["w"], [g["w"]] * 2, [0.1] * 2, 0.5)  # as if the step between had not been
    compare(backend, params, expected)


# ---------------------------------------------------------------------- rates


def test_a_schedule_gives_each_step_its_rate(backend, dtype):
    schedule = WarmUp(2, CosineDecay(0.4, 3))
    rates = [0.0, 0.2, 0.4, 0.3, 0.1, 0.0]
    start, gs = numbers(0, dtype), [numbers(1 + step, dtype) for step in range(6)]
    params, optimizer = filled(backend, start, dtype), Momentum(learning_rate=schedule)
    assert optimizer.lr == 0.0 and optimizer.steps == 0
    for step, g in enumerate(gs):
        optimizer.update(params, filled(backend, g, dtype))
        assert optimizer.lr == pytest.approx(rates[step]) and optimizer.steps == step + 1
    compare(backend, params, {n: momentum(p, [wide(g)[n] for g in gs], rates) for n, p in wide(start).items()})
    again = optimizer.fresh()
    assert (again.lr, again.steps, again.state_arrays()) == (0.0, 0, {})
    for g in gs[:3]:
        again.update(params, filled(backend, g, dtype))
    assert again.lr == 0.4


def test_a_number_replaces_a_schedule_and_the_other_way_round(backend):
    params = filled(backend, {"w": np.zeros(3)}, "float64")
    grads = filled(backend, {"w": np.ones(3)}, "float64")
    optimizer = SGD(StepDecay(1.0, 0.5, 1))
    optimizer.update(params, grads)  # 1
    optimizer.update(params, grads)  # 0.5
    hyper = optimizer.state_arrays()["hyper"]
    optimizer.lr = 10.0
    assert optimizer.lr == optimizer.learning_rate == 10.0 and repr(optimizer) == "SGD(lr=10)"
    assert backend.to_numpy(hyper).tolist() == [10.0, 2.0], "the device's array is to be changed in place"
    for _ in range(2):
        optimizer.update(params, grads)  # 10, 10
    optimizer.learning_rate = StepDecay(256.0, 0.5, 1)  # counts all steps: 256 / 2^4
    optimizer.update(params, grads)
    assert params.to_numpy()["w"].tolist() == [-37.5] * 3
    assert optimizer.state_arrays()["hyper"] is hyper


def test_a_schedule_that_fails_is_named():
    class Mine(Schedule):
        def __call__(self, step):
            return 0.1 if step < 2 else math.nan

        def __repr__(self):
            return "Mine()"

    params = filled(load("numpy"), {"w": np.zeros(3)}, "float64")
    optimizer = Adam(Mine())
    for _ in range(2):
        optimizer.update(params, params.like())
    message(
        ConfigError,
        "Adam: the rate of Mine() for step 2 must be a number >= 0. Received: nan",
        lambda: optimizer.update(params, params.like()),
    )
    assert optimizer.config() is None


@pytest.mark.skipif(bool(standin.MISSING), reason=f"stand-in: {standin.MISSING}")
@pytest.mark.parametrize("how", ["", "clipvalue", "clipnorm", "global_clipnorm"])
@pytest.mark.parametrize("rule", sorted(optimizers.NAMED))
def test_apply_can_be_recorded_while_a_schedule_runs(rule, how):
    """tick() on the host, then the recorded step: to the bit what as many eager steps give."""
    backend, settings = standin.install(), {how: 0.8} if how else {}
    batches = [filled(backend, numbers(1 + step, "float32"), "float32") for step in range(5)]
    eager, recorded = (filled(backend, numbers(0, "float32"), "float32", ("b",)) for _ in range(2))
    one, other = (optimizers.get(rule, lr=WarmUp(4, StepDecay(0.1, 0.5, 2), 0.01), **settings) for _ in range(2))
    grads = batches[0].like()
    grads.flat[...] = batches[0].flat

    for optimizer in (one, other, one, other, one, other):
        optimizer.tick()
    for _ in range(3):
        one.apply(eager, batches[0])
    launch, _ = standin.record(backend, lambda: other.apply(recorded, grads), warm_up=3)
    transfers = standin.state.transfers
    for batch in batches:
        one.update(eager, batch)
        grads.flat[...] = batch.flat
        other.tick()
        launch()
        assert backend.to_numpy(eager.flat).tobytes() == backend.to_numpy(recorded.flat).tobytes()
    assert other.lr == one.lr == 0.05 and standin.state.transfers > transfers
    before = standin.state.transfers
    one.apply(eager, batches[0])
    assert standin.state.transfers == before, "a step meets the host"


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
    second.load_state(kept, backend)
    assert second.steps == 3 and second.lr == first.lr
    first.update(pieces.like(), pieces.like())  # has nothing to do with the second any more
    for g in gs[3:]:
        step(second, pieces, g)
    assert backend.to_numpy(pieces.flat).tobytes() == backend.to_numpy(whole.flat).tobytes()
    assert straight.lr == second.lr == 0.025


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
        "Received: parameters, array of shape (32,), dtype float64; state, array of shape (16,), dtype float64",
        lambda: optimizer.update(other, other.like()),
    )
    assert other.to_numpy()["w"].tolist() == [1.0] * 30
    optimizer.fresh().update(other, other.like())


@pytest.mark.parametrize("arrays", [{}, {"hyper": np.zeros(3)}, {"hyper": np.zeros(2), "w:h": np.zeros(3)}])
def test_a_state_that_cannot_be(arrays):
    with pytest.raises(ConfigError, match=r"^Adam: expected the state of one: 'hyper' of shape \(2,\), 'm', 'v'\. "):
        Adam().load_state(arrays, load("numpy"))
