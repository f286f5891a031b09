"""Models: what is built of layers, trained, asked, saved and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xconv.models.files import load
from xconv.models.model import Model
from xconv.models.sequential import Sequential


def load_model(
    filepath: str | Path, custom_objects: Mapping[str, Any] | None = None, compile: bool = True, **settings: Any
) -> Model:
    """`load` as Keras names it and its arguments."""
    return load(filepath, custom_layers=custom_objects, compile=compile, **settings)


__all__ = ["Model", "Sequential", "load", "load_model"]
