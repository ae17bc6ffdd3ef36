import dataclasses

import pytest
from bench_builders import (
    make_configuration,
    make_division,
    make_epoch,
    make_epochs,
    make_failure,
    make_footer,
    make_machine,
    make_measurement,
    make_record,
    make_run,
    make_software,
)

from bench.records import Accelerator, FailureKind, Fingerprint, Footer, Peak, Run, TrialWarning
from bench.tables.columns import default_columns, find_columns
from bench.tables.legend import count_failures, count_warnings, heading, legend
from bench.tables.machines import by_machine
from bench.tables.summary import PeakRate, summarise
from bench.warning_rules import ADVICE


def notes(run: Run, *keys: str) -> list[str]:
    summaries = summarise(run.records)
    columns = find_columns(keys) if keys else default_columns(summaries)
    return list(legend(run, summaries, columns, ()))


def test_utilisation_above_the_peak_or_without_one_is_explained() -> None:
    run = make_run([make_configuration(threads=threads) for threads in (1, 2)])
    columns = find_columns(("threads", "flops_utilisation"))

    def told(peak_rate: PeakRate) -> str:
        return "\n".join(legend(run, summarise(run.records, peak_rate), columns, ()))

    assert "of measured peak (" not in told(lambda _: 1e15)
    text = told(lambda c: 1.0 if c.threads == 1 else None)
    assert "(1 of 2 rows above 100 %): faster than the calibrated peak: calibrate again on a quiet machine" in text
    assert "(1 of 2 rows empty): not calibrated for this device, precision, thread count and torch version" in text
    assert not any("measured peak" in line for line in notes(run))


def test_utilisation_says_of_which_measured_peaks() -> None:
    chosen = [make_configuration(threads=threads, batch_size=size) for size in (64, 256) for threads in (1, 2)]
    run = make_run([*chosen, make_configuration(precision="bf16", world_size=2), make_configuration(threads=8)])
    peaks = {("fp32", 1): 50e9, ("fp32", 2): 95e9, ("bf16", 2): 30e9}
    summaries = summarise(run.records, lambda c: peaks.get((c.precision, c.threads)))

    def told(key: str) -> list[str]:
        shown = legend(run, summaries, find_columns((key,)), ())
        return [line for line in shown if line.startswith("of measured peak: ")]

    peak_note = (
        "of measured peak: 30.0 GFLOP/s on cpu in bf16 with 2 threads for each rank; 50.0 GFLOP/s on cpu in fp32 with "
        "1 thread; 95.0 GFLOP/s on cpu in fp32 with 2 threads"
    )
    assert told("flops_utilisation") == told("flops_utilisation_low") == [peak_note]
    assert not told("training_flops_per_second")


def test_a_single_trial_above_the_peak_is_enough_to_doubt_it() -> None:
    seconds = (2.0, 2.0, 1.0)  # the peak would take 1.5 s
    measurements = [make_measurement(epochs=(make_epoch(train_seconds=each),)) for each in seconds]
    run = make_run(records=[make_record(repeat=i, outcome=each) for i, each in enumerate(measurements)])
    peak = measurements[0].training_flops_per_sample * make_epoch().train_samples / 1.5
    columns = find_columns(("flops_utilisation",))
    told = legend(run, summarise(run.records, lambda _: peak), columns, ())
    assert any("(1 of 1 rows above 100 %)" in note for note in told)


def test_heading_names_run_machine_and_software() -> None:
    title, machine = heading(make_run().header)
    hardware = "Fictional CPU 9000 (4 of 8 logical cores), Fictional GPU F1, 16.0 GiB memory"
    assert title == "run 0a1b2c3d, nightly, 2026-11-21T03:15:00Z"
    assert machine == f"{hardware}, torch 2.11.0, Python 3.12.4, Linux"
    slowed = make_software(variables="CUDA_LAUNCH_BLOCKING=1")
    assert heading(make_run(software=slowed).header)[1].endswith(", Linux, with CUDA_LAUNCH_BLOCKING=1")


def test_heading_counts_equal_accelerators_and_omits_an_empty_name() -> None:
    gpus = tuple(Accelerator(device=f"cuda:{index}", name="F1", memory_bytes=None) for index in range(2))
    title, machine = heading(make_run(name="", machine=make_machine(accelerators=gpus, cores_usable=1.5)).header)
    assert title == "run 0a1b2c3d, 2026-11-21T03:15:00Z"
    assert machine.startswith("Fictional CPU 9000 (1.5 of 8 logical cores), F1 x 2, 16.0 GiB memory")


