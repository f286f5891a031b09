"""First weights: their bits, their fans, their moments, and what makes them again."""

from __future__ import annotations

import hashlib
import json
import math

import numpy as np
import pytest

from tests.mistakes import message
from xconv import initializers
from xconv.errors import ConfigError

SHAPES = {(50, 40): (50, 40), (30, 2, 3, 5): (30, 450), (30, 1, 3, 3): (9, 270)}  # shape -> fan in, fan out
VARIANCES = {
    "glorot_uniform": lambda i, o: 2 / (i + o),
    "glorot_normal": lambda i, o: 2 / (i + o),
    "he_uniform": lambda i, o: 2 / i,
    "he_normal": lambda i, o: 2 / i,
    "he": lambda i, o: 2 / i,
    "lecun_uniform": lambda i, o: 1 / i,
    "lecun_normal": lambda i, o: 1 / i,
}


def rng() -> np.random.Generator:
    return np.random.Generator(np.random.Philox(7))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", VARIANCES)
def test_bits_are_those_of_the_formula(name, shape):
    """The published accuracies start from "he" and from a plain standard deviation."""
    variance = VARIANCES[name](*SHAPES[shape])
    got = initializers.get(name)(rng(), shape)
    assert got.dtype == np.float64 and got.shape == shape
    if name.endswith("uniform"):
        expected = (2 * rng().random(shape) - 1) * math.sqrt(3 * variance)
        np.testing.assert_allclose(got, expected, rtol=1e-15)
        assert np.abs(got).max() <= math.sqrt(3 * variance)
    else:
        np.testing.assert_allclose(got, rng().standard_normal(shape) * math.sqrt(variance), rtol=1e-15)


def test_bits_of_before():
    for spec, shape, factor in (("he", (60, 40), math.sqrt(2 / 60)), ("he", (8, 3, 5, 5), math.sqrt(2 / 75)),
                                ("he_normal", (8, 3, 5, 5), math.sqrt(2 / 75)), (0.01, (60, 40), 0.01),
                                (np.float32(0.5), (7,), 0.5), (0, (7,), 0.0)):  # fmt: skip
        got, expected = initializers.get(spec)(rng(), shape), rng().standard_normal(shape) * factor
        assert got.tobytes() == expected.tobytes(), spec
    first = initializers.get("he")(np.random.Generator(np.random.Philox(0)), (30, 1, 5, 5))
    assert hashlib.sha256(first.tobytes()).hexdigest()[:16] == "b39598e02d74a9d1"


@pytest.mark.parametrize("name", VARIANCES)
def test_moments(name):
    """Over 120,000 draws mean and variance are the asked ones within four of their own standard errors."""
    got = initializers.get(name)(rng(), (400, 300))
    variance, count = VARIANCES[name](400, 300), got.size
    fourth = 1.8 if name.endswith("uniform") else 3.0  # E x^4 / variance^2
    assert abs(got.mean()) < 4 * math.sqrt(variance / count)
    assert abs(got.var() - variance) < 4 * variance * math.sqrt((fourth - 1) / count)
    beyond = (np.abs(got) > 2 * math.sqrt(variance)).mean()  # the Gaussian is not cut off there, as Keras's is
    assert beyond == 0 if name.endswith("uniform") else abs(beyond - 0.0455) < 0.003


def test_plain_ones():
    shape = (300, 400)
    assert not initializers.get("zeros")(rng(), shape).any()
    assert (initializers.get("ones")(rng(), shape) == 1).all()
    assert (initializers.Constant(0.25)(rng(), shape) == 0.25).all()
    uniform = initializers.RandomUniform(1.0, 3.0)(rng(), shape)
    np.testing.assert_allclose(uniform, 1 + 2 * rng().random(shape), rtol=1e-15)
    assert uniform.min() >= 1 and uniform.max() < 3
    normal = initializers.RandomNormal(2.0, 0.5)(rng(), shape)
    np.testing.assert_allclose(normal, 2 + 0.5 * rng().standard_normal(shape), rtol=1e-14)
    assert (initializers.RandomNormal()(rng(), shape) == rng().standard_normal(shape) * 0.05).all()
    everywhere = initializers.RandomUniform()(rng(), shape)
    assert -0.05 <= everywhere.min() < -0.049 and 0.049 < everywhere.max() < 0.05


def test_fans():
    for shape, expected in {**SHAPES, (7,): (7, 7), (): (1, 1), (6, 4, 3): (12, 18)}.items():
        assert initializers.fans(shape) == expected
    out = initializers.VarianceScaling(3.0, "fan_out")(rng(), (30, 2, 3, 5))
    np.testing.assert_allclose(out, rng().standard_normal((30, 2, 3, 5)) * math.sqrt(3 / 450), rtol=1e-15)


