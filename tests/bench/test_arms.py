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


HOOKS = ("post-checkout", "pre-commit", "reference-transaction", "post-index-change", "post-rewrite", "pre-auto-gc")


@pytest.fixture
def sign(clone: Path, tmp_path: Path) -> Path:
    """A file that appears when the clone's hooks, its fsmonitor or its filters run."""
    sign = tmp_path / "something ran"
    for folder in (clone / ".git" / "hooks", tmp_path / "hooks"):
        folder.mkdir(exist_ok=True)
        for hook in HOOKS:
            (folder / hook).write_text(f'#!/bin/sh\ntouch "{sign}"\n')
            (folder / hook).chmod(0o755)
    (clone / ".gitattributes").write_text("*.py filter=trap diff=trap merge=trap text eol=crlf ident export-subst\n")
    (clone / "mnist_mlp" / "model.py").write_text("newest $Id$ $Format:%H$\n")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "attributes")
    for name in ("core.fsmonitor", "filter.trap.smudge", "filter.trap.clean", "diff.trap.textconv"):
        git(clone, "config", name, f'touch "{sign}" #')
    git(clone, "config", "core.hooksPath", str(tmp_path / "hooks"))
    sign.unlink(missing_ok=True)
    return sign


def test_a_revision_is_unpacked_without_a_worktree_and_without_running_anything_of_the_repository(
    clone: Path, sign: Path
) -> None:
    before = git(clone, "worktree", "list")
    sign.unlink(missing_ok=True)
    with open_arm("rev:main") as arm:
        assert arm.workload is not None
        assert (arm.workload / "mnist_mlp" / "model.py").read_bytes() == b"newest $Id$ $Format:%H$\n"  # as committed
    assert not sign.exists()
    assert git(clone, "worktree", "list") == before


def test_the_planted_filter_does_run_where_git_checks_out(clone: Path, sign: Path) -> None:
    git(clone, "archive", "--output", os.devnull, "--format=tar", "main")
    assert sign.exists()


def test_what_a_partial_clone_lacks_is_not_fetched_by_its_commands(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, sign = tmp_path / "partial", tmp_path / "a remote's command ran"
    git(clone, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{clone}", str(partial))
    git(partial, "read-tree", "HEAD")
    git(partial, "config", "remote.origin.uploadpack", f'touch "{sign}" #')
    monkeypatch.setattr(arms, "_PACKAGE_ROOT", partial)
    with pytest.raises(BadInputError, match="is not all here, as in a partial clone: fetch"), open_arm("rev:HEAD"):
        pass
    assert not sign.exists()


@pytest.mark.parametrize("mode", ["120000", "160000"])
def test_a_link_or_a_submodule_within_the_workload_is_refused(clone: Path, mode: str) -> None:
    target = git(clone, "rev-parse", "HEAD") if mode == "160000" else git(clone, "rev-parse", "HEAD:mnist_mlp/model.py")
    git(clone, "update-index", "--add", "--cacheinfo", f"{mode},{target},mnist_mlp/other")
    git(clone, "commit", "--quiet", "--message", "other")
    with pytest.raises(BadInputError, match="mnist_mlp/other is a link or a submodule"), open_arm("rev:main"):
        pass


def test_a_tree_whose_paths_lead_elsewhere_writes_nothing_there(clone: Path, tmp_path: Path) -> None:
    blob = git(clone, "rev-parse", "HEAD:mnist_mlp/model.py")
    tree = bytes.fromhex(blob)
    for name in (b"escaped.py", b"..", b"..", b"mnist_mlp"):  # mnist_mlp/../../escaped.py
        mode = b"100644" if name == b"escaped.py" else b"40000"
        done = subprocess.run(  # noqa: S603 - our own words
            ["git", "-C", str(clone), "hash-object", "-w", "-t", "tree", "--literally", "--stdin"],  # noqa: S607 - wherever git is
            input=mode + b" " + name + b"\0" + tree,
            capture_output=True,
            check=True,
        )
        tree = bytes.fromhex(done.stdout.decode().strip())
    commit = git(clone, "commit-tree", tree.hex(), "-m", "crafted")
    with pytest.raises(BadInputError, match="leads out of its folder"), open_arm(f"rev:{commit}"):
        pass
    assert not list(tmp_path.rglob("escaped.py"))


UNPACK_AND_STAY = """
import sys
from pathlib import Path
from bench import arms
arms._PACKAGE_ROOT = Path(sys.argv[1])
with arms.open_arm("rev:HEAD"):
    print("unpacked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a process that is killed there cannot be told from one that ends")
def test_what_a_killed_command_left_unpacked_goes_with_the_next_and_what_is_in_use_stays(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", UNPACK_AND_STAY, str(clone)]
    with subprocess.Popen(  # noqa: S603 - our own words
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"unpacked\n"
        with open_arm("rev:HEAD"):
            assert len(list(temporary.iterdir())) == 2
        (left,) = temporary.iterdir()
        other.kill()
    assert (left / "mnist_mlp" / "model.py").exists()
    with open_arm("rev:HEAD"):
        assert not left.exists()
    assert not list(temporary.iterdir())


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


def test_no_place_to_unpack_into_is_an_error_with_a_remedy(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del clone
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    problem = "cannot be made: No such file or directory; make room, or set TMPDIR"
    with pytest.raises(BadInputError, match=problem), open_arm("rev:HEAD"):
        pass
