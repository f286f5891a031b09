"""Fixtures that every test may use: each backend by turns, where one that is not there is a skip with its reason."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from tests import standin
from xconv.backend import Backend, get_backend
from xconv.errors import BackendError

settings.register_profile("xconv", deadline=None, derandomize=True, max_examples=60, print_blob=True)
settings.load_profile("xconv")

BACKENDS = ("numpy", "numba", "cupy")
REQUIRED = {name for name in os.environ.get("XCONV_TEST_BACKENDS", "").split(",") if name}


def load(name: str) -> Backend:
    """The backend, "cupy" being a real device or else the stand-in; skips with the reason, or fails if required."""
    try:
        if name == "cupy":
            real = standin.real()
            if real is None and standin.MISSING:
                raise BackendError(standin.MISSING)
            return real or standin.install()
        return get_backend(name)
    except (BackendError, ImportError) as error:
        if name in REQUIRED:
            pytest.fail(f"XCONV_TEST_BACKENDS names {name!r}, which does not load: {error}")
        pytest.skip(f"backend {name}: {error}")


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Each backend by turns."""
    return load(request.param)


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    """Each dtype by turns."""
    return request.param
