from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from bench.records import Settings
from bench.worker.settings import SettingsError, apply_precision, check_products, product_format, read_back

CPU = torch.device("cpu")
FLOAT32_FRACTION_BITS = 23
PRODUCTS = {torch.Tensor.matmul, torch.Tensor.__matmul__, torch.matmul, torch.mm}


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    before = read_back()
    yield
    torch.set_num_threads(before.threads)
    torch.set_float32_matmul_precision(before.float32_matmul_precision)
    torch.backends.cudnn.allow_tf32 = before.tf32_cudnn
    torch.set_flush_denormal(before.flush_denormal)
    assert read_back() == before


class ShortArithmetic(TorchFunctionMode):
    """A device that cuts the operands of matrix products to `bits` fraction bits, as tensor cores do."""

    def __init__(self, bits: int, *, rounds: bool) -> None:
        super().__init__()
        self._dropped = FLOAT32_FRACTION_BITS - bits
        self._half = (1 << self._dropped) >> 1 if rounds else 0
        self.products = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        del types
        if func in PRODUCTS:
            self.products += 1
            args = tuple(self._shorten(operand) for operand in args)
        return func(*args, **(kwargs or {}))

    def _shorten(self, operand: torch.Tensor) -> torch.Tensor:
        bits = (operand.view(torch.int32) + self._half) >> self._dropped << self._dropped
        return bits.view(torch.float32)


def test_every_setting_is_set_whatever_it_was_before() -> None:
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    torch.backends.cudnn.allow_tf32 = True
    torch.set_flush_denormal(True)
    assert read_back() != apply_precision("fp32", 1)
    assert read_back() == Settings(
        threads=1, float32_matmul_precision="highest", tf32_matmul=False, tf32_cudnn=False, flush_denormal=False
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_returned_is_what_torch_reports(threads: int) -> None:
    settings = apply_precision("fp32", threads)
    assert settings == read_back()
    assert settings.threads == torch.get_num_threads() == threads


def test_flushed_denormals_are_detected_by_arithmetic() -> None:
    assert not read_back().flush_denormal
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush denormals")
    assert read_back().flush_denormal


@pytest.mark.parametrize(
    ("setter", "name"),
    [("torch.set_num_threads", "threads"), ("torch.set_float32_matmul_precision", "float32_matmul_precision")],
)
def test_a_setting_that_does_not_take_effect_is_an_error(
    monkeypatch: pytest.MonkeyPatch, setter: str, name: str
) -> None:
    torch.set_num_threads(2)
    torch.set_float32_matmul_precision("medium")
    with monkeypatch.context() as patch:
        patch.setattr(setter, lambda _value: None)
        with pytest.raises(SettingsError, match=rf"did not take effect: asked for .*{name}=.* torch reports"):
            apply_precision("fp32", 1)


def test_full_float32_arithmetic_is_recognised() -> None:
    assert product_format(CPU) == "fp32"
    with ShortArithmetic(FLOAT32_FRACTION_BITS, rounds=True) as untouched:
        assert product_format(CPU) == "fp32"
    assert untouched.products == 1


class LargeProductsOnly(ShortArithmetic):
    """A device ``cuda`` that is the host in truth, and takes TF32 for large products alone, as an H100 does."""

    def __init__(self) -> None:
        super().__init__(10, rounds=True)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - torch's signature
        here = {name: value for name, value in (kwargs or {}).items() if name != "device"}
        if func in PRODUCTS and min(args[0].shape[1], *args[1].shape) < 512:
            return func(*args, **here)
        return super().__torch_function__(func, types, args, here)


def test_a_device_that_shortens_large_products_alone_is_seen_through() -> None:
    with LargeProductsOnly() as device:
        assert product_format(torch.device("cuda:0")) == "tf32"
    assert device.products == 2


@pytest.mark.parametrize("rounds", [True, False])
@pytest.mark.parametrize(("bits", "name"), [(10, "tf32"), (7, "bf16")])
def test_shorter_arithmetic_is_caught_by_its_product(bits: int, name: str, *, rounds: bool) -> None:
    with ShortArithmetic(bits, rounds=rounds):
        assert product_format(CPU) == name


def test_bf16_is_autocast_over_full_float32() -> None:
    settings = apply_precision("bf16", 1)
    assert settings.float32_matmul_precision == "highest"
    assert product_format(CPU) == "fp32"
    check_products("bf16", CPU)


def test_autocast_that_does_not_shorten_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.autocast", lambda *_, **__: nullcontext())
    with pytest.raises(SettingsError, match="cpu multiplies float32 matrices in fp32 although bf16 was asked for"):
        check_products("bf16", CPU)


def test_tf32_on_a_device_without_it_is_an_error() -> None:
    with pytest.raises(SettingsError, match="cpu multiplies float32 matrices in fp32 although tf32 was asked for"):
        check_products("tf32", CPU)


def test_tf32_is_set_where_the_device_has_it() -> None:
    settings = apply_precision("tf32", 1)
    with ShortArithmetic(10, rounds=True):
        check_products("tf32", CPU)
    assert (settings.float32_matmul_precision, settings.tf32_matmul, settings.tf32_cudnn) == ("high", True, True)


def test_a_device_that_multiplies_shorter_than_it_reports_is_an_error() -> None:
    with ShortArithmetic(10, rounds=True), pytest.raises(SettingsError, match=r"^cpu multiplies float32"):
        check_products("fp32", CPU)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_real_tf32_is_caught_and_then_switched_off() -> None:
    device = torch.device("cuda:0")
    torch.set_float32_matmul_precision("high")
    if torch.cuda.get_device_capability(device) >= (8, 0):
        assert product_format(device) == "tf32"
    assert not apply_precision("fp32", torch.get_num_threads()).tf32_matmul
    check_products("fp32", device)
