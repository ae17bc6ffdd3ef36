import math
import os
from dataclasses import dataclass, field

import pytest
from bench_builders import TRAIN_SAMPLES, make_configuration, make_plan, make_settings

from bench.planning.estimate import Estimate, busy_note, estimate_plan
from bench.protocol.messages import Prepared
from bench.records import Configuration, Plan, Trial

EVALUATION_SHARE = 1 / 18


@dataclass
class FakeProbe:
    """Answers as a machine on which a step takes so many seconds, for each of its weights, and for each of its work.

    What comes before the first epoch takes 17 steps and `begin` seconds, which none of the answers tells.
    """

    overhead: float = 1e-4
    traffic: float = 1e-9
    rate: float = 2e-12
    begin: float = 0.75
    probed: list[Trial] = field(default_factory=list)
    now: float = 0.0

    def __call__(self, trial: Trial) -> Prepared:
        self.probed.append(trial)
        self.now += self.start_seconds(trial.configuration)
        return Prepared(
            settings=make_settings(),
            dataset_sha256="0" * 64,
            parameters=101_770,
            forward_flops_per_sample=1,
            training_flops_per_sample=3,
            train_samples=TRAIN_SAMPLES,
            step_seconds=self.step_seconds(trial.configuration),
            preparation_seconds=0.0,
            cold_start_seconds=0.0,
            warm_up_seconds=0.0,
            host_baseline_bytes=None,
        )

    def step_seconds(self, configuration: Configuration) -> float:
        return self.overhead + configuration.weights * (self.traffic + self.rate * configuration.batch_size)

    def start_seconds(self, configuration: Configuration) -> float:
        return self.begin + 17 * self.step_seconds(configuration)

    def epoch_seconds(self, configuration: Configuration) -> float:
        return math.ceil(TRAIN_SAMPLES / configuration.batch_size) * self.step_seconds(configuration)

    def trial_seconds(self, configuration: Configuration) -> float:
        trained = configuration.epochs * self.epoch_seconds(configuration) * (1 + EVALUATION_SHARE)
        return self.start_seconds(configuration) + trained


def estimated(plan: Plan, probe: FakeProbe) -> Estimate:
    return estimate_plan(plan, probe, lambda: probe.now)


def test_the_estimate_is_exact_where_a_step_costs_overhead_plus_work() -> None:
    made = [
        make_configuration(layers=(784, width, 10), batch_size=size, epochs=epochs)
        for width, epochs in ((64, 1), (256, 5), (1024, 20))
        for size in (16, 999, 4096)
    ]
    probe = FakeProbe()
    plan = make_plan(made, repeats=4)
    estimate = estimated(plan, probe)
    assert estimate.of(plan) == pytest.approx(4 * sum(map(probe.trial_seconds, made)), rel=1e-9)
    assert estimate.trial_seconds == pytest.approx({each: probe.trial_seconds(each) for each in made}, rel=1e-9)
    assert estimate.probes == 3


def test_each_part_of_a_plan_pays_for_its_start() -> None:
    one, other = make_plan([make_configuration()]), make_plan([make_configuration(batch_size=16)])
    seconds = {one.configurations[0]: 2.0, other.configurations[0]: 3.0}
    estimate = Estimate(trial_seconds=seconds, probes=2, start_seconds=5.0)
    assert estimate.of(one) == 5.0 + 2.0 * one.repeats
    assert estimate.of(one) + estimate.of(other) == 5.0 + estimate.of(make_plan([*seconds]))


def test_small_configurations_are_not_charged_the_start_of_the_largest() -> None:
    small, large = (
        make_configuration(layers=(784, width, 10), batch_size=size) for width, size in ((64, 16), (2048, 4096))
    )
    probe = FakeProbe(rate=1e-10)
    estimate = estimated(make_plan([small, large]), probe)
    assert estimate.trial_seconds[small] == pytest.approx(probe.trial_seconds(small))
    assert probe.start_seconds(large) > 3 * probe.trial_seconds(small)


