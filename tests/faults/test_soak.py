"""Sixty trials of the soak, in every run of the tests; `nox -s faults` has two thousand. And that it would notice."""

import json
import subprocess
import sys
from collections.abc import Mapping

import pytest
from checkout import TESTS
from soak import ROOM_BYTES, Sample, assess

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="there is a worker host on Linux alone"),
]

QUIET: Mapping[str, float] = {
    "resident_bytes": 10**8,
    "unshared_bytes": 10**7,
    "descriptors": 9,
    "threads": 1,
    "children": 1,
    "files": 2,
    "cpu_seconds": 0,
}


def test_nothing_grows_with_the_trials_of_a_run() -> None:
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, str(TESTS / "faults" / "soak.py"), "--trials", "60", "--every", "2"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # only ends what hangs
    )
    assert done.stdout, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["trials"] == 60
    # Not the processor's time, of which other programs have their part in so short a run.
    assert not [each for each in figures["grown"] if "processor time" not in each]


@pytest.mark.parametrize(
    ("figure", "step", "words"),
    [
        pytest.param("descriptors", 1, "host: descriptors were up to", id="a descriptor a trial"),
        pytest.param("threads", 0.1, "host: threads were up to", id="a thread in ten trials"),
        pytest.param("resident_bytes", 2 * ROOM_BYTES / 100, "host: memory from", id="some kilobytes a trial"),
        pytest.param("cpu_seconds", None, "processor time of a trial", id="each trial dearer"),
        pytest.param("files", 0, None, id="nothing"),
    ],
)
def test_a_leak_is_noticed(figure: str, step: float | None, words: str | None) -> None:
    def leaking(trial: int) -> Mapping[str, float]:
        grown = trial**2 * 1e-5 if step is None else int(trial * step)
        return {**QUIET, "cpu_seconds": trial * 1e-3} | {figure: QUIET[figure] + grown}

    quiet = [Sample(trials=trial, figures={**QUIET, "cpu_seconds": trial * 1e-3}) for trial in range(200)]
    leaky = [Sample(trials=trial, figures=leaking(trial)) for trial in range(200)]
    _, grown = assess({"command": quiet, "host": leaky}, range(200))
    assert [words in each for each in grown if words] == ([True] if words else [])
    assert bool(grown) == bool(words)
