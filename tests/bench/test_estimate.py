import math
from dataclasses import dataclass, field

import pytest
from bench_builders import TRAIN_SAMPLES, make_configuration, make_plan, make_settings

from bench.estimate import estimate_plan
from bench.messages import Prepared
from bench.records import Configuration, Trial

EVALUATION_SHARE = 1 / 18


@dataclass
class FakeProbe:
    """Answers as a machine on which a step takes exactly `overhead` and `rate` seconds for each unit of its work."""

    overhead: float = 1e-4
    rate: float = 2e-12
    probed: list[Trial] = field(default_factory=list)

    def __call__(self, trial: Trial) -> Prepared:
        self.probed.append(trial)
        return Prepared(
            settings=make_settings(),
            dataset_sha256="0" * 64,
            parameters=101_770,
            forward_flops_per_sample=1,
            training_flops_per_sample=3,
            train_samples=TRAIN_SAMPLES,
            step_seconds=self.step_seconds(trial.configuration),
            preparation_seconds=0.75,
            cold_start_seconds=0.0625,
            warm_up_seconds=0.25,
            host_baseline_bytes=None,
        )

    def step_seconds(self, configuration: Configuration) -> float:
        return self.overhead + self.rate * configuration.weights * configuration.batch_size

    def trial_seconds(self, configuration: Configuration) -> float:
        steps = math.ceil(TRAIN_SAMPLES / configuration.batch_size)
        training = configuration.epochs * steps * self.step_seconds(configuration)
        return 0.75 + 0.25 + training * (1 + EVALUATION_SHARE)


def test_the_estimate_is_exact_where_a_step_costs_overhead_plus_work() -> None:
    made = [
        make_configuration(layers=(784, width, 10), batch_size=size, epochs=epochs)
        for width, epochs in ((64, 1), (256, 5), (1024, 20))
        for size in (16, 999, 4096)
    ]
    probe = FakeProbe()
    plan = make_plan(made, repeats=4)
    estimate = estimate_plan(plan, probe)
    assert estimate.of(plan) == pytest.approx(4 * sum(map(probe.trial_seconds, made)), rel=1e-9)


def test_only_the_least_and_the_most_work_of_a_kind_is_probed() -> None:
    made = [make_configuration(batch_size=size) for size in (256, 16, 4096, 64)]
    probe = FakeProbe()
    estimate = estimate_plan(make_plan(made, seed=7), probe)
    assert estimate.probes == 2
    assert [trial.configuration.batch_size for trial in probe.probed] == [16, 4096]
    assert {(trial.seed, trial.repeat) for trial in probe.probed} == {(7, 0)}


def test_a_single_configuration_is_probed_once() -> None:
    probe = FakeProbe()
    plan = make_plan(repeats=3)
    estimate = estimate_plan(plan, probe)
    assert estimate.probes == len(probe.probed) == 1
    assert estimate.of(plan) == pytest.approx(3 * probe.trial_seconds(make_configuration()))


def test_equal_work_per_step_needs_one_probe_and_still_counts_each_configurations_epochs() -> None:
    made = [make_configuration(epochs=epochs) for epochs in (1, 10)]
    probe = FakeProbe()
    plan = make_plan(made, repeats=1)
    estimate = estimate_plan(plan, probe)
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
def test_what_changes_the_cost_of_a_step_is_probed_apart(change: dict[str, object]) -> None:
    made = [make_configuration(), make_configuration(**change)]
    assert estimate_plan(make_plan(made), FakeProbe()).probes == 2


def test_nothing_to_do_takes_no_time_and_no_probe() -> None:
    plan = make_plan([])
    estimate = estimate_plan(plan, FakeProbe())
    assert (estimate.of(plan), estimate.probes) == (0.0, 0)
