from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from bench.worker.battery import runs_on_battery

Supply = dict[str, str]

BATTERY: Supply = {"type": "Battery", "status": "Discharging", "scope": "System"}
FULL: Supply = {"type": "Battery", "status": "Full"}
MOUSE: Supply = {"type": "Battery", "status": "Discharging", "scope": "Device"}
PLUGGED: Supply = {"type": "Mains", "online": "1"}
UNPLUGGED: Supply = {"type": "Mains", "online": "0"}
CHARGER: Supply = {"type": "USB", "online": "1"}


@pytest.mark.parametrize(
    ("supplies", "expected"),
    [
        ([BATTERY, UNPLUGGED], True),
        ([BATTERY], True),  # some list no adapter
        ([FULL, BATTERY, UNPLUGGED], True),  # one battery after the other
        ([FULL, PLUGGED], False),
        ([FULL, UNPLUGGED], False),
        ([BATTERY, CHARGER, UNPLUGGED], False),  # by a charger that is too weak, or to spare the battery
        ([MOUSE, PLUGGED], None),
        ([MOUSE], None),
        ([MOUSE, BATTERY], True),
        ([], None),
    ],
)
@pytest.mark.usefixtures("linux")
def test_a_battery_that_discharges_without_an_adapter_supplies_the_machine(
    tmp_path: Path,
    supplies: list[Supply],
    expected: bool | None,  # noqa: FBT001 - a table's column
) -> None:
    for number, supply in enumerate(supplies):
        (tmp_path / str(number)).mkdir()
        for name, text in supply.items():
            (tmp_path / str(number) / name).write_text(f"{text}\n")
    assert runs_on_battery(tmp_path) is expected


@pytest.fixture
def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "linux")


@pytest.mark.usefixtures("linux")
def test_without_linux_s_files_nothing_is_known(tmp_path: Path) -> None:
    assert runs_on_battery(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("battery", "expected"),
    [
        (SimpleNamespace(power_plugged=False), True),
        (SimpleNamespace(power_plugged=True), False),
        (SimpleNamespace(power_plugged=None), None),
        (None, None),
    ],
)
def test_other_systems_are_asked_by_psutil(
    monkeypatch: pytest.MonkeyPatch,
    battery: SimpleNamespace | None,
    expected: bool | None,  # noqa: FBT001 - a table's column
) -> None:
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(psutil, "sensors_battery", lambda: battery, raising=False)
    assert runs_on_battery() is expected


def test_a_system_without_such_a_call_tells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "freebsd")
    monkeypatch.delattr(psutil, "sensors_battery", raising=False)
    assert runs_on_battery() is None
