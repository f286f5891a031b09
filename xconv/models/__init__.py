"""Models: what is built of layers, trained, asked, saved and loaded."""

from xconv.models.model import Model

__all__ = ["Model"]
