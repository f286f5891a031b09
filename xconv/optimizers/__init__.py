"""Optimizers: `optimizer.update(params, grads)` changes the parameters in place.

With a model's own parameters and gradients that is one fused pass over one flat buffer; any other mapping of names to
arrays is updated name by name by the backend that owns them ($XCONV_BACKEND, or the best, for NumPy arrays), to the
same bits as on that backend.
"""

from xconv import schedules
from xconv.optimizers.base import Optimizer
from xconv.optimizers.rules import (
    NAMED,
    SGD,
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    RMSprop,
    from_config,
    get,
)

Adagrad = AdaGrad  # Keras's spelling

__all__ = [
    "NAMED",
    "SGD",
    "AdaGrad",
    "Adagrad",
    "Adam",
    "AdamW",
    "Momentum",
    "Nesterov",
    "Optimizer",
    "RMSprop",
    "from_config",
    "get",
    "schedules",
]
