"""Machine profiles: what they derive from stored calibrations, and that only whole, sound ones are read."""

import dataclasses
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench_builders import make_configuration, make_machine, make_software
from checkout import ROOT
from hypothesis import given
from hypothesis import strategies as st
from rates_builders import make_rates, make_thread_rates, make_transfers
from scipy import stats as scipy_stats

from bench.calibration.profiles import (
    MAX_SESSIONS,
    SCHEMA_VERSION,
    DeviceSession,
    MachineProfile,
    Session,
    load_profile,
    new_profile,
    peak_rate_of,
    save_profile,
)
from bench.coding import to_json
from bench.errors import BadInputError, StorageError

RATIOS = (0.03, -0.02, 0.01, 0.0, -0.015, 0.02)
MACHINE = make_machine()
SOFTWARE = make_software()


def make_device(**changes: Any) -> DeviceSession:  # noqa: ANN401 - the changes go to dataclasses.replace
    device = DeviceSession(
        device="cpu",
        threads=2,
        configuration=make_configuration(batch_size=256),
        aa_log_ratios=RATIOS,
        seeds=(0, 1, 2),
        epoch_seconds=(0.5, 0.4, 0.6),
        test_accuracies=(0.97, 0.972, 0.971),
        yardstick_seconds=(0.02, 0.021, 0.03),
    )
    return dataclasses.replace(device, **changes)


def make_session(*devices: DeviceSession, day: int = 1, **software: Any) -> Session:  # noqa: ANN401 - the changes go to dataclasses.replace
    return Session(
        created_at=f"2026-11-{day:02}T03:00:00+00:00",
        software=make_software(**software),
        wall_seconds=60.0,
        devices=devices or (make_device(),),
    )


def make_profile(*sessions: Session) -> MachineProfile:
    return dataclasses.replace(new_profile(MACHINE), sessions=sessions or (make_session(),))


def profile_of(epoch_times: Sequence[float]) -> MachineProfile:
    """Return a profile with one session a time: its median epoch time."""
    return make_profile(
        *(make_session(make_device(epoch_seconds=(seconds / 2, seconds, seconds * 3))) for seconds in epoch_times)
    )


def test_a_profile_of_the_first_version_is_read_and_grows_into_the_newest(tmp_path: Path) -> None:
    content = stored(tmp_path) | {"schema_version": 1}
    path = next(tmp_path.rglob("*.json"))
    path.write_text(json.dumps(content))
    old = load_profile(MACHINE.id, tmp_path)
    assert old is not None
    figures = old.figures("cpu")
    assert figures is not None
    assert figures.peak_flops_per_second is None
    assert (figures.rates, figures.thread_rates) == ((), ())
    peaks = (1.5e11, 1.7e11, 1.6e11)
    grown = old.with_session(MACHINE, make_session(make_device(peak_flops_per_second=peaks), day=2))
    save_profile(grown, tmp_path)
    read = load_profile(MACHINE.id, tmp_path)
    assert read == grown
    assert json.loads(path.read_text())["schema_version"] == SCHEMA_VERSION
    figures = grown.figures("cpu")
    assert figures is not None
    assert figures.peak_flops_per_second == 1.7e11


def test_rates_are_stored_and_read(tmp_path: Path) -> None:
    gpu = make_device(device="cuda:0", rates=(make_rates(transfers=make_transfers()), make_rates(precision="tf32")))
    profile = make_profile(make_session(make_device(rates=(make_rates(),), thread_rates=(make_thread_rates(),)), gpu))
    save_profile(profile, tmp_path)
    assert load_profile(MACHINE.id, tmp_path) == profile


def test_the_profiles_in_this_checkout_are_read_as_they_are() -> None:
    results = ROOT / "results"
    for path in (results / "machines").glob("*.json"):
        profile = load_profile(path.stem, results)
        assert profile is not None
        for device in {measured.device for session in profile.sessions for measured in session.devices}:
            assert profile.figures(device) is not None


# Rates


