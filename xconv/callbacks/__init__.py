"""Callbacks: what watches, stops and keeps a training run."""

from xconv.callbacks.base import Callback, History, LambdaCallback, Logs
from xconv.callbacks.progress import EpochLines, ProgressBar
from xconv.callbacks.rates import LearningRateScheduler, ReduceLROnPlateau
from xconv.callbacks.saving import CSVLogger, ModelCheckpoint
from xconv.callbacks.stopping import EarlyStopping, TerminateOnNaN

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "EpochLines",
    "History",
    "LambdaCallback",
    "LearningRateScheduler",
    "Logs",
    "ModelCheckpoint",
    "ProgressBar",
    "ReduceLROnPlateau",
    "TerminateOnNaN",
]
