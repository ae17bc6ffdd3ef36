"""Compare the training times of this project and of other software, on one machine, with the same data and recipe.

For each cell (layers, batch size), a fresh process of every peer loads MNIST and warms up. Then the peers take turns of
about `--turn-seconds`, in rounds of shuffled order; one computes while the others wait. A round gives each peer's time
per sample divided by that of engine fused. A group of fresh processes is one observation: the trimmed mean of its
rounds' log ratios. The tables show geometric means with 95 % intervals by Student's t over the groups, with variances
moderated over the cells as in a comparison (`bench.stats.moderation.moderate`).

    uv tool run nox -s peers
    python tests/peers/compare_peers.py --device cuda
    python tests/peers/compare_peers.py --show results/peers/MACHINE.json
"""

import argparse
import contextlib
import itertools
import json
import math
import os
import random
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

if __name__ == "__main__":  # the checkout need not be installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from peer import SAMPLES, Spec
from tabulate import tabulate

from bench.coding import to_json
from bench.commands.options import command_line
from bench.errors import BenchError
from bench.execution.conversation import describe_place, prepare_dataset
from bench.execution.launcher import make_launcher
from bench.planning.plan import choose_devices
from bench.records import Description
from bench.stats.inference import Estimate, interval, paired_estimate, trimmed_mean
from bench.stats.moderation import moderate
from bench.system.locks import device_locks
from bench.system.outputs import write_atomically
from mnist_mlp.data import default_root
from mnist_mlp.recipes import RECIPES

HERE: Final = Path(__file__).resolve().parent

REFERENCE: Final = "fused"
PEERS: Final = {
    "fused": ("peer_ours.py", "fused"),
    "eager": ("peer_ours.py", "eager"),
    "graph": ("peer_ours.py", "graph"),
    "jax": ("peer_jax.py",),
    "keras": ("peer_keras.py",),
    "sklearn": ("peer_sklearn.py",),
    "numpy": ("peer_numpy.py",),
    "tutorial": ("peer_tutorial.py",),
}
"""Name of a peer → its program and arguments."""

DEVICE_PEERS: Final = {
    "cpu": [name for name in PEERS if name != "graph"],
    "cuda": ["fused", "eager", "graph", "jax", "tutorial"],
}
"""Device → the peers that can train on it."""

