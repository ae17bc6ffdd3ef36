"""Runs a plan from start to finish: plans it for the hardware, prepares the data, stores every trial as it finishes."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import BadInputError, ExitCode, IncomparableError, InterruptedRunError, WorkerError
from bench.execution.conversation import TrialFailedError
from bench.execution.executor import Executor, LocalExecutor
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
from bench.storage.references import SUFFIX, check_name, new_run_id, run_path
from bench.storage.store import RunWriter, read_run, require_own_table, write_table
from bench.storage.table import table_of
from bench.system.interrupts import Interrupts
from bench.system.outputs import command_text, is_empty, require_nameable, require_short_name

MakeProgress = Callable[[tuple[Trial, ...], int], contextlib.AbstractContextManager[Progress]]
"""Takes the trials and how many of them run at the same time; returns their progress display."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Everything about a run except what it measures.

    `results` is the folder of stored runs; `output` is a file, or another such folder. `command` is the command line to
    store. `shard` is the number and the count of the part of the plan to run, None for all of it. `again` are the
    options that resuming needs as well.
    """

    name: str
    results: Path
    output: Path | None
    budget_seconds: float | None
    command: tuple[str, ...]
    shard: tuple[int, int] | None = None
    again: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has stopped: where it is stored, what it holds, and the command's exit code.

    `executed` counts the trials that this command added, the last ones of the run.
    """

    path: Path
    run: Run
    executed: int
    exit_code: ExitCode


def check_output(options: Options) -> None:
    """Check that the output can be written, before anything is measured.

    Raises:
        BadInputError: the file, or the table beside it, exists already, its nearest existing folder cannot be written
            to, or the run's name or that of the file is not allowed.
    """
    check_name(options.name)
    target = options.output or options.results
    require_nameable(target)
    if target.name == SUFFIX:
        raise BadInputError(f"--output {target} has no name before {SUFFIX}: write a whole name, such as run{SUFFIX}")
    is_file = target.suffix == SUFFIX
    if is_file and target.exists() and not is_empty(target):
        raise BadInputError(f"{target} exists already: name a new file, or continue that run with --resume {target}")
    if is_file and (table := table_of(target)).exists():
        raise BadInputError(
            f"{table}, where this run's table would be written, exists already: choose another --output, or move "
            "that file away"
        )
    if not is_file and options.output is not None and target.suffix and not target.exists():  # a mistyped file
        raise BadInputError(
            f"--output {target} is neither a {SUFFIX} file nor an existing folder: "
            f"write {target.with_suffix(SUFFIX)}, or create the folder"
        )
    folder = target.parent if is_file else target
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if is_file:
        require_short_name(folder / table_of(target).name)
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise BadInputError(f"{target} cannot be written: {folder} is not a writable folder; choose another --output")


