"""The ruler's own checks: each passes on sound parts and fails on a planted fault."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import torch
from bench_builders import make_contention, make_settings
from fake_worker import FakeLauncher
from torch import Tensor, nn
from torch.nn import functional

from bench.coding import to_json
from bench.protocol.messages import Stretched
from bench.protocol.soundness import Outcome
from bench.records import Contention, Peak, Settings
from bench.worker import meter_checks, ruler, training_checks
from bench.worker.devices import Device
from bench.worker.examination import Conversation, Examination, Finding, Parts, not_applicable, passed_if
from bench.worker.meters import ContentionMeter, HostMemory
from bench.worker.session import Session
from bench.worker.settings import SettingsError
from mnist_mlp import data
from mnist_mlp.data import Dataset
from mnist_mlp.recipes import Recipe
from mnist_mlp.train import Tally, Training

MEBIBYTE = 2**20
THREADS = torch.get_num_threads()


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return data.load("digits")


@pytest.fixture
def parts(dataset: Dataset) -> Iterator[Parts]:
    """The real parts, on this CPU."""
    # One thread waits for no other: on a busy machine that is many times faster.
    yield Parts(device=Device("cpu"), threads=1, dataset=dataset, root=None, make_session=Session)
    torch.set_num_threads(THREADS)


def with_(parts: Parts, **faulty: Any) -> Parts:  # noqa: ANN401 - to dataclasses.replace
    return dataclasses.replace(parts, **faulty)


def outcome(finding: Finding) -> Outcome:
    return finding.outcome


# A simulated accelerator: its work takes time only once somebody waits for it


class Clock:
    """A clock that the simulated accelerator moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Accelerator(Device):
    """Launching a product takes 10 µs of the host's time and 1 ms of the device's, which `synchronise` waits for."""

    def __init__(self, clock: Clock, *, waits: bool = True) -> None:
        super().__init__("cpu")
        self.torch_device = torch.device("meta")
        self._clock = clock
        self._waits = waits
        self._pending_seconds = 0.0
        self.peaks: list[Peak | None] = []
        self.reserved: Peak | None = None

    def launch(self, count: int) -> None:
        self._clock.now += count * 1e-5
        self._pending_seconds += count * 1e-3

    def synchronise(self) -> None:
        if self._waits:
            self._clock.now += self._pending_seconds
            self._pending_seconds = 0.0

    def allocated_peak(self) -> Peak | None:
        return self.peaks.pop(0)

    def reserved_peak(self) -> Peak | None:
        return self.reserved


def simulated(parts: Parts, *, waits: bool = True, told: Callable[[float], float] = lambda now: now) -> Parts:
    """Return `parts` with a simulated accelerator; `told` is what the clock makes of the true time."""
    clock = Clock()
    device = Accelerator(clock, waits=waits)
    return with_(
        parts,
        device=device,
        clock=lambda: told(clock()),
        other_clock=clock,
        make_work=lambda _device, _size: device.launch,
    )


def test_known_work_is_timed_as_once_and_twice_on_this_cpu(parts: Parts) -> None:
    # The real thing is noisy: that it measures is shown here, that it passes by the slow test of `selftest`.
    finding = meter_checks.examine_products(parts)
    assert "times as long" in finding.measured


def test_known_work_passes_on_a_sound_accelerator(parts: Parts) -> None:
    finding = meter_checks.examine_products(simulated(parts))
    assert finding == Finding(Outcome.PASS, "2.00 times as long; clocks agree to +0.0 %")


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (lambda now: 2 * now, "clocks agree to +100.0 %"),
        (lambda now: now / 1000, "clocks agree to -99.9 %"),
        (lambda now: (now - 1000) ** 2, "times as long"),
        (lambda now: 100 * round(now / 100), "stood still"),
    ],
    ids=["fast", "milliseconds", "bent", "coarse"],
)
def test_a_clock_that_lies_is_found(parts: Parts, told: Callable[[float], float], words: str) -> None:
    check = ruler.check_one(simulated(parts, told=told), examination("products at 1x and 2x"))
    assert check.outcome is Outcome.FAIL
    assert words in check.measured


