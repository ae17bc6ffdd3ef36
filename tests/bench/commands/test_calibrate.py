"""The commands `calibrate` and `selftest`: options, output, files and exit codes, with a scripted worker."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_worker import FakeLauncher, fail_trial
from rates_builders import RatesLauncher

from bench.calibration.profiles import load_profile
from bench.cli import Commands
from bench.coding import to_json
from bench.commands.calibrate import calibrate_command, selftest_command
from bench.execution.processes import worker_environment
from bench.protocol.messages import Stretched
from bench.protocol.soundness import Check, Checked, Outcome
from bench.records import FailureKind
from bench.system.locks import device_locks

pytestmark = pytest.mark.usefixtures("elsewhere")


STRETCH = {"answer": to_json(Stretched(train_seconds=0.1, train_samples=640, train_loss=2.3))}


def stretched(request: Any) -> dict[str, Any] | None:  # noqa: ANN401 - a request of the protocol
    """Answer every stretch alike: both arms are equally fast."""
    return STRETCH if request["do"] == "stretch" else None


@pytest.fixture
def fake_launcher() -> FakeLauncher:
    return RatesLauncher()


@pytest.fixture(autouse=True)
def worker(fake_launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch) -> FakeLauncher:
    """The scripted worker in place of the real one."""
    monkeypatch.setattr("bench.execution.launcher.make_launcher", lambda _preload=(): fake_launcher)
    monkeypatch.setattr(
        "bench.execution.launcher.make_arm_launchers", lambda _arms: ((fake_launcher, fake_launcher), lambda: None)
    )
    fake_launcher.on = stretched
    return fake_launcher


def bench(*arguments: str) -> Result:
    group = Commands("bench", commands=[calibrate_command, selftest_command])
    return CliRunner().invoke(group, arguments, prog_name="bench")


def refused(result: Result, *words: str) -> None:
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)
    for word in words:
        assert word in result.stderr


@pytest.mark.parametrize("command", ["calibrate", "selftest"])
def test_a_device_that_a_run_holds_starts_no_worker(worker: FakeLauncher, command: str) -> None:
    with device_locks(["cpu"]):
        refused(bench(command, "--devices", "cpu", "--wait", "0.1s"), "device cpu is in use by process", "waited")
    assert not worker.requests


# calibrate


def test_quiet_commands_say_the_same_results_and_nothing_else(worker: FakeLauncher) -> None:
    for command in (("calibrate", "--pairs", "3", "--seeds", "3"), ("selftest", "--dataset", "digits")):
        if command[0] == "selftest":
            answer(worker, Outcome.PASS)
        aloud, quiet = bench(*command), bench(*command, "--quiet")
        assert (quiet.exit_code, quiet.stderr, aloud.exit_code) == (0, "", 0)
        assert aloud.stderr
        assert len(quiet.stdout.splitlines()) == len(aloud.stdout.splitlines())


def test_calibrate_prints_the_table_and_stores_the_profile(worker: FakeLauncher, tmp_path: Path) -> None:
    result = bench("calibrate", "--pairs", "3", "--seeds", "3", "--json", "figures.json")
    assert result.exit_code == 0, result.output
    profile = load_profile(worker.place.machine.id, Path("results"))
    assert profile is not None
    assert len(profile.sessions[0].devices[0].aa_log_ratios) == 3
    assert "cpu" in result.stdout
    assert f"Stored in {Path('results/machines') / worker.place.machine.id}.json" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "A/A pair 3 of 3: +0.0 %" in result.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["machine_id"] == worker.place.machine.id
    assert figures["devices"][0]["device"] == "cpu"
    assert figures["devices"][0]["ab_floor"] == 0
    assert figures["devices"][0]["drift_deviation"] is None
    fp32, bf16 = figures["devices"][0]["rates"]
    assert (fp32["precision"], bf16["precision"]) == ("fp32", "bf16")
    assert fp32["bandwidth"]["triad_bytes_per_second"] == 2.2e10
    assert fp32["steps"][0] == {"engine": "eager", "seconds": 1.5e-4}
    assert bf16["bandwidth"] is None
    assert [rates["threads"] for rates in figures["devices"][0]["thread_rates"]] == [1, 2, 4]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--pairs", "2"), ("--pairs", "2 is not in the range 3<=x<=1000")),
        (("--seeds", "-1"), ("--seeds", "-1 is not in the range 3<=x<=1000")),
        (("--devices", "cuda"), ("'cuda' is not available", "no driver", "Available here: cpu")),
        (("--devices", ""), ("empty item",)),
        (("--json", "missing/figures.json"), ("missing", "cannot be written")),
        (("--timeout", "soon"), ("soon",)),
        (("--results", "blocker"), ("blocker", "--results")),
    ],
)
def test_calibrate_refuses_bad_options_and_writes_nothing(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    Path("blocker").write_text("a file, not a folder")
    refused(bench("calibrate", *arguments), *words)
    assert not Path("results").exists()


def test_calibrate_ends_with_4_if_a_trial_fails(worker: FakeLauncher) -> None:
    worker.on = lambda request: (
        fail_trial(FailureKind.CRASH, "gone") if request["do"] == "train" else stretched(request)
    )
    result = bench("calibrate", "--json", "figures.json")
    assert result.exit_code == 4
    assert "failed: crash: gone" in result.stderr
    assert result.stdout == ""
    assert not list(Path().rglob("*.json"))


# selftest


def answer(worker: FakeLauncher, *outcomes: Outcome) -> None:
    """Have the scripted worker report one check an outcome."""
    checks = tuple(
        Check(name=f"check {number}", device="cpu", outcome=outcome, measured="7 of 9", rule="all of 9")
        for number, outcome in enumerate(outcomes)
    )

    def respond(request: Any) -> dict[str, Any] | None:  # noqa: ANN401 - a request of the protocol
        return {"answer": to_json(Checked(checks=checks))} if request["do"] == "selftest" else None

    worker.on = respond


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((Outcome.PASS, Outcome.NOT_APPLICABLE), 0),
        ((Outcome.PASS, Outcome.FAIL), 4),
        ((Outcome.NOT_APPLICABLE,), 4),
    ],
)
def test_selftest_prints_every_check_and_ends_with_4_on_a_failure(
    worker: FakeLauncher, outcomes: tuple[Outcome, ...], code: int
) -> None:
    answer(worker, *outcomes)
    result = bench("selftest", "--dataset", "digits")
    assert result.exit_code == code
    assert all(f"check {number}" in result.stdout for number in range(len(outcomes)))
    assert ("FAIL cpu, check 1: 7 of 9. Rule: all of 9." in result.stdout) is (Outcome.FAIL in outcomes)


def test_selftest_as_json_holds_the_same(worker: FakeLauncher) -> None:
    answer(worker, Outcome.PASS, Outcome.FAIL)
    result = bench("selftest", "--format", "json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)[1] == {
        "name": "check 1",
        "device": "cpu",
        "outcome": "fail",
        "measured": "7 of 9",
        "rule": "all of 9",
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--devices", "cpu,cuda"), ("'cuda' is not available", "no driver", "Available here: cpu")),
        (("--dataset", "synthetic"), ("synthetic", "digits")),
        (("--format", "csv"), ("csv", "table")),
    ],
)
def test_selftest_refuses_bad_options(arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    refused(bench("selftest", *arguments), *words)


def test_neither_command_imports_torch_into_this_process() -> None:
    program = (
        "import sys, bench.commands.calibrate;"
        "from bench.calibration import profiles, selftest, view;"
        "print([name for name in ('torch', 'pandas', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=worker_environment()
    )
    assert done.stdout.strip() == "[]"
