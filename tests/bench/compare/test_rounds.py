"""pytest-benchmark files: a real one, and every way in which one can be wrong."""

import copy
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.compare import rounds
from bench.compare.rounds import is_rounds_file, moments_of_summary, read_rounds
from bench.errors import BadInputError

TINY = """
import pytest

@pytest.mark.parametrize("count", [10, 1000])
def test_sum(benchmark, count):
    benchmark.pedantic(sum, args=(range(count),), rounds=20, iterations=5)

def test_once(benchmark):
    benchmark.extra_info["target"] = float("nan")
    benchmark.pedantic(sum, args=(range(10),), rounds=1)
"""

Json = dict[str, Any]


def make_file() -> Json:
    """A file as pytest-benchmark writes it, with one raw and one summarised benchmark."""
    return {
        "machine_info": {"python_version": "3.12.4", "cpu": {"brand_raw": "Fictional CPU 9000"}, "node": "fictional"},
        "commit_info": {"id": "0123abcd" * 5, "dirty": False, "branch": "main"},
        "benchmarks": [
            {
                "fullname": "tests/test_a.py::test_raw[64]",
                "name": "test_raw[64]",
                "params": {"batch": 64},
                "stats": {"data": [0.001, 0.002, 0.004], "mean": 0.0023, "stddev": 0.0015, "rounds": 3},
            },
            {
                "fullname": "tests/test_a.py::test_summary",
                "name": "test_summary",
                "params": None,
                "stats": {"mean": 0.5, "stddev": 0.05, "rounds": 12},
            },
        ],
        "datetime": "2026-11-21T03:15:00+00:00",
        "version": "5.3.1",
    }


def write(folder: Path, content: object) -> Path:
    path = folder / "saved.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=4))
    return path


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One session of pytest's, saved by it with every round and as a summary."""
    folder = tmp_path_factory.mktemp("pytest-benchmark")
    (folder / "test_tiny.py").write_text(TINY)
    saving = ("--benchmark-json=raw.json", "--benchmark-save=brief", "--benchmark-storage=file://store")
    subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=.", *saving, "test_tiny.py"],
        cwd=folder,
        env=os.environ | {"PYTEST_ADDOPTS": ""},
        check=True,
        capture_output=True,
    )
    (brief,) = (folder / "store").glob("*/0001_brief.json")
    return folder / "raw.json", brief


def test_real_file_with_all_rounds_is_read(real: tuple[Path, Path]) -> None:
    raw, _ = real
    assert is_rounds_file(raw)
    saved = read_rounds(raw)
    assert [benchmark.name for benchmark in saved.benchmarks] == [
        "test_tiny.py::test_sum[10]",
        "test_tiny.py::test_sum[1000]",
        "test_tiny.py::test_once",
    ]
    assert [len(benchmark.seconds) for benchmark in saved.benchmarks] == [20, 20, 1]
    assert saved.python == ".".join(map(str, sys.version_info[:3]))
    assert saved.datetime is not None


def test_real_summary_approximates_the_moments_of_its_rounds(real: tuple[Path, Path]) -> None:
    raw, brief = map(read_rounds, real)
    for of_rounds, of_summary in zip(raw.benchmarks, brief.benchmarks, strict=True):
        assert of_summary.name == of_rounds.name
        assert not of_summary.seconds
        assert of_summary.moments.n == of_rounds.moments.n
        logs = [math.log(value / statistics.fmean(of_rounds.seconds)) for value in of_rounds.seconds]
        within = max(map(abs, logs)) ** 2 + 1e-9  # what a Taylor series of the logarithm leaves out
        assert of_summary.moments.mean == pytest.approx(of_rounds.moments.mean, abs=within)


def test_members_are_taken_from_where_they_stand(tmp_path: Path) -> None:
    saved = read_rounds(write(tmp_path, make_file()))
    raw, summary = saved.benchmarks
    assert (raw.name, raw.seconds) == ("tests/test_a.py::test_raw[64]", (0.001, 0.002, 0.004))
    assert raw.moments.mean == pytest.approx(math.log(0.002))
    assert raw.moments.squares == pytest.approx(2 * math.log(2) ** 2)
    assert (summary.name, summary.seconds, summary.moments.n) == ("tests/test_a.py::test_summary", (), 12)
    assert (saved.python, saved.cpu) == ("3.12.4", "Fictional CPU 9000")
    assert (saved.commit, saved.dirty) == ("0123abcd" * 5, False)
    assert saved.datetime == "2026-11-21T03:15:00+00:00"


