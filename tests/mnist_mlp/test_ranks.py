"""Several ranks train as one process does, on the same global batches."""

import multiprocessing
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed

from mnist_mlp.data import Dataset
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.ranks import ALONE, Ranks
from mnist_mlp.recipes import Recipe, customise
from mnist_mlp.support import check_supported
from mnist_mlp.train import Training

BATCH_SIZE = 6
CPU = torch.device("cpu")


def small_dataset(train: int, test: int = 20) -> Dataset:
    generator = torch.Generator().manual_seed(3)

    def part(count: int) -> tuple[Tensor, Tensor]:
        images = torch.randint(0, 256, (count, 28, 28), dtype=torch.uint8, generator=generator)
        return images, torch.randint(0, 10, (count,), generator=generator)

    (train_images, train_labels), (test_images, test_labels) = part(train), part(test)
    return Dataset(
        name="digits",
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        sha256="0" * 64,
        source="generated",
    )


def small_recipe() -> Recipe:
    return customise("784-12-10", batch_size=BATCH_SIZE, optimizer="sgd", learning_rate=0.5)


def train_two_epochs(samples: int, ranks: Ranks, *, together: bool = True) -> tuple[Tensor, list[tuple[float, int]]]:
    """Return the parameters after two epochs and each epoch's sum of losses and number of samples."""
    torch.set_num_threads(1)
    training = Training(small_recipe(), small_dataset(samples), device=CPU, seed=5, ranks=ranks)
    sums = []
    for epoch in range(2):
        if together:
            score = training.train(training.order(epoch)).read()
        else:
            with training.apart():
                score = training.train(training.order(epoch)).read()
        sums.append((score.loss * score.samples, score.samples))
    return torch.cat([p.detach().flatten() for p in training.model.parameters()]), sums


CASES = {
    "equal parts": 60,
    "unequal parts of the last batch": 64,
    "ranks without a sample in the last batch": 61,
}
WORLD_SIZE = 3


def one_rank(rank: int, folder: Path) -> None:
    """Be one of the processes."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder / 'meeting'}",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=60),
    )
    ranks = Ranks(rank=rank, world_size=WORLD_SIZE)
    found = {case: train_two_epochs(samples, ranks) for case, samples in CASES.items()}
    found["apart"] = train_two_epochs(60, ranks, together=False)
    torch.save(found, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, tuple[Tensor, list[tuple[float, int]]]]]:
    """Return what each rank found in each case."""
    folder = tmp_path_factory.mktemp("ranks")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_rank, args=(rank, folder)) for rank in range(WORLD_SIZE)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * WORLD_SIZE
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ranks_take_the_steps_that_one_process_takes(
    case: str, trained: list[dict[str, tuple[Tensor, list[tuple[float, int]]]]]
) -> None:
    alone, sums = train_two_epochs(CASES[case], ALONE)
    for found in trained:
        torch.testing.assert_close(found[case][0], alone, rtol=1e-5, atol=1e-6)
        assert found[case][0].equal(trained[0][case][0])
    for epoch, (loss, count) in enumerate(sums):
        parts = [found[case][1][epoch] for found in trained]
        assert sum(part[1] for part in parts) == count
        assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
def test_without_exchanging_gradients_ranks_diverge(
    trained: list[dict[str, tuple[Tensor, list[tuple[float, int]]]]],
) -> None:
    assert not torch.allclose(trained[0]["apart"][0], trained[1]["apart"][0], rtol=1e-3)


@pytest.mark.parametrize("samples", range(40))
@pytest.mark.parametrize("world_size", [1, 2, 3, 6])
def test_parts_are_the_batches_cut_up(world_size: int, samples: int) -> None:
    order = torch.randperm(samples)
    ranks = [Ranks(rank=rank, world_size=world_size) for rank in range(world_size)]
    parts = [rank.share(order, BATCH_SIZE).split(BATCH_SIZE // world_size) for rank in ranks]
    for number, batch in enumerate(order.split(BATCH_SIZE)):
        if len(batch):
            assert torch.cat([part[number] for part in parts if number < len(part)]).equal(batch)


def test_the_weights_of_a_short_batch_average_to_one_per_sample() -> None:
    weights = [Ranks(rank=rank, world_size=3).last_weight(13, BATCH_SIZE * 2) for rank in range(3)]
    assert weights == [3.0, 0.0, 0.0]
    assert [Ranks(rank=rank, world_size=2).last_weight(9, BATCH_SIZE) for rank in range(2)] == [4 / 3, 2 / 3]
    assert Ranks(rank=1, world_size=2).last_weight(12, BATCH_SIZE) == 1.0


def test_a_batch_that_ranks_cannot_share_equally_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="batch size 6 cannot be shared equally by 4 ranks"):
        Ranks(rank=0, world_size=4).local_batch_size(6)


@pytest.mark.parametrize(("rank", "world_size"), [(-1, 2), (2, 2), (0, 0)])
def test_rank_outside_of_the_world_is_refused(rank: int, world_size: int) -> None:
    with pytest.raises(InvalidValueError, match=f"rank {rank} is out of range"):
        Ranks(rank=rank, world_size=world_size)


@pytest.mark.parametrize("engine", ["fused", "compiled"])
def test_engines_for_one_process_are_refused_with_several_ranks(engine: str) -> None:
    with pytest.raises(InvalidValueError, match=f"engine '{engine}' trains in one process only"):
        check_supported(device="cpu", engine=engine, precision="fp32", pipeline="resident", world_size=2)


def test_ranks_are_refused_where_nothing_exchanges_gradients() -> None:
    with pytest.raises(InvalidValueError, match="several ranks are not supported on 'mps'"):
        check_supported(device="mps", engine="eager", precision="fp32", pipeline="resident", world_size=2)
