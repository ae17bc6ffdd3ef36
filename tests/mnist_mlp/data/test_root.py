from pathlib import Path

import pytest

from mnist_mlp.data import default_root
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.paths import expanded

HOME = {"HOME": "/home/me"}


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("linux", HOME, "/home/me/.cache/mnist-mlp"),
        ("linux", HOME | {"XDG_CACHE_HOME": "/cache"}, "/cache/mnist-mlp"),
        ("linux", {"XDG_CACHE_HOME": "/cache"}, "/cache/mnist-mlp"),
        ("linux", HOME | {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/mnist-mlp"),
        ("linux", HOME | {"XDG_CACHE_HOME": ""}, "/home/me/.cache/mnist-mlp"),
        ("darwin", HOME | {"XDG_CACHE_HOME": "/cache"}, "/home/me/Library/Caches/mnist-mlp"),
        ("win32", HOME | {"LOCALAPPDATA": "C:/Users/me/AppData/Local"}, "C:/Users/me/AppData/Local/mnist-mlp"),
        ("linux", HOME | {"MNIST_MLP_DATA": "here"}, "here"),
        ("win32", {"MNIST_MLP_DATA": "here"}, "here"),
        ("linux", HOME | {"MNIST_MLP_DATA": ""}, "/home/me/.cache/mnist-mlp"),
    ],
)
def test_default_root_follows_the_variables_of_the_platform(
    platform: str, environ: dict[str, str], expected: str
) -> None:
    assert default_root(environ, platform) == Path(expected)


@pytest.mark.parametrize(
    ("platform", "environ", "variable"),
    [("linux", {}, "HOME"), ("linux", {"HOME": ""}, "HOME"), ("darwin", {}, "HOME"), ("win32", HOME, "LOCALAPPDATA")],
)
def test_missing_home_is_an_error_with_remedies(platform: str, environ: dict[str, str], variable: str) -> None:
    with pytest.raises(InvalidValueError, match=rf"^{variable} is not set.*--data-root or MNIST_MLP_DATA"):
        default_root(environ, platform)


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert expanded("~/a") == default_root({"MNIST_MLP_DATA": "~/a"}) == Path("/home/me/a")
    assert expanded(Path("b/~")) == Path("b/~")
    assert expanded("~old.png") == Path("~old.png")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # what it does without a home
    with pytest.raises(InvalidValueError, match="there is no home folder for ~: write the whole path"):
        expanded("~/a")