def test_a_clock_that_stands_still_is_found(parts: Parts) -> None:
    check = ruler.check_one(simulated(parts, told=lambda _now: 5.0), examination("products at 1x and 2x"))
    assert check.outcome is Outcome.FAIL
    assert "stood still" in check.measured


def test_an_accelerator_that_is_waited_for_passes(parts: Parts) -> None:
    finding = meter_checks.examine_synchronisation(simulated(parts))
    assert finding == Finding(Outcome.PASS, "launching alone takes 1.0 % of it")


def test_a_synchronise_that_does_nothing_is_found(parts: Parts) -> None:
    finding = meter_checks.examine_synchronisation(simulated(parts, waits=False))
    assert finding == Finding(Outcome.FAIL, "launching alone takes 100.0 % of it")


def test_waiting_is_not_applicable_on_the_cpu_rather_than_passed(parts: Parts) -> None:
    assert meter_checks.examine_synchronisation(parts).outcome is Outcome.NOT_APPLICABLE


# Training steps, as a trial times them


class Tampering:
    """A real session whose requests, or answers, are changed on the way."""

    def __init__(
        self,
        request: Callable[[dict[str, Any]], object] = lambda _request: None,
        answer: Callable[[Mapping[str, Any], dict[str, Any]], object] = lambda _request, _answer: None,
    ) -> None:
        self._session = Session()
        self._change_request = request
        self._change_answer = answer

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        changed = dict(request)
        self._change_request(changed)
        message = self._session.answer(changed)
        if "answer" in message:
            self._change_answer(request, message["answer"])
        return message


