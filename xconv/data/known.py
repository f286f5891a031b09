"""The data sets that are known by name."""

from __future__ import annotations

from xconv.data import cifar, mnist
from xconv.data.dataset import DataSet
from xconv.errors import ConfigError, described

NAMES = (*mnist.NAMES, "cifar10")


def load(name: str = "mnist-sample") -> DataSet:
    """A data set by name: "mnist-sample", "mnist", "fashion-mnist" or "cifar10".

    "mnist-sample" is inside the package: the first 10,000 training images of MNIST and all 10,000 test images. The
    others are read from under $XCONV_DATA_DIR where that variable is set: mnist/ and fashion-mnist/ hold `*-ubyte` or
    `*-ubyte.gz`, cifar-10-batches-bin/ the `*.bin` of CIFAR-10's binary version; a file missing there is an error and
    not a reason to download. Where it is not set they are downloaded once and kept in `cache_dir()`. Every file is
    checked by SHA-256 each time it is read. ConfigError for another name, FileError for a file that is missing,
    damaged or cannot be had. `xconv.data.folder` reads pictures of your own.
    """
    if isinstance(name, str) and name in NAMES:
        return cifar.load() if name == "cifar10" else mnist.load(name)
    raise ConfigError(f"unknown data: expected one of {', '.join(map(repr, NAMES))}. Received: {described(name)}")
