"""Builders of records for tests: valid, plausible and fictional; every builder takes the fields to change."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bench.records import (
    SCHEMA_VERSION,
    Accelerator,
    Configuration,
    Contention,
    DeviceConditions,
    Division,
    Energy,
    EpochRecord,
    Exchange,
    Failure,
    FailureKind,
    Fingerprint,
    Footer,
    Header,
    Machine,
    Measurement,
    Peak,
    Plan,
    Run,
    Settings,
    Shard,
    Software,
    Trial,
    TrialRecord,
)

TRAIN_SAMPLES = 60_000
TEST_SAMPLES = 10_000

# Any: the changes go to dataclasses.replace, which mypy cannot check either.
Change = Any


def make_configuration(**changes: Change) -> Configuration:
    configuration = Configuration(
        device="cpu",
        model="784-128-10",
        layers=(784, 128, 10),
        activation="relu",
        output="logits",
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=0.001,
        momentum=0.0,
        weight_decay=0.0,
        batch_size=64,
        test_batch_size=1000,
        epochs=3,
        transform="mnist",
        shuffle=True,
        dataset="mnist",
        precision="fp32",
        engine="eager",
        pipeline="resident",
        workers=0,
        threads=2,
    )
    return dataclasses.replace(configuration, **changes)


def make_contention(**changes: Change) -> Contention:
    contention = Contention(
        process_cpu_seconds=3.9, other_cpu_seconds=0.05, steal_seconds=0.01, involuntary_switches=12
    )
    return dataclasses.replace(contention, **changes)


def make_conditions(**changes: Change) -> DeviceConditions:
    conditions = DeviceConditions(
        clock_hertz=1.41e9,
        max_clock_hertz=1.98e9,
        temperature_celsius=61.0,
        clock_reasons=("sw_power_cap",),
        other_processes=0,
    )
    return dataclasses.replace(conditions, **changes)


def make_energy(**changes: Change) -> Energy:
    return dataclasses.replace(Energy(joules=480.0, seconds=6.375, method="NVML total energy counter"), **changes)


def make_epoch(**changes: Change) -> EpochRecord:
    epoch = EpochRecord(
        train_seconds=2.0,
        train_samples=TRAIN_SAMPLES,
        train_loss=0.125,
        train_correct=57_600,
        test_samples=TEST_SAMPLES,
        test_loss=0.0875,
        test_correct=9_725,
        evaluation_seconds=0.125,
        yardstick_seconds=0.015625,
        contention=make_contention(),
    )
    return dataclasses.replace(epoch, **changes)


def make_epochs(
    train_seconds: Sequence[float] = (2.25, 2.0, 2.125), test_correct: Sequence[int | None] = (9_650, 9_725, 9_810)
) -> tuple[EpochRecord, ...]:
    """One epoch for each of `train_seconds`, with the test images classified correctly after it."""
    return tuple(
        make_epoch(train_seconds=seconds, test_correct=correct)
        for seconds, correct in zip(train_seconds, test_correct, strict=True)
    )


def make_settings(**changes: Change) -> Settings:
    settings = Settings(
        threads=2, float32_matmul_precision="highest", tf32_matmul=False, tf32_cudnn=False, flush_denormal=False
    )
    return dataclasses.replace(settings, **changes)


def make_measurement(**changes: Change) -> Measurement:
    """Three epochs on a CPU: no device memory was measured."""
    measurement = Measurement(
        epochs=make_epochs(),
        settings=make_settings(),
        dataset_sha256="0123456789abcdef" * 4,
        parameters=101_770,
        forward_flops_per_sample=203_264,
        training_flops_per_sample=408_832,
        preparation_seconds=0.75,
        cold_start_seconds=0.0625,
        warm_up_seconds=0.5,
        host_baseline_bytes=250_000_000,
        host_peak=Peak(bytes=400_000_000, method="VmHWM"),
        device_allocated_peak=None,
        device_reserved_peak=None,
    )
    return dataclasses.replace(measurement, **changes)


def make_timed(train_seconds: Sequence[float], contention: Contention | None = None) -> Measurement:
    """A measurement of epochs of `train_seconds`; undisturbed and with both threads busy unless told otherwise."""
    epochs = tuple(
        make_epoch(
            train_seconds=seconds,
            contention=contention
            or make_contention(process_cpu_seconds=2 * seconds, other_cpu_seconds=0.0, steal_seconds=0.0),
        )
        for seconds in train_seconds
    )
    return make_measurement(epochs=epochs)


def make_exchange(**changes: Change) -> Exchange:
    """Half of a step's time is exchange."""
    exchange = Exchange(steps=5, together_seconds=(0.2, 0.2), apart_seconds=(0.1, 0.1))
    return dataclasses.replace(exchange, **changes)


