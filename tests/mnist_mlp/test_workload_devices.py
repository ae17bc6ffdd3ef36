"""Choosing a device: automatically in order, by name or not at all."""

import pytest
import torch

from mnist_mlp.devices import choose_device
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


def test_device_of_torchs_is_taken_as_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(InvalidValueError, match="no Apple GPU answers here"):
        choose_device("mps")


def test_number_beyond_the_devices_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, cuda=2)
    with pytest.raises(InvalidValueError, match=r"'cuda:2' is not available: there are only 2.*Available: cpu, cuda"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["", "CUDA", "tpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "auto:1", "mps:0"])
def test_text_that_is_no_device_is_refused(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    pretend(monkeypatch, cuda=1, mps=True)
    with pytest.raises(InvalidValueError, match=f"device '{name}'"):
        choose_device(name)