def measured(*rates: Any, threads: tuple[int, ...] = (), **changes: Any) -> MachineProfile:  # noqa: ANN401 - any field
    return make_profile(
        make_session(make_device(rates=rates, thread_rates=tuple(map(make_thread_rates, threads)), **changes))
    )


def test_the_peak_is_the_highest_rate_of_that_precision_and_thread_count() -> None:
    bf16 = make_rates(precision="bf16", square_flops_per_second=9e11, layers=())
    profile = measured(make_rates(), bf16, threads=(1, 2), peak_flops_per_second=(4.1e11,))
    assert profile.peak_flops_per_second("cpu", "fp32", 2, SOFTWARE) == 4.2e11
    assert profile.peak_flops_per_second("cpu", "bf16", 2, SOFTWARE) == 9e11
    assert profile.peak_flops_per_second("cpu", "fp32", 1, SOFTWARE) == 2.1e11


def test_the_peak_includes_what_the_second_version_of_the_format_holds() -> None:
    assert measured(peak_flops_per_second=(4e11, 5e11)).peak_flops_per_second("cpu", "fp32", 2, SOFTWARE) == 5e11
    assert (
        measured(make_rates(), peak_flops_per_second=(5e11,)).peak_flops_per_second("cpu", "fp32", 2, SOFTWARE) == 5e11
    )


@pytest.mark.parametrize(
    ("device", "precision", "threads"),
    [("cpu", "tf32", 2), ("cpu", "bf16", 2), ("cpu", "fp32", 3), ("cpu", "bf16", 1), ("cuda:0", "fp32", 2)],
)
def test_a_configuration_that_was_not_measured_has_no_peak(device: str, precision: str, threads: int) -> None:
    profile = measured(make_rates(), threads=(1, 2), peak_flops_per_second=(4.1e11,))
    assert profile.peak_flops_per_second(device, precision, threads, SOFTWARE) is None
    assert make_profile().peak_flops_per_second("cpu", "fp32", 2, SOFTWARE) is None


def test_an_accelerators_rates_hold_for_any_number_of_the_hosts_threads() -> None:
    profile = measured(make_rates(), device="cuda:0", peak_flops_per_second=(5e11,))
    for threads in (1, 2, 64):
        assert profile.peak_flops_per_second("cuda:0", "fp32", threads, SOFTWARE) == 5e11
        assert profile.peak_flops_per_second("cuda:0", "bf16", threads, SOFTWARE) is None


def test_a_calibration_on_a_busy_machine_does_not_lower_the_peak() -> None:
    fast = make_session(make_device(rates=(make_rates(square_flops_per_second=9e11),), threads=1), workload="0.0.1")
    profile = make_profile(fast, make_session(make_device(rates=(make_rates(),))), make_session())
    assert profile.peak_flops_per_second("cpu", "fp32", 2, SOFTWARE) == 9e11
    figures = profile.figures("cpu")
    assert figures is not None
    assert figures.peak_flops_per_second == 9e11


@pytest.mark.parametrize(
    "change", [{"torch": "2.12.0"}, {"cuda": None}, {"blas": "openblas"}, {"variables": "MKL_DYNAMIC=1"}], ids=str
)
def test_the_peak_of_a_run_is_that_of_its_own_libraries(change: dict[str, Any]) -> None:
    other = make_session(make_device(rates=(make_rates(square_flops_per_second=9e11),)), **change)
    profile = make_profile(make_session(make_device(rates=(make_rates(),))), other)
    assert profile.peak_flops_per_second("cpu", "fp32", 2, SOFTWARE) == 4.2e11
    assert profile.peak_flops_per_second("cpu", "fp32", 2, make_software(**change)) == 9e11
    assert profile.peak_flops_per_second("cpu", "fp32", 2, make_software(torch="2.13.0")) is None
    assert peak_rate_of(profile, SOFTWARE)(make_configuration()) == 4.2e11
    assert peak_rate_of(None, SOFTWARE)(make_configuration()) is None


