"""A worker that answers from a script: what goes on around trials is tested without torch, processes or a clock."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bench_builders import make_header, make_measurement

from bench.coding import from_json, to_json
from bench.errors import WorkerError
from bench.protocol.channel import ChannelClosedError
from bench.protocol.messages import DatasetReady, Evaluated, Finished, Peaked, Prepared, Stretched, Trained
from bench.records import Description, DeviceStatus, Failure, FailureKind, Trial

Request = Mapping[str, Any]
CPU = DeviceStatus(device="cpu", available=True, description="host processor", reason="")
NO_CUDA = DeviceStatus(device="cuda", available=False, description="", reason="no driver")
TRAIN_SAMPLES = 60_000


def description() -> Description:
    header = make_header()
    # As on two physical cores: header.machine has four logical ones.
    return Description(machine=header.machine, software=header.software, devices=(CPU, NO_CUDA), default_threads=2)


class FakeChannel:
    """Answers each request at once; `fail_on` names requests that are answered otherwise."""

    def __init__(self, launcher: "FakeLauncher") -> None:
        self._launcher = launcher
        self._answers: list[dict[str, Any]] = []

    def send(self, request: Request) -> None:
        self._launcher.requests.append(request)
        self._answers.append(self._launcher.respond(request))

    def receive(self, timeout_seconds: float | None = None) -> dict[str, Any]:
        self._launcher.timeouts.append(timeout_seconds)
        answer = self._answers.pop(0)
        if "raise" in answer:
            raise answer["raise"]
        return answer

    def close(self) -> None:
        pass


class FakeProcess:
    def __init__(self, launcher: "FakeLauncher") -> None:
        self.channel: Any = FakeChannel(launcher)
        self._launcher = launcher

    def kill(self) -> None:
        self._launcher.killed += 1

    def wait(self) -> str:
        return "by signal SIGKILL"

    def last_output(self) -> str:
        return ""


class FakeLauncher:
    """Counts what was started; `on` answers a request itself, by returning something other than None."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.timeouts: list[float | None] = []
        self.started = 0
        self.ranks: list[int] = []
        self.killed = 0
        self.on: Callable[[Request], dict[str, Any] | None] = lambda _request: None
        self.place = description()
        self.dataset = DatasetReady(sha256=make_measurement().dataset_sha256, train_samples=TRAIN_SAMPLES)
        self.broken = False
        self.batch_seconds: Iterator[float] = itertools.repeat(0.001)
        self.batch_size = 64
        self.train_samples = TRAIN_SAMPLES
        self.first_loss = 2.3
        self.stretches: list[tuple[int, int, int]] = []

    def start(self, ranks: int = 1) -> FakeProcess:
        self.ranks.append(ranks)
        if self.broken:
            raise WorkerError("no process could be started")
        self.started += 1
        return FakeProcess(self)

    def close(self) -> None:
        pass

    def respond(self, request: Request) -> dict[str, Any]:
        special = self.on(request)
        return special if special is not None else {"answer": to_json(self._answer(request))}

    def _answer(self, request: Request) -> object:  # noqa: PLR0911 - one answer a request
        measurement = make_measurement()
        epoch = measurement.epochs[0]
        match request["do"]:
            case "describe":
                return self.place
            case "dataset":
                return self.dataset
            case "prepare":
                from_json(Trial, request["trial"])
                return Prepared(
                    train_samples=self.train_samples,
                    step_seconds=0.001,
                    **{
                        name: getattr(measurement, name)
                        for name in (
                            "settings",
                            "dataset_sha256",
                            "parameters",
                            "forward_flops_per_sample",
                            "training_flops_per_sample",
                            "preparation_seconds",
                            "cold_start_seconds",
                            "warm_up_seconds",
                            "host_baseline_bytes",
                        )
                    },
                )
            case "train":
                return Trained(
                    **{name: getattr(epoch, name) for name in Trained.__dataclass_fields__},
                )
            case "stretch":
                return self._stretch(request)
            case "evaluate":
                return Evaluated(**{name: getattr(epoch, name) for name in Evaluated.__dataclass_fields__})
            case "peak":
                return Peaked(flops_per_second=1.5e11)
            case "finish":
                return Finished(
                    host_peak=measurement.host_peak,
                    device_allocated_peak=None,
                    device_reserved_peak=None,
                    energy=measurement.energy,
                    energy_reason=measurement.energy_reason,
                )
            case other:
                raise AssertionError(other)

    def _stretch(self, request: Request) -> Stretched:
        self.stretches.append((request["epoch"], request["begin"], request["end"]))
        batches = request["end"] - request["begin"]
        return Stretched(
            train_seconds=next(self.batch_seconds) * batches,
            train_samples=batches * self.batch_size,
            train_loss=self.first_loss if (request["epoch"], request["begin"]) == (0, 0) else 1.0,
        )


def fail_trial(kind: FailureKind, message: str) -> dict[str, Any]:
    return {"failure": to_json(Failure(kind=kind, message=message))}


def die() -> dict[str, Any]:
    return {"raise": ChannelClosedError()}
