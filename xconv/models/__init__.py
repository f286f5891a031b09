"""Models: what is built of layers, trained, asked, saved and loaded."""

from xconv.models.files import load
from xconv.models.model import Model
from xconv.models.sequential import Sequential

load_model = load  # Keras's name

__all__ = ["Model", "Sequential", "load", "load_model"]
