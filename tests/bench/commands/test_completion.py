"""What a shell completes, asked of click as a shell asks it."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from bench_builders import make_run
from checkout import ROOT
from click.shell_completion import ShellComplete
from stored_runs import store

from bench.cli import cli
from bench.execution.processes import worker_environment

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture
def two_runs(tmp_path: Path) -> None:
    store(make_run(run_id="aaaa1111", created_at="2026-11-21T03:00:00Z"), tmp_path / "results" / "old.jsonl")
    store(make_run(run_id="abbb2222", created_at="2026-11-22T03:00:00Z"), tmp_path / "results" / "new.jsonl")
    store(make_run(run_id="accc3333"), tmp_path / "elsewhere" / "run.jsonl")
    (tmp_path / "results" / "odd.jsonl").write_text("no run")


def completed(words: Sequence[str], incomplete: str) -> list[str]:
    items = ShellComplete(cli, {}, "bench", "_BENCH_COMPLETE").get_completions(list(words), incomplete)
    return [item.value for item in items if item.type == "plain"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("sh", {"show"}),
        ("run --dev", {"--devices"}),
        ("run --preset q", {"quick"}),
        ("ab . . --preset sp", {"speedrun"}),
        ("run --models mlp_128", {"mlp_128", "mlp_128_90_50"}),
        ("run --devices c", {"cpu", "cuda"}),
        ("run --devices cpu,", {"cpu,auto", "cpu,cuda", "cpu,mps"}),
        ("selftest --devices au", {"auto"}),
        ("run --engines eager,fu", {"eager,fused"}),
        ("run --pipelines d", {"dataloader"}),
        ("run --precisions fp32,t", {"fp32,tf32"}),
        ("run --dataset f", {"fashion-mnist"}),
        ("show --columns device,batch", {"device,batch_size"}),
        ("show --sort throughput_per_second_med", {"throughput_per_second_median"}),
        ("show --format m", {"markdown"}),
        ("check latest latest --gate a", {"all", "accuracy"}),
        ("run --devices x", set()),
    ],
)
def test_names_of_closed_sets_are_completed(line: str, expected: set[str]) -> None:
    *words, incomplete = line.split(" ")
    assert set(completed(words, incomplete)) == expected


@pytest.mark.usefixtures("two_runs")
@pytest.mark.parametrize(
    "words",
    [
        ("show",),
        ("predict",),
        ("report", "aaaa1111"),
        ("export",),
        ("compare", "latest"),
        ("check", "latest"),
        ("run", "--resume"),
    ],
)
def test_runs_are_completed_the_newest_first(words: Sequence[str]) -> None:
    assert completed(words, "") == ["latest", "abbb2222", "aaaa1111"]
    assert completed(words, "ab") == ["abbb2222"]


@pytest.mark.usefixtures("two_runs")
def test_runs_are_looked_up_where_the_command_will_look_them_up() -> None:
    assert completed(("show", "--results", "elsewhere"), "a") == ["accc3333"]


def test_paths_of_runs_are_left_to_the_shell() -> None:
    items = ShellComplete(cli, {}, "bench", "_BENCH_COMPLETE").get_completions(["show"], "some/pa")
    assert [(item.value, item.type) for item in items] == [("some/pa", "file")]


@pytest.mark.usefixtures("two_runs")
def test_completing_imports_nothing_heavy(tmp_path: Path) -> None:
    program = """
import sys
from bench.cli import cli
try:
    cli(prog_name="bench")
finally:
    print(sorted({"torch", "pandas", "scipy", "numpy", "rich"} & set(sys.modules)), file=sys.stderr)
"""
    asked = {"_BENCH_COMPLETE": "bash_complete", "COMP_WORDS": "bench show a", "COMP_CWORD": "2"}
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**worker_environment(), **asked},
    )
    assert done.stdout.split() == ["file,a", "plain,abbb2222", "plain,aaaa1111"]
    assert done.stderr == "[]\n"


@pytest.mark.usefixtures("two_runs")
@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_line_of_the_readme_makes_bash_complete(tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    line = 'eval "$(_BENCH_COMPLETE=bash_source bench)"'
    assert line in readme
    folder = tmp_path / "bin"
    folder.mkdir()
    command = folder / "bench"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m bench "$@"\n')
    command.chmod(0o755)
    asking = "compopt() { :; }; COMP_WORDS=(bench show a); COMP_CWORD=2; _bench_completion bench"
    script = f'{line}; {asking}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(  # noqa: S603 - our own words
        [shutil.which("bash") or "", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**worker_environment(), "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.stdout.split() == ["abbb2222", "aaaa1111"]