def estimate_run(plan: Plan, executor: LocalExecutor) -> Estimate:
    """Estimate how long the plan takes by probing a few of its trials, which train a little: its devices are held.

    Raises:
        HeldError: another run is using one of them.
        BadInputError: a probed trial could not be prepared, or the run would be refused.
    """

    def probe(trial: Trial) -> Prepared:
        try:
            return executor.probe(trial)
        except TrialFailedError as error:
            raise BadInputError(f"{trial.configuration.model} cannot be estimated: {error}") from error

    with executor.hold({device for configuration in plan.configurations for device in configuration.devices}):
        note = busy_note(plan)  # first: the probes would count as other programs
        asked = time.perf_counter()
        ready = executor.prepare(plan.configurations[0].dataset)
        start_seconds = executor.start_seconds + time.perf_counter() - asked
        _check_batch_sizes(plan, ready)
        return replace(estimate_plan(plan, probe), start_seconds=start_seconds, note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runner:
    """Executes plans and stores every trial as it finishes."""

    options: Options
    executor: Executor
    interrupts: Interrupts
    make_progress: MakeProgress

    def start(self, request: Request) -> Finished:
        """Plan a new run, and execute it."""
        start = time.monotonic()
        plan = self.executor.plan(request)
        fingerprint = self.executor.fingerprint()
        run_id, division = new_run_id(), None
        if self.options.shard is not None:
            plan, division = take_shard(plan, *self.options.shard, run_id)
        header = Header(
            schema_version=SCHEMA_VERSION,
            run_id=run_id,
            name=self.options.name,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            command=self.options.command,
            plan=plan,
            machine=fingerprint.machine,
            software=fingerprint.software,
            division=division,
        )
        stored = Run(header=header, records=(), footer=None)
        self._prepare_data(stored)
        trials = missing_trials(plan, ())
        with contextlib.ExitStack() as stack:
            start += self._hold_devices(stack, trials)  # first: while another run holds them, nothing is stored
            with self.interrupts.shield():  # so that a signal leaves no lock, and no file without a header
                writer = stack.enter_context(RunWriter.create(self._path(header), header))
            return self._execute(writer, stored, trials, start)

    def resume(self, path: Path) -> Finished:
        """Execute the trials that the stored run at `path` lacks. A complete run needs no particular machine.

        Raises:
            IncomparableError: the run was started on another machine, with other software or other data.
            BadInputError: the file beside it where its table belongs is something else.
        """
        start = time.monotonic()
        with contextlib.ExitStack() as stack:
            with self.interrupts.shield():
                writer, stored = RunWriter.resume(path)
                stack.enter_context(writer)
            header = stored.header
            if is_merged(header):
                raise BadInputError(f"run {header.run_id} was merged from several runs: {resumption(header)}")
            trials = missing_trials(header.plan, stored.records)
            if not trials and stored.footer is not None and stored.footer.complete:
                if not table_of(path).exists():
                    write_table(stored, path)
                exit_code = _exit_code(stored.footer, header.plan, stored.records)
                return Finished(path=path, run=stored, executed=0, exit_code=exit_code)
            require_own_table(table_of(path), header.run_id)
            if trials:  # otherwise only the footer is missing
                self.executor.resume(stored)
                self._prepare_data(stored)
            start += self._hold_devices(stack, trials)
            return self._execute(writer, stored, trials, start)

    def _path(self, header: Header) -> Path:
        output = self.options.output or self.options.results
        return output if output.suffix == SUFFIX else run_path(output, header)

    def _prepare_data(self, stored: Run) -> None:
        plan = stored.header.plan
        dataset = plan.configurations[0].dataset
        ready = self.executor.prepare(dataset)
        used = {record.outcome.dataset_sha256 for record in stored.records if isinstance(record.outcome, Measurement)}
        if used - {ready.sha256}:
            raise IncomparableError(
                f"dataset {dataset!r} has SHA-256 {ready.sha256} here, but the stored trials used "
                f"{', '.join(sorted(used))}: point --data-root at that data, or start a new run"
            )
        _check_batch_sizes(plan, ready)

    def _hold_devices(self, stack: contextlib.ExitStack, trials: Iterable[Trial]) -> float:
        """Hold the trials' devices until `stack` is closed; return the seconds waited, which no budget counts."""
        asked = time.monotonic()
        stack.enter_context(self.executor.hold({device for trial in trials for device in trial.configuration.devices}))
        return time.monotonic() - asked

    def _execute(self, writer: RunWriter, stored: Run, trials: tuple[Trial, ...], start: float) -> Finished:
        plan, records = stored.header.plan, list(stored.records)

        def may_start() -> bool:
            budget = self.options.budget_seconds
            is_first = len(records) == len(stored.records)  # always allowed, so that resuming makes progress
            return budget is None or is_first or time.monotonic() - start <= budget

        def footer(reason_if_incomplete: str) -> Footer:
            seconds = time.monotonic() - start
            return footer_of(records, planned=plan.trial_count, reason=reason_if_incomplete, wall_seconds=seconds)

        try:
            with contextlib.ExitStack() as stack:
                progress = stack.enter_context(self.make_progress(trials, self.executor.concurrency))
                execution = stack.enter_context(contextlib.closing(self.executor.execute(trials, may_start, progress)))
                for each in execution:
                    with self.interrupts.shield():
                        record = replace(each.record, fingerprint=writer.fingerprint_number(each.fingerprint))
                        writer.append(record)
                        records.append(record)
                    progress.trial_done(record)
        except (InterruptedRunError, WorkerError) as error:
            writer.finish(footer("interrupted"))
            raise type(error)(
                f"{error}: {len(records)} of {plan.trial_count} trials are stored in {writer.path}; "
                f"continue with: {self._resume_command(writer.path)}"
            ) from None
        ended = footer("budget")
        writer.finish(ended)
        run = read_run(writer.path)
        if ended.complete:
            write_table(run, writer.path)
        executed = len(records) - len(stored.records)
        return Finished(path=writer.path, run=run, executed=executed, exit_code=_exit_code(ended, plan, records))

    def _resume_command(self, path: Path) -> str:
        return command_text("python", "-m", "bench", "run", "--resume", str(path), *self.options.again)


def _check_batch_sizes(plan: Plan, ready: DatasetReady) -> None:
    largest = max(configuration.batch_size for configuration in plan.configurations)
    if largest > ready.train_samples:
        raise BadInputError(
            f"--batch-sizes {largest} exceeds the {ready.train_samples} training samples of "
            f"{plan.configurations[0].dataset}: use at most that many"
        )


def _exit_code(footer: Footer, plan: Plan, records: Sequence[TrialRecord]) -> ExitCode:
    """Failed trials take precedence; a budget spent before every configuration was measured is inconclusive."""
    if footer.failed:
        return ExitCode.FAILED_TRIAL
    measured = {record.trial.configuration for record in records}
    return ExitCode.PASS if len(measured) == len(plan.configurations) else ExitCode.INCONCLUSIVE


def measuring_share(finished: Finished) -> float | None:
    """Return the share of the command's wall time spent on warm-up, training and evaluation.

    None if the run is still incomplete, or this command executed none of its trials.
    """
    footer = finished.run.footer
    if footer is None or not footer.complete or footer.wall_seconds <= 0 or not finished.executed:
        return None
    seconds = sum(
        record.outcome.warm_up_seconds
        + sum(epoch.train_seconds + epoch.evaluation_seconds for epoch in record.outcome.epochs)
        for record in finished.run.records[-finished.executed :]
        if isinstance(record.outcome, Measurement)
    )
    return seconds / footer.wall_seconds