def test_heading_is_harmless() -> None:
    run = make_run(
        name="\x1b]0;owned\x07" + "n" * 500,
        machine=make_machine(cpu_model="\x1b[31m" + "c" * 500, operating_system="L\nx"),
        software=make_software(torch="2\u202e", python="3\x00"),
    )
    text = "".join(heading(run.header))
    assert text.isprintable()
    assert len(text) < 300


def test_constant_dimensions_are_listed_once_below_the_table() -> None:
    constant = "dataset mnist, pipeline resident, engine eager, precision fp32"
    assert f"every row: {constant}, threads 2, epochs 3" in notes(make_run())
    varied = make_run([make_configuration(threads=1), make_configuration(threads=2)])
    assert f"every row: {constant}, epochs 3" in notes(varied)


def test_dimensions_that_chosen_columns_hide_are_named() -> None:
    varied = make_run([make_configuration(threads=1), make_configuration(threads=2, batch_size=256)])
    assert "rows also differ in batch_size, threads: add this to --columns" in notes(varied, "model", "epoch_seconds")
    assert not [note for note in notes(varied) if "differ" in note]


def test_the_range_is_explained_only_where_one_is_shown() -> None:
    assert [note for note in notes(make_run()) if note.startswith("±: half the range")]
    assert not [note for note in notes(make_run(repeats=1)) if note.startswith("±")]


def test_peak_memory_is_explained_with_what_measured_it() -> None:
    device_peak = make_measurement(device_allocated_peak=Peak(bytes=7, method="allocator"), host_peak=None)
    cpu, cuda = make_configuration(), make_configuration(device="cuda")
    run = make_run([cpu, cuda], 1, records=[make_record(cpu), make_record(cuda, outcome=device_peak)])
    told = [note for note in notes(run) if note.startswith("peak memory")]
    assert told == [
        "peak memory on cpu: host memory above what the imports took (VmHWM)",
        "peak memory on accelerators: device memory of tensors (allocator)",
    ]
    assert not [note for note in notes(run, "model", "n") if note.startswith("peak memory")]


def test_peak_memory_is_explained_for_shown_rows_only() -> None:
    cpu, cuda = make_configuration(), make_configuration(device="cuda")
    run = make_run([cpu, cuda], 1, records=[make_record(cpu), make_record(cuda)])
    shown = [summary for summary in summarise(run.records) if summary.configuration == cuda]
    assert not [note for note in legend(run, shown, default_columns(shown), ()) if note.startswith("peak memory")]


def test_reason_for_missing_energy_is_given_once_and_only_with_its_columns() -> None:
    outcome = make_measurement(energy_reason="RAPL: nothing there")
    run = make_run(records=[make_record(repeat=repeat, outcome=outcome) for repeat in range(3)])
    told = [line for line in notes(run, "model", "joules_per_epoch") if "RAPL: nothing there" in line]
    assert len(told) == 1
    assert told[0].startswith("energy not measured: ")
    assert not any("RAPL" in line for line in notes(run))


def test_columns_of_ranks_without_values_are_explained() -> None:
    said = "weak efficiency, exchange share: measured by runs with several ranks, such as --world-size 1,2"
    run = make_run(records=[make_record()])
    assert said in notes(run, "weak_efficiency", "exchange_share_median")
    assert "several ranks" not in " ".join(notes(run, "epoch_seconds"))


def test_reason_for_missing_energy_is_given_for_shown_rows_only() -> None:
    devices = {device: make_configuration(device=device) for device in ("cpu", "cuda:0")}
    records = [make_record(each, outcome=make_measurement(energy_reason=name)) for name, each in devices.items()]
    shown = summarise(records[:1])
    told = legend(make_run(records=records), shown, find_columns(("device", "joules_per_epoch")), ())
    assert "energy not measured: cpu: cpu" in told
    assert not any("cuda:0" in note for note in told)


