"""Carries out a plan: asks where it is, prepares the data, runs trial after trial, stores each as it ends."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import BadInputError, ExitCode, IncomparableError, InterruptedRunError, WorkerError
from bench.execution.crew import Crew
from bench.execution.launcher import TrialFailedError, prepare_dataset, probe_trial
from bench.execution.processes import Launcher
from bench.execution.progress import Progress
from bench.planning.estimate import Estimate, busy_note, estimate_plan
from bench.planning.plan import Request, missing_trials
from bench.planning.shards import is_merged, resumption, take_shard
from bench.protocol.messages import DatasetReady, Prepared
from bench.records import (
    SCHEMA_VERSION,
    Footer,
    Header,
    Measurement,
    Plan,
    Run,
    Trial,
    TrialRecord,
)
from bench.storage.ledger import footer_of
from bench.storage.store import SUFFIX, RunWriter, check_name, new_run_id, read_run, run_path
from bench.storage.table import write_csv
from bench.system.interrupts import Interrupts
from bench.system.locks import IMPATIENT, Patience, device_locks
from bench.system.outputs import remove_abandoned, require_nameable

MakeProgress = Callable[[tuple[Trial, ...], int], contextlib.AbstractContextManager[Progress]]
"""Returns the display for trials of which so many go on at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run, beside what. `results` is the folder of stored runs; `output` a file or another such folder.

    `shard` is the number and the count of the part of the plan to carry out, None for all of it; `on` is the cluster
    that the user named, None for this machine.
    """

    name: str
    results: Path
    output: Path | None
    budget_seconds: float | None
    command: tuple[str, ...]
    shard: tuple[int, int] | None = None
    on: str | None = None


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
        BadInputError: it is a file that exists, or the table beside it does, or its nearest existing folder is none or
            is read-only, or its name is none here, or the run's name cannot be part of one.
    """
    check_name(options.name)
    target = options.output or options.results
    require_nameable(target)
    if target.suffix == SUFFIX:
        if target.exists():
            raise BadInputError(
                f"{target} exists already: name a new file, or go on with that run by --resume {target}"
            )
        if (table := _table_of(target)).exists():
            raise BadInputError(
                f"{table}, where this run's table belongs, exists already: choose --output anew, or move that one away"
            )
        folder = target.parent
    elif options.output is not None and target.suffix and not target.exists():
        raise BadInputError(
            f"--output {target} is neither a run's file nor a folder that exists: "
            f"write {target.with_suffix(SUFFIX)}, or make the folder"
        )
    else:
        folder = target
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BadInputError(f"{target} cannot be written: {folder} is no folder you may write to; choose --output")


def estimate_here(
    plan: Plan, launcher: Launcher, *, root: Path | None, timeout_seconds: float, patience: Patience = IMPATIENT
) -> Estimate:
    """Estimate the plan's time by probing a few of its trials, with the plan's devices held: they train a little.

    Raises:
        HeldError: another run holds one.
        BadInputError: a probed trial could not be prepared, or the run would be refused.
    """

    def probe(trial: Trial) -> Prepared:
        try:
            return probe_trial(launcher, trial, root=root, timeout_seconds=timeout_seconds)
        except TrialFailedError as error:
            raise BadInputError(f"{trial.configuration.model} cannot be estimated: {error}") from error

    devices = {device for configuration in plan.configurations for device in configuration.devices}
    with device_locks(devices, patience=patience):
        note = busy_note(plan)
        dataset = plan.configurations[0].dataset
        _check_batch_sizes(plan, prepare_dataset(launcher, dataset, root, timeout_seconds=timeout_seconds))
        return replace(estimate_plan(plan, probe), note=note)


def start_run(
    request: Request, options: Options, crew: Crew, interrupts: Interrupts, make_progress: MakeProgress
) -> Finished:
    """Plan and carry out a new run."""
    start = time.monotonic()
    plan = crew.plan(request)
    fingerprint = crew.fingerprint()
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
        machine=fingerprint.machine,
        software=fingerprint.software,
        division=division,
    )
    _prepare_data(plan, crew, ())
    is_file = options.output is not None and options.output.suffix == SUFFIX
    path = options.output if options.output and is_file else run_path(options.output or options.results, header)
    trials = missing_trials(plan, ())
    with contextlib.ExitStack() as stack:
        start += _hold_devices(stack, crew, trials)  # first, so that nothing is stored where another run has them
        with interrupts.shield():  # so that a signal leaves no lock, and no file without a header
            writer = stack.enter_context(RunWriter.create(path, header))
        return _carry_out(writer, plan, (), trials, start, options, crew, interrupts, make_progress)


