"""What the answers of a training's ranks become together: the slowest counts, and nothing is counted twice."""

import dataclasses
from typing import Any

import pytest
from bench_builders import make_conditions, make_contention, make_energy, make_exchange, make_measurement

from bench.coding import from_json, to_json
from bench.protocol.messages import Evaluated, Finished, Prepared, Trained
from bench.records import Contention, Peak, RankRecord
from bench.worker.rank_answers import merge_answers


def prepared(**changes: Any) -> Prepared:  # noqa: ANN401 - changes of any field
    measurement = make_measurement()
    known = {name: getattr(measurement, name) for name in Prepared.__slots__ if hasattr(measurement, name)}
    return dataclasses.replace(Prepared(**known, train_samples=60_000, step_seconds=0.001), **changes)


def trained(**changes: Any) -> Trained:  # noqa: ANN401 - changes of any field
    epoch = make_measurement().epochs[0]
    return dataclasses.replace(Trained(**{name: getattr(epoch, name) for name in Trained.__slots__}), **changes)


def finished(device: str = "cpu", **changes: Any) -> Finished:  # noqa: ANN401 - changes of any field
    record = RankRecord(
        host=0,
        machine="m0123456789a",
        device=device,
        train_seconds=(1.0,),
        host_peak=None,
        device_allocated_peak=None,
        device_reserved_peak=None,
    )
    plain = Finished(
        host_peak=None,
        device_allocated_peak=None,
        device_reserved_peak=None,
        energy=None,
        energy_reason="no counter",
        ranks=(record,),
    )
    return dataclasses.replace(plain, **changes)


def merge_trained(*answers: Trained, hosts: tuple[int, ...] = (0, 0)) -> Trained:
    return from_json(Trained, merge_answers("train", [to_json(each) for each in answers], hosts))


def merge_finished(*answers: Finished, hosts: tuple[int, ...] = (0, 0)) -> Finished:
    return from_json(Finished, merge_answers("finish", [to_json(each) for each in answers], hosts))


def test_a_preparation_takes_as_long_as_the_slowest_rank_and_the_memory_of_all() -> None:
    ranks = [
        prepared(step_seconds=1.0, cold_start_seconds=4.0, preparation_seconds=3.0, warm_up_seconds=7.0),
        prepared(step_seconds=2.0, cold_start_seconds=5.0, preparation_seconds=6.0, warm_up_seconds=8.0),
        prepared(step_seconds=1.5, cold_start_seconds=4.5, preparation_seconds=5.0, warm_up_seconds=7.5),
    ]
    merged = from_json(Prepared, merge_answers("prepare", [to_json(each) for each in ranks], (0, 0, 0)))
    assert (merged.step_seconds, merged.cold_start_seconds) == (2.0, 5.0)
    assert (merged.preparation_seconds, merged.warm_up_seconds) == (6.0, 8.0)
    assert merged.host_baseline_bytes == 3 * 250_000_000
    assert merged.train_samples == 60_000  # each rank knows all of them


def test_an_epoch_ends_with_the_slowest_rank_and_its_loss_is_the_mean_over_samples() -> None:
    merged = merge_trained(
        trained(train_seconds=2.0, train_samples=300, train_loss=1.0, train_correct=200, yardstick_seconds=0.3),
        trained(train_seconds=3.0, train_samples=100, train_loss=2.0, train_correct=50, yardstick_seconds=0.2),
    )
    assert (merged.train_seconds, merged.yardstick_seconds) == (3.0, 0.3)
    assert (merged.train_samples, merged.train_correct, merged.train_loss) == (400, 250, 1.25)
    assert merge_trained(trained(train_correct=None), trained(train_correct=None)).train_correct is None


def test_an_epoch_has_the_worst_conditions_of_all_devices() -> None:
    cool, hot = make_conditions(temperature_celsius=50.0), make_conditions(temperature_celsius=80.0)
    assert merge_trained(trained(device_conditions=cool), trained(device_conditions=hot)).device_conditions == hot


def contended(*each: Contention, hosts: tuple[int, ...]) -> Contention:
    return merge_trained(*(trained(contention=one) for one in each), hosts=hosts).contention


def test_ranks_of_one_host_are_no_other_programs_and_share_its_stolen_time() -> None:
    # Each rank sees the other, and 0.5 s of other programs.
    first = make_contention(process_cpu_seconds=3.0, other_cpu_seconds=2.5, steal_seconds=0.25, involuntary_switches=4)
    second = make_contention(process_cpu_seconds=2.0, other_cpu_seconds=3.5, steal_seconds=0.25, involuntary_switches=6)
    merged = contended(first, second, hosts=(0, 0))
    assert (merged.process_cpu_seconds, merged.other_cpu_seconds) == (5.0, 0.5)
    assert (merged.steal_seconds, merged.involuntary_switches) == (0.25, 10)


