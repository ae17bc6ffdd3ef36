"""Arms of a live comparison: what their names mean, what is unpacked, and that nothing is left or run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import ROOT

from bench.ab import arms
from bench.ab.arms import open_arm
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
    monkeypatch.setattr(arms, "ROOT", folder)
    return folder


def test_this_tree_is_trained_as_it_was_at_the_beginning_by_this_interpreter(clone: Path) -> None:
    with open_arm(".") as arm:
        (clone / "mnist_mlp" / "model.py").write_text("edited meanwhile")
        assert (arm.label, arm.python) == (".", sys.executable)
        assert arm.workload is not None
        assert (arm.workload / "mnist_mlp" / "model.py").read_text() == "new"
        assert (arm.commit, arm.dirty) == (git(clone, "rev-parse", "HEAD"), False)
    assert not arm.workload.exists()
    with open_arm(".") as arm:
        assert arm.dirty


def test_a_tree_that_cannot_be_copied_is_an_error_with_a_remedy(clone: Path) -> None:
    (clone / "mnist_mlp" / "broken.py").symlink_to("nowhere")
    with pytest.raises(BadInputError, match=r"mnist_mlp cannot be copied .* set TMPDIR"), open_arm("."):
        pass


def test_a_revision_is_unpacked_and_gone_after_the_context(clone: Path) -> None:
    with open_arm("rev:HEAD~1") as arm:
        assert arm.workload is not None
        assert (arm.workload / "mnist_mlp" / "model.py").read_text() == "old"
        assert arm.commit == git(clone, "rev-parse", "HEAD~1")
        assert arm.label == f"rev:HEAD~1 ({arm.commit[:10]})"
        assert arm.dirty is False  # whatever was edited in the tree
    assert not arm.workload.exists()


def test_a_commit_named_by_the_start_of_its_hash_is_labelled_once(clone: Path) -> None:
    commit = git(clone, "rev-parse", "HEAD")
    with open_arm(f"rev:{commit[:12]}") as arm:
        assert (arm.label, arm.commit) == (f"rev:{commit[:10]}", commit)


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


def test_objects_that_a_partial_clone_lacks_are_not_fetched(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial, sign = tmp_path / "partial", tmp_path / "a remote's command ran"
    git(clone, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{clone}", str(partial))
    git(partial, "read-tree", "HEAD")
    git(partial, "config", "remote.origin.uploadpack", f'touch "{sign}" #')
    monkeypatch.setattr(arms, "ROOT", partial)
    with pytest.raises(BadInputError, match="is incomplete here, as in a partial clone: fetch"), open_arm("rev:HEAD"):
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
    with pytest.raises(BadInputError, match="is outside the folder"), open_arm(f"rev:{commit}"):
        pass
    assert not list(tmp_path.rglob("escaped.py"))


UNPACK_AND_STAY = """
import sys
from pathlib import Path
from bench.ab import arms
arms._PACKAGE_ROOT = Path(sys.argv[1])
with arms.open_arm("rev:HEAD"):
    print("unpacked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a killed process cannot be distinguished there from one that ends")
