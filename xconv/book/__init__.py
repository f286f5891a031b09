"""The names and calls of "Deep Learning from Scratch" (Saitoh 2016), over xconv's own layers.

Change the imports of a chapter-7 or chapter-8 program to ``from xconv.book import ...`` and it runs on any backend.
"""

from xconv.book.functions import RMSprop, col2im, im2col, load_mnist
from xconv.book.layers import Affine, Convolution, Pooling, Relu, SoftmaxWithLoss
from xconv.book.network import DeepConvNet, SimpleConvNet
from xconv.book.trainer import Trainer
from xconv.optimizers import SGD, AdaGrad, Adam, Momentum, Nesterov

__all__ = [
    "SGD",
    "AdaGrad",
    "Adam",
    "Affine",
    "Convolution",
    "DeepConvNet",
    "Momentum",
    "Nesterov",
    "Pooling",
    "RMSprop",
    "Relu",
    "SimpleConvNet",
    "SoftmaxWithLoss",
    "Trainer",
    "col2im",
    "im2col",
    "load_mnist",
]