def resume_run(
    path: Path, options: Options, crew: Crew, interrupts: Interrupts, make_progress: MakeProgress
) -> Finished:
    """Carry out what is missing of the stored run at `path`; a whole one stays as it is, wherever it was begun.

    Raises:
        IncomparableError: what the run was begun on is not what there is.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        with interrupts.shield():
            writer, run = RunWriter.resume(path)
            stack.enter_context(writer)
        if is_merged(run.header):
            raise BadInputError(f"run {run.header.run_id} was merged from several: {resumption(run.header)}")
        trials = missing_trials(run.header.plan, run.records)
        if not trials and run.footer is not None and run.footer.complete:
            if not _table_of(path).exists():
                _write_table(run, path)
            return Finished(path=path, run=run, exit_code=_exit_code(run.footer, run.header.plan, run.records))
        if trials:
            crew.resume(run)
            _prepare_data(run.header.plan, crew, run.records)
        start += _hold_devices(stack, crew, trials)
        return _carry_out(writer, run.header.plan, run.records, trials, start, options, crew, interrupts, make_progress)


def _hold_devices(stack: contextlib.ExitStack, crew: Crew, trials: Iterable[Trial]) -> float:
    """Have the trials' devices for this run alone until `stack` ends; return the seconds waited, which are no work."""
    asked = time.monotonic()
    stack.enter_context(crew.hold({device for trial in trials for device in trial.configuration.devices}))
    return time.monotonic() - asked


def _prepare_data(plan: Plan, crew: Crew, records: Sequence[TrialRecord]) -> None:
    configurations = plan.configurations
    ready = crew.prepare(configurations[0].dataset)
    hashes = {record.outcome.dataset_sha256 for record in records if isinstance(record.outcome, Measurement)}
    if hashes - {ready.sha256}:
        raise IncomparableError(
            f"dataset {configurations[0].dataset!r} here has SHA-256 {ready.sha256}, the stored trials used "
            f"{', '.join(sorted(hashes))}: point --data-root at theirs, or start a new run"
        )
    _check_batch_sizes(plan, ready)


def _check_batch_sizes(plan: Plan, ready: DatasetReady) -> None:
    largest = max(configuration.batch_size for configuration in plan.configurations)
    if largest > ready.train_samples:
        raise BadInputError(
            f"--batch-sizes {largest} is more than the {ready.train_samples} training samples of "
            f"{plan.configurations[0].dataset}: use at most that many"
        )


def _carry_out(  # noqa: PLR0913, PLR0917 - everything a run is made of
    writer: RunWriter,
    plan: Plan,
    stored: Sequence[TrialRecord],
    trials: tuple[Trial, ...],
    start: float,
    options: Options,
    crew: Crew,
    interrupts: Interrupts,
    make_progress: MakeProgress,
) -> Finished:
    records = list(stored)

    def has_time() -> bool:
        is_first = len(records) == len(stored)  # which is run in any case, so that resuming it comes to an end
        return options.budget_seconds is None or is_first or time.monotonic() - start <= options.budget_seconds

    def footer(reason: str) -> Footer:
        seconds = time.monotonic() - start
        return footer_of(records, planned=plan.trial_count, reason=reason, wall_seconds=seconds)

    try:
        with contextlib.ExitStack() as stack:
            progress = stack.enter_context(make_progress(trials, crew.at_once))
            carried_out = stack.enter_context(contextlib.closing(crew.carry_out(trials, has_time, progress)))
            for ran in carried_out:
                with interrupts.shield():
                    record = replace(ran.record, fingerprint=writer.fingerprint_number(ran.fingerprint))
                    writer.append(record)
                    records.append(record)
                progress.trial_done(record)
    except (InterruptedRunError, WorkerError) as error:
        writer.finish(footer("interrupted"))
        there = "" if options.on is None else f" --on {options.on}"
        raise type(error)(
            f"{error}: {len(records)} of {plan.trial_count} trials are stored in "
            f"{writer.path}; go on with: python -m bench run --resume {writer.path}{there}"
        ) from None
    ended = footer("budget")
    writer.finish(ended)
    run = read_run(writer.path)
    if ended.complete:
        _write_table(run, writer.path)
    return Finished(path=writer.path, run=run, exit_code=_exit_code(ended, plan, records))


def _table_of(path: Path) -> Path:
    return path.with_suffix(".csv")


def _write_table(run: Run, path: Path) -> None:
    table = _table_of(path)
    remove_abandoned(table)
    write_csv(run, table)


def _exit_code(footer: Footer, plan: Plan, records: Sequence[TrialRecord]) -> ExitCode:
    """Failed trials come first; a budget spent before every configuration was measured once leaves things open."""
    if footer.failed:
        return ExitCode.FAILED_TRIAL
    measured = {record.trial.configuration for record in records}
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
