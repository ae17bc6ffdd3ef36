"""Calibration: what is measured and stored, and that a failed or interrupted one leaves the profile as it was."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench_builders import make_contention, make_epoch, make_epochs, make_measurement, make_settings
from fake_worker import FakeLauncher, fail_trial
from rates_builders import RatesLauncher, make_transfers

from bench.ab.pairs import ArmFailedError, ArmRecord, Block, PairRecord
from bench.calibration.calibrate import Calibrated, CalibrationError, Options, calibrate
from bench.calibration.profiles import load_profile, profile_path
from bench.calibration.view import render, report
from bench.coding import to_json
from bench.errors import BadInputError, ExitCode, InterruptedRunError
from bench.execution.launcher import Launcher
from bench.protocol.messages import Evaluated, Trained
from bench.records import Configuration, DeviceStatus, Failure, FailureKind
from bench.system.interrupts import Interrupts
from bench.system.locks import Patience, device_locks

pytestmark = pytest.mark.usefixtures("own_locks")


TEST_SAMPLES = 10_000


class FakePairs:
    """Measures pairs from a script of log ratios; `fail` is raised by the pair after them."""

    def __init__(self, *log_ratios: float, fail: BaseException | None = None) -> None:
        self._log_ratios = list(log_ratios)
        self._fail = fail
        self.seeds: list[int] = []
        self.configurations: list[Configuration] = []
        self.launchers: list[tuple[Launcher, Launcher]] = []

    def __call__(
        self, baseline: Launcher, candidate: Launcher, configuration: Configuration, *, seed: int, **_others: object
    ) -> PairRecord:
        self.seeds.append(seed)
        self.configurations.append(configuration)
        self.launchers.append((baseline, candidate))
        if not self._log_ratios and self._fail is not None:
            raise self._fail
        arm = ArmRecord(settings=make_settings(), dataset_sha256="0" * 64, first_loss=2.3)
        seconds = math.exp(self._log_ratios.pop(0))
        block = Block(samples=6400, baseline_seconds=1.0, candidate_seconds=seconds)
        return PairRecord(seed=seed, turn_batches=100, baseline=arm, candidate=arm, blocks=(block,))


@pytest.fixture
def fake_launcher() -> FakeLauncher:
    return RatesLauncher()


@pytest.fixture
def accuracies(fake_launcher: FakeLauncher) -> list[int]:
    """Script the final test accuracies (correct answers), one a trial."""
    script: list[int] = [9700, 9712, 9706, 9690, 9700, 9720, 9710, 9705, 9711]
    epochs = make_epochs()
    evaluations = 0

    def respond(request: Any) -> dict[str, Any] | None:  # noqa: ANN401 - a request of the protocol
        nonlocal evaluations
        if request["do"] != "evaluate":
            return None
        correct = script[evaluations // 3]
        evaluations += 1
        fields = {name: getattr(epochs[0], name) for name in Evaluated.__dataclass_fields__}
        return {"answer": to_json(Evaluated(**{**fields, "test_correct": correct}))}

    fake_launcher.on = respond
    return script


def options(folder: Path, **changes: Any) -> Options:  # noqa: ANN401 - the changes go to dataclasses.replace
    default = Options(
        devices=("auto",), pairs=4, seeds=3, results=folder / "results", data_root=None, timeout_seconds=60.0
    )
    return dataclasses.replace(default, **changes)


def run(chosen: Options, launcher: FakeLauncher, pairs: FakePairs, lines: list[str] | None = None) -> Calibrated:
    lines = [] if lines is None else lines
    with Interrupts() as interrupts:
        return calibrate(chosen, (launcher, FakeLauncher()), interrupts, lines.append, pairs)


@pytest.mark.usefixtures("accuracies")
def test_pairs_and_trials_of_the_reference_are_stored(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    pairs = FakePairs(0.01, -0.02, 0.03, 0.0)
    calibrated = run(options(tmp_path), fake_launcher, pairs)
    assert calibrated.path == profile_path(fake_launcher.place.machine.id, tmp_path / "results")
    assert load_profile(fake_launcher.place.machine.id, tmp_path / "results") == calibrated.profile
    (session,) = calibrated.profile.sessions
    assert session.software == fake_launcher.place.software
    (device,) = session.devices
    assert device.aa_log_ratios == pytest.approx((0.01, -0.02, 0.03, 0.0))
    assert device.seeds == (0, 1, 2)
    trained = [request["trial"]["seed"] for request in fake_launcher.requests if request["do"] == "prepare"]
    assert trained == [0, 1, 2]
    assert device.test_accuracies == (0.97, 0.9712, 0.9706)
    measurement = make_measurement()
    assert device.epoch_seconds == (measurement.epochs[0].train_seconds,) * 3
    assert device.yardstick_seconds == (measurement.epochs[0].yardstick_seconds,) * 3
    assert device.peak_flops_per_second == (1.5e11,) * 3
    assert set(pairs.configurations) == {device.configuration}
    reference = device.configuration
    assert (reference.device, reference.layers, reference.batch_size) == ("cpu", (784, 128, 10), 256)
    assert (reference.pipeline, reference.engine, reference.precision) == ("resident", "eager", "fp32")
    assert (reference.threads, reference.epochs, reference.dataset) == (2, 3, "mnist")


@pytest.mark.usefixtures("accuracies")
def test_the_arms_come_from_two_hosts_and_begin_in_turn(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    pairs = FakePairs(0.01, -0.02, 0.03, 0.0)
    run(options(tmp_path), fake_launcher, pairs)
    assert all(baseline is not candidate for baseline, candidate in pairs.launchers)
    assert sorted(seed % 2 for seed in pairs.seeds) == [0, 0, 1, 1]


@pytest.mark.usefixtures("accuracies")
def test_a_peak_that_cannot_be_measured_ends_the_calibration(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    respond = fake_launcher.on
    failed = fail_trial(FailureKind.OUT_OF_MEMORY, "no room")
    fake_launcher.on = lambda request: failed if request["do"] == "peak" else respond(request)
    with pytest.raises(CalibrationError, match="measuring the peak of cpu failed: out_of_memory: no room"):
        run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))


@pytest.mark.usefixtures("accuracies")
def test_rates_are_measured_at_each_precision_and_thread_count_in_a_process_of_their_own(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    calibrated = run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    (device,) = calibrated.profile.sessions[0].devices
    assert [(rates.precision, rates.threads) for rates in device.rates] == [("fp32", 2), ("bf16", 2)]
    assert [(rates.threads, rates.square_flops_per_second) for rates in device.thread_rates] == [
        (1, 1e11),
        (2, 2e11),
        (4, 4e11),
    ]
    asked = [request for request in fake_launcher.requests if request["do"] == "rates"]
    assert [(request["precision"], request["threads"], request["whole"]) for request in asked] == [
        ("fp32", 2, True),
        ("bf16", 2, True),
        ("fp32", 1, False),
        ("fp32", 2, False),
        ("fp32", 4, False),
    ]
    conversations = [request for request in fake_launcher.requests if request["do"] in CONVERSATIONS]
    assert fake_launcher.started == fake_launcher.killed == len(conversations)


CONVERSATIONS = {"describe", "dataset", "prepare", "peak", "rates"}
"""Requests that begin with a fresh process."""


@pytest.mark.usefixtures("accuracies")
def test_an_accelerator_has_transfers_and_no_thread_scaling(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="Fictional GPU F1", reason="")
    fake_launcher.place = dataclasses.replace(fake_launcher.place, devices=(gpu,))
    calibrated = run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    (device,) = calibrated.profile.sessions[0].devices
    assert [rates.precision for rates in device.rates] == ["fp32", "tf32", "bf16"]
    assert device.rates[0].transfers == make_transfers()
    assert device.thread_rates == ()
    text = render(calibrated)
    assert max(map(len, text.splitlines())) <= 80
    assert "cuda:0, 2 threads" in text
    assert "cuda:0, threads" not in text
    assert "from device, pinned 23.3 GiB/s - -" in " ".join(text.split())
    assert "idle power 72.5 W - -" in " ".join(text.split())
    assert "cuda:0: idle power by NVML total energy counter" in text


def failing_rates(fake_launcher: FakeLauncher, kind: FailureKind, **which: object) -> None:
    """Let the measurement of the rates with these members fail, and nothing else."""
    respond = fake_launcher.on
    fake_launcher.on = lambda request: (
        fail_trial(kind, "no such products")
        if request["do"] == "rates" and which.items() <= request.items()
        else respond(request)
    )


@pytest.mark.usefixtures("accuracies")
def test_a_precision_that_does_not_take_effect_is_reported_and_omitted(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    failing_rates(fake_launcher, FailureKind.UNSUPPORTED, precision="bf16")
    lines: list[str] = []
    profile = run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4), lines).profile
    assert [rates.precision for rates in profile.sessions[0].devices[0].rates] == ["fp32"]
    assert "cpu: no rates at bf16: no such products" in lines


@pytest.mark.parametrize(
    ("kind", "which"),
    [
        (FailureKind.OUT_OF_MEMORY, {"precision": "bf16"}),
        (FailureKind.UNSUPPORTED, {"precision": "fp32", "whole": True}),
        (FailureKind.CRASH, {"threads": 2}),
    ],
)
@pytest.mark.usefixtures("accuracies")
def test_rates_that_cannot_be_measured_end_the_calibration(
    fake_launcher: FakeLauncher, tmp_path: Path, kind: FailureKind, which: dict[str, object]
) -> None:
    failing_rates(fake_launcher, kind, **which)
    with pytest.raises(CalibrationError, match=rf"measuring the rates of cpu at .* failed: {kind}: no such products"):
        run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    assert load_profile(fake_launcher.place.machine.id, tmp_path / "results") is None


@pytest.mark.usefixtures("accuracies")
def test_a_second_calibration_is_appended_with_new_seeds(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    profile = run(options(tmp_path), fake_launcher, FakePairs(*[0.02] * 4)).profile
    assert [session.devices[0].seeds for session in profile.sessions] == [(0, 1, 2), (3, 4, 5)]
    figures = profile.figures("cpu")
    assert figures is not None
    assert figures.seeds == 6
    assert figures.ab_floor == pytest.approx(0.02)


def test_every_available_device_is_calibrated_unless_one_is_named(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    gpu = DeviceStatus(device="cuda:0", available=True, description="Fictional GPU F1", reason="")
    place = fake_launcher.place
    fake_launcher.place = dataclasses.replace(place, devices=(place.devices[0], gpu))
    profile = run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 8)).profile
    assert [device.device for device in profile.sessions[0].devices] == ["cpu", "cuda:0"]
    calibrated = run(options(tmp_path, devices=("cuda",)), fake_launcher, FakePairs(*[0.01] * 4))
    assert calibrated.devices == ("cuda:0",)
    assert [figures.device for figures in report(calibrated).devices] == ["cuda:0"]


def test_disturbances_of_the_trials_are_reported_with_advice(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    stolen = make_contention(steal_seconds=1.5)
    epoch = make_epoch(contention=stolen)
    trained = Trained(**{name: getattr(epoch, name) for name in Trained.__dataclass_fields__})
    fake_launcher.on = lambda request: {"answer": to_json(trained)} if request["do"] == "train" else None
    lines: list[str] = []
    run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4), lines)
    (warning,) = [line for line in lines if "contamination" in line]
    assert "repeat on a quiet machine" in warning


def test_each_measurement_is_reported(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    lines: list[str] = []
    run(options(tmp_path, pairs=3, seeds=2), fake_launcher, FakePairs(0.01, -0.02, 0.03), lines)
    assert [line.split(":")[1] for line in lines] == [
        " A/A pair 1 of 3",
        " trial 1 of 2",
        " A/A pair 2 of 3",
        " trial 2 of 2",
        " A/A pair 3 of 3",
        " rates at fp32 with 2 threads",
        " rates at bf16 with 2 threads",
        " rates at fp32 with 1 thread",
        " rates at fp32 with 2 threads",
        " rates at fp32 with 4 threads",
    ]
    assert lines[5].endswith("up to 420 GFLOP/s")
    assert "-2.0 %" in lines[2]


# What goes wrong


@contextlib.contextmanager
def profile_untouched(folder: Path, launcher: FakeLauncher) -> Iterator[None]:
    """Calibrate once; what is done then must leave the profile, and nothing else, in its folder."""
    launcher_before = launcher.on
    launcher.on = lambda _request: None
    path = run(options(folder), launcher, FakePairs(*[0.01] * 4)).path
    launcher.on = launcher_before
    content = path.read_bytes()
    yield
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]
    with device_locks(["cpu"]):
        pass


def test_a_failed_trial_ends_with_4_and_stores_nothing(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    fake_launcher.on = lambda request: (
        fail_trial(FailureKind.OUT_OF_MEMORY, "9 GiB wanted") if request["do"] == "train" else None
    )
    with (
        profile_untouched(tmp_path, fake_launcher),
        pytest.raises(CalibrationError, match=r"seed 3 on cpu failed: out_of_memory: 9 GiB wanted\. Nothing") as failed,
    ):
        run(options(tmp_path), fake_launcher, FakePairs(0.01))
    assert failed.value.exit_code is ExitCode.FAILED_TRIAL


def test_a_failed_pair_ends_with_4_and_stores_nothing(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    failure = ArmFailedError("candidate", Failure(kind=FailureKind.CRASH, message="gone"))
    with (
        profile_untouched(tmp_path, fake_launcher),
        pytest.raises(CalibrationError, match="A/A pair 3 on cpu: the candidate's trial failed: crash: gone") as failed,
    ):
        run(options(tmp_path), fake_launcher, FakePairs(0.01, 0.02, fail=failure))
    assert failed.value.exit_code is ExitCode.FAILED_TRIAL


def test_an_interruption_leaves_the_profile_as_it_was(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    interruption = InterruptedRunError("interrupted by SIGINT")
    with (
        profile_untouched(tmp_path, fake_launcher),
        pytest.raises(InterruptedRunError, match="interrupted by SIGINT: nothing of this calibration is stored"),
    ):
        run(options(tmp_path), fake_launcher, FakePairs(0.01, 0.02, fail=interruption))


def test_a_broken_profile_is_refused_before_anything_is_measured(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    path = profile_path(fake_launcher.place.machine.id, tmp_path / "results")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    with pytest.raises(BadInputError, match="not valid JSON"):
        run(options(tmp_path), fake_launcher, FakePairs())
    assert path.read_text() == "{"
    assert [request["do"] for request in fake_launcher.requests] == ["describe"]


def test_a_missing_device_is_refused(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="'cuda' is not available: no driver"):
        run(options(tmp_path, devices=("cpu", "cuda")), fake_launcher, FakePairs())
    assert not (tmp_path / "results").exists()


def test_a_device_in_use_is_refused(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    with device_locks(["cpu"]), pytest.raises(BadInputError, match="device cpu is in use"):
        run(options(tmp_path), fake_launcher, FakePairs())


def test_waiting_for_the_device_is_no_part_of_the_duration(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    def sleep(_seconds: float) -> None:
        time.sleep(0.25)
        held.close()

    begun = time.perf_counter()
    with contextlib.ExitStack() as held:
        held.enter_context(device_locks(["cpu"]))
        chosen = options(tmp_path, patience=Patience(seconds=60.0, sleep=sleep))
        (session,) = run(chosen, fake_launcher, FakePairs(*[0.01] * 4)).profile.sessions
    assert 0 < session.wall_seconds < time.perf_counter() - begun - 0.25


def test_the_device_and_the_profile_are_held_while_measuring(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    refusals = []

    def respond(request: Any) -> None:  # noqa: ANN401 - a request of the protocol
        if request["do"] == "train":
            for chosen in (options(tmp_path, results=tmp_path / "other"), options(tmp_path)):
                with pytest.raises(BadInputError) as refusal:
                    run(chosen, FakeLauncher(), FakePairs())
                refusals.append(str(refusal.value))

    fake_launcher.on = respond
    run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    assert "device cpu is in use" in refusals[0]
    assert "machine profile" in refusals[1]
    assert "in use" in refusals[1]


def test_results_that_are_no_folder_are_refused_before_measuring(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(BadInputError, match="--results"):
        run(options(tmp_path), fake_launcher, FakePairs())


# What is shown


@pytest.mark.usefixtures("accuracies")
def test_the_table_shows_the_figures_within_80_columns(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    text = render(run(options(tmp_path), fake_launcher, FakePairs(0.01, -0.02, 0.03, 0.0)))
    assert max(map(len, text.splitlines())) <= 80
    row = text.splitlines()[3].split()
    # exp(|0.005| + 3.182 * 0.02082 / 2) - 1 by hand, t with 3 degrees of freedom from a table
    assert " ".join(row) == "cpu 3.9 % 4 2.1 % 0.06 pp 3 2.25 s 0.0 % - 15.6 ms"
    assert "cpu: drift needs 3 sessions, 1 so far" in text


@pytest.mark.usefixtures("accuracies")
def test_the_floor_is_shown_as_the_slowdown_that_its_log_ratio_is(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    twice = math.log(2)
    calibrated = run(options(tmp_path), fake_launcher, FakePairs(*[twice] * 4))
    (figures,) = report(calibrated).devices
    assert figures.ab_floor == pytest.approx(twice)
    assert render(calibrated).splitlines()[3].split()[:3] == ["cpu", "100.0", "%"]


@pytest.mark.usefixtures("accuracies")
def test_drift_is_shown_from_the_third_session_on_with_what_it_covers(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    for _ in range(2):
        run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    text = render(run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4)))
    assert "cpu: drift over 3 sessions; it covers only the days that were measured" in text
    assert "cpu: peak 420 GFLOP/s" in text  # that of a layer, where squares reached 400
    assert "peak: fastest float32 products of all sessions with this torch, CUDA and BLAS;" in text
    assert text.splitlines()[3].split()[-4:] == ["0.0", "%", "15.6", "ms"]


@pytest.mark.usefixtures("accuracies")
def test_rates_are_shown_by_precision_and_by_threads_within_80_columns(
    fake_launcher: FakeLauncher, tmp_path: Path
) -> None:
    text = render(run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4)))
    assert max(map(len, text.splitlines())) <= 80
    rows = [" ".join(line.split()) for line in text.splitlines()]
    for row in (
        "cpu, 2 threads fp32 bf16",
        "square products 200 GFLOP/s 200 GFLOP/s",
        "784 to 128, batch 64 150 GFLOP/s 150 GFLOP/s",
        "copy 18.6 GiB/s -",
        "triad 20.5 GiB/s -",
        "step, eager 150 µs 150 µs",
        "step, fused 60.0 µs 60.0 µs",
        "1 100 GFLOP/s 1.00 x 20.5 GiB/s 1.00 x",
        "4 400 GFLOP/s 4.00 x 20.5 GiB/s 1.00 x",
    ):
        assert row in rows
    assert "cpu: idle power unknown: RAPL: the system shows no processor package, as here" in " ".join(rows)
    assert not any(row.startswith("idle power") for row in rows)
    assert sum(row.startswith("copy, triad:") for row in rows) == 1  # the legend, once


@pytest.mark.usefixtures("accuracies")
def test_a_profile_without_rates_is_shown_without_their_tables(fake_launcher: FakeLauncher, tmp_path: Path) -> None:
    calibrated = run(options(tmp_path), fake_launcher, FakePairs(*[0.01] * 4))
    (session,) = calibrated.profile.sessions
    bare = dataclasses.replace(session.devices[0], rates=(), thread_rates=())
    profile = dataclasses.replace(calibrated.profile, sessions=(dataclasses.replace(session, devices=(bare,)),))
    text = render(dataclasses.replace(calibrated, profile=profile))
    assert "square products" not in text
    assert "copy, triad" not in text


@pytest.mark.slow
@pytest.mark.mnist
def test_a_real_calibration_gives_plausible_figures(launcher: Launcher, tmp_path: Path) -> None:
    with Interrupts() as interrupts:
        chosen = options(tmp_path, devices=("cpu",), pairs=3)
        profile = calibrate(chosen, (launcher, launcher), interrupts, lambda _line: None).profile
    figures = profile.figures("cpu")
    assert figures is not None
    assert figures.ab_floor is not None
    assert figures.ab_floor > 0
    assert figures.accuracy_deviation is not None
    assert figures.accuracy_deviation < 0.02  # 0 can be: the first seeds get equally many test images right
    assert all(0.9 < accuracy < 1 for accuracy in profile.sessions[0].devices[0].test_accuracies)
    assert [rates.precision for rates in figures.rates] == ["fp32", "bf16"]
    assert figures.thread_rates[0].threads == 1
    peak = figures.peak_flops_per_second
    assert peak is not None
    assert peak >= figures.rates[0].highest_flops_per_second
