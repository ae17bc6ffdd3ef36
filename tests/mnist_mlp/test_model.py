from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mnist_mlp.errors import InvalidValueError
from mnist_mlp.model import MLP, build_model, forward_flops, loss_function, parameter_count, training_flops
from mnist_mlp.recipes import LOSSES, OUTPUTS, RECIPES

pytestmark = pytest.mark.usefixtures("threads")

CPU = torch.device("cpu")
LAYER_LISTS = [
    (784, 10),
    (784, 1, 10),
    (784, 32, 10),
    (784, 16, 24, 10),
    *(recipe.layers for recipe in RECIPES.values()),
]


def seeded(layers: tuple[int, ...], *, output: str = "logits", seed: int = 0) -> MLP:
    return build_model(layers, activation="relu", output=output, seed=seed, device=CPU)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((784, 0, 10), {}, "layer width 0 in '784-0-10' is out of range: use 1 to"),
        ((784, 1.5, 10), {}, r"layer width 1\.5 is of type float: give a whole number"),
        ("784-10", {}, r"layers '784-10' are of type str: give them like \(784, 128, 10\)"),
        ((784,), {}, r"layers \(784,\) are too few"),
        ((784, 10), {"output": "soft"}, r"output 'soft' is unknown \(did you mean 'softmax'\?\)"),
        ((784, 10), {"activation": "relo"}, r"activation 'relo' is unknown \(did you mean 'relu'\?\)"),
    ],
)
def test_invalid_network_is_refused(
    arguments: Any,  # noqa: ANN401 - mistakes of any type
    options: dict[str, str],
    words: str,
) -> None:
    with pytest.raises(InvalidValueError, match=words):
        MLP(arguments, **options)


@pytest.mark.parametrize("layers", LAYER_LISTS)
def test_parameter_count_is_that_of_the_model(layers: tuple[int, ...]) -> None:
    assert parameter_count(layers) == sum(parameter.numel() for parameter in MLP(layers).parameters())


@pytest.mark.parametrize("layers", LAYER_LISTS)
def test_forward_flops_are_those_torch_counts_for_a_sample(layers: tuple[int, ...]) -> None:
    batch = 4
    with FlopCounterMode(display=False) as counter:
        MLP(layers)(noise(batch, 784))
    assert batch * forward_flops(layers) == counter.get_total_flops()


@pytest.mark.parametrize("layers", LAYER_LISTS)
def test_training_flops_are_those_torch_counts_for_a_sample(layers: tuple[int, ...]) -> None:
    batch = 4
    with FlopCounterMode(display=False) as counter:
        MLP(layers)(noise(batch, 784)).sum().backward()
    assert batch * training_flops(layers) == counter.get_total_flops()


def test_flops_of_a_small_model_are_those_of_pencil_and_paper() -> None:
    assert forward_flops((784, 128, 10)) == 2 * 784 * 128 + 2 * 128 * 10
    # Weight gradients cost as much again, and so does the gradient of the hidden layer's values, but of no pixel's.
    assert training_flops((784, 128, 10)) == 4 * 784 * 128 + 6 * 128 * 10


def test_activation_follows_every_layer_but_the_last() -> None:
    assert [type(module) for module in MLP((784, 30, 20, 10)).children()] == [
        nn.Linear,
        nn.ReLU,
        nn.Linear,
        nn.ReLU,
        nn.Linear,
    ]


def test_outputs_of_the_same_weights_are_logits_their_softmax_and_its_log() -> None:
    logits, log_softmax, softmax = (seeded((784, 32, 10), output=output)(noise(50, 784)).double() for output in OUTPUTS)
    assert logits.shape == (50, 10)
    exponentials = logits.exp()
    expected = exponentials / exponentials.sum(dim=1, keepdim=True)
    torch.testing.assert_close(softmax, expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(log_softmax, expected.log(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(softmax.sum(dim=1), torch.ones(50, dtype=torch.float64), rtol=0, atol=1e-6)
    assert not torch.allclose(logits, log_softmax)


@pytest.mark.parametrize("output", OUTPUTS)
def test_flat_and_square_images_give_the_same_output(output: str) -> None:
    model = seeded((784, 32, 10), output=output)
    images = noise(7, 1, 28, 28)
    assert torch.equal(model(images), model(images.reshape(7, 784)))


def test_all_losses_agree_where_their_outputs_say_the_same() -> None:
    images, labels = noise(50, 784), torch.arange(50) % 10
    # One at a time from float64: the mean over samples of minus the log-probability of the label.
    logits = seeded((784, 32, 10))(images).double()
    expected = -sum((row[label] - row.exp().sum().log()).item() for row, label in zip(logits, labels, strict=True)) / 50
    pairs = [(loss, output) for loss, outputs in LOSSES.items() for output in outputs]
    assert len(pairs) == 4
    for loss, output in pairs:
        value = loss_function(loss)(seeded((784, 32, 10), output=output)(images), labels)
        assert value.shape == ()
        assert value.item() == pytest.approx(expected, rel=1e-6)


def test_probability_that_underflows_gives_an_infinite_loss() -> None:
    probabilities = torch.tensor([[1.0, 0.0]])
    assert loss_function("nll_of_log")(probabilities, torch.tensor([1])).item() == float("inf")


def test_initial_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = seeded((784, 32, 10), seed=5)
    torch.manual_seed(2)
    again = seeded((784, 32, 10), seed=5, output="softmax")
    other = seeded((784, 32, 10), seed=6)
    for one, two, three in zip(first.parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)
        assert not torch.equal(one, three)


def test_initial_weights_do_not_depend_on_models_built_in_other_threads() -> None:
    layers, seeds = (784, 64, 64, 10), range(4)
    alone = [seeded(layers, seed=seed) for seed in seeds]
    with ThreadPoolExecutor(len(seeds)) as pool:
        for _ in range(20):
            together = pool.map(lambda seed: seeded(layers, seed=seed), seeds)
            for one, other in zip(alone, together, strict=True):
                assert all(map(torch.equal, one.parameters(), other.parameters()))


def test_initial_weights_are_those_of_a_plain_sequential_model() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(42)
        plain = nn.Sequential(nn.Linear(784, 32), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10))
    model = seeded((784, 32, 24, 10), seed=42)
    for expected, parameter in zip(plain.parameters(), model.parameters(), strict=True):
        assert torch.equal(expected, parameter)
    images = noise(3, 784)
    assert torch.equal(plain(images), model(images))


def test_building_a_model_leaves_the_global_random_state_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_rng_state()
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda _seed: pytest.fail("the GPUs' generators were seeded"))
    seeded((784, 32, 10), seed=7)
    assert torch.equal(torch.get_rng_state(), before)


def test_parameters_are_float32_and_trainable() -> None:
    assert all(
        parameter.dtype == torch.float32 and parameter.requires_grad for parameter in MLP((784, 10)).parameters()
    )