DEVICE_VARIABLES: Final = {
    "cpu": {"CUDA_VISIBLE_DEVICES": "", "JAX_PLATFORMS": "cpu"},
    "cuda": {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
}
"""Device → environment variables that keep every peer to it: JAX and TensorFlow would use a GPU if there is one, and
JAX would reserve three quarters of its memory, which the peers share."""

RECIPE_PEERS: Final = {"fused", "eager", "graph", "tutorial"}
"""Peers that can train any recipe; the others only use Adam and cross-entropy."""

LEARNING_RATE: Final = 1e-3
PROBE_BATCHES: Final = 8
"""Batches trained before each turn, unmeasured, because caches and clocks are cold after a pause."""

PAUSE_SECONDS: Final = 0.1
"""Pause before each turn, because the previous peer's threads may go on spinning for about 20 ms (OpenBLAS)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What is trained: these layers with Adam and cross-entropy, as all peers can, or a recipe."""

    layers: list[int]
    batch_size: int
    recipe: str | None = None

    @property
    def name(self) -> str:
        """The name shown in tables."""
        return f"{self.recipe or '-'.join(map(str, self.layers))} batch {self.batch_size}"


class Peer:
    """A live peer process."""

    def __init__(self, name: str, spec: Spec) -> None:
        """Start the process."""
        self.name = name
        program, *arguments = PEERS[name]
        threads = str(spec.threads)
        limits = {"OMP_NUM_THREADS": threads, "TF_NUM_INTRAOP_THREADS": threads}
        environment = os.environ | limits | DEVICE_VARIABLES[spec.device]
        first = [threads] if name == "numpy" else arguments
        self._process = subprocess.Popen(  # noqa: S603 - our own programs
            [sys.executable, str(HERE / program), *first],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            env=environment,
        )
        self._send(json.dumps(asdict(spec)))

    def _send(self, line: str) -> None:
        if self._process.stdin is None:
            raise RuntimeError("the peer has no standard input")
        self._process.stdin.write(line + "\n")

    def _receive(self) -> dict[str, Any]:
        line = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not line:
            raise SystemExit(f"peer {self.name} ended; its last output is above")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait(self) -> str:
        """Wait until the peer is ready; return name and version of its software."""
        return str(self._receive()["software"])

    def prepare(self, batch_size: int, turn_seconds: float) -> None:
        """Choose the number of samples in a turn, about `turn_seconds` of work, and warm up with it."""
        self.probe = min(SAMPLES, PROBE_BATCHES * batch_size)
        self.train(self.probe)
        seconds, _ = self.train(self.probe)
        batches = max(1, math.ceil(turn_seconds / seconds * self.probe / batch_size))
        # Whole passes if more than one fits: for some peers a short last batch of another size means a compilation.
        self.samples = batches * batch_size
        if self.samples > SAMPLES:
            self.samples = round(self.samples / SAMPLES) * SAMPLES
        self.train(self.samples)

    def turn(self) -> tuple[float, float]:
        """Train; return the seconds per epoch at this rate, and the mean loss."""
        time.sleep(PAUSE_SECONDS)
        self.train(self.probe)
        seconds, loss = self.train(self.samples)
        return seconds * SAMPLES / self.samples, loss

    def train(self, samples: int) -> tuple[float, float]:
        """Train on so many samples; return the seconds that it took, and the mean loss."""
        self._send(str(samples))
        answer = self._receive()
        return answer["seconds"], answer["loss"]

    def close(self) -> None:
        """End the process."""
        with self._process:
            self._process.kill()


def main() -> None:
    """Measure, or show a stored comparison."""
    options = parse_options()
    printed = show_summary if options.summary else show
    if options.show is not None:
        printed(json.loads(options.show.read_text()))
        return
    place = prepare(options.device)
    options.threads = options.threads or place.default_threads
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    path = options.output or Path("results/peers") / f"{place.machine.id}{suffix}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys([REFERENCE, *options.peers]))
    result: dict[str, Any] = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(sys.argv[1:]),
        "machine": to_json(place.machine),
        "device": options.device,
        "threads": options.threads,
        "software": {},
        "cells": [],
    }
    with device_locks([options.device], uuids=place.uuids):
        for cell in make_cells(options):
            groups = [measure(cell, names, options, group, result["software"]) for group in range(options.groups)]
            result["cells"].append({**asdict(cell), "groups": groups})
            print(f"{cell.name}: {describe(groups)}", file=sys.stderr, flush=True)  # noqa: T201 - progress
            write_atomically(path, json.dumps(result) + "\n")
    printed(result)


def parse_options() -> argparse.Namespace:
    """Return the command line's options, with `peers` filled in; refuse peers that cannot take part."""
    parser = argparse.ArgumentParser(
        description="Compare the training time of other software with that of engine fused."
    )
    parser.add_argument("--device", choices=tuple(DEVICE_PEERS), default="cpu")
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), help="by default all that can train on the device")
    parser.add_argument("--widths", type=positive, nargs="+", default=[128, 256, 512, 1024])
    parser.add_argument("--depths", type=positive, nargs="+", default=[1, 2])
    parser.add_argument("--batch-sizes", type=positive, nargs="+", default=[16, 64, 256, 1024])
    parser.add_argument("--recipes", nargs="+", choices=tuple(RECIPES), help="instead of widths, depths, batch sizes")
    parser.add_argument("--groups", type=positive, default=3, help="groups of fresh processes per cell")
    parser.add_argument("--rounds", type=positive, default=5, help="turns of each peer in a group")
    parser.add_argument("--turn-seconds", type=float, default=0.5)
    parser.add_argument("--threads", type=positive, help="by default as many as torch takes by itself")
    parser.add_argument("--output", type=Path, help="by default results/peers/MACHINE.json, or MACHINE-cuda.json")
    parser.add_argument("--show", type=Path, help="print the table of a stored comparison, measure nothing")
    parser.add_argument("--summary", action="store_true", help="print a row for each software, not for each cell")
    options = parser.parse_args()
    able = DEVICE_PEERS[options.device]
    options.peers = options.peers or able
    if others := set(options.peers) - set(able):
        parser.error(f"{', '.join(sorted(others))} are not compared on {options.device}: give --peers {' '.join(able)}")
    if options.recipes is not None and (others := set(options.peers) - RECIPE_PEERS):
        usual = " ".join(name for name in able if name in RECIPE_PEERS)
        parser.error(f"{', '.join(sorted(others))} cannot train recipes: give --peers {usual}")
    return options


