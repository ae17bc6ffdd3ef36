"""Arms of a live comparison: what their names mean, what is unpacked, and that nothing is left or run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import arms
from bench.arms import open_arm
from bench.errors import BadInputError


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    done = subprocess.run(  # noqa: S603 - our own words
        ["git", *identity, "-C", str(folder), *arguments],  # noqa: S607 - git is wherever it is
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two commits of a workload, taken for this tree's."""
    folder = tmp_path / "a clone"
    (folder / "mnist_mlp").mkdir(parents=True)
    git(folder, "init", "--quiet")
    for text in ("old", "new"):
        (folder / "mnist_mlp" / "model.py").write_text(text)
        git(folder, "add", ".")
        git(folder, "commit", "--quiet", "--message", text)
    monkeypatch.setattr(arms, "_PACKAGE_ROOT", folder)
    return folder


def test_this_tree_is_trained_by_this_interpreter() -> None:
    with open_arm(".") as arm:
        assert (arm.label, arm.python, arm.workload, arm.commit) == (".", sys.executable, None, None)


def test_a_revision_is_unpacked_and_gone_after_the_context(clone: Path) -> None:
    with open_arm("rev:HEAD~1") as arm:
        assert arm.workload is not None
        assert (arm.workload / "mnist_mlp" / "model.py").read_text() == "old"
        assert arm.commit == git(clone, "rev-parse", "HEAD~1")
        assert arm.label == f"rev:HEAD~1 ({arm.commit[:10]})"
    assert not arm.workload.exists()


def test_a_revision_is_unpacked_without_a_worktree_and_without_running_hooks(clone: Path, tmp_path: Path) -> None:
    sign = tmp_path / "a hook ran"
    for hook in ("post-checkout", "pre-commit", "reference-transaction", "post-index-change"):
        path = clone / ".git" / "hooks" / hook
        path.write_text(f'#!/bin/sh\ntouch "{sign}"\n')
        path.chmod(0o755)
    git(clone, "config", "core.fsmonitor", f'touch "{sign}" #')
    before = git(clone, "worktree", "list")
    sign.unlink(missing_ok=True)
    with open_arm("rev:HEAD~1"):
        pass
    assert not sign.exists()
    assert git(clone, "worktree", "list") == before


def test_variables_of_a_git_hook_do_not_lead_to_another_repository(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del clone
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    with open_arm("rev:HEAD") as arm:
        assert arm.workload is not None


def test_the_present_folders_clone_serves_an_installed_harness(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arms, "_PACKAGE_ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="neither this tree nor the present folder"), open_arm("rev:HEAD"):
        pass
    monkeypatch.chdir(clone)
    with open_arm("rev:HEAD") as arm:
        assert arm.workload is not None
        assert (arm.workload / "mnist_mlp" / "model.py").read_text() == "new"


def test_an_interpreter_is_not_resolved_through_its_links(tmp_path: Path) -> None:
    # A virtual environment's python is such a link, and knows by it where its packages are.
    link = tmp_path / "python-of-an-environment"
    link.symlink_to(sys.executable)
    with open_arm(f"python:{link}") as arm:
        assert arm.python == str(link)
        assert arm.label == "python:python-of-an-environment"  # no folder in what is stored
        assert arm.workload is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("..", "'..' names no arm"),
        ("rev:", "names no arm"),
        ("HEAD", "names no arm"),
        ("rev:no-such-branch", "no such commit"),
        ("rev:--output=x", "no such commit"),
        ("python:no-such-python", "no such program"),
        ("python:", "names no arm"),
    ],
)
def test_what_is_no_arm_is_refused_with_the_forms_an_arm_can_have(clone: Path, text: str, words: str) -> None:
    del clone
    with pytest.raises(BadInputError, match=words), open_arm(text):
        pass


def test_a_commit_without_the_workload_is_refused(clone: Path) -> None:
    git(clone, "rm", "--quiet", "-r", "mnist_mlp")
    (clone / "README").write_text("nothing")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "gone")
    git(clone, "checkout", "--quiet", "HEAD~1")
    with pytest.raises(BadInputError, match="has no mnist_mlp"), open_arm("rev:main"):
        pass


def test_a_missing_git_is_said_so(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del clone
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(BadInputError, match="git cannot be run here"), open_arm("rev:HEAD"):
        pass
