"""The same seed gives the same bits; otherwise differences between trials would mean nothing."""

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import mnist_mlp
from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import Recipe
from mnist_mlp.train import Score, Training

CPU = torch.device("cpu")
ADAM = Recipe(name="test", layers=(784, 24, 16, 10), batch_size=32, test_batch_size=25, epochs=2)
RECIPES = {
    "adam": ADAM,
    "sgd-momentum": replace(ADAM, optimizer="sgd", momentum=0.9, learning_rate=0.01, weight_decay=1e-4),
    "sgd-softmax": replace(ADAM, optimizer="sgd", output="softmax", loss="nll_of_log", shuffle=False, transform="half"),
}

recipes = pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
pytestmark = pytest.mark.usefixtures("threads")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What training left behind, in bits; two are equal only if every bit is."""

    scores: tuple[Score, ...]
    parameters: tuple[bytes, ...]


ENGINES = ("eager", "fused")


@pytest.fixture(params=ENGINES, autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test is of every engine that promises the same bits."""
    name = str(request.param)
    monkeypatch.setattr(sys.modules[__name__], "ENGINE", name)
    return name


ENGINE = "eager"


def start(recipe: Recipe, dataset: Dataset, seed: int = 3, **options: Any) -> Training:  # noqa: ANN401 - Training's own
    return Training(recipe, dataset, device=CPU, seed=seed, **{"engine": ENGINE, **options})


def take_epochs(training: Training) -> Outcome:
    scores = []
    for epoch in range(training.recipe.epochs):
        scores += [training.train(training.order(epoch)).read(), training.evaluate().read()]
    return Outcome(
        scores=tuple(scores),
        parameters=tuple(value.detach().numpy().tobytes() for value in training.model.parameters()),
    )


def warm_up(training: Training) -> None:
    untrained = training.snapshot()
    training.train(training.rehearsal_order(4)).read()
    training.evaluate().read()
    training.restart(untrained)


@pytest.mark.parametrize("threads", [2], indirect=True)
def test_same_seed_gives_the_same_bits_on_two_threads_as_well(tiny: Dataset) -> None:
    assert torch.get_num_threads() == 2
    few_steps = replace(ADAM, batch_size=100, epochs=1)
    assert take_epochs(start(few_steps, tiny)) == take_epochs(start(few_steps, tiny))


@recipes
def test_same_seed_gives_the_same_bits(recipe: Recipe, tiny: Dataset) -> None:
    assert take_epochs(start(recipe, tiny)) == take_epochs(start(recipe, tiny))


@recipes
def test_another_seed_gives_other_weights_and_losses(recipe: Recipe, tiny: Dataset) -> None:
    one, two = take_epochs(start(recipe, tiny)), take_epochs(start(recipe, tiny, seed=4))
    assert all(mine != others for mine, others in zip(one.parameters, two.parameters, strict=True))
    assert all(mine.loss != others.loss for mine, others in zip(one.scores, two.scores, strict=True))


@recipes
def test_warm_up_leaves_no_trace(recipe: Recipe, tiny: Dataset) -> None:
    warmed = start(recipe, tiny)
    warm_up(warmed)
    assert take_epochs(warmed) == take_epochs(start(recipe, tiny))


def test_training_twice_from_a_restart_gives_the_same_bits(tiny: Dataset) -> None:
    training = start(ADAM, tiny)
    untrained = training.snapshot()
    first = take_epochs(training)
    training.restart(untrained)
    assert take_epochs(training) == first


def test_restart_drops_gradients(tiny: Dataset) -> None:
    training = start(ADAM, tiny)
    warm_up(training)
    assert all(parameter.grad is None for parameter in training.model.parameters())


def test_snapshot_is_not_changed_by_training(tiny: Dataset) -> None:
    training = start(ADAM, tiny)
    snapshot = training.snapshot()
    kept = {name: value.clone() for name, value in snapshot.items()}
    training.train(training.order(0))
    assert all(torch.equal(value, kept[name]) for name, value in snapshot.items())


