"""Peers train the same thing, and a stored comparison is shown as it is."""

import importlib.util
import json
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import compare_peers
import pytest
import speedrun_ratio
from peer import SAMPLES, Spec, initial_weights, train_on

from bench.system.locks import HeldError
from mnist_mlp.data import default_root

HERE = Path(__file__).resolve().parent

PROGRAMS = {
    "fused": ("peer_ours.py", ["fused"], "torch"),
    "tutorial": ("peer_tutorial.py", [], "torch"),
    "numpy": ("peer_numpy.py", ["1"], "numpy"),
    "sklearn": ("peer_sklearn.py", [], "sklearn"),
    "jax": ("peer_jax.py", [], "optax"),
    "keras": ("peer_keras.py", [], "keras"),
}
"""Name of a peer → its program, arguments, and the module without which it cannot run."""


def spec(**members: object) -> Spec:
    folder = str(default_root() / "MNIST" / "raw")
    usual = {"layers": [784, 32, 10], "batch_size": 50, "learning_rate": 1e-3, "seed": 0, "threads": 1}
    return Spec(**(usual | {"folder": folder} | members))  # type: ignore[arg-type]  # members by name, of several types


def losses(name: str, spec: Spec, samples: int, count: int) -> list[float]:
    """Return the mean losses of `count` stretches of training by a peer."""
    program, arguments, module = PROGRAMS[name]
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed; nox -s peers has it")
    lines = [json.dumps(asdict(spec)), *[str(samples)] * count]
    command = [sys.executable, str(HERE / program), *arguments]
    done = subprocess.run(  # noqa: S603 - our own programs
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    ready, *answers = map(json.loads, done.stdout.splitlines())
    assert "software" in ready
    assert all(answer["seconds"] > 0 for answer in answers)
    return [answer["loss"] for answer in answers]


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_peer_learns_as_fast_as_the_others(name: str) -> None:
    first, *_, last = losses(name, spec(), 5000, 4)
    # 100 steps from the same distribution of weights with the same optimizer: 0.97 to 1.02 for any seed and any peer
    # is not needed to tell a wrong one; a missing bias correction or a wrong learning rate moves these far more.
    assert 0.75 < first < 1.1
    assert 0.25 < last < 0.45


@pytest.mark.mnist
@pytest.mark.slow
def test_peers_that_train_recipes_train_the_one_that_is_named() -> None:
    named = spec(recipe="mlp_100_100", layers=[784, 100, 100, 10], batch_size=16)
    for name in ("fused", "tutorial"):
        (loss,) = losses(name, named, 1600, 1)
        assert loss == pytest.approx(2.30, abs=0.02)  # SGD at 0.001 has hardly begun; Adam would be near 1.1


def test_initial_weights_are_drawn_as_torch_draws_them() -> None:
    (weights, biases), _ = initial_weights(spec())
    assert weights.shape == (784, 32)
    bound = 784**-0.5
    assert bound * 0.99 < abs(weights).max() <= bound
    assert abs(biases).max() <= bound


@pytest.mark.parametrize(
    ("samples", "expected"), [(200, [200]), (SAMPLES, [SAMPLES]), (2 * SAMPLES + 5, [SAMPLES, SAMPLES, 5])]
)
def test_more_samples_than_there_are_become_passes(samples: int, expected: list[int]) -> None:
    asked: list[int] = []

    def train(count: int) -> float:
        asked.append(count)
        return float(len(asked))

    assert train_on(train, samples) == len(expected)
    assert asked == expected


def stored(tmp_path: Path, ratios: list[list[float]], **members: object) -> Path:
    cells = [
        {
            "layers": [784, width, 10],
            "batch_size": 64,
            "recipe": None,
            "groups": [[{"fused": [1.0, 0.5], "jax": [ratio, 0.5]}] * 3 for ratio in groups],
        }
        for width, groups in zip((128, 256, 512), ratios, strict=True)
    ]
    result = {
        "command": ["--groups", "2"],
        "machine": {"cpu_model": "a processor"},
        "threads": 2,
        "software": {"fused": "engine fused", "jax": "jax 1"},
        "cells": cells,
        **members,
    }
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(result))
    return path


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """`compare_peers.py` in this process; as a program the README's table is made by it."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["compare_peers.py", *map(str, arguments)])
        compare_peers.main()
        return capsys.readouterr().out

    return run


def test_ratios_are_geometric_means_over_groups_and_cells(tmp_path: Path, command: Callable[..., str]) -> None:
    path = stored(tmp_path, [[2.0, 2.0 * 1.21], [1.0, 1.0], [4.0, 4.0]])
    table = command("--show", path)
    row = next(line for line in table.splitlines() if "784-128-10 batch 64" in line)
    assert f" {2.0 * 1.1:.2f} (" in row
    overall = (2.0 * 1.1 * 1.0 * 4.0) ** (1 / 3)
    assert f" {overall:.2f} (" in next(line for line in table.splitlines() if "geometric mean of 3 cells" in line)
    summary = next(line for line in command("--show", path, "--summary").splitlines() if line.startswith("| jax"))
    assert summary.index(" 1.00 (") < summary.index("784-256-10 batch 64") < summary.index("784-512-10 batch 64")
    assert math.isclose(overall, 2.06, rel_tol=0.01)


def test_an_epoch_of_milliseconds_on_a_gpu_is_shown_with_both(tmp_path: Path, command: Callable[..., str]) -> None:
    machine = {"cpu_model": "a processor", "accelerators": [{"device": "cuda:0", "name": "Fictional GPU F1"}]}
    path = stored(tmp_path, [[2.0, 2.0]] * 3, device="cuda", machine=machine)
    path.write_text(path.read_text().replace('"fused": [1.0', '"fused": [0.0123'))
    table = command("--show", path)
    assert "| 12.3 ms" in table
    assert "Fictional GPU F1, 2 threads" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--device cuda --peers jax keras", "keras are not compared on cuda: give --peers fused eager graph jax"),
        ("--peers graph", "graph are not compared on cpu"),
        ("--groups 0", "argument --groups: invalid positive value: '0'"),
        ("--device cuda --recipes mlp_128", "jax cannot train recipes: give --peers fused eager graph tutorial"),
    ],
)
def test_peers_that_cannot_take_part_are_refused_before_anything_starts(
    arguments: str,
    message: str,
    command: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(compare_peers, "make_launcher", pytest.fail)
    with pytest.raises(SystemExit) as ended:
        command(*arguments.split())
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_device_in_use_is_a_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended, compare_peers.refusals_as_text():
        raise HeldError("device cpu is in use by process 7")
    assert ended.value.code == 2
    assert capsys.readouterr().err == "device cpu is in use by process 7\n"


@pytest.mark.parametrize(
    ("device", "expected"),
    [("cpu", {"platforms": "cpu", "visible": ""}), ("cuda", {"platforms": "cuda", "visible": "3"})],
)
def test_every_peer_keeps_to_its_device(
    device: str, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "peer_echo.py"
    program.write_text(
        "import json, os, sys\n"
        "seen = {'platforms': os.environ['JAX_PLATFORMS'], 'visible': os.environ['CUDA_VISIBLE_DEVICES']}\n"
        "print(json.dumps({'software': json.dumps([seen, json.loads(sys.stdin.readline())['device']])}), flush=True)\n"
    )
    monkeypatch.setitem(compare_peers.PEERS, "fused", (str(program),))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    peer = compare_peers.Peer("fused", spec(device=device))
    try:
        assert json.loads(peer.wait()) == [expected, device]
    finally:
        peer.close()


@pytest.mark.mnist
@pytest.mark.slow
def test_a_tutorials_training_takes_several_times_as_long_as_the_speedrun(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(speedrun_ratio, "SAMPLES", SAMPLES // 10)  # a tenth of every epoch
    monkeypatch.setattr(sys, "argv", ["speedrun_ratio.py", "--pairs", "1", "--recipe", "mlp_128", "--threads", "1"])
    speedrun_ratio.main()
    told = capsys.readouterr()
    assert "mlp_128, 10 epochs by its tutorial's loop: " in told.out
    assert float(told.out.split("ratio ")[1].split()[0]) > 3
    assert len(told.err.splitlines()) == 1
