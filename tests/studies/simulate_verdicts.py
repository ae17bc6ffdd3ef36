"""How often are the verdicts wrong, and what do they detect? Simulated with the noise of a shared 2-core machine.

The rules under test are the very functions that the commands call (`gate_pairs`, `gate_times`, `gate_accuracies`); only
the measurements are drawn. A pair of live trials is drawn stretch by stretch, in ABBA blocks as `ab` measures them:

- the machine drifts: a random walk that a trial's time follows, at a spread of 15 % a minute;
- each stretch has noise of its own, each process an offset of its own, so that the value of a pair varies by
  `--pair-deviation` in the median configuration, and by more or less in others (log-normal, 30 %);
- one trial in thirty stalls: half of those in a single stretch, the others in all stretches from a random one on,
  which take 1.5 to 30 times as long (log-uniform).

    python tests/studies/simulate_verdicts.py [--families 2000] [--repeats 1000] [--seed 1]

Printed are Markdown tables, with 95 % intervals of Clopper and Pearson for what must stay rare.
"""

import argparse
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

if __name__ == "__main__":  # the checkout need not be installed
    sys.path[:0] = map(str, Path(__file__).resolve().parents[1:3])

import numpy as np
from scipy import stats
from step_times import fitted, grid, law

from bench.ab.comparison import USUAL_LOOKS
from bench.stats.inference import (
    TRIMMED_SHARE,
    Estimate,
    Family,
    independent_estimate,
    interval,
    paired_estimate,
    robust_paired_estimate,
)
from bench.stats.judgement import Judgement, Verdict, compare_times, gate_accuracies, gate_times
from bench.stats.moderation import fit_prior, moderate
from bench.stats.pair_gate import gate_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

BLOCKS: Final = 6
TURN_SECONDS: Final = 0.1
STRETCH_DEVIATION: Final = 0.06
"""Of one stretch's log time around the drift."""

SPREAD_OF_DEVIATIONS: Final = 0.3
"""Standard deviation of the log of what the configurations' noise differs by."""

DRIFT_A_MINUTE: Final = 0.15
STALL_SHARE: Final = 1 / 30
STALL_FACTORS: Final = (1.5, 30.0)

