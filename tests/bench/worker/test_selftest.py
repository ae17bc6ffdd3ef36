"""The self-test as a whole: which checks are repeated, and that one that raises is a failure and not the end."""

from pathlib import Path

import pytest
import torch

from bench.protocol.soundness import Checked, Outcome
from bench.worker import meter_checks, selftest
from bench.worker.examination import Examination, Finding, Parts, not_applicable, passed_if
from bench.worker.session import Session
from mnist_mlp import data
from mnist_mlp.data import Dataset

THREADS = torch.get_num_threads()


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
    checked = selftest.check_parts(parts, [*raising, scripted(GOOD), scripted(not_applicable("no such thing"))])
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
    assert selftest.check_one(parts, scripted(*findings, attempts=attempts)).outcome is expected


def test_only_checks_of_noisy_things_are_repeated() -> None:
    noisy = {each.examine for each in selftest.EXAMINATIONS if each.attempts > 1}
    assert noisy == {
        meter_checks.examine_products,
        meter_checks.examine_stretches,
        meter_checks.examine_synchronisation,
        meter_checks.examine_cpu_time,
        meter_checks.examine_contention,
    }


def test_the_data_root_is_that_of_the_dataset_and_of_the_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    load = data.load

    def note(name: str, root: Path | None) -> Dataset:
        asked.append(root)
        return load(name, root)

    def check(parts: Parts) -> Checked:
        asked.append((parts.root, parts.threads, parts.device.name))
        return Checked(checks=())

    monkeypatch.setattr(data, "load", note)
    monkeypatch.setattr(selftest, "check_parts", check)
    request = {"do": "selftest", "device": "cpu", "threads": 3, "dataset": "digits", "root": str(tmp_path)}
    assert "answer" in Session().answer(request)
    assert asked == [tmp_path, (tmp_path, 3, "cpu")]


def test_a_device_that_cannot_be_used_is_a_failure() -> None:
    request = {"do": "selftest", "device": "meta", "threads": THREADS, "dataset": "digits", "root": None}
    assert "failure" in Session().answer(request)


def test_an_unknown_dataset_is_the_callers_mistake() -> None:
    request = {"do": "selftest", "device": "cpu", "threads": THREADS, "dataset": "emnist", "root": None}
    assert "emnist" in Session().answer(request)["bad_input"]
