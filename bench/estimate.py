"""How long a plan will take, estimated by starting a few of its trials and timing their first warm steps."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from bench.messages import Prepared
from bench.records import Configuration, Plan, Trial

_EVALUATION_SHARE = 1 / 18
"""Evaluation over training: about a third of the work per sample, for a sixth of the samples."""

Probe = Callable[[Trial], Prepared]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Estimated wall seconds of one trial of each configuration, from `probes` trials that were started for it."""

    trial_seconds: Mapping[Configuration, float]
    probes: int

    def of(self, plan: Plan) -> float:
        """Return the estimated wall seconds of all trials of `plan`, which is the estimated plan or a part of it."""
        return plan.repeats * math.fsum(self.trial_seconds[configuration] for configuration in plan.configurations)


def estimate_plan(plan: Plan, probe: Probe) -> Estimate:
    """Estimate what the trials of `plan` take.

    A step is taken to cost overhead + work · rate, work being weights times batch size. Of each kind of configuration
    (same device, engine, pipeline, …) the one with the least and the one with the most work per step are probed, and
    the others lie on the line through them.
    """
    seconds: dict[Configuration, float] = {}
    probes = 0
    for kind in _by_kind(plan.configurations):
        least, most = min(kind, key=_step_work), max(kind, key=_step_work)
        ends = [probe(Trial(configuration=each, seed=plan.seed, repeat=0)) for each in dict.fromkeys((least, most))]
        probes += len(ends)
        low, high = _step_work(least), _step_work(most)
        start = ends[-1].preparation_seconds + ends[-1].warm_up_seconds
        for configuration in kind:
            share = (_step_work(configuration) - low) / (high - low) if high > low else 0.0
            step = ends[0].step_seconds * (1 - share) + ends[-1].step_seconds * share
            steps = math.ceil(ends[0].train_samples / configuration.batch_size)
            seconds[configuration] = start + configuration.epochs * steps * step * (1 + _EVALUATION_SHARE)
    return Estimate(trial_seconds=seconds, probes=probes)


def _by_kind(configurations: Iterable[Configuration]) -> list[list[Configuration]]:
    kinds: dict[tuple[object, ...], list[Configuration]] = {}
    for c in configurations:
        key = (c.device, c.engine, c.precision, c.pipeline, c.workers, c.threads, c.world_size, c.dataset, c.optimizer)
        kinds.setdefault(key, []).append(c)
    return list(kinds.values())


def _step_work(configuration: Configuration) -> int:
    return configuration.weights * configuration.batch_size
