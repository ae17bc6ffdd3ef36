import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mnist_mlp.data import Dataset, default_root
from mnist_mlp.errors import InvalidValueError
from mnist_mlp.pipelines import DataLoaderPipeline, Pipeline, ResidentPipeline
from mnist_mlp.recipes import TRANSFORMS

pytestmark = pytest.mark.usefixtures("threads")

CPU = torch.device("cpu")

transforms = pytest.mark.parametrize("transform", TRANSFORMS)


def resident(dataset: Dataset, transform: str, *, batch_size: int = 50, test_batch_size: int = 20) -> ResidentPipeline:
    return ResidentPipeline(dataset, transform, batch_size=batch_size, test_batch_size=test_batch_size, device=CPU)


def dataloader(  # noqa: PLR0913 - what the pipeline takes
    dataset: Dataset,
    transform: str,
    root: Path,
    *,
    batch_size: int = 50,
    test_batch_size: int = 20,
    workers: int = 0,
) -> DataLoaderPipeline:
    return DataLoaderPipeline(
        dataset,
        transform,
        batch_size=batch_size,
        test_batch_size=test_batch_size,
        device=CPU,
        root=root,
        workers=workers,
    )


@pytest.fixture(params=["resident", "dataloader"])
def unit_pipeline(request: pytest.FixtureRequest, tiny: Dataset, tiny_root: Path) -> Pipeline:
    return resident(tiny, "unit") if request.param == "resident" else dataloader(tiny, "unit", tiny_root)


def shuffled(samples: int) -> Tensor:
    return torch.randperm(samples, generator=torch.Generator().manual_seed(0))


