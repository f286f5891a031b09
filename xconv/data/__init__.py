"""Data sets: `load(name)` for the known ones, `folder` for pictures of your own, `read_*` for single files."""

from xconv.data.augment import Augmentation
from xconv.data.cifar import read_cifar10
from xconv.data.dataset import DataSet, pixels
from xconv.data.download import cache_dir
from xconv.data.folders import folder
from xconv.data.idx import read_idx
from xconv.data.known import NAMES, load
from xconv.data.mnist import read_pair
from xconv.data.picture import read_picture
from xconv.data.sources import Pixels, Source

__all__ = [
    "NAMES",
    "Augmentation",
    "DataSet",
    "Pixels",
    "Source",
    "cache_dir",
    "folder",
    "load",
    "pixels",
    "read_cifar10",
    "read_idx",
    "read_pair",
    "read_picture",
]
