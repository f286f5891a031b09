"""Data sets: `load(name)` for the known ones, `read_idx` and `read_pair` for IDX files of your own."""

from xconv.data.dataset import DataSet, pixels
from xconv.data.download import cache_dir
from xconv.data.idx import read_idx
from xconv.data.mnist import NAMES, load, read_pair

__all__ = ["NAMES", "DataSet", "cache_dir", "load", "pixels", "read_idx", "read_pair"]
