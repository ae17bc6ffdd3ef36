"""Commands on a fake CUDA runtime (`fake_cuda.c`): torch's own CUDA code and allocator, without a GPU.

What is tested is how CUDA is used, in the order and in the processes that a GPU would see. No number means anything.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import CompletedProcess

import fake_cuda
import pytest
import torch
from sandbox import Sandbox

from bench.errors import ExitCode
from bench.records import Failure, FailureKind, Measurement, Run
from bench.storage.store import read_run
from bench.system.locks import device_locks
from mnist_mlp import Trainer, load_model

pytestmark = pytest.mark.slow

SITE = Path(__file__).with_name("worker_site")
UUID = "11111111-1111-1111-1111-111111111111"
MISUSES = {
    "forked": "CUDA was used in a process forked from one that had used it",
    "unsafe": "a call that CUDA forbids while a stream is captured",
    "beside": "work was launched on another stream than the captured one",
    "unknown": "torch asked for a function that the fake lacks: add it to fake_cuda.c, or to HARMLESS in fake_cuda.py",
}
GRID = ("--models", "784-16-10", "--batch-sizes", "256", "--dataset", "digits", "--threads", "1", "--epochs", "2")
GRAPH_LAUNCHES = 2
"""Launches of an epoch on this grid: one graph of its five full batches, one of its short batch."""


@dataclass
class FakeMachine:
    """A machine with the fake device: runs commands and keeps the fake's log of the last one."""

    library: Path
    sandbox: Sandbox
    events: list[tuple[int, str, str]] = field(default_factory=list)
    """Process, event, detail."""

    def command(self, *arguments: str, **environment: str) -> CompletedProcess[str]:
        log = self.sandbox.folder / "cuda.log"
        log.unlink(missing_ok=True)
        variables = self.variables() | {"FAKE_CUDA_LOG": str(log)}
        done = self.sandbox.run(*arguments, **variables, **environment)
        self.events = [parsed(line) for line in log.read_text().splitlines()] if log.exists() else []
        return done

    def variables(self) -> dict[str, str]:
        """Return the environment variables that make a process of the sandbox use the fake device."""
        folders = [str(SITE), self.sandbox.environment()["PYTHONPATH"]]
        return {
            "LD_PRELOAD": str(self.library),
            "PYTHONPATH": os.pathsep.join(folders),
            "CUDA_VISIBLE_DEVICES": "0",
        }

    def run(self, *arguments: str, **environment: str) -> Run:
        """Carry out a plan; return what was stored, once it is sure that CUDA was used properly."""
        done = self.command("run", *arguments, **environment)
        assert self.misuses() == ""
        stored = self.sandbox.stored()
        assert stored, done.stderr
        return read_run(stored[-1])

    def misuses(self) -> str:
        """Return what was wrong with the last command's use of CUDA."""
        return "; ".join(
            sorted({f"{MISUSES[event]} ({detail})" for _, event, detail in self.events if event in MISUSES})
        )

    def details(self, event: str) -> dict[int, list[str]]:
        """Return the details of each process's events of this name."""
        found: dict[int, list[str]] = {}
        for process, name, detail in self.events:
            if name == event:
                found.setdefault(process, []).append(detail)
        return found


def parsed(line: str) -> tuple[int, str, str]:
    process, event, detail = line.split(" ", 2)
    return int(process), event, detail


def failures(run: Run) -> list[str]:
    outcomes = [record.outcome for record in run.records]
    return [outcome.message for outcome in outcomes if isinstance(outcome, Failure)]


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.platform != "linux":
        pytest.skip("the fake CUDA runtime is preloaded as Linux does")
    if not (torch.version.cuda or "").startswith("13."):
        pytest.skip(f"the fake is of CUDA 13, this torch is for {torch.version.cuda or 'no CUDA'}")
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    if missing := [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]:
        pytest.skip(f"{' and '.join(missing)} not found, which builds the fake CUDA runtime")
    return fake_cuda.build(tmp_path_factory.mktemp("cuda"), Path(torch.__file__).parent)


@pytest.fixture
def machine(library: Path, tmp_path: Path) -> FakeMachine:
    return FakeMachine(library, Sandbox(tmp_path, real=True))


