"""What the parent process needs of its system is there on Windows: a run where Python lacks all that Windows lacks.

The workers are scripted, for torch is built for the real system. What a real Windows would show beyond that (paths,
handles that stay open) is not seen here.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from checkout import TESTS

WITHOUT_POSIX = """
import asyncio, multiprocessing.connection, os, signal, socket, subprocess, sys, tempfile, types
import click, jinja2, numpy, pandas, psutil, rich.progress, scipy.stats
import bench_builders, fake_worker  # what they import of others knows this system already
for name in [name for name in sys.modules if name.partition(".")[0] in {"bench", "fake_worker", "bench_builders"}]:
    del sys.modules[name]

LACKING = {
    os: "fork killpg setpgid setsid getuid geteuid getpgid sched_getaffinity pread waitid pidfd_open sysconf "
        "getloadavg statvfs WNOHANG O_NOFOLLOW register_at_fork posix_spawn",
    signal: "SIGKILL SIGALRM SIGHUP SIGIO SIGUSR1 SIGCHLD SIGSTOP setitimer pthread_sigmask",
    socket: "AF_UNIX SCM_RIGHTS CMSG_SPACE send_fds recv_fds",
}
for module, names in LACKING.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
locked = types.ModuleType("msvcrt")
locked.LK_NBLCK = 2
locked.locking = lambda descriptor, mode, size: None
sys.modules["msvcrt"] = locked
sys.platform = "win32"

from pathlib import Path
from bench import cli
from bench.execution import launcher
import fake_worker

assert isinstance(launcher.make_launcher(), launcher.SpawningLauncher)
launcher.SpawningLauncher = lambda **_: fake_worker.FakeLauncher()

def bench(*arguments):
    assert not cli.cli.main(list(arguments), standalone_mode=False), arguments

for name in ("old", "new"):
    bench("run", "--models", "784-8-10", "--batch-sizes", "64", "--devices", "cpu", "--repeats", "3", "--epochs", "2",
          "--output", f"{name}.jsonl")
bench("run", "--resume", "old.jsonl")
bench("show", "old.jsonl")
bench("compare", "old.jsonl", "new.jsonl")
bench("check", "old.jsonl", "new.jsonl", "--gate", "accuracy", "--json", "check.json")
bench("report", "old.jsonl", "new.jsonl", "--output", "report.html")
bench("devices")
print("all of it")
"""


@pytest.mark.slow
def test_commands_need_nothing_of_their_system_that_windows_lacks(tmp_path: Path) -> None:
    paths = [str(TESTS.parent), str(TESTS)]
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", WITHOUT_POSIX],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.endswith("all of it\n"), done.stdout + done.stderr
    assert {"old.jsonl", "new.csv", "check.json", "report.html"} <= {path.name for path in tmp_path.iterdir()}