class Timing:
    """A session that trains nothing and reports `seconds` of the number of batches."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        self._seconds = seconds
        self._worker = FakeLauncher()

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        if request["do"] != "stretch":
            return self._worker.respond(request)
        seconds = self._seconds(request["end"] - request["begin"])
        told = Stretched(train_seconds=seconds, train_samples=1, train_loss=2.3)
        return {"answer": to_json(told)}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (lambda batches: 0.001 * batches, Outcome.PASS),
        (lambda batches: 0.00005 + 0.001 * batches, Outcome.PASS),
        (lambda _batches: 0.01, Outcome.FAIL),
        (lambda batches: 0.02 + 0.001 * batches, Outcome.FAIL),
        (lambda batches: 0.001 * batches**2, Outcome.FAIL),
        (lambda _batches: 0.0, Outcome.FAIL),
    ],
    ids=["proportional", "small overhead", "constant", "large overhead", "quadratic", "zero"],
)
def test_a_trial_that_times_its_steps_wrongly_is_found(
    parts: Parts, seconds: Callable[[int], float], expected: Outcome
) -> None:
    faulty = with_(parts, make_session=lambda: Timing(seconds))
    assert ruler.check_one(faulty, examination("training steps at 1x and 2x")).outcome is expected


# Memory


def fake_memory(*peaks: int | None) -> Callable[[], HostMemory]:
    """Return a factory of meters that tell `peaks`, in MiB, one after the other."""

    class Scripted(HostMemory):
        def peak(self) -> Peak | None:
            mebibytes = script.pop(0)
            return None if mebibytes is None else Peak(bytes=mebibytes * MEBIBYTE, method="scripted")

    script = list(peaks)
    return Scripted


def test_the_real_meter_sees_what_is_touched(parts: Parts) -> None:
    assert outcome(meter_checks.examine_host_memory(parts)) in {Outcome.PASS, Outcome.NOT_APPLICABLE}


@pytest.mark.parametrize(
    ("peaks", "expected"),
    [
        ((0, 64), Outcome.PASS),
        ((0, 68), Outcome.PASS),
        ((30, 94), Outcome.PASS),
        ((64, 64), Outcome.FAIL),
        ((0, 0), Outcome.FAIL),
        ((0, 32), Outcome.FAIL),
        ((0, 128), Outcome.FAIL),
        ((0, None), Outcome.FAIL),
        ((None,), Outcome.NOT_APPLICABLE),
    ],
)
def test_a_host_meter_that_is_blind_constant_or_wrong_is_found(
    parts: Parts, peaks: tuple[int | None, ...], expected: Outcome
) -> None:
    assert outcome(meter_checks.examine_host_memory(with_(parts, host_memory=fake_memory(*peaks)))) is expected


def test_an_earlier_peak_that_cannot_be_reset_hides_nothing(parts: Parts) -> None:
    class EarlierPeak(HostMemory):
        def peak(self) -> Peak | None:
            peak = super().peak()
            return None if peak is None else Peak(bytes=max(peak.bytes, 40 * MEBIBYTE), method="not reset")

    expected = outcome(meter_checks.examine_host_memory(parts))
    assert outcome(meter_checks.examine_host_memory(with_(parts, host_memory=EarlierPeak))) is expected


@pytest.mark.parametrize(
    ("before", "after", "reserved", "expected"),
    [
        (10, 74, 80, Outcome.PASS),
        (10, 76, 76, Outcome.PASS),
        (10, 74, None, Outcome.PASS),
        (10, 74, 70, Outcome.FAIL),
        (10, 10, 80, Outcome.FAIL),
        (10, 73, 80, Outcome.FAIL),
        (10, 90, 90, Outcome.FAIL),
        (10, None, None, Outcome.FAIL),
        (None, None, None, Outcome.NOT_APPLICABLE),
    ],
)
def test_a_device_meter_that_is_blind_constant_or_wrong_is_found(
    parts: Parts, before: int | None, after: int | None, reserved: int | None, expected: Outcome
) -> None:
    device = Accelerator(Clock())
    device.peaks = [peak_of(before), peak_of(after)]
    device.reserved = peak_of(reserved)
    assert outcome(meter_checks.examine_device_memory(with_(parts, device=device))) is expected


def peak_of(mebibytes: int | None) -> Peak | None:
    return None if mebibytes is None else Peak(bytes=mebibytes * MEBIBYTE, method="scripted")


def test_device_memory_is_not_applicable_on_the_cpu(parts: Parts) -> None:
    assert outcome(meter_checks.examine_device_memory(parts)) is Outcome.NOT_APPLICABLE


# Contention


def meter(stop: Callable[[Contention], Contention]) -> Callable[[], ContentionMeter]:
    """Return a factory of real meters whose readings pass through `stop`."""

    class Faulty(ContentionMeter):
        def stop(self) -> Contention:
            return stop(super().stop())

    return Faulty


CONTENTION_FAULTS: dict[str, tuple[str, Callable[[Contention], Contention]]] = {
    "blind": ("examine_cpu_time", lambda read: dataclasses.replace(read, process_cpu_seconds=0.0)),
    "constant": ("examine_cpu_time", lambda _read: make_contention(process_cpu_seconds=0.3, other_cpu_seconds=0.3)),
    "doubled": (
        "examine_cpu_time",
        lambda read: dataclasses.replace(read, process_cpu_seconds=2 * read.process_cpu_seconds),
    ),
    "blind to others": ("examine_contention", lambda read: dataclasses.replace(read, other_cpu_seconds=0.0)),
    "constant for others": (
        "examine_contention",
        lambda _read: make_contention(process_cpu_seconds=0.3, other_cpu_seconds=0.3),
    ),
}


@pytest.mark.parametrize("fault", CONTENTION_FAULTS)
def test_a_cpu_meter_that_is_blind_constant_or_wrong_is_found(parts: Parts, fault: str) -> None:
    name, stop = CONTENTION_FAULTS[fault]
    finding: Finding = getattr(meter_checks, name)(with_(parts, contention=meter(stop)))
    assert finding.outcome is Outcome.FAIL


def test_the_real_meter_counts_this_process_and_another(parts: Parts) -> None:
    assert ruler.check_one(parts, examination("CPU time")).outcome is Outcome.PASS
    others = ruler.check_one(parts, examination("CPU time of others"))
    assert others.outcome in {Outcome.PASS, Outcome.NOT_APPLICABLE}


def test_where_others_are_not_counted_there_is_nothing_to_check(parts: Parts) -> None:
    faulty = with_(parts, contention=meter(lambda read: dataclasses.replace(read, other_cpu_seconds=None)))
    assert outcome(meter_checks.examine_contention(faulty)) is Outcome.NOT_APPLICABLE


# Precision


def shortened(values: Tensor) -> Tensor:
    """Return float32 values rounded to the 10 fraction bits of TF32; gradients pass unchanged."""
    bits = values.detach().contiguous().view(torch.int32)
    rounded = ((bits + (1 << 12)) & ~((1 << 13) - 1)).view(torch.float32)
    return values + (rounded - values).detach()


def test_float32_products_on_this_cpu_keep_every_bit(parts: Parts) -> None:
    assert training_checks.examine_precision(parts) == Finding(
        Outcome.PASS, "TF32 off in settings; 100 % of products exact"
    )


@pytest.mark.parametrize(
    "round_", [shortened, lambda values: values.bfloat16().float(), lambda values: values.half().float()]
)
def test_products_in_a_shorter_format_are_found(parts: Parts, round_: Callable[[Tensor], Tensor]) -> None:
    faulty = with_(parts, multiply=lambda left, right: torch.mm(round_(left), round_(right)))
    assert outcome(training_checks.examine_precision(faulty)) is Outcome.FAIL


@pytest.mark.parametrize(
    "change", [{"tf32_matmul": True}, {"tf32_cudnn": True}, {"float32_matmul_precision": "high"}], ids=str
)
def test_settings_that_read_back_as_tf32_are_found(parts: Parts, change: dict[str, Any]) -> None:
    faulty = with_(parts, apply_settings=lambda _threads, _device: make_settings(**change))
    finding = training_checks.examine_precision(faulty)
    assert finding.outcome is Outcome.FAIL
    assert "TF32 ON" in finding.measured


def test_settings_that_do_not_take_effect_are_a_failed_check(parts: Parts) -> None:
    def refuse(_threads: int, _device: torch.device) -> Settings:
        raise SettingsError("settings did not take effect")

    check = ruler.check_one(with_(parts, apply_settings=refuse), examination("float32 is float32"))
    assert (check.outcome, check.measured) == (Outcome.FAIL, "SettingsError: settings did not take effect")


# First losses


def test_the_first_losses_of_a_trial_agree_with_float64(parts: Parts) -> None:
    finding = training_checks.examine_first_losses(parts)
    assert finding.outcome is Outcome.PASS, finding.measured


def trial_with(**changes: object) -> Callable[[], Conversation]:
    """Return a factory of sessions that train another configuration than they are asked to."""

    def request(asked: dict[str, Any]) -> None:
        if asked["do"] == "prepare":
            trial = asked["trial"]
            asked["trial"] = {**trial, **{k: v for k, v in changes.items() if k in trial}}
            own = {name: value for name, value in changes.items() if name not in trial}
            asked["trial"]["configuration"] = {**trial["configuration"], **own}

    return lambda: Tampering(request=request)


@pytest.mark.parametrize(
    "change", [{"learning_rate": 1.01e-3}, {"transform": "half"}, {"seed": 1}, {"weight_decay": 1e-3}], ids=str
)
def test_a_trial_that_trains_something_else_is_found(parts: Parts, change: dict[str, Any]) -> None:
    assert (
        outcome(training_checks.examine_first_losses(with_(parts, make_session=trial_with(**change)))) is Outcome.FAIL
    )


def test_training_in_tf32_is_found(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nn.Linear,
        "forward",
        lambda self, values: functional.linear(shortened(values), shortened(self.weight), self.bias),
    )
    assert outcome(training_checks.examine_first_losses(parts)) is Outcome.FAIL


def test_a_dropped_activation_is_found(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.ReLU, "forward", lambda _self, values: values)
    assert outcome(training_checks.examine_first_losses(parts)) is Outcome.FAIL


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_finite_number_is_never_agreement(place: int, value: float) -> None:
    losses = [2.0, 1.5, 1.0]
    broken = [value if number == place else loss for number, loss in enumerate(losses)]
    for one, other in ((broken, losses), (losses, broken), (broken, broken)):
        assert outcome(training_checks.compare_losses(one, other, exactly=False)) is Outcome.FAIL


def test_a_loss_reported_wrongly_is_found(parts: Parts) -> None:
    def answer(request: Mapping[str, Any], told: dict[str, Any]) -> None:
        if request["do"] == "stretch":
            told["train_loss"] = 10.0

    faulty = with_(parts, make_session=lambda: Tampering(answer=answer))
    assert outcome(training_checks.examine_first_losses(faulty)) is Outcome.FAIL


def test_a_trial_that_cannot_be_prepared_is_a_failed_check(parts: Parts) -> None:
    check = ruler.check_one(
        with_(parts, make_session=trial_with(activation="none")), examination("losses against float64")
    )
    assert check.outcome is Outcome.FAIL
    assert "ExaminationError" in check.measured
    assert "activation" in check.measured


# Warm-up


class Unrestored(Session):
    """A trial that forgets to undo its warm-up."""

    def _warm_up(self) -> tuple[float, float]:
        self._training.train(self._training.order(0)[:64])
        return 0.1, 0.001


class OptimizerKept(Session):
    """A trial that undoes the warm-up of its parameters, and forgets the optimizer's state."""

    def _warm_up(self) -> tuple[float, float]:
        untrained = self._training.snapshot()
        self._training.train(self._training.order(0)[:64])
        self._training.model.load_state_dict(untrained)
        return 0.1, 0.001


