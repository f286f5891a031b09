"""Checks for layers and backends of your own: `check_layer(MyLayer(), (3, 8, 8))`, `check_backend(MyBackend())`.

Each raises AssertionError with what was measured and what is allowed. Needs no test framework.
"""

from xconv.testing.backend import check_backend
from xconv.testing.compare import TOLERANCES, numerical_gradient
from xconv.testing.layer import bind, check_layer

__all__ = ["TOLERANCES", "bind", "check_backend", "check_layer", "numerical_gradient"]