def test_every_engine_and_precision_trains_among_trials_on_the_cpu(machine: FakeMachine) -> None:
    engines = ("--engines", "eager,fused,graph", "--precisions", "fp32,tf32,bf16", "--skip-unsupported")
    run = machine.run(*GRID, "--devices", "cuda,cpu", *engines, "--repeats", "1")
    assert failures(run) == []
    trained = [record.trial.configuration for record in run.records]
    assert Counter((each.device, each.engine) for each in trained) == {
        ("cpu", "eager"): 2,
        ("cpu", "fused"): 1,
        ("cuda:0", "eager"): 3,
        ("cuda:0", "fused"): 2,
        ("cuda:0", "graph"): 2,
    }
    # Each trial of engine graph, and no other, captures its graphs once, with work in them, and only replays from then
    # on: each once when it is captured, and those of an epoch in each of its epochs.
    captures, replays = machine.details("capture"), machine.details("replay")
    assert len(captures) == 2
    assert captures.keys() == replays.keys()
    for process, nodes in captures.items():
        assert "0" not in nodes
        assert len(nodes) <= GRAPH_LAUNCHES + 1  # and the warm-up's single step
        assert len(replays[process]) >= len(nodes) + 2 * GRAPH_LAUNCHES


def test_exhausted_memory_is_that_failure_also_in_a_capture_and_the_plan_goes_on(machine: FakeMachine) -> None:
    models = ("--models", "784-16-10,784-4096-4096-10", "--engines", "eager,graph", "--repeats", "2")
    full = {"FAKE_CUDA_BYTES": str(2**27), "FAKE_CUDA_CAPTURE_FULL": "1"}
    run = machine.run(*GRID, *models, "--devices", "cuda", **full)
    assert len(run.records) == 8
    for record in run.records:
        configuration, outcome = record.trial.configuration, record.outcome
        if configuration.model == "784-16-10" and configuration.engine == "eager":
            assert isinstance(outcome, Measurement)
        else:
            assert isinstance(outcome, Failure)
            assert outcome.kind is FailureKind.OUT_OF_MEMORY, outcome.message
            assert "CUDA out of memory" in outcome.message
    places = [details[0] for details in machine.details("exhausted").values()]
    assert Counter(places) == {"": 4, "in a capture": 2}


CROSSING = """
import torch
from mnist_mlp import Trainer, load_model
for engine in ("eager", "fused", "graph"):
    trainer = Trainer("784-16-10", dataset="digits", seed=5, device="cuda", engine=engine)
    trainer.save(f"{engine}.pth")
    torch.save(trainer.model.network.state_dict(), f"{engine}.bare")  # keeps the tensors on their device
network = load_model("trained.pth", device="cuda").network
assert all(parameter.is_cuda for parameter in network.parameters())
torch.save({name: value.cpu() for name, value in network.state_dict().items()}, "back.bare")
"""


def test_models_cross_between_machines_with_and_without_cuda(machine: FakeMachine) -> None:
    trainer = Trainer("784-16-10", dataset="digits", seed=5, device="cpu")
    initial = {name: value.clone() for name, value in trainer.model.network.state_dict().items()}
    trainer.fit(1)
    work = machine.sandbox.work
    trainer.save(work / "trained.pth")
    variables = machine.sandbox.environment() | machine.variables() | {"FAKE_CUDA_COPIES": "1"}
    words = [sys.executable, "-c", CROSSING]
    done = subprocess.run(words, cwd=work, env=variables, capture_output=True, text=True, check=False)  # noqa: S603 - our own words
    assert done.returncode == 0, done.stderr
    for engine in ("eager", "fused", "graph"):
        assert b"cuda:0" in (work / f"{engine}.bare").read_bytes()
        same(load_model(work / f"{engine}.pth").network.state_dict(), initial)
    same(torch.load(work / "back.bare", weights_only=True), trainer.model.network.state_dict())


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.device.type == "cpu"
        assert torch.equal(value, right[name])


def test_a_device_in_use_is_recognised_by_its_uuid(machine: FakeMachine) -> None:
    locks = machine.sandbox.temporary / f"mnist-mlp-bench-{os.getuid()}"
    with device_locks(["cuda:1"], locks, uuids={"cuda:1": UUID}):  # of a run to which the device has another number
        done = machine.command("run", *GRID, "--devices", "cuda")
    assert done.returncode == 2, done.stderr
    assert f"device cuda is in use by process {os.getpid()}" in done.stderr
    assert machine.sandbox.stored() == []


def test_the_self_test_finds_with_every_engine_that_nothing_is_computed(machine: FakeMachine) -> None:
    done = machine.command("selftest", "--devices", "cuda", "--dataset", "digits")
    assert machine.misuses() == ""
    assert done.returncode == ExitCode.FAILED_TRIAL, done.stderr
    told = " ".join((done.stdout + done.stderr).split())
    assert "FAIL cuda:0, float32 is float32: " in told
    assert "FAIL cuda:0, scores of a known model: " in told
    engines = r"eager \S+, fused \S+, graph \S+"
    assert re.search(rf"FAIL cuda:0, losses against float64: largest relative difference: {engines}\. Rule", told), told