@pytest.mark.parametrize("commit", [{"id": "unversioned", "dirty": False}, {"id": "unknown"}, {}, None, {"id": 7}])
def test_unknown_commit_is_none_and_neither_clean_nor_dirty(tmp_path: Path, commit: object) -> None:
    saved = read_rounds(write(tmp_path, make_file() | {"commit_info": commit}))
    assert (saved.commit, saved.dirty) == (None, None)


def test_machine_that_a_user_described_otherwise_is_unknown_not_an_error(tmp_path: Path) -> None:
    saved = read_rounds(write(tmp_path, make_file() | {"machine_info": {"cpu": "fast", "python_version": "\x1b[2J"}}))
    assert (saved.python, saved.cpu) == (None, None)


def test_summary_of_one_round_has_no_spread(tmp_path: Path) -> None:
    content = make_file()
    content["benchmarks"][1]["stats"] = {"mean": 0.5, "stddev": 0, "rounds": 1}
    moments = read_rounds(write(tmp_path, content)).benchmarks[1].moments
    assert (moments.n, moments.mean, moments.squares) == (1, math.log(0.5), 0.0)


@given(mean=st.floats(min_value=-15, max_value=5), deviation=st.floats(min_value=0.0, max_value=2.0))
def test_moments_of_a_log_normal_summary_are_its_own(mean: float, deviation: float) -> None:
    of_times = math.exp(mean + deviation**2 / 2)
    moments = moments_of_summary(of_times, of_times * math.sqrt(math.expm1(deviation**2)), 50)
    assert moments.mean == pytest.approx(mean, abs=1e-9)
    assert moments.squares == pytest.approx(49 * deviation**2, abs=1e-7)


def test_narrow_spread_gives_the_delta_methods_deviation() -> None:
    assert math.sqrt(moments_of_summary(2.0, 0.06, 9).squares / 8) == pytest.approx(0.03, rel=1e-3)


def change(place: int, member: str, value: object) -> Callable[[Json], None]:
    """Put `value` in the place of a member of a benchmark's stats, or of the benchmark itself."""

    def apply(content: Json) -> None:
        entry = content["benchmarks"][place]
        (entry if member == "fullname" else entry["stats"])[member] = value

    return apply


def drop(*path: str | int) -> Callable[[Json], None]:
    def apply(content: Any) -> None:  # noqa: ANN401 - any place in the file
        *parents, last = path
        for parent in parents:
            content = content[parent]
        del content[last]

    return apply


def set_benchmarks(value: object) -> Callable[[Json], None]:
    def apply(content: Json) -> None:
        content["benchmarks"] = value

    return apply


WRONG = {
    "zero time": (change(0, "data", [0.1, 0.0]), r"benchmarks\[0\]\.stats\.data holds 0\.0.*above 0"),
    "negative time": (change(0, "data", [-0.1]), "holds -0.1"),
    "NaN time": (change(0, "data", [0.1, math.nan]), r"benchmarks\[0\]\.stats\.data\[1\] must be a finite number"),
    "infinite time": (change(0, "data", [math.inf]), "must be a finite number"),
    "time as text": (change(0, "data", ["0.1"]), "must be a finite number, not '0.1'"),
    "time as truth": (change(0, "data", [True]), "must be a finite number, not True"),
    "no rounds": (change(0, "data", []), "is empty"),
    "data of no list": (change(0, "data", None), "must be a list, not None"),
    "no name": (drop("benchmarks", 0, "fullname"), r"benchmarks\[0\]\.fullname must be a string"),
    "empty name": (change(0, "fullname", ""), "fullname must be a string"),
    "name of control characters": (change(0, "fullname", "a\x1b[2J"), r"not 'a\\x1b\[2J'"),
    "name twice": (change(1, "fullname", "tests/test_a.py::test_raw[64]"), r"test_raw\[64\] appears twice"),
    "no stats": (drop("benchmarks", 0, "stats"), r"benchmarks\[0\]\.stats lacks mean, stddev, rounds"),
    "no deviation": (drop("benchmarks", 1, "stats", "stddev"), r"benchmarks\[1\]\.stats lacks stddev"),
    "zero mean": (change(1, "mean", 0), r"mean 0\.0 and rounds 12 must be above 0"),
    "zero rounds": (change(1, "rounds", 0), "rounds 0 must be above 0"),
    "NaN mean": (change(1, "mean", math.nan), r"stats\.mean must be a finite number"),
    "negative deviation": (change(1, "stddev", -0.1), r"stddev -0\.1 is impossible"),
    "impossible deviation": (change(1, "stddev", 2.0), r"stddev 2\.0 is impossible for 12 positive times of mean 0\.5"),
    "spread of one round": (change(1, "rounds", 1), "impossible for 1 positive"),
    "half a round": (change(1, "rounds", 1.5), "must be a 64-bit whole number"),
    "no benchmark": (set_benchmarks([]), "it holds no benchmark"),
    "benchmarks of no list": (set_benchmarks({}), "benchmarks must be a list"),
    "benchmark of no object": (set_benchmarks([3]), r"benchmarks\[0\]\.fullname"),
    "benchmarks missing": (drop("benchmarks"), "not an object with the members benchmarks and machine_info"),
    "machine missing": (drop("machine_info"), "not an object with the members"),
}


