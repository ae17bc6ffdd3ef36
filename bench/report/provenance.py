"""Where a report's numbers come from: run, command, state, data, machine, software and settings."""

import dataclasses
import shlex
from collections import Counter
from collections.abc import Iterator

from bench.planning.shards import listed
from bench.records import Failure, Measurement, Run
from bench.units import format_bytes, format_count, format_seconds


def provenance(run: Run, whole: Run | None) -> Iterator[tuple[str, str]]:
    """Yield name and value of everything known about where the numbers of `run` come from.

    If `run` is only the part that one machine measured, `whole` is the whole run.
    """
    header, plan, machine = run.header, (whole or run).header.plan, run.header.machine
    yield "run", ", ".join(filter(None, (header.run_id, header.name, header.created_at)))
    yield "command", f"python -m bench {shlex.join(header.command)}"
    yield "state", _state(whole or run)
    if whole is not None:
        yield "on this machine", f"{format_count(len(run.header.plan.configurations), 'configuration')}, {_trials(run)}"
    seeds = f"seeds {plan.seed} to {plan.seed + plan.repeats - 1}" if plan.repeats > 1 else f"seed {plan.seed}"
    yield (
        "plan",
        f"{format_count(len(plan.configurations), 'configuration')}, {format_count(plan.repeats, 'repeat')}, {seeds}",
    )
    yield "data", "; ".join(_datasets(run))
    yield "machine", machine.id
    yield "processor", f"{machine.cpu_model}, {machine.cores_usable:g} of {machine.cores_logical} logical cores"
    yield "memory", format_bytes(machine.memory_bytes)
    for each in machine.accelerators:
        memory = "" if each.memory_bytes is None else f", {format_bytes(each.memory_bytes)}"
        yield f"accelerator {each.device}", f"{each.name}{memory}"
    yield "operating system", f"{machine.operating_system} ({machine.architecture})"
    for member in dataclasses.fields(header.software):
        value = getattr(header.software, member.name)
        if value is not None:
            yield member.name.replace("_", " "), _word(value)
    measured = [each.outcome for each in run.records if isinstance(each.outcome, Measurement)]
    for settings in dict.fromkeys(each.settings for each in measured):
        words = (f"{name.replace('_', ' ')} {_word(value)}" for name, value in dataclasses.asdict(settings).items())
        yield "settings read back", ", ".join(words)
    warnings = Counter(warning.value for record in run.records for warning in record.warnings)
    if warnings:
        yield "trials with warnings", ", ".join(f"{name} {count}" for name, count in sorted(warnings.items()))
    for text in run.warnings:
        yield "file", text


def _word(value: object) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _state(run: Run) -> str:
    if run.footer is None:
        return "incomplete: it was killed, or is still running"
    footer, lost, division = run.footer, run.lost_trials, run.header.division
    if run.is_complete:
        state = "complete"
    elif lost:
        state = "incomplete (lines of its file are missing)"
    elif footer.complete and division is not None:
        state = f"shard {listed([shard.number for shard in division.held])} of {division.shards}, complete in itself"
    else:
        state = f"incomplete ({footer.reason})"
    return f"{state}: {_trials(run)}, {footer.missing + lost} missing"


def _trials(run: Run) -> str:
    """Return how many trials `run` has, and how long they took in total."""
    failed = sum(isinstance(record.outcome, Failure) for record in run.records)
    seconds = format_seconds(sum(record.wall_seconds for record in run.records))
    return f"{format_count(len(run.records) - failed, 'trial')} measured and {failed} failed in {seconds}"


def _datasets(run: Run) -> list[str]:
    """Return each dataset's name, with the SHA-256 of the data if anything was measured."""
    names = dict.fromkeys(configuration.dataset for configuration in run.header.plan.configurations)
    found = {
        (record.trial.configuration.dataset, record.outcome.dataset_sha256)
        for record in run.records
        if isinstance(record.outcome, Measurement)
    }
    hashes = {name: [sha256 for dataset, sha256 in sorted(found) if dataset == name] for name in names}
    return [f"{name}, SHA-256 {' and '.join(sha256)}" if sha256 else name for name, sha256 in hashes.items()]
