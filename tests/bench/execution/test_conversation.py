import itertools
from pathlib import Path
from typing import Any

import pytest
from bench_builders import (
    make_conditions,
    make_configuration,
    make_contention,
    make_energy,
    make_epoch,
    make_exchange,
    make_measurement,
)
from fake_worker import FakeLauncher, FakeProcess, Request, die, fail_trial

from bench.coding import to_json
from bench.errors import BadInputError, WorkerError
from bench.execution.conversation import (
    TrialFailedError,
    Worker,
    describe_place,
    measure_peak,
    measure_rates,
    prepare_dataset,
    probe_trial,
    run_trial,
)
from bench.protocol.channel import ChannelClosedError, ChannelTimeoutError, ProtocolError
from bench.protocol.messages import Evaluated, Finished, Prepared, Trained
from bench.records import (
    EpochRecord,
    Failure,
    FailureKind,
    Measurement,
    Peak,
    RankRecord,
    Trial,
    TrialRecord,
    TrialWarning,
)

TRIAL = Trial(configuration=make_configuration(epochs=3), seed=7, repeat=2)


def run(launcher: FakeLauncher, trial: Trial = TRIAL) -> TrialRecord:
    return run_trial(launcher, trial, root=None, timeout_seconds=60)


def failure_of(record: TrialRecord) -> Failure:
    assert isinstance(record.outcome, Failure)
    return record.outcome


def test_trial_asks_for_its_epochs_back_to_back_and_evaluates_after_each(fake_launcher: FakeLauncher) -> None:
    seen: list[EpochRecord] = []
    record = run_trial(fake_launcher, TRIAL, root=None, timeout_seconds=60, on_epoch=seen.append)
    asked = [request["do"] for request in fake_launcher.requests]
    assert asked == ["prepare", *["train", "evaluate"] * 3, "finish"]
    assert [request["epoch"] for request in fake_launcher.requests if request["do"] == "train"] == [0, 1, 2]
    assert isinstance(record.outcome, Measurement)
    assert list(record.outcome.epochs) == seen
    assert record.trial == TRIAL


