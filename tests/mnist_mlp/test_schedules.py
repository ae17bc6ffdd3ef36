"""Schedules of the learning rate: their shape, and that every engine trains by them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from workload_builders import RECIPE, bars

from mnist_mlp.engines.flat import DeviceRates, HostRates
from mnist_mlp.schedules import Schedule, schedule_of
from mnist_mlp.train import Training

CPU = torch.device("cpu")


def one_cycle(steps: int, peak: float = 0.5) -> Schedule:
    return Schedule(name="one_cycle", peak=peak, steps=steps)


def test_constant_schedule_keeps_the_recipes_rate() -> None:
    schedule = schedule_of(RECIPE, 200)
    assert {schedule.rate(step) for step in (0, 1, 10**9)} == {RECIPE.learning_rate}


def test_one_cycle_rises_for_a_fifth_of_the_steps_and_falls_to_nearly_zero() -> None:
    rates = [one_cycle(100).rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.5 / 20)
    assert rates[19] == rates[20] == 0.5
    assert rates[-1] == pytest.approx(0.5 / 80)
    assert rates[:20] == sorted(rates[:20])
    assert rates[20:] == sorted(rates[20:], reverse=True)


@given(steps=st.integers(1, 10_000), past=st.integers(0, 10**6))
def test_one_cycle_has_its_peak_once_and_is_never_negative(steps: int, past: int) -> None:
    schedule = one_cycle(steps)
    rates = [schedule.rate(step) for step in range(steps)]
    assert max(rates) == 0.5
    assert min(rates) > 0
    assert schedule.rate(steps + past) == 0


def test_a_schedule_lasts_for_all_epochs_with_their_short_batches() -> None:
    recipe = replace(RECIPE, schedule="one_cycle", epochs=3, batch_size=64)
    assert schedule_of(recipe, 200).steps == 3 * 4


@pytest.mark.parametrize("name", ["constant", "one_cycle"])
@pytest.mark.parametrize("peak", [0.01, 1])
def test_rates_on_the_device_are_those_of_the_host(name: str, peak: float) -> None:
    schedule = Schedule(name=name, peak=peak, steps=23)
    host, device = HostRates(schedule), DeviceRates(schedule, CPU)
    for _ in range(2):
        rates = [(host.next(), float(device.next())) for _ in range(25)]
        assert [on_device for _, on_device in rates] == pytest.approx([on_host for on_host, _ in rates], rel=1e-5)
        host.reset()
        device.reset()


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_training_follows_the_schedule_and_starts_it_anew_when_restarted(engine: str) -> None:
    recipe = replace(RECIPE, schedule="one_cycle", optimizer="sgd", batch_size=50)
    training = Training(recipe, bars(), device=CPU, seed=1, engine=engine)
    start = training.snapshot()
    training.train(training.order(0))
    once = training.snapshot()
    training.restart(start)
    training.train(training.order(0))
    assert all(torch.equal(value, once[name]) for name, value in training.snapshot().items())
    flat = Training(replace(recipe, schedule="constant"), bars(), device=CPU, seed=1, engine=engine)
    flat.train(flat.order(0))
    assert any(not torch.equal(value, once[name]) for name, value in flat.snapshot().items())


@pytest.mark.parametrize("engine", ["eager", "fused"])
def test_after_its_last_step_one_cycle_changes_nothing(engine: str) -> None:
    recipe = replace(RECIPE, schedule="one_cycle", optimizer="sgd", epochs=1)
    training = Training(recipe, bars(), device=CPU, seed=1, engine=engine)
    training.train(training.order(0))
    end = training.snapshot()
    training.train(training.order(1))
    assert all(torch.equal(value, end[name]) for name, value in training.snapshot().items())