def test_coarse_counters_never_make_the_time_of_other_programs_negative() -> None:
    ranks = [make_contention(process_cpu_seconds=3.0, other_cpu_seconds=2.75) for _ in range(2)]
    assert contended(*ranks, hosts=(0, 0)).other_cpu_seconds == 0.0


def test_contention_of_two_hosts_adds_up() -> None:
    first = make_contention(process_cpu_seconds=3.0, other_cpu_seconds=0.5, steal_seconds=0.25)
    second = make_contention(process_cpu_seconds=2.0, other_cpu_seconds=1.0, steal_seconds=0.5)
    merged = contended(first, second, hosts=(0, 1))
    assert (merged.process_cpu_seconds, merged.other_cpu_seconds, merged.steal_seconds) == (5.0, 1.5, 0.75)
    unknown = dataclasses.replace(second, other_cpu_seconds=None, steal_seconds=None)
    merged = contended(first, unknown, hosts=(0, 1))
    assert (merged.other_cpu_seconds, merged.steal_seconds) == (None, None)


def test_the_rank_that_waited_most_counts() -> None:
    first = make_contention(pressure_stall_seconds=1.0, throttled_seconds=4.0, load_average=None)
    second = make_contention(pressure_stall_seconds=3.0, throttled_seconds=None, load_average=2.0)
    third = make_contention(pressure_stall_seconds=2.0, throttled_seconds=5.0, load_average=1.0)
    merged = contended(first, second, third, hosts=(0, 0, 0))
    assert (merged.pressure_stall_seconds, merged.throttled_seconds, merged.load_average) == (3.0, 5.0, 2.0)


def test_the_first_ranks_evaluation_counts() -> None:
    first = Evaluated(test_samples=10_000, test_loss=0.5, test_correct=9_000, evaluation_seconds=0.25)
    assert from_json(Evaluated, merge_answers("evaluate", [to_json(first), None], (0, 0))) == first


def test_host_memory_adds_up_and_the_largest_peak_of_the_devices_counts() -> None:
    def peaks(host: int, allocated: int, reserved: int) -> Finished:
        return finished(
            host_peak=Peak(bytes=host, method="VmHWM"),
            device_allocated_peak=Peak(bytes=allocated, method="allocator"),
            device_reserved_peak=Peak(bytes=reserved, method="allocator"),
        )

    merged = merge_finished(peaks(10, 5, 8), peaks(20, 7, 6))
    assert merged.host_peak == Peak(bytes=30, method="VmHWM, sum of 2 ranks")
    assert merged.device_allocated_peak == Peak(bytes=7, method="allocator, largest of 2 ranks")
    assert merged.device_reserved_peak == Peak(bytes=8, method="allocator, largest of 2 ranks")
    assert merge_finished(peaks(10, 5, 8), finished()).host_peak is None


@pytest.mark.parametrize(
    ("devices", "hosts", "joules"),
    [
        (("cpu", "cpu"), (0, 0), 100.0),  # both ranks measured the same processor
        (("cpu", "cpu"), (0, 1), 130.0),
        (("cuda:0", "cuda:1"), (0, 0), 130.0),
        (("cuda:0", "cuda:0"), (0, 1), 130.0),
    ],
)
def test_energy_is_that_of_every_device_once(devices: tuple[str, str], hosts: tuple[int, int], joules: float) -> None:
    energies = (make_energy(joules=100.0, seconds=5.0), make_energy(joules=30.0, seconds=4.0))
    answers = (
        finished(device, energy=energy, energy_reason="") for device, energy in zip(devices, energies, strict=True)
    )
    merged = merge_finished(*answers, hosts=hosts)
    assert merged.energy is not None
    assert (merged.energy.joules, merged.energy.seconds) == (joules, 5.0)
    assert merged.energy_reason == ""


def test_energy_with_a_part_missing_is_unknown_for_the_reason_of_that_part() -> None:
    whole = finished("cuda:0", energy=make_energy(), energy_reason="")
    merged = merge_finished(whole, finished("cuda:1"))
    assert (merged.energy, merged.energy_reason) == (None, "no counter")


def test_one_host_on_its_battery_slows_all_ranks_down() -> None:
    for states, merged in (((False, True), True), ((False, None), False), ((None, None), None)):
        assert merge_finished(*(finished(on_battery=each) for each in states)).on_battery is merged


def test_ranks_are_numbered_by_host_and_the_slowest_of_each_exchange_counts() -> None:
    exchanges = (
        make_exchange(together_seconds=(0.2, 0.4), apart_seconds=(0.1, 0.15)),
        make_exchange(together_seconds=(0.3, 0.3), apart_seconds=(0.05, 0.25)),
    )
    merged = merge_finished(*(finished(exchange=each) for each in exchanges), hosts=(0, 1))
    assert [rank.host for rank in merged.ranks] == [0, 1]
    assert merged.exchange == make_exchange(together_seconds=(0.3, 0.4), apart_seconds=(0.1, 0.25))
    assert merge_finished(finished(), finished()).exchange is None
