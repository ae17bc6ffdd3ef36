"""The data root, the folder that holds the datasets."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.paths import expanded


def default_root(environ: Mapping[str, str] = os.environ, platform: str = sys.platform) -> Path:
    """Return the default folder for datasets: `MNIST_MLP_DATA`, or else a folder in the user's cache.

    The cache is `%LOCALAPPDATA%` on Windows, `~/Library/Caches` on macOS and `$XDG_CACHE_HOME` or `~/.cache` elsewhere;
    an empty variable counts as unset, and so does a relative `XDG_CACHE_HOME`, as its specification requires.

    Raises:
        InvalidValueError: the environment does not determine a folder.
    """
    if root := environ.get("MNIST_MLP_DATA"):
        return expanded(root)
    home = environ.get("HOME")
    if platform == "win32":
        cache = environ.get("LOCALAPPDATA")
    elif platform == "darwin":
        cache = home and f"{home}/Library/Caches"
    elif (xdg_cache := environ.get("XDG_CACHE_HOME", "")).startswith("/"):
        cache = xdg_cache
    else:
        cache = home and f"{home}/.cache"
    if not cache:
        variable = "LOCALAPPDATA" if platform == "win32" else "HOME"
        raise InvalidValueError(
            f"{variable} is not set, so there is no cache folder to keep datasets in: "
            f"name a folder with --data-root or MNIST_MLP_DATA"
        )
    return Path(cache) / "mnist-mlp"


def unwritable_root(root: Path, error: OSError) -> InvalidValueError:
    """Return the error for a data root that cannot be written."""
    if any(os.path.isfile(path) for path in (root, *root.parents)):  # noqa: PTH113 - Path.is_file may raise
        return InvalidValueError(
            f"data root {str(root)!r} cannot be a folder, because it is a file or lies in one: "
            f"name a folder with --data-root or MNIST_MLP_DATA"
        )
    return InvalidValueError(
        f"data root {str(root)!r} cannot be written ({error.strerror or error}): "
        f"name a writable folder with --data-root or MNIST_MLP_DATA"
    )
