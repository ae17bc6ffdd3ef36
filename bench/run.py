"""Carries out a plan: asks where it is, prepares the data, runs trial after trial, stores each as it ends."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.errors import BadInputError, ExitCode, IncomparableError, InterruptedRunError
from bench.estimate import Estimate, estimate_plan
from bench.interrupts import Interrupts
from bench.launcher import TrialFailedError, describe_place, prepare_dataset, probe_trial, run_trial
from bench.locks import IMPATIENT, Patience, device_locks
from bench.messages import Prepared
from bench.outputs import remove_abandoned, require_nameable
from bench.plan import Request, check_rank_devices, choose_devices, make_plan, missing_trials
from bench.processes import Launcher
from bench.progress import Progress
from bench.records import (
    SCHEMA_VERSION,
    Description,
    Failure,
    Footer,
    Header,
    Measurement,
    Plan,
    Run,
    Trial,
    TrialRecord,
)
from bench.shards import is_merged, resumption, take_shard
from bench.store import SUFFIX, RunWriter, new_run_id, read_run, run_path
from bench.table import write_csv

MakeProgress = Callable[[tuple[Trial, ...]], contextlib.AbstractContextManager[Progress]]

COMPLETE: Final = "complete"
INTERRUPTED: Final = "interrupted"
BUDGET: Final = "budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, beside what. `results` is the folder of stored runs; `output` a file or another such folder.

    `patience` is how long to wait for a device that another run holds. `ranks_here` is the most ranks of a training
    that run on this machine, where torchrun spreads them over several; None: all. `shard` is the number and the count
    of the part of the plan to carry out, None for all of it.
    """

    name: str
    results: Path
    output: Path | None
    data_root: Path | None
    timeout_seconds: float
    budget_seconds: float | None
    command: tuple[str, ...]
    patience: Patience = IMPATIENT
    ranks_here: int | None = None
    shard: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has stopped: where it is stored, what it holds, and what the command is to end with."""

    path: Path
    run: Run
    exit_code: ExitCode


def preload_for(pipelines: Iterable[str], dataset: str) -> tuple[str, ...]:
    """Return modules that each trial would import for itself, for the host to import once."""
    readers = ("torchvision.datasets", "torchvision.transforms") if "dataloader" in pipelines else ()
    return (*readers, "sklearn.datasets") if dataset == "digits" else readers


def check_output(options: Options) -> None:
    """Refuse an output that cannot be written, before anything is measured for it.

    Raises:
        BadInputError: it is a file that exists, or its nearest existing folder is none or is read-only, or its name is
            none here.
    """
    target = options.output or options.results
    require_nameable(target)
    if target.suffix == SUFFIX:
        if target.exists():
            raise BadInputError(
                f"{target} exists already: name a new file, or go on with that run by --resume {target}"
            )
        folder = target.parent
    else:
        folder = target
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BadInputError(f"{target} cannot be written: {folder} is no folder you may write to; choose --output")


def plan_here(request: Request, launcher: Launcher, ranks_here: int | None = None) -> tuple[Plan, Description]:
    """Ask what there is here, and return the request's plan for it.

    Raises:
        BadInputError: a device, more threads or more ranks are asked for than there are.
    """
    place = describe_place(launcher)
    devices = choose_devices(request.devices, place.devices)
    cores = place.machine.cores_usable
    plan = make_plan(request, devices=devices, cores_usable=cores, ranks_here=ranks_here)
    check_rank_devices(plan, place.devices, ranks_here)
    return plan, place


def estimate_here(plan: Plan, launcher: Launcher, *, root: Path | None, timeout_seconds: float) -> Estimate:
    """Estimate the plan's time by probing a few of its trials.

    Raises:
        BadInputError: a probed trial could not be prepared.
    """

    def probe(trial: Trial) -> Prepared:
        try:
            return probe_trial(launcher, trial, root=root, timeout_seconds=timeout_seconds)
        except TrialFailedError as error:
            raise BadInputError(f"{trial.configuration.model} cannot be estimated: {error}") from error

    prepare_dataset(launcher, plan.configurations[0].dataset, root)
    return estimate_plan(plan, probe)


def start_run(
    request: Request, options: Options, launcher: Launcher, interrupts: Interrupts, make_progress: MakeProgress
) -> Finished:
    """Plan and carry out a new run."""
    start = time.monotonic()
    plan, place = plan_here(request, launcher, options.ranks_here)
    run_id, division = new_run_id(), None
    if options.shard is not None:
        plan, division = take_shard(plan, *options.shard, run_id)
    header = Header(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        name=options.name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        plan=plan,
        machine=place.machine,
        software=place.software,
        division=division,
    )
    _prepare_data(plan, launcher, options.data_root, ())
    is_file = options.output is not None and options.output.suffix == SUFFIX
    path = options.output if options.output and is_file else run_path(options.output or options.results, header)
    with contextlib.ExitStack() as stack:
        with interrupts.shield():  # so that a signal leaves no lock, and no file without a header
            writer = stack.enter_context(RunWriter.create(path, header))
        return _carry_out(writer, plan, (), start, options, launcher, interrupts, make_progress)


def resume_run(
    path: Path, options: Options, launcher: Launcher, interrupts: Interrupts, make_progress: MakeProgress
) -> Finished:
    """Carry out what is missing of the stored run at `path`.

    Raises:
        IncomparableError: this is another machine or software than the run was begun on.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        with interrupts.shield():
            writer, run = RunWriter.resume(path)
            stack.enter_context(writer)
        if is_merged(run.header):
            raise BadInputError(f"run {run.header.run_id} was merged from several: {resumption(run.header)}")
        place = describe_place(launcher)
        _refuse_mixing(run.header, place)
        choose_devices([c.device for c in run.header.plan.configurations], place.devices)
        check_rank_devices(run.header.plan, place.devices, options.ranks_here)
        _prepare_data(run.header.plan, launcher, options.data_root, run.records)
        return _carry_out(writer, run.header.plan, run.records, start, options, launcher, interrupts, make_progress)


