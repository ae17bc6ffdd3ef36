"""The workflow and the commands in docs/ci.md can be copied as they are."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from checkout import ROOT

from bench.cli import cli
from bench.planning.plan import PRESETS

PAGE = (ROOT / "docs" / "ci.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)
WORKFLOW, JOB = (text for language, text in BLOCKS if language == "yaml")
"""The workflow, and a further job for it."""
COMMANDS = [
    line.strip().removeprefix("run: ") for _, text in BLOCKS for line in text.splitlines() if "-m bench" in line
]
STRUCTURE = re.compile(r"^(?: {2})*(?:- )?[\w-]+:(?: (?:\S.*))?$")


def bench_arguments(line: str) -> list[str]:
    """Return what follows `python -m bench` in a line of shell, up to the next operator."""
    words = shlex.split(line)
    start = words.index("bench") + 1
    assert words[start - 2 : start] == ["-m", "bench"]
    assert Path(words[start - 3]).name == "python"
    end = next((place for place, word in enumerate(words) if word in {"||", "&&", "|", ";"}), len(words))
    return words[start:end]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_one_that_the_command_line_takes(line: str) -> None:
    verb, *arguments = bench_arguments(line)
    command = cli.commands[verb]
    with click.Context(cli) as parent:
        context = command.make_context(verb, arguments, parent=parent)
    assert context.params.get("preset") in {None, *PRESETS}


def test_page_shows_both_gates_and_how_to_refresh_and_compare() -> None:
    assert {bench_arguments(line)[0] for line in COMMANDS} == {"run", "check", "ab", "compare"}


def test_sessions_named_on_the_page_exist() -> None:
    sessions = re.findall(r"nox -s (\w+)", PAGE)
    noxfile = (ROOT / "noxfile.py").read_text()
    assert set(sessions) == {"ab", "check", "microbench"}
    assert [name for name in sessions if f"def {name}(session" not in noxfile] == []


def require_indented(workflow: str) -> list[str]:
    """Check a workflow's form and return its members.

    PyYAML is no dependency: every line is a member, an item, or inside a block of shell.
    """
    depth_of_shell: int | None = None
    for line in filter(None, workflow.splitlines()):
        depth = len(line) - len(line.lstrip(" "))
        assert "\t" not in line
        assert depth % 2 == 0
        if depth_of_shell is not None and depth > depth_of_shell:
            continue
        depth_of_shell = None
        assert STRUCTURE.match(line), line
        if line.endswith("|"):
            depth_of_shell = depth
    return re.findall(r"^(\w+):", workflow, flags=re.MULTILINE)


def test_workflow_is_indented_as_yaml_wants_it() -> None:
    assert require_indented(WORKFLOW + JOB) == ["name", "on", "permissions", "concurrency", "jobs"]
    assert re.findall(r"^  (\w+):$", (WORKFLOW + JOB).split("jobs:\n")[1], flags=re.MULTILINE) == [
        *("accuracy", "time", "torch")
    ]


def test_actions_are_pinned_to_a_major_version() -> None:
    uses = re.findall(r"uses: (.*)", WORKFLOW + JOB)
    assert len(uses) == 8
    assert [action for action in uses if not re.fullmatch(r"actions/[a-z-]+@v\d+", action)] == []


def test_history_is_there_for_the_revision_that_ab_takes() -> None:
    jobs = re.split(r"^  (?=\w+:$)", WORKFLOW.split("jobs:\n")[1], flags=re.MULTILINE)
    (live,) = (job for job in jobs if "bench ab" in job)
    assert "fetch-depth: 0" in live
    assert "rev:origin/$BASE" in live


def test_environments_are_made_where_the_gates_look_for_them(tmp_path: Path) -> None:
    """The steps of the job for two versions, with a stand-in for `uv` that makes interpreters which print arguments."""
    (script,) = re.findall(r"run: \|\n((?: {10}.*\n)+)", JOB)
    commands = re.findall(r"run: (\S+/python .*)", JOB)
    work = tmp_path / "work"
    work.mkdir()
    make = '[ "$1" = venv ] && mkdir -p "$2/bin" && printf \'#!/bin/sh\\necho "$@"\\n\' > "$2/bin/python" '
    (work / "uv").write_text(f'#!/bin/sh\n{make} && chmod +x "$2/bin/python" || [ -x "$4" ]\n')
    (work / "uv").chmod(0o755)
    versions = dict(re.findall(r'(CURRENT|NEW): "([\d.]+)"', JOB))
    done = run_step(script + "\n".join(commands), work, **versions)
    assert done.returncode == 0, done.stderr
    arms = [word for word in done.stdout.split() if word.startswith("python:")]
    assert arms == [f"python:../torch-{versions[name]}/bin/python" for name in ("CURRENT", "NEW")]
    assert all((work / arm.removeprefix("python:")).exists() for arm in arms)


@pytest.mark.parametrize("gate", ["check", "ab"])
@pytest.mark.parametrize(("code", "expected"), [(0, 0), (1, 1), (2, 2), (3, 0), (4, 4), (5, 5)])
def test_only_pass_and_inconclusive_leave_the_job_green(gate: str, code: int, expected: int, tmp_path: Path) -> None:
    """The step's own shell, with `uv` standing for a gate that ends with `code`."""
    script = next(block for block in re.findall(r"run: \|\n((?: {10}.*\n)+)", WORKFLOW) if f"bench {gate} " in block)
    (tmp_path / "uv").write_text(f"#!/bin/sh\nexit {code}\n")
    (tmp_path / "uv").chmod(0o755)
    done = run_step(script, tmp_path)
    assert done.returncode == expected
    assert ("::warning" in done.stdout) == (code == 3)


def run_step(script: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a step's script as GitHub does by default: `bash -e`."""
    environment = os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "BASE": "main"} | variables
    return subprocess.run(  # noqa: S603 - our own words
        ["bash", "-e", "-c", script],  # noqa: S607 - whichever bash there is
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
