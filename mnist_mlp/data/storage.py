"""The data root, the folder that holds the datasets, and writing files atomically."""

import contextlib
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.paths import expanded

ABANDONED_SECONDS: Final = 24 * 3600.0
"""An older temporary file was left behind by a killed process: writing one takes seconds."""


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


def store_files(files: Mapping[str, bytes], directory: Path) -> None:
    """Write `files` (file name → content) into `directory`, each one atomically; create the folder if missing.

    A reader sees the old file or the new one, never a part, even after a crash. If two processes write the same file,
    the last one to finish wins. Temporary files that killed processes left behind a day ago or earlier are removed.

    Raises:
        OSError: the folder or a file cannot be written; no temporary file is left behind.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _write_atomically(directory / name, content)
        _remove_abandoned(directory / name)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of `path` that are a day older than `path` itself, which was just written."""
    with contextlib.suppress(OSError):
        now = path.stat().st_mtime
        for each in path.parent.iterdir():
            is_temporary = each.name.startswith(f".{path.name}.") and each.suffix == ".tmp"
            if is_temporary and now - each.stat().st_mtime > ABANDONED_SECONDS:
                each.unlink()


def _write_atomically(path: Path, content: bytes) -> None:
    # Not by tempfile, whose files are private to the user whatever the umask: a data root may be shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
