"""Prices per hour of a device or machine, as given on the command line, and what training costs at them.

There is no currency: costs are in the unit of the prices.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from bench.errors import BadInputError
from bench.records import kind_of
from mnist_mlp.spelling import did_you_mean

Side: TypeAlias = Literal["baseline", "candidate"]

SIDES: Final[tuple[Side, Side]] = ("baseline", "candidate")

ALL: Final = ""
"""The name of a price that was given without a name: it applies to everything."""

SECONDS_PER_HOUR: Final = 3600

_NUMBER: Final = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?", flags=re.ASCII)
_MAX_CHARACTERS: Final = 60
_WHOLE_FROM: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Prices per hour, all above 0, by what they apply to: a device or its kind, a side, or `ALL`."""

    by_name: Mapping[str, float]

    def of(self, device: str, side: Side | None = None, *, devices: int = 1) -> float | None:
        """Return the price of an hour on `device`, or on this many `devices` like it; None if none was given.

        A side's price takes precedence, then the device's, then that of its kind: ``cuda`` for ``cuda:1``.
        """
        for name in (side, device, kind_of(device), ALL):
            if name is not None and name in self.by_name:
                return self.by_name[name] * devices
        return None

    def check_devices(self, devices: Iterable[str]) -> None:
        """Refuse a price that applies to none of `devices`.

        Raises:
            BadInputError: a name is neither one of `devices` nor the kind of one.
        """
        known = dict.fromkeys(devices)
        names = {*known, *map(kind_of, known), *SIDES, ALL}
        for name in self.by_name:
            if name not in names:
                raise BadInputError(
                    f"--price-per-hour names {name!r}, but nothing ran on it{did_you_mean(name, known)}: name "
                    f"{' or '.join(repr(device[:_MAX_CHARACTERS]) for device in known) or 'no device'}"
                )

    def note(self) -> str:
        """Return what the costs include and the prices, in one line."""
        prices = ", ".join(f"{name} {price:.9g}".strip() for name, price in self.by_name.items())
        return (
            "cost: training time only, without start-up, evaluation and idle time; all accelerators that train "
            f"together are paid for; price per hour: {prices}"
        )


def parse_prices(text: str, *, has_sides: bool = False) -> Prices:
    """Return the prices in `text`: ``2.5``, ``cuda=2.5,cpu=0.1``, and with `has_sides` ``baseline=2.5,candidate=1``.

    Raises:
        BadInputError: a price is not a number above 0, a name is empty or appears twice, only one side has a price, or
            a price for everything is combined with others.
    """
    remedy = "write a number above 0 without a currency, such as 2.5, or one for each device: cuda=2.5,cpu=0.1"
    if has_sides:
        remedy += "; or for each side: baseline=2.5,candidate=0.9"

    def refused(rule: str) -> BadInputError:
        return BadInputError(f"--price-per-hour {text[:_MAX_CHARACTERS]!r} {rule}: {remedy}")

    by_name: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = (each.strip() for each in part.rpartition("="))
        if _NUMBER.fullmatch(number) is None or float(number) <= 0:
            raise refused(f"contains {number[:_MAX_CHARACTERS]!r}, which is not a price above 0")
        if bool(name) != bool(equals):
            raise refused("has a price without a name")
        if name in by_name:
            raise refused(f"has two prices for {name!r}" if name else "has two prices for everything")
        by_name[name] = float(number)
    sides = [name for name in by_name if name in SIDES]
    if sides and not has_sides:
        raise refused(f"names a {sides[0]}, which a single run does not have")
    if sides and set(by_name) != set(SIDES):
        raise refused("must have a price for each side and for nothing else")
    if ALL in by_name and len(by_name) > 1:
        raise refused("combines a price for everything with others")
    return Prices(by_name=by_name)


def cost_of(seconds: float | None, price_per_hour: float | None) -> float | None:
    """Return what `seconds` cost at `price_per_hour`; None where either is unknown."""
    if seconds is None or price_per_hour is None:
        return None
    return seconds * price_per_hour / SECONDS_PER_HOUR


def format_cost(cost: float) -> str:
    """Return a cost with three significant digits: ``0.00139``, ``12.0``, ``5230``; tiny ones as ``1.39e-06``."""
    return f"{cost:.0f}" if round(cost) >= _WHOLE_FROM else f"{cost:#.3g}".rstrip(".")