MAX_SLOWDOWN: Final = 0.05
MAX_DROP: Final = 0.005
SEED_DEVIATION: Final = 0.0015
TEST_IMAGES: Final = 10_000
TRIAL_DEVIATION: Final = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Where measurements come from. `pair_deviation` is the standard deviation of a pair without stalls."""

    random: np.random.Generator
    pair_deviation: float = 0.03
    stall_share: float = STALL_SHARE

    def deviations(self, families: int, configurations: int) -> "Floats":
        """How much noisier than the median each configuration is, (families, configurations)."""
        drawn = self.random.standard_normal((families, configurations))
        return np.exp(SPREAD_OF_DEVIATIONS * drawn)

    def pairs(self, noisier: "Floats", n: int) -> "Floats":
        """Values of `n` A/A pairs a configuration, (..., n): trimmed means of their blocks' log ratios."""
        shape = (*noisier.shape, n)
        step = DRIFT_A_MINUTE * math.sqrt(TURN_SECONDS / 60)
        logs = np.cumsum(self.random.standard_normal((*shape, BLOCKS * 4)), axis=-1) * step
        logs = logs.reshape(*shape, BLOCKS, 4)
        noise = noisier[..., None, None, None] * STRETCH_DEVIATION
        logs += noise * self.random.standard_normal(logs.shape)
        # In order of arms: baseline's two stretches, then candidate's; every other block begins with the other arm.
        outer, inner = logs[..., [0, 3]], logs[..., [1, 2]]
        starts = (np.arange(BLOCKS) % 2 == 0)[:, None]
        arms = [np.where(starts, outer, inner), np.where(starts, inner, outer)]
        ratios = np.subtract(*(np.log(np.exp(self._stall(arm)).sum(axis=-1)) for arm in arms[::-1]))
        # What the stretches leave of a pair's variance (6 % more trimmed than not) is the processes'.
        offset = math.sqrt(max(self.pair_deviation**2 - 1.06 * STRETCH_DEVIATION**2 / BLOCKS, 0.0))
        trimmed = np.sort(ratios, axis=-1)[..., 1:-1].mean(axis=-1)
        return np.asarray(trimmed + noisier[..., None] * offset * self.random.standard_normal(shape))

    def trials(self, noisier: "Floats", n: int) -> "Floats":
        """Log times of `n` separate trials a configuration, (..., n)."""
        shape = (*noisier.shape, n)
        logs = TRIAL_DEVIATION * noisier[..., None] * self.random.standard_normal(shape)
        return np.asarray(logs + (self.random.random(shape) < self.stall_share) * self._stall_logs(shape))

    def _stall(self, arm: "Floats") -> "Floats":
        """Stall the trials of one arm, (..., pairs, blocks, stretches)."""
        *outer, blocks, stretches = arm.shape
        place = np.arange(blocks * stretches)
        first = self.random.integers(0, blocks * stretches, (*outer, 1))
        single = self.random.random((*outer, 1)) < 0.5
        hit = np.where(single, place == first, place >= first)
        hit &= self.random.random((*outer, 1)) < self.stall_share
        return arm + (hit * self._stall_logs((*outer, 1))).reshape(arm.shape)

    def _stall_logs(self, shape: tuple[int, ...]) -> "Floats":
        low, high = map(math.log, STALL_FACTORS)
        return np.asarray(self.random.uniform(low, high, shape))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Pairs in the screen, in each round of confirmation, and how many rounds at most."""

    screen: int = 8
    confirm: int = 8
    rounds: int = USUAL_LOOKS


def live_families(
    noise: Noise, plan: Plan, shifts: "Floats", families: int
) -> Iterator[tuple[tuple[Judgement, ...], int]]:
    """Play the procedure of `ab` for `families` and yield the verdicts and how many pairs it took.

    `shifts`: (configurations,) true log ratios.
    """
    chunk = max(1, 10_000 // len(shifts))
    for start in range(0, families, chunk):
        noisier = noise.deviations(min(chunk, families - start), len(shifts))
        if len(shifts) == 1:
            noisier = np.ones_like(noisier)  # a single configuration is the median one
        screens = noise.pairs(noisier, plan.screen) + shifts[:, None]
        for family, screen in enumerate(screens.tolist()):
            yield _play(noise, plan, noisier[family], shifts, screen)


def _play(
    noise: Noise, plan: Plan, noisier: "Floats", shifts: "Floats", screen: list[list[float]]
) -> tuple[tuple[Judgement, ...], int]:
    confirm: list[list[float]] = [[] for _ in screen]
    judged = gate_pairs(screen, confirm, max_slowdown=MAX_SLOWDOWN, floor=0.0, looks=0)
    for look in range(1, plan.rounds + 1):
        places = np.flatnonzero([each.verdict is Verdict.INCONCLUSIVE for each in judged])
        if not len(places):
            break
        fresh = noise.pairs(noisier[places], plan.confirm) + shifts[places, None]
        for place, pairs in zip(places.tolist(), fresh.tolist(), strict=True):
            confirm[place].extend(pairs)
        judged = gate_pairs(
            screen,
            confirm,
            max_slowdown=MAX_SLOWDOWN,
            floor=0.0,
            looks=look,
            last_look=look == plan.rounds,
            earlier=judged,
        )
    return judged, sum(map(len, screen)) + sum(map(len, confirm))


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description="Error rates and power of the verdicts, simulated.")
    parser.add_argument("--families", type=int, default=2000, help="families for error rates")
    parser.add_argument("--repeats", type=int, default=1000, help="verdicts for each point of a power curve")
    parser.add_argument("--configurations", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    noise = Noise(random=np.random.default_rng(options.seed))
    started = time.perf_counter()
    show(describe_noise(noise))
    show(trimmed_tails(noise.random, options.families * 500))
    show(live_errors(noise, options.families, options.configurations))
    show(false_passes(noise, options.families))
    show(live_power(noise, options.repeats))
    show(choices(noise, options.families))
    show(stored_times(noise, options.families // 4, options.configurations))
    show(accuracies(noise, options.repeats))
    show(coverage(noise, options.families // 10, options.configurations))
    show(few_calibrations(np.random.default_rng(options.seed), options.families * 10))
    show(unequal_numbers(Noise(random=np.random.default_rng(options.seed)), options.families))
    show(predictions(np.random.default_rng(options.seed), max(4, options.repeats // 4)))
    show([f"Simulated in {time.perf_counter() - started:.0f} s with seed {options.seed}."])


def show(lines: Iterable[str]) -> None:
    """Print a table and a blank line."""
    print(*lines, "", sep="\n", flush=True)  # noqa: T201 - the result


def table(*rows: Sequence[object]) -> Iterator[str]:
    """Yield the lines of a Markdown table; the first row heads it."""
    for place, row in enumerate(rows):
        yield "| " + " | ".join(map(str, row)) + " |"
        if place == 0:
            yield "|" + "---|" * len(row)


def percent(share: float) -> str:
    """Return a share as ``12.3 %``."""
    return f"{share * 100:.1f} %"


def rate(count: int, of: int) -> str:
    """Return a rate with its exact 95 % interval."""
    exact = stats.binomtest(count, of).proportion_ci(0.95, "exact")
    return f"{count} of {of}: {count / of * 100:.2f} % ({exact.low * 100:.2f} to {exact.high * 100:.2f})"


def describe_noise(noise: Noise) -> Iterator[str]:
    """What the drawn pairs look like, to be held against measured ones."""
    noisier = np.ones((2000,))
    undisturbed = replace(noise, stall_share=0.0).pairs(noisier, 8)
    stalled = noise.pairs(noisier, 8)
    yield "Noise drawn, median configuration:"
    yield ""
    yield from table(
        ("what", "value"),
        ("SD between pairs, no stalls", percent(float(undisturbed.std()))),
        ("SD between pairs, with stalls", percent(float(stalled.std()))),
        ("pairs off by more than 15 %", percent(float(np.mean(abs(stalled) > 0.15)))),
        ("CV of separate trials, no stalls", percent(float(replace(noise, stall_share=0.0).trials(noisier, 8).std()))),
    )


def trimmed_tails(random: np.random.Generator, samples: int) -> Iterator[str]:
    """How often a one-sided t test of a trimmed mean errs on normal values, by its level and the number of values."""
    levels = (0.05, 0.025, 0.005, 0.0005)
    yield f"Trimmed means of normal values: error rate of a one-sided test, in {2 * samples} tests, over its level:"
    yield ""
    heads = [f"{kind}, level {level * 100:g} %" for kind in ("Yuen", "widened") for level in levels]
    rows: list[Sequence[object]] = [("values", *heads)]
    for n in (5, 6, 7, 8, 10, 16, 24):
        values = np.sort(random.standard_normal((samples, n)), axis=-1)
        cut = int(TRIMMED_SHARE * n)
        kept = n - 2 * cut
        centre = values[:, cut : n - cut].mean(axis=-1)
        winsorised = np.clip(values, values[:, [cut]], values[:, [n - cut - 1]])
        variance = winsorised.var(axis=-1, ddof=1) * (n - 1) / (kept - 1)
        cells = []
        for scale in (1 / kept, robust_paired_estimate(range(n)).scale):
            t = np.abs(centre) / np.sqrt(variance * scale)
            cells += [f"{np.mean(t > stats.t.isf(level, kept - 1)) / 2 / level:.2f}" for level in levels]
        rows.append((n, *cells))
    yield from table(*rows)


def false_passes(noise: Noise, families: int) -> Iterator[str]:
    """Families with a false pass, all configurations slower by the allowance, by pairs and configurations."""
    sizes = (1, 3, 5, 9, 12)
    yield f"`ab`: families with a false pass where all are slower by the allowance ({families} families each):"
    yield ""
    rows: list[Sequence[object]] = [("pairs", "noise", *(f"{size} configuration{'s' * (size > 1)}" for size in sizes))]
    for n in (5, 6, 8, 16):
        for name, source in (("no stalls", replace(noise, stall_share=0.0)), ("with stalls", noise)):
            cells = []
            for size in sizes:
                shifts = np.full(size, math.log1p(MAX_SLOWDOWN))
                played = live_families(source, Plan(screen=n, confirm=n), shifts, families)
                wrong = sum(any(each.verdict is Verdict.PASS for each in judged) for judged, _ in played)
                cells.append(percent(wrong / families))
            rows.append((f"{n} + {USUAL_LOOKS * n}", name, *cells))
    yield from table(*rows)


def live_errors(noise: Noise, families: int, configurations: int) -> Iterator[str]:
    """Family-wise errors of `ab`: regressions without a difference, passes at the allowance itself."""
    yield f"`ab`: errors in a family of {configurations} configurations (screen 8 pairs, then up to 2 rounds of 8):"
    yield ""
    rows: list[Sequence[object]] = [("true slowdown of all", "families with an error", "pass", "inconclusive", "pairs")]
    for slowdown, error in ((0.0, Verdict.REGRESSION), (MAX_SLOWDOWN, Verdict.PASS)):
        shifts = np.full(configurations, math.log1p(slowdown))
        played = list(live_families(noise, Plan(), shifts, families))
        wrong = sum(any(each.verdict is error for each in judged) for judged, _ in played)
        verdicts = Counter(each.verdict for judged, _ in played for each in judged)
        total = families * configurations
        rows.append(
            (
                f"{slowdown * 100:g} % ({error} is the error)",
                rate(wrong, families),
                percent(verdicts[Verdict.PASS] / total),
                percent(verdicts[Verdict.INCONCLUSIVE] / total),
                f"{sum(pairs for _, pairs in played) / total:.1f} a configuration",
            )
        )
    yield from table(*rows)


def live_power(noise: Noise, repeats: int) -> Iterator[str]:
    """Verdicts of `ab` for one configuration, alone and as the one that is slower in a family of ten."""
    yield f"`ab`: verdicts on a planted slowdown ({repeats} each): regression / pass / inconclusive, pairs"
    yield ""
    slowdowns = (0.0, 0.03, 0.05, 0.07, 0.10, 0.15)
    columns = [(0.03, 1, 1), (0.03, 1, 2), (0.05, 1, 2), (0.03, 10, 2)]
    heads = [
        f"SD {deviation * 100:g} %, {family} configuration{'s' * (family > 1)}, 8 + {8 * rounds}"
        for deviation, family, rounds in columns
    ]
    rows: list[Sequence[object]] = [("slowdown", *heads)]
    for slowdown in slowdowns:
        cells = []
        for deviation, family, rounds in columns:
            shifts = np.zeros(family)
            shifts[0] = math.log1p(slowdown)
            planted = replace(noise, pair_deviation=deviation)
            played = list(live_families(planted, Plan(rounds=rounds), shifts, repeats))
            verdicts = Counter(judged[0].verdict for judged, _ in played)
            shares = (verdicts[each] / repeats for each in (Verdict.REGRESSION, Verdict.PASS, Verdict.INCONCLUSIVE))
            pairs = sum(pairs for _, pairs in played) / repeats / family
            cells.append(" / ".join(f"{share * 100:.1f}" for share in shares) + f", {pairs:.0f}")
        rows.append((f"{slowdown * 100:g} %", *cells))
    yield from table(*rows)


def choices(noise: Noise, families: int) -> Iterator[str]:
    """Why trimmed means, and why variances are only raised: one stage of 8 pairs, judged as one family."""
    yield f"Alternatives compared ({families} families, 8 pairs, no confirmation stage; noise that differs by 60 %):"
    yield ""
    moderations: dict[str, Callable[[Sequence[Estimate]], Sequence[Estimate]]] = {
        "none": lambda estimates: estimates,
        "both ways (Smyth)": lambda estimates: shrink(estimates, raise_only=False),
        "raised only (chosen)": lambda estimates: shrink(estimates, raise_only=True),
    }
    rows: list[Sequence[object]] = [
        (
            "family",
            "value of a configuration",
            "moderation",
            "any false alarm (1 %)",
            "any false pass (5 %)",
            "10 % found",
        )
    ]
    for family in (5, 10, 50):
        noisier = noise.deviations(families, family) ** 2
        drawn = noise.pairs(noisier, 8).tolist()
        for name, estimate in (("mean", paired_estimate), ("trimmed mean", robust_paired_estimate)):
            estimated = [[estimate(each) for each in values] for values in drawn]
            for kind, moderation in moderations.items():
                alarms, passes, found = 0, 0, 0
                for estimates in estimated:
                    judged = Family(estimates=moderation(estimates))
                    alarms += bool(np.any(judged.p_above() * family < 0.01))
                    passes += bool(np.any(judged.p_below() * family < 0.05))
                    planted = replace(judged.estimates[0], value=judged.estimates[0].value + math.log(1.1))
                    found += bool(Family(estimates=[planted]).p_above()[0] * family < 0.01)
                rows.append((family, name, kind, *(percent(each / families) for each in (alarms, passes, found))))
    yield from table(*rows)


def shrink(estimates: Sequence[Estimate], *, raise_only: bool) -> list[Estimate]:
    """Moderate as `bench.stats.moderation.moderate` does for a family of any size, or as Smyth does, both ways."""
    prior_freedom, prior_variance = fit_prior(
        [each.variance for each in estimates], [each.degrees_of_freedom for each in estimates]
    )
    most = sum(each.degrees_of_freedom for each in estimates)
    moderated = []
    for each in estimates:
        share = each.degrees_of_freedom / (prior_freedom + each.degrees_of_freedom)
        variance = (1 - share) * prior_variance + share * each.variance
        freedom = min(prior_freedom + each.degrees_of_freedom, most)
        kept = max(variance, each.variance) if raise_only else variance
        moderated.append(replace(each, variance=kept, degrees_of_freedom=freedom))
    return moderated


def stored_times(noise: Noise, families: int, configurations: int) -> Iterator[str]:
    """The time gate of `check` on separate trials of the same machine, spread 15 %, without drift between the sides."""
    yield f"`check`: time gate at 10 % on stored trials, {configurations} configurations, one of them slower:"
    yield ""
    rows: list[Sequence[object]] = [
        ("trials a side", "families with a false regression", "30 % slower found", "100 % slower found", "equal passed")
    ]
    for n in (5, 10, 20):
        wrong, found, equal = 0, [0, 0], 0
        for noisier in noise.deviations(families, configurations):
            sides = noise.trials(noisier, n), noise.trials(noisier, n)
            judged = _gate_stored(*sides)
            wrong += any(each.verdict is Verdict.REGRESSION for each in judged)
            equal += sum(each.verdict is Verdict.PASS for each in judged)
            for place, slowdown in enumerate((0.3, 1.0)):
                planted = sides[1].copy()
                planted[0] += math.log1p(slowdown)
                found[place] += _gate_stored(sides[0], planted)[0].verdict is Verdict.REGRESSION
        shares = [percent(each / families) for each in found]
        rows.append((n, rate(wrong, families), *shares, percent(equal / families / configurations)))
    yield from table(*rows)


def unequal_numbers(noise: Noise, families: int) -> Iterator[str]:
    """Stored runs of equal code with unequal numbers of trials, with a drift of 10 % a side that is known."""
    yield f"Unequal numbers of trials, equal code: families with a false alarm ({families} each):"
    yield ""
    rows: list[Sequence[object]] = [
        (
            "trials, baseline / candidate",
            *(
                f"{size}: `{command}`"
                for size in ("1 configuration", "10 configurations")
                for command in ("check", "compare")
            ),
        )
    ]
    different = {Verdict.FASTER, Verdict.SLOWER}
    for n in ((15, 1), (1, 15), (15, 2), (2, 15), (15, 3), (15, 5), (5, 4)):
        cells = []
        for configurations in (1, 10):
            slower = differing = 0
            for noisier in noise.deviations(families, configurations):
                drift = 0.1 * noise.random.standard_normal(2)
                sides = [noise.trials(noisier, k) + shift for k, shift in zip(n, drift, strict=True)]
                estimates = moderate(
                    [
                        replace(independent_estimate(*each), extra_variance=2 * 0.1**2)
                        for each in zip(*(side.tolist() for side in sides), strict=True)
                    ]
                )
                slower += any(each.verdict is Verdict.REGRESSION for each in gate_times(estimates, max_slowdown=0.1))
                differing += any(each.verdict in different for each in compare_times(estimates))
            cells += [percent(slower / families), percent(differing / families)]
        rows.append((" / ".join(map(str, n)), *cells))
    yield from table(*rows)


def _gate_stored(baseline: "Floats", candidate: "Floats") -> tuple[Judgement, ...]:
    estimates = [independent_estimate(*each) for each in zip(baseline.tolist(), candidate.tolist(), strict=True)]
    return gate_times(moderate(estimates), max_slowdown=0.1, floor=0.0)


def few_calibrations(random: np.random.Generator, tables: int) -> Iterator[str]:
    """Stored runs without a difference, whose drift of 10 % was calibrated in few sessions; trials spread 3 %."""
    yield f"Drift of 10 % from few calibrations: {tables} tables of one configuration, 15 trials a side:"
    yield ""
    rows: list[Sequence[object]] = [
        (
            "sessions",
            "taken as known: interval covers",
            "false difference",
            "as it is: interval covers",
            "false difference",
        )
    ]
    for sessions in (3, 5, 10, 20):
        drift = 2 * 0.1**2 * random.chisquare(sessions - 1, tables) / (sessions - 1)
        trials = 0.03**2 * random.chisquare(28, tables) / 28
        values = random.standard_normal(tables) * math.sqrt(2 * 0.1**2 + 2 * 0.03**2 / 15)
        cells = []
        for freedom in (math.inf, sessions - 1):
            family = Family(
                estimates=[
                    Estimate(
                        value=value,
                        variance=variance,
                        degrees_of_freedom=28,
                        scale=2 / 15,
                        extra_variance=extra,
                        extra_degrees_of_freedom=freedom,
                        n=(15, 15),
                    )
                    for value, variance, extra in zip(values.tolist(), trials.tolist(), drift.tolist(), strict=True)
                ]
            )
            covered = float(np.mean(np.abs(values) <= family.half_widths(0.975)))
            wrong = float(np.mean(2 * np.minimum(family.p_above(), family.p_below()) < 0.01))
            cells += [percent(covered), percent(wrong)]
        rows.append((sessions, *cells))
    yield from table(*rows)


def predictions(random: np.random.Generator, repeats: int) -> Iterator[str]:
    """Fits of `predict` to runs whose law is known, one time a size."""
    yield f"`predict`: coverage of 95 % intervals, {repeats} fits each to six widths at five batch sizes:"
    yield ""
    rows: list[Sequence[object]] = [
        ("in the times", "noise", "overhead", "rate", "prediction", "median rate, relative")
    ]
    size = ((784, 300, 10), 100)
    for name, sample, bandwidth in (
        ("overhead and rate", 0.0, math.inf),
        ("all four terms", 0.8e-6, 45e9),
        ("all, per sample little", 0.15e-6, 45e9),
    ):
        known = law(150e-6, 180e9, bandwidth, sample)
        for deviation in (0.03, 0.10, 0.15):
            covered, rates = [0, 0, 0], []
            for _ in range(repeats):
                one = fitted(grid(known, noise=deviation, seed=int(random.integers(2**31))))
                told, measured = one.predict(*size), known(*size) * math.exp(random.normal(0, deviation))
                if one.overhead is None or one.rate is None:
                    continue
                rates.append(one.rate.value / 180e9)
                inside = (
                    one.overhead.low <= 150e-6 <= one.overhead.high,
                    one.rate.low <= 180e9 <= one.rate.high,
                    told.low <= measured <= told.high,
                )
                covered = [count + each for count, each in zip(covered, inside, strict=True)]
            shares = [percent(each / max(1, len(rates))) for each in covered]
            rows.append((name, f"{deviation * 100:g} %", *shares, f"{np.median(rates):.3f}"))
    yield from table(*rows)


def accuracies(noise: Noise, repeats: int) -> Iterator[str]:
    """The accuracy gate: false failures and power, seeds of 0.15 pp spread, 10 000 test images."""
    yield f"Accuracy gate, ten configurations, one with a drop ({repeats} each), allowed drop {MAX_DROP * 100:g} pp:"
    yield ""
    rows: list[Sequence[object]] = [
        ("seeds a side", "true drop", "regression", "pass", "inconclusive", "any false failure in the family")
    ]
    for n in (5, 10):
        for drop in (0.0, 0.001, 0.002, 0.003, 0.005, 0.01):
            verdicts: Counter[Verdict] = Counter()
            false = 0
            for _ in range(repeats):
                first, *others = _gate_seeds(noise.random, n, drop)
                verdicts[first.verdict] += 1
                blameless = others if drop else [first, *others]
                false += any(each.verdict in {Verdict.REGRESSION, Verdict.INCOMPARABLE} for each in blameless)
            shares = (verdicts[each] / repeats for each in (Verdict.REGRESSION, Verdict.PASS, Verdict.INCONCLUSIVE))
            rows.append((n, f"{drop * 100:g} pp", *map(percent, shares), rate(false, repeats)))
    yield from table(*rows)


def _gate_seeds(random: np.random.Generator, n: int, drop: float) -> tuple[Judgement, ...]:
    true = np.full((2, 10, 1), 0.98)
    true[1, 0] -= drop
    drawn = np.round((true + SEED_DEVIATION * random.standard_normal((2, 10, n))) * TEST_IMAGES) / TEST_IMAGES
    estimates = [independent_estimate(*each) for each in zip(*drawn.tolist(), strict=True)]
    return gate_accuracies(estimates, max_drop=MAX_DROP)


def coverage(noise: Noise, families: int, configurations: int) -> Iterator[str]:
    """How often a 95 % interval covers the truth, and how wide it is."""
    yield f"95 % intervals: coverage and median half width, {families * configurations} configurations each:"
    yield ""

    def of_pairs(
        estimate: Callable[[Sequence[float]], Estimate], n: int
    ) -> Callable[["Floats", Noise], list[Estimate]]:
        return lambda noisier, source: [estimate(each) for each in source.pairs(noisier, n).tolist()]

    def of_trials(noisier: "Floats", source: Noise) -> list[Estimate]:
        sides = (source.trials(noisier, 5).tolist(), source.trials(noisier, 5).tolist())
        return [independent_estimate(*each) for each in zip(*sides, strict=True)]

    kinds = [
        ("8 pairs, mean", of_pairs(paired_estimate, 8)),
        ("8 pairs, trimmed mean (`ab`)", of_pairs(robust_paired_estimate, 8)),
        ("16 pairs, trimmed mean (`ab`)", of_pairs(robust_paired_estimate, 16)),
        ("5 trials a side (`compare`, `check`)", of_trials),
    ]
    rows: list[Sequence[object]] = [
        ("estimate", "no stalls", "no stalls, moderated", "with stalls", "with stalls, moderated")
    ]
    for name, draw in kinds:
        cells: list[str] = []
        for source in (replace(noise, stall_share=0.0), noise):
            drawn = [draw(noisier, source) for noisier in noise.deviations(families, configurations)]
            cells.extend((_cover(drawn), _cover([moderate(each) for each in drawn])))
        rows.append((name, *cells))
    yield from table(*rows)


def _cover(families: Sequence[Sequence[Estimate]]) -> str:
    intervals = [interval(each) for family in families for each in family]
    covered = sum(each.low <= 0 <= each.high for each in intervals) / len(intervals)
    half = float(np.median([(each.high - each.low) / 2 for each in intervals]))
    return f"{percent(covered)}, ±{percent(half)}"


if __name__ == "__main__":
    main()
