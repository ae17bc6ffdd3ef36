"""Sessions: `nox` runs what CI runs. Needs only uv: `uv tool run nox`.

Every session installs exactly the versions of requirements/, hashes checked; `nox -s pins` renews them.
"""

import argparse
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "typing", "tests", "check", "bench_smoke"]
nox.options.error_on_external_run = True

PINS = "requirements/ci.txt"
PEERS_PINS = "requirements/peers.txt"
LINT_PINS = "requirements/lint.txt"
BROWSER_PINS = "requirements/browser.txt"
ACCURACY_BASELINE = "results/baselines/accuracy.jsonl"


def install(session: nox.Session) -> None:
    """Install the pinned versions of everything; the packages themselves run from the checkout as it is."""
    session.install("--require-hashes", "-r", PINS)


@nox.session
def lint(session: nox.Session) -> None:
    """Check format, lint rules, the import layers and spelling."""
    session.install("--require-hashes", "-r", LINT_PINS)
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")
    session.run("lint-imports")
    session.run("codespell")


@nox.session
def typing(session: nox.Session) -> None:
    """Check types, strictly, in packages, tests and this file."""
    install(session)
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests with branch coverage; arguments go to pytest, which then need not reach the required coverage."""
    install(session)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet", success_codes=[0, 1])
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def bench_smoke(session: nox.Session) -> None:
    """Build and install the wheel, then run the harness for real, in small, from another folder."""
    install(session)
    session.install("--no-deps", ".")
    session.chdir(session.create_tmp())
    tiny = ("--models", "784-32-10", "--batch-sizes", "256", "--epochs", "1", "--repeats", "2")
    session.run("bench", "run", *tiny)
    session.run("bench", "show", "latest", "--format", "markdown")
    session.run("mnist-mlp", "train", "784-32-10", "--epochs", "1")


@nox.session
def check(session: nox.Session) -> None:
    """Gate the accuracy of this tree's training against the committed baseline (CPU, minutes)."""
    install(session)
    candidate = Path(session.create_tmp()) / "accuracy.jsonl"
    candidate.unlink(missing_ok=True)
    session.run("python", "-m", "bench", "run", "--preset", "accuracy", "--devices", "cpu", "--output", str(candidate))
    session.run("python", "-m", "bench", "check", ACCURACY_BASELINE, str(candidate), "--gate", "accuracy")


@nox.session(default=False)
def ab(session: nox.Session) -> None:
    """Gate this tree's training time against a git revision: `nox -s ab -- rev:main` (minutes; a quiet machine)."""
    install(session)
    session.run("python", "-m", "bench", "ab", *(session.posargs or ["rev:HEAD"]), ".")


@nox.session(default=False)
def microbench(session: nox.Session) -> None:
    """Time forward, backward, optimizer step, batch assembly and evaluation, and store the rounds."""
    install(session)
    options = ("--benchmark-only", "--benchmark-save-data", "--benchmark-autosave")
    # As a module, so that the checkout comes first on the path: in tests/ lies another folder called bench.
    arguments = ("tests/microbench", *options, "--benchmark-storage=file://results/microbench", *session.posargs)
    session.run("python", "-m", "pytest", *arguments)


@nox.session(default=False)
def peers(session: nox.Session) -> None:
    """Compare training with JAX, Keras, scikit-learn, NumPy and the tutorials' loop (an hour; a quiet machine)."""
    session.install("--require-hashes", "-r", PEERS_PINS)
    session.run("python", "tests/peers/compare_peers.py", *session.posargs)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """Open reports in headless Chromium (Debian: `apt-get install chromium chromium-driver`), which must be there."""
    install(session)
    session.install("--require-hashes", "-r", BROWSER_PINS)
    session.run(
        "python", "-m", "pytest", "-m", "browser", "tests/browser", *session.posargs, env={"BENCH_BROWSER": "1"}
    )


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Kill runs and damage files by the hundred (a quarter hour): `nox -s faults -- --runs 300 --inputs 100000`."""
    install(session)
    parser = argparse.ArgumentParser(prog="nox -s faults --")
    parser.add_argument("--runs", default="300", help="of the kill campaign, without torch")
    parser.add_argument("--real-runs", default="18", help="of the kill campaign, with real training")
    parser.add_argument("--inputs", default="100000", help="of the fuzz campaign")
    parser.add_argument("--seed", default="0")
    chosen = parser.parse_args(session.posargs)
    seed = ("--seed", chosen.seed)
    session.run("python", "tests/faults/kill_campaign.py", "--runs", chosen.runs, *seed)
    session.run("python", "tests/faults/kill_campaign.py", "--runs", chosen.real_runs, "--real", *seed)
    session.run("python", "tests/faults/fuzz_campaign.py", "--inputs", chosen.inputs, *seed)
    session.run("python", "-m", "pytest", "-m", "faults", "tests/faults")


@nox.session(default=False)
def overhead(session: nox.Session) -> None:
    """Compare the harness's epoch time with a bare training loop's (minutes; needs a quiet machine)."""
    install(session)
    session.run("python", "tests/microbench/step_overhead.py")
    session.run("python", "tests/microbench/harness_overhead.py", *session.posargs)


@nox.session(default=False)
def pins(session: nox.Session) -> None:
    """Renew requirements/ from pyproject.toml."""
    session.install("uv")
    export = ("uv", "export", "--quiet", "--format", "requirements-txt", "--no-header", "--no-emit-project")
    session.run(*export, "--upgrade", "--all-groups", "--no-group", "browser", "--output-file", PINS)
    session.run(*export, "--only-group", "lint", "--output-file", LINT_PINS)
    session.run(*export, "--only-group", "browser", "--output-file", BROWSER_PINS)
    compile_pins = ("uv", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-header", "--no-annotate")
    session.run(*compile_pins, "pyproject.toml", "tests/peers/requirements.in", "--output-file", PEERS_PINS)