def make_failure(kind: FailureKind = FailureKind.OUT_OF_MEMORY, message: str = "9 GiB wanted, 8 GiB free") -> Failure:
    return Failure(kind=kind, message=message)


def make_trial(configuration: Configuration | None = None, repeat: int = 0, *, seed: int | None = None) -> Trial:
    """Without a seed: the one that a plan with seed 42 gives to this repeat."""
    return Trial(
        configuration=configuration or make_configuration(), seed=42 + repeat if seed is None else seed, repeat=repeat
    )


def make_record(configuration: Configuration | None = None, repeat: int = 0, **changes: Change) -> TrialRecord:
    record = TrialRecord(
        trial=make_trial(configuration, repeat),
        outcome=make_measurement(),
        warnings=(),
        started_at=f"2026-11-21T03:{15 + repeat % 45}:30Z",
        wall_seconds=9.5,
    )
    return dataclasses.replace(record, **changes)


def make_plan(configurations: Sequence[Configuration] | None = None, repeats: int = 3, seed: int = 42) -> Plan:
    chosen = (make_configuration(),) if configurations is None else tuple(configurations)
    return Plan(configurations=chosen, repeats=repeats, seed=seed)


def make_machine(**changes: Change) -> Machine:
    machine = Machine(
        architecture="x86_64",
        cpu_model="Fictional CPU 9000",
        cores_logical=8,
        cores_usable=4.0,
        memory_bytes=16 * 2**30,
        operating_system="Linux",
        accelerators=(Accelerator(device="cuda", name="Fictional GPU F1", memory_bytes=24 * 2**30),),
    )
    return dataclasses.replace(machine, **changes)


def make_software(**changes: Change) -> Software:
    software = Software(
        python="3.12.4",
        torch="2.11.0",
        torchvision="0.26.0",
        numpy="2.3.1",
        cuda="13.0",
        driver="580.1",
        blas="mkl",
        operating_system_release="6.8.0",
        workload="0.1.0",
        harness="0.1.0",
        git_commit="0123456789abcdef0123456789abcdef01234567",
        git_dirty=False,
    )
    return dataclasses.replace(software, **changes)


def make_fingerprint(**changes: Change) -> Fingerprint:
    return dataclasses.replace(Fingerprint(machine=make_machine(), software=make_software()), **changes)


def make_division(configurations: Sequence[int] = (1,), *, of: int = 2) -> Division:
    """The first shards `of` so many, with so many configurations each; those that are missing have one each."""
    held = tuple(
        Shard(number=number, run_id=f"{number:08x}", configurations=count)
        for number, count in enumerate(configurations, start=1)
    )
    total = sum(configurations) + of - len(held)
    return Division(plan_id="p0123456789a", configurations=total, shards=of, held=held)


def make_header(**changes: Change) -> Header:
    header = Header(
        schema_version=SCHEMA_VERSION,
        run_id="0a1b2c3d",
        name="nightly",
        created_at="2026-11-21T03:15:00Z",
        command=("run", "--preset", "quick"),
        plan=make_plan(),
        machine=make_machine(),
        software=make_software(),
    )
    return dataclasses.replace(header, **changes)


def make_footer(**changes: Change) -> Footer:
    footer = Footer(complete=True, reason="complete", measured=3, failed=0, missing=0, wall_seconds=30.0)
    return dataclasses.replace(footer, **changes)


def make_run(
    configurations: Sequence[Configuration] | None = None,
    repeats: int = 3,
    *,
    records: Sequence[TrialRecord] | None = None,
    **header_changes: Change,
) -> Run:
    """Build a complete run. Without `records`: a measurement for every trial, repeat-major, as they are run.

    The footer counts what the records say: it is complete when nothing of the plan is missing.
    """
    plan = make_plan(configurations, repeats)
    if records is None:
        records = [make_record(chosen, repeat) for repeat in range(repeats) for chosen in plan.configurations]
    failed = sum(isinstance(record.outcome, Failure) for record in records)
    missing = len(plan.configurations) * repeats - len(records)
    footer = make_footer(
        complete=missing == 0,
        reason="interrupted" if missing else "complete",
        measured=len(records) - failed,
        failed=failed,
        missing=missing,
        wall_seconds=10.0 * len(records),
    )
    return Run(header=make_header(plan=plan, **header_changes), records=tuple(records), footer=footer)