def joined(batches: Iterator[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    images, labels = zip(*batches, strict=True)
    return torch.cat([batch.flatten(1) for batch in images]), torch.cat(labels)


def assert_identical(one: Iterator[tuple[Tensor, Tensor]], two: Iterator[tuple[Tensor, Tensor]]) -> None:
    count = 0
    for (images, labels), (other_images, other_labels) in zip(one, two, strict=True):
        assert images.dtype == other_images.dtype == torch.float32
        assert labels.dtype == other_labels.dtype == torch.int64
        # As integers: two floats that are equal may still differ in bits (the zeros do).
        assert torch.equal(images.flatten(1).view(torch.int32), other_images.flatten(1).view(torch.int32))
        assert torch.equal(labels, other_labels)
        count += 1
    assert count > 1


@transforms
def test_pipelines_give_bit_identical_batches(transform: str, tiny: Dataset, tiny_root: Path) -> None:
    one, two = resident(tiny, transform), dataloader(tiny, transform, tiny_root)
    order = shuffled(len(tiny.train_labels))
    assert_identical(one.train_batches(order), two.train_batches(order))
    assert_identical(one.test_batches(), two.test_batches())


# Python 3.12 and later warn of a fork beside threads, which is how DataLoader starts workers on Linux.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_worker_processes_change_no_bit(tiny: Dataset, tiny_root: Path) -> None:
    one, two = dataloader(tiny, "mnist", tiny_root), dataloader(tiny, "mnist", tiny_root, workers=1)
    order = shuffled(len(tiny.train_labels))
    assert_identical(one.train_batches(order), two.train_batches(order))
    assert_identical(one.test_batches(), two.test_batches())


def test_fashion_mnist_is_read_from_its_own_files(tiny_fashion: Dataset, tiny_root: Path) -> None:
    one, two = resident(tiny_fashion, "half"), dataloader(tiny_fashion, "half", tiny_root)
    assert_identical(one.test_batches(), two.test_batches())


@pytest.mark.mnist
@transforms
def test_pipelines_give_bit_identical_batches_of_real_mnist(transform: str, mnist: Dataset) -> None:
    one = resident(mnist, transform, batch_size=64, test_batch_size=1500)
    two = dataloader(mnist, transform, default_root(), batch_size=64, test_batch_size=1500)
    order = shuffled(60_000)[:1000]
    assert_identical(one.train_batches(order), two.train_batches(order))
    if transform == "mnist":  # 2 s each in the dataloader
        assert_identical(one.test_batches(), two.test_batches())


def test_training_batches_keep_the_order_asked_for(unit_pipeline: Pipeline, tiny: Dataset) -> None:
    order = torch.tensor([7, 3, 3, 202, 0])
    images, labels = joined(unit_pipeline.train_batches(order))
    assert torch.equal(labels, tiny.train_labels[order])
    assert torch.equal((images * 255).round().to(torch.uint8), tiny.train_images[order].flatten(1))


def test_test_batches_are_the_whole_test_set_in_its_own_order(unit_pipeline: Pipeline, tiny: Dataset) -> None:
    images, labels = joined(unit_pipeline.test_batches())
    assert torch.equal(labels, tiny.test_labels)
    assert torch.equal((images * 255).round().to(torch.uint8), tiny.test_images.flatten(1))


def test_last_batches_hold_the_rest(unit_pipeline: Pipeline) -> None:
    train = [len(labels) for _, labels in unit_pipeline.train_batches(torch.arange(203))]
    test = [len(labels) for _, labels in unit_pipeline.test_batches()]
    assert train == [50, 50, 50, 50, 3]
    assert test == [20, 20, 17]


def test_batches_leave_the_global_random_state_alone(unit_pipeline: Pipeline) -> None:
    before = torch.get_rng_state()
    joined(unit_pipeline.train_batches(shuffled(203)))
    joined(unit_pipeline.test_batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_epochs_of_the_same_order_are_the_same(unit_pipeline: Pipeline) -> None:
    order = shuffled(203)
    assert_identical(unit_pipeline.train_batches(order), unit_pipeline.train_batches(order))
    assert_identical(unit_pipeline.test_batches(), unit_pipeline.test_batches())


@transforms
def test_images_are_normalised_as_documented(transform: str, tiny: Dataset) -> None:
    mean, deviation = {"unit": (0, 1), "mnist": (0.1307, 0.3081), "half": (0.5, 0.5)}[transform]
    images, _ = joined(resident(tiny, transform).train_batches(torch.arange(203)))
    expected = (tiny.train_images.flatten(1).double() / 255 - mean) / deviation
    torch.testing.assert_close(images.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("transform", "low", "high"), [("unit", 0.0, 1.0), ("half", -1.0, 1.0)])
def test_images_span_the_documented_range_exactly(transform: str, low: float, high: float, tiny: Dataset) -> None:
    images, _ = joined(resident(tiny, transform).test_batches())
    assert (images.min().item(), images.max().item()) == (low, high)


def test_resident_batches_are_flat_and_dataloader_batches_square(tiny: Dataset, tiny_root: Path) -> None:
    order = torch.arange(5)
    ((flat, _),) = resident(tiny, "unit").train_batches(order)
    ((square, _),) = dataloader(tiny, "unit", tiny_root).train_batches(order)
    assert (flat.shape, square.shape) == ((5, 784), (5, 1, 28, 28))


def test_resident_pipeline_holds_bytes_not_floats(tiny: Dataset) -> None:
    held: list[Tensor] = []
    for value in vars(resident(tiny, "mnist")).values():
        held += [item for item in (value if isinstance(value, tuple) else (value,)) if isinstance(item, Tensor)]
    floats = sum(tensor.numel() for tensor in held if tensor.dtype not in {torch.uint8, torch.int64})
    pixels = sum(tensor.numel() for tensor in held if tensor.dtype == torch.uint8)
    assert pixels == (203 + 57) * 784
    # The divisor, the mean and the deviation.
    assert floats <= 3


def test_resident_pipeline_leaves_the_dataset_alone(tiny: Dataset) -> None:
    before = tiny.train_images.clone(), tiny.test_images.clone()
    pipeline = resident(tiny, "mnist")
    for images, _ in (*pipeline.train_batches(torch.arange(203)), *pipeline.test_batches()):
        images.zero_()
    assert torch.equal(tiny.train_images, before[0])
    assert torch.equal(tiny.test_images, before[1])


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_dataloader_refuses_datasets_that_torchvision_cannot_read(name: str, tiny: Dataset, tiny_root: Path) -> None:
    with pytest.raises(InvalidValueError) as caught:
        dataloader(replace(tiny, name=name), "unit", tiny_root)
    message = str(caught.value)
    assert f"dataset {name!r}" in message
    assert "torchvision has no class for it" in message
    assert "use pipeline resident, or one of the datasets mnist, fashion-mnist" in message


@pytest.mark.parametrize("left", [("training.pt", "test.pt"), ("test.pt",)])
def test_dataloader_refuses_files_of_an_older_torchvision(
    left: tuple[str, ...], tiny: Dataset, tiny_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(tiny_root, tmp_path, dirs_exist_ok=True)
    folder = tmp_path / "MNIST" / "processed"
    folder.mkdir()
    assert len(dataloader(tiny, "unit", tmp_path)._train) == 203  # noqa: SLF001 - an empty folder is no copy
    for name in left:
        torch.save((255 - tiny.train_images, tiny.train_labels), folder / name)
    with pytest.raises(
        InvalidValueError, match=r"older torchvision wrote, instead of .* verified files: remove the folder '.*sed'"
    ):
        dataloader(tiny, "unit", tmp_path)
    dataloader(replace(tiny, name="fashion-mnist"), "unit", tmp_path)
