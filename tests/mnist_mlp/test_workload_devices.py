"""Choosing a device, automatically or by name, and setting the arithmetic of float32 products."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from mnist_mlp.devices import check_precision, choose_device, float32_products, set_float32_products
from mnist_mlp.errors import InvalidValueError


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False) -> None:
    """Have torch report these accelerators."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "chosen"), [(0, False, "cpu"), (0, True, "mps"), (2, False, "cuda"), (1, True, "cuda")]
)
def test_auto_takes_cuda_then_mps_then_cpu(monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, chosen: str) -> None:  # noqa: FBT001 - cases
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device() == torch.device(chosen)


def test_named_device_is_taken_even_if_there_is_a_faster_one(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cuda:1") == torch.device("cuda:1")


def test_torch_device_is_accepted_like_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2, mps=True)
    for name in ("cpu", "cuda:1", "cuda", "mps"):
        assert choose_device(torch.device(name)) == torch.device(name)
    assert choose_device(torch.device("mps", 0)) == torch.device("mps")  # as a tensor's own is called
    with pytest.raises(InvalidValueError, match=r"'cuda:2' is not available"):
        choose_device(torch.device("cuda", 2))
    with pytest.raises(InvalidValueError, match="device 'meta' is unknown"):
        choose_device(torch.device("meta"))


def test_missing_device_is_an_error_that_says_why_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    with pytest.raises(InvalidValueError, match=r"'cuda' is not available: .*finds no driver.*Available: cpu$"):
        choose_device("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(InvalidValueError, match=r"has no CUDA\. Available: cpu$"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: False)
    with pytest.raises(InvalidValueError, match=r"has no MPS\. Available: cpu$"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_built", lambda: True)
    with pytest.raises(InvalidValueError, match="torch finds no Apple GPU"):
        choose_device("mps")


def test_number_beyond_the_devices_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(InvalidValueError, match=r"'cuda:2' is not available: there are only 2.*Available: cpu, cuda"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["", "CUDA", "tpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "auto:1", "mps:0"])
def test_text_that_is_not_a_device_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, cuda=1, mps=True)
    with pytest.raises(InvalidValueError, match=f"device '{name}'"):
        choose_device(name)


def products_settings() -> list[object]:
    """Return torch's older and newer settings for float32 products; None for one that it cannot read."""
    backends: Any = torch.backends  # its types leave some of this out
    older: list[Callable[[], object]] = [torch.get_float32_matmul_precision, lambda: backends.cudnn.allow_tf32]
    settings: list[object] = [backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision]
    for read in older:
        try:
            settings.append(read())
        except RuntimeError:
            settings.append(None)
    return settings


@pytest.fixture
def settings_restored() -> Iterator[None]:
    yield
    set_float32_products("fp32")
    torch.backends.cudnn.allow_tf32 = True


def use_newer_switch() -> None:
    torch.backends.cuda.matmul.fp32_precision = "tf32"


@pytest.mark.usefixtures("settings_restored")
@pytest.mark.parametrize(
    "earlier",
    [
        lambda: None,
        lambda: torch.set_float32_matmul_precision("high"),
        lambda: torch.set_float32_matmul_precision("medium"),
        use_newer_switch,
    ],
    ids=["default", "high", "medium", "newer switch"],
)
def test_float32_products_are_restored_after_the_context(earlier: Callable[[], None]) -> None:
    earlier()
    before = products_settings()
    with float32_products("fp32"):
        assert products_settings()[2:] == ["highest", False]
        with float32_products("tf32"):
            assert products_settings()[2:] == ["high", True]
        assert products_settings()[2:] == ["highest", False]
    assert products_settings() == before


def test_float32_products_are_restored_after_an_error_too() -> None:
    before = products_settings()
    with pytest.raises(ValueError, match="within"), float32_products("tf32"):
        raise ValueError("within")
    assert products_settings() == before


@pytest.mark.parametrize(("capability", "has_it"), [((7, 5), False), ((8, 0), True), ((12, 0), True)])
def test_tf32_is_refused_where_the_device_is_too_old_for_it(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    has_it: bool,  # noqa: FBT001 - cases
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    check_precision("fp32", torch.device("cuda"))
    if has_it:
        check_precision("tf32", torch.device("cuda"))
    else:
        with pytest.raises(InvalidValueError, match=r"needs compute capability 8\.0, and device 'cuda' has 7\.5: use"):
            check_precision("tf32", torch.device("cuda"))
