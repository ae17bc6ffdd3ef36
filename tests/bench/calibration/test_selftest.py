"""The parent's side of `selftest`: whom it asks what, and what its table and exit code say."""

import dataclasses
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from fake_worker import FakeLauncher, die, fail_trial

from bench.calibration.selftest import Options, exit_code, render, run_selftest
from bench.coding import to_json
from bench.errors import BadInputError, ExitCode
from bench.execution.launcher import Launcher
from bench.protocol.soundness import Check, Checked, Outcome
from bench.records import DeviceStatus, FailureKind
from bench.system.locks import Patience, device_locks
from bench.worker.selftest import EXAMINATIONS

pytestmark = pytest.mark.usefixtures("own_locks")


PASSED = Check(name="CPU time", device="cpu", outcome=Outcome.PASS, measured="0.30 s of 0.3 s", rule="about as much")
FAILED = dataclasses.replace(PASSED, name="float32 is float32", outcome=Outcome.FAIL, measured="TF32 ON in settings")
SKIPPED = dataclasses.replace(
    PASSED,
    name="waiting for the device",
    outcome=Outcome.NOT_APPLICABLE,
    measured="work on the CPU is done when its call returns",
)
OPTIONS = Options(devices=("auto",), dataset="digits", data_root=None, timeout_seconds=60.0)


def answering(launcher: FakeLauncher, *checks: Check) -> FakeLauncher:
    """Have each device answer with `checks`."""

    def respond(request: Any) -> dict[str, Any] | None:  # noqa: ANN401 - a request of the protocol
        if request["do"] != "selftest":
            return None
        own = tuple(dataclasses.replace(check, device=request["device"]) for check in checks)
        return {"answer": to_json(Checked(checks=own))}

    launcher.on = respond
    return launcher


def run(launcher: Launcher, **changes: Any) -> tuple[Check, ...]:  # noqa: ANN401 - to dataclasses.replace
    return run_selftest(dataclasses.replace(OPTIONS, **changes), launcher, lambda _line: None)


def test_each_device_is_checked_in_a_process_of_its_own(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="Fictional GPU F1", reason="")
    place = fake_launcher.place
    fake_launcher.place = dataclasses.replace(place, devices=(place.devices[0], gpu))
    checks = run(answering(fake_launcher, PASSED, SKIPPED), data_root=tmp_path)
    assert [(check.device, check.name) for check in checks] == [
        (device, check.name) for device in ("cpu", "cuda:0") for check in (PASSED, SKIPPED)
    ]
    asked = [request for request in fake_launcher.requests if request["do"] == "selftest"]
    assert asked[1] == {
        "do": "selftest",
        "device": "cuda:0",
        "threads": 2,
        "dataset": "digits",
        "root": str(tmp_path.resolve()),
    }
    assert fake_launcher.started == fake_launcher.killed == 4  # description, data, two devices


@pytest.mark.parametrize("answer", [fail_trial(FailureKind.CRASH, "no such device"), die()], ids=["failure", "death"])
def test_a_worker_that_fails_is_a_failed_check_and_the_next_device_is_checked(
    fake_launcher: FakeLauncher, answer: dict[str, Any]
) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="Fictional GPU F1", reason="")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(gpu, fake_launcher.place.devices[0]))
    respond = answering(fake_launcher, PASSED).on
    fake_launcher.on = lambda request: answer if request.get("device") == "cuda:0" else respond(request)
    checks = run(fake_launcher)
    assert [(check.device, check.outcome) for check in checks] == [("cuda:0", Outcome.FAIL), ("cpu", Outcome.PASS)]
    assert exit_code(checks) is ExitCode.FAILED_TRIAL


def test_a_missing_device_is_refused(fake_launcher: FakeLauncher) -> None:
    with pytest.raises(BadInputError, match="'cuda' is not available: no driver"):
        run(answering(fake_launcher, PASSED), devices=("cpu", "cuda"))
    assert fake_launcher.started == 1


def test_a_device_in_use_is_refused(fake_launcher: FakeLauncher) -> None:
    with device_locks(["cpu"]), pytest.raises(BadInputError, match="device cpu is in use"):
        run(answering(fake_launcher, PASSED))


def test_a_device_in_use_is_waited_for_as_long_as_asked(fake_launcher: FakeLauncher) -> None:
    lines: list[str] = []
    seconds = 0.0

    def sleep(wait: float) -> None:
        nonlocal seconds
        seconds += wait
        if seconds >= 2:
            held.close()

    patience = Patience(seconds=5.0, notify=lines.append, clock=lambda: seconds, sleep=sleep)
    with ExitStack() as held:
        held.enter_context(device_locks(["cpu"]))
        assert run(answering(fake_launcher, PASSED), patience=patience)
    assert seconds == 2
    assert "waiting for up to 5 s" in lines[0]


def test_missing_data_is_the_users_mistake(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda request: {"bad_input": "no MNIST here"} if request["do"] == "dataset" else None
    with pytest.raises(BadInputError, match="no MNIST here"):
        run(fake_launcher)


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ((PASSED, SKIPPED), ExitCode.PASS),
        ((PASSED, FAILED, SKIPPED), ExitCode.FAILED_TRIAL),
        ((SKIPPED,), ExitCode.FAILED_TRIAL),
        ((), ExitCode.FAILED_TRIAL),
    ],
)
def test_only_passed_checks_without_a_failed_one_end_well(checks: tuple[Check, ...], code: ExitCode) -> None:
    assert exit_code(checks) is code


def test_the_table_shows_failures_with_their_rule_and_why_others_do_not_apply() -> None:
    assert render((PASSED, FAILED, SKIPPED)) == (
        "device  check                   result  measured\n"
        "------  ----------------------  ------  --------------------------------\n"
        "cpu     CPU time                pass    0.30 s of 0.3 s\n"
        "cpu     float32 is float32      FAIL    TF32 ON in settings\n"
        "cpu     waiting for the device  n/a     work on the CPU is done when its\n"
        "                                        call returns\n"
        "\n"
        "1 pass, 1 fail, 1 not applicable\n"
        "FAIL cpu, float32 is float32: TF32 ON in settings. Rule: about as much."
    )


def test_the_table_stays_within_80_columns_whatever_is_measured() -> None:
    wide = dataclasses.replace(
        FAILED, device="cuda:15", name="training steps at 1x and 2x", measured="word " * 60, rule="a rule " * 30
    )
    assert max(map(len, render((PASSED, wide)).splitlines())) <= 80


@pytest.mark.slow
def test_the_real_ruler_is_sound_on_this_cpu(launcher: Launcher) -> None:
    checks = run(launcher, devices=("cpu",))
    assert [check for check in checks if check.outcome is Outcome.FAIL] == []
    assert [check.name for check in checks] == [each.name for each in EXAMINATIONS]
    skipped = {check.name for check in checks if check.outcome is Outcome.NOT_APPLICABLE}
    assert skipped == {"device memory", "waiting for the device", "both pipelines' batches"}
    assert exit_code(checks) is ExitCode.PASS