def test_no_cost_is_below_zero_where_noise_makes_the_cheaper_probe_the_longer_one() -> None:
    made = [make_configuration(batch_size=size) for size in (16, 64, 4096)]
    estimate = estimated(make_plan(made), FakeProbe(overhead=2e-3, traffic=0, rate=-1e-12))
    assert all(seconds > 0 for seconds in estimate.trial_seconds.values())


@pytest.mark.parametrize("overhead", [1e-4, 0.25, 1e-9], ids=["blocks", "steps longer than a block", "short epochs"])
def test_ranks_evaluate_by_one_of_them_and_then_measure_their_exchange(overhead: float) -> None:
    configuration = make_configuration(world_size=2)
    probe = FakeProbe(overhead=overhead, traffic=0, rate=0)
    plan = make_plan([configuration], repeats=1)
    epoch = probe.epoch_seconds(configuration)
    block = max(probe.step_seconds(configuration), min(0.1, epoch))
    trained = configuration.epochs * epoch * (1 + 2 * EVALUATION_SHARE)
    expected = probe.start_seconds(configuration) + trained + 8 * block
    assert estimated(plan, probe).of(plan) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("load", "threads", "told"),
    [(0.9, 4, ""), (1.0, 3, ""), (1.5, 3, "load average 1.5"), (3.5, 1, "load average 3.5"), (3.0, 1, "")],
)
def test_other_programs_are_reported_if_they_leave_too_few_cores(
    load: float, threads: int, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    note = busy_note(make_plan([make_configuration(threads=threads), make_configuration(threads=1)]))
    assert bool(note) == bool(told)
    assert told in note


def test_every_rank_uses_its_threads_beside_other_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (1.5, 0.0, 0.0), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert "4 cores" in busy_note(make_plan([make_configuration(threads=1, world_size=3)]))


def test_a_system_without_a_load_average_gives_no_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def unobtainable() -> tuple[float, float, float]:
        raise OSError("Load averages are unobtainable")

    monkeypatch.setattr(os, "getloadavg", unobtainable, raising=False)
    assert busy_note(make_plan()) == ""
    monkeypatch.delattr(os, "getloadavg", raising=False)
    assert busy_note(make_plan()) == ""


def test_of_one_model_only_the_least_and_the_most_work_are_probed() -> None:
    made = [make_configuration(batch_size=size) for size in (256, 16, 4096, 64)]
    probe = FakeProbe()
    estimate = estimated(make_plan(made, seed=7), probe)
    assert estimate.probes == 2
    assert [trial.configuration.batch_size for trial in probe.probed] == [16, 4096]
    assert {(trial.seed, trial.repeat) for trial in probe.probed} == {(7, 0)}


def test_a_single_configuration_is_probed_once() -> None:
    probe = FakeProbe()
    plan = make_plan(repeats=3)
    estimate = estimated(plan, probe)
    assert estimate.probes == len(probe.probed) == 1
    assert estimate.of(plan) == pytest.approx(3 * probe.trial_seconds(make_configuration()))


def test_equal_work_per_step_needs_one_probe_and_still_counts_each_configurations_epochs() -> None:
    made = [make_configuration(epochs=epochs) for epochs in (1, 10)]
    probe = FakeProbe()
    plan = make_plan(made, repeats=1)
    estimate = estimated(plan, probe)
    assert estimate.probes == 1
    assert estimate.of(plan) == pytest.approx(sum(map(probe.trial_seconds, made)))


@pytest.mark.parametrize(
    "change",
    [
        {"device": "cuda:0"},
        {"engine": "fused"},
        {"precision": "bf16"},
        {"pipeline": "dataloader"},
        {"workers": 2},
        {"threads": 1},
        {"dataset": "digits"},
        {"optimizer": "sgd"},
    ],
)
def test_what_changes_the_cost_of_a_step_is_probed_separately(change: dict[str, object]) -> None:
    made = [make_configuration(), make_configuration(**change)]
    assert estimated(make_plan(made), FakeProbe()).probes == 2


def test_nothing_to_do_takes_no_time_and_no_probe() -> None:
    plan = make_plan([])
    estimate = estimated(plan, FakeProbe())
    assert (estimate.of(plan), estimate.probes) == (0.0, 0)
