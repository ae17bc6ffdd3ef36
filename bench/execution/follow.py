"""Under torchrun: the harness of every rank but the first. It plans and stores nothing, but takes part in trials."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from bench.errors import WorkerError
from bench.execution.conversation import TrialFailedError, Worker, ask_once, root_text
from bench.execution.executor import ExecutionOptions
from bench.execution.launcher import Launcher
from bench.protocol.messages import Awaited, Joined
from bench.records import Trial
from bench.system.locks import Patience, device_locks
from bench.system.torchrun import Place

_BETWEEN_TRIALS_SECONDS: Final = 30 * 24 * 3600.0
"""How long to wait for the next trial. The first rank says when there is none; if it dies, torchrun ends us."""


def follow(place: Place, launcher: Launcher, options: ExecutionOptions, notify: Callable[[str], None]) -> int:
    """Take part in the trials that the first rank's harness runs, until there are no more; return how many.

    Raises:
        WorkerError: torchrun's store cannot be reached.
    """
    trials = 0
    number = 0
    while True:
        trial: Trial | None = None
        process = launcher.start(place.world_size)
        waiting = Worker(process, timeout_seconds=_BETWEEN_TRIALS_SECONDS)
        try:
            trial = waiting.ask(Awaited, {"do": "await", "number": number}).trial
            if trial is None:
                return trials
            number += 1
            if place.rank < trial.configuration.world_size:
                with _locks(place, trial, options.patience):
                    request = {"do": "join", "root": root_text(options.data_root)}
                    joined = Worker(process, timeout_seconds=options.timeout_seconds).ask(Joined, request)
                trials += 1
                if joined.failure is not None:
                    notify(f"rank {place.rank}: {joined.failure.kind}: {joined.failure.message}")
        except TrialFailedError as error:
            if trial is None:
                raise WorkerError(f"rank {place.rank} cannot wait for trials: {error}") from error
            notify(f"rank {place.rank}: {error.failure.kind}: {error}")
        finally:
            waiting.end()


def _locks(place: Place, trial: Trial, patience: Patience) -> AbstractContextManager[None]:
    """Return the locks of this host's devices. Each host's first rank holds them; on host 0, the run itself does."""
    if place.local_rank > 0 or place.host == 0:
        return nullcontext()
    return device_locks(trial.configuration.devices, patience=patience)


def dismiss(launcher: Launcher, world_size: int, notify: Callable[[str], None]) -> None:
    """Tell the other ranks that there are no more trials. If they cannot be told, the run's own end still counts."""
    try:
        ask_once(launcher, Awaited, {"do": "dismiss"}, timeout_seconds=60.0, ranks=world_size)
    except (TrialFailedError, WorkerError) as error:
        notify(f"the other ranks were not told that the run has ended: {error}")