def test_the_real_warm_up_leaves_no_trace(parts: Parts) -> None:
    assert training_checks.examine_warm_up(parts) == Finding(Outcome.PASS, "8 losses: equal bit for bit")


@pytest.mark.parametrize("session", [Unrestored, OptimizerKept])
def test_a_warm_up_that_is_not_undone_is_found(parts: Parts, session: type[Session]) -> None:
    assert outcome(training_checks.examine_warm_up(with_(parts, make_session=session))) is Outcome.FAIL


def test_losses_may_differ_in_the_last_bits_on_accelerators_only() -> None:
    expected = [2.0, 1.5]
    close, far = [2.0, 1.5 * (1 + 1e-6)], [2.0, 1.5 * (1 + 1e-5)]
    assert outcome(training_checks.compare_losses(close, expected, exactly=True)) is Outcome.FAIL
    assert outcome(training_checks.compare_losses(close, expected, exactly=False)) is Outcome.PASS
    assert outcome(training_checks.compare_losses(far, expected, exactly=False)) is Outcome.FAIL


# Pipelines


def by_pipeline(*, seed_of_dataloader: int) -> Callable[..., Training]:
    """Return a maker of trainings, all resident, those of the dataloader with a seed of its own."""

    def make(recipe: Recipe, dataset: Dataset, **others: Any) -> Training:  # noqa: ANN401 - what a Training takes
        seed = seed_of_dataloader if others["pipeline"] == "dataloader" else others["seed"]
        return Training(recipe, dataset, device=others["device"], seed=seed)

    return make


