"""Settings from the environment that cannot be are told, whichever backend runs; and arguments that only Keras has."""

from __future__ import annotations

import pytest

from tests import standin
from xconv import Sequential
from xconv import backend as backends
from xconv.errors import BackendError, ConfigError
from xconv.layers import Dense

WRONG = {
    "XCONV_PRECISION": ("half", "XCONV_PRECISION must be one of 'float32', 'tf32', 'bf16'. Received: 'half'"),
    "XCONV_GPU_MEMORY": ("abc", "XCONV_GPU_MEMORY must be a number of bytes"),
    "XCONV_NUM_THREADS": ("all", "XCONV_NUM_THREADS must be an integer >= 1"),
    "XCONV_WORKSPACE": ("plenty", "XCONV_WORKSPACE must be a number of bytes"),
}


@pytest.fixture(autouse=True)
def nothing_made(monkeypatch):
    monkeypatch.setattr(backends, "_made", {})
    monkeypatch.setattr(backends, "_chosen", None)


@pytest.mark.parametrize("setting", WRONG)
def test_a_setting_that_cannot_be(monkeypatch, run, setting):
    value, told = WRONG[setting]
    monkeypatch.setenv(setting, value)
    for name in ("numpy", "numba", "auto"):
        with pytest.raises(ConfigError) as caught:
            backends.get_backend(name)
        assert str(caught.value).startswith(told)
    for args in (["backends"], ["backends", "numpy"], ["backends", "--json"], ["train", "--backend", "numpy"]):
        code, out, err = run(*args)
        assert (code, out, err.count("\n")) == (2, "", 1) and told in err
    assert [row.usable for row in backends.backends()] == [False] * 3


@pytest.mark.parametrize(("setting", "value"), [("XCONV_GPU_MEMORY", "0.5"), ("XCONV_GPU_MEMORY", "20GB"),
                                                ("XCONV_NUM_THREADS", "1"), ("XCONV_PRECISION", "")])  # fmt: skip
def test_a_setting_that_can_be(monkeypatch, run, setting, value):
    monkeypatch.setenv(setting, value)
    backends.check_settings()
    assert run("backends", "numpy")[0] == 0


def test_a_precision_that_no_backend_here_has(monkeypatch, run):
    """No mistake of its own; but where none is usable, the exit code says so."""
    monkeypatch.setenv("XCONV_PRECISION", "tf32")
    with standin.modules(None, None):
        code, out, _ = run("backends")
    assert code == 1 and out.count("computes float32 arrays in float32 alone; unset it, or take backend 'cupy'") == 2
    with standin.modules(None, None), pytest.raises(BackendError, match="CuPy is not installed"):
        backends.get_backend("cupy")


def test_arguments_of_keras():
    model = Sequential([Dense(2)], input_shape=(3,), backend="numpy")
    model.compile("sgd", "mse")
    rule = model.optimizer
    for name, instead in {
        "run_eagerly": "record=False runs training steps operation by operation",
        "jit_compile": "kernels are compiled before the first step as it is",
        "steps_per_execution": "record=True",
        "auto_scale_loss": "losses need no scaling",
        "weighted_metrics": "give them as metrics",
        "lr": "expected optimizer, loss, metrics, loss_weights or record",
    }.items():
        with pytest.raises(ConfigError, match=rf"^compile: no such argument: .*{instead}.*\. Received: {name}$"):
            model.compile("adam", "mae", **{name: True})
    assert model.optimizer is rule and model._asked[0] == "mse"