def test_a_trial_has_a_process_for_each_rank_and_a_wall_time_from_start_to_end(
    fake_launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = itertools.count(100.0, 3.5)
    monkeypatch.setattr("bench.execution.conversation.time.perf_counter", lambda: next(ticks))
    record = run(fake_launcher, Trial(configuration=make_configuration(world_size=4), seed=7, repeat=2))
    assert fake_launcher.ranks == [4]
    assert record.wall_seconds == 3.5


def test_every_answer_reaches_the_record_in_its_own_place(fake_launcher: FakeLauncher) -> None:
    peaks = [Peak(bytes=size, method=f"method {size}") for size in range(1, 7)]
    rank = RankRecord(
        host=0,
        machine="m0123456789a",
        device="cuda:0",
        train_seconds=(2.25, 2.0, 2.125),
        host_peak=peaks[3],
        device_allocated_peak=peaks[4],
        device_reserved_peak=peaks[5],
    )
    expected = make_measurement(  # no two values are equal
        epochs=tuple(
            make_epoch(
                train_seconds=2.0 + number,
                train_samples=60_000 + number,
                train_loss=0.1 + number,
                train_correct=57_000 + number,
                test_samples=10_000 + number,
                test_loss=0.2 + number,
                test_correct=9_000 + number,
                evaluation_seconds=0.3 + number,
                yardstick_seconds=0.4 + number,
                contention=make_contention(involuntary_switches=20 + number),
                device_conditions=make_conditions(other_processes=30 + number),
            )
            for number in range(3)
        ),
        host_peak=peaks[0],
        device_allocated_peak=peaks[1],
        device_reserved_peak=peaks[2],
        energy=make_energy(),
        energy_reason="for a reason",
        ranks=(rank,),
        exchange=make_exchange(),
        on_battery=True,
    )

    kinds: dict[str, type[Any]] = {"prepare": Prepared, "train": Trained, "evaluate": Evaluated, "finish": Finished}

    def answer(request: Request) -> dict[str, Any]:
        kind = kinds[request["do"]]
        trained = sum(each["do"] == "train" for each in fake_launcher.requests)
        source = expected.epochs[trained - 1] if kind in {Trained, Evaluated} else expected
        unrecorded = {"train_samples": 50_000, "step_seconds": 0.001} if kind is Prepared else {}
        recorded = {name: getattr(source, name) for name in kind.__dataclass_fields__ if name not in unrecorded}
        return {"answer": to_json(kind(**recorded, **unrecorded))}

    fake_launcher.on = answer
    seen: list[EpochRecord] = []
    record = run_trial(fake_launcher, TRIAL, root=None, timeout_seconds=60, on_epoch=seen.append)
    assert record.outcome == expected
    assert seen == list(expected.epochs)
    assert record.warnings == (TrialWarning.DEVICE_SHARED, TrialWarning.ON_BATTERY)


def test_every_trial_gets_a_process_of_its_own_and_ends_it(fake_launcher: FakeLauncher) -> None:
    run(fake_launcher)
    run(fake_launcher)
    assert fake_launcher.started == 2
    assert fake_launcher.killed >= 2


@pytest.mark.parametrize("moment", ["prepare", "train", "evaluate", "finish"])
def test_process_that_dies_at_any_moment_is_a_crash(fake_launcher: FakeLauncher, moment: str) -> None:
    fake_launcher.on = lambda request: die() if request["do"] == moment else None
    failure = failure_of(run(fake_launcher))
    assert failure.kind is FailureKind.CRASH
    assert "SIGKILL" in failure.message


def test_silence_beyond_the_time_limit_is_a_timeout_that_says_how_to_allow_more(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda request: {"raise": ChannelTimeoutError()} if request["do"] == "train" else None
    failure = failure_of(run(fake_launcher))
    assert failure.kind is FailureKind.TIMEOUT
    assert "60 s" in failure.message
    assert "--timeout" in failure.message


def test_the_time_limit_is_for_the_whole_trial_and_not_for_each_answer(fake_launcher: FakeLauncher) -> None:
    now = iter(range(0, 1000, 10))
    worker = Worker(FakeProcess(fake_launcher), timeout_seconds=60, clock=lambda: float(next(now)))
    for _ in range(8):
        worker.ask(Finished, {"do": "finish"})
    assert fake_launcher.timeouts == [50, 40, 30, 20, 10, 0, 0, 0]


@pytest.mark.parametrize(
    "answer",
    [
        {"raise": ProtocolError("not valid JSON")},
        {"answer": {"train_seconds": "fast"}},
        {"answer": None},
        {"something": "else"},
        {"failure": {"kind": "bad luck", "message": "none"}},
        {"failure": "none"},
        {"bad_input": 3},
    ],
)
def test_answer_out_of_protocol_is_a_crash_and_the_process_is_ended(
    fake_launcher: FakeLauncher, answer: dict[str, object]
) -> None:
    fake_launcher.on = lambda request: answer if request["do"] == "train" else None
    failure = failure_of(run(fake_launcher))
    assert failure.kind is FailureKind.CRASH
    assert "protocol" in failure.message
    assert fake_launcher.killed >= 1


@pytest.mark.parametrize("error", [ChannelTimeoutError(), ChannelClosedError(), ProtocolError("not valid JSON")])
def test_a_process_that_cannot_be_asked_again_is_killed_at_once(fake_launcher: FakeLauncher, error: Exception) -> None:
    fake_launcher.on = lambda _request: {"raise": error}
    with pytest.raises(TrialFailedError):
        Worker(FakeProcess(fake_launcher), timeout_seconds=60).ask(Finished, {"do": "finish"})
    assert fake_launcher.killed == 1


def test_failure_that_the_worker_reports_is_recorded_as_it_is(fake_launcher: FakeLauncher) -> None:
    def respond(request: Request) -> dict[str, object] | None:
        return fail_trial(FailureKind.OUT_OF_MEMORY, "no room") if request["do"] == "train" else None

    fake_launcher.on = respond
    assert failure_of(run(fake_launcher)) == Failure(kind=FailureKind.OUT_OF_MEMORY, message="no room")


def test_request_that_the_workload_refuses_is_an_unsupported_trial(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda request: {"bad_input": "no such thing"} if request["do"] == "prepare" else None
    assert failure_of(run(fake_launcher)) == Failure(kind=FailureKind.UNSUPPORTED, message="no such thing")


def test_refused_dataset_is_the_users_bad_input(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda _request: {"bad_input": "no source has it"}
    with pytest.raises(BadInputError, match="no source has it"):
        prepare_dataset(fake_launcher, "mnist", None, timeout_seconds=60)


def test_worker_that_dies_outside_a_trial_is_a_worker_error(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda _request: die()
    with pytest.raises(WorkerError, match="SIGKILL"):
        describe_place(fake_launcher)


def test_silence_outside_a_trial_does_not_advise_to_allow_trials_more(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda _: {"raise": ChannelTimeoutError()}
    with pytest.raises(WorkerError, match=r"did not answer 'describe' within 300 s$"):
        describe_place(fake_launcher)


@pytest.mark.parametrize(("timeout_seconds", "limit"), [(3600.0, 3600), (1.0, 300)])
def test_a_dataset_may_take_as_long_as_a_trial_and_no_short_limit_of_trials_ends_its_download(
    fake_launcher: FakeLauncher, timeout_seconds: float, limit: int
) -> None:
    fake_launcher.on = lambda _: {"raise": ChannelTimeoutError()}
    with pytest.raises(
        WorkerError, match=f"did not answer 'dataset' within {limit} s: allow more time with --timeout$"
    ):
        prepare_dataset(fake_launcher, "mnist", None, timeout_seconds=timeout_seconds)
    (waited,) = fake_launcher.timeouts
    assert waited == pytest.approx(limit, abs=30)


@pytest.mark.parametrize("whole", [False, True])
def test_the_peak_and_the_rates_of_a_device_are_asked_for_with_its_threads(
    fake_launcher: FakeLauncher,
    whole: bool,  # noqa: FBT001 - cases
) -> None:
    configuration = make_configuration(device="cuda:0", threads=3)
    assert measure_peak(fake_launcher, configuration, 60) == 1.5e11
    fake_launcher.on = lambda _request: fail_trial(FailureKind.OUT_OF_MEMORY, "no room")
    with pytest.raises(TrialFailedError, match="no room"):
        measure_rates(fake_launcher, "cuda:0", precision="bf16", threads=3, whole=whole, timeout_seconds=60)
    assert fake_launcher.requests == [
        {"do": "peak", "device": "cuda:0", "threads": 3},
        {"do": "rates", "device": "cuda:0", "precision": "bf16", "threads": 3, "whole": whole},
    ]


def test_probe_prepares_and_goes_no_further(fake_launcher: FakeLauncher) -> None:
    assert probe_trial(fake_launcher, TRIAL, root=None, timeout_seconds=60).step_seconds == 0.001
    assert [(request["do"], request["last"]) for request in fake_launcher.requests] == [("prepare", True)]


def test_probe_of_an_impossible_trial_says_so(fake_launcher: FakeLauncher) -> None:
    fake_launcher.on = lambda _request: fail_trial(FailureKind.OUT_OF_MEMORY, "no room")
    with pytest.raises(TrialFailedError, match="no room"):
        probe_trial(fake_launcher, TRIAL, root=None, timeout_seconds=60)


@pytest.mark.parametrize("member", ["bad_input", "failure"])
def test_a_stored_failure_names_no_folder_of_this_machine(
    fake_launcher: FakeLauncher, tmp_path: Path, member: str
) -> None:
    message = f"data root {str(tmp_path)!r} is damaged"
    answer = {"bad_input": message} if member == "bad_input" else fail_trial(FailureKind.CRASH, message)
    fake_launcher.on = lambda request: answer if request["do"] == "prepare" else None
    record = run_trial(fake_launcher, TRIAL, root=tmp_path, timeout_seconds=60)
    assert failure_of(record).message == "data root '<data root>' is damaged"