@pytest.mark.parametrize(("seed", "expected"), [(0, Outcome.PASS), (1, Outcome.FAIL)])
def test_another_order_of_batches_is_found(parts: Parts, seed: int, expected: Outcome) -> None:
    named = dataclasses.replace(parts.dataset, name="mnist")
    faulty = with_(parts, dataset=named, make_training=by_pipeline(seed_of_dataloader=seed))
    assert outcome(training_checks.examine_pipelines(faulty)) is expected


def test_pipelines_are_not_applicable_where_torchvision_has_no_reader(parts: Parts) -> None:
    assert outcome(training_checks.examine_pipelines(parts)) is Outcome.NOT_APPLICABLE


@pytest.mark.mnist
def test_both_pipelines_give_the_same_batches_of_mnist(parts: Parts) -> None:
    real = with_(parts, dataset=data.load("mnist"))
    assert training_checks.examine_pipelines(real) == Finding(Outcome.PASS, "8 losses: equal bit for bit")


# Scores


class OnTrainingSplit(Training):
    """Evaluates on the wrong split."""

    def evaluate(self) -> Tally:
        return self.evaluate_training_samples(torch.arange(360))


class OneOff(Training):
    """Leaves out the last test batch."""

    def evaluate(self) -> Tally:
        images, labels = next(iter(self._pipeline.test_batches()))
        with torch.no_grad():
            output = self.model(images[:-1])
        return Tally(output, [labels[:-1]], self._loss)