def positive(text: str) -> int:
    """Return the number that an option gives."""
    if (value := int(text)) < 1:
        raise ValueError
    return value


@contextlib.contextmanager
def refusals_as_text() -> Iterator[None]:
    """End the process as `bench` does where something is refused: with the reason on standard error, and its code."""
    try:
        yield
    except BenchError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from error


def prepare(device: str) -> Description:
    """Return the fingerprint of this machine, once it has the device and MNIST."""
    with contextlib.closing(make_launcher()) as launcher:
        place = describe_place(launcher)
        choose_devices((device,), place.devices)
        prepare_dataset(launcher, "mnist", None, timeout_seconds=3600)
    return place


def make_cells(options: argparse.Namespace) -> list[Cell]:
    """Return the cells to measure: the recipes, or every combination of width, depth and batch size."""
    if options.recipes is not None:
        recipes = [RECIPES[name] for name in options.recipes]
        return [Cell(layers=list(one.layers), batch_size=one.batch_size, recipe=one.name) for one in recipes]
    return [
        Cell(layers=[784, *[width] * depth, 10], batch_size=size)
        for width, depth, size in itertools.product(options.widths, options.depths, options.batch_sizes)
    ]


def measure(
    cell: Cell, names: Sequence[str], options: argparse.Namespace, group: int, software: dict[str, str]
) -> list[dict[str, list[float]]]:
    """Run one group of fresh processes; return each peer's seconds per epoch and mean loss in each round."""
    spec = Spec(
        layers=cell.layers,
        batch_size=cell.batch_size,
        learning_rate=LEARNING_RATE,
        seed=group,
        threads=options.threads,
        folder=str(default_root() / "MNIST" / "raw"),
        recipe=cell.recipe,
        device=options.device,
    )
    shuffler = random.Random(group)  # noqa: S311 - no secret
    with contextlib.ExitStack() as stack:
        peers = []
        for name in names:
            peer = Peer(name, spec)
            stack.callback(peer.close)
            peers.append(peer)
        software |= {peer.name: peer.wait() for peer in peers}
        for peer in peers:
            peer.prepare(cell.batch_size, options.turn_seconds)
        return [dict(play(shuffler.sample(peers, len(peers)))) for _ in range(options.rounds)]


def play(peers: Sequence[Peer]) -> Iterator[tuple[str, list[float]]]:
    """Let each peer take its turn; yield its name, its seconds per epoch and its mean loss."""
    for peer in peers:
        yield peer.name, list(peer.turn())


def log_ratios(groups: Sequence[Sequence[dict[str, list[float]]]], name: str) -> list[float]:
    """Return each group's log ratio of `name` to the reference: the trimmed mean over its rounds."""
    return [
        trimmed_mean([math.log(turn[name][0] / turn[REFERENCE][0]) for turn in group if name in turn])
        for group in groups
    ]


def ratio_text(estimate: Estimate) -> str:
    """Return a geometric mean and its 95 % interval."""
    bounds = interval(estimate)
    return f"{math.exp(estimate.value):.2f} ({math.exp(bounds.low):.2f}-{math.exp(bounds.high):.2f})"