def test_two_live_trainings_do_not_disturb_each_other(tiny: Dataset) -> None:
    alone = take_epochs(start(ADAM, tiny))
    one, two = start(ADAM, tiny), start(ADAM, tiny, seed=4)
    scores = []
    for epoch in range(ADAM.epochs):
        scores += [one.train(one.order(epoch)).read(), one.evaluate().read()]
        two.train(two.order(epoch)).read()
    assert tuple(scores) == alone.scores


def test_an_epoch_in_stretches_is_the_epoch(tiny: Dataset) -> None:
    whole, parts = start(ADAM, tiny), start(ADAM, tiny)
    whole.train(whole.order(0))
    for stretch in torch.split(parts.order(0), 2 * ADAM.batch_size):
        parts.train(stretch)
    for one, two in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_evaluation_changes_nothing(tiny: Dataset) -> None:
    training = start(ADAM, tiny)
    before = training.snapshot()
    assert training.evaluate().read() == training.evaluate().read()
    assert all(torch.equal(value, before[name]) for name, value in training.snapshot().items())


def test_pipelines_train_to_the_same_bits(tiny: Dataset, tiny_root: Path) -> None:
    through_loader = start(ADAM, tiny, engine="eager", pipeline="dataloader", root=tiny_root)
    assert take_epochs(through_loader) == take_epochs(start(ADAM, tiny, engine="eager"))


def test_global_random_state_is_neither_used_nor_changed(tiny: Dataset) -> None:
    outcomes = []
    for state in (1, 2):
        torch.manual_seed(state)
        np.random.seed(state)  # noqa: NPY002 - the legacy global state is what must not matter
        before = torch.get_rng_state()
        outcomes.append(take_epochs(start(ADAM, tiny)))
        assert torch.equal(torch.get_rng_state(), before)
    assert outcomes[0] == outcomes[1]


SCRIPT = """
import hashlib, sys
import torch
from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.recipes import Recipe
from mnist_mlp.train import Training

torch.set_num_threads(1)
noise = torch.Generator().manual_seed(0)
dataset = Dataset(
    name="noise", sha256="", source="generated",
    train_images=torch.randint(256, (100, 28, 28), generator=noise, dtype=torch.uint8),
    train_labels=torch.randint(10, (100,), generator=noise),
    test_images=torch.randint(256, (50, 28, 28), generator=noise, dtype=torch.uint8),
    test_labels=torch.randint(10, (50,), generator=noise),
)
recipe = Recipe(name="test", layers=(784, 24, 10), batch_size=32)
for engine in sys.argv[1:]:
    training = Training(recipe, dataset, device=torch.device("cpu"), seed=3, engine=engine)
    for epoch in range(2):
        training.train(training.order(epoch))
    digest = hashlib.sha256(b"".join(value.detach().numpy().tobytes() for value in training.model.parameters()))
    print(engine, digest.hexdigest())
"""


@pytest.fixture(scope="module")
def fresh() -> str:
    """What the script above prints of all engines in a process of its own."""
    return subprocess.run(  # noqa: S603 - this interpreter and the script above
        [sys.executable, "-c", SCRIPT, *ENGINES],
        cwd=Path(mnist_mlp.__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


@pytest.mark.slow
def test_fresh_process_gives_the_same_bits(
    engine: str, fresh: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["script", engine])
    exec(SCRIPT, {})  # noqa: S102 - the script above
    assert capsys.readouterr().out in fresh.splitlines(keepends=True)


def sized(samples: int) -> Dataset:
    images, labels = torch.zeros(samples, 28, 28, dtype=torch.uint8), torch.zeros(samples, dtype=torch.int64)
    return Dataset(
        name="zeros",
        sha256="",
        source="generated",
        train_images=images,
        train_labels=labels,
        test_images=images,
        test_labels=labels,
    )


LINEAR = Recipe(name="784-10", layers=(784, 10))


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000), samples=st.integers(1, 500))
def test_order_is_a_permutation_that_seed_and_epoch_decide(seed: int, epoch: int, samples: int) -> None:
    training = start(LINEAR, sized(samples), seed=seed)
    order = training.order(epoch)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(samples))
    assert torch.equal(order, training.order(epoch))
    assert torch.equal(order, start(LINEAR, sized(samples), seed=seed).order(epoch))