def test_failures_are_counted_by_kind_with_the_first_message() -> None:
    kinds = [
        (FailureKind.TIMEOUT, "60 s"),
        (FailureKind.CRASH, "signal 9\nTrace\x1b[1m"),
        (FailureKind.TIMEOUT, "61 s"),
    ]
    records = [make_record(repeat=repeat, outcome=make_failure(*kind)) for repeat, kind in enumerate(kinds)]
    run = make_run(records=records)
    told = [note for note in notes(run) if note.startswith("failed")]
    assert told == [
        "failed: 1 trial with crash; first message: signal 9 Trace?[1m",
        "failed: 2 trials with timeout; first message: 60 s",
    ]
    assert [failed.count for failed in count_failures(summarise(run.records))] == [1, 2]


def test_each_warning_is_explained_once_with_the_rows_it_concerns() -> None:
    configurations = [make_configuration(batch_size=size) for size in (32, 64, 128)]
    records = [make_record(configuration, repeat) for configuration in configurations for repeat in range(3)]
    records[0] = dataclasses.replace(records[0], warnings=(TrialWarning.STALL,))
    records[1] = dataclasses.replace(records[1], warnings=(TrialWarning.STALL,))
    records[4] = dataclasses.replace(records[4], warnings=(TrialWarning.STALL,))
    run = make_run(configurations, records=records)
    assert count_warnings(summarise(records)) == {TrialWarning.STALL: 2}
    told = [note for note in notes(run) if note.startswith("warning")]
    assert told == [f"warning stall (2 of 3 rows): {ADVICE[TrialWarning.STALL]}"]


@pytest.mark.parametrize("footer", [None, make_footer(complete=False, reason="interrupted", missing=2)])
def test_an_incomplete_run_says_how_much_is_missing_and_how_to_resume(footer: Footer | None) -> None:
    run = make_run([make_configuration(), make_configuration(threads=1)], 3)
    cut = dataclasses.replace(run, records=run.records[:4], footer=footer)
    assert not cut.is_complete
    assert "run incomplete: 2 of 6 trials missing; resume with python -m bench run --resume 0a1b2c3d" in notes(cut)


def test_a_trial_stored_twice_is_not_counted_twice() -> None:
    run = make_run(repeats=3)
    cut = dataclasses.replace(run, records=(run.records[0], run.records[0]), footer=None)
    assert [note for note in notes(cut) if note.startswith("run incomplete: 2 of 3")]


def test_a_run_whose_footer_counts_more_trials_than_are_left_is_incomplete() -> None:
    run = make_run([make_configuration(), make_configuration(threads=1)], 3)
    cut = dataclasses.replace(run, records=run.records[:4])
    assert cut.footer is not None
    assert cut.footer.complete
    assert not cut.is_complete
    assert [note for note in notes(cut) if note.startswith("run incomplete: 2 of 6 trials missing")]


def test_failed_trials_that_were_deleted_from_the_file_are_missed_too() -> None:
    failed = make_record(repeat=2, outcome=make_failure())
    run = make_run(repeats=3, records=[make_record(), make_record(repeat=1), failed])
    cut = dataclasses.replace(run, records=run.records[:2])
    assert (run.is_complete, cut.is_complete) == (True, False)
    assert [note for note in notes(cut) if note.startswith("run incomplete: 1 of 3 trials missing")]


def test_a_shard_counts_the_trials_of_the_others_with_their_repeats() -> None:
    run = make_run(repeats=3, division=make_division((1,), of=4))
    assert [note for note in notes(run) if note.startswith("shard 1 of 4: 9 of 12 trials are in other shards")]
    assert run.footer is not None
    assert run.footer.complete
    assert not run.is_complete


def test_part_of_a_complete_run_that_one_machine_measured_is_complete() -> None:
    run = make_run(repeats=3)
    moved = tuple(dataclasses.replace(each, fingerprint=int(each.trial.repeat == 1)) for each in run.records)
    other = Fingerprint(machine=make_machine(cpu_model="Fictional CPU 1"), software=run.header.software)
    parts = by_machine(dataclasses.replace(run, records=moved, other_fingerprints=(other,))).values()
    assert [len(part.records) for part in parts] == [2, 1]
    assert all(part.is_complete for part in parts)
    assert not [note for part in parts for note in notes(part) if "incomplete" in note]


def test_parts_of_a_run_that_lost_lines_are_incomplete() -> None:
    run = make_run(repeats=3)
    moved = tuple(dataclasses.replace(each, fingerprint=int(each.trial.repeat == 1)) for each in run.records[:2])
    other = Fingerprint(machine=make_machine(cpu_model="Fictional CPU 1"), software=run.header.software)
    parts = by_machine(dataclasses.replace(run, records=moved, other_fingerprints=(other,))).values()
    assert [part.is_complete for part in parts] == [False, False]