def test_figures_hold_the_newest_sessions_rates_and_nothing_where_none_were_measured() -> None:
    figures = measured(make_rates(), threads=(1,)).figures("cpu")
    assert figures is not None
    assert (figures.rates, figures.thread_rates) == ((make_rates(),), (make_thread_rates(1),))
    figures = make_profile().figures("cpu")
    assert figures is not None
    assert (figures.rates, figures.thread_rates, figures.peak_flops_per_second) == ((), (), None)


# A/A floor


def test_the_floor_is_the_farther_end_of_the_interval_that_scipy_gives() -> None:
    low, high = scipy_stats.t.interval(
        0.95, len(RATIOS) - 1, loc=statistics.fmean(RATIOS), scale=scipy_stats.sem(RATIOS)
    )
    assert make_profile().ab_floor("cpu") == pytest.approx(max(abs(low), abs(high)))


@given(st.lists(st.floats(-0.5, 0.5), min_size=3, max_size=30))
def test_the_floor_is_never_below_the_mean_and_blind_to_sign_and_order(ratios: list[float]) -> None:
    floors = [
        make_profile(make_session(make_device(aa_log_ratios=tuple(values)))).ab_floor("cpu")
        for values in (ratios, ratios[::-1], [-ratio for ratio in ratios])
    ]
    assert floors[0] is not None
    assert floors[0] >= abs(statistics.fmean(ratios))
    assert floors[1:] == [pytest.approx(floors[0]), pytest.approx(floors[0])]


def test_two_pairs_make_no_floor_and_an_unknown_device_has_none() -> None:
    assert make_profile(make_session(make_device(aa_log_ratios=(0.01, 0.02)))).ab_floor("cpu") is None
    assert make_profile().ab_floor("cuda:0") is None


def test_the_floor_is_that_of_the_newest_session_of_the_device() -> None:
    wide = make_session(make_device(aa_log_ratios=tuple(10 * ratio for ratio in RATIOS)))
    elsewhere = make_session(make_device(device="cuda:0"))
    assert make_profile(wide, make_session(), elsewhere).ab_floor("cpu") == make_profile().ab_floor("cpu")


# Drift


def test_drift_is_the_deviation_of_the_log_medians_of_the_sessions() -> None:
    times = [0.5, 0.6, 0.45, 0.5]
    expected = statistics.stdev([math.log(seconds) for seconds in times])
    assert profile_of(times).drift_deviation("cpu") == pytest.approx(expected)
    assert profile_of(times).drift_freedom("cpu") == len(times) - 1


def test_a_sessions_fastest_trial_has_no_part_in_the_drift() -> None:
    times = ((0.1, 0.5, 0.5), (0.4, 0.5, 0.6), (0.5, 0.5, 9.0))
    profile = make_profile(*(make_session(make_device(epoch_seconds=each)) for each in times))
    assert profile.drift_deviation("cpu") == 0


def test_two_sessions_are_too_few_for_a_drift() -> None:
    assert profile_of([0.5, 0.6]).drift_deviation("cpu") is None
    assert profile_of([0.5, 0.6]).drift_freedom("cpu") is None


@pytest.mark.parametrize(
    "change", [{"torch": "2.12.0"}, {"cuda": None}, {"blas": "openblas"}, {"workload": "0.2.0"}], ids=str
)
def test_sessions_of_other_software_do_not_mix(change: dict[str, Any]) -> None:
    slow = make_device(epoch_seconds=(5.0, 5.0, 5.0), test_accuracies=(0.5, 0.6, 0.7))
    old = [make_session(slow, **change)] * 3
    mixed = make_profile(*old, make_session(), make_session(), make_session())
    assert mixed.drift_deviation("cpu") == 0
    assert mixed.accuracy_deviation("cpu") == pytest.approx(make_profile().accuracy_deviation("cpu"))
    figures = mixed.figures("cpu")
    assert figures is not None
    assert figures.sessions == 3


