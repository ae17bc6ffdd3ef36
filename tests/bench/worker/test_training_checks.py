"""The self-test's checks of what is trained: each passes on sound parts and fails on a planted fault."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from bench_builders import make_settings
from torch import Tensor, nn
from torch.nn import functional

from bench.protocol.soundness import Check, Outcome
from bench.records import Settings
from bench.worker import training_checks
from bench.worker.devices import Device
from bench.worker.examination import Conversation, Finding, Parts
from bench.worker.session import Session
from bench.worker.settings import SettingsError
from mnist_mlp import data
from mnist_mlp.data import Dataset
from mnist_mlp.recipes import CLASSES, Recipe
from mnist_mlp.train import Tally, Training

MakeCheck = Callable[[Parts, str], Check]


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
    faulty = replace(parts, multiply=lambda left, right: torch.mm(round_(left), round_(right)))
    assert training_checks.examine_precision(faulty).outcome is Outcome.FAIL


def test_a_single_product_that_is_not_exact_is_found(parts: Parts) -> None:
    def multiply(left: Tensor, right: Tensor) -> Tensor:
        product = torch.mm(left, right)
        product[7, 3] += 1e-6
        return product

    assert training_checks.examine_precision(replace(parts, multiply=multiply)).outcome is Outcome.FAIL


@pytest.mark.parametrize(
    "change", [{"tf32_matmul": True}, {"tf32_cudnn": True}, {"float32_matmul_precision": "high"}], ids=str
)
def test_settings_that_read_back_as_tf32_are_found(parts: Parts, change: dict[str, Any]) -> None:
    faulty = replace(parts, apply_settings=lambda _threads, _device: make_settings(**change))
    finding = training_checks.examine_precision(faulty)
    assert finding.outcome is Outcome.FAIL
    assert "TF32 ON" in finding.measured


def test_settings_that_do_not_take_effect_are_a_failed_check(parts: Parts, make_check: MakeCheck) -> None:
    def refuse(_threads: int, _device: torch.device) -> Settings:
        raise SettingsError("settings did not take effect")

    check = make_check(replace(parts, apply_settings=refuse), "float32 is float32")
    assert (check.outcome, check.measured) == (Outcome.FAIL, "SettingsError: settings did not take effect")


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_product_in_real_tf32_is_found(parts: Parts) -> None:
    def allow_tf32(_threads: int, _device: torch.device) -> Settings:
        torch.set_float32_matmul_precision("high")
        return make_settings()

    try:
        finding = training_checks.examine_precision(replace(parts, device=Device("cuda:0"), apply_settings=allow_tf32))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert finding.outcome is Outcome.FAIL
    assert "TF32 off in settings" in finding.measured


# First losses


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


def test_the_first_losses_of_a_trial_agree_with_float64(parts: Parts) -> None:
    finding = training_checks.examine_first_losses(parts)
    assert finding.outcome is Outcome.PASS, finding.measured
    assert re.fullmatch(r"largest relative difference: eager \d\.\de-0\d, fused \d\.\de-0\d", finding.measured)


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
        training_checks.examine_first_losses(replace(parts, make_session=trial_with(**change))).outcome is Outcome.FAIL
    )


@pytest.mark.parametrize(
    "part", [("optimizer", "adam"), ("optimizer", "sgd"), ("engine", "eager"), ("engine", "fused")]
)
def test_a_fault_of_one_optimizer_or_engine_alone_is_found(parts: Parts, part: tuple[str, str]) -> None:
    name, value = part

    def request(asked: dict[str, Any]) -> None:
        if asked["do"] == "prepare" and asked["trial"]["configuration"][name] == value:
            asked["trial"]["configuration"]["learning_rate"] *= 1.01

    faulty = replace(parts, make_session=lambda: Tampering(request=request))
    assert training_checks.examine_first_losses(faulty).outcome is Outcome.FAIL


def test_training_in_tf32_is_found(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        nn.Linear,
        "forward",
        lambda self, values: functional.linear(shortened(values), shortened(self.weight), self.bias),
    )
    assert training_checks.examine_first_losses(parts).outcome is Outcome.FAIL


def test_a_product_that_lacks_the_outputs_beyond_the_last_whole_vector_is_found(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: nn.Linear, values: Tensor) -> Tensor:
        whole = self.out_features // 8 * 8 if self.out_features > CLASSES else CLASSES  # the last layer is sound
        return functional.linear(values, self.weight, self.bias) * (torch.arange(self.out_features) < whole)

    monkeypatch.setattr(nn.Linear, "forward", forward)
    assert training_checks.examine_first_losses(parts).outcome is Outcome.FAIL


def test_a_dropped_activation_is_found(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.ReLU, "forward", lambda _self, values: values)
    assert training_checks.examine_first_losses(parts).outcome is Outcome.FAIL


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_finite_number_is_never_agreement(place: int, value: float) -> None:
    losses = [2.0, 1.5, 1.0]
    broken = [value if number == place else loss for number, loss in enumerate(losses)]
    for one, other in ((broken, losses), (losses, broken), (broken, broken)):
        assert training_checks.compare_losses(one, other, exactly=False).outcome is Outcome.FAIL


def test_a_loss_reported_wrongly_is_found(parts: Parts) -> None:
    def answer(request: Mapping[str, Any], reported: dict[str, Any]) -> None:
        if request["do"] == "stretch":
            reported["train_loss"] = 10.0

    faulty = replace(parts, make_session=lambda: Tampering(answer=answer))
    assert training_checks.examine_first_losses(faulty).outcome is Outcome.FAIL


def test_a_trial_that_cannot_be_prepared_is_a_failed_check(parts: Parts, make_check: MakeCheck) -> None:
    check = make_check(replace(parts, make_session=trial_with(activation="none")), "losses against float64")
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
    assert training_checks.examine_warm_up(replace(parts, make_session=session)).outcome is Outcome.FAIL


def test_a_trace_of_the_warm_up_in_the_last_bits_is_found_on_the_cpu(parts: Parts) -> None:
    def answer(request: Mapping[str, Any], reported: dict[str, Any]) -> None:
        if request["do"] == "stretch":
            reported["train_loss"] *= 1 + 1e-7

    faulty = replace(parts, make_session=lambda: Tampering(answer=answer))
    assert training_checks.examine_warm_up(faulty).outcome is Outcome.FAIL


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_losses_of_any_size_are_compared_relatively(scale: float) -> None:
    for difference, expected in ((1e-6, Outcome.PASS), (1e-5, Outcome.FAIL)):
        assert training_checks.compare_losses([scale * (1 + difference)], [scale], exactly=False).outcome is expected


def test_losses_may_differ_in_the_last_bits_on_accelerators_only() -> None:
    expected = [2.0, 1.5]
    close, far = [2.0, 1.5 * (1 + 1e-6)], [2.0, 1.5 * (1 + 1e-5)]
    assert training_checks.compare_losses(close, expected, exactly=True).outcome is Outcome.FAIL
    assert training_checks.compare_losses(close, expected, exactly=False).outcome is Outcome.PASS
    assert training_checks.compare_losses(far, expected, exactly=False).outcome is Outcome.FAIL


# Pipelines


def by_pipeline(*, seed_of_dataloader: int) -> Callable[..., Training]:
    """Return a maker of trainings, all resident, those of the dataloader with a seed of its own."""

    def make(recipe: Recipe, dataset: Dataset, **others: Any) -> Training:  # noqa: ANN401 - what a Training takes
        seed = seed_of_dataloader if others["pipeline"] == "dataloader" else others["seed"]
        return Training(recipe, dataset, device=others["device"], seed=seed)

    return make


@pytest.mark.parametrize(("seed", "expected"), [(0, Outcome.PASS), (1, Outcome.FAIL)])
def test_another_order_of_batches_is_found(parts: Parts, seed: int, expected: Outcome) -> None:
    named = replace(parts.dataset, name="mnist")
    faulty = replace(parts, dataset=named, make_training=by_pipeline(seed_of_dataloader=seed))
    assert training_checks.examine_pipelines(faulty).outcome is expected


def test_pipelines_are_not_applicable_where_torchvision_has_no_reader(parts: Parts) -> None:
    assert training_checks.examine_pipelines(parts).outcome is Outcome.NOT_APPLICABLE


@pytest.mark.mnist
def test_both_pipelines_give_the_same_batches_of_mnist(parts: Parts) -> None:
    real = replace(parts, dataset=data.load("mnist"))
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
    finding = training_checks.examine_scores(replace(parts, make_training=training))
    assert finding.outcome is Outcome.FAIL
    assert "class" in finding.measured
