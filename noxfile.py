"""Sessions: `nox` runs what CI runs. Needs only uv: `uv tool run nox`.

Every session installs exactly the versions of requirements/, hashes checked; `nox -s pins` renews them.
"""

import argparse
import hashlib
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.sessions = ["lint", "typing", "tests", "check", "package"]
nox.options.error_on_external_run = True

PINS = "requirements/ci.txt"
PEERS_PINS = "requirements/peers.txt"
LINT_PINS = "requirements/lint.txt"
BROWSER_PINS = "requirements/browser.txt"
AUDIT_PINS = "requirements/audit.txt"
RAY_PINS = "requirements/ray.txt"
LOWEST_PINS = "requirements/lowest.txt"
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
def package(session: nox.Session) -> None:
    """Build sdist and wheel, install the wheel with nothing but its own requirements, run it from an empty folder."""
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder / "package", ignore_errors=True)
    empty = folder / "package" / "empty"
    empty.mkdir(parents=True)
    build = ("uv", "build", "--quiet", "--build-constraints", PINS, "--require-hashes", "--out-dir")
    session.run(*build, str(empty.parent / "tree"), "--sdist", "--wheel")
    (sdist,) = empty.parent.glob("tree/*.tar.gz")
    session.run(*build, str(empty.parent / "sdist"), "--wheel", str(sdist))
    wheel, rebuilt = (next(empty.parent.glob(f"{place}/*.whl")) for place in ("tree", "sdist"))
    # Both are to be the same bytes, so that what runs below is what either gives.
    requirement = empty.parent / "requirement.txt"
    digest = hashlib.sha256(rebuilt.read_bytes()).hexdigest()
    requirement.write_text(f"mnist-mlp-bench @ {rebuilt.as_uri()} --hash=sha256:{digest}\n")
    session.install("--require-hashes", "--reinstall-package", "mnist-mlp-bench", "-r", str(requirement), "-c", PINS)
    checks = Path("tests/packaging/check_distributions.py").resolve()
    session.chdir(empty)
    session.run("python", "-I", str(checks), str(sdist), str(wheel), str(rebuilt))
    smoke(session)


def smoke(session: nox.Session) -> None:
    """Run the installed commands for real, in small, in the present folder."""
    for command in ("bench", "mnist-mlp"):
        session.run(command, "--version")
        session.run(command, "--help", silent=True)
    tiny = ("--models", "784-32-10", "--batch-sizes", "256", "--epochs", "1", "--repeats", "2", "--dataset", "digits")
    session.run("bench", "run", *tiny, "--output", "old.jsonl")
    session.run("bench", "run", *tiny, "--output", "new.jsonl")
    session.run("bench", "show", "new.jsonl", "--format", "markdown")
    session.run("bench", "report", "old.jsonl", "new.jsonl")
    session.run("bench", "check", "old.jsonl", "new.jsonl", success_codes=[0, 3])  # so few trials may tell nothing
    session.run("mnist-mlp", "train", "784-32-10", "--epochs", "1", "--dataset", "digits", "--save", "model.pth")
    session.run("mnist-mlp", "evaluate", "model.pth", "--dataset", "digits")


@nox.session
def check(session: nox.Session) -> None:
    """Gate the accuracy of this tree's training against the committed baseline (CPU, minutes)."""
    install(session)
    candidate = Path(session.create_tmp()) / "accuracy.jsonl"
    for file in (candidate, candidate.with_suffix(".csv")):
        file.unlink(missing_ok=True)
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
def ray(session: nox.Session) -> None:
    """Run plans on a Ray cluster of two nodes on this machine, one of which is killed (minutes)."""
    install(session)
    session.install("--require-hashes", "-r", RAY_PINS)
    session.run("python", "-m", "pytest", "-m", "ray", "tests/cluster", *session.posargs, env={"BENCH_RAY": "1"})


@nox.session(default=False, python=["3.12", "3.13", "3.14", "3.15"])
def pythons(session: nox.Session) -> None:
    """Run the quick tests on every later Python, which uv fetches; one alone: `nox -s pythons-3.14`."""
    install(session)
    session.run("python", "-m", "pytest", "-m", "not slow and not faults", *session.posargs)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """Run the quick tests with the lowest version that pyproject.toml allows of each requirement."""
    session.install("--require-hashes", "-r", LOWEST_PINS)
    # Not with warnings as errors: old versions meet what newer ones of their own requirements deprecate.
    quick = ("-m", "not slow and not faults", "-W", "default")
    session.run("python", "-m", "pytest", *quick, *session.posargs)


@nox.session(default=False)
def faults(session: nox.Session) -> None:
    """Kill runs and damage files by the hundred (over half an hour): `nox -s faults -- --runs 300 --inputs 100000`."""
    install(session)
    parser = argparse.ArgumentParser(prog="nox -s faults --")
    parser.add_argument("--runs", default="300", help="of the kill campaign, without torch")
    parser.add_argument("--real-runs", default="18", help="of the kill campaign, with real training")
    parser.add_argument("--inputs", default="100000", help="of the fuzz campaign")
    parser.add_argument("--trials", default="2000", help="of each soak, without and with torch")
    parser.add_argument("--seed", default="0")
    chosen = parser.parse_args(session.posargs)
    seed = ("--seed", chosen.seed)
    session.run("python", "tests/faults/kill_campaign.py", "--runs", chosen.runs, *seed)
    session.run("python", "tests/faults/kill_campaign.py", "--runs", chosen.real_runs, "--real", *seed)
    session.run("python", "tests/faults/fuzz_campaign.py", "--inputs", chosen.inputs, *seed)
    session.run("python", "tests/faults/soak.py", "--trials", chosen.trials)
    session.run("python", "tests/faults/soak.py", "--trials", chosen.trials, "--real")
    session.run("python", "-m", "pytest", "-m", "faults", "tests/faults")


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Ask an advisory service about every version in requirements/; a version that it does not know fails."""
    session.install("--require-hashes", "-r", AUDIT_PINS)
    pins = [word for path in (PINS, PEERS_PINS, BROWSER_PINS, RAY_PINS, AUDIT_PINS) for word in ("--requirement", path)]
    # Not strict, pip-audit passes versions over that it could learn nothing of, all of them where it reaches nobody.
    session.run("pip-audit", "--strict", "--require-hashes", "--disable-pip", *pins, *session.posargs)


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
    without = ("--no-group", "browser", "--no-group", "audit", "--no-group", "ray")
    session.run(*export, "--upgrade", "--all-groups", *without, "--output-file", PINS)
    session.run(*export, "--only-group", "lint", "--output-file", LINT_PINS)
    session.run(*export, "--only-group", "browser", "--output-file", BROWSER_PINS)
    session.run(*export, "--only-group", "audit", "--output-file", AUDIT_PINS)
    session.run(*export, "--only-group", "ray", "--output-file", RAY_PINS)
    compile_pins = ("uv", "pip", "compile", "--quiet", "--upgrade", "--generate-hashes", "--no-header", "--no-annotate")
    session.run(*compile_pins, "pyproject.toml", "tests/peers/requirements.in", "--output-file", PEERS_PINS)
    groups = ("--group", "data", "--group", "test", "--group", "notebook")
    oldest = ("--resolution", "lowest-direct", "--python-version", "3.11")
    session.run(*compile_pins, "pyproject.toml", *groups, *oldest, "--output-file", LOWEST_PINS)
