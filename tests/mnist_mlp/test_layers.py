"""One layer's computation, by either library, against autograd's in float64."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from mnist_mlp.engines import layers
from mnist_mlp.engines.layers import Layer, LayerParameters, OneDnnLayer, make_layer

SIZE, INPUTS, OUTPUTS = 37, 50, 23

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(),
    reason="this torch has no oneDNN",
)
kinds = pytest.mark.parametrize("kind", [Layer, pytest.param(OneDnnLayer, marks=needs_onednn)])


def parameters(inputs: int = INPUTS, outputs: int = OUTPUTS) -> LayerParameters:
    generator = torch.Generator().manual_seed(0)
    weights, biases = torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
    return LayerParameters(weights, biases, torch.empty_like(weights), torch.empty_like(biases))


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@kinds
@pytest.mark.parametrize("is_hidden", [True, False])
@pytest.mark.parametrize("size", [SIZE, 512, 1300])
def test_outputs_gradients_and_input_error_are_those_of_float64(
    kind: type[Layer], size: int, *, is_hidden: bool
) -> None:
    values = parameters()
    layer = kind(values, size)
    inputs, error = random(size, INPUTS), random(size, OUTPUTS) / size
    weights, biases, exact = (value.double().requires_grad_() for value in (values.weights, values.biases, inputs))
    expected = functional.linear(exact, weights, biases)
    if is_hidden:
        expected = functional.relu(expected)
        outputs = layer.hidden(inputs)
    else:
        block = torch.empty(OUTPUTS, 2 * size)  # a batch's logits lie in a block of several batches'
        layer.logits(inputs, block[:, size:])
        outputs = block[:, size:].t()
    expected.backward(error.double())
    if is_hidden:
        error = layer.before_relu(error, outputs)
        error_t = layer.transposed(error)
    else:
        error_t = error.t()
    layer.gradients(error_t, inputs)
    found = [outputs, values.weight_gradient, values.bias_gradient, layer.input_error(error)]
    for one, other in zip(found, [expected, weights.grad, biases.grad, exact.grad], strict=True):
        assert other is not None
        torch.testing.assert_close(one.double(), other.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "device", "held_back", "kind"),
    [
        (1024, "cpu", True, OneDnnLayer),
        (1024, "cpu", False, Layer),
        (1024, "meta", True, Layer),
        (16, "cpu", True, Layer),
    ],
)
def test_onednn_is_used_for_large_products_where_mkl_is_held_back(
    size: int, device: str, kind: type[Layer], monkeypatch: pytest.MonkeyPatch, *, held_back: bool
) -> None:
    monkeypatch.setattr(layers, "mkl_is_held_back", lambda: held_back)
    with torch.device(device):
        values = LayerParameters(*(torch.empty(128, 784), torch.empty(128)) * 2)
    assert type(make_layer(values, size)) is kind


FAULTS = """
import resource
import sys

import torch

from mnist_mlp.engines import layers

if sys.argv[1:]:
    layers._keep_freed_memory()
faults = []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    products = [torch.ones(1_000_000) for _ in range(9)]
    del products
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(sorted(faults)[4])
"""
"""Page faults of a turn that wants, and frees, nine times 4 MB."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the rule is glibc's")
def test_memory_that_products_free_is_reused() -> None:
    def faults(*arguments: str, **environment: str) -> int:
        command = [sys.executable, "-c", FAULTS, *arguments]
        done = subprocess.run(  # noqa: S603 - our own command
            command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    as_at_first = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
    assert faults(**as_at_first) > 1000  # so they are seen; without this they come or not, as the heap happens to lie
    assert faults("kept") < 100


AMD, INTEL, ARM = "vendor_id\t: AuthenticAMD", "vendor_id\t: GenuineIntel", "CPU implementer\t: 0x41"


@pytest.mark.parametrize(
    ("cpuinfo", "capability", "libraries", "expected"),
    [
        (AMD, "AVX512", {"mkl", "mkldnn"}, True),
        (AMD, "AVX512", {"mkl"}, False),
        (AMD, "AVX512", {"mkldnn"}, False),
        (AMD, "AVX2", {"mkl", "mkldnn"}, False),
        (INTEL, "AVX512", {"mkl", "mkldnn"}, False),
        (ARM, "AVX512", {"mkl", "mkldnn"}, False),
        (None, "AVX512", {"mkl", "mkldnn"}, False),
    ],
)
def test_mkl_is_held_back_on_processors_of_amd_with_avx512(  # noqa: PLR0913 - the cases' parts
    cpuinfo: str | None,
    capability: str,
    libraries: set[str],
    *,
    expected: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "cpuinfo"
    if cpuinfo is not None:
        file.write_text(f"processor\t: 0\n{cpuinfo}\n")
    monkeypatch.setattr(layers, "_CPUINFO", file)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: "mkl" in libraries)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: "mkldnn" in libraries)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert layers.mkl_is_held_back.__wrapped__() is expected