def test_orders_of_neighbouring_seeds_and_epochs_all_differ() -> None:
    orders = {
        tuple(start(LINEAR, sized(100), seed=seed).order(epoch).tolist()) for seed in range(8) for epoch in range(8)
    }
    assert len(orders) == 64


@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 1000), samples=st.integers(1, 500))
def test_order_without_shuffling_is_the_datasets_own(seed: int, epoch: int, samples: int) -> None:
    training = start(replace(LINEAR, shuffle=False), sized(samples), seed=seed)
    assert torch.equal(training.order(epoch), torch.arange(samples))


@pytest.mark.parametrize("shuffle", [True, False])
def test_order_has_all_samples_but_those_held_out(shuffle: bool) -> None:  # noqa: FBT001 - pytest passes it by name
    training = start(replace(LINEAR, shuffle=shuffle), sized(100), held_out=torch.arange(10, 60))
    assert sorted(training.order(0).tolist()) == [*range(10), *range(60, 100)]


@given(samples=st.integers(1, 300), batch_size=st.integers(1, 100), steps=st.integers(1, 5))
def test_rehearsal_has_every_batch_size_of_an_epoch_and_is_short(samples: int, batch_size: int, steps: int) -> None:
    training = start(replace(LINEAR, batch_size=batch_size), sized(samples))
    order = training.rehearsal_order(steps)
    sizes = [len(batch) for batch in torch.split(order, batch_size)]
    assert set(sizes) == {len(batch) for batch in torch.split(training.order(0), batch_size)}
    assert len(sizes) <= steps + 1
    assert len(set(order.tolist())) == len(order)


class HostReads(TorchDispatchMode):
    """Raise the moment an operation needs a tensor's value on the host."""

    READS = ("aten._local_scalar_dense", "aten.equal", "aten.is_nonzero", "aten.nonzero", "aten.masked_select")

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - as many types as operations
        assert str(func).rpartition(".")[0] not in self.READS, f"{func} reads from the device"
        return func(*args, **(kwargs or {}))


@recipes
def test_resident_training_reads_nothing_back_to_the_host(
    recipe: Recipe, tiny: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = start(recipe, tiny)
    order = training.order(0)
    reads: list[str] = []
    with monkeypatch.context() as patch:
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__", "__array__"):
            patch.setattr(Tensor, name, lambda *_, name=name: reads.append(name))
        with HostReads():  # type: ignore[no-untyped-call]  # torch's own has no types
            tally = training.train(order)
            training.evaluate()
    assert reads == []
    assert tally.read().samples == 203


def test_guard_against_host_reads_notices_them() -> None:
    with HostReads(), pytest.raises(AssertionError, match="_local_scalar_dense"):  # type: ignore[no-untyped-call]  # torch's own has no types
        torch.ones(1).item()


def test_large_seeds_do_not_share_the_orders_of_small_ones(tiny: Dataset) -> None:
    """Seed and epoch are mixed, not strung together: 7 + 5 * 2**32 once began where seed 7 was in epoch 5."""
    small = Training(ADAM, tiny, device=CPU, seed=7)
    large = Training(ADAM, tiny, device=CPU, seed=7 + 5 * 2**32)
    assert not torch.equal(small.order(5), large.order(0))


def test_order_without_shuffling_belongs_to_the_caller(tiny: Dataset) -> None:
    training = Training(replace(ADAM, shuffle=False), tiny, device=CPU, seed=0)
    training.order(0).fill_(0)
    assert torch.equal(training.order(1), torch.arange(training.train_samples))


def test_training_on_nothing_is_refused(tiny: Dataset) -> None:
    training = Training(ADAM, tiny, device=CPU, seed=0)
    with pytest.raises(InvalidValueError, match="at least one"):
        training.train(torch.empty(0, dtype=torch.int64))
