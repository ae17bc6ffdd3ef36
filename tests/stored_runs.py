"""Runs for tests of comparisons: trials around a chosen epoch time and accuracy, and the files that hold them."""

import dataclasses
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench_builders import (
    Change,
    make_configuration,
    make_epoch,
    make_machine,
    make_measurement,
    make_plan,
    make_record,
    make_run,
)

from bench.compare.compare_runs import compare_runs
from bench.compare.comparison import Comparison, Source
from bench.compare.trials import make_table
from bench.planning.plan import order_trials
from bench.planning.shards import take_shard
from bench.records import Configuration, Footer, Run, TrialRecord
from bench.storage.runfile import lines_of
from bench.storage.store import RunWriter

WOBBLE = (0.0, 0.01, -0.01, 0.005, -0.005, 0.008, -0.008, 0.002)
"""Relative differences of trials: a standard deviation of just under 1 %."""

CORRECT_WOBBLE = (0, 4, -4, 2, -2, 3, -3, 1)
"""Differences of trials in test images classified correctly."""


@dataclasses.dataclass(frozen=True)
class Quiet:
    """A machine profile that knows a small drift and floor for every device."""

    drift: float | None = 0.005
    floor: float | None = 0.01
    sessions: int = 50

    def ab_floor(self, device: str) -> float | None:
        del device
        return self.floor

    def drift_deviation(self, device: str) -> float | None:
        del device
        return self.drift

    def drift_freedom(self, device: str) -> int | None:
        del device
        return None if self.drift is None else self.sessions - 1


def trial(
    configuration: Configuration | None = None,
    repeat: int = 0,
    *,
    seconds: float = 2.0,
    correct: int | None = 9_725,
    yardstick_seconds: float = 0.015625,
    **measurement: Change,
) -> TrialRecord:
    """One epoch in about `seconds` after which about `correct` of the 10 000 test images are right."""
    epoch = make_epoch(
        train_seconds=seconds * (1 + WOBBLE[repeat % len(WOBBLE)]),
        yardstick_seconds=yardstick_seconds,
        train_correct=None if correct is None else 57_600,
        test_correct=None if correct is None else correct + CORRECT_WOBBLE[repeat % len(CORRECT_WOBBLE)],
    )
    return make_record(configuration, repeat, outcome=make_measurement(epochs=(epoch,), **measurement))


def side(
    seconds: Sequence[float] | Mapping[Configuration, float] = (2.0,),
    *,
    repeats: int = 8,
    run_id: str = "0a1b2c3d",
    correct: int | None = 9_725,
    header: Mapping[str, Change] | None = None,
    **measurement: Change,
) -> Run:
    """A complete run: a configuration for each of `seconds`, its mean epoch time."""
    chosen = seconds if isinstance(seconds, Mapping) else dict(zip(configurations(len(seconds)), seconds, strict=True))
    records = [
        trial(configuration, repeat, seconds=mean, correct=correct, **measurement)
        for repeat in range(repeats)
        for configuration, mean in chosen.items()
    ]
    return make_run(list(chosen), repeats, records=records, run_id=run_id, **(header or {}))


def configurations(count: int) -> list[Configuration]:
    return [make_configuration(batch_size=64 * 2**place) for place in range(count)]


def with_records(run: Run, records: Sequence[TrialRecord], footer: Footer | None = None) -> Run:
    return dataclasses.replace(run, records=tuple(records), footer=footer or run.footer)


def shuffled(records: Sequence[TrialRecord], seed: int = 1) -> list[TrialRecord]:
    return random.Random(seed).sample(records, len(records))  # noqa: S311 - no secret


def store(run: Run, path: Path) -> Path:
    with RunWriter.create(path, run.header) as writer:
        for fingerprint in run.other_fingerprints:
            writer.fingerprint_number(fingerprint)
        for record in run.records:
            writer.append(record)
        if run.footer is not None:
            writer.finish(run.footer)
    return path


def write_shards(folder: Path, configurations: int, repeats: int, shards: int) -> list[Path]:
    """Write complete shards of one large plan, measured on two kinds of machines; return their files."""
    chosen = [
        make_configuration(model=f"784-{width}-10", layers=(784, width, 10), batch_size=64 + place % 50)
        for place in range(configurations)
        for width in (8 + place // 50,)
    ]
    plan = make_plan(chosen, repeats)
    paths = []
    for number in range(1, shards + 1):
        run_id = f"{number:08x}"
        part, division = take_shard(plan, number, shards, run_id)
        records = [trial(each.configuration, each.repeat) for each in order_trials(part)]
        run = make_run(
            part.configurations,
            repeats,
            records=records,
            run_id=run_id,
            division=division,
            machine=make_machine(cpu_model=f"Fictional CPU {number % 2}"),
        )
        paths.append(folder / f"shard-{number}.jsonl")
        with paths[-1].open("w") as file:
            file.writelines(lines_of(run))
    return paths


def compare(baseline: Run, candidate: Run, profile: Quiet | None = Quiet()) -> Comparison:
    return compare_runs(
        Source(label="A", table=make_table(baseline), profile=profile),
        Source(label="B", table=make_table(candidate), profile=profile),
    )


def other(seconds: float = 2.0, **changes: object) -> Run:
    return side((seconds,), **{"run_id": "b0b0b0b0"} | changes)  # type: ignore[arg-type] # changes of any field