def describe(groups: Sequence[Sequence[dict[str, list[float]]]]) -> str:
    """Return the ratios of a cell as one line."""
    names = [name for name in groups[0][0] if name != REFERENCE]
    return ", ".join(f"{name} {math.exp(sum(log_ratios(groups, name)) / len(groups)):.2f}" for name in sorted(names))


def ratios_by_peer(result: dict[str, Any]) -> dict[str, tuple[Estimate, ...]]:
    """Return each peer's estimated log ratio in each cell, with variances moderated over the cells."""
    names = [name for name in PEERS if name in result["software"] and name != REFERENCE]
    return {
        name: moderate([paired_estimate(log_ratios(entry["groups"], name)) for entry in result["cells"]])
        for name in names
    }


def mean_ratio(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean over cells, which are independent measurements."""
    cells = len(estimates)
    return replace(
        estimates[0],
        value=sum(each.value for each in estimates) / cells,
        variance=sum(each.variance for each in estimates) / cells,
        scale=estimates[0].scale / cells,
    )


def show(result: dict[str, Any]) -> None:
    """Print a table with one row per cell, and the geometric means over the cells."""
    ratios = ratios_by_peer(result)
    rows = []
    for place, entry in enumerate(result["cells"]):
        seconds = sorted(turn[REFERENCE][0] for group in entry["groups"] for turn in group)
        texts = [ratio_text(estimates[place]) for estimates in ratios.values()]
        rows.append([name_of(entry), epoch_text(seconds[len(seconds) // 2]), *texts])
    overall = [ratio_text(mean_ratio(estimates)) for estimates in ratios.values()]
    rows.append([f"geometric mean of {len(result['cells'])} cells", "", *overall])
    headers = ["cell", "fused, an epoch", *(f"{name} / fused" for name in ratios)]
    print(tabulate(rows, headers, "pipe", disable_numparse=True))  # noqa: T201 - the result
    print()  # noqa: T201 - the result
    print_notes(result)


def show_summary(result: dict[str, Any]) -> None:
    """Print one row per peer: the geometric mean over the cells, and its best and worst cell."""
    rows = []
    for name, estimates in ratios_by_peer(result).items():
        cells = sorted(zip(estimates, result["cells"], strict=True), key=lambda cell: cell[0].value)
        ends = [f"{ratio_text(estimate)} {name_of(entry)}" for estimate, entry in (cells[0], cells[-1])]
        rows.append([name, ratio_text(mean_ratio(estimates)), *ends])
    headers = ["", "geometric mean", "nearest cell", "farthest cell"]
    print(tabulate(rows, headers, "pipe", disable_numparse=True))  # noqa: T201 - the result
    print()  # noqa: T201 - the result
    print_notes(result)


def print_notes(result: dict[str, Any]) -> None:
    """Print what was compared, on which machine, with which command and software."""
    groups = " or ".join(map(str, sorted({len(entry["groups"]) for entry in result["cells"]})))
    where = f"{device_of(result)}, {result['threads']} threads"
    command = shlex.join(["python", "tests/peers/compare_peers.py", *result["command"]])
    print(f"- {len(result['cells'])} cells, {groups} groups of fresh processes each; {where}")  # noqa: T201 - the result
    print(f"- `{command}`")  # noqa: T201 - the result
    for name, software in result["software"].items():
        print(f"- {name}: {software}")  # noqa: T201 - the result


def epoch_text(seconds: float) -> str:
    """Return an epoch's time as text, in milliseconds if it is short."""
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{1000 * seconds:.1f} ms"


def device_of(result: dict[str, Any]) -> str:
    """Return the name of the processor of a stored comparison; one without a device is of the CPU."""
    kind, machine = result.get("device", "cpu"), result["machine"]
    if kind == "cpu":
        return str(machine["cpu_model"])
    return str(next(each["name"] for each in machine["accelerators"] if each["device"].startswith(kind)))


def name_of(entry: dict[str, Any]) -> str:
    """Return a stored cell's name."""
    return Cell(**{key: entry[key] for key in ("layers", "batch_size", "recipe")}).name


if __name__ == "__main__":
    with refusals_as_text():
        main()
