import dataclasses

import pytest
from bench_builders import (
    make_configuration,
    make_energy,
    make_epoch,
    make_epochs,
    make_machine,
    make_measurement,
)

from bench.coding import dumps, from_json, loads
from bench.records import Accelerator, Configuration, Measurement

GIBIBYTE = 2**30
MEBIBYTE = 2**20


# Configuration


def test_the_id_of_a_configuration_never_changes() -> None:
    # Stored tables and baselines are matched by it: a change of this literal orphans every one of them.
    assert make_configuration().id == "cdf16d7fe1e9"


def test_equal_configurations_have_one_id_also_after_storage() -> None:
    stored = from_json(Configuration, loads(dumps(make_configuration(learning_rate=0.1))))
    assert stored.id == make_configuration(learning_rate=0.1).id


def changed(value: object) -> object:
    match value:
        case str():
            return f"{value}x"
        case bool():
            return not value
        case int() | float():
            return value + 1
        case _:
            return (784, 1, 10)


def test_every_field_of_a_configuration_takes_part_in_its_id() -> None:
    base = make_configuration()
    ids = {base.id}
    for field in dataclasses.fields(Configuration):
        other = changed(getattr(base, field.name))
        ids.add(make_configuration(**{field.name: other}).id)
    assert len(ids) == 1 + len(dataclasses.fields(Configuration))


@pytest.mark.parametrize(
    ("layers", "width", "weights"),
    [((784, 128, 10), 128, 784 * 128 + 1280), ((784, 6, 5, 10), 6, 784 * 6 + 30 + 50), ((784, 10), None, 7840)],
)
def test_width_is_the_first_hidden_layer_and_weights_are_all_products(
    layers: tuple[int, ...], width: int | None, weights: int
) -> None:
    configuration = make_configuration(layers=layers)
    assert configuration.width == width
    assert configuration.weights == weights


# Machine


def test_the_id_of_a_machine_starts_readably() -> None:
    assert make_machine().id.startswith("x86_64-4c-")
    assert make_machine(cores_usable=1.5).id.startswith("x86_64-1.5c-")


def test_a_machine_has_at_least_one_whole_core() -> None:
    assert [make_machine(cores_usable=cores).whole_cores for cores in (0.5, 1.0, 2.9)] == [1, 1, 2]


@pytest.mark.parametrize("difference", [-64 * MEBIBYTE, -1, 1, 64 * MEBIBYTE])
def test_a_machine_keeps_its_id_when_memory_differs_from_boot_to_boot(difference: int) -> None:
    assert make_machine(memory_bytes=16 * GIBIBYTE + difference).id == make_machine(memory_bytes=16 * GIBIBYTE).id


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "arm64"},
        {"cpu_model": "Fictional CPU 9001"},
        {"cores_usable": 3.5},
        {"memory_bytes": 32 * GIBIBYTE},
        {"accelerators": ()},
        {"accelerators": (Accelerator(device="cuda:0", name="Fictional GPU F2", memory_bytes=None),)},
    ],
)
def test_other_hardware_is_another_machine(change: dict[str, object]) -> None:
    assert make_machine(**change).id != make_machine().id


# Measurement


def test_the_epoch_time_of_a_trial_is_the_median_so_that_one_stall_changes_nothing() -> None:
    calm = make_measurement(epochs=make_epochs((2.0, 2.5, 3.0)))
    stalled = make_measurement(epochs=make_epochs((2.0, 2.5, 60.0)))
    assert calm.epoch_seconds == stalled.epoch_seconds == 2.5
    assert make_measurement(epochs=make_epochs((2.0, 3.0), (1, 2))).epoch_seconds == 2.5


def test_throughput_is_samples_over_the_median_epoch_time() -> None:
    epochs = tuple(make_epoch(train_seconds=seconds, train_samples=1000) for seconds in (4.0, 0.5, 2.0))
    assert make_measurement(epochs=epochs).throughput_per_second == 500.0


def test_accuracy_is_the_final_epochs_and_not_the_best() -> None:
    measurement = make_measurement(epochs=make_epochs(test_correct=(9_800, 9_900, 9_700)))
    assert measurement.test_accuracy == 0.97


def test_accuracy_is_unknown_where_labels_are_noise() -> None:
    measurement = make_measurement(epochs=make_epochs(test_correct=(None, None, None)))
    assert measurement.test_accuracy is None
    assert measurement.seconds_to_accuracy(0.0) is None


@pytest.mark.parametrize(("target", "seconds"), [(0.95, 1.0), (0.96, 3.0), (0.965, 3.0), (0.97, 7.0), (0.98, None)])
def test_time_to_accuracy_adds_the_epochs_up_to_the_first_that_reaches_it(target: float, seconds: float | None) -> None:
    measurement = make_measurement(epochs=make_epochs((1.0, 2.0, 4.0), (9_500, 9_650, 9_700)))
    assert measurement.seconds_to_accuracy(target) == seconds


def test_an_accuracy_that_is_lost_again_was_reached_all_the_same() -> None:
    measurement = make_measurement(epochs=make_epochs((1.0, 2.0, 4.0), (9_500, 9_850, 9_700)))
    assert measurement.seconds_to_accuracy(0.98) == 3.0
    assert measurement.test_accuracy == 0.97


# Energy


def test_energy_is_given_per_epoch_and_per_joule() -> None:
    measurement = make_measurement(energy=make_energy(joules=480.0))
    assert measurement.joules_per_epoch == 160.0
    assert measurement.samples_per_joule == 375.0


def test_unmeasured_energy_is_none_in_every_form() -> None:
    measurement = make_measurement(energy_reason="no counter")
    assert (measurement.joules_per_epoch, measurement.samples_per_joule) == (None, None)
    assert make_measurement(energy=make_energy(joules=0.0)).samples_per_joule is None


def test_what_was_not_measured_is_not_written_so_that_older_records_read_as_they_are() -> None:
    text = dumps(make_measurement())
    for name in ("energy", "energy_reason", "device_conditions", "pressure_stall_seconds", "load_average"):
        assert f'"{name}"' not in text
    assert from_json(Measurement, loads(text)) == make_measurement()