def _refuse_mixing(header: Header, place: Description) -> None:
    differences = [
        f"{field.name} is {getattr(now, field.name)!r}, was {getattr(then, field.name)!r}"
        for then, now in ((header.machine, place.machine), (header.software, place.software))
        for field in dataclasses.fields(then)
        if getattr(then, field.name) != getattr(now, field.name) and field.name != "memory_bytes"
    ]
    if differences or header.machine.id != place.machine.id:
        raise IncomparableError(
            f"run {header.run_id} was begun elsewhere: {'; '.join(differences) or 'another amount of memory'}. "
            "A table must not mix machines or software: start a new run and compare the two"
        )


def _prepare_data(plan: Plan, launcher: Launcher, root: Path | None, records: Sequence[TrialRecord]) -> None:
    configurations = plan.configurations
    ready = prepare_dataset(launcher, configurations[0].dataset, root)
    hashes = {record.outcome.dataset_sha256 for record in records if isinstance(record.outcome, Measurement)}
    if hashes - {ready.sha256}:
        raise IncomparableError(
            f"dataset {configurations[0].dataset!r} here has SHA-256 {ready.sha256}, the stored trials used "
            f"{', '.join(sorted(hashes))}: point --data-root at theirs, or start a new run"
        )
    largest = max(configuration.batch_size for configuration in configurations)
    if largest > ready.train_samples:
        raise BadInputError(
            f"--batch-sizes {largest} is more than the {ready.train_samples} training samples of "
            f"{configurations[0].dataset}: use at most that many"
        )


def _carry_out(  # noqa: PLR0913, PLR0917 - everything a run is made of
    writer: RunWriter,
    plan: Plan,
    stored: Sequence[TrialRecord],
    start: float,
    options: Options,
    launcher: Launcher,
    interrupts: Interrupts,
    make_progress: MakeProgress,
) -> Finished:
    trials = missing_trials(plan, stored)
    records = list(stored)
    reason = COMPLETE
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(
                device_locks(
                    {device for trial in trials for device in trial.configuration.devices}, patience=options.patience
                )
            )
            progress = stack.enter_context(make_progress(trials))
            for number, trial in enumerate(trials, start=1):
                if options.budget_seconds is not None and records and time.monotonic() - start > options.budget_seconds:
                    reason = BUDGET
                    break
                progress.trial_started(number, trial)
                record = run_trial(
                    launcher,
                    trial,
                    root=options.data_root,
                    timeout_seconds=options.timeout_seconds,
                    on_epoch=progress.epoch_done,
                )
                with interrupts.shield():
                    writer.append(record)
                    records.append(record)
                progress.trial_done(record)
    except InterruptedRunError as interruption:
        writer.finish(_footer(plan, records, INTERRUPTED, time.monotonic() - start))
        raise InterruptedRunError(
            f"{interruption}: {len(records)} of {len(plan.configurations) * plan.repeats} trials are stored in "
            f"{writer.path}; go on with: python -m bench run --resume {writer.path}"
        ) from None
    footer = _footer(plan, records, reason, time.monotonic() - start)
    writer.finish(footer)
    run = read_run(writer.path)
    if footer.complete:
        table = writer.path.with_suffix(".csv")
        remove_abandoned(table)
        write_csv(run, table)
    return Finished(path=writer.path, run=run, exit_code=_exit_code(footer, plan, records))


def _footer(plan: Plan, records: Sequence[TrialRecord], reason: str, wall_seconds: float) -> Footer:
    failed = sum(isinstance(record.outcome, Failure) for record in records)
    missing = len(plan.configurations) * plan.repeats - len(records)
    return Footer(
        complete=missing == 0,
        reason=COMPLETE if missing == 0 else reason,
        measured=len(records) - failed,
        failed=failed,
        missing=missing,
        wall_seconds=wall_seconds,
    )


def _exit_code(footer: Footer, plan: Plan, records: Sequence[TrialRecord]) -> ExitCode:
    """Failed trials come first; a budget spent before every configuration was measured once leaves things open."""
    if footer.failed:
        return ExitCode.FAILED_TRIAL
    measured = {record.trial.key for record in records}
    return ExitCode.PASS if len(measured) == len(plan.configurations) else ExitCode.INCONCLUSIVE


def measuring_share(run: Run) -> float | None:
    """Return the share of the last stretch's wall time that was warm-up, training and evaluation.

    None unless the run was measured in one stretch that ended in good order.
    """
    if run.footer is None or not run.footer.complete or run.footer.wall_seconds <= 0:
        return None
    seconds = sum(
        record.outcome.warm_up_seconds
        + sum(epoch.train_seconds + epoch.evaluation_seconds for epoch in record.outcome.epochs)
        for record in run.records
        if isinstance(record.outcome, Measurement)
    )
    return seconds / run.footer.wall_seconds if seconds <= run.footer.wall_seconds else None
