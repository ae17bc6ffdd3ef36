"""Datasets: found, verified, kept in torchvision's folder layout, and returned as uint8 and int64 tensors."""

from mnist_mlp.data.datasets import Dataset, check_root_is_used, load
from mnist_mlp.data.root import default_root

__all__ = ["Dataset", "check_root_is_used", "default_root", "load"]