def test_the_next_command_removes_what_a_killed_one_unpacked_but_nothing_in_use(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": str(ROOT)}
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
    monkeypatch.setattr(arms, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInputError, match="neither this tree nor the current folder"), open_arm("rev:HEAD"):
        pass
    monkeypatch.chdir(clone)
    with open_arm("rev:HEAD") as arm:
        assert arm.workload is not None
        assert (arm.workload / "mnist_mlp" / "model.py").read_text() == "new"


def test_this_tree_is_the_present_folders_where_revisions_are_read_there(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (clone / "mnist_mlp" / "__init__.py").touch()
    installed = tmp_path / "site-packages" / "mnist_mlp"
    installed.mkdir(parents=True)
    (installed / "model.py").write_text("installed")
    monkeypatch.setattr(arms, "ROOT", installed.parent)
    for folder, text in ((tmp_path, "installed"), (clone, "new")):
        monkeypatch.chdir(folder)
        with open_arm(".") as arm:
            assert arm.workload is not None
            assert (arm.workload / "mnist_mlp" / "model.py").read_text() == text


def test_gits_reason_for_refusing_a_repository_is_shown(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del clone
    program = tmp_path / "git"
    program.write_text(
        "#!/bin/sh\necho 'fatal: detected dubious ownership\nTo add an exception, call: x' >&2\nexit 128\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    words = "git says: fatal: detected dubious ownership To add an exception, call: x$"
    with pytest.raises(BadInputError, match=words), open_arm("rev:HEAD"):
        pass


WHAT_AN_ARM_OF_AN_INSTALLED_HARNESS_FINDS = """
import subprocess
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from bench.ab.arms import open_arm
from bench.execution.launcher import ForkingLauncher, make_arm_launchers
from bench.execution.processes import worker_environment
ForkingLauncher._start_host = lambda self: None
find = "from importlib.util import find_spec as f; print(*(f(name).origin for name in ('torch', 'bench', 'mnist_mlp')))"
with open_arm(f"python:{sys.argv[2]}") as arm:
    shared = make_arm_launchers([(arm.python, arm.workload)] * 2)[0][0]
    for environment in (worker_environment(arm.workload), shared._host._environment):
        done = subprocess.run([arm.python, "-c", find], env=environment, capture_output=True, text=True, check=True)
        print(done.stdout.replace(str(arm.workload), "ARM"), end="")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="hosts are shared there alone")
def test_an_interpreter_finds_its_own_torch_and_not_that_of_an_installed_harness(tmp_path: Path) -> None:
    for name in ("bench", "mnist_mlp"):
        shutil.copytree(ROOT / name, tmp_path / "site-packages" / name)
    (tmp_path / "site-packages" / "torch.py").touch()
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", WHAT_AN_ARM_OF_AN_INSTALLED_HARNESS_FINDS, "site-packages", sys.executable],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=True,
    )
    for line in done.stdout.splitlines():
        own_torch, harness, workload = line.split()
        assert Path(own_torch).name == "__init__.py"
        assert (harness, workload) == ("ARM/bench/__init__.py", "ARM/mnist_mlp/__init__.py")
    assert len(done.stdout.splitlines()) == 2


def test_an_interpreter_is_not_resolved_through_its_links(tmp_path: Path) -> None:
    # A virtual environment's python is such a link, and knows by it where its packages are.
    link = tmp_path / "python-of-an-environment"
    link.symlink_to(sys.executable)
    with open_arm(f"python:{link}") as arm:
        assert arm.python == str(link)
        assert arm.label == "python:python-of-an-environment"  # no folder in what is stored


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("..", "'..' names no arm"),
        ("rev:", "names no arm"),
        ("HEAD", r"'HEAD' names no arm \(did you mean 'rev:HEAD'\?\): an arm is"),
        ("no-such-branch", "'no-such-branch' names no arm: an arm is"),
        ("rev:no-such-branch", "no such commit"),
        ("rev:--output=x", "no such commit"),
        ("python:no-such-python", "no such program"),
        ("python:", "names no arm"),
    ],
)
def test_text_that_names_no_arm_is_refused_with_the_possible_forms(clone: Path, text: str, words: str) -> None:
    del clone
    with pytest.raises(BadInputError, match=words), open_arm(text):
        pass


def test_an_environment_named_as_an_arm_is_answered_with_its_interpreter(tmp_path: Path) -> None:
    interpreter = tmp_path / "bin" / "python"
    interpreter.parent.mkdir()
    interpreter.touch()
    words = re.escape(f"(did you mean 'python:{interpreter}'?); an arm is")
    with pytest.raises(BadInputError, match=words), open_arm(f"python:{tmp_path}"):
        pass


def test_a_commit_without_the_workload_is_refused(clone: Path) -> None:
    git(clone, "rm", "--quiet", "-r", "mnist_mlp")
    (clone / "README").write_text("nothing")
    git(clone, "add", ".")
    git(clone, "commit", "--quiet", "--message", "gone")
    git(clone, "checkout", "--quiet", "HEAD~1")
    with pytest.raises(BadInputError, match="has no mnist_mlp"), open_arm("rev:main"):
        pass


def test_a_missing_git_is_reported(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del clone
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(BadInputError, match="git cannot be run here"), open_arm("rev:HEAD"):
        pass


def test_no_place_to_unpack_into_is_an_error_with_a_remedy(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del clone
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    problem = "cannot be made: No such file or directory; free some space, or set TMPDIR"
    with pytest.raises(BadInputError, match=problem), open_arm("rev:HEAD"):
        pass