def test_a_complete_run_says_nothing_of_it() -> None:
    assert make_run().is_complete
    assert not [note for note in notes(make_run()) if "incomplete" in note]


def test_warnings_about_the_file_are_shown_harmlessly() -> None:
    run = dataclasses.replace(make_run(), warnings=("line 7 is torn\x1b[2J",))
    assert notes(run)[-1] == "file: line 7 is torn?[2J"


# --- flagged trials


def flag(run: Run, repeats: int, *seconds: float) -> Run:
    """`run` with a stall in its first trials of each configuration, one for each of `seconds`, its epoch time."""
    records = []
    for record in run.records:
        if record.trial.repeat < repeats:
            outcome = make_measurement(epochs=make_epochs([seconds[record.trial.repeat]], [9_725]))
            records.append(dataclasses.replace(record, outcome=outcome, warnings=(TrialWarning.STALL,)))
        else:
            records.append(record)
    return dataclasses.replace(run, records=tuple(records))


def test_epoch_time_is_shown_with_and_without_flagged_trials_if_it_differs() -> None:
    assert "cpu 784-128-10 batch 64: 1 of 3 trials flagged; 2.13 s with them, 2.12 s without" not in notes(make_run())
    told = notes(flag(make_run(repeats=4), 3, 4.0, 4.5, 5.0))
    assert "cpu 784-128-10 batch 64: 3 of 4 trials flagged; 4.25 s with them, 2.12 s without" in told


def test_median_that_flagged_trials_do_not_change_is_shown_once() -> None:
    assert "cpu 784-128-10 batch 64: 1 of 3 trials flagged; 2.12 s with or without" in notes(flag(make_run(), 1, 9.0))


def test_all_trials_flagged_leave_nothing() -> None:
    told = notes(flag(make_run(), 3, 2.0, 2.0, 2.0))
    assert "cpu 784-128-10 batch 64: every trial is flagged, so nothing would be left without them" in told


def test_rows_whose_trials_are_all_flagged_are_counted_and_crowd_out_no_other() -> None:
    configurations = [make_configuration(batch_size=size) for size in range(1, 8)]
    run = flag(make_run(configurations), 3, 8.0, 8.0, 8.0)
    last = [record for record in run.records if record.trial.configuration == configurations[6]]
    records = [record for record in run.records if record not in last]
    calm = [dataclasses.replace(last[0], warnings=()), *last[1:]]
    told = [note for note in notes(dataclasses.replace(run, records=(*records, *calm))) if "flagged" in note]
    assert told == [
        "6 of 7 rows: every trial is flagged, so nothing would be left without them",
        "cpu 784-128-10 batch 7: 2 of 3 trials flagged; 8.00 s with or without",
    ]


def test_a_single_flagged_trial_has_its_warning_and_no_more() -> None:
    assert not [note for note in notes(flag(make_run(repeats=1), 1, 2.0)) if "flagged" in note]


def test_five_configurations_with_flagged_trials_are_listed_largest_change_first_and_the_others_counted() -> None:
    configurations = [make_configuration(batch_size=size, threads=each) for size in (8, 64, 99) for each in (1, 2)]
    run = flag(make_run(configurations), 2, 8.0, 9.0)
    calm = [record for record in run.records if record.trial.configuration != configurations[3]]
    told = [note for note in notes(dataclasses.replace(run, records=tuple(calm))) if "flagged" in note]
    assert len(told) == 5
    assert told[0] == "cpu 784-128-10 batch 8, threads 1: 2 of 3 trials flagged; 8.00 s with them, 2.12 s without"
    run = dataclasses.replace(
        run,
        records=tuple(
            dataclasses.replace(record, outcome=make_measurement(epochs=make_epochs([30.0], [9_725])))
            if record.warnings and record.trial.configuration == configurations[4]
            else record
            for record in run.records
        ),
    )
    told = [note for note in notes(run) if "flagged" in note]
    assert told[0] == "cpu 784-128-10 batch 99, threads 1: 2 of 3 trials flagged; 30.0 s with them, 2.12 s without"
    assert len(told) == 6
    assert told[-1] == "1 more with flagged trials: add flagged and unflagged_epoch_seconds to --columns"
