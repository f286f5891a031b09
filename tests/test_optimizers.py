"""Update rules against their formulas in NumPy, clipping, entries that stay, rates that change."""

from __future__ import annotations

import math

import numpy as np
import pytest

import xconv
from tests import standin
from tests.buffers import SHAPES, compare, filled, numbers, wide
from tests.checks import draw
from tests.conftest import load
from tests.mistakes import message
from xconv import optimizers
from xconv.errors import ConfigError
from xconv.optimizers import SGD, AdaGrad, Adam, AdamW, Momentum, Nesterov, RMSprop
from xconv.schedules import CosineDecay, Schedule, StepDecay, WarmUp

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


def test_a_fresh_one_remembers_nothing(backend):
    start, gs = numbers(0, "float64"), [numbers(1 + step, "float64") for step in range(3)]
    used = Momentum(StepDecay(0.4, 0.5, 1), clipvalue=9.0)
    for turn in range(2):
        params = filled(backend, start, "float64")
        optimizer = used if turn == 0 else used.fresh()
        assert (optimizer.lr, optimizer.steps, optimizer.state_arrays()) == (0.4, 0, {})
        for g in gs:
            optimizer.update(params, filled(backend, g, "float64"))
        expected = {n: momentum(p, [g[n] for g in gs], [0.4, 0.2, 0.1]) for n, p in start.items()}
        compare(backend, params, expected)
    assert repr(optimizer) == repr(used) and used.lr == 0.1


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


def test_keras_s_names_of_what_is_here():
    assert optimizers.Adagrad is optimizers.AdaGrad is type(optimizers.get("Adagrad"))
    assert optimizers.schedules is xconv.schedules