@pytest.mark.parametrize("change", [{"threads": 1}, {"configuration": make_configuration(batch_size=64)}], ids=str)
def test_sessions_of_another_configuration_or_thread_count_do_not_mix(change: dict[str, Any]) -> None:
    profile = make_profile(make_session(make_device(**change)), make_session(), make_session())
    assert profile.drift_deviation("cpu") is None


def test_a_new_commit_or_kernel_does_not_begin_the_drift_anew() -> None:
    other = make_session(git_commit="f" * 40, git_dirty=True, operating_system_release="7.0.0")
    assert make_profile(other, make_session(), other).drift_deviation("cpu") == 0


# Seeds


def test_accuracy_deviation_is_over_the_seeds_of_all_sessions() -> None:
    second = make_device(
        seeds=(3, 4), epoch_seconds=(1.0, 1.0), test_accuracies=(0.96, 0.975), yardstick_seconds=(1, 1)
    )
    deviation = make_profile(make_session(), make_session(second)).accuracy_deviation("cpu")
    assert deviation == pytest.approx(statistics.stdev([0.97, 0.972, 0.971, 0.96, 0.975]))


def test_the_same_seeds_again_are_no_new_knowledge() -> None:
    once, twice = make_profile(), make_profile(make_session(), make_session())
    assert twice.accuracy_deviation("cpu") == pytest.approx(once.accuracy_deviation("cpu"))
    figures = twice.figures("cpu")
    assert figures is not None
    assert figures.seeds == 3


def test_two_seeds_are_too_few_for_a_deviation() -> None:
    two = make_device(
        seeds=(0, 1), epoch_seconds=(0.5,) * 2, test_accuracies=(0.97,) * 2, yardstick_seconds=(0.02,) * 2
    )
    assert make_profile(make_session(two)).accuracy_deviation("cpu") is None


def test_the_next_seed_is_above_all_that_were_used() -> None:
    assert new_profile(MACHINE).unused_seed() == 0
    assert make_profile(make_session(make_device(device="cuda:0", seeds=(7, 8, 9)))).unused_seed() == 10


# Figures


def test_figures_hold_the_newest_medians_and_estimates_from_all_sessions() -> None:
    profile = make_profile()
    figures = profile.figures("cpu")
    assert figures is not None
    assert (figures.epoch_seconds, figures.yardstick_seconds) == (0.5, 0.021)
    assert (figures.pairs, figures.seeds, figures.sessions, figures.threads) == (6, 3, 1, 2)
    assert figures.ab_floor == profile.ab_floor("cpu")
    assert figures.pair_deviation == statistics.stdev(RATIOS)
    assert figures.epoch_deviation == pytest.approx(statistics.stdev([math.log(s) for s in (0.5, 0.4, 0.6)]))
    assert figures.drift_deviation is None
    assert profile.figures("mps") is None


def test_a_stalled_trial_does_not_move_what_a_session_shows() -> None:
    figures = make_profile(
        make_session(make_device(epoch_seconds=(0.4, 0.5, 9.0), yardstick_seconds=(0.02, 0.021, 0.9)))
    ).figures("cpu")
    assert figures is not None
    assert (figures.epoch_seconds, figures.yardstick_seconds) == (0.5, 0.021)


def test_the_peak_of_a_device_is_that_of_the_libraries_it_was_last_calibrated_with() -> None:
    profile = make_profile(
        make_session(make_device(rates=(make_rates(),))), make_session(make_device(device="cuda:0"), torch="2.12.0")
    )
    figures = profile.figures("cpu")
    assert figures is not None
    assert figures.peak_flops_per_second == 4.2e11


# Appending


def test_sessions_are_appended_and_the_oldest_dropped() -> None:
    profile = new_profile(MACHINE)
    for _ in range(MAX_SESSIONS):
        profile = profile.with_session(MACHINE, make_session(day=1))
    profile = profile.with_session(MACHINE, make_session(day=2))
    assert len(profile.sessions) == MAX_SESSIONS
    assert profile.sessions[-1].created_at.startswith("2026-11-02")