def test_scores_of_a_model_with_known_answers_are_exact(parts: Parts) -> None:
    assert training_checks.examine_scores(parts) == Finding(Outcome.PASS, "all 10 classes' shares exact")


@pytest.mark.parametrize("training", [OnTrainingSplit, OneOff])
def test_an_evaluation_of_other_samples_is_found(parts: Parts, training: type[Training]) -> None:
    finding = training_checks.examine_scores(with_(parts, make_training=training))
    assert finding.outcome is Outcome.FAIL
    assert "class" in finding.measured


# All of them


def examination(name: str) -> Examination:
    (found,) = [each for each in ruler.EXAMINATIONS if each.name == name]
    return found


def scripted(*findings: Finding | Exception, attempts: int = 1) -> Examination:
    script = list(findings)

    def examine(_parts: Parts) -> Finding:
        finding = script.pop(0)
        if isinstance(finding, Exception):
            raise finding
        return finding

    return Examination(name="scripted", rule="as scripted", examine=examine, attempts=attempts)


GOOD, BAD = passed_if("good", sound=True), passed_if("bad", sound=False)


def test_a_check_that_raises_is_a_failed_check_and_the_others_are_still_made(parts: Parts) -> None:
    raising = [scripted(ZeroDivisionError("no time at all\nsecond line")), scripted(MemoryError())]
    checked = ruler.check_parts(parts, [*raising, scripted(GOOD), scripted(not_applicable("no such thing"))])
    assert [(check.outcome, check.measured) for check in checked.checks] == [
        (Outcome.FAIL, "ZeroDivisionError: no time at all"),
        (Outcome.FAIL, "MemoryError: "),
        (Outcome.PASS, "good"),
        (Outcome.NOT_APPLICABLE, "no such thing"),
    ]
    assert {(check.device, check.rule) for check in checked.checks} == {("cpu", "as scripted")}


@pytest.mark.parametrize(
    ("findings", "attempts", "expected"),
    [
        ((BAD, BAD, GOOD), 3, Outcome.PASS),
        ((BAD, BAD, BAD, GOOD), 3, Outcome.FAIL),
        ((BAD, GOOD), 1, Outcome.FAIL),
        ((ValueError("once"), GOOD), 2, Outcome.PASS),
        ((not_applicable("never"), BAD), 3, Outcome.NOT_APPLICABLE),
    ],
)
def test_a_failing_check_is_repeated_as_often_as_it_may(
    parts: Parts, findings: tuple[Finding | Exception, ...], attempts: int, expected: Outcome
) -> None:
    assert ruler.check_one(parts, scripted(*findings, attempts=attempts)).outcome is expected


def test_only_checks_of_noisy_things_are_repeated() -> None:
    noisy = {each.examine for each in ruler.EXAMINATIONS if each.attempts > 1}
    assert noisy == {
        meter_checks.examine_products,
        meter_checks.examine_stretches,
        meter_checks.examine_synchronisation,
        meter_checks.examine_cpu_time,
        meter_checks.examine_contention,
    }


def test_a_device_that_cannot_be_used_is_a_failure() -> None:
    request = {"do": "selftest", "device": "meta", "threads": THREADS, "dataset": "digits", "root": None}
    assert "failure" in Session().answer(request)


def test_an_unknown_dataset_is_the_callers_mistake() -> None:
    request = {"do": "selftest", "device": "cpu", "threads": THREADS, "dataset": "emnist", "root": None}
    assert "emnist" in Session().answer(request)["bad_input"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_product_in_real_tf32_is_found(parts: Parts) -> None:
    def allow_tf32(_threads: int, _device: torch.device) -> Settings:
        torch.set_float32_matmul_precision("high")
        return make_settings()

    try:
        finding = training_checks.examine_precision(with_(parts, device=Device("cuda:0"), apply_settings=allow_tf32))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert finding.outcome is Outcome.FAIL
    assert "TF32 off in settings" in finding.measured