@pytest.mark.parametrize("case", WRONG)
def test_error_names_the_file_the_rule_and_a_remedy(tmp_path: Path, case: str) -> None:
    spoil, message = WRONG[case]
    content = make_file()
    spoil(content)
    with pytest.raises(BadInputError, match=message) as caught:
        read_rounds(write(tmp_path, content))
    assert str(tmp_path / "saved.json") in str(caught.value)
    assert "--benchmark-json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ('{"machine_info": {}, "benchmarks": [', "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "not an object"),
        ('{"benchmarks": ' + "9" * 5000 + ', "machine_info": {}}', "not valid JSON"),
    ],
)
def test_other_json_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        read_rounds(write(tmp_path, text))


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    path.write_bytes(b'{"machine_info": "\xff"}')
    with pytest.raises(BadInputError, match="not valid JSON"):
        read_rounds(path)


def test_missing_files_folders_and_pipes_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, message in (
        (tmp_path / "none", "no such file"),
        (tmp_path, "not a regular"),
        (pipe, "not a regular"),
    ):
        assert not is_rounds_file(path)
        with pytest.raises(BadInputError, match=message):
            read_rounds(path)


def test_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "saved.json"
    with path.open("wb") as file:
        file.write(b'{"machine_info": {}')
        file.truncate(rounds.MAX_FILE_BYTES + 1)
    with pytest.raises(BadInputError, match="larger than 256 MiB"):
        read_rounds(path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{\n    "machine_info": {', True),
        ('{"benchmarks":[]', True),
        ('{"header":{"schema_version":1}}\n', False),
        ('{"other": 1, "machine_info": {}}', False),
        ("", False),
        ("machine_info", False),
    ],
)
def test_kind_of_file_is_recognised_by_its_first_member(tmp_path: Path, text: str, *, expected: bool) -> None:
    assert is_rounds_file(write(tmp_path, text)) is expected


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.lists(st.floats(), max_size=3)
)
PLACES = st.sampled_from(
    [
        ("benchmarks",),
        ("machine_info",),
        ("benchmarks", 0),
        ("benchmarks", 0, "fullname"),
        ("benchmarks", 0, "stats"),
        ("benchmarks", 0, "stats", "data"),
        ("benchmarks", 0, "stats", "data", 1),
        ("benchmarks", 1, "stats", "mean"),
        ("benchmarks", 1, "stats", "stddev"),
        ("benchmarks", 1, "stats", "rounds"),
        ("commit_info", "dirty"),
        ("datetime",),
    ]
)


@given(place=PLACES, value=VALUES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_anywhere_is_refused_or_gives_finite_moments(
    tmp_path: Path, place: tuple[str | int, ...], value: object
) -> None:
    content: Any = make_file()
    holder = content
    for step in place[:-1]:
        holder = holder[step]
    holder[place[-1]] = copy.deepcopy(value)
    try:
        saved = read_rounds(write(tmp_path, content))
    except BadInputError:
        return
    for benchmark in saved.benchmarks:
        assert benchmark.name.isprintable()
        assert benchmark.moments.n >= 1
        assert math.isfinite(benchmark.moments.mean)
        assert 0 <= benchmark.moments.squares < math.inf
        assert benchmark.moments.n > 1 or benchmark.moments.squares == 0
