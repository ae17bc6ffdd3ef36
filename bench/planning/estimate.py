"""How long a plan will take, estimated by starting a few of its trials and timing their first warm steps."""

import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.protocol.messages import Prepared
from bench.records import Configuration, Plan, Trial

_EVALUATION_SHARE = 1 / 18
"""Evaluation over training: about a third of the work per sample, for a sixth of the samples."""

EXCHANGE_BLOCKS, EXCHANGE_SECONDS = 8, 0.1
"""How many blocks of steps ranks time after their last epoch, and about how long each is: `worker.rank_session`."""

Probe = Callable[[Trial], Prepared]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated wall seconds of one trial of each configuration, from `probes` trials that were started for it.

    `note` is a line that says that others kept the machine busy; it is empty where none did.
    """

    trial_seconds: Mapping[Configuration, float]
    probes: int
    note: str = ""

    def of(self, plan: Plan) -> float:
        """Return the estimated wall seconds of all trials of `plan`, which is the estimated plan or a part of it."""
        return plan.repeats * math.fsum(self.trial_seconds[configuration] for configuration in plan.configurations)


def busy_note(plan: Plan) -> str:
    """Return what to say where others compute here and leave fewer cores than a trial of `plan` takes; else nothing.

    To be asked before a trial is started: it would count as well.
    """
    try:
        load, cores = os.getloadavg()[0], os.cpu_count() or 1
    except (AttributeError, OSError):  # Windows; a system that keeps none
        return ""
    taken = max((each.threads * each.world_size for each in plan.configurations), default=0)
    if load < 1 or load + taken <= cores:
        return ""
    return f"Others compute here (load average {load:.1f}, {cores} cores): the estimate may be too high"


def estimate_plan(plan: Plan, probe: Probe, clock: Callable[[], float] = time.perf_counter) -> Estimate:
    """Estimate what the trials of `plan` take.

    A step is taken to cost overhead + weights · traffic + work · rate, work being weights times batch size, and so is
    all that comes before the first epoch, which is steps for the most part. Of each kind of configuration (same device,
    engine, pipeline, …) those with the least work per step, with the most, and with the most weights in the least batch
    are probed, and tell these costs.
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
    """Return what tells a configuration's seconds, by the costs, none below zero, that fit those `probed` took."""
    import numpy as np  # noqa: PLC0415 - this module is imported by commands that estimate nothing
    from scipy.optimize import nnls  # noqa: PLC0415 - likewise

    weights, work = max(each.weights for each in probed), max(map(_step_work, probed))

    def terms(configuration: Configuration) -> tuple[float, float, float]:
        return 1.0, configuration.weights / weights, _step_work(configuration) / work

    costs, _ = nnls(np.array([terms(each) for each in probed]), np.array(seconds))
    return lambda configuration: float(costs @ np.array(terms(configuration)))


def _trained_seconds(configuration: Configuration, step_seconds: float, train_samples: int) -> float:
    """Return what the epochs take with their evaluations, and of several ranks what follows them."""
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
