"""What stands on a figure: its texts and its pixels."""

from __future__ import annotations

import numpy as np

BLUE, VERMILION = (0, 114, 178), (213, 94, 0)


def texts(figure) -> list[str]:
    """All that is written on a figure."""
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def drawn(figure) -> np.ndarray:
    """The pixels uint8[H,W,3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]