def test_fans_and_bounds_are_pytorch_s():
    torch = pytest.importorskip("torch", reason="needs PyTorch, the third opinion: pip install 'xconv[bench]'")
    for shape in SHAPES:
        # PyTorch keeps dense weights as [O,I].
        w = torch.empty(shape if len(shape) == 4 else shape[::-1])
        assert torch.nn.init._calculate_fan_in_and_fan_out(w) == initializers.fans(shape)
        limit = torch.nn.init.xavier_uniform_(w).abs().max().item()
        assert np.abs(initializers.glorot_uniform(rng(), shape)).max() == pytest.approx(limit, rel=0.05)


def test_configs_make_the_same_again():
    for spec in (
        *initializers.NAMED, 0.01, initializers.Constant(2), initializers.RandomNormal(1, 2),
        initializers.RandomUniform(-1, 2), initializers.VarianceScaling(0.1, "fan_out", "uniform"),
    ):  # fmt: skip
        initializer = initializers.get(spec)
        config = json.loads(json.dumps(initializers.config_of(initializer)))
        assert config is not None
        again = initializers.get(config)
        assert again(rng(), (4, 3)).tobytes() == initializer(rng(), (4, 3)).tobytes(), spec
        assert initializers.config_of(again) == config
    assert initializers.config_of(initializers.VarianceScaling(2.0, "fan_in", "normal")) == "he_normal"
    assert initializers.config_of(initializers.get(0.01)) == {"kind": "RandomNormal", "mean": 0.0, "stddev": 0.01}
    assert initializers.config_of(initializers.zeros) == "zeros"


def test_keras_s_class_names():
    for keras, name in {
        "GlorotUniform": "glorot_uniform", "GlorotNormal": "glorot_normal", "HeUniform": "he_uniform",
        "HeNormal": "he_normal", "LecunUniform": "lecun_uniform", "LecunNormal": "lecun_normal",
        "Zeros": "zeros", "Ones": "ones",
    }.items():  # fmt: skip
        named = initializers.get(name)
        assert getattr(initializers, keras)() is initializers.get(keras) is initializers.get(keras.lower()) is named
        assert initializers.config_of(getattr(initializers, keras)()) == name
        message(
            ConfigError,
            f"initializer: expected an instance, as {keras}(...), not the class. "
            f"Received: {getattr(initializers, keras)!r}",
            lambda keras=keras: initializers.get(getattr(initializers, keras)),
        )


def test_a_function_of_your_own():
    def identity(rng, shape):
        return np.eye(*shape)

    class Constant:  # by another's name
        def __call__(self, rng, shape):
            return np.zeros(shape)

    for mine in (identity, Constant()):
        assert initializers.get(mine) is mine and initializers.config_of(mine) is None


NAMES = (
    "'glorot_uniform', 'glorot_normal', 'he_uniform', 'he_normal', 'he', 'lecun_uniform', 'lecun_normal', 'zeros', "
    "'ones'"
)
MISTAKES = {
    "a name": (
        lambda: initializers.get("xavier"),
        f"unknown initializer: expected {NAMES} or a standard deviation. Received: 'xavier'",
    ),
    "a negative deviation": (
        lambda: initializers.get(-0.1),
        "the standard deviation of initial weights must be >= 0. Received: -0.1",
    ),
    "no deviation": (
        lambda: initializers.get(None),
        "the standard deviation of initial weights must be >= 0. Received: None",
    ),
    "a class": (
        lambda: initializers.get(initializers.Constant),
        "initializer: expected an instance, as Constant(...), not the class. "
        "Received: <class 'xconv.initializers.Constant'>",
    ),
    "a constant": (
        lambda: initializers.Constant(math.inf),
        "Constant: value must be a finite number. Received: inf",
    ),
    "a spread": (
        lambda: initializers.RandomNormal(0.0, -1.0),
        "RandomNormal: stddev must be a finite number >= 0. Received: -1.0",
    ),
    "bounds": (
        lambda: initializers.RandomUniform(1.0, -1.0),
        "RandomUniform: minval must not be above maxval. Received: 1, -1",
    ),
    "a mode": (
        lambda: initializers.VarianceScaling(mode="fan"),
        "VarianceScaling: mode must be one of 'fan_in', 'fan_out', 'fan_avg'. Received: 'fan'",
    ),
    "a distribution": (
        lambda: initializers.VarianceScaling(distribution="truncated_normal"),
        "VarianceScaling: distribution must be one of 'normal', 'uniform'. Received: 'truncated_normal'",
    ),
    "a config": (
        lambda: initializers.get({"kind": "Orthogonal"}),
        "initializer: expected a config whose 'kind' is 'Constant', 'RandomNormal', 'RandomUniform', "
        "'VarianceScaling'. Received: {'kind': 'Orthogonal'}",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_initializers_that_cannot_be(mistake):
    act, text = MISTAKES[mistake]
    message(ConfigError, text, act)


def test_a_config_with_an_argument_too_many():
    with pytest.raises(ConfigError, match=r"^initializer: .*'seed'\. Received: \{'kind': 'Constant'"):
        initializers.get({"kind": "Constant", "value": 1.0, "seed": 3})
