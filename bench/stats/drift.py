"""The machine's drift from one table to the next: an error that no repeat within a table shows."""

import math
from collections.abc import Iterator
from typing import Final, Protocol

DEFAULT_DRIFT_DEVIATION: Final = 0.10
"""Standard deviation of ln(epoch time) from one table to the next where the machine was never calibrated.

Shared machines drift by about this much within an hour, quiet ones by far less; `bench calibrate` measures it.
"""


class NoiseProfile(Protocol):
    """What a comparison needs from a machine's profile, as `bench.calibration.profiles.MachineProfile` provides it."""

    def ab_floor(self, device: str) -> float | None:
        """Return the largest credible difference between identical arms, as a log ratio."""

    def drift_deviation(self, device: str) -> float | None:
        """Return the standard deviation of ln(epoch time) between tables."""

    def drift_freedom(self, device: str) -> int | None:
        """Return the degrees of freedom of that standard deviation; None if there is none."""


class Drift:
    """The variance of a log ratio that is due to drift between two tables: the sum of both sides' squared drifts."""

    def __init__(
        self, baseline: NoiseProfile | None, candidate: NoiseProfile | None, *, has_several_machines: bool = False
    ) -> None:
        """Use these profiles of the two machines, which may be the same. A side of several machines has none."""
        self._profiles = (baseline, candidate)
        self._has_several_machines = has_several_machines
        self._known: dict[tuple[str, str], tuple[float, ...]] = {}
        self._assumed: set[tuple[str, str]] = set()

    def variance(self, device: str, candidate_device: str) -> float:
        """Return the variance for these devices; without a calibrated profile, `DEFAULT_DRIFT_DEVIATION` is assumed."""
        return math.fsum(deviation**2 for deviation in self._deviations((device, candidate_device)))

    def degrees_of_freedom(self, device: str, candidate_device: str) -> float:
        """Return the degrees of freedom of `variance`: the fewer of both sides, infinite if both are assumed.

        They do not add up, because both sides may have the same profile.
        """
        sides = zip(self._profiles, (device, candidate_device), strict=True)
        found = [None if profile is None else profile.drift_freedom(device) for profile, device in sides]
        return min((each for each in found if each is not None), default=math.inf)

    def notes(self) -> Iterator[str]:
        """Yield what the intervals include, for every device or pair of devices whose variance was asked for."""
        for devices, known in sorted(self._known.items()):
            percent = " and ".join(f"{deviation * 100:.3g} %" for deviation in dict.fromkeys(known))
            name = " against ".join(dict.fromkeys(devices))
            yield (
                f"intervals of {name} include a drift from table to table of {percent} (standard deviation), "
                f"{self._source(devices)}; for a change of code, python -m bench ab avoids it"
            )

    def _source(self, devices: tuple[str, str]) -> str:
        """Return where the deviations of `devices` come from."""
        if devices not in self._assumed:
            return "as calibrated"
        if self._has_several_machines:
            return "assumed, because a side was measured on several machines"
        return "assumed until python -m bench calibrate has measured it in three sessions or more"

    def _deviations(self, devices: tuple[str, str]) -> tuple[float, ...]:
        """Return the standard deviations of both sides."""
        if devices not in self._known:
            sides = zip(self._profiles, devices, strict=True)
            known = [None if profile is None else profile.drift_deviation(device) for profile, device in sides]
            if None in known:
                self._assumed.add(devices)
            self._known[devices] = tuple(DEFAULT_DRIFT_DEVIATION if each is None else each for each in known)
        return self._known[devices]
