"""What arithmetic, memory and the measured peak say of a configuration, beside what it measured."""

import pytest
from bench_builders import make_configuration, make_epochs, make_measurement, make_record

from bench.records import Configuration
from bench.tables.columns import COLUMNS
from bench.tables.summary import PeakRate, Summary, summarise
from mnist_mlp.costs import memory_floor, training_bytes, training_flops

LAYERS = (784, 128, 10)


def summary(configuration: Configuration, peak_rate: PeakRate = lambda _: None) -> Summary:
    outcome = make_measurement(epochs=make_epochs((2.0, 2.0, 2.0)), training_flops_per_sample=training_flops(LAYERS))
    (found,) = summarise([make_record(configuration, outcome=outcome)], peak_rate)
    return found


def test_utilisation_is_the_share_of_the_measured_peak() -> None:
    asked = []

    def peak_rate(configuration: Configuration) -> float:
        asked.append(configuration)
        return 1e12

    configuration = make_configuration()
    found = summary(configuration, peak_rate)
    achieved = training_flops(LAYERS) * 60_000 / 2.0
    assert found.training_flops_per_second is not None
    assert found.training_flops_per_second.median == pytest.approx(achieved)
    assert found.flops_utilisation is not None
    assert found.flops_utilisation.median == pytest.approx(achieved / 1e12)
    assert asked == [configuration]


def test_utilisation_is_empty_where_no_peak_was_measured() -> None:
    found = summary(make_configuration())
    assert found.flops_utilisation is None
    assert COLUMNS["flops_utilisation"].text(found) == ""
    assert COLUMNS["training_flops_per_second"].text(found) == "12.3 GFLOP/s"


def test_intensity_is_of_a_step_and_grows_with_the_batch() -> None:
    small, large = (summary(make_configuration(batch_size=size)).flops_per_byte for size in (16, 1024))
    moved = training_bytes(LAYERS, 16, optimizer="adam")
    assert small == pytest.approx(16 * training_flops(LAYERS) / moved)
    assert large is not None
    assert small is not None
    assert large > 5 * small


def test_intensity_of_bf16_is_of_activations_half_as_large() -> None:
    moved = training_bytes(LAYERS, 64, optimizer="adam", activation_bytes=2)
    found = summary(make_configuration(precision="bf16")).flops_per_byte
    assert found == pytest.approx(64 * training_flops(LAYERS) / moved)
    assert found > summary(make_configuration()).flops_per_byte


@pytest.mark.parametrize(
    ("changes", "samples", "activation_bytes"),
    [
        ({}, 70_000, 4),
        ({"pipeline": "dataloader"}, 70_000, 4),
        ({"device": "cuda:0"}, 70_000, 4),
        ({"device": "cuda:0", "pipeline": "dataloader"}, 0, 4),
        ({"precision": "bf16"}, 70_000, 2),
    ],
)
def test_memory_floor_counts_the_images_where_they_are_kept(
    changes: dict[str, str], samples: int, activation_bytes: int
) -> None:
    floor = memory_floor(LAYERS, 64, samples=samples, optimizer="adam", activation_bytes=activation_bytes)
    assert summary(make_configuration(**changes)).memory_floor_bytes == floor


@pytest.mark.parametrize(("device", "floors"), [("cpu", 2), ("cuda", 1)])
@pytest.mark.parametrize(("optimizer", "momentum"), [("adam", 0.0), ("sgd", 0.0), ("sgd", 0.9)])
def test_ranks_share_the_batch_and_each_keeps_all_else(
    device: str, floors: int, optimizer: str, momentum: float
) -> None:
    found = summary(make_configuration(device=device, world_size=2, optimizer=optimizer, momentum=momentum))
    has_momentum = momentum > 0
    floor = memory_floor(LAYERS, 32, samples=70_000, optimizer=optimizer, momentum=has_momentum)
    assert found.memory_floor_bytes == floors * floor
    moved = training_bytes(LAYERS, 32, optimizer=optimizer, momentum=has_momentum)
    assert found.flops_per_byte == pytest.approx(32 * training_flops(LAYERS) / moved)


def test_utilisation_of_ranks_is_of_the_peaks_of_all() -> None:
    alone, both = (summary(make_configuration(world_size=ranks), lambda _: 1e12) for ranks in (1, 2))
    assert alone.flops_utilisation is not None
    assert both.flops_utilisation is not None
    assert both.flops_utilisation.median == pytest.approx(alone.flops_utilisation.median / 2)