# Storing


def test_a_saved_profile_is_loaded_unchanged(tmp_path: Path) -> None:
    profile = make_profile(make_session(), make_session(make_device(device="cuda:0")))
    path = save_profile(profile, tmp_path / "results")
    assert path == tmp_path / "results" / "machines" / f"{MACHINE.id}.json"
    assert load_profile(MACHINE.id, tmp_path / "results") == profile
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_machine_that_was_never_calibrated_has_no_profile(tmp_path: Path) -> None:
    assert load_profile(MACHINE.id, tmp_path) is None


def refused(tmp_path: Path, content: bytes, *words: str) -> None:
    path = tmp_path / "machines" / f"{MACHINE.id}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(BadInputError) as refusal:
        load_profile(MACHINE.id, tmp_path)
    for word in (str(path), *words):
        assert word in str(refusal.value)
    assert path.read_bytes() == content


def stored(tmp_path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(save_profile(make_profile(), tmp_path).read_text())
    return data


def test_a_profile_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    content = save_profile(make_profile(), tmp_path).read_bytes()
    for end in range(0, len(content) - 1, 97):
        refused(tmp_path, content[:end], "calibrate")


def test_a_newer_schema_is_refused_and_says_so(tmp_path: Path) -> None:
    newer = json.dumps(stored(tmp_path) | {"schema_version": SCHEMA_VERSION + 1}).encode()
    refused(tmp_path, newer, f"newer than {SCHEMA_VERSION}, the newest known here; use a newer bench, or another --res")
    with pytest.raises(BadInputError, match=r"--results$"):  # and not to move it away
        load_profile(MACHINE.id, tmp_path)


@pytest.mark.parametrize("version", [0, -1, "1", None, True, 1.0])
def test_an_unknown_schema_is_refused(tmp_path: Path, version: object) -> None:
    content = json.dumps(stored(tmp_path) | {"schema_version": version}).encode()
    refused(tmp_path, content, "schema version")


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("aa_log_ratios", [0.1, "fast"]),
        ("aa_log_ratios", [0.1, 1e999]),
        ("epoch_seconds", [0.5, 0.0, 0.6]),
        ("epoch_seconds", [0.5, -1.0, 0.6]),
        ("yardstick_seconds", [0.5, 0.0, 0.6]),
        ("epoch_seconds", [0.5]),
        ("test_accuracies", [0.5, 97.0, 0.6]),
        ("seeds", []),
        ("rates", [to_json(make_rates()) | {"square_flops_per_second": 0.0}]),
        ("thread_rates", [to_json(make_thread_rates()) | {"triad_bytes_per_second": -1.0}]),
        ("nonsense", 1),
    ],
)
def test_a_value_that_cannot_have_been_measured_is_refused(tmp_path: Path, member: str, value: object) -> None:
    data = stored(tmp_path)
    data["sessions"][0]["devices"][0][member] = value
    refused(tmp_path, json.dumps(data).encode(), "calibrat")


def test_a_profile_under_another_machines_name_is_refused(tmp_path: Path) -> None:
    data = stored(tmp_path)
    data["machine"]["cpu_model"] = "Another CPU"
    refused(tmp_path, json.dumps(data).encode(), "holds for one machine")


@pytest.mark.parametrize("machine_id", ["../secret", "a/b", "..\\secret", "/etc/passwd"])
def test_a_machine_id_that_leads_elsewhere_is_refused(tmp_path: Path, machine_id: str) -> None:
    with pytest.raises(BadInputError, match="is not a file name"):
        load_profile(machine_id, tmp_path)


def test_a_failed_write_leaves_the_old_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = make_profile()
    path = save_profile(old, tmp_path)

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_profile(old.with_session(MACHINE, make_session()), tmp_path)
    assert load_profile(MACHINE.id, tmp_path) == old
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file")
    with pytest.raises(StorageError, match="--results"):
        save_profile(make_profile(), tmp_path / "results")
