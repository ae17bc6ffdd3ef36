"""The steps worked out in NumPy, held against torch's autograd and optimizers in float64."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from bench.worker.reference_steps import Adam, Layer, Optimizer, Sgd, first_losses, loss_and_gradients

STEPS = 6


def model(widths: list[int], seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, dtype=torch.float64), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def arrays(network: nn.Module) -> list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return [parameter.detach().numpy().copy() for parameter in network.parameters()]


def batches(width: int, classes: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(7)
    return [
        (
            torch.randn(5, width, dtype=torch.float64, generator=generator),
            torch.randint(classes, (5,), generator=generator),
        )
        for _ in range(STEPS)
    ]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 1000))
def test_loss_and_gradients_are_those_of_autograd(widths: list[int], seed: int) -> None:
    network = model(widths, seed)
    images, labels = batches(widths[0], widths[-1])[0]
    loss = functional.cross_entropy(network(images), labels)
    loss.backward()
    worked_out, gradients = loss_and_gradients(arrays(network), images.numpy(), labels.numpy())
    assert worked_out == pytest.approx(loss.item(), rel=1e-12, abs=1e-12)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        np.testing.assert_allclose(gradient, parameter.grad.numpy(), rtol=1e-9, atol=1e-13)


def test_large_logits_overflow_neither_the_loss_nor_its_gradients() -> None:
    network = model([12, 4], seed=3)
    images, labels = batches(12, 4)[0]
    loss = functional.cross_entropy(network(1e5 * images), labels)
    loss.backward()
    worked_out, gradients = loss_and_gradients(arrays(network), 1e5 * images.numpy(), labels.numpy())
    assert worked_out == pytest.approx(loss.item(), rel=1e-12)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


@pytest.mark.parametrize("name", ["adam", "sgd", "momentum"])
def test_losses_of_the_first_steps_are_those_of_torchs_optimizers(name: str) -> None:
    widths = [12, 8, 6, 4]
    network = model(widths, seed=3)
    layers = [
        Layer(weight=weight, bias=bias)
        for weight, bias in zip(arrays(network)[::2], arrays(network)[1::2], strict=True)
    ]
    data = batches(widths[0], widths[-1])
    optimizer: torch.optim.Optimizer
    own: Optimizer
    if name == "adam":
        optimizer, own = torch.optim.Adam(network.parameters(), lr=0.01), Adam(0.01)
    else:
        momentum = 0.9 if name == "momentum" else 0.0
        optimizer, own = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum), Sgd(0.1, momentum)
    expected = []
    for images, labels in data:
        loss = functional.cross_entropy(network(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    worked_out = first_losses(layers, [(images.numpy(), labels.numpy()) for images, labels in data], own)
    assert worked_out == pytest.approx(expected, rel=1e-10)
