"""Pictures of a network and its training. They need matplotlib: pip install "xconv[plot]".

Each function gives a matplotlib Figure, to show in a notebook or to change; `save_` and its name writes it to a file,
atomically: ``plots.save_curves("curves.png", model.history)`` is ``plots.curves(model.history)`` in a file, whose
suffix names the format (PNG, SVG, PDF; PNG without one). No window is opened and no global state of matplotlib touched.
ImportError without matplotlib, FileError where the file cannot be written. The colours are told apart by all eyes
(Okabe and Ito 2008), and what a colour says a shape or a text says as well.
"""

from xconv.plots.classes import as_probabilities, confusion, predictions
from xconv.plots.drawing import saving
from xconv.plots.layers import feature_maps, filters, first_filters
from xconv.plots.training import curves

save_confusion = saving(confusion)
save_curves = saving(curves)
save_feature_maps = saving(feature_maps)
save_filters = saving(filters)
save_predictions = saving(predictions)

__all__ = [
    "as_probabilities",
    "confusion",
    "curves",
    "feature_maps",
    "filters",
    "first_filters",
    "predictions",
    "save_confusion",
    "save_curves",
    "save_feature_maps",
    "save_filters",
    "save_predictions",
]
