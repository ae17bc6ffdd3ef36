"""Whether the machine runs from its battery, on which processors are slowed down. Worker only."""

import sys
from pathlib import Path
from typing import Final

import psutil

_SUPPLIES: Final = Path("/sys/class/power_supply")
"""Linux's list of batteries and mains adapters (Documentation/ABI/testing/sysfs-class-power)."""


def runs_on_battery(supplies: Path = _SUPPLIES) -> bool | None:
    """Return whether this machine now runs from its battery; None if it has none, or the system does not tell.

    On Linux not by psutil, which takes the battery of a wireless mouse for the machine's.
    """
    if sys.platform == "linux":
        return _by_supplies(supplies)
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, RuntimeError):  # no such call on this system, or it refuses
        return None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged


def _by_supplies(supplies: Path) -> bool | None:
    try:
        own = [each for each in supplies.iterdir() if _read(each / "scope") != "Device"]
    except OSError:
        return None
    batteries = [each for each in own if _read(each / "type") == "Battery"]
    if not batteries:
        return None
    is_plugged = any(_read(each / "online") == "1" for each in own if each not in batteries)
    return not is_plugged and any(_read(each / "status") == "Discharging" for each in batteries)


def _read(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
