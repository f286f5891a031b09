"""Predictions for which memory is short go in smaller batches: examples do not know of one another there."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from xconv.errors import OutOfMemoryError, OutOfMemoryWarning

if TYPE_CHECKING:
    from xconv.models.network import Network


def smaller(model: Network, count: int, told: bool) -> int:
    """Half of a batch that had no room, once idle memory is given back; OutOfMemoryError where it was one example.

    Warns, unless the user has been `told`.
    """
    model.backend.release()
    if count == 1:
        raise OutOfMemoryError(
            f"{model.name}: a single example does not fit into memory. Received: a batch of 1 in inference"
        )
    if not told:
        warnings.warn(
            f"{model.name}: memory is short: batches of {count} examples do not fit and are cut; a smaller batch_size "
            "does so from the start",
            OutOfMemoryWarning,
            stacklevel=6,
        )
    return count // 2
