"""What a step moves and holds, counted by hand for a model small enough to."""

import pytest
import torch

from mnist_mlp.costs import memory_floor, training_bytes
from mnist_mlp.model import MLP

LAYERS = (5, 3, 2)
PARAMETERS = 6 * 3 + 4 * 2


@pytest.mark.parametrize(
    ("optimizer", "momentum", "sweeps"),
    [("sgd", False, 5), ("sgd", True, 7), ("adam", False, 9)],
)
def test_parameters_are_swept_by_forward_gradient_and_optimizer(optimizer: str, *, momentum: bool, sweeps: int) -> None:
    backward = 3 * 2  # the first layer's input needs no gradient
    assert training_bytes(LAYERS, 0, optimizer=optimizer, momentum=momentum) == 4 * (sweeps * PARAMETERS + backward)


def test_a_sample_moves_its_image_and_every_layers_outputs_and_errors() -> None:
    image = 5 * 1 + 5 * 4 * 3
    hidden = 3 * 5 * 4  # written and read forward, read backward, its error written and read once
    output = 2 * 6 * 4  # its error is read by two products
    each = training_bytes(LAYERS, 7, optimizer="sgd") - training_bytes(LAYERS, 6, optimizer="sgd")
    assert each == image + hidden + output
    halves = [training_bytes(LAYERS, size, optimizer="sgd", activation_bytes=2) for size in (6, 7)]
    assert halves[1] - halves[0] == image + (hidden + output) / 2


def test_memory_floor_is_the_sum_of_what_must_be_alive() -> None:
    dataset = 100 * (5 + 8)
    batch = 4 * (5 * 4 + 8 + (3 + 2) * 4)
    assert memory_floor(LAYERS, 4, samples=100, optimizer="adam") == dataset + 16 * PARAMETERS + batch
    assert memory_floor(LAYERS, 4, samples=100, optimizer="sgd") == dataset + 8 * PARAMETERS + batch


def test_memory_floor_counts_what_torch_really_holds() -> None:
    model = MLP(LAYERS)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(4, 5)).sum().backward()
    optimizer.step()
    held = [*model.parameters(), *(p.grad for p in model.parameters())]
    moments = [state[name] for state in optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    held_bytes = sum(each.numel() * each.element_size() for each in (*held, *moments) if each is not None)
    assert memory_floor(LAYERS, 0, samples=0, optimizer="adam") == held_bytes
