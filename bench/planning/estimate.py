"""Estimates how long a plan will take by starting a few of its trials and timing their first warm steps."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.protocol.messages import Prepared
from bench.records import Configuration, Plan, Trial

_EVALUATION_SHARE = 1 / 18
"""Time of evaluation over training: about a third of the work per sample, for a sixth of the samples."""

EXCHANGE_BLOCKS, EXCHANGE_SECONDS = 8, 0.1
"""How many blocks of steps ranks time after their last epoch, and about how long each is: `worker.rank_session`."""

Probe = Callable[[Trial], Prepared]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated wall seconds of one trial of each configuration, from `probes` trials that were started for it.

    `start_seconds` is what a run takes before its first trial. `note` warns that other programs kept the machine busy;
    it is empty otherwise.
    """

    trial_seconds: Mapping[Configuration, float]
    probes: int
    start_seconds: float = 0.0
    note: str = ""

    def of(self, plan: Plan) -> float:
        """Return the estimated wall seconds of a run of `plan`, the estimated plan or a part of it."""
        each = math.fsum(self.trial_seconds[configuration] for configuration in plan.configurations)
        return self.start_seconds + plan.repeats * each


def busy_note(plan: Plan) -> str:
    """Return a warning if other programs leave fewer cores than a trial of `plan` uses; otherwise an empty text.

    Call it before starting a trial, whose own load would count as well.
    """
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):  # Windows, or a system without a load average
        return ""
    taken = max((each.threads * each.world_size for each in plan.configurations), default=0)
    if load < 1 or load + taken <= cores:
        return ""
    return f"Other programs are busy here (load average {load:.1f}, {cores} cores): the estimate may be too high"


def estimate_plan(plan: Plan, probe: Probe, clock: Callable[[], float] = time.perf_counter) -> Estimate:
    """Estimate how long the trials of `plan` take.

    A step is assumed to cost overhead + weights · traffic + work · rate, where work is weights times batch size. So is
    everything before the first epoch, which consists mostly of steps. These costs are fitted for each kind of
    configuration (same device, engine, pipeline, …) to probes of the one with the least work per step, the one with the
    most, and the one with the most weights at the smallest batch size.
    """
    seconds: dict[Configuration, float] = {}
    probes = 0
    for kind in _by_kind(plan.configurations):
        widest = max(kind, key=lambda configuration: (configuration.weights, -configuration.batch_size))
        probed = tuple(dict.fromkeys((min(kind, key=_step_work), max(kind, key=_step_work), widest)))
        found, starts = [], []
        for configuration in probed:
            begun = clock()
            found.append(probe(Trial(configuration=configuration, seed=plan.seed, repeat=0)))
            starts.append(clock() - begun)
        probes += len(probed)
        start, step = _fit(probed, starts), _fit(probed, [each.step_seconds for each in found])
        for configuration in kind:
            trained = _trained_seconds(configuration, step(configuration), found[0].train_samples)
            seconds[configuration] = start(configuration) + trained
    return Estimate(trial_seconds=seconds, probes=probes)


def _fit(probed: Sequence[Configuration], seconds: Sequence[float]) -> Callable[[Configuration], float]:
    """Return a function of a configuration's seconds, with non-negative costs fitted to the `seconds` of the probes."""
    import numpy as np  # noqa: PLC0415 - this module is imported by commands that estimate nothing
    from scipy.optimize import nnls  # noqa: PLC0415 - likewise

    weights, work = max(each.weights for each in probed), max(map(_step_work, probed))

    def terms(configuration: Configuration) -> tuple[float, float, float]:
        return 1.0, configuration.weights / weights, _step_work(configuration) / work

    costs, _ = nnls(np.array([terms(each) for each in probed]), np.array(seconds))
    return lambda configuration: float(costs @ np.array(terms(configuration)))


def _trained_seconds(configuration: Configuration, step_seconds: float, train_samples: int) -> float:
    """Return the time of all epochs with their evaluations and, for several ranks, of the blocks timed after them."""
    ranks = configuration.world_size
    epoch = step_seconds * math.ceil(train_samples / configuration.batch_size)
    block = max(step_seconds, min(EXCHANGE_SECONDS, epoch))
    exchange = EXCHANGE_BLOCKS * block if ranks > 1 else 0.0
    evaluation = _EVALUATION_SHARE * ranks  # the first rank evaluates alone
    return configuration.epochs * epoch * (1 + evaluation) + exchange


def _by_kind(configurations: Iterable[Configuration]) -> list[list[Configuration]]:
    kinds: dict[tuple[object, ...], list[Configuration]] = {}
    for c in configurations:
        key = (c.device, c.engine, c.precision, c.pipeline, c.workers, c.threads, c.world_size, c.dataset, c.optimizer)
        kinds.setdefault(key, []).append(c)
    return list(kinds.values())


def _step_work(configuration: Configuration) -> int:
    return configuration.weights * configuration.batch_size
