"""The workflow, the job script and the commands for several machines and devices can be copied as they are."""

import re
import subprocess

import click
import pytest
from docs_commands import CLUSTERS
from test_ci_docs import bench_arguments, require_indented

from bench.cli import cli
from bench.planning.plan import PRESETS

BLOCKS = [block for page in CLUSTERS for block in re.findall(r"```(\w+)\n(.*?)```", page.read_text(), flags=re.DOTALL)]
COMMANDS = [
    re.sub(r"^torchrun .* (?=-m )", "python ", line.strip().removeprefix("run: "))
    for _, text in BLOCKS
    for line in text.replace("\\\n", "").splitlines()
    if "-m bench" in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command_is_one_that_the_command_line_takes(line: str) -> None:
    # What the workflow's and the shell's variables stand for does not matter here.
    verb, *arguments = bench_arguments(re.sub(r"\$\{\{.*?\}\}|\$\w+", "1", line.partition("  #")[0]))
    command = cli.commands[verb]
    with click.Context(cli) as parent:
        context = command.make_context(verb, arguments, parent=parent)
    assert context.params.get("preset") in {None, *PRESETS}


def test_every_workflow_is_indented_as_yaml_wants_it() -> None:
    (workflow,) = (text for language, text in BLOCKS if language == "yaml")
    assert require_indented(workflow) == ["name", "on", "permissions", "concurrency", "jobs"]


def test_scripts_are_ones_that_the_shell_can_read() -> None:
    scripts = [text for language, text in BLOCKS if language == "sh"]
    assert scripts
    for script in scripts:
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)  # noqa: S607 - whichever bash there is
