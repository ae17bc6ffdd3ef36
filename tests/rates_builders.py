"""Rates of devices for tests: valid, plausible and fictional; and a scripted worker that measures such ones."""

import dataclasses
from typing import Any

from fake_worker import FakeLauncher, Request

from bench.protocol.rates import Bandwidth, DeviceRates, IdlePower, LayerRate, StepTime, ThreadRates, TransferRate

# Any: the changes go to dataclasses.replace, which mypy cannot check either.
Change = Any


def make_bandwidth(**changes: Change) -> Bandwidth:
    bandwidth = Bandwidth(array_bytes=2**26, copy_bytes_per_second=2.0e10, triad_bytes_per_second=2.2e10)
    return dataclasses.replace(bandwidth, **changes)


def make_rates(**changes: Change) -> DeviceRates:
    """Return rates of a CPU: there is nothing to transfer."""
    rates = DeviceRates(
        precision="fp32",
        threads=2,
        square_flops_per_second=4.0e11,
        layers=(
            LayerRate(width=128, batch_size=64, flops_per_second=1.5e11),
            LayerRate(width=1024, batch_size=1024, flops_per_second=4.2e11),
        ),
        bandwidth=make_bandwidth(),
        steps=(StepTime(engine="eager", seconds=1.5e-4), StepTime(engine="fused", seconds=6.0e-5)),
    )
    return dataclasses.replace(rates, **changes)


def make_transfers() -> tuple[TransferRate, ...]:
    return tuple(
        TransferRate(to_device=to_device, pinned=pinned, bytes_per_second=2.5e10 if pinned else 6.0e9)
        for pinned in (False, True)
        for to_device in (True, False)
    )


def make_thread_rates(threads: int = 1, **changes: Change) -> ThreadRates:
    rates = ThreadRates(
        threads=threads, square_flops_per_second=2.1e11 * threads, triad_bytes_per_second=1.2e10 * threads**0.5
    )
    return dataclasses.replace(rates, **changes)


def make_idle_power(**changes: Change) -> IdlePower:
    power = IdlePower(watts=72.5, method="NVML total energy counter", reason="")
    return dataclasses.replace(power, **changes)


UNKNOWN_POWER = IdlePower(watts=None, method="", reason="RAPL: the system shows no processor package, as here")


class RatesLauncher(FakeLauncher):
    """A launcher whose workers measure rates too: in proportion to threads, and bf16 no faster than fp32."""

    def _answer(self, request: Request) -> object:
        if request["do"] != "rates":
            return super()._answer(request)
        precision, threads, whole = request["precision"], request["threads"], request["whole"]
        default, first = make_rates(), whole and precision == "fp32"
        return DeviceRates(
            precision=precision,
            threads=threads,
            square_flops_per_second=1.0e11 * threads,
            layers=default.layers if whole else (),
            bandwidth=default.bandwidth if precision == "fp32" else None,
            steps=default.steps if whole else (),
            transfers=make_transfers() if first and request["device"] != "cpu" else (),
            idle_power=(UNKNOWN_POWER if request["device"] == "cpu" else make_idle_power()) if first else None,
        )
