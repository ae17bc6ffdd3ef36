"""The rule of `ab`: a screen that can only pass, then a decision on fresh pairs alone. Pure.

Rules, levels and studies are explained in docs/statistics.md.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from bench.errors import BadInputError
from bench.stats.inference import TRIMMED_SHARE, Estimate, Family, holm, pool_variance, robust_paired_estimate
from bench.stats.judgement import ERROR_LEVEL, PASS_LEVEL, Judgement, TimeRule, Verdict, family_of
from bench.stats.moderation import moderate


def gate_pairs(  # noqa: PLR0913 - data, rule and look; all but the data by name
    screen: Sequence[Sequence[float]],
    confirm: Sequence[Sequence[float]],
    *,
    max_slowdown: float,
    floor: float,
    looks: int,
    last_look: bool = False,
    earlier: Sequence[Judgement] = (),
    error_level: float = ERROR_LEVEL,
    pass_level: float = PASS_LEVEL,
) -> tuple[Judgement, ...]:
    """Gate pairs of live trials of one device in two stages, the rule of `ab`.

    The screen is judged as one family and can only pass a configuration, at half of `pass_level`. The others are judged
    on their confirm pairs alone, as the family of all that the screen did not pass; only the variance is pooled with
    the screen's, trimmed alike. Values are 20 % trimmed means with Yuen's variance, moderated across configurations.

    After each round of confirm pairs call again with all of them so far, `looks` raised by one and the previous result
    as `earlier`: decisions are final. Look k spends 1/(k(k+1)) of `error_level` and of the other half of `pass_level`,
    so that any number of looks keeps the levels. `last_look`, fixed before the round was measured, spends all that is
    left, 1/k.

    Args:
        screen: log ratios of each configuration's screening pairs.
        confirm: log ratios of its fresh pairs, in the same order; empty if there are none (yet).
        max_slowdown: allowed slowdown as a fraction.
        floor: the machine's A/A floor, a log ratio; 0 if unknown.
        looks: how many times confirm pairs have been looked at, including this time; 0 judges the screen.
        last_look: whether this is the last look.
        earlier: what the previous call returned; needed from the second look on.
        error_level: chance of any false regression in the family.
        pass_level: chance of any false pass in the family.

    Raises:
        BadInputError: lengths that differ, confirm pairs at look 0, missing `earlier`, values that are not finite, or
            thresholds that make no sense.
    """
    _check_stages(screen, confirm, looks, earlier)
    screened = [robust_paired_estimate(values) for values in screen]
    family = family_of(moderate(screened))
    rule = TimeRule(
        max_slowdown=max_slowdown,
        floor=floor,
        error_level=error_level,
        pass_level=pass_level / 2,
        size=len(screened),
        unit="pairs",
    )
    first = rule.judge(family, None)
    if looks == 0:
        return first
    standing = [before if before.verdict is not Verdict.INCONCLUSIVE else None for before in earlier or first]
    # What was measured again did not pass the screen, even if it would now that another configuration has failed.
    places = [i for i, before in enumerate(standing) if before is None or confirm[i]]
    fresh = [
        _pooled(pairs, values) if pairs else known
        for pairs, values, known in zip(confirm, screen, screened, strict=True)
    ]
    family = family_of(moderate(fresh))
    share = 1 / looks if last_look else 1 / (looks * (looks + 1))
    rule = replace(
        rule,
        error_level=error_level * share,
        pass_level=pass_level / 2 * share,
        size=len(places),
        unit="fresh pairs",
    )
    judged = rule.judge(family, _adjust_over_looks(family, places, standing, confirm))
    return tuple(
        before or (after if pairs else screening)
        for before, after, pairs, screening in zip(standing, judged, confirm, first, strict=True)
    )


def _pooled(pairs: Sequence[float], screen: Sequence[float]) -> Estimate:
    """Return the estimate of fresh `pairs`, its variance pooled with that of `screen` trimmed by the same share.

    Yuen's variance is that of the trimmed mean times the number of values kept, so it depends on the share cut off: for
    normal pairs it is σ² if nothing is cut off (fewer than 5 pairs), 0.81 σ² for 8 pairs and 0.69 σ² for 10. So the
    screen's variance is recomputed with the share of the fresh pairs, rounded down to whole pairs, which is cautious.
    But if any fresh pairs are cut off, a screen that can spare one at each end loses it too: otherwise one outlier in
    the screen would dominate the pooled variance.
    """
    n, size = len(pairs), len(screen)
    cut = int(TRIMMED_SHARE * n)
    of_screen = max(cut * size // n, min(1, cut, int(TRIMMED_SHARE * size)))
    share = math.nextafter(of_screen / size, 1)  # the next above: 14 / 71 * 71 is below 14 in binary fractions
    return pool_variance(robust_paired_estimate(pairs), robust_paired_estimate(screen, share))


def _check_stages(
    screen: Sequence[Sequence[float]], confirm: Sequence[Sequence[float]], looks: int, earlier: Sequence[Judgement]
) -> None:
    lengths = {len(screen), len(confirm), len(earlier) or len(screen)}
    if len(lengths) > 1:
        raise BadInputError(f"screen, confirm and earlier must be equally long, not {sorted(lengths)}")
    if looks < 0 or (looks == 0 and any(confirm)):
        raise BadInputError(f"looks is {looks}, but must count every look at confirm pairs, including this one")
    if looks > 1 and len(earlier) != len(screen):
        raise BadInputError(f"look {looks} needs the previous look's judgements as earlier: decisions are final")


def _adjust_over_looks(
    family: Family, places: Sequence[int], standing: Sequence[Judgement | None], confirm: Sequence[Sequence[float]]
) -> list[float]:
    """Return Holm-adjusted p-values over `places`, all that the screen did not pass; 1 elsewhere.

    A regression called at an earlier look comes first in the step-down, whatever its p-value now; anything that has
    passed or has no fresh pairs yet comes last: Holm's procedure over looks (Maurer and Bretz, Stat. Biopharm. Res. 5,
    2013).
    """
    now = family.p_above().tolist()

    def p(i: int) -> float:
        before = standing[i]
        if before is not None:
            return 0.0 if before.verdict is Verdict.REGRESSION else 1.0
        return float(now[i]) if confirm[i] else 1.0

    adjusted = [1.0] * len(standing)
    for place, each in zip(places, holm([p(i) for i in places]), strict=True):
        adjusted[place] = each
    return adjusted
